"""Small worlds with known answers, seed by seed: what a campaign repeats."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from book.campaigns import noise
from stce import clips as clips_module
from stce import concepts as concepts_module
from stce import features, models, supervoxels, tcav, training
from stce.datasets import actors
from stce.datasets.textures import textures
from stce.evaluation import significance, stability, truth
from stce.videos import Videos
from stce.videos.frames import resize

__all__ = ["SHORTCUT", "TRIALS", "Explained", "Small", "explain", "network", "planted"]

CLASSES = ("boxing", "handwaving", "walking")
SHORTCUT = "boxing"
SIZE = (8, 40, 40)
SLIC = {"n_segments": (6, 15, 30), "sigma": 0.5}
N_DISCOVERY, N_CONCEPTS, N_KEEP, N_RANDOM, N_GROUPS = 12, 8, 20, 400, 20
N_NULL = 999


class Small(Videos):
    """Actors of three classes, small and in memory.

    Parameters
    ----------
    split : str
        "train" or "test".
    seed : int
        Of the data set.
    shortcut : str
        Class with the planted cue, or "".
    """

    def __init__(self, split: str, seed: int, shortcut: str = ""):
        videos = actors.load(split, takes=2, n_frames=SIZE[0] + 4, seed=seed, shortcut=shortcut)
        rows = np.flatnonzero(videos.table["class"].isin(CLASSES))
        table = videos.table.iloc[rows]
        labels = [CLASSES.index(name) for name in table["class"]]
        super().__init__(table.assign(label=labels), CLASSES)
        self._frames = [resize(videos.read(i), SIZE[1:]) for i in rows]
        height, width = (np.arange(n) * m // n for n, m in zip(SIZE[1:], actors.SHAPE, strict=True))
        self._parts = [videos.parts(i)[:, height[:, None], width] for i in rows]

    def read(self, i):
        """Return the frames of video `i`."""
        return self._frames[i]

    def parts(self, i):
        """Return the part of each voxel of video `i`, index in `actors.PARTS`."""
        return self._parts[i]


def network(videos: Videos, seed: int):
    """Train a small C3D on small videos; half a minute."""
    net = models.build("c3d", len(videos.classes), 1 / 16, 1, SIZE, dropout=0.2, seed=seed)
    how = {"epochs": 30, "batch_size": 32, "lr": 0.03, "schedule": "onecycle", "max_norm": 1.0}
    size = {"n_frames": SIZE[0], "crop": SIZE[1:], "flip": False}
    with tempfile.TemporaryDirectory() as folder:
        training.train(net, videos, folder, seed=seed, progress=False, **how, **size)
    return net


@dataclass(frozen=True)
class Explained:
    """What one run of the method found, and what it was found in."""

    clips: clips_module.Clips
    cut: supervoxels.Supervoxels
    samples: tcav.Samples
    result: tcav.Tcav


def explain(net, clips, random, *, noise: int = 0, kmeans: int = 0, groups: int = 0) -> Explained:
    """Run the method on discovery clips; each argument behind `random` is the seed of a step.

    SLIC has no seed: other than 0, `noise` moves each voxel by at most one grey level before it.
    """
    seen = clips
    if noise:
        shake = np.random.default_rng(noise).integers(-1, 2, clips.frames.shape)
        moved = np.clip(np.asarray(clips.frames) + shake, 0, 255).astype(np.uint8)
        given = clips.labels, clips.ids, clips.groups, clips.classes, clips.parts
        seen = clips_module.Clips(moved, *given)
    cut = supervoxels.segment(seen, progress=False, **SLIC)
    z = features.extract(net, clips, cut, stretch=False, progress=False)
    rows = cut.table["video"].to_numpy()
    how = {"n_concepts": N_CONCEPTS, "n_keep": N_KEEP, "seed": kmeans}
    found = concepts_module.cluster(z, clips.labels[rows], rows, clips.classes, **how)
    whole = features.extract_clips(net, clips)
    mine = {name: whole[clips.indices_of(name)] for name in found.centres}
    draw = np.random.default_rng(groups)
    sets = tcav.random_groups(len(random), N_GROUPS, N_KEEP, draw)
    background = features.extract_clips(net, random)
    samples = tcav.Samples(found, z, mine, background, sets, clips.classes)
    return Explained(clips, cut, samples, tcav.score(net, samples))


def _discovery(videos: Videos, seed: int):
    labels = videos.table["label"].to_numpy()
    rows = clips_module.balanced(labels, CLASSES, N_DISCOVERY, np.random.default_rng(seed))
    return clips_module.middle_clips(videos, None, SIZE[0], SIZE[1:], rows)


def _random(seed: int):
    return textures(N_RANDOM, n_frames=SIZE[0], size=SIZE[1:], channels=1, seed=seed)


def _accuracy(net, videos: Videos) -> pd.Series:
    clips = clips_module.middle_clips(videos, None, SIZE[0], SIZE[1:])
    return training.evaluate(net, clips).groupby("class")["correct"].mean()


def _lifts(run: Explained, parts=None) -> pd.DataFrame:
    parts = run.clips.parts if parts is None else parts
    table = truth.counts(run.samples.concepts, run.cut, parts, actors.PARTS, run.clips.groups)
    return truth.composition(table)


def cue_rank(net, run: Explained, parts=None) -> dict:
    """Tell what the first concept holds of the cue, and where the concept with most of it stands.

    A cue may be spread over several concepts, so the question is asked both ways.
    """
    lifts = _lifts(run, parts)
    mine = lifts[(lifts["class"] == SHORTCUT) & (lifts["part"] == "cue")].set_index("concept")
    table = significance.assess(net, run.result, run.samples, n_null=N_NULL, n_shuffles=N_NULL)
    table = table[table["class"] == SHORTCUT].set_index("concept").sort_values("rank")
    row = {"concepts": len(mine), "holding": int((mine["ci_low"] > 1).sum())}
    for who, k in (("first", table.index[0]), ("most", mine["lift"].idxmax())):
        told = table.loc[k, ["rank", "score", "derivative", "p", "q_value", "separable"]]
        told = told.to_dict() | mine.loc[k, ["lift", "ci_low", "ci_high"]].to_dict()
        row |= {f"{who}_{name}": value for name, value in told.items()}
    return row | {"first_holds": bool(row["first_ci_low"] > 1)}


def planted(seed: int) -> tuple:
    """Train a network on videos with the cue in one class, and explain it.

    Returns
    -------
    network : stce.models.network.Network
    run : Explained
    """
    videos = Small("train", seed, SHORTCUT)
    net = network(videos, seed)
    return net, explain(net, _discovery(videos, seed), _random(seed))


def shortcut(seed: int) -> list[dict]:
    """Plant a cue in one class: it must be learnt, and the concept that holds it come first."""
    net, run = planted(seed)
    with_cue = Small("test", seed, SHORTCUT)
    without = Small("test", seed)
    row = {"accuracy": _accuracy(net, with_cue).mean()}
    row["cue_there"] = _accuracy(net, with_cue)[SHORTCUT]
    row["cue_removed"] = _accuracy(net, without)[SHORTCUT]
    clips = clips_module.middle_clips(without, None, SIZE[0], SIZE[1:])
    shown = clips_module.middle_clips(with_cue, None, SIZE[0], SIZE[1:])
    badge = int(np.flatnonzero(shown.labels == CLASSES.index(SHORTCUT))[0])
    spot = shown.parts[badge] == actors.PARTS.index("cue")
    pasted = np.where(spot[None, ..., None], shown.frames[badge][None], clips.frames)
    given = clips.labels, clips.ids, clips.groups, clips.classes
    guess = training.evaluate(net, clips_module.Clips(pasted, *given))
    others = guess[guess["class"] != SHORTCUT]
    row["cue_pasted"] = (others["predicted"] == SHORTCUT).mean()
    return [row | cue_rank(net, run)]


def no_shortcut(seed: int) -> list[dict]:
    """Train without the cue: neither its place nor, when it is shown, the cue may be raised."""
    videos, random = Small("train", seed), _random(seed)
    net = network(videos, seed)
    cued = Small("train", seed, SHORTCUT)  # the same videos but for the cue
    shown, plain = _discovery(cued, seed), _discovery(videos, seed)
    rows = []
    for what, clips in (("place", plain), ("cue", shown)):
        rows.append({"what": what} | cue_rank(net, explain(net, clips, random), shown.parts))
    return rows


def stable(seed: int) -> list[dict]:
    """Change the seed of one step at a time, then of all; and the reference code's classifier."""
    videos, random = Small("train", seed), _random(seed)
    nets = [network(videos, s) for s in (seed, seed + 1000)]
    clips = _discovery(videos, seed)
    base = explain(nets[0], clips, random)
    other = seed + 1
    variants = {
        "none": (0, {}),
        "training": (1, {}),
        "slic": (0, {"noise": other}),
        "k-means": (0, {"kmeans": other}),
        "groups": (0, {"groups": other}),
        "all": (1, {"noise": other, "kmeans": other, "groups": other}),
    }
    rows = []
    for what, (which, seeds) in variants.items():
        run = explain(nets[which], clips, random, **seeds)
        pairs = {}
        for name in CLASSES:
            both = [
                (r.cut, r.samples.features, r.samples.concepts.centres[name]) for r in (base, run)
            ]
            pairs[name] = stability.match(stability.overlap(*both, clips.indices_of(name)))
        for value in ("derivative", "score"):
            table = stability.agreement(base.result.scores, run.result.scores, pairs, value=value)
            rows.append({"changed": what, "value": value, "classifier": "ours"} | _all(table))
    # The same concepts and groups: what is left is the classifier's own seed.
    sgd = [stability.sgd_scores(nets[0], base.samples, seed=s) for s in (seed, other)]
    again = explain(nets[0], clips, random, groups=other)
    regrouped = stability.sgd_scores(nets[0], again.samples, seed=other)
    for what, pair in (("classifier", sgd), ("groups and classifier", [sgd[0], regrouped])):
        for value in ("derivative", "score"):
            table = stability.agreement(*pair, value=value)
            rows.append({"changed": what, "value": value, "classifier": "SGD"} | _all(table))
    return rows


def _all(table: pd.DataFrame) -> dict:
    return table.set_index("class").loc["all"].to_dict()


TRIALS: dict[str, Callable[[int], list[dict]]] = {
    "null": noise.false_discoveries,
    "shortcut": shortcut,
    "no-shortcut": no_shortcut,
    "stability": stable,
}
