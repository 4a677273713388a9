"""Accuracy curves out of ablation outcomes, and the comparison of two orders (paper 4.3)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stce.engine.resampling import interval, mean_interval, resamples


def accuracy_table(
    outcomes: pd.DataFrame, by: tuple[str, ...] = (), n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Average outcomes to accuracies with bootstrap intervals over clips (Tables 1 to 6).

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run`, of many clips.
    by : tuple of str, default ()
        Further columns to split by, for example ``("class",)``.
    n_bootstrap, seed : int, default 1000 and 0
        Resamples of the clips, and their seed.

    Returns
    -------
    pandas.DataFrame
        One row a (`by`, mode, order, q): ``accuracy``, ``ci_low``, ``ci_high`` (in 0 to 1),
        ``revealed`` (mean share of visible voxels) and ``n_clips``.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for key, part in outcomes.groupby([*by, "mode", "order", "q"], sort=True):
        clip = part.groupby("video")[["correct", "revealed"]].mean()
        correct = clip["correct"].to_numpy(float)
        ends = mean_interval(correct, n_bootstrap, rng)
        rows.append((*key, correct.mean(), *ends, clip["revealed"].mean(), len(correct)))
    names = [*by, "mode", "order", "q", "accuracy", "ci_low", "ci_high", "revealed", "n_clips"]
    return pd.DataFrame(rows, columns=names)


def difference(
    outcomes: pd.DataFrame,
    first: str = "top",
    second: str = "least",
    n_bootstrap: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare two orders on the same clips: mean over q >= 1, paired (paper 4.3).

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run`.
    first, second, n_bootstrap, seed
        "top", "least" or "random", the mean of its repeats; see :func:`accuracy_table`.

    Returns
    -------
    pandas.DataFrame
        One row a mode: ``first``, ``second``, ``gain`` (how much better the first order does:
        higher accuracy when adding, lower when removing), ``ci_low``, ``ci_high``, ``n_clips``.

    Examples
    --------
    >>> rows = [(v, "add", o, 1, o == "top") for v in range(8) for o in ("top", "least")]
    >>> table = pd.DataFrame(rows, columns=["video", "mode", "order", "q", "correct"])
    >>> difference(table)[["gain", "ci_low"]].to_numpy().tolist()
    [[1.0, 1.0]]
    """
    both = outcomes[outcomes["order"].isin([first, second])]
    table = areas(both, first, "correct", n_bootstrap, seed)
    table = table[table["order"] == second].assign(first=first, second=second)
    names = {"gain": "gain", "gain_low": "ci_low", "gain_high": "ci_high", "n_clips": "n_clips"}
    return table[["mode", "first", "second", *names]].rename(columns=names).reset_index(drop=True)


def areas(
    outcomes: pd.DataFrame,
    first: str = "top",
    value: str = "correct",
    n_bootstrap: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the area under the insertion and the deletion curve of each order.

    The curve is a step function of the share of concepts added or removed: the mean over
    q = 1 to K, 1 if a clip is recognised throughout. Let the ablation run with `q_max` as large as
    the number of concepts, and few random orders; with a smaller one this is the area up to there.

    Parameters
    ----------
    outcomes, first : pandas.DataFrame and str, default "top"
        Rows of :func:`stce.ablation.run`, of any orders, and that which all are compared with.
        Clips that lack an order are left out.
    value : {"correct", "probability"}, default "correct"
        What the curve shows: accuracy, or the probability of the true class [1]_. Another column of
        numbers of your own will do; steps where it is NaN do not count.
    n_bootstrap, seed
        See :func:`accuracy_table`; the clips drawn are the same for all orders.

    Returns
    -------
    pandas.DataFrame
        One row a mode and order: ``area`` (0 to 1) with ``ci_low`` and ``ci_high`` (95 %, over
        clips); ``gain``, how much better `first` does than this order (a larger area when adding,
        a smaller one when removing), with its paired ``gain_low`` and ``gain_high``; ``n_clips``.

    Raises
    ------
    ValueError
        If there is no order `first`, or no column `value`.

    References
    ----------
    .. [1] V. Petsiuk, A. Das, K. Saenko, "RISE: randomized input sampling for explanation of
       black-box models", BMVC 2018.

    Examples
    --------
    >>> rows = [(v, "add", o, q, q >= at) for v in range(8) for q in range(5)
    ...         for o, at in (("top", 1), ("least", 4))]
    >>> table = pd.DataFrame(rows, columns=["video", "mode", "order", "q", "correct"])
    >>> areas(table)[["order", "area", "gain"]].to_numpy().tolist()
    [['least', 0.25, 0.75], ['top', 1.0, 0.0]]
    """
    if value not in outcomes:
        raise ValueError(f"value is {value!r}; choose 'correct' or 'probability'.")
    if first not in set(outcomes["order"]):
        known = ", ".join(sorted(outcomes["order"].unique()))
        raise ValueError(f"The outcomes have no order {first!r}; their orders are {known}.")
    rng = np.random.default_rng(seed)
    rows = []
    for mode, part in outcomes[outcomes["q"] > 0].groupby("mode"):
        clip = part.groupby(["video", "order"])[value].mean().unstack("order").dropna()
        n = len(clip)
        draws = resamples(n, n_bootstrap, rng)
        sign = 1 if mode == "add" else -1
        for order in clip:
            area = clip[order].to_numpy(float)
            gain = sign * (clip[first].to_numpy(float) - area)
            limits = [interval(draws @ x / n) for x in (area, gain)]
            rows.append((mode, order, area.mean(), *limits[0], gain.mean(), *limits[1], n))
    names = ["area", "ci_low", "ci_high", "gain", "gain_low", "gain_high", "n_clips"]
    return pd.DataFrame(rows, columns=["mode", "order", *names])


def smallest(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Find the smallest sufficient and the smallest destroying concepts of each clip (SSC, SDC).

    Of outcomes of :func:`stce.ablation.run` it returns one row a ``video``, ``mode``, ``order`` and
    ``repeat``: ``q``, the first step at which the prediction is right (mode "add": SSC) or wrong
    (mode "remove": SDC); NaN if there is none. 0 means that no concept was needed: the blank clip
    is taken for this class, or the intact one is not recognised, whatever the order.

    References
    ----------
    Ghorbani et al., Towards automatic concept-based explanations, 2019.

    Examples
    --------
    >>> rows = [(0, "add", "top", 0, q, q >= 2) for q in range(4)]
    >>> rows += [(0, "remove", "top", 0, q, True) for q in range(4)]
    >>> columns = ["video", "mode", "order", "repeat", "q", "correct"]
    >>> smallest(pd.DataFrame(rows, columns=columns))["q"].tolist()
    [2.0, nan]
    """
    done = outcomes["correct"].astype(bool) == (outcomes["mode"] == "add")
    steps = outcomes.assign(q=outcomes["q"].where(done).astype(float))
    return steps.groupby(["video", "mode", "order", "repeat"])["q"].min().reset_index()
