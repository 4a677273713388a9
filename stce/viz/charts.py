"""Charts of a run's numbers: tables in, a matplotlib Figure out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stce.viz.style import COLOURS, ORDER_NAMES, styled

__all__ = ["accuracy_curves", "class_curves", "gains", "learning_curve", "part_lift", "score_chart"]

LONG_NAMES = {
    "top": "most important first",
    "random": "random order",
    "least": "least important first",
}


def learning_curve(history: pd.DataFrame) -> Figure:
    """Plot loss and accuracy against epochs.

    Parameters
    ----------
    history : pandas.DataFrame
        What :func:`stce.training.train` returns.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels.
    """
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
        left.plot(history["epoch"], history["loss"], color="#333333")
        left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        right.plot(history["epoch"], 100 * history["accuracy"], color="#333333", label="training")
        tested = history.dropna(subset="test_accuracy")
        right.plot(
            tested["epoch"],
            100 * tested["test_accuracy"],
            "o-",
            color=COLOURS["top"],
            label="unseen persons",
        )
        right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 102))
        right.legend(frameon=False, loc="lower right")
    return figure


def score_chart(scores: pd.DataFrame) -> Figure:
    """Plot each concept's score with its interval, class by class (equation 2).

    Parameters
    ----------
    scores : pandas.DataFrame
        ``scores`` of :class:`stce.tcav.Tcav`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a class; filled dots pass the corrected test at 5 %.
    """
    names = list(dict.fromkeys(scores["class"]))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with styled():
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(9.5, 3.1 * rows),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for ax in axes.flat[len(names) :]:
            ax.axis("off")
        for ax, name in zip(axes.flat, names, strict=False):
            part = scores[scores["class"] == name].sort_values("rank")
            ax.axhline(0.5, color="#BBBBBB", lw=1, ls="--", zorder=0)
            ax.vlines(part["rank"], part["ci_low"], part["ci_high"], color="#999999", lw=2)
            sure = part["q_value"] < 0.05
            ax.scatter(
                part["rank"],
                part["score"],
                s=26,
                zorder=3,
                edgecolor="#333333",
                linewidth=0.8,
                c=np.where(sure, "#333333", "#FFFFFF"),
            )
            ax.set_title(name, fontsize=10)
        for ax in axes[-1]:
            ax.set_xlabel("rank of the concept")
        for ax in axes[:, 0]:
            ax.set(ylabel="TCAV score", ylim=(-0.04, 1.04))
    return figure


def _draw_curves(ax, table: pd.DataFrame, mode: str, names: dict[str, str]) -> float:
    """Draw one curve an order with its band, and the intact clips; return their accuracy in %."""
    intact = table[(table["mode"] == "remove") & (table["q"] == 0)]
    baseline = 100 * intact["accuracy"].iloc[0]
    ax.axhline(baseline, color="#333333", lw=1, ls=":")
    for order, marker in (("top", "o"), ("random", "s"), ("least", "^")):
        part = table[(table["mode"] == mode) & (table["order"] == order)].sort_values("q")
        q, low, high = part["q"], 100 * part["ci_low"], 100 * part["ci_high"]
        style = {"color": COLOURS[order], "label": names[order]}
        ax.plot(q, 100 * part["accuracy"], marker=marker, **style)
        ax.fill_between(q, low, high, lw=0, alpha=0.15, color=COLOURS[order])
    return baseline


def accuracy_curves(table: pd.DataFrame) -> Figure:
    """Plot accuracy while concepts are added and removed.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`stce.curves.accuracy_table` returns.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels; bands are 95 % intervals over clips, the dotted line is the intact clip.
    """
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
        for ax, mode, verb in zip(axes, ("add", "remove"), ("added", "removed"), strict=True):
            baseline = _draw_curves(ax, table, mode, LONG_NAMES)
            if mode == "add":
                ax.annotate(
                    f"intact clips: {baseline:.1f} %",
                    (0.02, baseline - 1.5),
                    fontsize=9,
                    va="top",
                    xycoords=("axes fraction", "data"),
                    color="#333333",
                )
            ax.set(xlabel=f"concepts {verb}", title=f"Concepts {verb}", ylim=(0, 102))
        axes[0].set_ylabel("accuracy (%)")
        axes[1].legend(frameon=False, loc="lower left")
    return figure


def class_curves(standard: pd.DataFrame, small: pd.DataFrame, mode: str, name: str) -> Figure:
    """Plot one class's accuracy in two settings of the method (Figures 6 and 7).

    Parameters
    ----------
    standard, small : pandas.DataFrame
        What :func:`stce.curves.accuracy_table` returns for the clips of one class, in the
        paper's standard and small settings.
    mode : {"add", "remove"}
        Adding (Figure 6) or removing (Figure 7).
    name : str
        The class.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels; bands are 95 % intervals over clips, the dotted line is the intact clip.

    Raises
    ------
    ValueError
        If the mode is neither of the two, or there are no results of the class.
    """
    if mode not in ("add", "remove"):
        raise ValueError(f"mode is {mode!r}; choose 'add' or 'remove'.")
    if not (len(standard) and len(small)):
        raise ValueError(f"There are no results of class {name!r}; is its name misspelt?")
    verb = {"add": "added", "remove": "removed"}[mode]
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True, layout="constrained")
        panels = (("(a) standard setting", standard), ("(b) small setting", small))
        for ax, (title, table) in zip(axes, panels, strict=True):
            baseline = _draw_curves(ax, table, mode, ORDER_NAMES)
            steps = sorted(table["q"].unique())
            ax.set(xlabel=f"number of concepts {verb}", xticks=steps, ylim=(0, 104))
            ax.set_title(f"{title}: {name}, intact {baseline:.1f} %", fontsize=10)
        axes[0].set_ylabel("accuracy (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        intact, text = axes[0].lines[0], "intact clips"
        # Curves may run anywhere in the panels, so the legend stands below them.
        place = {"loc": "outside lower center", "ncols": 4, "frameon": False}
        figure.legend([*handles, intact], [*labels, text], **place)
    return figure


def part_lift(table: pd.DataFrame) -> Figure:
    """Plot what the concepts consist of, as lift over the clips, against their rank.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`stce.viz.tables.ranked_parts` returns, with ``class`` and ``rank``.

    Returns
    -------
    matplotlib.figure.Figure
        One heat map a class; 1 is a concept with as much of a part as the whole clips.
    """
    names = list(dict.fromkeys(table["class"]))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    parts = [c for c in table.columns if c not in ("class", "concept", "rank")]
    figure, axes = plt.subplots(
        rows, columns, figsize=(9.5, 2.4 * rows), squeeze=False, sharex=True, layout="constrained"
    )
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    for ax, name in zip(axes.flat, names, strict=False):
        part = table[table["class"] == name].sort_values("rank").set_index("rank")[parts]
        image = ax.imshow(
            np.log2(part.T.clip(2**-3, 2**3)),
            aspect="auto",
            cmap="PuOr_r",
            vmin=-3,
            vmax=3,
            extent=(0.5, len(part) + 0.5, len(parts) - 0.5, -0.5),
        )
        ax.set_yticks(range(len(parts)), parts, fontsize=8)
        ax.set_title(name, fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("rank of the concept")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[-3, -2, -1, 0, 1, 2, 3])
    bar.set_ticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.set_label("share of the part, relative to the clip")
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Plot how far the most important concepts are ahead of the least, run by run.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`book.verdict.by_seed`: ``run``, ``seed``, ``mode``, ``gain``, ``ci_low`` and
        ``ci_high`` in percentage points.

    Returns
    -------
    matplotlib.figure.Figure
        One row a run and two panels, adding and removing; a dot is a seed, its bar the 95 %
        interval over clips.
    """
    runs = list(dict.fromkeys(table["run"]))
    with styled():
        figure, axes = plt.subplots(
            1,
            2,
            figsize=(9.5, 1.1 + 0.55 * max(len(runs), 1)),
            sharey=True,
            layout="constrained",
        )
        for ax, mode, verb in zip(axes, ("add", "remove"), ("added", "removed"), strict=True):
            ax.axvline(0, color="#333333", lw=1, ls=":")
            for row, run in enumerate(runs):
                part = table[(table["run"] == run) & (table["mode"] == mode)]
                place = row + 0.16 * (np.arange(len(part)) - (len(part) - 1) / 2)
                ax.hlines(place, part["ci_low"], part["ci_high"], color=COLOURS["top"], lw=2)
                ax.plot(part["gain"], place, "o", color=COLOURS["top"], ms=5)
            ax.set(title=f"Concepts {verb}", xlabel="top against least (points)")
            ax.grid(axis="x", color="#E5E5E5", lw=0.8)
        axes[0].set_yticks(range(len(runs)), runs)
        axes[0].set_ylim(len(runs) - 0.5, -0.5)
    return figure
