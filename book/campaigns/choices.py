"""What layer, class output and features cost and gain: the campaign "variants" in, words out."""

from __future__ import annotations

import pandas as pd

__all__ = ["pooled", "table", "variants"]


def table(tried: pd.DataFrame) -> pd.DataFrame:
    """Average variants of the method over seeds.

    Parameters
    ----------
    tried : pandas.DataFrame
        Of the campaign "variants".

    Returns
    -------
    pandas.DataFrame
        Rows (run, layer, target, features), the run's own variant first: means of ``gain``,
        ``change``, ``truth``, ``ari``, ``agreement``, and ``forwards`` (passes through the network
        for each one of the own variant's); ``low`` and ``high`` are the smallest and the largest
        gain of the seeds, of which there are ``seeds``.
    """
    own = tried.groupby(["run", "seed"], sort=False)["forwards"].transform("first")
    keys = ["run", "layer", "target", "features"]
    groups = tried.assign(forwards=tried["forwards"] / own).groupby(keys, sort=False)
    columns = ["gain", "change", "truth", "ari", "agreement", "forwards"]
    ends = {"low": groups["gain"].min(), "high": groups["gain"].max()}
    return groups[columns].mean().assign(**ends, seeds=groups["seed"].nunique())


def variants(tried: pd.DataFrame) -> str:
    """Tell which layer, class output and features to take.

    Parameters
    ----------
    tried : pandas.DataFrame
        Of the campaign "variants".
    """
    averaged = table(tried).reset_index()
    lines = []
    for run, part in averaged.assign(points=100 * averaged["gain"]).groupby("run", sort=False):
        own, best = part.iloc[0], part.loc[part["points"].idxmax()]
        rest = part.iloc[1:].set_index(["target", "features"])
        pooled = part[part["features"] == "pooled"]
        cheap = pooled.loc[pooled["points"].idxmax()]
        before = rest.loc[[("logit", "in place")]].iloc[0]
        most = "the largest"
        if best.name != own.name:
            most = f"{best['layer']}, {best['target']}, {best['features']}: {best['points']:.0f}"
        lines.append(
            f"{run}: {own['layer']}, {own['target']}, {own['features']} gains {own['points']:.0f} "
            f"points ({most}); log_prob {rest.loc[('log_prob', 'in place'), 'points']:.0f}; "
            f"{before['layer']} {before['points']:.0f}; "
            f"stretched {rest.loc[('logit', 'stretched'), 'points']:.0f}; pooled at "
            f"{cheap['layer']} {cheap['points']:.0f} with {1 / cheap['forwards']:.0f} times fewer "
            "passes"
        )
    return (
        "- **Variants.** Top over least, mean of adding and removing over "
        f"{averaged['seeds'].max()} seeds. {'. '.join(lines)}."
    )


def pooled(tried: pd.DataFrame, ratio: float, gaps: pd.Series, wanted: float = 0.9) -> str:
    """Tell what embedding all supervoxels of a clip in one pass saves and loses.

    Parameters
    ----------
    tried : pandas.DataFrame
        Of the campaign "variants".
    ratio : float
        How many times as fast supervoxels are embedded, as the bench measured it.
    gaps : pandas.Series
        Area between the curves top and least, "in place" and "pooled".
    wanted : float, default 0.9
        Share of the area in place that would make pooling the better choice.
    """
    averaged = table(tried).reset_index()
    plain = averaged.groupby("run", sort=False).first()
    best = averaged[averaged["features"] == "pooled"].sort_values("gain").groupby("run").last()
    shares = (best["gain"] / plain["gain"])[plain.index]
    of_each = ", ".join(f"{run} {100 * share:.0f} %" for run, share in shares.items())
    share = gaps["pooled"] / gaps["in place"]
    kept = share >= wanted and (shares >= wanted).all()
    verdict = "It is as good at a fraction of the cost."
    if not kept:
        verdict = f"Asked were {100 * wanted:.0f} %: it stays an option, for a first look."
    fewer = 1 / best["forwards"]
    return (
        f"Pooled features take {fewer.min():.0f} to {fewer.max():.0f} times fewer passes and are "
        f"made **{ratio:.0f} times** as fast. The area between the most and the least important "
        f"concepts is then {100 * share:.0f} % of that of supervoxels shown one by one (all test "
        f"clips of the run above); over the networks, of a part of their clips: {of_each}. Their "
        f"concepts are others (adjusted Rand index {best['ari'].mean():.2f}), and rank otherwise "
        f"(agreement {best['agreement'].mean():.2f}). {verdict}"
    )
