"""Clips with some voxels hidden: which voxels, what fills the gaps, and what the network says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stce.engine.threads import forward

FILLS = ("mean", "blur", "noise")

# The width of the blur, as a share of each axis: 2 frames and 7 of 56 pixels.
BLUR = 1 / 8


def reached(labels: np.ndarray, table: pd.DataFrame, step: np.ndarray, never: int) -> np.ndarray:
    """Return for each voxel the first step that reaches a supervoxel of it, ``(T, H, W) int32``.

    The union of all supervoxels up to any step (M in equation 5) is then one comparison.

    Parameters
    ----------
    labels, table : numpy.ndarray and pandas.DataFrame
        ``(L, T, H, W)``, label volumes of one clip, and its ``s`` kept supervoxels, with ``level``
        and ``label``.
    step, never : numpy.ndarray and int
        ``(s,) int``, when each of them is reached, 0 to `never`: the step of voxels that no kept
        supervoxel holds.

    Examples
    --------
    >>> labels = np.array([[[[1, 2, 3]]], [[[1, 1, 2]]]])
    >>> table = pd.DataFrame({"level": [0, 0, 1], "label": [1, 2, 1]})
    >>> reached(labels, table, np.array([2, 0, 1]), 3)
    array([[[1, 0, 3]]], dtype=int32)
    """
    level, label = table["level"].to_numpy(), table["label"].to_numpy()
    first = np.full(labels.shape[1:], never, np.int32)
    for i, volume in enumerate(labels):
        lookup = np.full(int(volume.max()) + 1, never, np.int32)
        lookup[label[level == i]] = step[level == i]
        np.minimum(first, lookup.take(volume), out=first)
    return first


def voxel_order(labels: np.ndarray, table: pd.DataFrame, order: np.ndarray) -> np.ndarray:
    """Turn an order of supervoxels into the place of each voxel, ``(T, H, W) int32``.

    So any area can be shown. A voxel comes with the first supervoxel that holds it, within one by
    frames, then rows: the last one that an area reaches is cut in time. Voxels that none holds come
    last. Takes `labels` and `table` of :func:`reached`, and ``(s,)`` positions in `table`.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 2, 2]]], [[[1, 2, 2, 2]]]])
    >>> table = pd.DataFrame({"level": [0, 1], "label": [2, 2]})
    >>> voxel_order(labels, table, np.array([0, 1]))
    array([[[3, 2, 0, 1]]], dtype=int32)
    """
    first = reached(labels, table, np.argsort(order), len(table))
    places = np.empty(first.shape, np.int32)
    places.flat[np.argsort(first, axis=None, kind="stable")] = np.arange(first.size)
    return places


def visible(places: Tensor, wanted: list[tuple[str, int, int]]) -> Tensor:
    """Return what is shown where voxels are added or removed up to a step, ``(B, T, H, W) bool``.

    Parameters
    ----------
    places : torch.Tensor
        ``(n, T, H, W) int``, the place of each voxel in n orders.
    wanted : list of (str, int, int)
        For each of B masks the mode ("add" or "remove"), the order (0 to n - 1), and the place
        before which voxels are chosen: shown when adding, hidden when removing.

    Examples
    --------
    >>> places = torch.tensor([[[[0, 2, 1]]]])
    >>> visible(places, [("add", 0, 2), ("remove", 0, 1)])[:, 0, 0].tolist()
    [[True, False, True], [False, True, True]]
    """
    modes, orders, before = zip(*wanted, strict=True)
    before = torch.tensor(before, device=places.device)[:, None, None, None]
    remove = torch.tensor([mode == "remove" for mode in modes], device=places.device)
    return (places[list(orders)] < before) ^ remove[:, None, None, None]


def filling(clip: Tensor, fill: str, seed: int, video: int) -> Tensor | None:
    """Return what stands in the hidden voxels of a prepared clip ``(1, C, T, H, W)``.

    None stands for zeros: the data set's mean, after normalisation. "blur" is the clip itself
    under a Gaussian of an eighth of each axis. "noise" is white and standard normal, since the
    normalised data have mean 0 and deviation 1; it is drawn from `seed` and `video` alone, the
    same for every mask of a clip and on every device.
    """
    if fill == "mean":
        return None
    if fill == "noise":
        noise = np.random.default_rng([seed, video]).standard_normal(clip.shape, np.float32)
        return torch.from_numpy(noise).to(clip.device)
    blurred = clip
    for axis in (2, 3, 4):
        place = torch.arange(clip.shape[axis], device=clip.device, dtype=torch.float32)
        distance = (place[:, None] - place) / (BLUR * len(place))
        # Each row sums to 1, at the border too.
        weights = (-(distance**2) / 2).softmax(1)
        blurred = (blurred.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return blurred


def precision(amp: bool, device: torch.device | str) -> str:
    """Return what `amp` computes in: "bfloat16" on a GPU, AVX512-BF16 or AMX, else "float32"."""
    cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if amp and (cpu or torch.device(device).type == "cuda") else "float32"


@torch.inference_mode()
def predict(
    network,
    clip: Tensor,
    places: Tensor,
    wanted: list[tuple[str, int, int]],
    *,
    fill: Tensor | None = None,
    region: Tensor | None = None,
    batch_size: int = 64,
    amp: bool = False,
) -> list[tuple]:
    """Return (probabilities, visible share) of one clip under each mask that is wanted.

    Parameters
    ----------
    network : stce.models.network.Network
        In evaluation mode, where the clip is.
    clip : torch.Tensor
        ``(1, C, T, H, W) float32``, prepared.
    places, wanted, fill
        See :func:`visible` and :func:`filling`; on the clip's device.
    region, batch_size : torch.Tensor, optional, and int, default 64
        ``(T, H, W) bool``, where the clip is: the visible share of these voxels comes third, NaN
        if there are none. Masked clips a forward pass; a CPU splits them further.
    amp : bool, default False
        Compute in bfloat16; :func:`precision` says where that is faster.
    """

    def answer(few: slice) -> Tensor:
        seen = visible(places, wanted[few])
        mask = seen[:, None]
        masked = clip * mask if fill is None else torch.where(mask, clip, fill)
        masked = masked.contiguous(memory_format=torch.channels_last_3d)
        shown = [seen.flatten(1)] + ([] if region is None else [seen[:, region]])
        shares = torch.stack([voxels.float().mean(1) for voxels in shown], dim=1)
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=amp):
            logits = network(masked).float()
        return torch.cat([shares, logits.softmax(1)], dim=1)

    told = forward(network, answer, len(wanted), clip.device, batch_size).cpu().numpy()
    n_shares = 1 if region is None else 2
    return [(row[n_shares:], *row[:n_shares].tolist()) for row in told]
