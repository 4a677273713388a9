"""How far segments overlap with each other, so that none is kept twice."""

from __future__ import annotations

import numpy as np

__all__ = ["deduplicate", "jaccard"]


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Jaccard index of every pair of segments of two label volumes.

    The intersections of all pairs are one contingency table, counted in a single pass over the
    voxels, so the cost does not depend on the number of pairs.

    Parameters
    ----------
    a, b : numpy.ndarray
        Label volumes of one shape, of integer type, with labels from 0 up.

    Returns
    -------
    numpy.ndarray
        ``(a.max() + 1, b.max() + 1) float64``; entry ``[i, j]`` is ``|i & j| / |i | j|``,
        0 where a label does not occur.

    Examples
    --------
    >>> jaccard(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])).round(2)
    array([[0.5 , 0.25],
           [0.  , 0.67]])
    """
    n_a, n_b = int(a.max()) + 1, int(b.max()) + 1
    pairs = a.ravel().astype(np.intp) * n_b + b.ravel()
    both = np.bincount(pairs, minlength=n_a * n_b).reshape(n_a, n_b)
    either = both.sum(axis=1, keepdims=True) + both.sum(axis=0, keepdims=True) - both
    return both / np.maximum(either, 1)


def deduplicate(labels: np.ndarray, threshold: float = 0.5) -> list[np.ndarray]:
    """Find the segments that do not repeat a coarser one (paper 3.1).

    Levels are read from coarse to fine. A segment whose Jaccard index with a segment already
    kept exceeds the threshold is a duplicate. The coarser one of a pair stays, so that what is
    kept still covers the clip.

    Parameters
    ----------
    labels : numpy.ndarray
        ``(L, T, H, W)``, coarse level first, labels from 1 up.
    threshold : float, default 0.5
        Jaccard index above which two segments are one and the same, between 0 and 1.

    Returns
    -------
    list of numpy.ndarray
        For each level a ``bool`` array indexed by label (entry 0 is unused and False).

    Examples
    --------
    >>> coarse, fine = np.array([1, 1, 1, 2]), np.array([1, 1, 2, 3])
    >>> [k.tolist() for k in deduplicate(np.stack([coarse, fine]))]
    [[False, True, True], [False, False, True, False]]
    """
    keep = []
    for level, volume in enumerate(labels):
        kept = np.bincount(volume.ravel()) > 0
        kept[0] = False
        for coarser in range(level):
            index = jaccard(labels[coarser], volume)[keep[coarser]]
            kept &= ~(index > threshold).any(axis=0)
        keep.append(kept)
    return keep
