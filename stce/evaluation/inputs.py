"""What variants of the method are, what they are tried on, and what some of them share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stce import concepts as concepts_module
from stce import features as features_module
from stce import gradients, models
from stce.clips import Clips
from stce.datasets.negatives import negatives
from stce.evaluation import truth
from stce.study.known import HOME
from stce.study.parameters import check
from stce.study.run import Run
from stce.supervoxels import Supervoxels

__all__ = [
    "FEATURES",
    "Embedded",
    "Inputs",
    "Variant",
    "cluster",
    "embed",
    "few",
    "read",
    "take",
    "view",
]

FEATURES = ("stretched", "in place", "pooled")


@dataclass(frozen=True)
class Variant:
    """One way to run the method.

    Attributes
    ----------
    layer : str
        One of the network's ``layers``; with positions where features are pooled.
    target : {"logit", "log_prob"}
        See :func:`stce.gradients.at_clips`.
    features : {"stretched", "in place", "pooled"}
        A forward pass for each supervoxel, enlarged to the input size (the paper) or left where
        it was; or one for each clip, see :mod:`stce.engine.pooling`.
    """

    layer: str
    target: str = "logit"
    features: str = "in place"

    def __post_init__(self):
        for name, known in (("target", gradients.TARGETS), ("features", FEATURES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}."
                )


@dataclass(frozen=True)
class Inputs:
    """What the variants are tried on.

    Attributes
    ----------
    network : stce.models.network.Network
        Cut anywhere.
    own : Variant
        The one that all are compared with.
    clips, cut : stce.clips.Clips, stce.supervoxels.Supervoxels
        Where concepts are found.
    test, test_cut : stce.clips.Clips, stce.supervoxels.Supervoxels
        Where rankings are tested.
    random : stce.clips.Clips
        Random clips, the negatives of the CAVs.
    n_concepts, n_keep : int
        See :func:`stce.concepts.cluster`.
    """

    network: models.Network
    own: Variant
    clips: Clips
    cut: Supervoxels
    test: Clips
    test_cut: Supervoxels
    random: Clips
    n_concepts: int
    n_keep: int


def read(
    folder: str | Path,
    *,
    n_clips: int = 6,
    n_discovery: int = 10,
    n_random_clips: int = 400,
    seed: int = 0,
) -> Inputs:
    """Read a part of a finished run.

    Parameters
    ----------
    folder : path
        The run, finished up to stage "tcav".
    n_clips, n_discovery : int, default 6 and 10
        Test and discovery clips a class, evenly spaced; no more than there are.
    n_random_clips : int, default 400
        Random clips of the run's kind.
    seed : int, default 0
        Of the random clips.
    """
    run = Run(folder)
    # A run may be older than a parameter, which then had its default.
    made, how = (check(s, run.manifest(s)["parameters"]) for s in ("cluster", "tcav"))
    network = models.load(run.path("train") / "last.safetensors", layer=made["layer"] or None)
    shown = "stretched" if made["stretch"] else "in place"
    shown = "pooled" if made["features"] == "pooled" else shown
    both = []
    for name, n in (("train", n_discovery), ("test", n_clips)):
        clips = Clips.load(run.path("segment") / f"{name}-clips")
        both += few(clips, Supervoxels.load(run.path("segment") / f"{name}-supervoxels"), n)
    _, n_frames, height, width, channels = both[0].frames.shape
    like = {"n_frames": n_frames, "size": (height, width), "channels": channels, "seed": seed}
    where = {"folder": HOME / "notebooks" / how["random_folder"], "exclude": both[0].classes}
    random, _ = negatives(how["random_source"], n_random_clips, **where, **like)
    own = Variant(network.layer, how["target"], shown)
    return Inputs(network, own, *both, random, made["n_concepts"], made["n_keep"])


def few(clips: Clips, cut: Supervoxels, n: int) -> tuple[Clips, Supervoxels]:
    """Return `n` clips of each class, evenly spaced, and their supervoxels, in memory."""
    return take(clips, cut, spread(clips.labels, n))


def spread(labels: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of `n` clips of each class, evenly spaced; no more than there are."""
    mine = [np.flatnonzero(labels == y) for y in np.unique(labels)]
    return np.concatenate([i[np.linspace(0, len(i) - 1, min(n, len(i))).astype(int)] for i in mine])


def take(clips: Clips, cut: Supervoxels, rows: np.ndarray) -> tuple[Clips, Supervoxels]:
    """Return some clips and their supervoxels, in memory."""
    return clips.select(rows), cut.select(rows)


@dataclass(frozen=True)
class Embedded:
    """What variants share that differ in the class output only."""

    network: models.Network
    z: np.ndarray
    test: np.ndarray
    whole: dict[str, np.ndarray]
    random: np.ndarray
    found: concepts_module.Concepts
    lifts: pd.DataFrame | None
    facts: dict


def view(network: models.Network, layer: str, features: str) -> models.Network:
    """Return the network as a variant sees it: cut at its layer, pooled if its features are."""
    network = network.split(layer)
    return models.Pooled.of(network) if features == "pooled" else network


def embed(given: Inputs, layer: str, features: str, parts, seed: int, device) -> Embedded:
    """Compute what the variants with this layer and these features share."""
    network, clips = view(given.network, layer, features), given.clips
    how = {"stretch": features == "stretched", "progress": False, "device": device}
    started = time.perf_counter()
    z = features_module.extract(network, clips, given.cut, **how)
    facts = {"n_features": z.shape[1], "seconds": time.perf_counter() - started}
    facts["forwards"] = len(clips if network.grid else given.cut)
    test = features_module.extract(network, given.test, given.test_cut, **how)
    whole = features_module.extract_layer(network, clips, device=device)
    random = features_module.extract_clips(network, given.random, device=device)
    found, lifts = cluster(given, z, seed), None
    whole = {name: whole[clips.indices_of(name)] for name in found.centres}
    if clips.parts is not None:
        lifts = truth.composition(truth.counts(found, given.cut, clips.parts, parts, clips.groups))
    return Embedded(network, z, test, whole, random, found, lifts, facts)


def cluster(given: Inputs, z: np.ndarray, seed: int) -> concepts_module.Concepts:
    """Group the discovery supervoxels by their features."""
    rows, clips = given.cut.table["video"].to_numpy(), given.clips
    how = {"n_concepts": given.n_concepts, "n_keep": given.n_keep, "seed": seed}
    return concepts_module.cluster(z, clips.labels[rows], rows, clips.classes, **how)
