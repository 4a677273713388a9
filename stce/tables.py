"""Tables: results in, tidy frames or Stylers in the paper's shape out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

__all__ = ["accuracy", "composition", "style"]

ORDER_NAMES = {"top": "Top", "random": "Random", "least": "Least"}


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


def composition(concepts, supervoxels, parts: np.ndarray, names: tuple[str, ...], rankings: dict):
    """Tell what each concept consists of, where the truth of every voxel is known.

    Parameters
    ----------
    concepts : stce.concepts.Concepts
        The kept supervoxels of each concept.
    supervoxels : stce.supervoxels.Supervoxels
        Of the clips.
    parts : array_like
        ``(N, T, H, W) uint8``, index into `names`.
    names : tuple of str
        The parts.
    rankings : dict of str to list of int
        Concepts of each class, most important first.

    Returns
    -------
    pandas.DataFrame
        One row a concept: ``class``, ``concept``, ``rank`` and, for each part that occurs, its
        lift: its share of the concept's voxels over its share of the same clips' voxels.
    """
    n = len(names)
    rows = []
    for class_name, ranking in rankings.items():
        for rank, concept in enumerate(ranking, start=1):
            inside, around = np.zeros(n), np.zeros(n)
            for row in concepts.members(class_name, concept):
                truth = np.asarray(parts[int(supervoxels.table["video"].iloc[row])])
                inside += np.bincount(truth[supervoxels.mask(row)], minlength=n)[:n]
                around += np.bincount(truth.ravel(), minlength=n)[:n]
            base = np.maximum(around / around.sum(), 1e-9)
            rows.append((class_name, concept, rank, *(inside / inside.sum() / base)))
    table = pd.DataFrame(rows, columns=["class", "concept", "rank", *names])
    return table.drop(columns=[p for p in names if not table[p].any()])


def style(
    table: pd.DataFrame, caption: str = "", digits: int = 1, bold: str | None = None
) -> Styler:
    """Format a table for a page.

    Parameters
    ----------
    table : pandas.DataFrame
        Any table.
    caption : str, optional
        Written above.
    digits : int, default 1
        Decimals of floating-point columns.
    bold : {"max", "min"}, optional
        Set the best entry of each numeric column in bold.

    Returns
    -------
    pandas.io.formats.style.Styler
        Displayed by Jupyter.
    """
    styler = table.style.format(precision=digits).format_index(precision=0).set_caption(caption)
    if bold:
        best = {"max": styler.highlight_max, "min": styler.highlight_min}[bold]
        styler = best(subset=[c for c in table if c != "Baseline"], props="font-weight: bold")
    return styler
