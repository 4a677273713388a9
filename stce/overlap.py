"""How far segments overlap: with each other, so that none is kept twice, and with an object."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import find_boundaries

__all__ = ["boundary_recall", "deduplicate", "jaccard", "recovery"]


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


def recovery(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Tell how well an object could be put together from the segments of each level.

    Parameters
    ----------
    labels : numpy.ndarray
        ``(L, T, H, W)``, labels from 1 up.
    truth : numpy.ndarray
        ``(T, H, W) bool``, the object.

    Returns
    -------
    numpy.ndarray
        ``(L,) float64``, 0 to 1: Jaccard index of the object and of the union of all segments
        that lie in it by more than half.

    Examples
    --------
    >>> recovery(np.array([[1, 1, 1, 2]]), np.array([True, True, False, False])).round(2)
    array([0.67])
    """
    scores = []
    for volume in labels:
        inside = np.bincount(volume[truth], minlength=int(volume.max()) + 1)
        found = (inside > np.bincount(volume.ravel()) / 2)[volume]
        scores.append((found & truth).sum() / max((found | truth).sum(), 1))
    return np.array(scores)


def boundary_recall(labels: np.ndarray, truth: np.ndarray, reach: int = 1) -> float:
    """Tell how much of the outlines of objects the borders of segments run along.

    Parameters
    ----------
    labels, truth : numpy.ndarray
        ``(T, H, W)`` of integer type: the segments, and the objects.
    reach : int, default 1
        How far a border may lie from the outline, in voxels along the axes.

    Returns
    -------
    float
        Share of the outlines' voxels, 0 to 1; NaN where nothing has an outline.

    References
    ----------
    Martin et al., Learning to detect natural image boundaries using local brightness, color, and
    texture cues, 2004, :doi:`10.1109/TPAMI.2004.1273918`.

    Examples
    --------
    >>> truth, near, whole = np.array([[[[1, 1, 1, 2, 2]]], [[[1, 1, 2, 2, 2]]], [[[1] * 5]]])
    >>> boundary_recall(near, truth), boundary_recall(whole, truth)
    (1.0, 0.0)
    """
    outline = find_boundaries(truth)
    near = ndimage.binary_dilation(find_boundaries(labels), iterations=reach)
    return float(near[outline].mean()) if outline.any() else float("nan")
