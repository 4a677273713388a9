"""Supervoxels cut and embedded, against doing it one by one and against the bare network."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import find_boundaries
from sklearn.metrics import adjusted_rand_score

from benchmarks import reference, worlds
from benchmarks.runner import Check, Pair
from stce import features, supervoxels
from stce.engine import threads
from stce.models.network import Pooled

__all__ = ["bare", "boundary_recall", "kept", "naive", "on_device", "pooled", "rival", "segment"]

SMALL = {"n_segments": (4, 8)}


def kept(cut: supervoxels.Supervoxels, n_clips: int) -> list[list[tuple[int, int]]]:
    """Return for each clip the (level, label) of its supervoxels, as the reference lists them."""
    table = cut.table[["video", "level", "label"]].to_numpy()
    return [[(int(a), int(b)) for v, a, b in table if v == n] for n in range(n_clips)]


def segment(quick: bool, device: str) -> Pair:
    """Three levels of SLIC and the removal of duplicates."""
    repeats, n, size = (2, 4, 48) if quick else (4, 64, 112)
    clips = worlds.actors(n, size)
    parts = [clips.select(part) for part in np.array_split(np.arange(n), repeats)]
    options = SMALL if quick else {}

    def same(mine, other, i: int) -> list[Check]:
        names = zip(kept(mine, len(parts[i])), other, strict=True)
        labels = zip(mine.labels, other, strict=True)
        return [
            Check("supervoxels kept by one side", sum(len({*a} ^ {*b}) for a, (_, b) in names), 0),
            Check("voxels labelled otherwise", sum(int((a != b).sum()) for a, (b, _) in labels), 0),
        ]

    return Pair(
        ours=lambda i: supervoxels.segment(parts[i], n_jobs=-1, progress=False, **options),
        theirs=lambda i: reference.segment(parts[i], **options),
        same=same,
        work=f"three-level SLIC and de-duplication of {n} clips of 16x{size}x{size}",
        against="skimage.slic for each level, each pair of boolean masks; a process a core, both",
        measured=f"each pair: another {n // repeats} clips, the same on both sides",
        target=3.0,
        repeats=repeats,
    )


def boundary_recall(labels: np.ndarray, truth: np.ndarray, reach: int = 1) -> float:
    """Tell how much of the outlines of objects the borders of segments run along, 0 to 1.

    It is a share of the outlines' voxels; NaN where nothing has an outline.

    Parameters
    ----------
    labels, truth : numpy.ndarray
        ``(T, H, W)`` of integer type: the segments, and the objects.
    reach : int, default 1
        How far a border may lie from the outline, in voxels along the axes.

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


def on_device(quick: bool, device: str) -> Pair:
    """Return the comparison of SLIC in PyTorch with scikit-image's: the same supervoxels."""
    repeats, each, size = (2, 2, 48) if quick else (3, 2 if device == "cpu" else 64, 112)
    clips = worlds.actors(repeats * each, size)
    parts = [clips.select(part) for part in np.array_split(np.arange(len(clips)), repeats)]
    how = {"n_jobs": -1, "progress": False, **(SMALL if quick else {})}

    def same(mine, other, i: int) -> list[Check]:
        pairs = [
            (a, b, truth)
            for ours, theirs, truth in zip(mine.labels, other.labels, parts[i].parts, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        index = min(adjusted_rand_score(a.ravel(), b.ravel()) for a, b, _ in pairs)
        missed = [abs(boundary_recall(a, t) - boundary_recall(b, t)) for a, b, t in pairs]
        return [
            Check("1 - adjusted Rand index, worst volume", 1 - index, 0.05),
            Check("difference of boundary recall, worst volume", max(missed), 0.01),
        ]

    return Pair(
        ours=lambda i: supervoxels.segment(parts[i], device=device, **how),
        theirs=lambda i: supervoxels.segment(parts[i], **how),
        same=same,
        work=f"supervoxels of 16x{size}x{size} by SLIC in PyTorch, made to cut on a GPU",
        against="scikit-image's SLIC on the CPU, a process a core",
        measured=f"each pair: another {each} clips, the same on both sides",
        target=None,
        repeats=repeats,
    )


def rival(name: str):
    """Return the comparison of our supervoxels with those of SimpleITK, or cut as VTCD cuts."""
    return partial(_rival, name)


def _rival(name: str, quick: bool, device: str) -> Pair:
    repeats, each, size = (2, 1, 48) if quick else (4, 2, 224)
    clips = worlds.actors(repeats * each, size, channels=3)
    parts = [clips.select(part) for part in np.array_split(np.arange(len(clips)), repeats)]
    levels = (8, 16) if quick else (15, 50, 80)
    how = {"n_segments": levels, "n_jobs": -1, "progress": False}
    network = worlds.trained("i3d", 0.125, clips, device).split("Mixed_3c")
    cut = {"simpleitk": reference.simpleitk, "vtcd": partial(reference.vtcd, network)}[name]

    def same(mine, other, i: int) -> list[Check]:
        # The finest of our levels beside all that the other side has.
        pairs = zip(mine.labels, other, parts[i].parts, strict=True)
        recalls = [[boundary_recall(v[-1], truth) for v in both] for *both, truth in pairs]
        behind = np.subtract(*np.mean(recalls, axis=0)[::-1])
        return [Check("boundary recall behind the other side's", float(behind), 0.02)]

    against = {
        "simpleitk": "SimpleITK's SLIC at the same three grids, which keeps duplicates",
        "vtcd": "SLIC as VTCD sets it (12 segments, compactness 0.01), once, on a map of the "
        "network (I3D width 1/8, Mixed_3c), enlarged to the clip",
    }
    return Pair(
        ours=lambda i: supervoxels.segment(parts[i], **how),
        theirs=lambda i: cut(parts[i], levels),
        same=same,
        work=f"three-level SLIC and de-duplication of clips of 16x{size}x{size}x3",
        against=f"{against[name]} (other segments: checked is how much of the outlines they find)",
        measured=f"each pair: another {each} clips, the same on both sides; a process a core",
        target=None,
        repeats=repeats,
    )


def _scene(name: str, width: float, quick: bool, device: str, channels: int = 3, repeats: int = 4):
    """Return a network, clips and a few of their supervoxels for each pair to be timed."""
    repeats, n, size, few = (2, 2, 32, 8) if quick else (repeats, 16, 112, 104)
    if name == "r3d18" and width == 1 and not quick:
        repeats, few = 3, 12
    if channels == 1 and not quick:
        size = 56
    torch.set_flush_denormal(True)  # as stce.engine.device.resolve does for every study
    clips = worlds.actors(n, size, channels)
    network = worlds.trained(name, 0.125 if quick else width, clips, device)
    cut = supervoxels.segment(clips, n_jobs=-1, progress=False, **(SMALL if quick else {}))
    rows = [cut.rows_of(video)[:few] for video in range(repeats)]
    measured = (
        f"each pair: the first {few} supervoxels of another clip, {sum(map(len, rows))} of the "
        f"{len(cut)} in all; the same on both sides"
    )
    frames = f"16x{size}x{size}x{channels}"
    what = f"features of the supervoxels of {n} clips of {frames}, {name} width {width:g}"
    return network, clips, cut, rows, {"work": what, "measured": measured, "repeats": repeats}


def _ours(network, clips, cut, rows, device, stretch: bool = True):
    how = {"stretch": stretch, "device": device}
    return lambda i: features.extract_rows(network, clips, cut, rows[i], **how)


def _apart(mine: np.ndarray, other: np.ndarray, i: int) -> list[Check]:
    difference = np.abs(mine - other).max() / np.abs(other).max()
    return [Check("largest difference / largest feature", float(difference), 1e-4)]


def naive(name: str, width: float, target: float | None):
    """Return the comparison with one supervoxel at a time."""

    def build(quick: bool, device: str) -> Pair:
        network, clips, cut, rows, facts = _scene(name, width, quick, device)
        copy, table = reference.plain(network), cut.table[["level", "label"]].to_numpy()

        def theirs(i: int) -> np.ndarray:
            chosen = [(int(level), int(label)) for level, label in table[rows[i]]]
            one = clips.select([i]), [cut.labels[i]], [chosen]
            return reference.embed(copy, *one, device=device)

        return Pair(
            ours=_ours(network, clips, cut, rows, device),
            theirs=theirs,
            same=_apart,
            against="cut and resized one by one on the CPU, batches of one, default memory format",
            target=target,
            **facts,
        )

    return build


def bare(name: str, width: float, stretch: bool = True):
    """Return the comparison with the network alone, on patches that are cut already.

    Stretched they fill a clip; left in place, they are whole clips that are blank elsewhere.
    """

    def build(quick: bool, device: str) -> Pair:
        # Both sides take nearly the same time: it needs more pairs to tell them apart.
        network, clips, cut, rows, facts = _scene(name, width, quick, device, repeats=8)
        columns = ["t0", "t1", "y0", "y1", "x0", "x1"]
        ready = []
        for video, chosen in enumerate(rows):
            clip = network.to(device).prepare(torch.from_numpy(clips.frames[video : video + 1]))
            volumes = torch.from_numpy(cut.labels[video].astype(np.int16)).to(device)
            entry = cut.table.iloc[chosen]
            patches = features.cut(
                clip.expand(len(entry), *clip.shape[1:]),
                volumes[torch.tensor(entry["level"].to_numpy()).to(device)],
                torch.tensor(entry["label"].to_numpy()).to(device),
                torch.tensor(entry[columns].to_numpy()).to(device) if stretch else None,
            )
            ready.append(patches.contiguous(memory_format=torch.channels_last_3d))

        @torch.inference_mode()
        def theirs(i: int) -> np.ndarray:
            # The same batches as ours: 64 on a GPU; threads.forward splits them for a CPU.
            found = [
                threads.forward(network, lambda few, x=x: network.features(x[few]), len(x), device)
                for x in ready[i].split(64)
            ]
            return torch.cat(found).cpu().numpy()

        return Pair(
            ours=_ours(network, clips, cut, rows, device, stretch),
            theirs=theirs,
            same=_apart,
            against="the bare network on patches cut before, in the same batches"
            if stretch
            else "the bare network on whole clips, each blank but for a supervoxel in its place",
            target=0.9 if stretch else None,
            **facts,
        )

    return build


def pooled(stretch: bool, target: float | None):
    """Return the comparison of one pass a clip with one for each supervoxel, of other features."""
    return partial(_pooled, stretch, target)


def _pooled(stretch: bool, target: float | None, quick: bool, device: str) -> Pair:
    network, clips, cut, _, facts = _scene("r3d18", 0.125, quick, device, channels=1)
    deep = network.split("layer4")
    seen = Pooled.of(deep)
    repeats = facts["repeats"]
    parts = np.array_split(np.arange(len(clips)), repeats)

    def mean_of_map(i: int) -> np.ndarray:
        """Average the layer's map over each mask, one voxel counting like another in its cell."""
        found = []
        for video in parts[i]:
            with torch.inference_mode():
                x = network.prepare(torch.from_numpy(clips.frames[video : video + 1]).to(device))
                layer = deep.features(x).reshape(-1, *seen.grid).cpu()
            for row in cut.rows_of(video):
                mask = torch.from_numpy(cut.mask(row)).float()[None]
                share = torch.nn.functional.adaptive_avg_pool3d(mask, seen.grid)
                found.append(((layer * share).sum((1, 2, 3)) / share.sum()).numpy())
        return np.stack(found)

    def all_rows(i: int) -> np.ndarray:
        return np.concatenate([cut.rows_of(video) for video in parts[i]])

    def ours(i: int) -> np.ndarray:
        return features.extract_rows(seen, clips, cut, all_rows(i), device=device)

    def theirs(i: int) -> np.ndarray:
        how = {"stretch": stretch, "device": device}
        return features.extract_rows(network, clips, cut, all_rows(i), **how)

    return Pair(
        ours=ours,
        theirs=theirs,
        same=lambda mine, _, i: _apart(mine, mean_of_map(i), i),
        against="a pass for each supervoxel, "
        + ("stretched as in the paper" if stretch else "left in its place")
        + " (other features: checked are the pooled ones, against a plain mean over each mask)",
        target=target,
        **facts | {"measured": f"each pair: other clips, {len(parts[0])} or so; the same for both"},
    )
