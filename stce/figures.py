"""Figures: arrays and tables in, a matplotlib Figure out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from stce.pictures import fullest, highlight, lift, outlined, revealed, rgb
from stce.tables import ORDER_NAMES

__all__ = [
    "accuracy_curves",
    "class_curves",
    "clip_sheet",
    "concept_frames",
    "concept_montage",
    "gains",
    "high_resolution",
    "learning_curve",
    "part_lift",
    "resolutions",
    "reveal_strip",
    "score_chart",
    "settings",
]

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = {"top": "#D55E00", "random": "#7A7A7A", "least": "#0072B2"}
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the book."""
    # Settles the backend: a notebook whose first figure is made inside rc_context shows no other.
    plt.draw_if_interactive()
    with plt.rc_context(STYLE):
        yield


def evenly(n: int, count: int) -> np.ndarray:
    """Return up to `count` of n indices, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, count).round().astype(int))


def show_image(ax, image: np.ndarray, title: str = "", **options) -> None:
    """Draw an image ``(H, W, C) uint8`` without ticks or frame."""
    ax.imshow(image, interpolation="nearest", vmin=0, vmax=255, cmap="gray", **options)
    ax.set_xticks([])
    ax.set_yticks([])
    sns.despine(ax=ax, left=True, bottom=True)
    if title:
        ax.set_title(title, fontsize=9)


def clip_sheet(frames: np.ndarray, titles: list[str], n_frames: int = 8) -> Figure:
    """Show clips as rows of frames.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(N, T, H, W, C) uint8``.
    titles : list of str
        One a clip.
    n_frames : int, default 8
        Frames shown of each, evenly spaced.

    Returns
    -------
    matplotlib.figure.Figure
        N rows.
    """
    chosen = evenly(frames.shape[1], n_frames)
    height, width = frames.shape[2:4]
    inches = 9 / len(chosen)
    figure, axes = plt.subplots(
        len(frames), 1, figsize=(9.5, len(frames) * inches * height / width), squeeze=False
    )
    for ax, clip, title in zip(axes[:, 0], frames, titles, strict=True):
        show_image(ax, np.hstack(list(rgb(clip)[chosen])))
        ax.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(left=0.13, right=0.995, top=0.995, bottom=0.005, hspace=0.04)
    return figure


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


def resolutions(
    frames: np.ndarray, labels: np.ndarray, names: list[str], n_frames: int = 5
) -> Figure:
    """Show one clip cut at several resolutions (the segmentation step of Figure 1).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    labels : numpy.ndarray
        ``(L, T, H, W)``.
    names : list of str
        One a level.
    n_frames : int, default 5
        Frames shown.

    Returns
    -------
    matplotlib.figure.Figure
        A row for the clip and one for each level.
    """
    chosen = evenly(len(frames), n_frames)
    rows = 1 + len(labels)
    figure, axes = plt.subplots(rows, len(chosen), figsize=(9.5, 1.85 * rows), squeeze=False)
    for column, t in enumerate(chosen):
        show_image(axes[0, column], frames[t], f"frame {t + 1}")
        for level in range(len(labels)):
            show_image(axes[1 + level, column], outlined(frames[t], labels[level, t]))
    for ax, name in zip(axes[:, 0], ["clip", *names], strict=True):
        ax.set_ylabel(name, fontsize=10)
    figure.subplots_adjust(left=0.04, right=0.995, top=0.95, bottom=0.005, hspace=0.04, wspace=0.04)
    return figure


def concept_montage(
    concepts: list[list[tuple[np.ndarray, np.ndarray]]], titles: list[str], columns: int = 5
) -> Figure:
    """Show many concepts, each by one frame of up to four of its supervoxels.

    Parameters
    ----------
    concepts : list
        For each concept what :func:`stce.pictures.typical` returns.
    titles : list of str
        One a concept.
    columns : int, default 5
        Concepts a row of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        One cell of two by two a concept.
    """
    rows = -(-len(concepts) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(9.5, 9.5 / columns * 1.12 * rows), squeeze=False
    )
    for ax in axes.flat[len(concepts) :]:
        ax.axis("off")
    for ax, pairs, title in zip(axes.flat, concepts, titles, strict=False):
        tiles = [fullest(lit) for lit, _ in pairs[:4]]
        tiles += [np.full_like(tiles[0], 255)] * (4 - len(tiles))
        cells = [np.pad(t, ((1, 1), (1, 1), (0, 0)), constant_values=255) for t in tiles]
        show_image(ax, np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])]), title)
    figure.subplots_adjust(
        left=0.005, right=0.995, top=1 - 0.2 / (2.1 * rows), bottom=0.005, hspace=0.14, wspace=0.05
    )
    return figure


def concept_frames(
    pairs: list[tuple[np.ndarray, np.ndarray]], titles: list[str], n_frames: int = 6
) -> Figure:
    """Show concepts frame by frame, highlighted above raw (Figure 5).

    Parameters
    ----------
    pairs : list of (numpy.ndarray, numpy.ndarray)
        For each concept one highlighted and one raw clip, see :func:`stce.pictures.typical`.
    titles : list of str
        One a concept.
    n_frames : int, default 6
        Frames shown.

    Returns
    -------
    matplotlib.figure.Figure
        Two concepts a row.
    """
    rows = -(-len(pairs) // 2)
    height, width = pairs[0][1].shape[1:3]
    tall = 4.66 * 2 * height / (min(n_frames, len(pairs[0][1])) * width)
    head = 0.45  # inches for the title
    size = (9.5, rows * (tall + head))
    figure, axes = plt.subplots(rows, 2, figsize=size, squeeze=False)
    for ax in axes.flat[len(pairs) :]:
        ax.axis("off")
    for ax, (lit, raw), title in zip(axes.flat, pairs, titles, strict=False):
        chosen = evenly(len(raw), n_frames)
        both = [np.hstack(list(rgb(clip)[chosen])) for clip in (lit, raw)]
        show_image(ax, np.vstack(both), title)
    figure.subplots_adjust(
        left=0.005,
        right=0.995,
        top=1 - 0.3 / size[1],
        bottom=0.08 / size[1],
        hspace=head / tall,
        wspace=0.03,
    )
    return figure


def high_resolution(
    clips: list[np.ndarray],
    masks: list[np.ndarray],
    titles: list[str],
    frame_size: tuple[int, int],
    n_frames: int = 4,
) -> Figure:
    """Show concepts on the videos themselves, at their own resolution (Figure 9).

    Parameters
    ----------
    clips : list of numpy.ndarray
        For each concept the frames of one video, ``(T, H, W, C) uint8``, as they were before
        they were resized and cropped; see :func:`stce.pictures.middle`.
    masks : list of numpy.ndarray
        For each a supervoxel ``(T, h, w) bool`` at the network's resolution.
    titles : list of str
        One a concept.
    frame_size : tuple of int
        (height, width) to which frames were resized before the crop.
    n_frames : int, default 4
        Frames shown.

    Returns
    -------
    matplotlib.figure.Figure
        Two concepts a row, highlighted above raw.
    """
    pairs = []
    for frames, mask in zip(clips, masks, strict=True):
        own = lift(mask, frame_size, frames.shape[1:3])
        # A border of one pixel would be lost where large frames are drawn small.
        pairs.append((highlight(frames, own, width=max(1, round(len(frames[0]) / 120))), frames))
    figure = concept_frames(pairs, titles, n_frames)
    figure.set_dpi(150)
    return figure


def settings(
    frames: np.ndarray, masks: list[np.ndarray], titles: list[str], n_frames: int = 8
) -> Figure:
    """Show the most important concept that each setting of the method finds in a clip (Figure 8).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    masks : list of numpy.ndarray
        The concept's voxels in this clip, ``(T, H, W) bool``, one a setting.
    titles : list of str
        One a setting.
    n_frames : int, default 8
        Frames shown.

    Returns
    -------
    matplotlib.figure.Figure
        A row for the raw clip and one a setting, highlighted.
    """
    rows = [rgb(frames), *(highlight(frames, mask) for mask in masks)]
    return clip_sheet(np.stack(rows), ["raw", *titles], n_frames)


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


LONG_NAMES = {
    "top": "most important first",
    "random": "random order",
    "least": "least important first",
}


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


def reveal_strip(
    frames: np.ndarray, masks: list[np.ndarray], titles: list[str], fill: int, mode: str = ""
) -> Figure:
    """Show what is visible at each step of adding or removing (Figures 3 and 4).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    masks : list of numpy.ndarray
        Visible voxels ``(T, H, W) bool`` of each step, see :func:`stce.ablation.visible`.
    titles : list of str
        One a step.
    fill : int
        Grey value of hidden voxels, 0 to 255.
    mode : {"", "add", "remove"}, default ""
        Names the mode above the steps, joins them with arrows, and outlines in each step the
        voxels that it added or removed.

    Returns
    -------
    matplotlib.figure.Figure
        One column a step, three frames each.

    Raises
    ------
    ValueError
        If the mode is unknown.
    """
    headings = {
        "": "",
        "add": "Adding concepts to a blank clip, the most important first",
        "remove": "Removing concepts from the whole clip, the most important first",
    }
    if mode not in headings:
        raise ValueError(f"mode is {mode!r}; choose 'add', 'remove' or ''.")
    chosen = evenly(len(frames), 3)
    # With a heading there is room between the steps for arrows, and above them for two lines.
    gap, head = (0.2, 0.75) if mode else (0.04, 0.0)
    height, width = frames.shape[1:3]
    cell = 9.4 / (len(masks) + gap * (len(masks) - 1))
    tall = cell * len(chosen) * height / width / (1 - 0.02)
    size = (9.5, tall + head) if mode else (9.5, 9.5 / len(masks) * len(chosen))
    figure, axes = plt.subplots(len(chosen), len(masks), figsize=size, squeeze=False)
    for column, (mask, title) in enumerate(zip(masks, titles, strict=True)):
        changed = masks[column - 1] ^ mask if mode and column else None
        shown = revealed(frames, mask, fill, changed)
        for row, t in enumerate(chosen):
            show_image(axes[row, column], shown[t], title if row == 0 else "")
        if mode and column:
            axes[len(chosen) // 2, column].annotate(
                "",
                (-0.02, 0.5),
                (-gap + 0.02, 0.5),
                xycoords="axes fraction",
                arrowprops={"arrowstyle": "-|>", "color": "#333333", "lw": 1.5},
            )
    top = 1 - head / size[1] if mode else 0.93
    figure.subplots_adjust(left=0.005, right=0.995, top=top, bottom=0.005, hspace=0.04, wspace=gap)
    if mode:
        figure.text(0.005, 1 - 0.06 / size[1], headings[mode], fontsize=11, va="top")
    return figure


def part_lift(table: pd.DataFrame) -> Figure:
    """Plot what the concepts consist of, as lift over the clips, against their rank.

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`stce.tables.composition` returns, with ``class`` and ``rank``.

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
        Of :func:`stce.verdict.by_seed`: ``run``, ``seed``, ``mode``, ``gain``, ``ci_low`` and
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
