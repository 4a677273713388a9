"""Saliency baselines: 3-D Grad-CAM, Integrated Gradients and occlusion, judged as concepts are.

They come from captum and tell for every voxel of a clip how much it speaks for a class. Averaged
over supervoxels they rank the supervoxels of a clip, which are then shown and hidden in that order,
at each step as many voxels as the most important concepts show. They explain one clip at a time
and see the very clip that they are tested on; a ranking of concepts is one for the whole class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from stce.evaluation import controls
from stce.evaluation.attribution import grad_cam, integrated_gradients, last_convolution, occlusion

__all__ = [
    "grad_cam",
    "integrated_gradients",
    "last_convolution",
    "occlusion",
    "part_lift",
    "rank_supervoxels",
    "run",
]


def rank_supervoxels(
    attribution: np.ndarray, labels: np.ndarray, table: pd.DataFrame
) -> np.ndarray:
    """Order the supervoxels of one clip by their mean attribution, highest first.

    Parameters
    ----------
    attribution : numpy.ndarray
        ``(T, H, W)``, of the clip.
    labels : numpy.ndarray
        ``(L, T, H, W)``, its label volumes.
    table : pandas.DataFrame
        ``s`` kept supervoxels of this clip, with ``level`` and ``label``.

    Returns
    -------
    numpy.ndarray
        ``(s,) int64``, positions in `table`; equal ones in its order.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 2, 3]]]])
    >>> table = pd.DataFrame({"level": [0, 0, 0], "label": [1, 2, 3]})
    >>> rank_supervoxels(np.array([[[4.0, 0.0, 3.0, 1.0]]]), labels, table)
    array([1, 0, 2])
    """
    mean = np.empty(len(table))
    level, label = table["level"].to_numpy(), table["label"].to_numpy()
    for i, volume in enumerate(labels):
        flat = volume.ravel()
        sums = np.bincount(flat, np.ravel(attribution).astype(np.float64))
        chosen = level == i
        mean[chosen] = (sums / np.maximum(np.bincount(flat), 1))[label[chosen]]
    return np.argsort(-mean, kind="stable")


def run(
    network,
    clips,
    supervoxels,
    concepts,
    rankings: dict[str, list[int]],
    attributions: Mapping[str, np.ndarray],
    *,
    videos: np.ndarray | None = None,
    **options,
) -> Iterator[pd.DataFrame]:
    """Show and hide the supervoxels of clips in the order of saliency maps.

    At each step as many voxels of a clip as the most important concepts show there; the last
    supervoxel is cut to that, see :func:`stce.evaluation.controls.voxel_order`. The concepts'
    own curve is the order "top" of :func:`stce.ablation.run`.

    Parameters
    ----------
    network, clips, supervoxels, concepts, rankings
        See :func:`stce.ablation.run`; give both the same.
    attributions : mapping of str to array_like
        Maps ``(n, T, H, W)`` by the name of the order, for example ``{"grad-cam": maps}``: one
        for each of `videos`, of the class whose concepts explain the clip.
    videos : numpy.ndarray, optional
        Indices of the clips to run, default all.
    **options
        Passed to :func:`stce.evaluation.controls.along`.

    Yields
    ------
    pandas.DataFrame
        Outcomes of one clip, as of :func:`stce.ablation.run`.

    Raises
    ------
    ValueError
        If there is not one map for each clip; and see :func:`stce.ablation.run`.
    """
    videos = np.arange(len(clips)) if videos is None else np.asarray(videos)
    shape = (len(videos), *clips.frames.shape[1:4])
    for name, maps in attributions.items():
        if tuple(maps.shape) != shape:
            raise ValueError(
                f"The maps {name!r} are of shape {tuple(maps.shape)}, but {shape} is needed: one "
                "map for each of the clips named by videos, in their order."
            )
    position = {int(n): i for i, n in enumerate(videos)}

    def ranked(n: int) -> list[tuple[str, int, np.ndarray]]:
        labels = np.asarray(supervoxels.labels[n])
        table = supervoxels.table.iloc[supervoxels.rows_of(n)]
        listed = []
        for name, maps in attributions.items():
            order = rank_supervoxels(np.asarray(maps[position[n]]), labels, table)
            listed.append((name, 0, controls.voxel_order(labels, table, order)))
        return listed

    inputs = network, clips, supervoxels, concepts, rankings
    yield from controls.along(*inputs, ranked, videos=videos, **options)


def part_lift(attribution: np.ndarray, parts: np.ndarray, n_parts: int | None = None) -> np.ndarray:
    """Tell how much more of the attribution lies on each part of a clip than of the voxels.

    Parameters
    ----------
    attribution : numpy.ndarray
        ``(N, T, H, W)``; what is negative counts as 0. A mask can stand for a map.
    parts : numpy.ndarray
        ``(N, T, H, W) uint8``, what each voxel shows.
    n_parts : int, optional
        Number of parts P; default as many as there are in `parts`.

    Returns
    -------
    numpy.ndarray
        ``(N, P) float64``: share of the positive attribution over share of the voxels; 1 where the
        map knows nothing of the part, NaN where a clip lacks the part or nothing is positive.

    Raises
    ------
    ValueError
        If the two are not of the same shape.

    Examples
    --------
    >>> part_lift(np.array([[[[3.0, 1.0, -5.0, 0.0]]]]), np.array([[[[1, 0, 0, 0]]]])).round(2)
    array([[0.33, 3.  ]])
    """
    attribution, parts = np.asarray(attribution), np.asarray(parts)
    if attribution.shape != parts.shape or parts.ndim != 4:
        raise ValueError(
            f"attribution is {attribution.shape} and parts {parts.shape}; both must be "
            "(N, T, H, W), of the same clips."
        )
    n_parts = int(parts.max()) + 1 if n_parts is None else n_parts
    lift = np.empty((len(parts), n_parts))
    for i, (one, part) in enumerate(zip(attribution, parts, strict=True)):
        part, positive = part.ravel(), np.clip(one, 0, None).ravel().astype(np.float64)
        there = np.bincount(part, positive, n_parts)
        voxels = np.bincount(part, minlength=n_parts).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            lift[i] = (there / positive.sum()) / (voxels / part.size)
    return lift
