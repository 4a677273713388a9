"""What a sceptic asks of a finished run, or of anybody's explanation: one table a question."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pandas as pd

from stce import ablation, curves, features, tcav
from stce.evaluation import paired, saliency, sanity, significance, stability, truth
from stce.evaluation.effects import motion
from stce.evaluation.effects.depth import as_seen_by
from stce.evaluation.variants import Variant, part_of, some_of_each
from stce.masking import FILLS


def answers(it, asked: SimpleNamespace, others: Iterable = ()) -> dict[str, pd.DataFrame]:
    """Ask everything of a run, or of an explanation.

    Parameters
    ----------
    it : stce.study.finished.Finished or stce.evaluation.trust.Evidence
        The run, opened, or what an explanation was made from.
    asked : types.SimpleNamespace
        How thoroughly: the parameters of the stage validate.
    others : iterable of stce.study.finished.Finished
        Runs to compare it with, see :func:`between`; those that are not finished are left out.

    Returns
    -------
    dict of str to pandas.DataFrame
        By question: ``significance``, ``composition``, ``truth``, ``sanity`` (where the weights are
        known), ``stability``, ``outcomes`` and what :meth:`Sceptic.comparison` makes of them,
        ``fills``, ``motion`` (of :func:`stce.evaluation.effects.motion.assess`) and ``variants``
        (:meth:`stce.evaluation.variants.Inputs.compare`).
    """
    if tried := [Variant(*text.split("/")) for text in asked.tried]:
        few = {"n_clips": asked.n_clips, "n_discovery": asked.n_discovery_tried}
        part = part_of(it, **few, seed=asked.seed)  # refused before the hours of what follows
        for one in tried:
            it.network.split(one.layer)
    given = (getattr(asked, name) for name in ("n_null", "n_clips", "n_controls", "seed"))
    who = Sceptic(it, *given)
    told = {"significance": who.chance()} | who.parts_found()
    if it.network.blocks():
        nets = who.randomised(told["significance"], asked.n_randomised)
        told["sanity"] = sanity.against_trained(nets)
    again = who.repeated(asked.n_sgd)
    for other in others:
        if not other.run.missing():
            again[f"all, {other.run.folder.name}"] = between(it, other)
    told["stability"] = pd.concat(again, names=["changed"]).reset_index(0)
    told["outcomes"] = who.rivals()
    told |= who.comparison(told["outcomes"])
    if asked.fills:
        told["fills"] = who.fills(asked.fills)
    told["motion"] = who.moved(asked.n_changed, getattr(asked, "n_first", 5)).concepts
    if tried:
        told["variants"] = part.compare(tried)
    return told


@dataclass(frozen=True)
class Sceptic:
    """Asks one run what a sceptic would, a method a question.

    Attributes
    ----------
    it : stce.study.finished.Finished or stce.evaluation.trust.Evidence
        The run, opened; its `body` says which parts of its clips carry a class.
    n_null : int, default 1000
        Random sets of each size, and shuffles of the head (log scale: 100, 300, 1000).
    n_clips, n_controls : int, default 6 and 3
        Test clips a class that are shown and hidden, evenly spaced; draws of the random order and
        of each control, a clip.
    seed : int, default 0
        Of all that is drawn beside what the run itself drew.
    """

    it: object
    n_null: int = 1000
    n_clips: int = 6
    n_controls: int = 3
    seed: int = 0

    def chance(self) -> pd.DataFrame:
        """Test each concept against chance, see :func:`stce.evaluation.significance.assess`."""
        return self._assess(self.it.network, self.it.tcav, self.it.samples)

    def _assess(self, network, result: tcav.Tcav, samples: tcav.Samples) -> pd.DataFrame:
        if not significance.testable(samples):
            return result.scores.assign(verdict="untested")
        how = {"n_null": self.n_null, "n_shuffles": self.n_null, "n_jobs": self.it.n_jobs}
        how |= {"device": self.it.device, **self.it.options}
        return significance.assess(network, result, samples, **how)

    def parts_found(self) -> dict[str, pd.DataFrame]:
        """Ask whether the ranking finds the parts that carry a class.

        Returns ``composition`` of :func:`stce.evaluation.truth.composition` and ``truth`` of
        :func:`stce.evaluation.truth.found`; nothing where the parts of the clips are not known.
        """
        (clips, cut), body = self.it.discovery, self.it.body
        if clips.parts is None:
            return {}
        held = truth.counts(self.it.concepts, cut, clips.parts, body["parts"], clips.groups)
        lifts = truth.composition(held)
        found = truth.found(lifts, self.it.tcav.scores, body["carriers"], seed=self.seed)
        return {"composition": lifts, "truth": found}

    def randomised(self, trained: pd.DataFrame, n_networks: int = 4) -> dict[str, pd.DataFrame]:
        """Score the same concepts with networks whose weights are randomised from the top down.

        These are `n_networks`, evenly spaced over the blocks, the last one wholly random. With
        `trained`, what :meth:`chance` gave, it returns what
        :func:`stce.evaluation.sanity.against_trained` takes: a table a network, "trained" first.
        """
        rng, tables = np.random.default_rng(self.seed), {"trained": trained}
        for name, network in sanity.cascade(self.it.network, rng, n_networks):
            tables[f"{name} and above random"] = self.with_network(network)
        return tables

    def with_network(self, network) -> pd.DataFrame:
        """Score and test the run's concepts with another network, as :meth:`chance` does.

        The network has the same classes and input size, and is cut at the same layer.
        """
        it, how = self.it, {"device": self.it.device}
        shown = {"stretch": it.settings["cluster"]["stretch"], **how}
        (samples,) = as_seen_by([network], it.samples, *it.discovery, it.negatives, **shown)
        return self._assess(network, tcav.score(network, samples, **how, **it.options), samples)

    def repeated(self, n_sgd: int = 50) -> dict[str, pd.DataFrame]:
        """Repeat steps of the run with another seed, one at a time, and compare the rankings.

        The reference code's classifiers are fitted to `n_sgd` random groups, if any. Returns what
        :func:`stce.evaluation.stability.agreement` tells, by what was changed.
        """
        it, seed = self.it, self.seed
        ours, made, given = it.tcav.scores, it.settings["cluster"], it.samples
        drawn = {name: given.groups_of(name) for name in given.clips}
        dealt = it.negatives, it.settings["tcav"]
        again = it.grouped(*dealt, np.random.default_rng([seed, 1]))
        regrouped = tcav.score(it.network, replace(given, groups=again), **it.options)
        found = it.clustered(made["seed"] + 1)
        pairs = {
            name: stability.match(stability.by_distance(it.concepts.centres[name], centres))
            for name, centres in found.centres.items()
        }
        other = replace(given, concepts=found)
        if dealt[1]["random_from"] == "matched":
            other = replace(other, groups=it.grouped(*dealt, np.random.default_rng(seed), found))
        reclustered = tcav.score(it.network, other, **it.options)
        told = {
            "random groups": stability.agreement(ours, regrouped.scores),
            "k-means": stability.agreement(ours, reclustered.scores, pairs),
        }
        if n_sgd:
            few = replace(given, groups={name: g[..., :n_sgd, :] for name, g in drawn.items()})
            sgd = [stability.sgd_scores(it.network, few, seed=s) for s in (seed, seed + 1)]
            told["SGD classifier's seed"] = stability.agreement(*sgd)
            told["SGD instead of ours"] = stability.agreement(ours, sgd[0])
        return told

    @cached_property
    def tested(self) -> tuple:
        """What is ablated, and which few of its clips of each class, embedded once."""
        it, (clips, cut) = self.it, self.it.test
        subject, videos = it.subject(), some_of_each(clips.labels, self.n_clips)
        if subject.features is not None:
            return subject, videos
        rows = np.concatenate([cut.rows_of(int(n)) for n in videos])
        how = {"stretch": it.settings["cluster"]["stretch"], "device": it.device}
        z = np.zeros((len(cut), it.finder.n_features), np.float32)
        z[rows] = features.extract_rows(it.finder, clips, cut, rows, **how)
        return replace(subject, features=z), videos

    def rivals(self) -> pd.DataFrame:
        """Show and hide test clips in the order of the concepts, of controls and of saliency maps.

        Returns outcomes of :func:`stce.ablation.run` over all concepts, with the orders of
        :func:`stce.ablation.ranked`, :func:`stce.ablation.matched` and
        :func:`stce.evaluation.saliency.along`; with ``held`` where the parts are known
        (:func:`stce.evaluation.truth.region`).
        """
        it, (subject, videos) = self.it, self.tested
        if subject.clips.parts is not None:
            region = truth.region(subject.clips, it.body["carriers"], it.body["parts"])
            subject = replace(subject, region=region)
        few, maps = subject.clips.select(videos), {}
        with suppress(ValueError):  # of a layer without positions, or a network that has none
            maps["grad-cam"] = saliency.grad_cam(it.network, few, device=it.device)
        for method in saliency.integrated_gradients, saliency.occlusion:
            name = method.__name__.replace("_", " ")
            maps[name] = method(it.network, few, device=it.device)
        steps = {"q_max": min(map(len, it.rankings.values())), "seed": self.seed, "videos": videos}
        drawn = self.n_controls, self.seed
        kinds = ablation.ranked(*drawn), ablation.matched(*drawn), saliency.along(maps, videos)
        shown = [table for orders in kinds for table in ablation.run(subject, orders, **steps)]
        return pd.concat(shown, ignore_index=True)

    def fills(self, names: Iterable[str] = FILLS) -> pd.DataFrame:
        """Repeat the ablation with other contents of hidden voxels, and with the predicted class.

        The contents are `names`, see `fill` of :func:`stce.ablation.run`; default all. The table is
        of :func:`stce.curves.difference`, with ``fill`` in front; the last two rows, "mean,
        predicted class", are of clips explained with the concepts of the class that is predicted.
        """
        subject, videos = self.tested
        how = {"q_max": min(5, *map(len, self.it.rankings.values()))}
        how |= {"seed": self.seed, "videos": videos}
        ways = {name: (subject, name) for name in names}
        ways["mean, predicted class"] = replace(subject, assign="predicted"), "mean"
        tables, orders = {}, ablation.ranked(self.n_controls, self.seed)
        for name, (who, fill) in ways.items():
            outcomes = pd.concat(ablation.run(who, orders, fill=fill, **how))
            tables[name] = curves.difference(outcomes, seed=self.seed)
        return pd.concat(tables, names=["fill"]).reset_index(0)

    def moved(self, n_clips: int = 12, n_first: int = 5) -> motion.Assessment:
        """Ask of the first concepts of each class, on some test clips, for motion and look."""
        first = {name: ranking[:n_first] for name, ranking in self.it.rankings.items()}
        subject = self.it.subject(rankings=first)
        few, cut = some_of_each(subject.clips.labels, n_clips), subject.supervoxels
        shown = {"clips": subject.clips.select(few), "supervoxels": cut.select(few)}
        if subject.features is not None:
            shown["features"] = subject.features[np.concatenate([*map(cut.rows_of, few)])]
        return motion.assess(replace(subject, **shown), seed=self.seed)

    def comparison(self, outcomes: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Sum up the outcomes of :meth:`rivals`.

        Returns
        -------
        dict of str to pandas.DataFrame
            - ``accuracy``: of :func:`stce.curves.accuracy_table`.
            - ``areas``: of :func:`stce.curves.areas`, with ``steps``, the mean number of concepts
              until a clip is recognised, or no longer is (:func:`stce.curves.smallest`).
            - ``paired``: of :func:`stce.evaluation.paired.mcnemar`, the order "top" against each
              other, up to five concepts.
            - ``pointed``: of :func:`stce.evaluation.truth.pointed`, where the parts are known.
        """
        areas = curves.areas(outcomes, seed=self.seed)
        steps = curves.smallest(outcomes).groupby(["mode", "order"])["q"].mean().rename("steps")
        others = [order for order in outcomes["order"].unique() if order != "top"]
        first = outcomes[outcomes["q"] <= 5]
        tables = {
            "accuracy": curves.accuracy_table(outcomes, seed=self.seed),
            "areas": areas.merge(steps.reset_index()),
            "paired": pd.concat([paired.mcnemar(first, "top", order) for order in others]),
        }
        if "held" in outcomes:
            tables["pointed"] = truth.pointed(outcomes, seed=self.seed)
        return tables


def between(first, second) -> pd.DataFrame:
    """Match the concepts of two runs on the test clips they share, and compare their ranking.

    Six of these clips a class are looked at. See :func:`stce.evaluation.stability.agreement`.

    Parameters
    ----------
    first, second : stce.study.finished.Finished
        Runs with test clips in common, such as one parameter file with two seeds. Their networks,
        supervoxels and concepts may differ.

    Raises
    ------
    ValueError
        If the runs share no test clip.
    """
    runs = first, second
    ids, others = (pd.Index(run.test.clips.ids) for run in runs)
    shared = ids.intersection(others, sort=True)
    if shared.empty:
        raise ValueError(
            f"{first.run.folder} and {second.run.folder} have no test clip in common; compare "
            "runs on the same data set and classes."
        )
    label = pd.Series(runs[0].test.clips.labels, index=ids)[shared]
    shared = label.groupby(label).head(6).index
    sides = []
    for run in runs:
        rows = pd.Index(run.test.clips.ids).get_indexer(shared)
        clips, cut = run.test.clips.select(rows), run.test.supervoxels.select(rows)
        how = {"stretch": run.settings["cluster"]["stretch"], "progress": False}
        z = features.extract(run.finder, clips, cut, device=run.device, **how)
        sides.append((cut, z, run.concepts.centres))
    pairs = {}
    for name in set(sides[0][2]) & set(sides[1][2]):
        both = [(cut, z, centres[name]) for cut, z, centres in sides]
        pairs[name] = stability.match(stability.overlap(*both, clips.indices_of(name)))
    return stability.agreement(*(run.tcav.scores for run in runs), pairs)
