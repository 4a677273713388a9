"""What a sceptic asks of a finished run, one table a question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from stce import ablation, concepts, curves, features, tcav
from stce.datasets.actors import PARTS
from stce.evaluation import controls, paired, saliency, sanity, significance, stability, truth
from stce.evaluation.inputs import spread
from stce.study.evidence import Evidence

__all__ = [
    "carriers",
    "chance",
    "compare",
    "fills",
    "parts",
    "randomised",
    "repeated",
    "rescored",
    "rivals",
]


def chance(it: Evidence, *, n_null: int = 1000, n_jobs: int = 1, device="cpu") -> pd.DataFrame:
    """Test each concept of a run against chance, see :func:`stce.evaluation.significance.assess`.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    n_null : int, default 1000
        Random sets of each size, and shuffles of the head. Log scale: 100, 300, 1000.
    n_jobs : int, default 1
        Processes; -1 for one a core.
    device : torch.device, default "cpu"
        Where gradients and classifiers are computed.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess`.
    """
    network, *given = it.given()
    how = {"n_null": n_null, "n_shuffles": n_null, "n_jobs": n_jobs, "device": device}
    return significance.assess(network, it.result, *given, **it.options, **how)


def parts(it: Evidence, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Ask whether the ranking finds the limbs that carry a class, on data whose parts are known.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    seed : int, default 0
        Of random rankings and resamples.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``composition`` of :func:`stce.evaluation.truth.composition` and ``truth`` of
        :func:`stce.evaluation.truth.found`; empty if the parts are not known.
    """
    if it.clips.parts is None:
        return {}
    lifts, found = carriers(it.concepts, it.supervoxels, it.clips, it.result.scores, seed)
    return {"composition": lifts, "truth": found}


def carriers(concepts, cut, clips, scores: pd.DataFrame, seed: int = 0) -> tuple:
    """Tell what concepts consist of, and whether their ranking finds what carries the class.

    Parameters
    ----------
    concepts, cut, clips
        Concepts, the supervoxels that they hold, and the clips of these; the parts are known.
    scores : pandas.DataFrame
        Of :class:`stce.tcav.Tcav`.
    seed : int, default 0
        Of random rankings and resamples.

    Returns
    -------
    lifts, found : pandas.DataFrame
        Of :func:`stce.evaluation.truth.composition` and :func:`stce.evaluation.truth.found`.
    """
    lifts = truth.composition(truth.counts(concepts, cut, clips.parts, PARTS, clips.groups))
    return lifts, truth.found(lifts, scores, truth.KTH_CARRIERS, seed=seed)


def randomised(
    it: Evidence,
    trained: pd.DataFrame,
    *,
    n_networks: int = 4,
    n_null: int = 1000,
    seed: int = 0,
    n_jobs: int = 1,
    device="cpu",
) -> dict[str, pd.DataFrame]:
    """Score the same concepts with networks whose weights are randomised from the top down.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    trained : pandas.DataFrame
        Of :func:`chance`.
    n_networks : int, default 4
        How many, evenly spaced over the blocks; the last one is wholly random.
    n_null, n_jobs, device
        See :func:`chance`; give the same `n_null`.
    seed : int, default 0
        Of the shuffles.

    Returns
    -------
    dict of str to pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess` by network, "trained" first: the argument of
        :func:`stce.evaluation.sanity.check`.
    """
    nets = dict(sanity.cascade(it.network, np.random.default_rng(seed)))
    names = list(nets)
    chosen = np.linspace(len(names) - 1, 0, n_networks)[::-1].round().astype(int)
    how = {"n_null": n_null, "n_jobs": n_jobs, "device": device}
    tables = {"trained": trained}
    for name in (names[i] for i in chosen):
        tables[f"{name} and above random"] = rescored(it, nets[name], **how)
    return tables


def rescored(
    it: Evidence, network, *, n_null: int = 1000, n_jobs: int = 1, device="cpu"
) -> pd.DataFrame:
    """Score and test a run's concepts with another network.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    network : stce.models.network.Network
        Of the same classes and input size, cut at the same layer.
    n_null, n_jobs, device
        See :func:`chance`.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess`.
    """
    inputs = it.concepts, it.clips, it.supervoxels, it.random_clips, it.groups
    how = {"stretch": it.settings["cluster"]["stretch"], **it.options}
    how |= {"n_null": n_null, "n_shuffles": n_null, "n_jobs": n_jobs, "device": device}
    return sanity.rescored(network, *inputs, **how)


def repeated(it: Evidence, *, n_sgd: int = 50, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Repeat steps of a run with another seed, one at a time, and compare the rankings.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    n_sgd : int, default 50
        Random groups that the reference code's classifiers are fitted to.
    seed : int, default 0
        Of the other groups, and of the classifiers.

    Returns
    -------
    dict of str to pandas.DataFrame
        Of :func:`stce.evaluation.stability.agreement`, by what was changed.
    """
    ours, made = it.result.scores, it.settings["cluster"]
    rng = np.random.default_rng([seed, 1])
    groups = tcav.random_groups(len(it.random), len(it.groups), it.groups.shape[1], rng)
    regrouped = tcav.score(*it.given(groups=groups), **it.options)
    owner = it.supervoxels.table["video"].to_numpy()
    how = {"n_concepts": made["n_concepts"], "n_keep": made["n_keep"], "seed": made["seed"] + 1}
    data = np.asarray(it.features[:]), it.clips.labels[owner], owner, it.clips.classes
    found = concepts.cluster(*data, **how)
    pairs = {
        name: stability.match(stability.by_distance(it.concepts.centres[name], centres))
        for name, centres in found.centres.items()
    }
    reclustered = tcav.score(*it.given(found), **it.options)
    few = it.given(groups=it.groups[:n_sgd])
    sgd = [stability.sgd_scores(*few, seed=s) for s in (seed, seed + 1)]
    return {
        "random groups": stability.agreement(ours, regrouped.scores),
        "k-means": stability.agreement(ours, reclustered.scores, pairs),
        "SGD classifier's seed": stability.agreement(*sgd),
        "SGD instead of ours": stability.agreement(ours, sgd[0]),
    }


def _tested(it: Evidence, n_clips: int, device) -> tuple[ablation.Subject, np.ndarray]:
    """Return what is ablated, and a few test clips of each class."""
    cut, videos = it.test_supervoxels, spread(it.test_clips.labels, n_clips)
    rows = np.concatenate([cut.rows_of(int(n)) for n in videos])
    how = {"stretch": it.settings["cluster"]["stretch"], "device": device}
    z = np.zeros((len(cut), it.network.n_features), np.float32)
    z[rows] = features.extract_rows(it.network, it.test_clips, cut, rows, **how)
    given = it.network, it.test_clips, cut, it.concepts, it.rankings
    return ablation.Subject(*given, features=z, device=device), videos


def rivals(
    it: Evidence, *, n_clips: int = 6, n_controls: int = 3, seed: int = 0, device="cpu"
) -> pd.DataFrame:
    """Show and hide test clips in the order of the concepts, of controls and of saliency maps.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    n_clips : int, default 6
        Test clips a class, evenly spaced.
    n_controls : int, default 3
        Draws of the random order and of each control, a clip.
    seed : int, default 0
        Of these.
    device : torch.device, default "cpu"
        Where the network runs.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.ablation.run`, over all concepts; with ``held`` where the parts are known
        (:func:`stce.evaluation.truth.region`).
    """
    subject, videos = _tested(it, n_clips, device)
    if it.test_clips.parts is not None:
        region = truth.region(it.test_clips, truth.KTH_CARRIERS, PARTS)
        subject = replace(subject, region=region)
    few = it.test_clips.select(videos)
    maps = {
        "grad-cam": saliency.grad_cam(it.network, few, device=device),
        "integrated gradients": saliency.integrated_gradients(it.network, few, device=device),
        "occlusion": saliency.occlusion(it.network, few, device=device),
    }
    q_max = min(len(ranking) for ranking in it.rankings.values())
    kinds = ablation.ranked(n_controls, seed), controls.random(n_controls, seed)
    shown = [
        table
        for orders in (*kinds, saliency.along(maps, videos))
        for table in ablation.run(subject, orders, q_max=q_max, seed=seed, videos=videos)
    ]
    return pd.concat(shown, ignore_index=True)


def fills(
    it: Evidence,
    names: Iterable[str] = ("mean", "blur", "noise"),
    *,
    n_clips: int = 6,
    n_random: int = 3,
    seed: int = 0,
    device="cpu",
) -> pd.DataFrame:
    """Repeat the ablation with other contents of hidden voxels, and with the predicted class.

    Parameters
    ----------
    it : stce.study.evidence.Evidence
        Of the run.
    names : iterable of str, default all
        See `fill` of :func:`stce.ablation.run`.
    n_clips, n_random, seed, device
        As of :func:`rivals`.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.curves.difference`, with ``fill`` in front; the last two rows, "mean,
        predicted class", are of clips explained with the concepts of the class that is predicted.
    """
    subject, videos = _tested(it, n_clips, device)
    how = {"q_max": min(5, *(len(ranking) for ranking in it.rankings.values()))}
    how |= {"seed": seed, "videos": videos}
    ways = {name: (subject, name) for name in names}
    ways["mean, predicted class"] = replace(subject, assign="predicted"), "mean"
    tables, orders = {}, ablation.ranked(n_random, seed)
    for name, (who, fill) in ways.items():
        outcomes = pd.concat(ablation.run(who, orders, fill=fill, **how))
        tables[name] = curves.difference(outcomes, seed=seed)
    return pd.concat(tables, names=["fill"]).reset_index(0)


def compare(outcomes: pd.DataFrame, *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Sum up what :func:`rivals` found.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Of :func:`rivals`.
    seed : int, default 0
        Of the resamples.

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
