"""Figures of clips, supervoxels and concepts: arrays in, a matplotlib Figure out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from stce.viz.pictures import evenly, fullest, outlined, revealed, rgb
from stce.viz.style import INK


def show_image(ax, image: np.ndarray, title: str = "", **options) -> None:
    """Draw an image ``(H, W, C) uint8`` without ticks or frame."""
    ax.imshow(image, interpolation="nearest", vmin=0, vmax=255, cmap="gray", **options)
    ax.set_xticks([])
    ax.set_yticks([])
    sns.despine(ax=ax, left=True, bottom=True)
    if title:
        ax.set_title(title, fontsize=9, parse_math=False)


def _cells(n: int, columns: int, inches: float, **options) -> tuple[Figure, list[plt.Axes]]:
    """Return a figure as wide as a page, with n cells in columns."""
    rows, size = -(-n // columns), (9.5, inches)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for ax in axes.flat[n:]:
        ax.axis("off")
    return figure, list(axes.flat[:n])


def _fill(figure: Figure, **margins: float) -> None:
    """Let images fill a figure up to the margins."""
    figure.subplots_adjust(**{"left": 0.005, "right": 0.995, "bottom": 0.005} | margins)


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
    """
    chosen = evenly(frames.shape[1], n_frames)
    height, width = frames.shape[2:4]
    figure, axes = _cells(len(frames), 1, len(frames) * 9 / len(chosen) * height / width)
    for ax, clip, title in zip(axes, frames, titles, strict=True):
        show_image(ax, np.hstack(list(rgb(clip)[chosen])))
        ax.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, parse_math=False)
    _fill(figure, left=0.13, top=0.995, hspace=0.04)
    return figure


def resolutions(
    frames: np.ndarray, labels: np.ndarray, names: list[str], n_frames: int = 5
) -> Figure:
    """Show one clip cut at several resolutions (the segmentation step of Figure 1).

    A row for the clip and one for each level.

    Parameters
    ----------
    frames, labels : numpy.ndarray
        ``(T, H, W, C) uint8`` and ``(L, T, H, W)``.
    names, n_frames
        One name a level; see :func:`clip_sheet`.
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
    _fill(figure, left=0.04, top=0.95, hspace=0.04, wspace=0.04)
    return figure


def concept_montage(
    concepts: list[list[tuple[np.ndarray, np.ndarray]]], titles: list[str], columns: int = 5
) -> Figure:
    """Show many concepts, each by one frame of up to four of its supervoxels, two by two.

    Parameters
    ----------
    concepts : list
        For each concept what :func:`stce.viz.pictures.typical` returns.
    titles : list of str
        One a concept.
    columns : int, default 5
        Concepts a row of the figure.
    """
    rows = -(-len(concepts) // columns)
    figure, axes = _cells(len(concepts), columns, 9.5 / columns * 1.12 * rows)
    for ax, pairs, title in zip(axes, concepts, titles, strict=True):
        tiles = [fullest(lit) for lit, _ in pairs[:4]]
        tiles += [np.full_like(tiles[0], 255)] * (4 - len(tiles))
        cells = [np.pad(t, ((1, 1), (1, 1), (0, 0)), constant_values=255) for t in tiles]
        show_image(ax, np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])]), title)
    _fill(figure, top=1 - 0.2 / (2.1 * rows), hspace=0.14, wspace=0.05)
    return figure


def concept_frames(
    pairs: list[tuple[np.ndarray, np.ndarray]], titles: list[str], n_frames: int = 6
) -> Figure:
    """Show concepts frame by frame, highlighted above raw, two a row (Figure 5).

    Parameters
    ----------
    pairs : list of (numpy.ndarray, numpy.ndarray)
        For each concept one highlighted and one raw clip, see :func:`stce.viz.pictures.typical`.
    titles, n_frames
        One title a concept; see :func:`clip_sheet`.
    """
    rows = -(-len(pairs) // 2)
    height, width = pairs[0][1].shape[1:3]
    tall = 4.66 * 2 * height / (min(n_frames, len(pairs[0][1])) * width)
    head = 0.45  # inches for the title
    inches = rows * (tall + head)
    figure, axes = _cells(len(pairs), 2, inches, dpi=150)
    for ax, (lit, raw), title in zip(axes, pairs, titles, strict=True):
        chosen = evenly(len(raw), n_frames)
        both = [np.hstack(list(rgb(clip)[chosen])) for clip in (lit, raw)]
        show_image(ax, np.vstack(both), title)
    top, bottom = 1 - 0.3 / inches, 0.08 / inches
    _fill(figure, top=top, bottom=bottom, hspace=head / tall, wspace=0.03)
    return figure


def reveal_strip(
    frames: np.ndarray, masks: list[np.ndarray], titles: list[str], fill: int, mode: str = ""
) -> Figure:
    """Show three frames of what is visible at each step of adding or removing (Figures 3 and 4).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    masks : list of numpy.ndarray
        Visible voxels ``(T, H, W) bool`` of each step, see :class:`stce.ablation.Order`.
    titles : list of str
        One a step.
    fill : int
        Grey value of hidden voxels, 0 to 255.
    mode : {"", "add", "remove"}, default ""
        Names the mode above the steps, joins them with arrows, and outlines in each step the
        voxels that it added or removed.

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
    # With a heading there is room between the steps for arrows.
    gap, head = (0.2, 0.75) if mode else (0.04, 0.45)
    height, width = frames.shape[1:3]
    cell = 9.4 / (len(masks) + gap * (len(masks) - 1))
    tall = cell * len(chosen) * height / width / (1 - 0.02)
    inches = tall + head
    figure, axes = plt.subplots(len(chosen), len(masks), figsize=(9.5, inches), squeeze=False)
    for column, (mask, title) in enumerate(zip(masks, titles, strict=True)):
        changed = masks[column - 1] ^ mask if mode and column else None
        shown = revealed(frames, mask, fill, changed)
        for row, t in enumerate(chosen):
            show_image(axes[row, column], shown[t], title if row == 0 else "")
        if mode and column:
            ends = (-0.02, 0.5), (0.02 - gap, 0.5)
            arrow = {"arrowstyle": "-|>", "color": INK, "lw": 1.5}
            ax = axes[len(chosen) // 2, column]
            ax.annotate("", *ends, xycoords="axes fraction", arrowprops=arrow)
    _fill(figure, top=1 - head / inches, hspace=0.04, wspace=gap)
    if mode:
        figure.text(0.005, 1 - 0.06 / inches, headings[mode], fontsize=11, va="top")
    return figure
