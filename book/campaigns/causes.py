"""Why was the explanation of real clips wrong? A factorial of causes, and its confirmation.

What a good explanation must show was written down first: ``book/results/causes/criteria.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.registration import optical_flow_ilk
from skimage.segmentation import slic

from stce import cav, concepts, features, supervoxels, tcav
from stce.clips import Clips
from stce.engine.resampling import interval, rank_correlation, resamples
from stce.engine.threads import forward
from stce.masking import filling
from stce.supervoxels import Supervoxels, sift

__all__ = [
    "NEGATIVES",
    "PIECES",
    "REPRESENTATIONS",
    "SCORES",
    "Cell",
    "Pool",
    "ceiling",
    "embed",
    "judge",
    "pieces",
    "pool",
    "reached",
]

N_SEGMENTS, N_CONCEPTS, N_KEEP, N_GROUPS, N_BOOTSTRAP = (15, 50, 80), 15, 20, 10, 500
HALF = N_CONCEPTS // 2
FINE, SEEDS = (50, 150, 300), (0, 1, 2)
REPRESENTATIONS = ("in place", "blurred", "stretched", "box", "pooled")
LAYERS = ("Mixed_4f", "Mixed_5c")
PIECES = ("colour", "smooth", "compact", "fine", "motion", "fine motion")
NEGATIVES = (
    "textures",
    "supervoxels of textures",
    "random clips",
    "supervoxels of random clips",
    "supervoxels of other classes",
    "matched supervoxels of other classes",
)
DIRECTIONS = ("logistic", "means")
SCORES = ("votes", "derivative")
# How much larger than its supervoxel's a box is cut, along height and width.
BOX = 1.5


@dataclass(frozen=True)
class Cell:
    """One choice of every cause; the defaults are those that were found wrong."""

    pieces: str = "colour"
    representation: str = "in place"
    layer: str = "avgpool"
    found_at: str = "avgpool"
    negatives: str = "textures"
    direction: str = "logistic"
    score: str = "votes"

    def changed(self) -> int:
        """Count the causes that are not as in the default."""
        return sum(a != b for a, b in zip(vars(self).values(), vars(Cell()).values(), strict=True))


@dataclass(frozen=True)
class Pool:
    """Embedded supervoxels of some clips, and the clips themselves.

    Attributes
    ----------
    z, whole : numpy.ndarray
        ``(S, D) float32`` of the supervoxels and ``(N, D) float32`` of the whole clips.
    labels, groups : numpy.ndarray
        ``(S,)``: class of the clip that each supervoxel lies in, and its sequence.
    place : numpy.ndarray
        ``(S, 4) float64``: logarithm of the size, centre in time, height and width as shares.
    inside, around : numpy.ndarray
        ``(S, 2) float64``: still and moving voxels of the supervoxel, and of its clip.
    owner : numpy.ndarray
        ``(N,)``, class of each clip.
    """

    z: np.ndarray
    whole: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    place: np.ndarray
    inside: np.ndarray
    around: np.ndarray
    owner: np.ndarray


def _motion(frames: np.ndarray) -> np.ndarray:
    """Return how far each voxel moves to the next frame, ``(T, H, W)``, in pixels."""
    grey = frames.astype(np.float32).mean(-1) / 255
    steps = []
    for first, second in zip(grey[:-1:2], grey[1::2], strict=True):
        flow = optical_flow_ilk(first[::2, ::2], second[::2, ::2], radius=5)
        steps.append(2 * np.hypot(*flow).repeat(2, 0).repeat(2, 1))
    return np.repeat(np.stack(steps), 2, axis=0)


def _with_motion(
    frames: np.ndarray, n_segments: Sequence[int], weight: float = 10.0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Cut a clip by colour and, as a fourth channel, by motion: a pixel of it counts `weight`."""
    colour = supervoxels._colour(frames, 1.0, (1, 1, 1))
    moved = ndimage.gaussian_filter(np.minimum(_motion(frames), 8.0), 1.0)
    image = np.concatenate([colour, weight * moved[..., None]], axis=-1)
    span = float(image.max() - image.min()) or 1.0
    cut = [slic(image, n, 20.0 / span, convert2lab=False, start_label=1) for n in n_segments]
    return sift(np.stack(cut))


def pieces(clips: Clips, kind: str) -> Supervoxels:
    """Cut clips up: by `kind`, one of `PIECES`."""
    n_segments = FINE if kind.startswith("fine") else N_SEGMENTS
    options = {"smooth": {"sigma": 3.0}, "compact": {"compactness": 40.0}}.get(kind, {})
    if not kind.endswith("motion"):
        return supervoxels.segment(clips, n_segments=n_segments, n_jobs=-1, **options)
    labels, tables = [], []
    for video in range(len(clips)):
        volume, table = _with_motion(np.asarray(clips.frames[video]), n_segments)
        labels.append(volume)
        tables.append(table.assign(video=video))
    table = pd.concat(tables, ignore_index=True)[list(supervoxels.COLUMNS)]
    return Supervoxels(np.stack(labels), table)


@torch.inference_mode()
def _shown(network, clips: Clips, cut: Supervoxels, rows: np.ndarray, box: bool) -> np.ndarray:
    """Embed supervoxels with what is around them: blurred in place, or all of a larger box."""
    found, (height, width) = [], clips.frames.shape[2:4]
    table = cut.table.iloc[rows]
    for video, part in table.groupby("video", sort=False):
        clip = network.prepare(torch.from_numpy(np.asarray(clips.frames[video]))[None])[0]
        soft = None if box else filling(clip[None], "blur", 0, 0)[0]
        labels = np.asarray(cut.labels[video])
        edges = part[["t0", "t1", "y0", "y1", "x0", "x1"]].to_numpy(float, copy=True)
        for low, high, most in ((2, 3, height), (4, 5, width)):
            more = (BOX - 1) / 2 * (edges[:, high] - edges[:, low])
            edges[:, low] = np.maximum(np.floor(edges[:, low] - more), 0)
            edges[:, high] = np.minimum(np.ceil(edges[:, high] + more), most)
        boxes, level, label = edges.astype(np.int64), part["level"].tolist(), part["label"].tolist()

        def embed(few, clip=clip, soft=soft, labels=labels, b=boxes, level=level, label=label):
            some = range(*few.indices(len(level)))
            if soft is None:
                one = torch.ones(labels.shape[1:], dtype=torch.int16)
                sides = [clip] * len(some), [one] * len(some), torch.ones(len(some))
                patches = features.cut(*sides, torch.from_numpy(b[few]))
            else:
                inside = [torch.from_numpy(labels[level[i]] == label[i]) for i in some]
                patches = torch.stack([torch.where(m, clip, soft) for m in inside])
            patches = patches.contiguous(memory_format=torch.channels_last_3d)
            return network.features(patches)

        found.append(forward(network, embed, len(part), "cpu").numpy())
    return np.concatenate(found)


def embed(network, clips: Clips, cut: Supervoxels, rows: np.ndarray, how: str) -> np.ndarray:
    """Embed some supervoxels (rising `rows`) in one of the `REPRESENTATIONS`, ``(k, D)``."""
    if how in ("blurred", "box"):
        return _shown(network, clips, cut, rows, how == "box")
    network = network.pooled() if how == "pooled" else network
    return features.extract_rows(network, clips, cut, rows, stretch=how == "stretched")


def pool(network, clips: Clips, cut: Supervoxels, how: str, few: int = 0, seed: int = 0) -> Pool:
    """Embed the supervoxels of clips, all or `few` by chance, and count what moves in them."""
    rows = np.arange(len(cut))
    if few:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:few])
    z = embed(network, clips, cut, rows, how)
    seen = network.pooled() if how == "pooled" else network
    whole = features.extract_clips(seen, clips)
    table = cut.table.iloc[rows]
    video = table["video"].to_numpy()
    size = clips.frames.shape[1:4]
    ends = zip("tyx", size, strict=True)
    middle = [table[[f"{axis}0", f"{axis}1"]].mean(axis=1) / n for axis, n in ends]
    place = np.stack([np.log(table["size"]), *middle], axis=1)
    inside, around = np.zeros((len(rows), 2)), np.zeros((len(rows), 2))
    if clips.parts is not None:
        total = np.stack([np.bincount(np.asarray(p).ravel(), minlength=2) for p in clips.parts])
        around[:] = total[video]
        for i, (row, v) in enumerate(zip(rows, video, strict=True)):
            moving = np.asarray(clips.parts[v])[cut.mask(row)].sum()
            inside[i] = table["size"].iloc[i] - moving, moving
    labels, groups = clips.labels[video], clips.groups[video]
    return Pool(z, whole, labels, groups, place, inside, around, clips.labels)


def _lifts(members: Sequence[np.ndarray], mine: Pool, draws: np.ndarray, names) -> np.ndarray:
    """Return the lift of each concept with sequences weighted by each of B draws, ``(B, K)``."""
    found = []
    for rows in members:
        held, base = np.zeros((2, len(names), 2))
        at = np.searchsorted(names, mine.groups[rows])
        np.add.at(held, at, mine.inside[rows])
        np.add.at(base, at, mine.around[rows])
        held, base = draws @ held, draws @ base
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(held[:, 1] / held.sum(1) / (base[:, 1] / base.sum(1)))
    lifts = np.stack(found, axis=1)
    # A concept that lives in sequences which a draw lacks keeps the lift that it has in all.
    return np.where(np.isfinite(lifts), lifts, lifts[:1])


def _directions(positives, groups, mean, scale, direction: str) -> np.ndarray:
    """Return the unit vectors of one concept against each group, ``(R, D)``."""
    if direction == "means":
        vectors = (positives.mean(0) - groups.mean(1)) / scale**2
        return cav.unit(vectors.astype(np.float64))
    own, others = (((x - mean) / scale).astype(np.float32) for x in (positives, groups))
    ((weights, _),) = cav.against(own, [np.arange(len(own))], others, held_out=False)
    return cav.unit(weights / scale)


def _negatives(kind: str, name: int, pools: Mapping[str, Pool]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features to draw groups from, and of supervoxels where they lie."""
    source = pools["textures" if "textures" in kind else "random" if "random" in kind else "films"]
    whole, rows = kind in ("textures", "random clips", "other classes"), slice(None)
    if "other" in kind:
        rows = (source.owner if whole else source.labels) != name
    return (source.whole if whole else source.z)[rows], source.place[slice(None) if whole else rows]


def judge(
    name: int,
    pools: Mapping[str, Pool],
    slope: np.ndarray,
    kinds: Sequence[str] = NEGATIVES,
    at: np.ndarray | None = None,
) -> Iterator[tuple[dict, dict]]:
    """Measure the criteria that need no masks, for one class and each of the cheap causes.

    Parameters
    ----------
    name : int
        The class, an index.
    pools : mapping
        ``films`` (of all classes), ``textures`` and ``random``.
    slope : numpy.ndarray
        ``(N, D)``, gradient of the class at its clips.
    kinds : sequence of str
        Of `NEGATIVES`.
    at : numpy.ndarray, optional
        ``(S, D)``, features of the films' supervoxels where concepts are found; default
        those where they are scored.

    Yields
    ------
    cell : dict
        ``negatives``, ``direction`` and ``score``.
    measured : dict
        ``upper``, ``lower``, ``gap``, ``correlation`` with ``_low`` and ``_high``, ``stable``
        (between seeds) and ``halves`` (between halves of the groups).
    """
    films = pools["films"]
    mine = np.flatnonzero(films.labels == name)
    own = films.z[mine]
    names = np.unique(films.groups[mine])
    some = replace(
        films, groups=films.groups[mine], inside=films.inside[mine], around=films.around[mine]
    )
    draws = resamples(len(names), N_BOOTSTRAP, np.random.default_rng(0))
    draws = np.concatenate([np.ones((1, len(names))), draws])
    clustered = {}
    for seed in SEEDS:
        how = {"n_concepts": N_CONCEPTS, "n_keep": N_KEEP, "seed": seed}
        z = own if at is None else at[mine]
        found = concepts.cluster(z, np.zeros(len(z), int), np.arange(len(z)), ("c",), **how)
        members = [found.members("c", k) for k in range(N_CONCEPTS)]
        owner = concepts.assign(z, found.centres["c"])
        clustered[seed] = members, owner, _lifts(members, some, draws, names)
    for kind, direction in product(kinds, DIRECTIONS):
        parts, voxels, halves = {s: [] for s in SCORES}, {s: [] for s in SCORES}, []
        for seed, (members, owner, lifts) in clustered.items():
            along = _along(members, mine, pools, name, kind, direction, slope, seed)
            first, second = along[:, ::2].mean((1, 2)), along[:, 1::2].mean((1, 2))
            halves.append(spearmanr(first, second)[0])
            for score in SCORES:
                order = _order(along, score)
                upper, lower = (lifts[:, some].mean(1) for some in (order[:HALF], order[-HALF:]))
                rank = np.empty(N_CONCEPTS)
                rank[order] = np.arange(N_CONCEPTS)[::-1]
                related = rank_correlation(np.broadcast_to(rank, lifts.shape), lifts)
                parts[score].append((upper, lower, upper - lower, related))
                voxels[score].append(rank[owner])
        for score in SCORES:
            measured = {}
            both = np.mean(parts[score], axis=0)
            for what, series in zip(("upper", "lower", "gap", "correlation"), both, strict=True):
                low, high = interval(series[1:])
                measured |= {what: series[0], f"{what}_low": low, f"{what}_high": high}
            pairs = combinations(voxels[score], 2)
            measured["stable"] = np.mean([spearmanr(*pair)[0] for pair in pairs])
            cell = {"negatives": kind, "direction": direction, "score": score}
            yield cell, {**measured, "halves": np.mean(halves)}


def ceiling(mine: Pool) -> float:
    """Return the lift of the upper half if concepts were ranked by it, mean over seeds."""
    names, best = np.unique(mine.groups), []
    for seed in SEEDS:
        how = {"n_concepts": N_CONCEPTS, "n_keep": N_KEEP, "seed": seed}
        every = np.arange(len(mine.z))
        found = concepts.cluster(mine.z, 0 * every, every, ("c",), **how)
        members = [found.members("c", k) for k in range(N_CONCEPTS)]
        lifts = _lifts(members, mine, np.ones((1, len(names))), names)[0]
        best.append(np.sort(lifts)[::-1][:HALF].mean())
    return float(np.mean(best))


def _along(members, mine, pools, name, kind, direction, slope, seed) -> np.ndarray:
    """Return the derivative of the class along each concept's vectors, ``(K, R, N)``."""
    films, rng = pools["films"], np.random.default_rng(seed)
    values, places = _negatives(kind, name, pools)
    groups = values[tcav.random_groups(len(values), N_GROUPS, N_KEEP, rng)]
    own = films.z[mine]
    mean, scale = cav.scaling([own, groups.reshape(-1, own.shape[1])])
    found = []
    for rows in members:
        against = groups
        if kind.startswith("matched"):
            against = values[_matched(films.place[mine[rows]], places, rng)]
        vectors = _directions(own[rows], against, mean, scale, direction)
        found.append(vectors @ slope.T.astype(np.float64))
    return np.stack(found)


def _order(along: np.ndarray, score: str) -> np.ndarray:
    """Return the concepts, most important first, by derivative or by the votes of the CAVs."""
    derivative, votes = along.mean((1, 2)), (along > 0).mean((1, 2))
    return np.lexsort((derivative,) if score == "derivative" else (derivative, votes))[::-1]


def _matched(wanted: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose for each supervoxel of a concept, and each group, one of like size and place."""
    spread = there.std(0)
    away = (((wanted[:, None] - there[None]) / spread) ** 2).sum(-1)
    near = away.argsort(axis=1)[:, :N_GROUPS]
    near = rng.permuted(near, axis=1).T
    if near.shape[1] < N_KEEP:
        more = rng.choice(near.shape[1], (N_GROUPS, N_KEEP - near.shape[1]))
        near = np.concatenate([near, np.take_along_axis(near, more, 1)], axis=1)
    return near


def reached(table: pd.DataFrame) -> pd.Series:
    """Tell of each row whether the criterion on the upper half is met."""
    return (table["upper"] >= 2) & (table["gap_low"] > 0)
