"""Figures: arrays and tables in, a matplotlib Figure (or frames for a video) out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries

__all__ = [
    "accuracy_curves",
    "clip_sheet",
    "concept_frames",
    "concept_montage",
    "highlight",
    "learning_curve",
    "part_lift",
    "resolutions",
    "reveal_strip",
    "score_chart",
    "side_by_side",
    "typical",
]

# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = {"top": "#D55E00", "random": "#7A7A7A", "least": "#0072B2"}
EDGE = np.array([255, 176, 0], np.uint8)
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}


def _rgb(frames: np.ndarray) -> np.ndarray:
    return frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames


def _evenly(n: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, count).round().astype(int))


def _image(ax, image: np.ndarray, title: str = "", **options) -> None:
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
    chosen = _evenly(frames.shape[1], n_frames)
    height, width = frames.shape[2:4]
    inches = 9 / len(chosen)
    figure, axes = plt.subplots(
        len(frames), 1, figsize=(9.5, len(frames) * inches * height / width), squeeze=False
    )
    for ax, clip, title in zip(axes[:, 0], frames, titles, strict=True):
        _image(ax, np.hstack(list(_rgb(clip)[chosen])))
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
    with plt.rc_context(STYLE):
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


def _outlined(image: np.ndarray, labels: np.ndarray, zoom: int = 4) -> np.ndarray:
    """Draw the borders of a label image over the image, one thin line each."""
    image = _rgb(image).repeat(zoom, 0).repeat(zoom, 1).copy()
    labels = labels.repeat(zoom, 0).repeat(zoom, 1)
    image[find_boundaries(labels, mode="inner")] = EDGE
    return image


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
    chosen = _evenly(len(frames), n_frames)
    rows = 1 + len(labels)
    figure, axes = plt.subplots(rows, len(chosen), figsize=(9.5, 1.85 * rows), squeeze=False)
    for column, t in enumerate(chosen):
        _image(axes[0, column], frames[t], f"frame {t + 1}")
        for level in range(len(labels)):
            _image(axes[1 + level, column], _outlined(frames[t], labels[level, t]))
    for ax, name in zip(axes[:, 0], ["clip", *names], strict=True):
        ax.set_ylabel(name, fontsize=10)
    figure.subplots_adjust(left=0.04, right=0.995, top=0.95, bottom=0.005, hspace=0.04, wspace=0.04)
    return figure


def highlight(frames: np.ndarray, mask: np.ndarray, dim: float = 0.3) -> np.ndarray:
    """Let a supervoxel stand out: the rest is dimmed, its border drawn (Figure 5).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    mask : numpy.ndarray
        ``(T, H, W) bool``.
    dim : float, default 0.3
        Brightness left outside, 0 to 1.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W, 3) uint8``.

    Examples
    --------
    >>> lit = highlight(np.full((1, 4, 4, 1), 200, np.uint8), np.zeros((1, 4, 4), bool))
    >>> int(lit.max())
    60
    """
    rgb = _rgb(frames)
    lit = np.where(mask[..., None], rgb, (rgb * dim).astype(np.uint8))
    for t in range(len(lit)):
        lit[t][find_boundaries(mask[t], mode="inner")] = EDGE
    return lit


def typical(clips, supervoxels, rows: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the first n supervoxels that lie in different clips, lit and raw.

    Parameters
    ----------
    clips : stce.clips.Clips
        The clips they were cut from.
    supervoxels : stce.supervoxels.Supervoxels
        Of these clips.
    rows : numpy.ndarray
        Supervoxels of one concept, nearest to its centre first.
    n : int
        How many at most.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray)
        Highlighted ``(T, H, W, 3)`` and raw ``(T, H, W, C) uint8`` clips.
    """
    videos = supervoxels.table["video"].to_numpy()
    pairs, seen = [], set()
    for row in rows:
        if videos[row] not in seen and len(pairs) < n:
            seen.add(videos[row])
            frames = np.asarray(clips.frames[int(videos[row])])
            pairs.append((highlight(frames, supervoxels.mask(row)), frames))
    return pairs


def side_by_side(columns: list[tuple[np.ndarray, np.ndarray]], gap: int = 2) -> np.ndarray:
    """Stack highlighted over raw, and set several clips side by side, for one video.

    Parameters
    ----------
    columns : list of (numpy.ndarray, numpy.ndarray)
        Pairs ``(T, H, W, 3)`` and ``(T, H, W, C) uint8``: highlighted and raw.
    gap : int, default 2
        White pixels between clips.

    Returns
    -------
    numpy.ndarray
        ``(T, 2 H + gap, n (W + gap) - gap, 3) uint8``.
    """
    pad = ((0, 0), (0, gap), (0, gap), (0, 0))
    stacked = [
        np.concatenate([np.pad(_rgb(clip), pad, constant_values=255) for clip in pair], axis=1)
        for pair in columns
    ]
    return np.concatenate(stacked, axis=2)[:, :-gap, :-gap]


def concept_montage(
    concepts: list[list[tuple[np.ndarray, np.ndarray]]], titles: list[str], columns: int = 5
) -> Figure:
    """Show many concepts, each by one frame of up to four of its supervoxels.

    Parameters
    ----------
    concepts : list
        For each concept what :func:`typical` returns.
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
        # The brightest frame is the one in which most of the supervoxel is lit.
        tiles = [lit[lit.sum((1, 2, 3)).argmax()] for lit, _ in pairs[:4]]
        tiles += [np.full_like(tiles[0], 255)] * (4 - len(tiles))
        cells = [np.pad(t, ((1, 1), (1, 1), (0, 0)), constant_values=255) for t in tiles]
        _image(ax, np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])]), title)
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
        For each concept one highlighted and one raw clip, see :func:`typical`.
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
    figure, axes = plt.subplots(rows, 2, figsize=(9.5, 2.05 * rows), squeeze=False)
    for ax in axes.flat[len(pairs) :]:
        ax.axis("off")
    for ax, (lit, raw), title in zip(axes.flat, pairs, titles, strict=False):
        chosen = _evenly(len(raw), n_frames)
        both = [np.hstack(list(_rgb(clip)[chosen])) for clip in (lit, raw)]
        _image(ax, np.vstack(both), title)
    figure.subplots_adjust(
        left=0.005, right=0.995, top=1 - 0.13 / rows, bottom=0.005, hspace=0.2, wspace=0.03
    )
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
    with plt.rc_context(STYLE):
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


def accuracy_curves(table: pd.DataFrame) -> Figure:
    """Plot accuracy while concepts are added and removed (Figures 6 and 7).

    Parameters
    ----------
    table : pandas.DataFrame
        What :func:`stce.curves.accuracy_table` returns.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels; bands are 95 % intervals over clips, the dotted line is the intact clip.
    """
    baseline = 100 * table.query("mode == 'remove' and q == 0")["accuracy"].iloc[0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
        for ax, mode, verb in zip(axes, ("add", "remove"), ("added", "removed"), strict=True):
            ax.axhline(baseline, color="#333333", lw=1, ls=":")
            ax.annotate(
                f"intact clips: {baseline:.1f} %",
                (0.02, baseline - 1.5),
                fontsize=9,
                va="top",
                xycoords=("axes fraction", "data"),
                color="#333333",
            ) if mode == "add" else None
            for order, marker in (("top", "o"), ("random", "s"), ("least", "^")):
                part = table[(table["mode"] == mode) & (table["order"] == order)].sort_values("q")
                ax.plot(
                    part["q"],
                    100 * part["accuracy"],
                    marker=marker,
                    color=COLOURS[order],
                    label={
                        "top": "most important first",
                        "random": "random order",
                        "least": "least important first",
                    }[order],
                )
                ax.fill_between(
                    part["q"],
                    100 * part["ci_low"],
                    100 * part["ci_high"],
                    lw=0,
                    alpha=0.15,
                    color=COLOURS[order],
                )
            ax.set(xlabel=f"concepts {verb}", title=f"Concepts {verb}", ylim=(0, 102))
        axes[0].set_ylabel("accuracy (%)")
        axes[1].legend(frameon=False, loc="lower left")
    return figure


def reveal_strip(frames: np.ndarray, masks: list[np.ndarray], titles: list[str], fill: int):
    """Show what is visible at each step of adding or removing (Figures 3 and 4).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    masks : list of numpy.ndarray
        Visible voxels ``(T, H, W) bool`` of each step.
    titles : list of str
        One a step.
    fill : int
        Grey value of hidden voxels, 0 to 255.

    Returns
    -------
    matplotlib.figure.Figure
        One column a step, three frames each.
    """
    chosen = _evenly(len(frames), 3)
    figure, axes = plt.subplots(
        len(chosen), len(masks), figsize=(9.5, 9.5 / len(masks) * len(chosen)), squeeze=False
    )
    rgb = _rgb(frames)
    for column, (mask, title) in enumerate(zip(masks, titles, strict=True)):
        shown = np.where(mask[..., None], rgb, np.uint8(fill))
        for row, t in enumerate(chosen):
            _image(axes[row, column], shown[t], title if row == 0 else "")
    figure.subplots_adjust(
        left=0.005, right=0.995, top=0.93, bottom=0.005, hspace=0.04, wspace=0.04
    )
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
