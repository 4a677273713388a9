"""Intervals by the bootstrap, p-values by Monte Carlo, and rank correlations of many resamples."""

from __future__ import annotations

import numpy as np
import scipy

# Which share of the resamples lies below each end of an interval of 95 %.
ENDS = (0.025, 0.975)


def resamples(n: int, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of n things is drawn in each resample, ``(n_bootstrap, n) int64``."""
    return rng.multinomial(n, np.full(n, 1 / n), n_bootstrap)


def interval(values: np.ndarray, ends: tuple[float, float] = ENDS) -> tuple[float, float]:
    """Return the ends of the middle 95 % of ``(B,)`` resamples, NaN left out.

    Examples
    --------
    >>> interval(np.r_[np.arange(101.0), np.nan])
    (2.5, 97.5)
    """
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, ends) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def mean_interval(
    values: np.ndarray,
    n_bootstrap: int,
    rng: np.random.Generator,
    ends: tuple[float, float] = ENDS,
) -> tuple[float, float]:
    """Return the ends of the bootstrap interval of a mean, every axis of its values resampled.

    Values are ``(N,)``, or ``(R, N)``, such as random groups by clips; `ends` are the shares of the
    `n_bootstrap` resamples that lie below each end.

    Examples
    --------
    >>> mean_interval(np.ones((3, 4)), 100, np.random.default_rng(0))
    (1.0, 1.0)
    """
    drawn = [resamples(n, n_bootstrap, rng) for n in values.shape]
    # Whole numbers stay whole until the division, so that a share of 1 has exactly 1 as its ends.
    sums = drawn[0] @ values
    if values.ndim > 1:
        sums = (sums * drawn[1]).sum(1)
    return interval(sums / values.size, ends)


def p_value(null: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return Monte-Carlo p-values, one-sided: the share of the null as large as each value.

    Of ``(B,)`` values by chance and ``(k,)`` values found it is ``(k,)``, above 0: the value found
    counts as one draw of the null itself. 1 for NaN.

    Examples
    --------
    >>> p_value(np.arange(9.0), np.array([8.5, 0.0]))
    array([0.1, 1. ])
    """
    # A hair of slack: values equal but for rounding count as "as large".
    below = (null[None] < values[:, None] - 1e-12).sum(1)
    return (1 + len(null) - below) / (1 + len(null))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation along the last axis; NaN where one side is constant.

    Of ``(..., K)`` on both sides it is ``(...)``, -1 to 1.

    Examples
    --------
    >>> rank_correlation(np.array([1, 2, 3]), np.array([[2, 4, 9], [3, 2, 1]]))
    array([ 1., -1.])
    """
    a, b = (scipy.stats.rankdata(x, axis=-1) - (np.shape(x)[-1] + 1) / 2 for x in (a, b))
    length = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(length > 0, (a * b).sum(-1) / np.where(length > 0, length, 1), np.nan)
