"""What a sceptic asks of a finished run, one table a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from stce import ablation, concepts, curves, features, tcav
from stce.evaluation import paired, saliency, sanity, significance, stability, truth
from stce.evaluation.variants import Variant, compare, part_of, some_of_each


def answers(
    it,
    asked: SimpleNamespace,
    *,
    parts: Sequence[str] = (),
    carriers: Mapping[str, Sequence[str]] | None = None,
    others: Iterable = (),
) -> dict[str, pd.DataFrame]:
    """Ask everything of a run.

    Parameters
    ----------
    it : stce.study.finished.Finished
        The run, opened.
    asked : types.SimpleNamespace
        How thoroughly: the parameters of the stage validate.
    parts, carriers
        See :func:`parts_found`.
    others : iterable of stce.study.finished.Finished
        Runs to compare it with, see :func:`between`; those that are not finished are left out.

    Returns
    -------
    dict of str to pandas.DataFrame
        By question: ``significance`` (:func:`chance`), ``composition`` and ``truth``
        (:func:`parts_found`), ``sanity`` (:func:`randomised`), ``stability`` (:func:`repeated`,
        :func:`between`), ``outcomes`` (:func:`rivals`) and what :func:`comparison` makes of them,
        ``fills`` (:func:`fills`), ``variants`` (:func:`stce.evaluation.variants.compare`).
    """
    body, seed = {"parts": parts, "carriers": carriers}, asked.seed
    few = {"n_clips": asked.n_clips, "seed": seed}
    told = {"significance": chance(it, n_null=asked.n_null)}
    told |= parts_found(it, **body, seed=seed)
    how = {"n_networks": asked.n_randomised, "n_null": asked.n_null, "seed": seed}
    told["sanity"] = sanity.against_trained(randomised(it, told["significance"], **how))
    again = repeated(it, n_sgd=asked.n_sgd, seed=seed)
    for other in others:
        if not other.run.missing():
            again[f"all, {other.run.folder.name}"] = between(it, other)
    told["stability"] = pd.concat(again, names=["changed"]).reset_index(0)
    told["outcomes"] = rivals(it, n_controls=asked.n_controls, **body, **few)
    told |= comparison(told["outcomes"], seed=seed)
    told["fills"] = fills(it, asked.fills, n_random=asked.n_controls, **few)
    if tried := [Variant(*text.split("/")) for text in asked.tried]:
        given = part_of(it, n_discovery=asked.n_discovery_tried, **few)
        told["variants"] = compare(given, tried, **body, device=it.device)
    return told


def chance(it, *, n_null: int = 1000) -> pd.DataFrame:
    """Test each concept of a run against chance, see :func:`stce.evaluation.significance.assess`.

    `n_null` random sets are drawn of each size, and shuffles of the head (log scale: 100, 300,
    1000).
    """
    how = {"n_null": n_null, "n_shuffles": n_null, "n_jobs": it.n_jobs, "device": it.device}
    return significance.assess(it.network, it.tcav, it.samples, **it.options, **how)


def parts_found(
    it, parts: Sequence[str], carriers: Mapping[str, Sequence[str]], *, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Ask whether the ranking finds the parts that carry a class, on data whose parts are known.

    Parameters
    ----------
    it
        See :func:`answers`.
    parts : sequence of str
        Names of the parts, as ``clips.parts`` counts them.
    carriers, seed
        See :func:`stce.evaluation.truth.found`.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``composition`` of :func:`stce.evaluation.truth.composition` and ``truth`` of
        :func:`stce.evaluation.truth.found`; empty if the parts are not known.
    """
    clips, cut = it.discovery
    if clips.parts is None:
        return {}
    lifts = truth.composition(truth.counts(it.concepts, cut, clips.parts, parts, clips.groups))
    return {"composition": lifts, "truth": truth.found(lifts, it.tcav.scores, carriers, seed=seed)}


def randomised(
    it, trained: pd.DataFrame, *, n_networks: int = 4, n_null: int = 1000, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Score the same concepts with networks whose weights are randomised from the top down.

    Parameters
    ----------
    it
        See :func:`answers`.
    trained, n_null
        What :func:`chance` gave, and what it was given.
    n_networks, seed : int, default 4 and 0
        How many, evenly spaced over the blocks, the last one wholly random; seeds the shuffles.

    Returns
    -------
    dict of str to pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess` by network, "trained" first: the argument of
        :func:`stce.evaluation.sanity.against_trained`.
    """
    nets = dict(sanity.cascade(it.network, np.random.default_rng(seed)))
    names = list(nets)
    chosen = np.linspace(len(names) - 1, 0, n_networks)[::-1].round().astype(int)
    tables = {"trained": trained}
    for name in (names[i] for i in chosen):
        tables[f"{name} and above random"] = with_network(it, nets[name], n_null=n_null)
    return tables


def with_network(it, network, *, n_null: int = 1000) -> pd.DataFrame:
    """Score and test a run's concepts with another network, as :func:`chance` does.

    The network has the same classes and input size, and is cut at the same layer.
    """
    how = {"stretch": it.settings["cluster"]["stretch"], "device": it.device}
    samples = sanity.as_seen_by(network, it.samples, *it.discovery, it.negatives, **how)
    how = {"device": it.device, **it.options}
    result = tcav.score(network, samples, **how)
    asked = {"n_null": n_null, "n_shuffles": n_null, "n_jobs": it.n_jobs}
    return significance.assess(network, result, samples, **asked, **how)


def repeated(it, *, n_sgd: int = 50, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Repeat steps of a run with another seed, one at a time, and compare the rankings.

    The reference code's classifiers are fitted to `n_sgd` random groups; `seed` is that of the
    other groups, and of these classifiers. Returns what
    :func:`stce.evaluation.stability.agreement` tells, by what was changed.
    """
    ours, made, given = it.tcav.scores, it.settings["cluster"], it.samples
    drawn = {name: given.groups_of(name) for name in given.clips}
    dealt = it.negatives, it.settings["tcav"]
    again = it.grouped(*dealt, np.random.default_rng([seed, 1]))
    regrouped = tcav.score(it.network, replace(given, groups=again), **it.options)
    clips, cut = it.discovery
    owner = cut.table["video"].to_numpy()
    how = {"n_concepts": made["n_concepts"], "n_keep": made["n_keep"], "seed": made["seed"] + 1}
    data = np.asarray(it.seen[:]), clips.labels[owner], owner, clips.classes
    found = concepts.cluster(*data, **how)
    pairs = {
        name: stability.match(stability.by_distance(it.concepts.centres[name], centres))
        for name, centres in found.centres.items()
    }
    other = replace(given, concepts=found)
    if dealt[1]["random_from"] == "matched":
        other = replace(other, groups=it.grouped(*dealt, np.random.default_rng(seed), found))
    reclustered = tcav.score(it.network, other, **it.options)
    few = replace(given, groups={name: g[..., :n_sgd, :] for name, g in drawn.items()})
    sgd = [stability.sgd_scores(it.network, few, seed=s) for s in (seed, seed + 1)]
    return {
        "random groups": stability.agreement(ours, regrouped.scores),
        "k-means": stability.agreement(ours, reclustered.scores, pairs),
        "SGD classifier's seed": stability.agreement(*sgd),
        "SGD instead of ours": stability.agreement(ours, sgd[0]),
    }


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


def _tested(it, n_clips: int) -> tuple[ablation.Subject, np.ndarray]:
    """Return what is ablated, and a few test clips of each class."""
    (clips, cut), videos = it.test, some_of_each(it.test.clips.labels, n_clips)
    rows = np.concatenate([cut.rows_of(int(n)) for n in videos])
    how = {"stretch": it.settings["cluster"]["stretch"], "device": it.device}
    z = np.zeros((len(cut), it.finder.n_features), np.float32)
    z[rows] = features.extract_rows(it.finder, clips, cut, rows, **how)
    return replace(it.subject(), features=z), videos


def rivals(
    it,
    *,
    parts: Sequence[str] = (),
    carriers: Mapping[str, Sequence[str]] | None = None,
    n_clips: int = 6,
    n_controls: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Show and hide test clips in the order of the concepts, of controls and of saliency maps.

    Parameters
    ----------
    it
        See :func:`answers`.
    parts, carriers
        See :func:`parts_found`; without them nothing is said of the truth.
    n_clips : int, default 6
        Test clips a class, evenly spaced.
    n_controls, seed : int, default 3 and 0
        Draws of the random order and of each control, a clip, and their seed.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.ablation.run` over all concepts, with the orders of
        :func:`stce.ablation.ranked`, :func:`stce.ablation.matched` and
        :func:`stce.evaluation.saliency.along`; with ``held`` where the parts are known
        (:func:`stce.evaluation.truth.region`).
    """
    subject, videos = _tested(it, n_clips)
    if it.test.clips.parts is not None and parts:
        region = truth.region(it.test.clips, carriers or {}, parts)
        subject = replace(subject, region=region)
    few = it.test.clips.select(videos)
    maps = {
        "grad-cam": saliency.grad_cam(it.network, few, device=it.device),
        "integrated gradients": saliency.integrated_gradients(it.network, few, device=it.device),
        "occlusion": saliency.occlusion(it.network, few, device=it.device),
    }
    q_max = min(len(ranking) for ranking in it.rankings.values())
    kinds = ablation.ranked(n_controls, seed), ablation.matched(n_controls, seed)
    shown = [
        table
        for orders in (*kinds, saliency.along(maps, videos))
        for table in ablation.run(subject, orders, q_max=q_max, seed=seed, videos=videos)
    ]
    return pd.concat(shown, ignore_index=True)


def fills(
    it,
    names: Iterable[str] = ("mean", "blur", "noise"),
    *,
    n_clips: int = 6,
    n_random: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Repeat the ablation with other contents of hidden voxels, and with the predicted class.

    Parameters
    ----------
    it
        See :func:`answers`.
    names : iterable of str, default all
        See `fill` of :func:`stce.ablation.run`.
    n_clips, n_random, seed
        As of :func:`rivals`.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.curves.difference`, with ``fill`` in front; the last two rows, "mean,
        predicted class", are of clips explained with the concepts of the class that is predicted.
    """
    subject, videos = _tested(it, n_clips)
    how = {"q_max": min(5, *(len(ranking) for ranking in it.rankings.values()))}
    how |= {"seed": seed, "videos": videos}
    ways = {name: (subject, name) for name in names}
    ways["mean, predicted class"] = replace(subject, assign="predicted"), "mean"
    tables, orders = {}, ablation.ranked(n_random, seed)
    for name, (who, fill) in ways.items():
        outcomes = pd.concat(ablation.run(who, orders, fill=fill, **how))
        tables[name] = curves.difference(outcomes, seed=seed)
    return pd.concat(tables, names=["fill"]).reset_index(0)


def comparison(outcomes: pd.DataFrame, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Sum up the outcomes of :func:`rivals`; the seed is that of the resamples.

    Returns
    -------
    dict of str to pandas.DataFrame
        - ``accuracy``: of :func:`stce.curves.accuracy_table`.
        - ``areas``: of :func:`stce.curves.areas`, with ``steps``, the mean number of concepts until
          a clip is recognised, or no longer is (:func:`stce.curves.smallest`).
        - ``paired``: of :func:`stce.evaluation.paired.mcnemar`, the order "top" against each
          other, up to five concepts.
        - ``pointed``: of :func:`stce.evaluation.truth.pointed`, where the parts are known.
    """
    areas = curves.areas(outcomes, seed=seed)
    steps = curves.smallest(outcomes).groupby(["mode", "order"])["q"].mean().rename("steps")
    others = [order for order in outcomes["order"].unique() if order != "top"]
    first = outcomes[outcomes["q"] <= 5]
    tables = {
        "accuracy": curves.accuracy_table(outcomes, seed=seed),
        "areas": areas.merge(steps.reset_index()),
        "paired": pd.concat([paired.mcnemar(first, "top", order) for order in others]),
    }
    if "held" in outcomes:
        tables["pointed"] = truth.pointed(outcomes, seed=seed)
    return tables
