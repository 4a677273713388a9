"""Which layer, class output and features to take? All of them on one run, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from stce import ablation, curves, tcav
from stce import concepts as concepts_module
from stce.datasets.actors import PARTS
from stce.engine.progress import bar
from stce.evaluation import stability, truth
from stce.evaluation.inputs import FEATURES, Embedded, Inputs, Variant, cluster, embed, read, view

__all__ = ["FEATURES", "Inputs", "Variant", "compare", "read"]


def _score(given: Inputs, seen: Embedded, variant: Variant, n_groups: int, seed: int, device):
    how = {"target": variant.target, "seed": seed, "device": device}
    rng = np.random.default_rng(seed)
    groups = tcav.random_groups(len(seen.random), n_groups, given.n_keep, rng)
    data = seen.found, seen.z, seen.whole, seen.random, groups, given.clips.classes
    return tcav.score(seen.network, *data, **how)


def _likeness(given: Inputs, first: Embedded, second: Embedded) -> tuple[float, dict]:
    """Return the adjusted Rand index of two clusterings, and their concepts in pairs."""
    labels = given.clips.labels
    rand, pairs = [], {}
    for name in first.found.centres:
        y = given.clips.classes.index(name)
        mine = labels[given.cut.table["video"]] == y
        sides = [(side.z, side.found.centres[name]) for side in (first, second)]
        owners = [concepts_module.assign(z[mine], centres) for z, centres in sides]
        rand.append(adjusted_rand_score(*owners))
        runs = [(given.cut, *side) for side in sides]
        pairs[name] = stability.match(stability.overlap(*runs, np.flatnonzero(labels == y)))
    return float(np.mean(rand)), pairs


def _by_clip(outcomes: pd.DataFrame, order: str) -> pd.DataFrame:
    """Return how much better "top" does than "least" on each clip, as outcomes of one `order`."""
    steps = outcomes[outcomes["q"] > 0].groupby(["mode", "video", "order"])["correct"].mean()
    gain = (steps.unstack("order")["top"] - steps.unstack("order")["least"]).unstack("mode")
    table = ((gain["add"] - gain["remove"]) / 2).rename("correct").reset_index()
    return table.assign(mode="add", order=order, q=1)


def _curves(outcomes: pd.DataFrame, own: pd.DataFrame, seed: int) -> dict:
    row = {}
    for second, end in (("least", ""), ("random", "_random")):
        for told in curves.difference(outcomes, "top", second, seed=seed).itertuples():
            name = told.mode + end
            row |= {name: told.gain, f"{name}_low": told.ci_low, f"{name}_high": told.ci_high}
    both = pd.concat([_by_clip(outcomes, "this"), _by_clip(own, "own")])
    told = curves.difference(both, "this", "own", seed=seed).iloc[0]
    row |= {"gain": (row["add"] + row["remove"]) / 2, "change": told["gain"]}
    ends = {"change_low": told["ci_low"], "change_high": told["ci_high"]}
    return row | ends | {"n_clips": told["n_clips"]}


def _truth(lifts: pd.DataFrame | None, scores, carriers, n_top: int, seed: int) -> dict:
    names = {"truth": "gain", "truth_low": "ci_low", "truth_high": "ci_high"}
    names["truth_correlation"] = "correlation"
    if lifts is None:
        return dict.fromkeys(names, np.nan)
    told = truth.found(lifts, scores, carriers, n_top=n_top, seed=seed).iloc[-1]
    return {name: told[column] for name, column in names.items()}


def compare(
    given: Inputs | str | Path,
    variants: Iterable[Variant],
    *,
    parts: Sequence[str] = PARTS,
    carriers: Mapping[str, Sequence[str]] = truth.KTH_CARRIERS,
    n_top: int = 5,
    n_groups: int = 10,
    n_random: int = 3,
    q_max: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    device="cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Try variants of the method on the same clips.

    Supervoxels, random clips, random groups and seeds are the same for all. Features are computed
    once for the variants that share them.

    Parameters
    ----------
    given : Inputs or path
        Of :func:`read`, or a run's folder, which is then read with the defaults.
    variants : iterable of Variant
        What to try; the run's own comes first, whether named or not.
    parts : sequence of str, default those of the actors
        Names of the parts in ``clips.parts``.
    carriers, n_top
        See :func:`stce.evaluation.truth.found`.
    n_groups : int, default 10
        See :func:`stce.tcav.random_groups`.
    n_random, q_max : int, default 3 and 5
        See :func:`stce.ablation.ranked` and :func:`stce.ablation.run`.
    seed : int, default 0
        Seeds everything random.
    batch_size : int, default 64
        Supervoxels or masked clips a forward pass.
    device : torch.device, default "cpu"
        Where the network runs.
    progress : bool, default True
        Show a progress bar on a terminal.

    Returns
    -------
    pandas.DataFrame
        One row a variant, ``layer``, ``target``, ``features``. Intervals are 95 % and end in
        ``_low``, ``_high``; those of the curves are paired over test clips.

        - Cost of embedding the discovery supervoxels: ``n_features``, ``seconds``, ``forwards``,
          ``speed`` (times as fast as the own variant). Segmentation comes on top, the same for all.
        - Curves (:func:`stce.curves.difference`), in 0 to 1: ``add``, ``remove``, gain of top over
          least; ``add_random``, ``remove_random``, of top over random orders; ``gain``, mean of
          the first two; ``change``, gain less that of the own variant; ``n_clips``.
        - Truth (:func:`stce.evaluation.truth.found`, all classes), NaN without parts: ``truth``
          (lift gained by the head of the ranking) and ``truth_correlation``.
        - Likeness to the own variant: ``ari`` (adjusted Rand index of the concepts that the same
          supervoxels are given to, mean over classes) and ``agreement`` (rank correlation of the
          derivatives of matched concepts). The first row, the own variant, is compared with itself
          from another seed of k-means: more likeness is not to be expected of any.

    Raises
    ------
    ValueError
        If a layer does not exist, or has no positions to pool over.
    """
    given = given if isinstance(given, Inputs) else read(given)
    variants = list(dict.fromkeys([given.own, *variants]))
    for variant in variants:
        view(given.network, variant.layer, variant.features)
    orders = ablation.ranked(n_random, seed)
    steps = {"q_max": q_max, "seed": seed, "progress": False}
    how = {"batch_size": batch_size, "device": device}
    scoring = {"n_groups": n_groups, "seed": seed, "device": device}
    rows, own = {}, None
    embedded = dict.fromkeys((v.layer, v.features) for v in variants)
    for key in bar(embedded, show=progress, desc="compare", unit="embedding"):
        at = embed(given, *key, parts, seed, device)
        alike = _likeness(given, own[0] if own else at, at)
        for variant in (v for v in variants if (v.layer, v.features) == key):
            result = _score(given, at, variant, **scoring)
            rankings = {name: result.ranking(name) for name in at.found.centres}
            tested = at.network, given.test, given.test_cut, at.found, rankings
            subject = ablation.Subject(*tested, features=at.test, **how)
            outcomes = pd.concat(ablation.run(subject, orders, **steps))
            if own:
                like, other = alike, result.scores
            else:
                own = at, result.scores, outcomes
                again = replace(at, found=cluster(given, at.z, seed + 1))
                like = _likeness(given, at, again)
                other = _score(given, again, variant, **scoring).scores
            told = stability.agreement(own[1], other, like[1], seed=seed).iloc[-1]
            row = {"layer": variant.layer, "target": variant.target, "features": variant.features}
            row |= at.facts | {"speed": own[0].facts["seconds"] / at.facts["seconds"]}
            row |= _curves(outcomes, own[2], seed)
            row |= _truth(at.lifts, result.scores, carriers, n_top, seed)
            row |= {"ari": like[0], "agreement": told["correlation"]}
            row |= {f"agreement_{end}": told[f"ci_{end}"] for end in ("low", "high")}
            rows[variant] = row
    return pd.DataFrame([rows[variant] for variant in variants])
