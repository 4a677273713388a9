"""What campaigns repeat on finished runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from stce import models, training
from stce.clips import middle_clips
from stce.datasets.actors import PARTS
from stce.evaluation import sanity, stability, truth
from stce.evaluation.validation import Sceptic, between
from stce.evaluation.variants import Variant, part_of
from stce.study.finished import Finished
from stce.study.known import find, known
from stce.study.run import Run
from stce.videos import Videos

__all__ = ["REPLAYS", "Middles", "ShuffledLabels"]

GROUP, REAL, SANITY = "laptop", "interactions", "actors-small"
N_MOVED = 30
N_SEEDS = 3

# Networks that learn shuffled labels by heart: what is added to the seed of the shuffle and to that
# of the first weights. Weights keep a trace of where training began, and one begins as the run did.
SHUFFLES = {
    "labels shuffled": (0, 1000),
    "labels shuffled again": (1000, 2000),
    "labels shuffled, same start": (0, 0),
}
FLOOR = "two shuffles, with each other"

# What it takes to learn a few hundred clips by heart: no dropout, no decay, long enough.
BY_HEART = {"epochs": 60, "batch_size": 32, "lr": 0.03, "weight_decay": 0.0, "max_norm": 1.0}
BY_HEART |= {"schedule": "onecycle", "flip": False}

# Of each network the paper's layer, the map before it, and an earlier map.
LAYERS = {
    "actors-small": ("fc7", "conv5b", "conv4b"),
    "actors-r3d": ("avgpool", "layer4", "layer3"),
    "actors-i3d": ("avgpool", "Mixed_5c", "Mixed_4f"),
}


# Where supervoxels are hidden instead of in the clip, first to last.
INSIDE = {
    "actors-small": ("conv1", "conv2", "conv3b", "conv4b"),
    "actors-r3d": ("stem", "layer1", "layer2", "layer3"),
    "actors-i3d": ("Conv3d_2c_3x3", "Mixed_3c", "Mixed_4c", "Mixed_4f"),
}


class ShuffledLabels(Videos):
    """Videos whose labels are dealt anew, so that they have nothing to do with what is seen.

    There are as many of each class as before. The videos given stay as they are.
    """

    def __init__(self, videos: Videos, rng: np.random.Generator):
        labels = rng.permutation(videos.table["label"].to_numpy())
        names = np.asarray(videos.classes, object)[labels]
        super().__init__(videos.table.assign(**{"label": labels, "class": names}), videos.classes)
        self._videos, self.fit = videos, videos.fit

    def read(self, i):
        """Return the frames of video `i`; see :meth:`stce.videos.Videos.read`."""
        return self._videos.read(i)

    def parts(self, i):
        """Return the truth of video `i`; see :meth:`stce.videos.Videos.parts`."""
        return self._videos.parts(i)


class Middles(Videos):
    """The middle clips of videos, always the same frames, so that they can be learnt by heart.

    They are kept in memory; `n_frames` and `crop` as for :func:`stce.clips.middle_clips`.
    """

    def __init__(self, videos: Videos, n_frames: int, crop: tuple[int, int]):
        super().__init__(videos.table, videos.classes)
        self.clips = middle_clips(videos, None, n_frames, crop)

    def read(self, i):
        """Return the clip of video `i`, ``(T, H, W, C) uint8``."""
        return self.clips.frames[i]


def _runs(seed: int, *groups: str) -> dict[str, Run]:
    """Return the runs of some groups with this seed, finished or not."""
    every = (run for group in groups for run in find(group, known()))
    return {run.name: Run(run.folder(seed)) for run in every}


def scored_runs(seed: int, *groups: str) -> dict[str, Run]:
    """Return those runs of the groups with this seed whose concepts are scored; there must be one.

    What concepts do is asked of the network itself, so that stage ablate need not be there.
    """
    runs = _runs(seed, *groups)
    if not (done := {name: run for name, run in runs.items() if run.holds("tcav")}):
        raise FileNotFoundError(
            f"No run of {' or '.join(groups)} with seed {seed} is scored. Make some first: "
            f"`python -m stce.study run {groups[0]} --seeds {seed}`."
        )
    return done


def laptop_runs(seed: int) -> dict[str, Run]:
    """Return all runs of the laptop group with this seed, which must be finished."""
    runs = _runs(seed, GROUP)
    for run in runs.values():
        if run.missing():
            raise FileNotFoundError(
                f"{run.folder} is not finished. Make the runs first: "
                f"`python -m stce.study run {GROUP} --seeds {seed}`."
            )
    return runs


def _sane(seed: int) -> Finished:
    return Finished(known()[SANITY].folder(seed))


def carriers(seed: int) -> list[dict]:
    """Ask of each run whether its ranking finds the limbs that carry the class."""
    rows = []
    for name, run in laptop_runs(seed).items():
        table = Sceptic(Finished(run)).parts_found()["truth"]
        rows += table.assign(run=name).to_dict("records")
    return rows


def randomised(seed: int) -> list[dict]:
    """Randomise the weights of a run from the top down."""
    who = Sceptic(_sane(seed), seed=seed)
    tables = who.randomised(who.chance())
    found = sanity.against_trained(tables)
    for column in ("p_derivative", "p_weights"):
        found[column] = [(table[column] < 0.05).mean() for table in tables.values()]
    return found.to_dict("records")


def by_heart(seed: int) -> list[dict]:
    """Learn labels that mean nothing by heart: the explanation of the true ones must be gone."""
    who = Sceptic(it := _sane(seed))
    tables, fits = {"trained": who.chance()}, [np.nan]
    for name, (shuffle, start) in SHUFFLES.items():
        network, known_share = _learnt_by_heart(it, seed + shuffle, seed + start)
        tables[name] = who.with_network(network.split(it.network.layer))
        fits.append(known_share)
    found = sanity.against_trained(tables).assign(fits=fits)
    # Whoever tells clips apart, by heart or by class, could do so by the figure in them.
    figure = _figure(who.parts_found()["composition"])
    found["figure"] = [
        stability.agreement(table, figure)["correlation"].iloc[-1] for table in tables.values()
    ]
    # Two networks of which neither knows the classes: what agreement is worth nothing.
    first, second = list(SHUFFLES)[:2]
    floor = stability.agreement(tables[first], tables[second]).iloc[-1]
    floor = floor[["correlation", "ci_low", "ci_high"]].to_dict()
    return [*found.to_dict("records"), {"network": FLOOR} | floor]


def _learnt_by_heart(it: Finished, shuffle: int, start: int) -> tuple[models.Network, float]:
    """Train a network from this start on shuffled labels; also the share of clips it knows."""
    p, videos = it.run.parameters("train"), it.videos("train")
    shuffled = ShuffledLabels(videos, np.random.default_rng(shuffle))
    seen = Middles(shuffled, p["n_frames"], p["crop"])
    shape = seen.clips.frames.shape
    size = len(videos.classes), p["width"], shape[-1], shape[1:4]
    network = models.build(p["network"], *size, dropout=0.0, seed=start)
    how = {"n_frames": p["n_frames"], "crop": p["crop"], "seed": shuffle, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        training.train(network, seen, folder, **BY_HEART, **how)
    return network, training.evaluate(network, seen.clips)["correct"].mean()


def _figure(lifts: pd.DataFrame) -> pd.DataFrame:
    """Return what each concept holds of the figure, relative to the clip, as a table of scores."""
    body = lifts[lifts["part"].isin(set(PARTS) - {"background", "cue"})]
    sums = body.groupby(["class", "concept"])[["share", "base"]].sum()
    return (sums["share"] / sums["base"]).rename("derivative").reset_index()


def moved(seed: int) -> list[dict]:
    """Ask the first concepts of each run that is finished whether motion or look counts."""
    rows = []
    for name, run in scored_runs(seed, GROUP, REAL).items():
        table = Sceptic(Finished(run), seed=seed).moved(N_MOVED).concepts
        rows += table.assign(run=name).to_dict("records")
    return rows


def found_again(seed: int) -> list[dict]:
    """Tell what the concepts of each scored run hold where they are found again, in test clips."""
    rows = []
    for name, run in scored_runs(seed, GROUP, REAL).items():
        it = Finished(run)
        subject = it.subject()
        clips, cut = subject.clips, subject.supervoxels
        if clips.parts is None:
            continue
        members = pd.concat(
            pd.DataFrame({"class": case.owner, "concept": case.concept, "supervoxel": owned.index})
            for case in map(subject.case, range(len(clips)))
            if len(owned := case.table)
        )
        found, parts = replace(it.concepts, table=members), it.body["parts"]
        lifts = truth.composition(truth.counts(found, cut, clips.parts, parts, clips.groups))
        ranks = {(c, k): i for c, r in subject.rankings.items() for i, k in enumerate(r, start=1)}
        lifts["rank"] = [ranks[key] for key in zip(lifts["class"], lifts["concept"], strict=True)]
        rows += lifts.round(4).assign(run=name).to_dict("records")
    return rows


def trained_again(seed: int) -> list[dict]:
    """Compare each run with the run of the next seed: another training, all else anew too."""
    rows = []
    first, second = laptop_runs(seed), laptop_runs((seed + 1) % N_SEEDS)
    for name, run in first.items():
        table = between(Finished(run), Finished(second[name])).set_index("class")
        rows.append({"run": name} | table.loc["all"].to_dict())
    return rows


def choices(seed: int) -> list[dict]:
    """Try other layers, class outputs and features on each network's run."""
    tried = {}
    for name, (layer, feature_map, earlier_map) in LAYERS.items():
        tried[name] = [
            Variant(layer, "log_prob", "in place"),
            Variant(layer, "logit", "stretched"),
            Variant(feature_map, "logit", "in place"),
            Variant(feature_map, "logit", "pooled"),
            Variant(earlier_map, "logit", "pooled"),
        ]
    return _tried(seed, tried)


def inside(seed: int) -> list[dict]:
    """Hide supervoxels inside each network, at several layers, instead of in the clip."""
    layers = {name: known[0] for name, known in LAYERS.items()}
    return _tried(
        seed,
        {run: [Variant(layers[run], "logit", m) for m in INSIDE[run]] for run in INSIDE},
    )


def _tried(seed: int, tried: dict[str, list[Variant]]) -> list[dict]:
    rows, runs = [], scored_runs(seed, GROUP)
    for name, some in tried.items():
        given = replace(part_of(Finished(runs[name])), seed=seed)
        table = given.compare(some, progress=False)
        # The seconds of a campaign are those of the whole seed.
        rows += table.rename(columns={"seconds": "embedding"}).assign(run=name).to_dict("records")
    return rows


REPLAYS: dict[str, Callable[[int], list[dict]]] = {
    "truth": carriers,
    "sanity": randomised,
    "training": trained_again,
    "variants": choices,
    "inside": inside,
    "labels": by_heart,
    "moved": moved,
    "unseen": found_again,
}
