"""Accuracy curves out of ablation outcomes, and the comparison of two orders (paper 4.3)."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["accuracy_over_seeds", "accuracy_table", "difference"]


def _interval(values: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the 95 % bootstrap interval of the mean over clips, ``(2,)``."""
    clips = len(values)
    draws = rng.multinomial(clips, np.full(clips, 1 / clips), n)
    return np.quantile(draws @ values / clips, [0.025, 0.975])


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
    n_bootstrap : int, default 1000
        Resamples of the clips.
    seed : int, default 0
        Seeds the resampling.

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
        low, high = _interval(correct, n_bootstrap, rng)
        mean = correct.mean()
        rows.append((*key, mean, low, high, clip["revealed"].mean(), len(correct)))
    names = [*by, "mode", "order", "q", "accuracy", "ci_low", "ci_high", "revealed", "n_clips"]
    return pd.DataFrame(rows, columns=names)


def accuracy_over_seeds(
    outcomes: pd.DataFrame, by: tuple[str, ...] = (), n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Average outcomes of several seeds, with intervals over seeds and clips.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Columns of `by`, ``seed``, ``id``, ``mode``, ``order``, ``q`` and ``correct`` (0 to 1), as
        of :class:`stce.results.Results`.
    by : tuple of str, default ()
        Further columns to split by, for example ``("model",)``.
    n_bootstrap : int, default 1000
        Resamples: first of the seeds, then of the clips of each.
    seed : int, default 0
        Seeds the resampling.

    Returns
    -------
    pandas.DataFrame
        One row a (`by`, mode, order, q): ``accuracy``, ``ci_low``, ``ci_high`` (in 0 to 1, 95 %),
        ``n_clips`` (of one seed) and ``n_seeds``. A few seeds say little about the spread between
        trainings: the interval is then rather too narrow than too wide.

    Examples
    --------
    >>> rows = [(s, str(v), "add", "top", 1, v < 3) for s in (0, 1) for v in range(4)]
    >>> columns = ["seed", "id", "mode", "order", "q", "correct"]
    >>> accuracy_over_seeds(pd.DataFrame(rows, columns=columns))[["accuracy", "n_seeds"]].squeeze()
    accuracy    0.75
    n_seeds     2.00
    Name: 0, dtype: float64
    """
    rng = np.random.default_rng(seed)
    rows = []
    for key, part in outcomes.groupby([*by, "mode", "order", "q"], sort=False):
        seeds = [one.to_numpy(float) for _, one in part.groupby("seed")["correct"]]
        draws = [
            rng.multinomial(len(v), np.full(len(v), 1 / len(v)), n_bootstrap) @ v / len(v)
            for v in seeds
        ]
        chosen = rng.integers(len(seeds), size=(n_bootstrap, len(seeds)))
        means = np.take_along_axis(np.stack(draws, axis=1), chosen, axis=1).mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        mean = np.mean([v.mean() for v in seeds])
        rows.append((*key, mean, low, high, len(seeds[0]), len(seeds)))
    names = [*by, "mode", "order", "q", "accuracy", "ci_low", "ci_high", "n_clips", "n_seeds"]
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
    first, second : {"top", "random", "least"}
        The orders; "random" stands for the mean of its repeats.
    n_bootstrap : int, default 10000
        Resamples of the clips.
    seed : int, default 0
        Seeds the resampling.

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
    rng = np.random.default_rng(seed)
    rows = []
    steps = outcomes[outcomes["q"] > 0]
    for mode, part in steps.groupby("mode"):
        clip = part.groupby(["video", "order"])["correct"].mean().unstack("order")
        gain = (clip[first] - clip[second]).to_numpy(float) * (1 if mode == "add" else -1)
        low, high = _interval(gain, n_bootstrap, rng)
        rows.append((mode, first, second, gain.mean(), low, high, len(gain)))
    return pd.DataFrame(
        rows, columns=["mode", "first", "second", "gain", "ci_low", "ci_high", "n_clips"]
    )
