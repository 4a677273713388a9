"""Charts of how far an explanation can be trusted: tables in, a matplotlib Figure out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stce.viz.style import COLOURS, styled

__all__ = ["agreement", "carriers", "orders", "pointed", "sanity", "shortcut"]

# The paper's orders as everywhere in the book; controls grey, baselines in what is left of Okabe
# and Ito's colours, each with a line and a marker of its own.
LOOKS = {
    "top": (COLOURS["top"], "-", "o"),
    "least": (COLOURS["least"], "-", "^"),
    "random": (COLOURS["random"], "-", "s"),
    "random supervoxels": ("#555555", "--", "D"),
    "random voxels": ("#AAAAAA", "--", "x"),
    "integrated gradients": ("#009E73", "-.", "v"),
    "occlusion": ("#CC79A7", "-.", "P"),
    "grad-cam": ("#E69F00", "-.", "*"),
}
NAMES = {"top": "concepts, most important first", "least": "concepts, least important first"}
NAMES |= {"random": "concepts, random order"}
LINE = "#333333"


def orders(table: pd.DataFrame) -> Figure:
    """Plot accuracy while a clip is shown or hidden in any number of orders.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`stce.curves.accuracy_table`, with the orders of :func:`stce.ablation.run`,
        :func:`stce.evaluation.controls.run` and :func:`stce.evaluation.saliency.run`.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels; every order shows as many voxels of a clip as "top" does at the same step, but
        for "random" and "least", which show concepts of other sizes.
    """
    known = [name for name in LOOKS if name in set(table["order"])]
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6), sharey=True, layout="constrained")
        for ax, mode, verb in zip(axes, ("add", "remove"), ("added", "removed"), strict=True):
            for name in known:
                colour, line, marker = LOOKS[name]
                part = table[(table["mode"] == mode) & (table["order"] == name)].sort_values("q")
                look = {"color": colour, "ls": line, "marker": marker, "ms": 5}
                ax.plot(part["q"], 100 * part["accuracy"], label=NAMES.get(name, name), **look)
            ax.set(xlabel="step", title=f"Voxels {verb}", ylim=(0, 102))
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("accuracy (%)")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )
    return figure


def _dots(ax, table: pd.DataFrame, label: str, value: str = "correlation") -> None:
    place = np.arange(len(table))
    ax.axvline(0, color=LINE, lw=1, ls=":")
    ax.hlines(place, table["ci_low"], table["ci_high"], color=COLOURS["least"], lw=2)
    ax.plot(table[value], place, "o", color=COLOURS["least"], ms=6)
    ax.set_yticks(place, table[label])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="x", color="#E5E5E5", lw=0.8)


def sanity(table: pd.DataFrame, nominal: float = 0.05) -> Figure:
    """Plot what is left of an explanation when the network is randomised.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`stce.evaluation.sanity.against_trained`.
    nominal : float, default 0.05
        The nominal rate, drawn as a line.

    Returns
    -------
    matplotlib.figure.Figure
        One row a network; left the share of significant concepts, right the rank agreement with
        the trained network and its 95 % interval.
    """
    height = 1.2 + 0.42 * len(table)
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(9.5, height), sharey=True, layout="constrained")
        axes[0].barh(range(len(table)), 100 * table["significant"], color=COLOURS["top"])
        axes[0].axvline(100 * nominal, color=LINE, lw=1, ls=":")
        for row, share in table["significant"].reset_index(drop=True).dropna().items():
            axes[0].text(100 * share, row, f" {100 * share:.0f} %", va="center", fontsize=9)
        axes[0].margins(x=0.12)
        axes[0].set(xlabel="significant concepts (%)")
        _dots(axes[1], table, "network")
        axes[1].set(xlabel="rank agreement with the trained network", xlim=(-1.05, 1.05))
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Plot how well two runs agree, by what was changed between them.

    Parameters
    ----------
    table : pandas.DataFrame
        ``changed``, ``correlation``, ``ci_low``, ``ci_high``.

    Returns
    -------
    matplotlib.figure.Figure
        One row a change; rank correlation of the concepts' derivatives, with intervals.
    """
    with styled():
        figure, ax = plt.subplots(figsize=(7, 1.2 + 0.4 * len(table)), layout="constrained")
        _dots(ax, table, "changed")
        ax.set(xlabel="rank agreement of the concepts (Spearman)", xlim=(-0.25, 1.05))
    return figure


def carriers(table: pd.DataFrame) -> Figure:
    """Plot how much of the parts that carry a class the head of the ranking holds.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`stce.evaluation.truth.found`, any number of runs; the rows of one ``class``
        are drawn in one place.

    Returns
    -------
    matplotlib.figure.Figure
        One place a class: filled dots are rankings, rings what a random ranking of the same
        concepts is expected to hold.
    """
    names = list(dict.fromkeys(table["class"]))
    with styled():
        figure, ax = plt.subplots(figsize=(8, 1.2 + 0.5 * len(names)), layout="constrained")
        ax.axvline(1, color=LINE, lw=1, ls=":")
        for row, name in enumerate(names):
            part = table[table["class"] == name].reset_index(drop=True)
            place = row + 0.6 * ((part.index + 0.5) / len(part) - 0.5)
            ax.hlines(place, part["random"], part["top"], color="#BBBBBB", lw=1.2)
            ax.plot(part["random"], place, "o", mfc="white", mec=COLOURS["random"], ms=4.5)
            ax.plot(part["top"], place, "o", color=COLOURS["top"], ms=4.5)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set(xlabel="share of the carrying limbs, relative to the clip")
        ax.plot([], [], "o", color=COLOURS["top"], label="first five concepts")
        ax.plot([], [], "o", mfc="white", mec=COLOURS["random"], label="five drawn at random")
        ax.legend(frameon=False, loc="lower right")
    return figure


def pointed(table: pd.DataFrame) -> Figure:
    """Plot how far each order shows the parts that carry a class before others.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`stce.evaluation.truth.pointed`.

    Returns
    -------
    matplotlib.figure.Figure
        One row an order, in the colours of :func:`orders`, best first; with 95 % intervals over
        clips. 1 is what a blind choice of voxels would show.
    """
    table = table.sort_values("lift", ascending=False, ignore_index=True)
    with styled():
        figure, ax = plt.subplots(figsize=(8, 1.1 + 0.36 * len(table)), layout="constrained")
        ax.axvline(1, color=LINE, lw=1, ls=":")
        for row in table.itertuples():
            colour, _, marker = LOOKS[row.order]
            ax.hlines(row.Index, row.ci_low, row.ci_high, color=colour, lw=2)
            ax.plot(row.lift, row.Index, marker, color=colour, ms=7)
        ax.set_yticks(range(len(table)), [NAMES.get(name, name) for name in table["order"]])
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.set(xlabel="carrying limbs in the first five steps, relative to the clip")
        ax.grid(axis="x", color="#E5E5E5", lw=0.8)
    return figure


def shortcut(with_cue: pd.DataFrame, without: pd.DataFrame) -> Figure:
    """Plot how much of a planted cue the first concept holds, seed by seed.

    Parameters
    ----------
    with_cue, without : pandas.DataFrame
        Rows of the campaigns "shortcut" and "no-shortcut": ``first_lift``, ``first_ci_low``,
        ``first_ci_high``.

    Returns
    -------
    matplotlib.figure.Figure
        One line a seed, with its 95 % interval over clips; 1 is as much as any place holds.
    """
    with styled():
        figure, axes = plt.subplots(
            1, 2, figsize=(9.5, 3.4), sharey=True, sharex=True, layout="constrained"
        )
        titles = ("trained with the cue", "trained without it")
        for ax, part, title in zip(axes, (with_cue, without), titles, strict=True):
            part = part.sort_values("first_lift", ascending=False)
            place = np.arange(len(part)) + 1
            ax.axhline(1, color=LINE, lw=1, ls=":")
            ax.vlines(place, part["first_ci_low"], part["first_ci_high"], color="#BBBBBB", lw=2)
            ax.plot(place, part["first_lift"], "o", color=COLOURS["top"], ms=5)
            ax.set(xlabel="seeds, in order", title=title)
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("cue in the first concept,\nrelative to the clip")
    return figure
