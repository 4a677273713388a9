"""Tables of the pages that set the paper's numbers and ours side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from book.published import accuracy_over_seeds
from stce.viz.style import ORDER_NAMES
from stce.viz.tables import MARKS, style

__all__ = [
    "beside_paper",
    "blank_class",
    "intervals",
    "provenance",
    "repeated",
    "seeds",
    "verdicts",
]

GAIN = ["gain", "ci_low", "ci_high"]

# Where our numbers come from, seen from a page: the section with the line that makes them.
FROM = "../../notebooks/05_ablate.html#mask-and-predict"


def intervals(columns: pd.DataFrame, digits: int = 1, sign: str = "+") -> list[str]:
    """Write values with their intervals; a dash for what has none, and is compared with nothing.

    Parameters
    ----------
    columns : pandas.DataFrame
        Value, lower and upper end.
    digits : int, default 1
        Decimals.
    sign : {"+", ""}, default "+"
        Whether a value above zero has its sign.

    Examples
    --------
    >>> intervals(pd.DataFrame([(9.44, -1, 12.2), (0, np.nan, np.nan)]))
    ['+9.4 (-1.0 to 12.2)', '–']
    """
    pattern = f"{{:{sign}.{digits}f}} ({{:.{digits}f}} to {{:.{digits}f}})"
    rows = columns.to_numpy(float)
    return [pattern.format(*row) if np.isfinite(row).all() else "–" for row in rows]


def _in_the_papers_shape(cells: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Lay texts out with their numbers: rows (model, order), columns q and Baseline."""
    text = cells.pivot(index=["model", "order"], columns="q", values="text")
    best = cells[cells["q"] > 0].groupby(["model", "q"])["accuracy"]
    best = best.max() if mode == "add" else best.min()
    rows = {}
    for model in cells["model"].unique():
        for order, name in ORDER_NAMES.items():
            row = {}
            for q in range(1, cells["q"].max() + 1):
                mine = cells[(cells["model"] == model) & (cells["order"] == order)]
                top = mine.loc[mine["q"] == q, "accuracy"].iloc[0] == best[model, q]
                entry = text.loc[(model, order), q]
                row[str(q)] = f"<b>{entry}</b>" if top else entry
            middle = order == "random"
            row["Baseline"] = text.loc[(model, "baseline"), 0] if middle else ""
            rows[model, name] = row
    return pd.DataFrame(rows).T


def _ours(outcomes: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Average published outcomes, and write each with its interval and a link."""
    means = accuracy_over_seeds(outcomes, by=("model",))
    baseline = means[(means["mode"] == "remove") & (means["order"] == "top") & (means["q"] == 0)]
    steps = means[(means["mode"] == mode) & (means["q"] > 0)]
    cells = pd.concat([steps, baseline.assign(order="baseline")], ignore_index=True)
    cells["text"] = [
        f"<a href='{FROM}'>{100 * c.accuracy:.1f}</a><br>"
        f"<small>{100 * c.ci_low:.0f}–{100 * c.ci_high:.0f}</small>"
        for c in cells.itertuples()
    ]
    return cells


def beside_paper(cells: pd.DataFrame, found) -> Styler:
    """Set one of the paper's tables and our numbers side by side, in the paper's shape.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of :func:`book.paper.table`.
    found : book.published.Results
        The runs that stand beside it, those on films of a folder in rows of their own; without any
        the paper's numbers stand alone.

    Returns
    -------
    pandas.io.formats.style.Styler
        Rows Top, Random, Least of each model, columns q and Baseline; per cent, the best of the
        three orders bold. Ours are means over seeds with 95 % intervals, and each number links
        to the line that made it.
    """
    mode = cells["mode"].iloc[0]
    paper = cells.assign(text=cells["accuracy"].map("{:.2f}".format))
    sides = {f"Paper ({cells['dataset'].iloc[0]})": _in_the_papers_shape(paper, mode)}
    runs = found.runs
    films = runs["dataset"] == "folder"
    for (dataset, scale), part in (
        runs[~films].assign(scale=runs["groups"].str[0]).groupby(["dataset", "scale"], sort=False)
    ):
        named = part[["run", "seed", "model"]].merge(found.outcomes)
        sides[f"Ours ({dataset}, {scale})"] = _in_the_papers_shape(_ours(named, mode), mode)
    wide = pd.concat(sides, axis=1).reindex(next(iter(sides.values())).index)
    if films.any():
        named = runs.loc[films, ["run", "seed", "model"]].merge(found.outcomes)
        named["model"] += "<br>real clips,<br>pretrained"
        side = [*sides, "Ours"][1]
        below = pd.concat({side: _in_the_papers_shape(_ours(named, mode), mode)}, axis=1)
        wide = pd.concat([wide, below])
    wide = wide.fillna("")
    lines = [{"selector": "th.row_heading", "props": "vertical-align: top"}]
    lines += [{"selector": "td", "props": "text-align: right; line-height: 1.15"}]
    lines += [{"selector": "th.col_heading.level0", "props": "text-align: center"}]
    return wide.style.set_table_styles(lines).set_table_attributes("class='paper-table'")


def verdicts(judged: dict[str, pd.DataFrame]) -> Styler:
    """Show what each gap between the top and the least concepts is worth.

    Parameters
    ----------
    judged : dict of str to pandas.DataFrame
        By whose numbers they are: of :func:`stce.evaluation.paired.judge`.

    Returns
    -------
    pandas.io.formats.style.Styler
        Rows (whose, model), columns q: the gap in percentage points and a mark.
    """
    parts = []
    for whose, table in judged.items():
        part = table[(table["first"] == "top") & (table["second"] == "least")].copy()
        part["text"] = part["gap"].map("{:+.1f} ".format) + part["verdict"].map(MARKS)
        order = part["model"].unique()
        wide = part.pivot(index="model", columns="q", values="text").reindex(order)
        parts.append(pd.concat({whose: wide}))
    caption = "Top less least in points (removing: least less top). " + ", ".join(
        f"{mark} {name}" for name, mark in MARKS.items()
    )
    shown = pd.concat(parts).rename_axis(index=(None, None), columns="q")
    return shown.style.set_caption(caption).set_properties(**{"text-align": "right"})


def seeds(table: pd.DataFrame) -> Styler:
    """Show, run by run and seed by seed, whether the orders stand as the paper has them.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`book.verdict.by_seed`.

    Returns
    -------
    pandas.io.formats.style.Styler
        One row a run, seed and mode; per cent and percentage points.
    """
    shown = table[["run", "seed", "mode"]].assign(
        **{name: table[order] for order, name in ORDER_NAMES.items()},
        **{
            "top against least": intervals(table[GAIN]),
            "random between": table["between"].map({True: "yes", False: "no"}),
        },
    )
    caption = "Accuracy, means over q, in per cent; gains in points with 95 % intervals over clips"
    return style(shown.set_index(["run", "seed", "mode"]), caption)


def repeated(table: pd.DataFrame) -> Styler:
    """Show the gains of runs that were made twice, with the same seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`book.verdict.repeated`.

    Returns
    -------
    pandas.io.formats.style.Styler
        One row a run, seed and mode; percentage points.
    """
    shown = table[["run", "seed", "mode"]].assign(
        published=intervals(table[GAIN]),
        again=intervals(table[[f"{name}_again" for name in GAIN]]),
        apart=table["apart"],
    )
    caption = "Top against least, means over q, in points with 95 % intervals over clips"
    return style(shown.set_index(["run", "seed", "mode"]), caption)


def blank_class(table: pd.DataFrame) -> Styler:
    """Show the gains of removing with and without the class that a blank clip is taken for.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`book.verdict.without_blank_class`.

    Returns
    -------
    pandas.io.formats.style.Styler
        One row a run and seed; percentage points.
    """
    shown = table[["run", "seed"]].assign(
        **{
            "a blank clip is taken for": table["blank"],
            "top against least, that class": [f"{g:+.1f}" for g in table["gain_blank"]],
            "all other classes": intervals(table[GAIN]),
        }
    )
    caption = "Removing, means over q, in points with 95 % intervals over clips"
    return style(shown.set_index(["run", "seed"]), caption)


def provenance(runs: pd.DataFrame) -> Styler:
    """Say where published numbers come from, one row a run and its seeds.

    Parameters
    ----------
    runs : pandas.DataFrame
        Of :class:`book.published.Results`.

    Returns
    -------
    pandas.io.formats.style.Styler
    """
    rows = {}
    for name, part in runs.groupby("run", sort=False):
        one = part.iloc[0]
        supervoxels = "stretched" if one["stretch"] else "in place"
        supervoxels = "pooled" if one.get("features") == "pooled" else supervoxels
        rows[name] = {
            "data": f"{one['dataset']}, {one['n_trained_on']} videos trained on",
            "network": f"{one['model']}, width {one['width']:g}, input "
            + "x".join(map(str, one["input"])),
            "segments, concepts": f"{'/'.join(map(str, one['n_segments']))}, {one['n_concepts']}",
            "supervoxels": supervoxels,
            "random clips": one["random_clips"],
            "seeds": ", ".join(map(str, part["seed"])),
            "test accuracy (%)": ", ".join(f"{100 * a:.1f}" for a in part["test_accuracy"]),
            "device": ", ".join(part["device"].unique()),
            "minutes": ", ".join(f"{m:.0f}" for m in part["minutes"]),
            "revision": ", ".join(part["revision"].unique()),
        }
    return pd.DataFrame(rows).style.set_properties(
        **{"text-align": "left", "white-space": "normal"}
    )
