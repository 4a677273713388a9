"""Features of supervoxels and clips at the layer under study (paper 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr
from joblib import Parallel, delayed
from torch import Tensor
from torch.nn.functional import interpolate

from stce import supervoxels as supervoxels_module
from stce.engine import pooling
from stce.engine.device import resolve
from stce.engine.progress import bar
from stce.engine.storage import growing, grown, grows, open_array
from stce.engine.threads import forward, prepared
from stce.engine.windows import windows
from stce.engine.workers import spread

# A chunk is what is computed at once. Pooled, a clip at the border of two is seen twice.
ROWS_PER_CHUNK, POOLED_ROWS_PER_CHUNK = 1024, 16384


def _resampler(start: Tensor, stop: Tensor, length: int) -> Tensor:
    """Return the matrices ``(B, length, length)`` that stretch ``[start, stop)`` over an axis.

    Row i holds the two linear weights with which output i is read, exactly as
    ``torch.nn.functional.interpolate(..., align_corners=False)`` reads the cut-out box.
    """
    span = (stop - start).to(torch.float32)[:, None]
    centres = torch.arange(length, device=start.device) + 0.5
    source = torch.clamp(centres * (span / length) - 0.5, min=0.0)
    lower = source.floor()
    upper = torch.minimum(lower + 1, span - 1)
    weight = (source - lower)[..., None]
    offset = start[:, None]
    matrix = torch.zeros(len(start), length, length, device=start.device)
    matrix.scatter_add_(2, (lower.long() + offset)[..., None], 1 - weight)
    matrix.scatter_add_(2, (upper.long() + offset)[..., None], weight)
    return matrix


def cut(clips: Tensor, labels: Tensor, label: Tensor, boxes: Tensor | None = None) -> Tensor:
    """Cut supervoxels out of their clips, and stretch each to the full input size (paper 3.1).

    Outside the supervoxel the patch holds 0, which after normalisation is the data set's mean
    ("the empty regions are filled with the average image value"). On a GPU the stretch of each
    box is three small matrix products, so all supervoxels of a batch are cut at once; a CPU
    is faster if it goes from box to box and reads no voxel outside.

    Parameters
    ----------
    clips : torch.Tensor or list of torch.Tensor
        ``(B, C, T, H, W) float32``, normalised: for each supervoxel the clip it lies in.
    labels, label : torch.Tensor, the first or list of torch.Tensor
        ``(B, T, H, W)`` and ``(B,)`` integer: the label volume of its level, and its label.
    boxes : torch.Tensor, optional
        ``(B, 6) int64``: ``t0 t1 y0 y1 x0 x1``, half-open. Without them each supervoxel stays
        where it is, at its own size.

    Returns
    -------
    torch.Tensor
        ``(B, C, T, H, W) float32``, trilinear, as ``interpolate(align_corners=False)``.

    Examples
    --------
    >>> clip = torch.arange(4.0).reshape(1, 1, 1, 1, 4)
    >>> labels = torch.tensor([[[[1, 1, 2, 2]]]])
    >>> cut(clip, labels, torch.tensor([2]), torch.tensor([[0, 1, 0, 1, 2, 4]]))[0, 0, 0, 0]
    tensor([2.0000, 2.2500, 2.7500, 3.0000])
    """
    way = _cut_each if label.device.type == "cpu" else _cut_together
    return way(clips, labels, label, boxes)


def _cut_together(clips, labels, label: Tensor, boxes: Tensor | None) -> Tensor:
    inside = labels == label[:, None, None, None]
    patches = clips * inside[:, None]
    if boxes is None:
        return patches
    n, channels, frames, height, width = patches.shape
    t0, t1, y0, y1, x0, x1 = boxes.T
    patches = patches @ _resampler(x0, x1, width)[:, None, None].mT
    patches = _resampler(y0, y1, height)[:, None, None] @ patches
    patches = patches.reshape(n, channels, frames, height * width)
    patches = _resampler(t0, t1, frames)[:, None] @ patches
    return patches.reshape(n, channels, frames, height, width)


def _cut_each(clips, labels, label: Tensor, boxes: Tensor | None) -> Tensor:
    channels, *size = clips[0].shape
    patches = torch.empty(
        len(label), *clips[0].shape, memory_format=torch.channels_last_3d, dtype=clips[0].dtype
    )
    # Plain numbers keep the narrow type of the labels; tensors would widen them all.
    wanted = label.tolist()
    if boxes is None:
        for i, one in enumerate(wanted):
            patches[i] = clips[i] * (labels[i] == one)
        return patches
    start, stop = boxes[:, 0], boxes[:, 1]
    in_time = _resampler(torch.zeros_like(start), stop - start, size[0])
    for i, (t0, t1, y0, y1, x0, x1) in enumerate(boxes.tolist()):
        box = slice(t0, t1), slice(y0, y1), slice(x0, x1)
        patch = clips[i][(slice(None), *box)] * (labels[i][box] == wanted[i])
        if list(patch.shape[1:]) != size:
            # Trilinear is bilinear in each frame, then linear in time: so it takes a third.
            flat = patch.flatten(0, 1)[None]
            flat = interpolate(flat, size[1:], mode="bilinear", align_corners=False)
            patch = in_time[i, :, : t1 - t0] @ flat.view(channels, t1 - t0, -1)
        patches[i] = patch.reshape(channels, *size)
    return patches


@torch.inference_mode()
def batches(
    network,
    clips,
    supervoxels,
    *,
    rows=None,
    stretch: bool = True,
    batch_size: int = 64,
    device="cpu",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the features of supervoxels batch by batch, in the memory of one batch.

    Parameters
    ----------
    network, clips, supervoxels : Explainable, Clips and Supervoxels
        It is run in evaluation mode: on each supervoxel, or once on each clip if it has a `grid`,
        or up to the layer `inside` which it hides them. N clips of its input size, and theirs.
    rows : numpy.ndarray, optional
        Table rows to embed, default all of them.
    stretch : bool, default True
        Stretch each supervoxel's box to the input size, as the paper does. Otherwise it is shown
        to the network where it was, at its own size, in a clip that is blank elsewhere. Without
        effect if pooled.
    batch_size : int, default 64
        Supervoxels a forward pass; pooled, an eighth as many clips. Lower it if memory runs out.
    device : torch.device, default "cpu"
        Where the patches are cut and the network runs.

    Yields
    ------
    rows, features : numpy.ndarray
        ``(B,) int64`` table rows (pooled, clip by clip; in place, small boxes first), and
        ``(B, D) float32``.
    """
    device = resolve(device)
    network = network.to(device).eval()
    table = supervoxels.table
    rows = np.arange(len(table)) if rows is None else np.asarray(rows)
    if network.grid or network.inside:
        at_once = max(1, batch_size // 8)
        yield from pooling.by_clip(network, clips, supervoxels, rows, at_once, device)
        return
    columns = ["video", "level", "label", "t0", "t1", "y0", "y1", "x0", "x1"]
    facts = table.iloc[rows][columns].to_numpy(np.int64)
    # Cutting windows out takes many small steps, for which a GPU would wait.
    on_cpu = device.type == "cpu"
    near = windows(network, facts[:, 3:]) if on_cpu and not stretch else None
    for start in range(0, len(rows), batch_size):
        part = np.arange(start, min(start + batch_size, len(rows)))
        if near is not None:
            part = part[near.order(facts[part, 3:])]
        yield rows[part], _embed(network, clips, supervoxels, facts[part], stretch, near, device)


def _embed(network, clips, supervoxels, facts, stretch: bool, near, device) -> np.ndarray:
    """Return the features of a batch, from video, level, label and box of each supervoxel."""
    # They lie in a handful of clips: each travels to the device once.
    videos, position = np.unique(facts[:, 0], return_inverse=True)
    frames = prepared(network, np.stack([clips.frames[v] for v in videos]), device)
    volumes = np.stack([supervoxels.labels[v] for v in videos])
    volumes = torch.from_numpy(volumes.astype(np.int16)).to(device)
    entry = torch.from_numpy(facts).to(device)
    position = torch.from_numpy(position).to(device)

    def embed(few: slice) -> Tensor:
        at, level = position[few], entry[few, 1]
        if frames.is_cuda:
            clip, volume = frames[at], volumes[at, level]
        else:  # views: nothing is copied
            clip = [frames[i] for i in at]
            volume = [volumes[i, j] for i, j in zip(at, level, strict=True)]
        if near is not None:
            return near.features(clip, volume, facts[few, 2].tolist(), facts[few, 3:])
        patches = cut(clip, volume, entry[few, 2], entry[few, 3:] if stretch else None)
        return network.features(patches.contiguous(memory_format=torch.channels_last_3d))

    return forward(network, embed, len(entry), device).cpu().numpy()


def extract_rows(network, clips, supervoxels, rows: np.ndarray, **options) -> np.ndarray:
    """Embed some of the supervoxels, ``(k, D) float32`` in the order of `rows` ``(k,) int``.

    All arguments are those of :func:`batches`.
    """
    parts = batches(network, clips, supervoxels, rows=rows, **options)
    found, z = (np.concatenate(both) for both in zip(*parts, strict=True))
    place = np.argsort(found)
    return z[place[np.searchsorted(found, rows, sorter=place)]]


def extract(
    network,
    clips,
    supervoxels,
    folder: str | Path | None = None,
    *,
    stretch: bool = True,
    batch_size: int = 64,
    device="cpu",
    progress: bool = True,
):
    """Embed every supervoxel with the trunk of the network (paper 3.1).

    Returns ``(S, D) float32``, numpy or zarr, one row for each row of the table.

    Parameters
    ----------
    network, clips, supervoxels, stretch, batch_size, device
        See :func:`batches`.
    folder : path, optional
        Write ``features.zarr`` there, about a thousand rows a chunk; chunks already there,
        from a run that was stopped, are not computed again. Without it: in memory.
    progress : bool, default True
        Show a bar on a terminal.

    Examples
    --------
    >>> from stce.datasets.textures import textures
    >>> from stce import models, supervoxels
    >>> clips = textures(2, n_frames=8, size=(32, 32))
    >>> network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32))
    >>> extract(network, clips, supervoxels.segment(clips, n_segments=(4,))).shape[1]
    64
    """
    total = len(supervoxels)
    chunk_rows = POOLED_ROWS_PER_CHUNK if network.grid else ROWS_PER_CHUNK
    shape = (total, network.n_features)
    path = None if folder is None else Path(folder) / "features.zarr"
    if path is None:
        features, done = np.empty(shape, np.float32), set()
    elif (path / "zarr.json").exists() and not grows(path):
        return stored(folder)
    else:
        features = growing(path, shape, np.float32, min(chunk_rows, total))
        done = {int(chunk.parent.name) for chunk in features.store.root.glob("c/*/0")}
    starts = range(0, total, chunk_rows)
    chunks = [np.arange(start, min(start + chunk_rows, total)) for start in starts]
    todo = [rows for chunk, rows in enumerate(chunks) if chunk not in done]
    shared = spread(network)
    how = {"stretch": stretch, "batch_size": batch_size, "device": device}
    work = Parallel(return_as="generator")(
        delayed(extract_rows)(shared, clips, supervoxels, rows, **how) for rows in todo
    )
    with bar(total=total, show=progress, desc="embed", unit="supervoxel") as shown:
        shown.update(total - sum(map(len, todo)))
        for rows, z in zip(todo, work, strict=True):
            features[rows[0] : rows[-1] + 1] = z
            shown.update(len(rows))
    return features if path is None else grown(path)


def extract_clips(network, clips, *, batch_size: int = 32, device="cpu") -> np.ndarray:
    """Embed whole clips with the trunk, such as the random clips (paper 4.1): ``(N, D) float32``.

    Arguments are those of :func:`batches`, but `batch_size` counts clips.
    """
    return _whole(network, clips, False, batch_size, device)


def extract_layer(network, clips, *, batch_size: int = 32, device="cpu") -> np.ndarray:
    """Return all that layer l gives for whole clips, where gradients are taken: f_l(v) of eq. 1.

    The same as :func:`extract_clips` unless the network is pooled: then it is the map itself,
    ``(N, C * t * h * w) float32``, which :func:`stce.tcav.slopes` takes.
    """
    return _whole(network, clips, True, batch_size, device)


def _whole(network, clips, layer: bool, batch_size: int, device) -> np.ndarray:
    shared = spread(network)
    parts = Parallel()(
        delayed(_seen)(shared, clips.frames[i : i + batch_size], layer, device)
        for i in range(0, len(clips), batch_size)
    )
    return np.concatenate(parts)


@torch.inference_mode()
def _seen(network, frames: np.ndarray, layer: bool, device) -> np.ndarray:
    device = resolve(device)
    network = network.to(device).eval()
    see = network.at_layer if layer else network.features
    x = prepared(network, frames, device)
    return forward(network, lambda few: see(x[few]), len(x), device).cpu().numpy()


def extract_slopes(network, clips, class_index: int, target: str, *, batch_size=16, device="cpu"):
    """Return the gradient of a class output by the features of whole clips, ``(N, D) float32``.

    It is that of equation 1 where the features do not decide on the logits (`splits` is "no"); else
    :func:`stce.tcav.slopes` gives the same from known features. `batch_size` counts clips.
    """
    parts = (clips.frames[i : i + batch_size] for i in range(0, len(clips), batch_size))
    parts = (prepared(network, np.asarray(part), resolve(device)) for part in parts)
    return torch.cat([network.gradient(x, class_index, target).cpu() for x in parts]).numpy()


def whole(network, clips, samples, *, batch_size: int = 64, device="cpu") -> dict[str, dict]:
    """Return what :class:`stce.tcav.Samples` holds of whole clips, for a network.

    These are ``clips``, and ``slopes`` if the features do not decide on the logits.
    """
    owned = {name: clips.select(clips.indices_of(name)) for name in samples.clips}
    found = {n: extract_layer(network, of, device=device) for n, of in owned.items()}
    if network.splits != "no":
        return {"clips": found}
    # A backward pass keeps what a forward forgets.
    how = {"batch_size": max(1, batch_size // 4), "device": device}
    asked = {name: (samples.classes.index(name), samples.target) for name in owned}
    slopes = {n: extract_slopes(network, of, *asked[n], **how) for n, of in owned.items()}
    return {"clips": found, "slopes": slopes}


@torch.inference_mode()
def recognised(network, clips, device="cpu") -> int:
    """Count the clips that a network names as they are labelled, looking at one at a time."""
    each = (prepared(network, clips.frames[n : n + 1], device) for n in range(len(clips)))
    return sum(int(network(x).argmax()) == y for x, y in zip(each, clips.labels, strict=True))


@dataclass(frozen=True, eq=False)
class Negatives:
    """What concepts are told apart from: whole clips, or supervoxels cut from them.

    Against whole clips a CAV also learns what all supervoxels have in common: the fill around them
    and the stretch. `rows` are those of the table of the supervoxels `cut`, ``(M,) int64``,
    `owners` classes, ``(M,) str``, each told apart from the others; `used` says what the clips are.
    """

    clips: object
    cut: supervoxels_module.Supervoxels | None = None
    rows: np.ndarray | None = None
    owners: np.ndarray | None = None
    used: str = ""

    def __len__(self) -> int:
        return len(self.clips if self.cut is None else self.rows)

    def embed(self, network, *, stretch: bool = True, **how) -> np.ndarray:
        """Return their features, ``(M, D) float32``; options are those of :func:`batches`."""
        if self.cut is None:
            return extract_clips(network, self.clips, **how)
        rows, place = np.unique(self.rows, return_inverse=True)
        return extract_rows(network, self.clips, self.cut, rows, stretch=stretch, **how)[place]


def random_supervoxels(clips, n: int, least: int, rng, *, used: str = "", **options) -> Negatives:
    """Cut random clips up, and draw `n` of their supervoxels, or all where there are fewer.

    They come from every twentieth clip, or more of them where that were less than 20 clips; no more
    of them than `least` are a ValueError. Options: :func:`stce.supervoxels.segment`.
    """
    few = clips.select(np.arange(0, len(clips), min(20, max(1, len(clips) // 20))))
    cut_up = supervoxels_module.segment(few, **{"progress": False, **options})
    if len(cut_up) <= least:
        raise ValueError(
            f"{len(few)} random clips give {len(cut_up)} supervoxels, too few for groups of "
            f"{least}; give more clips, raise n_segments, or lower n_keep."
        )
    rows = rng.permutation(np.sort(rng.permutation(len(cut_up))[:n]))
    return Negatives(few, cut_up, rows, used=used)


def stored(folder: str | Path) -> zarr.Array:
    """Open the features that :func:`extract` wrote, ``(S, D) float32``, read on indexing."""
    return open_array(Path(folder) / "features.zarr")
