"""How far segments overlap with an object."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import find_boundaries

__all__ = ["boundary_recall", "recovery"]


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
