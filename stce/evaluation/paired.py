"""Is one order better than another? Paired tests over clips, corrected for their number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy


def mcnemar(
    outcomes: pd.DataFrame, first: str = "top", second: str = "least", repeat: int = 0
) -> pd.DataFrame:
    """Compare two orders on the same clips with McNemar's exact test, step by step.

    Only clips that are recognised under one order and not under the other count; without a
    difference each of them falls to either side like a coin [1]_. The test is cautious where such
    clips are few. It needs one yes or no a clip; for the mean of several repeats use
    :func:`book.verdict.gaps`.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run`, of one run; of several calls, joined.
    first, second : str
        Names of the orders.
    repeat : int, default 0
        Which repeat stands for a random order; orders without repeats ignore it.

    Returns
    -------
    pandas.DataFrame
        One row a mode and q >= 1: ``first``, ``second``, ``first_only`` and ``second_only``
        (clips on which only that order does its work: recognised when adding, not recognised when
        removing), ``gap`` (percentage points, positive if `first` is the better), ``p``,
        two-sided, ``p_holm``, corrected over modes and q, ``verdict`` (see :func:`judge`) and
        ``n_clips``.

    Raises
    ------
    ValueError
        If an order or the repeat is not there, or a clip occurs twice.

    References
    ----------
    .. [1] Q. McNemar, "Note on the sampling error of the difference between correlated proportions
       or percentages", Psychometrika 12, 1947, :doi:`10.1007/BF02295996`.

    Examples
    --------
    >>> rows = [(v, "add", o, 0, 1, o == "top") for v in range(6) for o in ("top", "least")]
    >>> columns = ["video", "mode", "order", "repeat", "q", "correct"]
    >>> mcnemar(pd.DataFrame(rows, columns=columns))[["gap", "p"]].to_numpy().tolist()
    [[100.0, 0.03125]]
    """
    pair = {}
    for name in (first, second):
        one = outcomes[(outcomes["order"] == name) & (outcomes["q"] > 0)]
        if one["repeat"].nunique() > 1:
            one = one[one["repeat"] == repeat]
        if one.empty:
            raise ValueError(
                f"The outcomes have no order {name!r} with repeat {repeat}; their orders are "
                f"{', '.join(sorted(outcomes['order'].unique()))}."
            )
        pair[name] = one.set_index(["mode", "q", "video"])["correct"].astype(bool)
        if pair[name].index.has_duplicates:
            raise ValueError(
                f"Clips occur twice in the order {name!r}; pass the outcomes of one run and seed."
            )
    both = pd.concat(pair, axis=1, join="inner")
    rows = []
    for (mode, q), part in both.groupby(level=["mode", "q"]):
        works = part.to_numpy() == (mode == "add")
        wins = int((works[:, 0] > works[:, 1]).sum())
        losses = int((works[:, 0] < works[:, 1]).sum())
        p = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        gap = 100 * (wins - losses) / len(works)
        rows.append((mode, q, first, second, wins, losses, gap, p, len(works)))
    columns = ["mode", "q", "first", "second", "first_only", "second_only", "gap", "p", "n_clips"]
    return judge(pd.DataFrame(rows, columns=columns))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values ``(k,)`` of one family, corrected for their number by Holm's method.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1)
    return corrected


def judge(table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Correct the p-values for the number of cells and say what each gap is worth.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a gap: ``first``, ``second``, ``gap`` and ``p``, as of :func:`mcnemar`.
    alpha : float, default 0.05
        Level of the family of all rows with the same pair of orders (Holm's method [1]_).

    Returns
    -------
    pandas.DataFrame
        With ``p_holm`` and ``verdict``: "holds", "within noise" or "reversed".

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
       Journal of Statistics 6, 1979.

    Examples
    --------
    >>> table = pd.DataFrame({"first": "top", "second": "least", "gap": [-1.0, 4.2, 9.0, -8.0],
    ...                       "p": [0.7, 0.04, 0.001, 0.002]})
    >>> judge(table)["verdict"].tolist()
    ['within noise', 'within noise', 'holds', 'reversed']
    """
    judged = table.assign(p_holm=table.groupby(["first", "second"])["p"].transform(holm))
    sure = judged["p_holm"] < alpha
    side = np.where(judged["gap"] > 0, "holds", "reversed")
    return judged.assign(verdict=np.where(sure, side, "within noise"))
