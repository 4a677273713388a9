"""Supervoxels' features from one forward pass a clip: a layer's map, pooled under each mask.

The paper shows every supervoxel to the network by itself, about 100 forward passes a clip. Here
the clip is seen once and whole, by a :class:`stce.models.network.Pooled`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from stce.engine.threads import forward, prepared


def weights(labels: np.ndarray, table: pd.DataFrame, grid: tuple[int, int, int]) -> np.ndarray:
    """Return the share of each cell of a map in each supervoxel, ``(s, t * h * w) float32``.

    These are :func:`shares` divided by their sum over the cells: each row sums to 1.

    It takes the label volumes of one clip, ``(L, T, H, W)``, a table of ``s`` supervoxels in it
    with ``level`` and ``label``, and the size (t, h, w) of the map.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 1, 2]]]])
    >>> weights(labels, pd.DataFrame({"level": [0, 0], "label": [1, 2]}), (1, 1, 2)).round(2)
    array([[0.67, 0.33],
           [0.  , 1.  ]], dtype=float32)
    """
    filled = shares(labels, table, grid)
    return (filled / filled.sum(axis=1, keepdims=True)).astype(np.float32)


def shares(labels: np.ndarray, table: pd.DataFrame, grid: tuple[int, int, int]) -> np.ndarray:
    """Return how much of each cell a supervoxel fills, 0 to 1, ``(s, t * h * w) float64``.

    A supervoxel may be smaller than a cell. So its mask is averaged over the voxels of each cell,
    as ``torch.nn.functional.adaptive_avg_pool3d`` does.
    """
    voxel, cell, size = _cells(labels.shape[1:], tuple(grid))
    level, label = table["level"].to_numpy(), table["label"].to_numpy()
    filled = np.empty((len(table), len(size)))
    for i, volume in enumerate(labels):
        here = level == i
        # One histogram of (label, cell) counts the voxels of all supervoxels in all cells.
        pairs = volume.ravel()[voxel].astype(np.intp) * len(size) + cell
        n = int(volume.max()) + 1
        counts = np.bincount(pairs, minlength=n * len(size)).reshape(n, len(size))
        filled[here] = counts[label[here]] / size
    return filled


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


@torch.inference_mode()
def by_clip(
    network, clips, supervoxels, rows: np.ndarray, n_clips: int, device="cpu"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the features of supervoxels clip by clip, `n_clips` a forward pass.

    These are the rows of a clip in the table, ``(s,) int``, and their features, ``(s, D) float32``.
    The arguments are those of :func:`stce.features.batches`; the network is in evaluation mode, on
    the device, and pooled, or hides supervoxels `inside`: then what comes after the map is run for
    each of them, with the map of a blank clip around it.

    Pooled, other than shown by itself, a supervoxel is seen in its surroundings: a position of the
    map knows as much of them as its receptive field is wide. The finer the map, the better small
    supervoxels are told apart; the later the layer, the more its features mean.
    """
    seen, blank = network.inside or network, None
    if network.inside:
        blank = seen.maps(torch.zeros(1, *network.clip_shape, device=device))
    owner = supervoxels.table["video"].to_numpy()[rows]
    videos = np.unique(owner)
    for start in range(0, len(videos), n_clips):
        part = videos[start : start + n_clips]
        x = prepared(network, np.stack([clips.frames[v] for v in part]), device)
        maps = forward(network, lambda few, x=x: seen.maps(x[few]), len(x), device)
        for video, one in zip(part, maps, strict=True):
            mine = rows[owner == video]
            given = np.asarray(supervoxels.labels[video]), supervoxels.table.iloc[mine], seen.grid
            if blank is None:
                yield mine, weights(*given) @ one.flatten(1).float().cpu().numpy().T
            else:
                yield mine, _beyond(network, one - blank, blank, shares(*given), device)


def _beyond(network, change, blank, filled: np.ndarray, device) -> np.ndarray:
    """Run what comes after a map, which is changed where a supervoxel is."""
    filled = torch.from_numpy(filled).to(change).unflatten(1, (1, *change.shape[2:]))

    def beyond(few: slice) -> torch.Tensor:
        mixed = torch.addcmul(blank, filled[few], change)
        return network.beyond(mixed.contiguous(memory_format=torch.channels_last_3d))

    return forward(network, beyond, len(filled), device, 64).float().cpu().numpy()
