"""Ablation, and the whole study after training, against the plain way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from benchmarks import reference, worlds
from benchmarks.cutting import kept
from benchmarks.runner import Check, Pair
from stce import ablation, cav, concepts, features, supervoxels, tcav
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.engine import threads
from stce.models.network import Pooled

__all__ = ["Part", "ablate", "alone", "amp", "study"]

# The sizes of the embedded study (``actors``), and small ones; as there, supervoxels are embedded
# where they are.
IN_PLACE = {"stretch": False}
FULL = {"size": 56, "n_segments": (15, 30, 60), "n_concepts": 15, "q_max": 5, "n_random": 10}
# Those of a reader's own large clips (``folder-i3d``), with features pooled under supervoxels.
LARGE = {"size": 224, "n_segments": (50, 150, 300), "n_concepts": 15, "q_max": 5, "n_random": 3}
QUICK = {"size": 32, "n_segments": (4, 8), "n_concepts": 4, "q_max": 2, "n_random": 2}


def _orders(clips, n_concepts: int, n_random: int) -> tuple[dict, dict]:
    """Return rankings, and the orders that ablation.ranked makes of them with seed 0."""
    rng = np.random.default_rng(0)
    rankings = {name: rng.permutation(n_concepts).tolist() for name in clips.classes}
    listed = {name: ablation.concept_orders(name, r, n_random, 0) for name, r in rankings.items()}
    return rankings, listed


def _compare_outcomes(mine: pd.DataFrame, other: list[tuple], clips) -> list[Check]:
    columns = ["video", "mode", "order", "repeat", "q", "said", "chance", "seen"]
    other = pd.DataFrame(other, columns=columns)
    other["said"] = [clips.classes[y] for y in other["said"]]
    both = mine.merge(other, on=columns[:5], how="outer")
    # A class may flip where two probabilities are equal but for rounding.
    flipped = (both["predicted"] != both["said"]) & ((both["chance"] - 0.5).abs() > 0.5 - 1e-4)
    return [
        Check(
            "rows of one side only", int(both[["predicted", "said"]].isna().any(axis=1).sum()), 0
        ),
        Check("classes predicted otherwise", int(flipped.sum()), 0),
        Check("probability", float((both["probability"] - both["chance"]).abs().max()), 1e-3),
        Check("revealed share", float((both["revealed"] - both["seen"]).abs().max()), 1e-6),
    ]


def ablate(quick: bool, device: str) -> Pair:
    """All orders, modes and q of test clips, with the assignment of their supervoxels."""
    sizes = QUICK if quick else FULL
    repeats, n, each = (2, 4, 1) if quick else (4, 64, 3)
    torch.set_flush_denormal(True)  # as stce.engine.device.resolve does for every study
    clips = worlds.actors(n, sizes["size"])
    network = worlds.trained("c3d", 0.125, clips, device)
    cut = supervoxels.segment(
        clips, n_jobs=-1, progress=False, n_segments=sizes["n_segments"], sigma=0.5
    )
    rows = cut.rows_of(0)[: sizes["n_concepts"]]
    centres = features.extract_rows(network, clips, cut, rows, **IN_PLACE)
    found = concepts.Concepts(None, None, dict.fromkeys(clips.classes, centres))
    rankings, listed = _orders(clips, len(centres), sizes["n_random"])
    parts = [np.arange(i * each, (i + 1) * each) for i in range(repeats)]
    copy, names = reference.plain(network), kept(cut, n)

    def ours(i: int) -> pd.DataFrame:
        subject = ablation.Subject(network, clips, cut, found, rankings, device=device, **IN_PLACE)
        how = {"q_max": sizes["q_max"], "videos": parts[i], "progress": False}
        tables = ablation.run(subject, ablation.ranked(sizes["n_random"]), **how)
        return pd.concat(tables, ignore_index=True)

    def theirs(i: int) -> list[tuple]:
        part = parts[i]
        inputs = clips.select(part), [cut.labels[v] for v in part], [names[v] for v in part]
        how = {"device": device, **IN_PLACE}
        rows = reference.ablate(copy, *inputs, found.centres, listed, sizes["q_max"], **how)
        return [(int(part[row[0]]), *row[1:]) for row in rows]

    passes = 2 * (2 + sizes["n_random"]) * (sizes["q_max"] + 1)
    return Pair(
        ours=ours,
        theirs=theirs,
        same=lambda mine, other, i: _compare_outcomes(mine, other, clips),
        work=f"assignment and {passes} masks (modes, orders, q) of each of {n} test clips, "
        f"C3D width 1/8, 16x{sizes['size']}x{sizes['size']}",
        against="one clip, one order, one q, one forward pass at a time",
        measured=f"each pair: another {each} of the {n} clips, the same on both sides",
        target=4.0,
        repeats=repeats,
    )


class _Stages:
    """Notes the seconds of one stage after the other."""

    def __init__(self):
        self.seconds, self._last = {}, time.perf_counter()

    def done(self, name: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


@dataclass(frozen=True, eq=False)
class Part:
    """Parts of all stages after training, in the proportions of a study.

    Attributes
    ----------
    network, device : Network and str
        What is explained, and where it runs.
    discovery, test, noise : list of Clips, list of Clips and Clips
        Each part's clips of one class; random clips, the same for each.
    sizes, slic : dict
        Counts of a study, and how clips are cut.
    rankings : dict of str to list of int
        An order of each class's concepts.
    others, index : numpy.ndarray
        ``(N, D) float32`` and ``(R, n)``: features of random clips, and groups of them.
    scored : int
        Concepts that get CAVs and scores.
    """

    network: object
    device: str
    discovery: list[Clips]
    test: list[Clips]
    noise: Clips
    sizes: dict
    slic: dict
    rankings: dict[str, list[int]]
    others: np.ndarray
    index: np.ndarray
    scored: int

    def run(self, i: int) -> dict:
        """Do part i of each stage; return what was found, and the seconds of each stage."""
        network, how, stages = self.network, {"device": self.device}, _Stages()
        discovery, test, sizes = self.discovery[i], self.test[i], self.sizes
        name, n_concepts = discovery.classes[0], sizes["n_concepts"]
        found = supervoxels.segment(discovery, progress=False, **self.slic)
        unseen = supervoxels.segment(test, progress=False, **self.slic)
        stages.done("segment")
        z = features.extract(network, discovery, found, progress=False, **how, **IN_PLACE)
        stages.done("embed")
        clustered = concepts.cluster(
            z,
            np.zeros(len(z), int),
            found.table["video"].to_numpy(),
            discovery.classes,
            n_concepts=n_concepts,
            n_keep=self.index.shape[1],
        )
        stages.done("cluster")
        features.extract_clips(network, self.noise, **how)
        whole = features.extract_layer(network, discovery, **how)
        mean, scale = cav.scaling([z, self.others])
        rows = [clustered.members(name, k) for k in range(self.scored)]
        own, drawn = (cav.standard(x, mean, scale) for x in (z, self.others))
        fitted = cav.against(own, rows, drawn[self.index], held_out=False, **how)
        vectors = [cav.unit(weights / scale.astype(np.float32)) for weights, _ in fitted]
        named = {name: np.stack(vectors)}, {name: whole}
        scores = tcav.rescore(network, *named, discovery.classes, "logit", **how)
        stages.done("tcav")
        centres = dict.fromkeys(test.classes, clustered.centres[name])
        given = network, test, unseen, concepts.Concepts(None, None, centres), self.rankings
        subject = ablation.Subject(*given, **how, **IN_PLACE)
        steps = {"q_max": sizes["q_max"], "progress": False}
        parts = ablation.run(subject, ablation.ranked(sizes["n_random"]), **steps)
        outcomes = pd.concat(parts, ignore_index=True)
        stages.done("ablate")
        return {
            "names": kept(found, len(discovery)) + kept(unseen, len(test)),
            "centres": clustered.centres[name],
            "scores": scores["score"].to_numpy(),
            "outcomes": outcomes,
            "stages": stages.seconds,
        }


def _part(quick: bool, device: str, large: bool = False) -> Part:
    """Return parts of a study's clips of one class, random clips and CAVs."""
    # 1 / 24 of an embedded study: 120 discovery clips, 216 test clips, 2,000 random ones and 90
    # concepts. Of large clips one a core of each kind, and a twelfth of a class's concepts.
    n_find, n_test, n_random, scored, groups, keep, repeats = (
        (3, 1, 4, 1, 3, 8, 2) if quick else (2, 2, 2, 2, 20, 20, 3) if large
        else (5, 9, 83, 4, 50, 40, 3)
    )  # fmt: skip
    sizes = QUICK if quick else LARGE if large else FULL
    torch.set_flush_denormal(True)  # as stce.engine.device.resolve does for every study
    size, channels = sizes["size"], 3 if large else 1
    kind = ("i3d" if large else "c3d", 1.0 if large and not quick else 0.125)
    clips = worlds.actors(6 * (n_find + n_test) * repeats, size, channels)
    network = worlds.trained(*kind, clips, device)
    if large:
        network = Pooled.of(network.split("Mixed_5c"))
    rankings, _ = _orders(clips, sizes["n_concepts"], sizes["n_random"])
    rows = clips.indices_of(clips.classes[0])
    # A part embeds only its share of the random clips; the groups are drawn from all these.
    like = {"n_frames": 16, "size": (size, size), "channels": channels}
    others = features.extract_clips(network, textures(max(4 * n_random, 60), **like), device=device)
    return Part(
        network,
        device,
        [clips.select(r) for r in np.split(rows[: n_find * repeats], repeats)],
        [clips.select(r) for r in np.split(rows[-n_test * repeats :], repeats)],
        textures(n_random, **like),
        sizes,
        {"n_segments": sizes["n_segments"], "sigma": 1.0 if large else 0.5, "n_jobs": -1},
        rankings,
        others,
        tcav.random_groups(len(others), groups, keep, np.random.default_rng(0)),
        scored,
    )


def study(quick: bool, device: str) -> Pair:
    """Discovery, scores and ablation: a part of each stage, in the proportions of the study."""
    part = _part(quick, device)
    sizes, slic, how = part.sizes, part.slic, {"device": device}
    copy = reference.plain(part.network)
    _, listed = _orders(part.test[0], sizes["n_concepts"], sizes["n_random"])

    def theirs(i: int) -> dict:
        stages = _Stages()
        found = reference.segment(part.discovery[i], **slic)
        unseen = reference.segment(part.test[i], **slic)
        stages.done("segment")
        cut = map(list, zip(*found, strict=True))
        z = reference.embed(copy, part.discovery[i], *cut, **how, **IN_PLACE)
        stages.done("embed")
        centres, members = reference.cluster(z, sizes["n_concepts"], part.index.shape[1])
        stages.done("cluster")
        reference.embed_clips(copy, part.noise, **how)
        whole = reference.embed_clips(copy, part.discovery[i], **how)
        mean, scale = cav.scaling([np.concatenate([z, part.others])])
        drawn = [part.others[group] for group in part.index]
        vectors = [reference.cavs(z[members[k]], drawn, mean, scale) for k in range(part.scored)]
        scores = [reference.score(copy, v, whole, 0, **how) for v in vectors]
        stages.done("tcav")
        same = dict.fromkeys(part.rankings, centres)
        inputs = part.test[i], *map(list, zip(*unseen, strict=True)), same, listed, sizes["q_max"]
        outcomes = reference.ablate(copy, *inputs, **how, **IN_PLACE)
        stages.done("ablate")
        return {
            "names": [names for _, names in found + unseen],
            "centres": centres,
            "scores": np.array(scores),
            "outcomes": outcomes,
            "stages": stages.seconds,
        }

    def same(mine: dict, other: dict, i: int) -> list[Check]:
        pairs = zip(mine["names"], other["names"], strict=True)
        centres = np.abs(mine["centres"] - other["centres"]).max() / np.abs(other["centres"]).max()
        return [
            Check("supervoxels kept by one side", sum(len({*a} ^ {*b}) for a, b in pairs), 0),
            Check("largest difference / largest centre", float(centres), 1e-3),
            Check("score", float(np.abs(mine["scores"] - other["scores"]).max()), 0.02),
            *_compare_outcomes(mine["outcomes"], other["outcomes"], part.test[i]),
        ]

    return Pair(
        ours=part.run,
        theirs=theirs,
        same=same,
        work="the embedded study after training: segment, embed, cluster, tcav, ablate",
        against="the same steps the plain way, with the same answers: logistic regression instead "
        "of the unseeded SGD of the reference code, no significance test on either side",
        measured="each pair: another 1/24 of the discovery, test and random clips and of the CAVs",
        target=8.0,
        repeats=len(part.test),
        stages=lambda result: result["stages"],
    )


def amp(quick: bool, device: str) -> Pair:
    """Masked clips of I3D in bfloat16, and in single precision."""
    part = _part(quick, device, large=True)
    size, sizes = part.sizes["size"], part.sizes
    cuts = [supervoxels.segment(test, progress=False, **part.slic) for test in part.test]

    def ablate(i: int, amp: bool) -> pd.DataFrame:
        test, cut = part.test[i], cuts[i]
        name, rng = test.classes[0], np.random.default_rng(0)
        centres = rng.normal(size=(sizes["n_concepts"], part.network.n_features))
        given = {name: centres.astype(np.float32)}, {name: part.rankings[name]}
        subject = ablation.Subject(
            part.network, test, cut, concepts.Concepts(None, None, given[0]), given[1],
            features=rng.normal(size=(len(cut), part.network.n_features)).astype(np.float32),
            device=device, amp=amp,
        )  # fmt: skip
        steps = {"q_max": sizes["q_max"], "progress": False}
        parts = ablation.run(subject, ablation.ranked(sizes["n_random"]), **steps)
        return pd.concat(parts, ignore_index=True)

    def same(mine: pd.DataFrame, other: pd.DataFrame, i: int) -> list[Check]:
        apart = np.abs(mine["probability"] - other["probability"]).max()
        named = (mine["predicted"] != other["predicted"]).mean()
        return [
            Check("largest difference of a probability", float(apart), 0.1),
            Check("share of steps named otherwise", float(named), 0.02),
        ]

    return Pair(
        ours=lambda i: ablate(i, True),
        theirs=lambda i: ablate(i, False),
        same=same,
        work=f"ablate a clip that is cut, I3D, 16x{size}x{size}, masked clips in bfloat16",
        against="the same in single precision",
        measured="each pair: another test clip, the same on both sides",
        target=2.0,
        repeats=len(part.test),
    )


def alone(large: bool, target: float):
    """Return the comparison with the network alone, on the passes that a study cannot do without.

    Each supervoxel (none where features are pooled), random clip and set of concepts is a pass, and
    each discovery clip one there and back to layer l.
    """
    return partial(_alone, large, target)


def _alone(large: bool, target: float, quick: bool, device: str) -> Pair:
    part = _part(quick, device, large)
    network, n = part.network.to(device).eval(), len(part.test)

    def passes(found: dict, i: int) -> dict[str, int]:
        seen = found["outcomes"][["video", "mode", "revealed", "probability"]].drop_duplicates()
        # A map to pool from is on the way to the logits, and to the gradient.
        pieces = 0 if large else sum(map(len, found["names"]))
        return {
            "features": pieces + len(part.noise),
            "gradients": len(part.discovery[i]),
            "logits": len(seen),
        }

    counted = [passes(part.run(i), i) for i in range(n)]
    x = network.prepare(torch.from_numpy(np.asarray(part.test[0].frames)[:1]).to(device))
    x = x.expand(64, *x.shape[1:]).contiguous(memory_format=torch.channels_last_3d)

    def repeated(work, times: int) -> None:
        threads.forward(network, lambda few: work(x[: few.stop - few.start]), times, device, 64)

    def theirs(i: int) -> dict:
        stages, counts = _Stages(), counted[i]
        with torch.inference_mode():
            repeated(network.features, counts["features"])
            stages.done("features")
            repeated(network, counts["logits"])
            stages.done("logits")
        network.gradient(x[: counts["gradients"]], 0)
        stages.done("gradients")
        return {"counts": counts, "stages": stages.seconds}

    def same(mine: dict, other: dict, i: int) -> list[Check]:
        again = passes(mine, i)
        return [
            Check(f"{name} of one side only", abs(again[name] - count), 0)
            for name, count in other["counts"].items()
        ]

    name, size = ("I3D", part.sizes["size"]) if large else ("C3D width 1/8", part.sizes["size"])
    every = ", ".join(f"{sum(c[k] for c in counted) // n} {k}" for k in counted[0])
    return Pair(
        ours=part.run,
        theirs=theirs,
        same=same,
        work=f"all stages after training, {name}, 16x{size}x{size}: segment, embed, cluster, tcav, "
        "ablate",
        against="the bare network: the passes that these stages need, whole clips in the same "
        f"batches, and nothing else; a pair has {every}",
        measured="each pair: other discovery and test clips, the same number of passes",
        target=target,
        repeats=n,
        stages=lambda result: result["stages"],
    )
