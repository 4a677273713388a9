"""What campaigns and validations have found: published tables in, the tables of the book out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from book.tables import intervals

__all__ = [
    "beside",
    "by_heart",
    "came_back",
    "carriers",
    "cues",
    "false_discoveries",
    "fills",
    "gone",
    "inside",
    "orders",
    "pooled",
    "questions",
    "shortcut",
    "significant",
    "variants",
]

ALPHA = 0.05


def shortcut(cued: pd.DataFrame, control: pd.DataFrame) -> pd.DataFrame:
    """Count the seeds in which the concept that holds a planted badge comes first.

    Parameters
    ----------
    cued, control : pandas.DataFrame
        Of the campaigns "shortcut", and "no-shortcut" where the cue is shown.

    Returns
    -------
    pandas.DataFrame
        One column for the networks that "learnt" the badge and one for those that did "not".
    """
    columns = {}
    for name, table in {"learnt": cued, "not": control}.items():
        learnt = 100 * table.reindex(columns=["cue_there", "cue_removed", "cue_pasted"]).mean()
        columns[name] = {
            "recognised with the badge (% of clips)": learnt["cue_there"],
            "recognised without it (%)": learnt["cue_removed"],
            "other classes taken over by it (%)": learnt["cue_pasted"],
            "seeds": len(table),
            "the first concept holds it": table["first_holds"].sum(),
            "the concept with most of it is first": (table["most_rank"] == 1).sum(),
            "it is first or second": (table["most_rank"] <= 2).sum(),
            "the first concept is significant": (table["first_q_value"] < ALPHA).sum(),
            "the same, uncorrected": (table["first_p"] < ALPHA).sum(),
            "concepts of eight that hold it (mean)": table["holding"].mean(),
        }
    return pd.DataFrame(columns)


WORLDS = {"p_derivative": "random sets", "p": "both", "q_value": "corrected"}


def false_discoveries(null: pd.DataFrame) -> pd.DataFrame:
    """Count what is significant where nothing has a meaning.

    Parameters
    ----------
    null : pandas.DataFrame
        Of the campaign "null".

    Returns
    -------
    pandas.DataFrame
        One row a world and test: ``share`` of the concepts with ``ci_low``, ``ci_high`` (95 %,
        exact), in 0 to 1.
    """
    found = null[null["world"] != "planted"].groupby("world", sort=False).sum(numeric_only=True)
    rows = []
    for world, row in found.iterrows():
        for column, test in WORLDS.items():
            held = stats.binomtest(int(row[column]), int(row["concepts"]))
            rows.append((world, test, held.statistic, *held.proportion_ci()))
    return pd.DataFrame(rows, columns=["world", "test", "share", "ci_low", "ci_high"])


def significant(null: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """Count what the test finds where there is something to find.

    Parameters
    ----------
    null : pandas.DataFrame
        Of the campaign "null".
    tested : pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess`, of the run that is shown.

    Returns
    -------
    pandas.DataFrame
        One row a count.
    """
    planted = null[null["world"] == "planted"]
    real = tested["verdict"].isin(["for", "against"])
    rows = {
        "studies of each kind": null["seed"].nunique(),
        "planted concepts found (%)": 100 * planted["found"].sum() / null["seed"].nunique(),
        "concepts of the default run": len(tested),
        "of these significant": real.sum(),
        "of these among the first three of their class": (real & (tested["rank"] <= 3)).sum(),
        "concepts with the score 1": (tested["score"] == 1).sum(),
    }
    return pd.DataFrame({"number": rows}, dtype=float)


def carriers(found: pd.DataFrame) -> pd.DataFrame:
    """Average what rankings hold of the limbs that carry the classes, over runs and seeds.

    Parameters
    ----------
    found : pandas.DataFrame
        Of the campaign "truth".

    Returns
    -------
    pandas.DataFrame
        One row a class, and "all": lift of the first five concepts (``top``) and of five drawn at
        ``random``; in how many of the ``runs`` their gain is ``above zero``, and ``beyond
        chance`` (5 %); rank ``correlation`` of a concept's derivative with what it holds.
    """
    marked = found.assign(
        **{"above zero": found["gain"] > 0, "beyond chance": found["p"] < ALPHA, "runs": 1}
    )
    groups = marked.groupby("class")
    means = groups[["top", "random", "correlation"]].mean()
    counts = groups[["above zero", "beyond chance", "runs"]].sum()
    table = pd.concat([means, counts], axis=1)
    return table.loc[[*table.index.drop("all"), "all"]]


def gone(randomised: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Average the sanity checks over seeds.

    Parameters
    ----------
    randomised, labels : pandas.DataFrame
        Of the campaigns "sanity" and "labels".

    Returns
    -------
    pandas.DataFrame
        One row a ``network``: ``significant``, ``correlation``, ``ci_low``, ``ci_high``, ``seeds``.
    """
    other = labels[labels["network"] != "trained"]
    groups = pd.concat([randomised, other]).groupby("network", sort=False)
    columns = ["significant", "correlation", "ci_low", "ci_high"]
    return groups[columns].mean().assign(seeds=groups["seed"].nunique()).reset_index()


KINDS = {
    "trained": r"trained$",
    "by heart": r"labels shuffled(?!.*same start)",
    "by heart, same start": r"labels shuffled.*same start",
    "two by heart": r"two shuffles",
}


def by_heart(labels: pd.DataFrame) -> pd.DataFrame:
    """Average networks that learnt meaningless labels by heart, over all of a kind.

    Parameters
    ----------
    labels : pandas.DataFrame
        Of the campaign "labels".

    Returns
    -------
    pandas.DataFrame
        One row a kind of network: their number ``n``; the share of clips that they know
        (``fits``) and of concepts that are ``significant``, in per cent; rank ``agreement`` with
        the trained network, ``lowest``, ``highest`` and the 95 % interval of the mean; and
        ``figure``: rank correlation of the derivative with what a concept holds of the figure.
    """
    rows = {}
    for name, pattern in KINDS.items():
        part = labels[labels["network"].str.match(pattern)]
        agreed, mean = part["correlation"], part[["fits", "significant", "figure"]].mean()
        low, high = stats.t.interval(0.95, len(agreed) - 1, agreed.mean(), agreed.sem() or np.nan)
        rows[name] = {
            "n": len(part),
            "fits": 100 * mean["fits"],
            "significant": 100 * mean["significant"],
            "agreement": agreed.mean(),
            "lowest": agreed.min(),
            "highest": agreed.max(),
            "ci_low": low,
            "ci_high": high,
            "figure": mean["figure"],
        }
    return pd.DataFrame(rows).T.astype({"n": int})


def came_back(small: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """Average the agreement of rankings over seeds, by what was changed.

    Parameters
    ----------
    small, whole : pandas.DataFrame
        Of the campaigns "stability" and "training".

    Returns
    -------
    pandas.DataFrame
        ``changed``, ``correlation``, ``ci_low``, ``ci_high`` (the middle 95 % of seeds), best
        first.
    """
    steps = small[(small["value"] == "derivative") & (small["changed"] != "none")]
    large = whole.assign(classifier="ours", changed="whole run: " + whole["run"])
    both = pd.concat([steps, large])
    names = both["changed"] + both["classifier"].map({"ours": "", "SGD": " (SGD)"})
    ends = both.groupby(names)["correlation"].quantile([0.025, 0.975]).unstack()
    table = pd.DataFrame(
        {
            "correlation": both.groupby(names)["correlation"].mean(),
            "ci_low": ends[0.025],
            "ci_high": ends[0.975],
        }
    )
    table = table.rename_axis("changed").reset_index()
    return table.sort_values("correlation", ascending=False, ignore_index=True)


def orders(areas: pd.DataFrame, pointed: pd.DataFrame) -> pd.DataFrame:
    """Set the order of concepts beside controls and saliency maps.

    Parameters
    ----------
    areas, pointed : pandas.DataFrame
        Of a run's validation, see :mod:`stce.evaluation.validation`.

    Returns
    -------
    pandas.DataFrame
        One row a mode and order: its ``area`` and the ``gain`` of the concepts' order over it,
        with 95 % intervals; ``steps`` until the answer changes; and, once an order, lift of the
        carrying ``limbs`` in its first steps.
    """
    table = areas.set_index(["mode", "order"])
    gain = pd.Series(intervals(table[["gain", "gain_low", "gain_high"]], 2), table.index)
    limbs = pointed.set_index("order")["lift"].map("{:.1f}".format)
    columns = {
        "area": intervals(table[["area", "ci_low", "ci_high"]], 2, ""),
        "gain": gain.drop("top", level="order"),
        "steps": table["steps"].map("{:.1f}".format),
        "limbs": pd.concat({"add": limbs}, names=["mode"]),
    }
    return pd.DataFrame(columns, index=table.index).fillna("")


def fills(told: pd.DataFrame) -> pd.DataFrame:
    """Lay out the gains of top over least, in points, by what hidden voxels hold.

    Parameters
    ----------
    told : pandas.DataFrame
        The table ``fills`` of a run's validation.
    """
    points = told.assign(points=100 * told["gain"])
    table = points.pivot(index="fill", columns="mode", values="points").rename_axis(columns=None)
    return table.rename(columns={"add": "adding", "remove": "removing"})


def variants(tried: pd.DataFrame) -> pd.DataFrame:
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


def inside(tried: pd.DataFrame) -> pd.DataFrame:
    """Set supervoxels that are hidden inside a network beside those that are hidden in the clip.

    Parameters
    ----------
    tried : pandas.DataFrame
        Of the campaign "inside".

    Returns
    -------
    pandas.DataFrame
        One row a ``run`` and layer at which they are ``hidden``, "in place" first: how many times
        as fast they are embedded (``speed``), the ``gain`` of top over least and its ``share`` of
        the gain in place, ``truth``, and the ``agreement`` of the ranking with the one in place;
        means over seeds.
    """
    columns = ["speed", "gain", "truth", "agreement"]
    table = tried.groupby(["run", "features"], sort=False)[columns].mean()
    own = table.groupby("run", sort=False)["gain"].transform("first")
    return table.assign(share=table["gain"] / own).rename_axis(["run", "hidden"])


def pooled(tried: pd.DataFrame) -> pd.DataFrame:
    """Compare each run's own variant with its best pooled one.

    Parameters
    ----------
    tried : pandas.DataFrame
        Of the campaign "variants".

    Returns
    -------
    pandas.DataFrame
        One row a run: the pooled variant's ``layer``, ``gain``, its ``share`` of the own gain,
        how many times ``fewer`` passes it takes, ``ari`` and ``agreement`` with the own concepts
        and ranking.
    """
    averaged = variants(tried).reset_index()
    own = averaged.groupby("run", sort=False).first()
    best = averaged[averaged["features"] == "pooled"].sort_values("gain").groupby("run").last()
    best = best.loc[own.index]
    made = best[["layer", "gain", "ari", "agreement"]]
    return made.assign(share=best["gain"] / own["gain"], fewer=1 / best["forwards"])


def beside(tried: pd.DataFrame, by: str, measures: Iterable[str]) -> pd.DataFrame:
    """Average each choice over runs, and set it beside the first one on the same runs.

    Parameters
    ----------
    tried : pandas.DataFrame
        One row a ``run``, ``seed`` and choice.
    by : str
        Column of the choice; the first in the table is what the others are held against.
    measures : iterable of str
        Columns that are compared.

    Returns
    -------
    pandas.DataFrame
        Rows (measure, choice): the mean ``value``, how much ``more`` it is than that of the first
        choice, with the 95 % interval of this mean of differences over runs and seeds, ``low`` and
        ``high`` (NaN for the first choice itself), and the number of ``runs``.
    """
    wide = tried.pivot(index=["run", "seed"], columns=by, values=list(measures))
    first, rows = tried[by].iloc[0], {}
    for measure in measures:
        for choice in tried[by].unique():
            more = wide[measure, choice] - wide[measure, first]
            spread = more.sem() if choice != first else np.nan
            low, high = stats.t.interval(0.95, len(more) - 1, more.mean(), spread or np.nan)
            row = {"value": wide[measure, choice].mean(), "more": more.mean()}
            rows[measure, choice] = row | {"low": low, "high": high, "runs": len(more)}
    return pd.DataFrame(rows).T.rename_axis(["measure", by]).astype({"runs": int})


def cues(planted: pd.DataFrame) -> pd.DataFrame:
    """Count what ways to find concepts make of a planted cue, and of clusters of noise.

    Parameters
    ----------
    planted : pandas.DataFrame
        Of the campaign "discovery-cue".

    Returns
    -------
    pandas.DataFrame
        One row a way: in how many ``seeds`` the concept that comes first holds the badge, the
        concept with most of it is first, the first is significant, and a study of noise finds
        anything.
    """
    ways = planted.assign(
        **{"the one with most of it is first": planted["most"] == 1, "seeds": 1},
    ).groupby("way", sort=False)
    names = {"first": "the first concept holds it", "sure": "the first one is significant"}
    names |= {"false": "studies of noise with a discovery"}
    columns = ["seeds", "first", "the one with most of it is first", "sure", "false"]
    return ways[columns].sum().astype(int).rename(columns=names)


def questions(told: pd.DataFrame) -> pd.DataFrame:
    """Average what a sceptic's questions were answered by, over classes and seeds.

    Parameters
    ----------
    told : pandas.DataFrame
        Rows ``question``, ``value`` and ``passes``, such as of the campaign "transformer".

    Returns
    -------
    pandas.DataFrame
        One row a question: mean, smallest and largest ``value``, and how many classes ``passed``;
        "" where a question is told and not judged.
    """
    groups = told.groupby("question", sort=False)
    table = groups["value"].agg(["mean", "min", "max"])
    judged = groups["passes"].agg(lambda part: part.notna().all())
    passed = groups["passes"].agg(lambda part: f"{int(part.sum())} of {len(part)}")
    names = {"mean": "value", "min": "smallest", "max": "largest"}
    return table.rename(columns=names).assign(passed=passed.where(judged, ""))
