"""What the factorial on real clips says: effects of the causes, and charts of them."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from book import published
from stce.ablation import MATCHED
from stce.curves import difference
from stce.viz import tables
from stce.viz.style import COLOURS, DOTTED, label_rows, panels, styled

__all__ = [
    "CHOSEN",
    "DEFAULT",
    "asked",
    "attainable",
    "attained",
    "by_class",
    "by_parts",
    "cell",
    "compared",
    "confirmed",
    "contrast",
    "effects",
    "ends",
    "falls",
    "found_again",
    "gains",
    "grid",
    "halves",
    "in_short",
    "in_words",
    "ladder",
    "measured",
    "needed",
    "on_others",
    "pulled",
    "side_by_side",
    "worlds",
]

CAUSES = ("world", "negatives", "direction", "score")
DEFAULT = {
    "pieces": "colour", "representation": "in place", "found_at": "avgpool", "layer": "avgpool",
    "negatives": "textures", "direction": "logistic", "score": "votes",
}  # fmt: skip
CHOSEN = {
    "pieces": "fine", "representation": "pooled", "found_at": "Mixed_4f", "layer": "Mixed_5c",
    "negatives": "matched supervoxels of other classes", "direction": "logistic",
    "score": "derivative",
}  # fmt: skip


def worlds(table: pd.DataFrame) -> pd.Series:
    """Name what supervoxels are cut by, how they are shown and at which layers they are seen."""
    at = table["layer"].where(
        table["found_at"] == table["layer"], table["found_at"] + " > " + table["layer"]
    )
    return table["representation"].where(
        table["representation"] != "pooled", "pooled " + at + ", " + table["pieces"]
    )


def cell(table: pd.DataFrame, wanted: dict[str, str]) -> pd.DataFrame:
    """Return the rows of one cell, a class each (and scene)."""
    return table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """Tell by how much each level of a cause moves the correlation from the mean of all cells.

    Parameters
    ----------
    table : pandas.DataFrame
        The factorial, one row a class and cell.

    Returns
    -------
    pandas.DataFrame
        One row a ``cause`` and ``level``: ``effect`` (on the rank correlation of ranking and lift,
        mean over classes), ``lowest`` and ``highest`` of the classes, ``best`` (the best cell of
        the level, mean over classes), ``cells``.

    Examples
    --------
    >>> rows = [("k", "pooled", "l", "l", "colour", n, "logistic", "votes", c)
    ...         for n, c in (("a", 0.5), ("b", 0.1))]
    >>> names = ["class", "representation", "found_at", "layer", "pieces", *CAUSES[1:]]
    >>> found = effects(pd.DataFrame(rows, columns=[*names, "correlation"]))
    >>> found[found["cause"] == "negatives"]["effect"].tolist()
    [0.2, -0.2]
    """
    table = table.assign(world=worlds(table))
    # Each class by its own mean: what is left is what the cause does.
    own = table["correlation"] - table.groupby("class")["correlation"].transform("mean")
    rows = []
    for cause in CAUSES:
        for level, part in table.assign(own=own).groupby(cause, sort=False):
            each = part.groupby("class")["own"].mean()
            others = [name for name in CAUSES if name != cause]
            best = part.groupby(others)["correlation"].mean().max()
            n = len(part) // len(each)
            rows.append((cause, level, each.mean(), each.min(), each.max(), best, n))
    columns = ["cause", "level", "effect", "lowest", "highest", "best", "cells"]
    found = pd.DataFrame(rows, columns=columns).round({"effect": 12})
    return found.sort_values(["cause", "effect"], ascending=[True, False], ignore_index=True)


def compared(folder: str, run: str) -> tuple[published.Results, pd.DataFrame]:
    """Return published results of a run, or of several, and outcomes with those of the controls."""
    found = published.load(folder, run)
    both = [found.outcomes, published.controls(folder, run)]
    return found, pd.concat(both, ignore_index=True)


def ends(scores: pd.DataFrame, n: int = 5) -> tuple[float, float]:
    """Return how much of what moves the n most and the n least important concepts hold."""
    held, rank = scores["lift of moving"], scores["rank"]
    return held[rank <= n].mean(), held[rank > rank.max() - n].mean()


def gains(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Compare the most important concepts with each other order, in percentage points.

    Takes ``outcomes`` of :class:`book.published.Results`; seeds of a clip are averaged. Returns a
    row a mode and ``second`` order: ``gain``, ``ci_low``, ``ci_high`` (paired over clips),
    ``n_clips``.
    """
    mean = outcomes.groupby(["id", "mode", "order", "q"], as_index=False)["correct"].mean()
    mean = mean.rename(columns={"id": "video"})
    others = [order for order in mean["order"].unique() if order != "top"]
    found = pd.concat(difference(mean, "top", order) for order in others)
    found[["gain", "ci_low", "ci_high"]] *= 100
    return found.drop(columns="first").set_index(["mode", "second"]).sort_index()


def attainable(ceiling: pd.DataFrame, *halves: pd.DataFrame) -> pd.DataFrame:
    """Set the most lift that an upper half could have beside that which it has, a class a row."""
    keys = ["scene", "class"]
    measured = pd.concat(halves).set_index(keys)[["upper", "lower"]]
    table = ceiling.set_index(keys)[["ceiling"]].join(measured)
    return table.assign(reached=table["upper"] / table["ceiling"])


def attained(table: pd.DataFrame, asked: float = 2) -> str:
    """Say of what :func:`attainable` returns how much of it the rankings have."""
    possible, reached = ((table[name] >= asked).sum() for name in ("ceiling", "upper"))
    return (
        f"The ranking has **{100 * table['reached'].mean():.0f} %** of what is possible, on "
        f"average; a lift of {asked:g} is possible in {possible} of {len(table)} classes and "
        f"scenes, and reached in {reached}."
    )


def confirmed(mended: pd.DataFrame, defaults: pd.DataFrame) -> str:
    """Say in how many classes and scenes that nothing was chosen on people come first."""
    clear = mended["gap_low"] > 0
    each = clear.groupby(mended["class"]).all()
    return (
        f"In **{clear.sum()} of {len(mended)}** the upper half holds more of it than the lower "
        "one, interval clear of zero; the rank correlation of importance and lift is "
        f"{mended['correlation'].mean():.2f} on average. By the defaults, tried on {len(defaults)} "
        f"of these, it is {defaults['correlation'].mean():.2f}. What fails is "
        f"*{_listed(each.index[~each])}*: little more than an arm moves there, and who stands "
        "still is ground to the film's median."
    )


def on_others(arms: pd.DataFrame) -> str:
    """Say in how many classes and parts of other films what moves comes first."""
    ahead, twice = ((arms[name] >= least).sum() for name, least in (("gap_low", 0), ("upper", 2)))
    return (
        f"The upper half is ahead, interval clear of zero, in **{ahead} of {len(arms)}**, and "
        f"holds at least twice as much of what moves as any place in {twice}."
    )


def needed(runs: pd.DataFrame, gains: pd.DataFrame, heads: pd.DataFrame) -> str:
    """Say how well a network knows the clips, and how its most important concepts do on them."""
    facts, folds = runs.iloc[0], heads[heads["split"].str.startswith("fold")]
    return (
        f"The head names **{100 * runs['test_accuracy'].mean():.0f} %** of {facts['n_test']} clips "
        f"of the scene that it was not fitted to, and heads fitted to all but each of "
        f"{len(folds)} folds of both scenes' films {100 * folds['accuracy'].mean():.0f} % of the "
        f"clips left out ({100 * folds['accuracy'].min():.0f} to "
        f"{100 * folds['accuracy'].max():.0f}). Of {len(gains)} comparisons over all classes, "
        f"{(gains['ci_low'] > 0).sum()} are clear of zero in favour of the most important concepts."
    )


def by_class(each: pd.DataFrame) -> str:
    """Name the classes whose most important concepts are ahead, or behind, in either mode."""
    ahead, behind = (
        _listed(each[some].index.unique("class")) or "none"
        for some in (each["ci_low"] > 0, each["ci_high"] < 0)
    )
    return f"Ahead, interval clear of zero, adding or removing: *{ahead}*. Behind: *{behind}*."


def by_parts(scores: pd.DataFrame, n: int = 5) -> str:
    """Say how much of what moves the most and the least important concepts hold."""
    first, last = ends(scores, n)
    return (
        f"The {n} most important concepts of a class hold **{first:.1f}** times as much of what "
        f"moves as any place, the {n} least important **{last:.1f}** times."
    )


def contrast(small: published.Results, gains: pd.DataFrame) -> str:
    """Say what the small network knows, and whether its explanation holds."""
    points = ", ".join(
        f"{row.gain:+.0f} ({row.ci_low:.0f} to {row.ci_high:.0f}) points in the mode {mode!r}"
        for mode, row in gains.iterrows()
    )
    return (
        f"It names **{100 * small.runs['test_accuracy'].mean():.0f} %** of the other scene's "
        "clips, and its most important concepts are ahead of as many voxels of random supervoxels "
        f"by {points}. {by_parts(small.scores)}"
    )


def asked(told: dict[str, pd.DataFrame]) -> str:
    """Say what a run's published validation answered to each question of a sceptic."""
    tested, kinds = told["significance"]["verdict"], told["motion"]["kind"].value_counts()
    random = told["sanity"].set_index("network")["significant"].drop("trained").max()
    parts, again = (told[n][told[n]["class"] == "all"] for n in ("truth", "stability"))
    parts = parts.iloc[0]
    areas = told["areas"][told["areas"]["order"] != "top"].set_index("order")
    words = {"add": "adding", "remove": "removing"}
    modes = {words[mode]: rows for mode, rows in areas.groupby("mode", sort=False)}
    ahead = [f"{mode} {_orders(rows, rows['gain_low'] > 0)}" for mode, rows in modes.items()]
    behind = [f"{mode} {_orders(rows, rows['gain_high'] < 0)}" for mode, rows in modes.items()]
    back = "; ".join(f"{r.changed} {r.correlation:.2f}" for r in again.itertuples())
    lines = [
        f"**More than chance?** {tested.isin(['for', 'against']).sum()} of {len(tested)} concepts; "
        f"with random weights {100 * random:.0f} %.",
        f"**Of what moves?** The five most important concepts hold {parts['top']:.1f} times as "
        f"much of it as any place, five at random {parts['random']:.1f} times "
        f"(p = {parts['p']:.4f}).",
        f"**Does it come back?** Rank agreement with one step made anew: {back}.",
        f"**Would something simpler do?** Ahead, interval clear of zero: {'; '.join(ahead)}. "
        f"Behind: {'; '.join(behind)}.",
        f"**Motion or look?** Of {kinds.sum()} concepts, each changed by itself, "
        f"{', '.join(f'{n} {kind}' for kind, n in kinds.items())}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _orders(areas: pd.DataFrame, some: pd.Series) -> str:
    return f"*{', '.join(areas.index[some]) or 'none'}*"


def found_again(folder: str, run: str, part: str = "moving") -> pd.DataFrame:
    """Return what a run's concepts hold of a part in its test clips, as `ladder` takes it."""
    table = published.tables(f"{folder}/campaigns", ["unseen"])["unseen"]
    mine = table[(table["run"] == run) & (table["part"] == part)]
    return mine.rename(columns={"lift": f"lift of {part}"})


def in_short(factorial: pd.DataFrame, mended: pd.DataFrame) -> str:
    """Say in two sentences what the defaults do, and what mends them."""
    default = cell(factorial, DEFAULT)["correlation"]
    return (
        "On a real network and real films the defaults are a lottery (correlation "
        f"{default.min():.2f} to {default.max():.2f} by class). Matched negatives of other "
        "classes, pooled features and concepts found at a finer layer bring what moves to the top "
        f"in {(mended['gap_low'] > 0).sum()} of {len(mended)} unseen classes and scenes."
    )


def _listed(names) -> str:
    return tables.literal(", ".join(names))


def pulled(named: pd.DataFrame) -> pd.DataFrame:
    """Tell how often clips of all other classes are taken for each, the more of it is hidden.

    Takes what :func:`book.published.named` returns. Returns one row a class, in per cent: with
    nothing left (``blank``), and with ``random voxels`` or ``random supervoxels`` shown or hidden,
    as many voxels as the most important concepts have.
    """
    keys = ["order", "seed", "mode", "class"]
    wide = named.pivot_table(index=keys, columns="predicted", values="share", fill_value=0)
    owner = wide.index.get_level_values("class").to_numpy()[:, None]
    others = 100 * wide.mask(owner == wide.columns.to_numpy())
    return others.groupby("order").mean().T[["blank", *MATCHED]].rename_axis(index="class")


def measured(folder: str, run: str, second: str = "random supervoxels") -> dict[str, pd.DataFrame]:
    """Compare the most important concepts with another order, class by class, in three measures.

    By what a clip is named (``correct``, 0 to 1), by its class's ``probability``, and by its
    ``log_odds`` (nats). Takes a run, or several by a pattern, such as folds; seeds of a clip are
    averaged. Each table has a row a class (and "all") and mode, with the columns of :func:`gains`.
    """
    sure = published.evidence(folder, run)
    shown = {value: sure.assign(correct=sure[value], q=1) for value in published.EVIDENCE}
    found = {}
    for value, table in {"correct": compared(folder, run)[1], **shown}.items():
        each = table.groupby("class").apply(gains)
        each = pd.concat([each, pd.concat({"all": gains(table)}, names=["class"])])
        found[value] = each.xs(second, level="second")
        found[value][["gain", "ci_low", "ci_high"]] /= 100  # no percentage points
    return found


def side_by_side(measured: dict[str, pd.DataFrame], caption: str) -> Styler:
    """Show what :func:`measured` returns as one table."""
    wide = pd.concat(measured, axis=1, names=["measure"])
    return tables.style(wide.drop(columns="n_clips", level=1), caption, 2)


def in_words(measured: dict[str, pd.DataFrame]) -> str:
    """Say of what :func:`measured` returns which classes are ahead and behind, by each measure."""
    by = {"correct": "what is named", "probability": "the probability", "log_odds": "the log odds"}
    own = {name: each.drop(index="all", level="class") for name, each in measured.items()}
    return "\n\n".join(f"**By {by[name]}.** {by_class(each)}" for name, each in own.items())


def falls(pulled: pd.DataFrame) -> str:
    """Say of what :func:`pulled` returns which classes clips are taken for, beyond chance."""
    often = pulled[(pulled[[*MATCHED]] > 100 / len(pulled)).any(axis=1)]
    each = [
        f"*{tables.literal(name)}* ({', '.join(f'{share:.0f}' for share in shares)} %)"
        for name, *shares in often[[*MATCHED]].itertuples()
    ]
    return (
        f"A blank clip is taken for *{tables.literal(pulled['blank'].idxmax())}*. With random "
        "voxels, and with random supervoxels, shown or hidden, clips of other classes are taken "
        f"for {', '.join(each) or 'no class'} more often than one of {len(pulled)} classes would "
        "be by chance. Where chance leads to a class, its concepts have little room to do better."
    )


def grid(table: pd.DataFrame, value: str = "correlation") -> Figure:
    """Draw a value for each world and kind of negatives, mean over classes, logistic CAVs."""
    some = table[(table["direction"] == "logistic") & (table["score"] == "derivative")]
    wide = some.assign(world=worlds(some)).pivot_table(
        index="world", columns="negatives", values=value
    )
    wide = wide.loc[wide.max(axis=1).sort_values(ascending=False).index]
    wide = wide[wide.mean().sort_values().index]
    with styled():
        figure, ((ax,),) = panels(1, 0.42 * len(wide) + 1.6, 1)
        how = {"cmap": "vlag", "center": 0, "annot": True, "fmt": ".2f", "linewidths": 1}
        seaborn.heatmap(wide, ax=ax, cbar=False, **how)
        ax.set(xlabel="", ylabel="")
        ax.set_xticks(ax.get_xticks(), [fill(name, 14) for name in wide], rotation=0)
        ax.tick_params(length=0)
    return figure


def ladder(scores: pd.DataFrame, part: str = "moving") -> Figure:
    """Draw how much of a part each concept holds, a row a class, the most important on the left.

    `scores` are those of published runs with a known truth, mean over their seeds.
    """
    wide = scores.pivot_table(index="class", columns="rank", values=f"lift of {part}")
    with styled():
        figure, ((ax,),) = panels(1, 0.42 * len(wide) + 1.2, 1)
        how = {"cmap": "vlag", "center": 1, "annot": True, "fmt": ".1f", "linewidths": 1}
        seaborn.heatmap(wide, ax=ax, cbar=False, vmin=0, **how)
        ax.set(xlabel="concepts, by rank", ylabel="")
        ax.tick_params(length=0)
        ax.tick_params(axis="y", rotation=0)
    return figure


def halves(named: dict[str, pd.DataFrame]) -> Figure:
    """Draw the lift of the ranking's upper and lower half of each class, a panel a cell."""
    with styled():
        figure, axes = panels(len(named), 3.2, len(named), sharex=True, sharey=False)
        for ax, (title, rows) in zip(axes.flat, named.items(), strict=False):
            label_rows(ax, rows["class"])
            place = np.arange(len(rows))
            ax.hlines(place, rows["lower"], rows["upper"], color="#CCCCCC", lw=3)
            for side, colour, name in (
                ("upper", "top", "upper half"),
                ("lower", "least", "lower half"),
            ):
                ends = np.abs(
                    rows[[f"{side}_low", f"{side}_high"]].to_numpy().T - rows[side].to_numpy()
                )
                marks = {"fmt": "o", "color": COLOURS[colour], "ms": 6, "lw": 1, "label": name}
                ax.errorbar(rows[side], place, xerr=ends, **marks)
            ax.axvline(1, **DOTTED)
            ax.set(title=title, xlabel="lift of what moves")
        figure.legend(
            *ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
        )
    return figure
