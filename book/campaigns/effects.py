"""What concepts do, over seeds: tables of the campaigns motion, causal and surrogate, summed up."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from book.campaigns import causal, turning
from stce.engine.resampling import mean_interval, rank_correlation

KINDS = ("motion", "both", "look", "presence", "unsure", "unseen")
TRUTHS = ("motion", "look", "both", "neither")


def truths(table: pd.DataFrame) -> pd.DataFrame:
    """Add to concepts of the campaign "motion" what of them tells the classes of their world.

    A concept holds the parts of which it has more than any place would. Its ``truth`` is what of
    these tells the classes: "motion", "look", "both", or "neither".
    """
    held = table[list(turning.PARTS[1:])].astype(bool)
    told = []
    for world, parts in zip(table["world"], held.to_dict("records"), strict=True):
        found = {how for part, how in turning.WORLDS[world] if parts[part]}
        told.append("both" if len(found) == 2 else next(iter(found), "neither"))
    return table.assign(truth=told)


def called(table: pd.DataFrame) -> pd.DataFrame:
    """Count what the concepts of each truth are called, beside the share that is called motion.

    Takes the campaign "motion"; returns one row a truth, indexed by it: the ``concepts``, the share
    of each kind, and of those that count at all (not "unsure", not "unseen") their number
    (``counting``) and the share called "motion" or "both", ``moves``, with its exact 95 % interval
    ``ci_low`` and ``ci_high``; shares are 0 to 1.
    """
    rows = {}
    for truth, mine in truths(table).groupby("truth"):
        counting = mine[~mine["kind"].isin(["unsure", "unseen"])]
        row = {"concepts": len(mine)}
        row |= {kind: (mine["kind"] == kind).mean() for kind in KINDS}
        row["counting"] = len(counting)
        if len(counting):
            moves = int(counting["kind"].isin(["motion", "both"]).sum())
            low, high = binomtest(moves, len(counting)).proportion_ci()
            row |= {"moves": moves / len(counting), "ci_low": low, "ci_high": high}
        rows[truth] = row
    return pd.DataFrame(rows).T.reindex(TRUTHS)


def knows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of the networks of each world, on clips as they are and shuffled, in %.

    Takes the campaign "motion"; the mean and the lowest of the seeds.
    """
    each = table.drop_duplicates(["seed", "world"])[["world", "accuracy", "accuracy_shuffled"]]
    each = each.set_index("world") * 100
    told = each.groupby("world", sort=False).agg(["mean", "min"])
    told.columns = ["accuracy", "lowest", "shuffled", "lowest, shuffled"]
    return told


METHODS = {
    "contributions": "contributions of supervoxels",
    "score": "STCE, score",
    "derivative": "STCE, derivative",
    "concept hidden, mean": "concept hidden, by the mean",
    "concept hidden, blur": "concept hidden, by a blur",
    "concept hidden, noise": "concept hidden, by noise",
    "grad-cam": "3-D Grad-CAM",
    "integrated gradients": "Integrated Gradients",
    "occlusion": "occlusion",
    "random": "random",
}


def true_effects(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average what each part does to the logit, and to recognition, over the clips of all runs.

    Takes the campaign "causal"; one row a ``part``: the ``effect`` in logits and its interval over
    runs and seeds, and the share of clips ``lost``.
    """
    parts = table.dropna(subset="part")
    return _over_runs(parts, "part", ["effect", "lost"], seed).sort_values(
        "effect", ascending=False
    )


def methods(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Tell how well each method ranks the parts of a clip, and how its curves look.

    Takes the campaign "causal"; one row a ``method``, the best first: the mean rank ``correlation``
    with the true effects with its 95 % interval over runs and seeds (``ci_low``, ``ci_high``), and
    ``gap``, by how much the area under the insertion curve is above that under the deletion curve.
    """
    parts, shown = table.dropna(subset="part"), table.dropna(subset="method")
    shown = shown.assign(gap=shown["insertion"] - shown["deletion"])
    agreed = causal.agreement(parts, list(METHODS))
    told = _over_runs(agreed, "method", ["correlation"], seed)
    told = told.rename(columns={"correlation_low": "ci_low", "correlation_high": "ci_high"})
    told = told.merge(_over_runs(shown, "method", ["gap"], seed), on="method")
    told["method"] = told["method"].map(METHODS)
    return told.sort_values("correlation", ascending=False, ignore_index=True)


def agree(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> tuple[float, ...]:
    """Return whether deletion curves rank the methods as the truth does: Spearman's correlation.

    Takes the campaign "causal"; the correlation over methods of mean gap and mean correlation with
    the true effects, with its 95 % interval over runs and seeds.
    """
    parts, shown = table.dropna(subset="part"), table.dropna(subset="method")
    shown = shown.assign(gap=shown["insertion"] - shown["deletion"])
    agreed = causal.agreement(parts, list(METHODS))
    units = ["run", "seed"]
    sides = [
        side.groupby([*units, "method"])[value].mean().unstack("method")[list(METHODS)].to_numpy()
        for side, value in ((shown, "gap"), (agreed, "correlation"))
    ]
    drawn = np.random.default_rng(seed).integers(len(sides[0]), size=(n_bootstrap, len(sides[0])))
    means = [np.concatenate([s.mean(0)[None], s[drawn].mean(1)]) for s in sides]
    related = rank_correlation(*means)
    return float(related[0]), *np.quantile(related[1:], [0.025, 0.975])


def _over_runs(table: pd.DataFrame, what: str, values: list[str], seed: int) -> pd.DataFrame:
    """Average over the clips of each run and seed, then over these, with an interval over them."""
    rng, rows = np.random.default_rng(seed), []
    for name, mine in table.groupby(what, sort=False):
        each = mine.groupby(["run", "seed"])[values].mean()
        row = {what: name} | each.mean().to_dict()
        for value in values:
            low, high = mean_interval(each[value].to_numpy(), 1000, rng)
            row |= {f"{value}_low": low, f"{value}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def explained(table: pd.DataFrame) -> pd.DataFrame:
    """Return what share of the logits' variance each description explains on unseen clips.

    Takes the campaign "surrogate"; one row a description, in its order, one column a run (the mean
    over its seeds), and the lowest and the highest of all runs and seeds.
    """
    wide = table.pivot_table("explained", "description", "run", sort=False)
    ends = table.groupby("description", sort=False)["explained"].agg(["min", "max"])
    return wide.join(ends.rename(columns={"min": "lowest", "max": "highest"}))
