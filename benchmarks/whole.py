"""Ablation, and the whole study after training, against the plain way."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch

from benchmarks import reference, worlds
from benchmarks.cutting import kept
from benchmarks.runner import Check, Pair
from stce import ablation, cav, concepts, features, supervoxels, tcav
from stce.datasets.textures import textures

__all__ = ["ablate", "study"]

# The sizes of the embedded study (``actors``), and small ones; as there, supervoxels are embedded
# where they are.
IN_PLACE = {"stretch": False}
FULL = {"size": 56, "n_segments": (15, 30, 60), "n_concepts": 15, "q_max": 5, "n_random": 10}
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


def study(quick: bool, device: str) -> Pair:
    """Discovery, scores and ablation: a part of each stage, in the proportions of the study."""
    sizes = QUICK if quick else FULL
    # One part in 24 of 120 discovery clips, 216 test clips, 2,000 random ones and 90 concepts.
    n_find, n_test, n_random, scored, groups, repeats = (
        (3, 1, 4, 1, 3, 2) if quick else (5, 9, 83, 4, 50, 3)
    )
    torch.set_flush_denormal(True)
    size, how = sizes["size"], {"device": device}
    slic = {"n_segments": sizes["n_segments"], "sigma": 0.5, "n_jobs": -1}
    clips = worlds.actors(6 * (n_find + n_test) * repeats, size)
    network = worlds.trained("c3d", 0.125, clips, device)
    copy = reference.plain(network)
    noise = textures(n_random, n_frames=16, size=(size, size))
    keep = 8 if quick else 40
    rng = np.random.default_rng(0)
    rankings, listed = _orders(clips, sizes["n_concepts"], sizes["n_random"])
    rows = clips.indices_of(clips.classes[0])
    discovery = [clips.select(r) for r in np.split(rows[: n_find * repeats], repeats)]
    test = [clips.select(r) for r in np.split(rows[-n_test * repeats :], repeats)]
    # A part embeds only its share of the random clips; the groups are drawn from all these.
    others = features.extract_clips(network, textures(max(4 * n_random, 60), size=(size, size)))
    index = tcav.random_groups(len(others), groups, min(keep, len(others)), rng)
    name = clips.classes[0]

    def ours(i: int) -> dict:
        stages = _Stages()
        found = supervoxels.segment(discovery[i], progress=False, **slic)
        unseen = supervoxels.segment(test[i], progress=False, **slic)
        stages.done("segment")
        z = features.extract(network, discovery[i], found, progress=False, **how, **IN_PLACE)
        stages.done("embed")
        clustered = concepts.cluster(
            z,
            np.zeros(len(z), int),
            found.table["video"].to_numpy(),
            clips.classes,
            n_concepts=sizes["n_concepts"],
            n_keep=keep,
        )
        stages.done("cluster")
        features.extract_clips(network, noise, **how)
        whole = features.extract_clips(network, discovery[i], **how)
        mean, scale = cav.scaling([z, others])
        rows = [clustered.members(name, k) for k in range(scored)]
        own, drawn = (cav.standard(x, mean, scale) for x in (z, others))
        fitted = cav.against(own, rows, drawn[index], held_out=False, **how)
        vectors = [cav.unit(weights / scale.astype(np.float32)) for weights, _ in fitted]
        scores = tcav.rescore(
            network, {name: np.stack(vectors)}, {name: whole}, clips.classes, "logit", **how
        )
        stages.done("tcav")
        same = concepts.Concepts(None, None, dict.fromkeys(clips.classes, clustered.centres[name]))
        subject = ablation.Subject(network, test[i], unseen, same, rankings, **how, **IN_PLACE)
        steps = {"q_max": sizes["q_max"], "progress": False}
        parts = ablation.run(subject, ablation.ranked(sizes["n_random"]), **steps)
        outcomes = pd.concat(parts, ignore_index=True)
        stages.done("ablate")
        return {
            "names": kept(found, n_find) + kept(unseen, n_test),
            "centres": clustered.centres[name],
            "scores": scores["score"].to_numpy(),
            "outcomes": outcomes,
            "stages": stages.seconds,
        }

    def theirs(i: int) -> dict:
        stages = _Stages()
        found = reference.segment(discovery[i], **slic)
        unseen = reference.segment(test[i], **slic)
        stages.done("segment")
        cut = map(list, zip(*found, strict=True))
        z = reference.embed(copy, discovery[i], *cut, **how, **IN_PLACE)
        stages.done("embed")
        centres, members = reference.cluster(z, sizes["n_concepts"], keep)
        stages.done("cluster")
        reference.embed_clips(copy, noise, **how)
        whole = reference.embed_clips(copy, discovery[i], **how)
        mean, scale = cav.scaling([np.concatenate([z, others])])
        drawn = [others[group] for group in index]
        vectors = [reference.cavs(z[members[k]], drawn, mean, scale) for k in range(scored)]
        scores = [reference.score(copy, v, whole, 0, **how) for v in vectors]
        stages.done("tcav")
        same = dict.fromkeys(clips.classes, centres)
        inputs = test[i], *map(list, zip(*unseen, strict=True)), same, listed, sizes["q_max"]
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
            *_compare_outcomes(mine["outcomes"], other["outcomes"], test[i]),
        ]

    return Pair(
        ours=ours,
        theirs=theirs,
        same=same,
        work="the embedded study after training: segment, embed, cluster, tcav, ablate",
        against="the same steps the plain way, with the same answers: logistic regression instead "
        "of the unseeded SGD of the reference code, no significance test on either side",
        measured="each pair: another 1/24 of the discovery, test and random clips and of the CAVs",
        target=8.0,
        repeats=repeats,
        stages=lambda result: result["stages"],
    )
