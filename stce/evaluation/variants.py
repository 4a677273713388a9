"""Which layer, class output and features to take? All of them on one run, in one table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from stce import ablation, curves, models, tcav
from stce import concepts as concepts_module
from stce import features as features_module
from stce.clips import Clips
from stce.engine.progress import bar
from stce.evaluation import stability, truth
from stce.supervoxels import Supervoxels

SHOWN = ("stretched", "in place", "pooled")


@dataclass(frozen=True)
class Variant:
    """One way to run the method.

    Attributes
    ----------
    layer : str
        One of the network's ``layers``; with positions where features are pooled.
    target : {"logit", "log_prob"}
        See :func:`stce.tcav.slopes`.
    features : str
        A forward pass for each supervoxel, enlarged to the input size (the paper, "stretched") or
        left where it was ("in place"); one for each clip ("pooled", see
        :mod:`stce.engine.pooling`); or the name of the layer inside which supervoxels are hidden.
    """

    layer: str
    target: str = "logit"
    features: str = "in place"

    def __post_init__(self):
        if self.target not in tcav.TARGETS:
            known = ", ".join(tcav.TARGETS)
            raise ValueError(f"target is {self.target!r}; choose one of {known}.")


@dataclass(frozen=True)
class _Embedded:
    """What variants share that differ in the class output only."""

    network: models.Network
    samples: tcav.Samples
    test: np.ndarray
    lifts: pd.DataFrame | None
    facts: dict


@dataclass(frozen=True)
class Inputs:
    """What the variants are tried on, and how.

    Attributes
    ----------
    network, own : stce.models.network.Network and Variant
        Cut anywhere, and the variant that all are compared with.
    clips, cut, test, test_cut : stce.clips.Clips and stce.supervoxels.Supervoxels, twice
        Where concepts are found, and where rankings are tested.
    random : stce.features.Negatives
        What concepts are told apart from.
    n_concepts, n_keep : int
        See :func:`stce.concepts.cluster`.
    parts : sequence of str, optional
        Names of the parts in ``clips.parts``; without them nothing is said of the truth.
    carriers, n_top
        See :func:`stce.evaluation.truth.found`; default no carriers.
    n_groups, seed : int, default 10 and 0
        See :func:`stce.tcav.random_groups`; seeds everything random.
    q_max, device
        See :func:`stce.ablation.run` and :class:`stce.ablation.Subject`; 3 orders are random.
    """

    network: models.Network
    own: Variant
    clips: Clips
    cut: Supervoxels
    test: Clips
    test_cut: Supervoxels
    random: features_module.Negatives
    n_concepts: int
    n_keep: int
    _: KW_ONLY
    parts: Sequence[str] = ()
    carriers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    n_top: int = 5
    n_groups: int = 10
    q_max: int = 5
    seed: int = 0
    device: torch.device | str = "cpu"

    def compare(self, variants: Iterable[Variant], *, progress: bool = True) -> pd.DataFrame:
        """Try variants of the method on the same clips, the own one first, named or not.

        Supervoxels, random clips, random groups and seeds are the same for all. Features are
        computed once for the variants that share them.

        Returns
        -------
        pandas.DataFrame
            One row a variant, ``layer``, ``target``, ``features``. Intervals are 95 % and end in
            ``_low``, ``_high``; those of the curves are paired over test clips.

            - Cost of embedding the discovery supervoxels: ``n_features``, ``seconds``,
              ``forwards``, ``speed`` (times as fast as the own variant). Segmentation comes on top,
              the same for all.
            - Curves (:func:`stce.curves.difference`), in 0 to 1: ``add``, ``remove``, gain of top
              over least; ``add_random``, ``remove_random``, of top over random orders; ``gain``,
              mean of the first two; ``change``, gain less that of the own variant; ``n_clips``.
            - Truth (:func:`stce.evaluation.truth.found`, all classes), NaN without parts: ``truth``
              (lift gained by the head of the ranking) and ``truth_correlation``.
            - Likeness to the own variant: ``ari`` (adjusted Rand index of the concepts that the
              same supervoxels are given to, mean over classes) and ``agreement`` (rank correlation
              of the derivatives of matched concepts). The first row, the own variant, is compared
              with itself from another seed of k-means: more likeness is not to be expected of any.

        Raises
        ------
        ValueError
            If a layer does not exist, or has no positions to pool over.
        """
        variants = list(dict.fromkeys([self.own, *variants]))
        for variant in variants:
            self._seen(variant.layer, variant.features)
        scoring, rows, own = {"seed": self.seed, "device": self.device}, {}, None
        embedded = dict.fromkeys((v.layer, v.features) for v in variants)
        for key in bar(embedded, show=progress, desc="compare", unit="embedding"):
            at = self._embed(*key)
            alike = self._likeness(own[0].samples if own else at.samples, at.samples)
            for variant in (v for v in variants if (v.layer, v.features) == key):
                samples = replace(at.samples, target=variant.target)
                result = tcav.score(at.network, samples, **scoring)
                outcomes = self._outcomes(at, result)
                if own:
                    like, other = alike, result.scores
                else:
                    own = at, result.scores, outcomes
                    again = replace(samples, concepts=self._cluster(samples.features, 1))
                    like = self._likeness(samples, again)
                    other = tcav.score(at.network, again, **scoring).scores
                told = stability.agreement(own[1], other, like[1], seed=self.seed).iloc[-1]
                row = asdict(variant) | at.facts
                row["speed"] = own[0].facts["seconds"] / at.facts["seconds"]
                row |= self._curves(outcomes, own[2]) | self._truth(at.lifts, result.scores)
                row |= {"ari": like[0], "agreement": told["correlation"]}
                row |= {f"agreement_{end}": told[f"ci_{end}"] for end in ("low", "high")}
                rows[variant] = row
        return pd.DataFrame([rows[variant] for variant in variants])

    def _seen(self, layer: str, features: str) -> models.Network:
        """Return the network as a variant sees it, at its layer."""
        network = self.network.split(layer)
        if features not in (*SHOWN, *network.layers):
            known = ", ".join((*SHOWN, *network.layers))
            raise ValueError(f"features is {features!r}; choose one of {known}.")
        if features in SHOWN:
            return models.Pooled.of(network) if features == "pooled" else network
        return network.hidden_at(features)

    def _embed(self, layer: str, features: str) -> _Embedded:
        """Compute what the variants with this layer and these features share."""
        network, clips, device = self._seen(layer, features), self.clips, self.device
        how = {"stretch": features == "stretched", "progress": False, "device": device}
        started = time.perf_counter()
        z = features_module.extract(network, clips, self.cut, **how)
        facts = {"n_features": z.shape[1], "seconds": time.perf_counter() - started}
        passes = len(clips if network.grid else self.cut)
        facts["forwards"] = np.nan if network.inside else passes  # these are parts of passes
        test = features_module.extract(network, self.test, self.test_cut, **how)
        whole = features_module.extract_layer(network, clips, device=device)
        random = self.random.embed(network, stretch=how["stretch"], device=device)
        found, lifts = self._cluster(z), None
        whole = {name: whole[clips.indices_of(name)] for name in found.centres}
        if clips.parts is not None and self.parts:
            held = truth.counts(found, self.cut, clips.parts, self.parts, clips.groups)
            lifts = truth.composition(held)
        draw = self.n_groups, self.n_keep, np.random.default_rng(self.seed), self.random.owners
        groups = tcav.random_groups(len(random), *draw)
        samples = tcav.Samples(found, z, whole, random, groups, clips.classes)
        return _Embedded(network, samples, test, lifts, facts)

    def _cluster(self, z: np.ndarray, anew: int = 0) -> concepts_module.Concepts:
        """Group the discovery supervoxels by their features, with the seed or another one."""
        rows, clips = self.cut.table["video"].to_numpy(), self.clips
        how = {"n_concepts": self.n_concepts, "n_keep": self.n_keep, "seed": self.seed + anew}
        return concepts_module.cluster(z, clips.labels[rows], rows, clips.classes, **how)

    def _outcomes(self, at: _Embedded, result: tcav.Tcav) -> pd.DataFrame:
        rankings = {name: result.ranking(name) for name in at.samples.clips}
        tested = at.network, self.test, self.test_cut, at.samples.concepts, rankings
        subject = ablation.Subject(*tested, features=at.test, device=self.device)
        steps = {"q_max": self.q_max, "seed": self.seed, "progress": False}
        return pd.concat(ablation.run(subject, ablation.ranked(3, self.seed), **steps))

    def _likeness(self, *both: tcav.Samples) -> tuple[float, dict]:
        """Return the adjusted Rand index of two clusterings, and their concepts in pairs."""
        from sklearn.metrics import adjusted_rand_score

        rand, pairs = [], {}
        for name in both[0].concepts.centres:
            videos = self.clips.indices_of(name)
            mine = self.cut.table["video"].isin(videos).to_numpy()
            sides = [(one.features, one.concepts.centres[name]) for one in both]
            owners = [concepts_module.assign(z[mine], centres) for z, centres in sides]
            rand.append(adjusted_rand_score(*owners))
            runs = [(self.cut, *side) for side in sides]
            pairs[name] = stability.match(stability.overlap(*runs, videos))
        return float(np.mean(rand)), pairs

    def _curves(self, outcomes: pd.DataFrame, own: pd.DataFrame) -> dict:
        row = {}
        for second, end in (("least", ""), ("random", "_random")):
            for told in curves.difference(outcomes, "top", second, seed=self.seed).itertuples():
                name = told.mode + end
                row |= {name: told.gain, f"{name}_low": told.ci_low, f"{name}_high": told.ci_high}
        both = pd.concat([_by_clip(outcomes, "this"), _by_clip(own, "own")])
        told = curves.difference(both, "this", "own", seed=self.seed).iloc[0]
        row |= {"gain": (row["add"] + row["remove"]) / 2, "change": told["gain"]}
        ends = {"change_low": told["ci_low"], "change_high": told["ci_high"]}
        return row | ends | {"n_clips": told["n_clips"]}

    def _truth(self, lifts: pd.DataFrame | None, scores: pd.DataFrame) -> dict:
        names = {"truth": "gain", "truth_low": "ci_low", "truth_high": "ci_high"}
        names["truth_correlation"] = "correlation"
        if lifts is None:
            return dict.fromkeys(names, np.nan)
        how = {"n_top": self.n_top, "seed": self.seed}
        told = truth.found(lifts, scores, self.carriers, **how).iloc[-1]
        return {name: told[column] for name, column in names.items()}


def part_of(
    it, *, n_clips: int = 6, n_discovery: int = 10, n_random_clips: int = 400, seed: int = 0
) -> Inputs:
    """Take a part of a finished run, and what its `body` says of the parts of its clips.

    Parameters
    ----------
    it : stce.study.finished.Finished
        The run, finished up to stage "tcav".
    n_clips, n_discovery : int, default 6 and 10
        Test and discovery clips a class, evenly spaced; no more than there are.
    n_random_clips, seed : int, default 400 and 0
        Negatives of the run's kind, and the seed of these and of all else.

    Raises
    ------
    ValueError
        If the run found concepts at another layer, or matched its negatives.
    """
    made, scored = it.run.parameters("cluster"), it.run.parameters("tcav")
    if made["concept_layer"] or scored["random_from"] == "matched":
        raise ValueError(
            f"tried asks for variants of {it.run.folder}, but they are not made with a "
            "concept_layer, nor with matched negatives; give tried=[]."
        )
    both = []
    for (clips, cut), n in ((it.discovery, n_discovery), (it.test, n_clips)):
        rows = some_of_each(clips.labels, n)
        both += [clips.select(rows), cut.select(rows)]
    chosen = {**scored, "n_random_clips": n_random_clips, "seed": seed}
    random = it.draw(chosen, np.random.default_rng(seed))
    target = scored["target"]
    shown = "stretched" if made["stretch"] else "in place"
    shown = "pooled" if made["features"] == "pooled" else shown
    own = Variant(it.network.layer, target, shown)
    given = it.network, own, *both, random, made["n_concepts"], made["n_keep"]
    return Inputs(*given, **it.body, seed=seed, device=it.device)


def some_of_each(labels: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of `n` clips of each class, evenly spaced; no more than there are."""
    mine = [np.flatnonzero(labels == y) for y in np.unique(labels)]
    return np.concatenate([i[np.linspace(0, len(i) - 1, min(n, len(i))).astype(int)] for i in mine])


def _by_clip(outcomes: pd.DataFrame, order: str) -> pd.DataFrame:
    """Return how much better "top" does than "least" on each clip, as outcomes of one `order`."""
    steps = outcomes[outcomes["q"] > 0].groupby(["mode", "video", "order"])["correct"].mean()
    gain = (steps.unstack("order")["top"] - steps.unstack("order")["least"]).unstack("mode")
    table = ((gain["add"] - gain["remove"]) / 2).rename("correct").reset_index()
    return table.assign(mode="add", order=order, q=1)
