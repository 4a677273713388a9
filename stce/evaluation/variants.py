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

__all__ = ["FEATURES", "Inputs", "Variant", "compare", "read", "recommend"]


def _score(given: Inputs, seen: Embedded, variant: Variant, n_groups: int, seed: int, device):
    rng = np.random.default_rng(seed)
    groups = tcav.random_groups(len(seen.random), n_groups, given.n_keep, rng)
    data = seen.found, seen.z, seen.whole, seen.random, groups, given.clips.classes
    samples = tcav.Samples(*data, variant.target)
    return tcav.score(seen.network, samples, seed=seed, device=device)


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
        See :func:`stce.ablation.run`.
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
    steps = {"q_max": q_max, "n_random": n_random, "seed": seed, "progress": False}
    steps |= {"batch_size": batch_size, "device": device}
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
            outcomes = pd.concat(ablation.run(*tested, features=at.test, **steps))
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


def recommend(table: pd.DataFrame, share: float = 0.9) -> str:
    """Say which variant to take, and why.

    Of the variants whose gain on the curves is at least `share` of the largest, the one whose
    ranking holds most of the truth; without truth, the one that is cheapest to embed.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`compare`.
    share : float, default 0.9
        Of the largest gain, 0 to 1.

    Returns
    -------
    str

    Examples
    --------
    >>> rows = {"layer": ["fc7", "conv5b"], "target": "logit", "features": ["in place", "pooled"]}
    >>> rows |= {"gain": [0.30, 0.29], "truth": [1.0, 1.5], "speed": [1.0, 50.0]}
    >>> rows |= {"change": [0.0, -0.01], "change_low": [0.0, -0.05], "change_high": [0.0, 0.03]}
    >>> print(recommend(pd.DataFrame(rows | {"n_clips": 36})))
    Take conv5b, logit, pooled: of 2 variants 2 have at least 90 % of the largest gain of top over
    least (30 points; this one 29), and of these its ranking holds most of the truth (lift +1.50;
    own variant +1.00). It embeds at 50 times the own variant's speed, and its gain differs from the
    own variant's by -1 points (-5 to 3, 36 clips).
    """
    largest = table["gain"].max()
    if not largest > 0:
        return (
            f"Take none of them: in no variant the first concepts do better than the last "
            f"({100 * largest:.0f} points at most, {table['n_clips'].iloc[0]} clips)."
        )
    good = table[table["gain"] >= share * largest]
    known = table["truth"].notna().any()
    best, own = good.loc[good["truth" if known else "speed"].idxmax()], table.iloc[0]
    why = "it is the fastest to embed"
    if known:
        why = "its ranking holds most of the truth "
        why += f"(lift {best['truth']:+.2f}; own variant {own['truth']:+.2f})"
    text = (
        f"Take {best['layer']}, {best['target']}, {best['features']}: of {len(table)} variants "
        f"{len(good)} have at least {100 * share:.0f} % of the largest gain of top over least "
        f"({100 * largest:.0f} points; this one {100 * best['gain']:.0f}), and of these {why}."
    )
    if best.name == own.name:
        return f"{text} It is the run's own variant."
    points = [100 * best[name] for name in ("change", "change_low", "change_high")]
    return (
        f"{text} It embeds at {best['speed']:.2g} times the own variant's speed, and its gain "
        "differs from the own variant's by {:.0f} points ({:.0f} to {:.0f}, ".format(*points)
        + f"{best['n_clips']} clips)."
    )
