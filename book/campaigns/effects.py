"""What concepts do, over seeds: tables of the campaigns motion, causal and surrogate, summed up."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from book.campaigns import causal, turning
from book.tables import intervals
from stce.engine.resampling import interval, rank_correlation
from stce.viz.charts import KINDS

MIXED = "motion of a hand, look of a badge"
TRUTHS = ("motion", "look", "motion, beside a look", "look, beside a motion", "both", "neither")


def truths(table: pd.DataFrame) -> pd.DataFrame:
    """Add to concepts of the campaign "motion" what of them tells the classes of their world.

    A concept holds the parts of which it has more than any place would. Its ``truth`` is what of
    these tells the classes: "motion", "look", "both", or "neither". In the world in which the
    motion of one part tells them and the look of another, a concept may hold a little of the other
    part as well: "motion, beside a look", and "look, beside a motion".
    """
    held = table[list(turning.PARTS[1:])].astype(bool)
    beside = {"motion": "motion, beside a look", "look": "look, beside a motion"}
    told = []
    for world, parts in zip(table["world"], held.to_dict("records"), strict=True):
        found = {how for part, how in turning.WORLDS[world] if parts[part]}
        name = "both" if len(found) == 2 else next(iter(found), "neither")
        told.append(beside.get(name, name) if world == MIXED else name)
    return table.assign(truth=told)


def called(table: pd.DataFrame) -> pd.DataFrame:
    """Count what the concepts of each truth are called, beside the share that is called motion.

    Takes the campaign "motion"; returns one row a truth, indexed by it: the ``concepts``, the share
    of each kind, and of those that count at all (not "unsure", not "unseen") their number
    (``counting``) and the share called "motion" or "both", ``moves``, with its exact 95 % interval
    ``moves_low`` and ``moves_high``; shares are 0 to 1.
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
            row |= {"moves": moves / len(counting), "moves_low": low, "moves_high": high}
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


UNIT = ["run", "seed"]
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

    Takes the campaign "causal"; one row a ``part``, the largest effect first: the ``effect`` in
    logits and the share of clips ``lost``, each with its 95 % interval (``effect_low``, ...; see
    :func:`averaged`).
    """
    told = averaged(table.dropna(subset="part"), "part", ["effect", "lost"], seed)
    return told.sort_values("effect", ascending=False)


def methods(table: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, tuple[float, float, float]]:
    """Tell how well each method ranks the parts of a clip, and how its curves look.

    Takes the campaign "causal".

    Returns
    -------
    pandas.DataFrame
        One row a ``method``, the best first: the mean rank ``correlation`` with the true effects,
        and ``gap``, by how much the area under the insertion curve is above that under the deletion
        curve, each with its 95 % interval.
    tuple of float
        Whether the gaps rank the methods as the correlations do: Spearman's correlation of the two
        over methods, and its 95 % interval.
    """
    parts, shown = table.dropna(subset="part"), table.dropna(subset="method")
    shown = shown.assign(gap=shown["insertion"] - shown["deletion"])
    agreed = causal.agreement(parts, list(METHODS))
    both = agreed.merge(shown[[*UNIT, "id", "method", "gap"]], on=[*UNIT, "id", "method"])
    names, drawn = _resampled(both, "method", ["correlation", "gap"], seed)
    related = rank_correlation(*drawn.transpose(2, 0, 1))
    told = _summed_up(names, drawn, ["correlation", "gap"])
    told.insert(0, "method", [METHODS[name] for name in names])
    told = told.sort_values("correlation", ascending=False, ignore_index=True)
    return told, (float(related[0]), *interval(related[1:]))


def averaged(table: pd.DataFrame, what: str, values: list[str], seed: int = 0) -> pd.DataFrame:
    """Average over the clips of each run and seed, then over these, one row a `what`.

    The 95 % intervals are of a bootstrap that draws runs and, in each of them, clips.
    """
    names, drawn = _resampled(table, what, values, seed)
    told = _summed_up(names, drawn, values)
    told.insert(0, what, names)
    return told


def worded(table: pd.DataFrame, columns: dict[str, tuple[str, float, int]]) -> pd.DataFrame:
    """Write values with their intervals: of each column its title, a factor, and decimals."""
    told = pd.DataFrame(index=table.index)
    for value, (title, factor, digits) in columns.items():
        ends = table[[value, f"{value}_low", f"{value}_high"]]
        told[title] = intervals(factor * ends, digits, "")
    return told


def _summed_up(names: list[str], drawn: np.ndarray, values: list[str]) -> pd.DataFrame:
    """Return the first of the means, and the interval of the others."""
    told = pd.DataFrame(index=range(len(names)))
    for i, value in enumerate(values):
        told[value] = drawn[0, :, i]
        ends = [interval(column) for column in drawn[1:, :, i].T]
        told[[f"{value}_low", f"{value}_high"]] = ends
    return told


def _resampled(table, what, values, seed, n_bootstrap=1000) -> tuple[list[str], np.ndarray]:
    """Return names and means ``(1 + B, names, values)``: first as they are, then of resamples."""
    names, rng = list(dict.fromkeys(table[what])), np.random.default_rng(seed)
    blocks = []
    for _, mine in table.groupby(UNIT):
        wide = mine.pivot(index="id", columns=what, values=values)
        blocks.append(np.stack([wide[value][names].to_numpy() for value in values], axis=-1))
    means = [np.mean([np.nanmean(block, 0) for block in blocks], axis=0)]
    for _ in range(n_bootstrap):
        chosen = (blocks[i] for i in rng.integers(len(blocks), size=len(blocks)))
        again = (block[rng.integers(len(block), size=len(block))] for block in chosen)
        means.append(np.mean([np.nanmean(block, 0) for block in again], axis=0))
    return names, np.stack(means)


def explained(table: pd.DataFrame) -> pd.DataFrame:
    """Return what share of the logits' variance each description explains on unseen clips.

    Takes the campaign "surrogate"; one row a description, in its order, one column a run (the mean
    over its seeds), and the lowest and the highest of all runs and seeds.
    """
    wide = table.pivot_table("explained", "description", "run", sort=False)
    ends = table.groupby("description", sort=False)["explained"].agg(["min", "max"])
    return wide.join(ends.rename(columns={"min": "lowest", "max": "highest"}))
