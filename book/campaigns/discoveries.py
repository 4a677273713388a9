"""Which way to find concepts? Four ways, and two of cutting, where the truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from book.campaigns import noise, worlds
from book.campaigns.replays import GROUP, scored_runs
from stce import ablation, concepts, curves, tcav
from stce.concepts import WAYS
from stce.engine.slic import CUT_ON, painter
from stce.evaluation import stability, truth
from stce.evaluation.validation import Sceptic
from stce.evaluation.variants import part_of
from stce.study.finished import Finished
from stce.supervoxels import segment

__all__ = ["TRIALS", "compared", "cut_by"]

N_CLIPS, N_ORDERS = 6, 3
ORDERS = {"least": "gain", ablation.MATCHED[1]: "gain over area"}


def discovered(seed: int) -> list[dict]:
    """Find the concepts of each run of the laptop group in each way, and judge each alike."""
    rows = []
    for name, run in scored_runs(seed, GROUP).items():
        rows += [{"run": name} | row for row in compared(Finished(run), seed=seed)]
    return rows


def compared(it: Finished, n_clips: int = N_CLIPS, seed: int = 0) -> list[dict]:
    """Find the concepts of a run in each way; supervoxels, features and negatives are the same.

    Returns
    -------
    list of dict
        One row a ``way``: ``found`` after so many seconds, for all classes once; ``concepts``, how
        many a class; ``lift``, of the parts that carry the class, gained by the head of the ranking
        over a random one (:func:`stce.evaluation.truth.found`), and ``correlation``; ``gain`` of
        top over least and ``gain over area``, over as many voxels of random supervoxels, each the
        mean of adding and removing, on `n_clips` test clips a class; ``agreement`` of the ranking
        with that of another seed of the same way (:func:`stce.evaluation.stability.agreement`).
    """
    (clips, cut), given = it.discovery, it.samples
    subject, videos = Sceptic(it, n_clips=n_clips, seed=seed).tested
    z, rows = np.asarray(it.seen[:]), []
    for way in WAYS:
        started = time.perf_counter()
        found = it.clustered(seed, discover=way)
        row = {"way": way, "found": time.perf_counter() - started}
        row["concepts"] = np.mean([len(centres) for centres in found.centres.values()])
        other = it.clustered(seed + 1, discover=way)
        result, again = (
            tcav.score(it.network, replace(given, concepts=one), **it.options)
            for one in (found, other)
        )
        scores, rankings = result.scores, {name: result.ranking(name) for name in found.centres}
        held = truth.counts(found, cut, clips.parts, it.body["parts"], clips.groups)
        told = truth.found(truth.composition(held), scores, it.body["carriers"], seed=seed).iloc[-1]
        row |= {"lift": told["gain"], "correlation": told["correlation"]}
        steps = {
            "q_max": min(5, *map(len, rankings.values())),
            "seed": seed,
            "videos": videos,
            "progress": False,
        }
        orders = ablation.ranked(N_ORDERS, seed), ablation.matched(N_ORDERS, seed)
        shown = replace(subject, concepts=found, rankings=rankings)
        outcomes = pd.concat(ablation.run(shown, *orders, **steps))
        for order, name in ORDERS.items():
            row[name] = curves.difference(outcomes, "top", order, seed=seed)["gain"].mean()
        pairs = {}
        for name in found.centres:
            both = [(cut, z, one.centres[name]) for one in (found, other)]
            pairs[name] = stability.match(stability.overlap(*both, clips.indices_of(name)))
        row["agreement"] = stability.agreement(scores, again.scores, pairs)["correlation"].iloc[-1]
        rows.append(row)
    return rows


def planted(seed: int) -> list[dict]:
    """Plant a cue in one class, and nothing in features, and look what each way finds of either.

    One row a ``way``: ``first`` (the first concept holds the cue), ``most`` (rank of the concept
    with most of it), ``sure`` (the first one is significant after correction), and ``false``,
    whether anything is in a study of clusters of noise (:func:`book.campaigns.noise.study`).
    """
    net, run = worlds.planted(seed)
    samples, owner = run.samples, run.cut.table["video"].to_numpy()
    how = {"n_concepts": worlds.N_CONCEPTS, "n_keep": worlds.N_KEEP, "seed": 0}
    rows = []
    for way in WAYS:
        at = samples.features, run.clips.labels[owner], owner, run.clips.classes
        other = replace(samples, concepts=concepts.cluster(*at, **how, discover=way))
        told = worlds.cue_rank(net, replace(run, samples=other, result=tcav.score(net, other)))
        row = {"way": way, "first": told["first_holds"], "most": told["most_rank"]}
        row["sure"] = bool(told["first_q_value"] < 0.05)
        table = noise.study(seed, n=399, discover=way)
        rows.append(row | {"false": bool((table["q_value"] < 0.05).any())})
    return rows


def cut_by(seed: int, **part) -> list[dict]:
    """Cut clips of each run of the laptop group by what is seen and by the network's own map.

    One row a run and ``segment_on``: supervoxels a clip (``pieces``), and what
    :meth:`stce.evaluation.variants.Inputs.compare` tells of the run's own layer and features; by
    default, of `part`, on as many clips as :func:`stce.evaluation.variants.part_of` takes.
    """
    rows = []
    for name, run in scored_runs(seed, GROUP).items():
        it = Finished(run)
        own = part_of(it, seed=seed, **part)
        for on in CUT_ON:
            how = it.cutting | {"on": painter(it.network, on, it.device), "progress": False}
            both = [segment(clips, **how) for clips in (own.clips, own.test)]
            table = replace(own, cut=both[0], test_cut=both[1]).compare([], progress=False)
            told = table.rename(columns={"seconds": "embedding"}).iloc[0]
            pieces = len(both[0]) / len(own.clips)
            rows.append({"run": name, "segment_on": on, "pieces": pieces} | told.to_dict())
    return rows


TRIALS: dict[str, Callable[[int], list[dict]]] = {
    "discovery": discovered,
    "discovery-cue": planted,
    "tubelets": cut_by,
}
