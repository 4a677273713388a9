"""Tables: results in, tidy frames or Stylers in the paper's shape out."""

from __future__ import annotations

import re
from html import escape

import pandas as pd
from pandas.io.formats.style import Styler

from stce.viz.style import ORDER_NAMES

MARKS = {"holds": "✓", "within noise": "≈", "reversed": "✗"}


def accuracy(table: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Lay accuracies out as the paper's Tables 1 to 6 do.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`stce.curves.accuracy_table` returns.
    mode : {"add", "remove"}
        Which half.

    Returns
    -------
    pandas.DataFrame
        Rows Top, Random, Least; columns q = 1, 2, ... and Baseline; in per cent.

    Examples
    --------
    >>> rows = [("remove", "top", 0, 0.9), ("remove", "top", 1, 0.5)]
    >>> accuracy(pd.DataFrame(rows, columns=["mode", "order", "q", "accuracy"]), "remove")
         1  Baseline
    Top 50.0      90.0
    """
    baseline = 100 * table.query("mode == 'remove' and q == 0")["accuracy"].iloc[0]
    part = table[(table["mode"] == mode) & (table["q"] > 0)]
    wide = 100 * part.pivot(index="order", columns="q", values="accuracy")
    wide = wide.reindex([o for o in ORDER_NAMES if o in wide.index]).rename(index=ORDER_NAMES)
    wide["Baseline"] = baseline
    return wide.rename_axis(index=None, columns=None)


def ranked_parts(lifts: pd.DataFrame, rankings: dict[str, list[int]]) -> pd.DataFrame:
    """Lay out what each concept consists of, the most important concepts first.

    Parameters
    ----------
    lifts : pandas.DataFrame
        Of :func:`stce.evaluation.truth.composition`: ``class``, ``concept``, ``part``, ``lift``.
    rankings : dict of str to list of int
        Concepts of each class, most important first.

    Returns
    -------
    pandas.DataFrame
        One row a concept: ``class``, ``concept``, ``rank`` and, for each part that occurs, its
        lift: its share of the concept's voxels over its share of the same clips' voxels.
    """
    parts = lifts["part"].unique()
    wide = lifts.pivot(index=["class", "concept"], columns="part", values="lift")[parts]
    ranked = pd.DataFrame(
        [(c, k, i) for c, ranking in rankings.items() for i, k in enumerate(ranking, start=1)],
        columns=["class", "concept", "rank"],
    )
    table = ranked.join(wide, on=["class", "concept"])
    return table.drop(columns=[p for p in parts if not table[p].any()])


def significant(scores: pd.DataFrame) -> pd.Series:
    """Mark the concepts with the verdict "for" or "against"; none where nothing was tested.

    Clusters that mean nothing pass the ``q_value`` of scores too often, so it is no evidence; the
    verdict is that of :func:`stce.evaluation.significance.against_chance`.
    """
    told = scores["verdict"] if "verdict" in scores else pd.Series("untested", scores.index)
    return told.isin(["for", "against"])


def leads(paired: pd.DataFrame) -> Styler:
    """Show by how much the concepts' order is ahead of each other one, step by step.

    Rows (mode, order), columns q: the gap in percentage points and a mark. Takes what
    :func:`stce.evaluation.paired.mcnemar` returns, against any number of orders.
    """
    marks = paired["verdict"].map(MARKS)
    text = paired["gap"].map("{:+.0f} ".format) + marks
    wide = paired.assign(text=text).pivot(index=["mode", "second"], columns="q", values="text")
    caption = "Top against each order: points; ✓ ahead, ✗ behind, ≈ within noise (McNemar, Holm)"
    return style(wide.rename_axis(index=["mode", "against"]), caption)


def literal(name: str) -> str:
    """Return a name for Markdown, in which no letter of it means anything."""
    return re.sub(r"([\\`*_{}\[\]<>$|~#&])", r"\\\1", " ".join(name.split()))


def style(
    table: pd.DataFrame, caption: str = "", digits: int = 1, bold: str | None = None
) -> Styler:
    """Format a table for a page.

    Parameters
    ----------
    table, caption : pandas.DataFrame, and str, optional
        Any table, and what is written above it.
    digits : int, default 1
        Decimals of floating-point columns.
    bold : {"max", "min"}, optional
        Set the best entry of each numeric column in bold.

    Returns
    -------
    pandas.io.formats.style.Styler
        Displayed by Jupyter.
    """
    styler = table.style.format(precision=digits, escape="html").set_caption(escape(caption, False))
    styler.format_index(precision=0, escape="html").format_index(axis=1, escape="html")
    if bold:
        best = {"max": styler.highlight_max, "min": styler.highlight_min}[bold]
        styler = best(subset=[c for c in table if c != "Baseline"], props="font-weight: bold")
    return styler
