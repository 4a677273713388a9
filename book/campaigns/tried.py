"""What was tried to break it, and what came of it: ``book.campaigns.soak`` for a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from book.campaigns.deaths import MOMENTS
from stce.study.run import STAGES
from stce.viz.style import COLOURS, PALE, label_rows, panels, styled

NAMES = ("kills", "disk", "worker", "together", "inputs")
VICTIMS = {
    "tree": "all its processes killed at once",
    "kernel": "the process of a notebook killed",
    "study": "the study killed, its notebook not",
    "signal": "Ctrl-C, or asked to end by the system",
}
SHADES = ("#BBBBBB", "#56B4E9", "#0072B2", "#D55E00", "#E69F00")


def read(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the results of the campaigns that were made, each trial with what came of it.

    Columns that all of them get: `tried`, in words; `lost` (something finished was not there any
    more or made again, the tables were others, or files were left over), `unclear` (not one
    sentence), `traceback`, `hang` and `right` (none of these).
    """
    made = {name: Path(folder) / f"{name}.csv" for name in NAMES}
    tables = {name: pd.read_csv(file) for name, file in made.items() if file.exists()}
    return {name: _judged(name, table) for name, table in tables.items()}


def _judged(name: str, table: pd.DataFrame) -> pd.DataFrame:
    if "not_tried" in table:
        table = table[table["not_tried"].isna()]
    if name == "inputs":
        faults = table[["traceback", "hang", "wrong", "outside"]].astype(bool)
        found = {"tried": "bad input: " + table["kind"], "lost": faults["wrong"]}
        found["lost"] |= faults["outside"]
        found["unclear"] = (table["outcome"] == "refused") & table["sentence"].isna()
    else:
        failed = table.get("code", 0) != 0
        lost = ~table["same"].astype(bool) | table["left"].notna()
        for count in ("again", "late", "absent", "lost"):
            lost |= table.get(count, 0) > 0
        lost |= table.get("ended", 0) != 0
        if name == "kills":
            asked = table["whom"] == "signal"
            told = asked | ((table["whom"] == "kernel") & (table["code"] > 0))
            unclear = told & failed & ~table["one"].astype(bool)
            unclear |= asked & ~table["code"].isin([0, 130])
            found = {"tried": table["whom"].map(VICTIMS)}
        elif name == "disk":
            unclear, found = failed & ~table["one"].astype(bool), {"tried": table["kind"]}
            found["tried"] = "disk: " + table["kind"]
        elif name == "worker":
            told = table["sentence"].fillna("").str.count("(?m)^error: ") == 1
            unclear, lost = failed & ~told, lost & ~told
            words = np.where(table["killed"] > 1, "all workers", "a worker")
            found = {"tried": pd.Series(words, table.index) + " of a Dask cluster killed"}
        else:
            unclear = ~table["named"].astype(bool) | (table["winners"] != 1)
            both = table["seeds"].str.split().map(lambda pair: pair[0] == pair[1])
            words = np.where(both, "the same study", "two studies")
            found = {"tried": pd.Series(words, table.index) + " started twice at once"}
            found["tried"] = found["tried"].str.replace("two studies started twice", "two studies")
        found |= {"lost": lost, "unclear": unclear}
    table = table.assign(**found)
    bad = table[["lost", "unclear", "traceback", "hang"]].astype(bool)
    return table.assign(right=~bad.any(axis=1), **bad)


def counts(made: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Count how often each thing was tried, and how often it was not right, by what was tried."""
    everything = pd.concat(made.values(), ignore_index=True)
    groups = everything.groupby("tried", sort=False)
    faults = ["lost", "unclear", "traceback", "hang"]
    table = groups[["right", *faults]].sum().astype(int)
    table.insert(0, "times", groups.size())
    names = {"traceback": "tracebacks", "hang": "hangs", "unclear": "not one sentence"}
    return table.rename(columns=names).rename_axis(index=None)


def hits(kills: pd.DataFrame) -> pd.DataFrame:
    """Count kills by stage (rows) and by what the study did at that moment (columns)."""
    table = pd.crosstab(kills["stage"], kills["moment"])
    return table.reindex(index=STAGES, columns=MOMENTS, fill_value=0)


def chart(made: dict[str, pd.DataFrame]) -> Figure:
    """Draw when kills hit, and what came of bad inputs where there are any."""
    shown = [("kills and stops", hits(made["kills"]), SHADES)] if "kills" in made else []
    if "inputs" in made:
        inputs = made["inputs"]
        came = inputs["outcome"].where(inputs["right"], "fault")
        table = pd.crosstab(inputs["kind"], came)
        table = table.reindex(columns=["success", "refused", "fault"], fill_value=0)
        shown.append(("bad inputs", table, (PALE, COLOURS["least"], COLOURS["top"])))
    with styled():
        figure, (axes,) = panels(len(shown), 3.4, sharey=False)
        for ax, (title, table, colours) in zip(axes, shown, strict=True):
            start = np.zeros(len(table))
            for column, colour in zip(table, colours, strict=True):
                ax.barh(range(len(table)), table[column], 0.7, start, color=colour, label=column)
                start += table[column].to_numpy()
            label_rows(ax, list(table.index))
            ax.set(title=title, xlabel="times")
            ax.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", borderaxespad=4)
            ax.get_legend().set_bbox_to_anchor((0.5, -0.08))
    return figure
