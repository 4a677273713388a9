"""Does the ordering hold? Gaps between orders, cell by cell, with a test (paper, Tables 1 to 6)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from book.paper import N_TEST
from stce.curves import difference

__all__ = [
    "by_seed",
    "gaps",
    "paper_gaps",
    "repeated",
    "sentence",
    "sign_flips",
    "without_blank_class",
]

PAIRS = (("top", "least"), ("top", "random"), ("random", "least"))
COLUMNS = ["model", "mode", "q", "first", "second", "gap", "p"]


def by_seed(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Compare the orders of each run with each seed, averaged over q >= 1.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Of :class:`book.published.Results`.

    Returns
    -------
    pandas.DataFrame
        One row a ``run``, ``seed`` and ``mode``: accuracies ``top``, ``random`` and ``least`` in
        per cent; ``gain`` of top over least in percentage points, positive in the paper's
        direction, with ``ci_low`` and ``ci_high`` (95 %, paired, over clips); ``between``:
        whether random orders lie between the two.
    """
    rows = []
    for (run, seed), part in outcomes.groupby(["run", "seed"], sort=False):
        gains = difference(part.rename(columns={"id": "video"})).set_index("mode")
        steps = part[part["q"] > 0]
        means = 100 * steps.groupby(["mode", "order"])["correct"].mean().unstack()
        for mode, (top, random, least) in means[["top", "random", "least"]].iterrows():
            gain = 100 * gains.loc[mode, ["gain", "ci_low", "ci_high"]].astype(float)
            between = min(top, least) < random < max(top, least)
            rows.append((run, seed, mode, top, random, least, *gain, between))
    columns = ["run", "seed", "mode", "top", "random", "least", "gain", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=[*columns, "between"])


def repeated(by_seed: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """Put runs that were made twice, with the same seeds, beside each other.

    Parameters
    ----------
    by_seed, again : pandas.DataFrame
        Of :func:`by_seed`, of the one machine and of the other.

    Returns
    -------
    pandas.DataFrame
        One row a ``run``, ``seed`` and ``mode`` that both have: ``gain``, ``ci_low`` and
        ``ci_high`` of the first, the same with ``_again``, and ``apart``: the absolute difference
        of the gains, in percentage points.
    """
    keys, columns = ["run", "seed", "mode"], ["gain", "ci_low", "ci_high"]
    both = by_seed[keys + columns].merge(again[keys + columns], on=keys, suffixes=("", "_again"))
    return both.assign(apart=(both["gain"] - both["gain_again"]).abs())


def without_blank_class(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Compare the orders, removing, without the class that a blank clip is taken for.

    The more is removed, the nearer a clip comes to a blank one. What a network answers to a blank
    clip is one of the classes, and removing the evidence for that class cannot take it away.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Of :class:`book.published.Results`.

    Returns
    -------
    pandas.DataFrame
        One row a ``run`` and ``seed``: ``blank`` (the class a blank clip is taken for),
        ``gain_blank`` (of top over least in that class, percentage points), and ``gain`` over all
        other classes with ``ci_low`` and ``ci_high``; see :func:`by_seed`.
    """
    rows = []
    for (run, seed), part in outcomes.groupby(["run", "seed"], sort=False):
        start = part[(part["mode"] == "add") & (part["q"] == 0)]
        blank = start.groupby("class")["correct"].mean().idxmax()
        removed = part[part["mode"] == "remove"]
        mine = by_seed(removed[removed["class"] == blank])["gain"].iloc[0]
        others = by_seed(removed[removed["class"] != blank]).iloc[0]
        rows.append((run, seed, blank, mine, *others[["gain", "ci_low", "ci_high"]]))
    columns = ["run", "seed", "blank", "gain_blank", "gain", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def sign_flips(differences: np.ndarray, n: int, rng: np.random.Generator) -> float:
    """Return the two-sided p-value of a mean difference under random signs of the clips."""
    signs = rng.integers(0, 2, (n, len(differences)), np.int8) * 2 - 1
    extreme = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return (1 + extreme.sum()) / (1 + n)


def gaps(outcomes: pd.DataFrame, n_flips: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Compare the orders of our runs in each cell, paired over test clips.

    Under the null hypothesis two orders serve a clip equally well, so the sign of each clip's
    difference is a coin's. A clip that several seeds were tested on is one coin: seeds are
    averaged first, and the test speaks of new clips, not of new trainings.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Columns ``model``, ``seed``, ``id``, ``mode``, ``order``, ``q`` and ``correct``, as of
        :class:`book.published.Results`.
    n_flips, seed : int, default 10000 and 0
        Random signs, and their seed; the smallest p-value is 1 / (`n_flips` + 1).

    Returns
    -------
    pandas.DataFrame
        One row a model, mode, q >= 1 and pair of orders (``first``, ``second``): ``gap`` in
        percentage points, positive in the paper's direction (`first` is the better when adding
        and the more harmful when removing), and ``p``, two-sided.

    Examples
    --------
    >>> rows = [("C3D", 0, str(v), "add", o, 1, o == "top") for v in range(12)
    ...         for o in ("top", "random", "least")]
    >>> columns = ["model", "seed", "id", "mode", "order", "q", "correct"]
    >>> gaps(pd.DataFrame(rows, columns=columns))["gap"].tolist()
    [100.0, 100.0, 0.0]
    """
    rng = np.random.default_rng(seed)
    rows = []
    steps = outcomes[outcomes["q"] > 0]
    for (model, mode, q), part in steps.groupby(["model", "mode", "q"], sort=False):
        clips = part.groupby(["id", "order"])["correct"].mean().unstack("order")
        sign = 1 if mode == "add" else -1
        for first, second in PAIRS:
            difference = sign * (clips[first] - clips[second]).to_numpy(float)
            p = sign_flips(difference, n_flips, rng)
            rows.append((model, mode, q, first, second, 100 * difference.mean(), p))
    return pd.DataFrame(rows, columns=COLUMNS)


def paper_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Compare the orders in each cell of the paper's tables, as far as its numbers allow.

    Only accuracies and the number of test videos are published, not which videos were
    recognised, so the orders are compared as two independent proportions. Accuracies on the same
    videos go up and down together, which makes this test cautious; `p_best` is the other extreme,
    the exact paired test (McNemar) had no video been recognised in the worse order only.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`book.paper.tables`.

    Returns
    -------
    pandas.DataFrame
        As of :func:`gaps`, and ``p_best``.
    """
    rows = []
    steps = table[table["q"] > 0]
    keys = ["model", "dataset", "mode", "q"]
    for (model, dataset, mode, q), part in steps.groupby(keys, sort=False):
        share = part.set_index("order")["accuracy"] / 100
        sign = 1 if mode == "add" else -1
        for first, second in PAIRS:
            difference = sign * (share[first] - share[second])
            pooled = (share[first] + share[second]) / 2
            error = np.sqrt(2 * pooled * (1 - pooled) / N_TEST[dataset])
            p = 2 * stats.norm.sf(abs(difference) / error)
            best = min(1.0, 2.0 * 0.5 ** round(abs(difference) * N_TEST[dataset]))
            rows.append((model, mode, q, first, second, 100 * difference, p, best))
    return pd.DataFrame(rows, columns=[*COLUMNS, "p_best"])


def sentence(judged: pd.DataFrame, whose: str) -> str:
    """Sum up judged gaps in words, for the page.

    Examples
    --------
    >>> rows = [("C3D", "add", 1, "top", "least", 5.0, 0.01, 0.01, "holds"),
    ...         ("C3D", "add", 2, "top", "least", -1.0, 0.4, 0.4, "within noise")]
    >>> print(sentence(pd.DataFrame(rows, columns=[*COLUMNS, "p_holm", "verdict"]), "Paper"))
    **Paper**
    - Top against least: expected sign in 1 of 2 cells, clear of noise in 1; not at C3D q = 2.
    """
    lines = [f"**{whose}**"]
    for (first, second), part in judged.groupby(["first", "second"], sort=False):
        clear = (part["verdict"] == "holds").sum()
        line = f"- {first.capitalize()} against {second}: expected sign in "
        line += f"{(part['gap'] > 0).sum()} of {len(part)} cells, clear of noise in {clear}"
        for name, wrong in part[part["gap"] <= 0].groupby(part["verdict"] == "reversed"):
            cells = ", ".join(f"{r.model} q = {r.q}" for r in wrong.itertuples())
            line += f"; {'reversed beyond noise' if name else 'not'} at {cells}"
        lines.append(line + ".")
    return "\n".join(lines)
