"""Charts of what a run found and how far to trust it: tables in, a matplotlib Figure out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from stce.viz.pictures import rgb
from stce.viz.style import (
    COLOURS,
    DOTTED,
    INK,
    PALE,
    VERBS,
    label_rows,
    mode_panels,
    panels,
    styled,
)
from stce.viz.tables import significant

LONG_NAMES = {
    "top": "most important first",
    "random": "random order",
    "least": "least important first",
}
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
BESIDE = {"textcoords": "offset points", "annotation_clip": False, "fontsize": 9}
# What a concept counts by, see `stce.evaluation.effects.motion`.
KINDS = {"motion": "#D55E00", "look": "#0072B2", "both": "#CC79A7", "presence": "#E69F00"}
KINDS |= {"unsure": PALE, "unseen": PALE}


def _order_name(order: str) -> str:
    return f"concepts, {LONG_NAMES[order]}" if order in LONG_NAMES else order


def learning_curve(history: pd.DataFrame) -> Figure:
    """Plot loss and accuracy against epochs in two panels, as of :func:`stce.training.train`."""
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
        left.plot(history["epoch"], history["loss"], color=INK)
        left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        right.plot(history["epoch"], 100 * history["accuracy"], color=INK, label="training")
        tested = history.dropna(subset="test_accuracy")
        unseen = {"color": COLOURS["top"], "label": "unseen persons"}
        right.plot(tested["epoch"], 100 * tested["test_accuracy"], "o-", **unseen)
        right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 102))
        right.legend(frameon=False, loc="lower right")
    return figure


def score_chart(scores: pd.DataFrame) -> Figure:
    """Plot each concept's score with its interval, class by class (equation 2).

    One panel a class; dots are filled where :func:`stce.viz.tables.significant`. Takes the
    ``scores`` of :class:`stce.tcav.Tcav`.
    """
    names = list(dict.fromkeys(scores["class"]))
    with styled():
        figure, axes = panels(len(names), 3.1, columns=3, sharex=True)
        for ax, name in zip(axes.flat, names, strict=False):
            part = scores[scores["class"] == name].sort_values("rank")
            ax.axhline(0.5, color=PALE, lw=1, ls="--", zorder=0)
            ax.vlines(part["rank"], part["ci_low"], part["ci_high"], color="#999999", lw=2)
            filled = np.where(significant(part), INK, "#FFFFFF")
            look = {"s": 26, "zorder": 3, "edgecolor": INK, "linewidth": 0.8, "c": filled}
            ax.scatter(part["rank"], part["score"], **look)
            ax.set_title(name, fontsize=10)
        for ax in axes[-1]:
            ax.set_xlabel("rank of the concept")
        for ax in axes[:, 0]:
            ax.set(ylabel="TCAV score", ylim=(-0.04, 1.04))
    return figure


def draw_curves(ax: plt.Axes, table: pd.DataFrame, mode: str, names: dict[str, str]) -> float:
    """Draw one curve an order with its band, and the intact clips; return their accuracy in %."""
    intact = table[(table["mode"] == "remove") & (table["q"] == 0)]
    baseline = 100 * intact["accuracy"].iloc[0]
    ax.axhline(baseline, **DOTTED)
    for order in ("top", "random", "least"):
        colour, _, marker = LOOKS[order]
        part = table[(table["mode"] == mode) & (table["order"] == order)].sort_values("q")
        q, low, high = part["q"], 100 * part["ci_low"], 100 * part["ci_high"]
        ax.plot(q, 100 * part["accuracy"], color=colour, marker=marker, label=names[order])
        ax.fill_between(q, low, high, lw=0, alpha=0.15, color=colour)
    return baseline


def accuracy_curves(table: pd.DataFrame) -> Figure:
    """Plot accuracy while concepts are added and removed.

    Two panels; bands are 95 % intervals over clips, the dotted line is the intact clip. Takes what
    :func:`stce.curves.accuracy_table` returns.
    """
    with styled():
        figure, axes = mode_panels(3.6, "Concepts")
        for mode, ax in axes.items():
            baseline = draw_curves(ax, table, mode, LONG_NAMES)
            ax.set(xlabel=f"concepts {VERBS[mode]}", ylim=(0, 102))
        text, place = f"intact clips: {baseline:.1f} %", (0.02, baseline - 1.5)
        look = {"xycoords": ("axes fraction", "data"), "va": "top", "fontsize": 9, "color": INK}
        axes["add"].annotate(text, place, **look)
        axes["add"].set_ylabel("accuracy (%)")
        axes["remove"].legend(frameon=False, loc="lower left")
    return figure


def order_curves(table: pd.DataFrame) -> Figure:
    """Plot accuracy while a clip is shown or hidden in any number of orders.

    Two panels; every order shows as many voxels of a clip as "top" does at the same step, but
    for "random" and "least", which show concepts of other sizes. Takes what
    :func:`stce.curves.accuracy_table` returns, with the orders of :func:`stce.ablation.ranked`,
    :func:`stce.ablation.matched` and :func:`stce.evaluation.saliency.along`.
    """
    known = [name for name in LOOKS if name in set(table["order"])]
    with styled():
        figure, axes = mode_panels(4.6, "Voxels")
        for mode, ax in axes.items():
            for name in known:
                colour, line, marker = LOOKS[name]
                part = table[(table["mode"] == mode) & (table["order"] == name)].sort_values("q")
                look = {"color": colour, "ls": line, "marker": marker, "ms": 5}
                ax.plot(part["q"], 100 * part["accuracy"], label=_order_name(name), **look)
            ax.set(xlabel="step", ylim=(0, 102))
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes["add"].set_ylabel("accuracy (%)")
        place = {"loc": "outside lower center", "ncols": 3, "frameon": False}
        figure.legend(*axes["add"].get_legend_handles_labels(), **place)
    return figure


def part_chart(table: pd.DataFrame) -> Figure:
    """Plot what the concepts consist of, as lift over the clips, against their rank.

    One heat map a class; 1 is a concept with as much of a part as the whole clips. Takes what
    :func:`stce.viz.tables.ranked_parts` returns.
    """
    names = list(dict.fromkeys(table["class"]))
    parts = [c for c in table.columns if c not in ("class", "concept", "rank")]
    figure, axes = panels(len(names), 2.4, columns=3, sharex=True, sharey=False)
    for ax, name in zip(axes.flat, names, strict=False):
        part = table[table["class"] == name].sort_values("rank").set_index("rank")[parts]
        extent = (0.5, len(part) + 0.5, len(parts) - 0.5, -0.5)
        look = {"aspect": "auto", "cmap": "PuOr_r", "vmin": -3, "vmax": 3, "extent": extent}
        image = ax.imshow(np.log2(part.T.clip(2**-3, 2**3)), **look)
        ax.set_yticks(range(len(parts)), parts, fontsize=8)
        ax.set_title(name, fontsize=10, parse_math=False)
    for ax in axes[-1]:
        ax.set_xlabel("rank of the concept")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[-3, -2, -1, 0, 1, 2, 3])
    bar.set_ticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.set_label("share of the part, relative to the clip")
    return figure


def motion_chart(
    table: pd.DataFrame, thumbnails: dict[tuple[str, int], np.ndarray] | None = None
) -> Figure:
    """Plot how much the motion of each concept counts against how much its look does.

    One panel a class, a logit as long on both axes; one dot a concept, with 95 % intervals, in the
    colour of its kind; concepts that no clip has are left out. Takes the ``concepts`` of
    :func:`stce.evaluation.effects.motion.assess`, and a picture ``(H, W, C) uint8`` of each class
    and concept, which then stand beside the panel, each led to its dot.
    """
    table = table[table["n_clips"] > 0]
    names = list(dict.fromkeys(table["class"]))
    with styled():
        height, size = (3.5, 28) if len(names) > 1 else (5, 60)
        figure, axes = panels(len(names), height, columns=3, sharey=False)
        figure.set_figwidth(9.5 if len(names) > 1 else 6)
        for ax, name in zip(axes.flat, names, strict=False):
            mine = table[table["class"] == name].sort_values("motion")
            across, along = _logits(mine, "look", "motion")
            ax.axline((0, 0), slope=1, **DOTTED | {"color": PALE}, zorder=1)
            ax.axhline(0, **DOTTED)
            ax.axvline(0, **DOTTED)
            beside = np.linspace(0, 1, 2 * len(mine) + 1)[1::2]
            for row, y in zip(mine.itertuples(), beside, strict=True):
                colour = KINDS[row.kind]
                line = {"color": colour, "lw": 1.2, "alpha": 0.6, "zorder": 2}
                ax.hlines(row.motion, row.look_low, row.look_high, **line)
                ax.vlines(row.look, row.motion_low, row.motion_high, **line)
                ax.plot(row.look, row.motion, "o", color=colour, ms=5, zorder=3)
                if thumbnails is None:
                    continue
                picture = rgb(thumbnails[name, row.concept])
                image = OffsetImage(picture, zoom=size / len(picture))
                place = {"xybox": (1.08, y), "boxcoords": "axes fraction", "pad": 0.1}
                place |= {"box_alignment": (0, 0.5), "bboxprops": {"edgecolor": colour, "lw": 2}}
                place["arrowprops"] = {"arrowstyle": "-", "color": colour, "lw": 0.8, "ls": ":"}
                ax.add_artist(AnnotationBbox(image, (row.look, row.motion), **place))
            ax.set_title(name, fontsize=10)
            ax.set(xlim=across, ylim=along, aspect="equal", xlabel="look (logits)")
        for ax in axes[:, 0]:
            ax.set_ylabel("motion (logits)")
        for kind in dict.fromkeys(table["kind"]):
            ax.plot([], [], "s", mfc="none", mew=2, color=KINDS[kind], label=kind)
        place = {"loc": "outside lower center", "ncols": 5, "frameon": False}
        figure.legend(*ax.get_legend_handles_labels(), **place)
    return figure


def _logits(table: pd.DataFrame, *names: str, least: float = 0.6) -> list[tuple[float, float]]:
    """Return the ends of axes that show values with their intervals, none far shorter than all."""
    values = [table[[name, f"{name}_low", f"{name}_high"]] for name in names]
    ends = np.array([(min(0, v.min(axis=None)), max(0, v.max(axis=None))) for v in values])
    spans = np.ptp(ends, axis=1)
    room = np.maximum(least * spans.max() - spans, 0) / 2 + 0.1 * (spans.max() or 1)
    return [(low - more, high + more) for (low, high), more in zip(ends, room, strict=True)]


def clip_chart(profile: np.ndarray, concepts: pd.DataFrame) -> Figure:
    """Plot which frames of a clip or video count, and what each concept adds to the logit.

    Takes the ``profile`` and the ``concepts`` of
    :class:`stce.evaluation.effects.contributions.Contributions`.
    """
    with styled():
        figure, axes = panels(2, 0.9 + 0.2 * max(8, len(concepts)), sharey=False)
        left, right = axes[0]
        values, shade = concepts["contribution"], np.array([COLOURS["least"], COLOURS["top"]])
        for ax in (left, right):
            ax.grid(color="#E5E5E5", lw=0.8)
            ax.set_axisbelow(True)
        left.bar(range(1, len(profile) + 1), profile, color=shade[(profile > 0).astype(int)])
        left.axhline(0, color=INK, lw=0.8)
        left.set(xlabel="frame", ylabel="added to the logit")
        right.barh(range(len(concepts)), values, color=shade[(values > 0).astype(int)])
        right.axvline(0, color=INK, lw=0.8)
        label_rows(right, [f"concept {k}" for k in concepts["concept"]])
        right.set_xlabel("added to the logit")
    return figure


def _correlations(ax: plt.Axes, table: pd.DataFrame, names: str) -> None:
    """Draw one rank correlation a row, with its interval."""
    place = np.arange(len(table))
    ax.axvline(0, **DOTTED)
    ax.hlines(place, table["ci_low"], table["ci_high"], color=COLOURS["least"], lw=2)
    ax.plot(table["correlation"], place, "o", color=COLOURS["least"], ms=6)
    label_rows(ax, table[names])


def sanity_chart(table: pd.DataFrame) -> Figure:
    """Plot what is left of an explanation when the network is randomised.

    One row a network; left the share of significant concepts, with the nominal rate (5 %) as a
    line, right the rank agreement with the trained network and its 95 % interval. Takes what
    :func:`stce.evaluation.sanity.against_trained` returns.
    """
    with styled():
        figure, ((left, right),) = panels(2, 1.2 + 0.42 * len(table))
        left.barh(range(len(table)), 100 * table["significant"], color=COLOURS["top"])
        left.axvline(5, **DOTTED)
        for row, share in table["significant"].reset_index(drop=True).dropna().items():
            left.text(100 * share, row, f" {100 * share:.0f} %", va="center", fontsize=9)
        left.margins(x=0.12)
        left.set(xlabel="significant concepts (%)")
        _correlations(right, table, "network")
        right.set(xlabel="rank agreement with the trained network", xlim=(-1.05, 1.05))
    return figure


def agreement_chart(table: pd.DataFrame) -> Figure:
    """Plot how well two runs agree, by what was changed between them.

    One row a change; rank correlation of the concepts' derivatives, with intervals. Takes a table
    with ``changed``, ``correlation``, ``ci_low`` and ``ci_high``.
    """
    with styled():
        figure, ax = plt.subplots(figsize=(7, 1.2 + 0.4 * len(table)), layout="constrained")
        _correlations(ax, table, "changed")
        ax.set(xlabel="rank agreement of the concepts (Spearman)", xlim=(-0.25, 1.05))
    return figure


def trust_chart(table: pd.DataFrame) -> Figure:
    """Plot the answers to what a sceptic asks of an explanation, with 95 % intervals.

    One row a question: blue if it is passed, orange-red if not, grey where it is told and not
    judged. Takes the ``table`` of :class:`stce.evaluation.trust.Trust`.
    """
    looks = {True: ("passed", COLOURS["least"]), False: ("not passed", COLOURS["top"])}
    with styled():
        figure, ax = plt.subplots(figsize=(8, 1.4 + 0.36 * len(table)), layout="constrained")
        ax.axvline(0, **DOTTED)
        for row in table.reset_index(drop=True).itertuples():
            said, colour = looks.get(row.passes, ("not judged", COLOURS["random"]))
            ax.hlines(row.Index, row.low, row.high, color=colour, lw=2)
            ax.plot(row.value, row.Index, "o", color=colour, ms=6, label=said)
        label_rows(ax, table["question"])
        ax.set(xlabel="share, rank correlation or gain in accuracy", xlim=(-1.05, 1.05))
        handles, labels = ax.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        place = {"loc": "outside lower right", "ncols": 3, "frameon": False}
        figure.legend(unique.values(), unique, **place)
    return figure


def depth_chart(table: pd.DataFrame) -> Figure:
    """Plot what the same concepts are worth at several layers: by sign, and by how much.

    One line a concept, in blue to orange-red from the least to the most important one at the last
    layer; concepts that somebody named are labelled. Takes a table of
    :func:`stce.evaluation.effects.depth.over_layers`, of one class.
    """
    layers = list(dict.fromkeys(table["layer"]))
    shades = LinearSegmentedColormap.from_list("", [COLOURS["least"], PALE, COLOURS["top"]])
    last = table[table["layer"] == layers[-1]].sort_values("rank", ascending=False)
    with styled():
        figure, ((left, right),) = panels(2, 3.6, sharey=False)
        for place, row in enumerate(last.itertuples()):
            mine = table[table["concept"] == row.concept].set_index("layer").loc[layers]
            line = {"color": shades(place / max(len(last) - 1, 1)), "marker": "o", "ms": 4}
            left.plot(layers, mine["score"], **line)
            right.plot(layers, mine["cosine"], **line)
            if name := getattr(row, "name", ""):
                right.annotate(name, (len(layers) - 1, row.cosine), (6, 0), va="center", **BESIDE)
        left.axhline(0.5, **DOTTED)
        right.axhline(0, **DOTTED)
        left.set(xlabel="layer", ylabel="TCAV score (share of positive signs)")
        right.set(xlabel="layer", ylabel="cosine of CAV and gradient")
    return figure


def carriers_chart(table: pd.DataFrame) -> Figure:
    """Plot how much of the parts that carry a class the head of the ranking holds.

    One place a class: filled dots are rankings, rings what a random ranking of the same
    concepts is expected to hold. Takes what :func:`stce.evaluation.truth.found` returns, of any
    number of runs.
    """
    names = list(dict.fromkeys(table["class"]))
    dot, ring = {"color": COLOURS["top"]}, {"mfc": "white", "mec": COLOURS["random"]}
    with styled():
        figure, ax = plt.subplots(figsize=(8, 1.2 + 0.5 * len(names)), layout="constrained")
        ax.axvline(1, **DOTTED)
        for row, name in enumerate(names):
            part = table[table["class"] == name].reset_index(drop=True)
            place = row + 0.6 * ((part.index + 0.5) / len(part) - 0.5)
            ax.hlines(place, part["random"], part["top"], color=PALE, lw=1.2)
            ax.plot(part["random"], place, "o", ms=4.5, **ring)
            ax.plot(part["top"], place, "o", ms=4.5, **dot)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set(xlabel="share of the carrying parts, relative to the clip")
        ax.plot([], [], "o", label="first five concepts", **dot)
        ax.plot([], [], "o", label="five drawn at random", **ring)
        ax.legend(frameon=False, loc="lower right")
    return figure


def pointed_chart(table: pd.DataFrame) -> Figure:
    """Plot how far each order shows the parts that carry a class before others.

    One row an order, in the colours of :func:`order_curves`, best first; with 95 % intervals
    over clips. 1 is what a blind choice of voxels would show. Takes what
    :func:`stce.evaluation.truth.pointed` returns.
    """
    table = table.sort_values("lift", ascending=False, ignore_index=True)
    with styled():
        figure, ax = plt.subplots(figsize=(8, 1.1 + 0.36 * len(table)), layout="constrained")
        ax.axvline(1, **DOTTED)
        for row in table.itertuples():
            colour, _, marker = LOOKS[row.order]
            ax.hlines(row.Index, row.ci_low, row.ci_high, color=colour, lw=2)
            ax.plot(row.lift, row.Index, marker, color=colour, ms=7)
        label_rows(ax, [_order_name(name) for name in table["order"]])
        ax.set(xlabel="carrying parts in the first five steps, relative to the clip")
    return figure
