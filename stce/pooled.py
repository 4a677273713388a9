"""Features of supervoxels from one forward pass a clip: a layer's map, pooled under each mask.

The paper shows every supervoxel to the network by itself, about 100 forward passes a clip. Here
the clip is seen once and whole: a supervoxel's features are the mean of the map of a convolutional
layer over the supervoxel. They live in the space of the layer's C channels, and so do the means
over whole clips and the gradients below, so :mod:`stce.concepts` and :mod:`stce.tcav` take them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from stce import features as features_module
from stce import tcav
from stce.progress import bar

__all__ = ["check", "extract", "extract_clips", "gradients", "weights"]


def weights(labels: np.ndarray, table: pd.DataFrame, grid: tuple[int, int, int]) -> np.ndarray:
    """Return the share of each cell of a map in each supervoxel of a clip.

    A supervoxel may be smaller than a cell. So its mask is averaged over the voxels of each cell,
    as ``torch.nn.functional.adaptive_avg_pool3d`` does, and divided by the sum over the cells.

    Parameters
    ----------
    labels : numpy.ndarray
        ``(L, T, H, W)``, label volumes of one clip.
    table : pandas.DataFrame
        ``s`` supervoxels of this clip, with ``level`` and ``label``.
    grid : tuple of int
        (t, h, w), the size of the map.

    Returns
    -------
    numpy.ndarray
        ``(s, t * h * w) float32``; each row sums to 1.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 1, 2]]]])
    >>> weights(labels, pd.DataFrame({"level": [0, 0], "label": [1, 2]}), (1, 1, 2)).round(2)
    array([[0.67, 0.33],
           [0.  , 1.  ]], dtype=float32)
    """
    voxel, cell, size = _cells(labels.shape[1:], tuple(grid))
    level, label = table["level"].to_numpy(), table["label"].to_numpy()
    shares = np.empty((len(table), len(size)), np.float32)
    for i, volume in enumerate(labels):
        here = level == i
        # One histogram of (label, cell) counts the voxels of all supervoxels in all cells.
        pairs = volume.ravel()[voxel].astype(np.intp) * len(size) + cell
        n = int(volume.max()) + 1
        counts = np.bincount(pairs, minlength=n * len(size)).reshape(n, len(size))
        share = counts[label[here]] / size
        shares[here] = share / share.sum(axis=1, keepdims=True)
    return shares


def _cells(shape, grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which voxel lies in which cell, as two flat indices, and the voxels of each cell."""
    axes = []
    for n, cells in zip(shape, grid, strict=True):
        place, i = np.arange(n), np.arange(cells)[:, None]
        # Where the cells do not divide the axis, neighbours share a voxel, as torch has it.
        inside = (place >= i * n // cells) & (place < -(-(i + 1) * n // cells))
        axes.append((*np.nonzero(inside), inside.sum(axis=1)))
    index = [np.ix_(*(axis[k] for axis in axes)) for k in (1, 0)]
    voxel, cell = (
        np.ravel_multi_index(np.broadcast_arrays(*of), size).ravel()
        for of, size in zip(index, (shape, grid), strict=True)
    )
    size = np.einsum("i,j,k->ijk", *(axis[2] for axis in axes)).ravel()
    return voxel, cell, size


def check(network) -> None:
    """Refuse a network that is cut at a layer without positions.

    Parameters
    ----------
    network : stce.models.network.Network

    Raises
    ------
    ValueError
        With the layers that have positions.
    """
    if len(network.feature_shape) != 4:
        maps = [n for n in network.layers if len(network.split(n).feature_shape) == 4]
        raise ValueError(
            f"layer {network.layer!r} of {network.name} has {network.feature_shape} features and "
            f"no positions to pool over; take a layer before it: {', '.join(maps)}."
        )


@torch.inference_mode()
def _maps(network, clips, batch_size: int, device) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of a first clip, and the maps ``(B, C, cells) float32`` from it on."""
    check(network)
    network = network.to(device).eval()
    for start in range(0, len(clips), batch_size):
        frames = torch.from_numpy(np.asarray(clips.frames[start : start + batch_size]))
        z = features_module.forward(network, network.prepare(frames.to(device)))
        yield start, z.unflatten(1, (network.feature_shape[0], -1)).cpu().numpy()


def extract(
    network, clips, supervoxels, *, batch_size: int = 8, device="cpu", progress: bool = True
) -> np.ndarray:
    """Embed every supervoxel, with one forward pass a clip.

    Other than :func:`stce.features.extract` the network sees a supervoxel in its surroundings: a
    position of the map knows as much of them as its receptive field is wide.

    Parameters
    ----------
    network : stce.models.network.Network
        Cut at a layer with positions, ``feature_shape`` (C, t, h, w). The finer its map, the
        better small supervoxels are told apart; the later the layer, the more its features mean.
    clips : stce.clips.Clips
        N clips of the network's input size.
    supervoxels : stce.supervoxels.Supervoxels
        Of these clips.
    batch_size : int, default 8
        Clips a forward pass.
    device : torch.device, default "cpu"
        Where the network runs.
    progress : bool, default True
        Show a progress bar on a terminal.

    Returns
    -------
    numpy.ndarray
        ``(S, C) float32``.

    Raises
    ------
    ValueError
        If the layer has no positions.

    Examples
    --------
    >>> from stce import models, supervoxels
    >>> from stce.datasets.textures import textures
    >>> network = models.build("r3d18", 2, 0.125, 1, (8, 24, 24), layer="layer4")
    >>> clips = textures(2, n_frames=8, size=(24, 24))
    >>> cut = supervoxels.segment(clips, n_segments=(4, 8), progress=False)
    >>> extract(network, clips, cut).shape == (len(cut), 64)
    True
    """
    check(network)
    pooled = np.empty((len(supervoxels), network.feature_shape[0]), np.float32)
    maps = _maps(network, clips, batch_size, device)
    n_batches = -(-len(clips) // batch_size)
    for start, part in bar(maps, total=n_batches, show=progress, desc="embed", unit="batch"):
        for video, one in enumerate(part, start):
            rows = supervoxels.rows_of(video)
            table, labels = supervoxels.table.iloc[rows], np.asarray(supervoxels.labels[video])
            pooled[rows] = weights(labels, table, network.feature_shape[1:]) @ one.T
    return pooled


def extract_clips(network, clips, *, batch_size: int = 8, device="cpu") -> np.ndarray:
    """Embed whole clips, such as the random ones: the mean of the map over all positions.

    Parameters
    ----------
    network, clips, batch_size, device
        See :func:`extract`.

    Returns
    -------
    numpy.ndarray
        ``(N, C) float32``.
    """
    parts = [part.mean(axis=2) for _, part in _maps(network, clips, batch_size, device)]
    return np.concatenate(parts)


def gradients(
    network,
    clips,
    class_index: int,
    target: str = "logit",
    *,
    batch_size: int = 32,
    device="cpu",
) -> np.ndarray:
    """Return the gradient of a class output in the space of the channels (equation 1).

    To move pooled features along a vector is to move every position along it. The derivative is
    then the dot product of the vector with the gradient's sum over positions, which is returned.
    Where all that follows the map is a global average and a linear layer (R3D at ``layer4``, I3D
    at its last mixed layer) this is exactly the gradient by the averaged features; elsewhere the
    head may also tell where in the map a feature is, of which pooled features know nothing.

    Parameters
    ----------
    network, clips, batch_size, device
        See :func:`extract`.
    class_index : int
        The class y.
    target : {"logit", "log_prob"}, default "logit"
        See :func:`stce.tcav.gradients`.

    Returns
    -------
    numpy.ndarray
        ``(N, C) float32``, the `gradient` that :func:`stce.tcav.score` and
        :func:`stce.significance.assess` take.

    Raises
    ------
    ValueError
        If the layer has no positions, or there is no such `target`.
    """
    parts = []
    for _, maps in _maps(network, clips, batch_size, device):
        z = np.ascontiguousarray(maps.reshape(len(maps), -1))
        slope = tcav.gradients(network, z, class_index, target, device=device)
        parts.append(slope.reshape(maps.shape).sum(axis=2))
    return np.concatenate(parts)
