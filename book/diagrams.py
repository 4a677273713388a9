"""Diagrams: pictures that explain the method itself, drawn from what a run holds (Figures 1, 2)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from stce.cav import unit
from stce.viz.figures import show_image
from stce.viz.pictures import evenly, first_of_clips, outlined, revealed, rgb
from stce.viz.style import INK, PALE, styled

__all__ = ["cav", "cutouts", "framework", "plane", "stack"]

# Okabe and Ito's green, blue and orange: the paper's colours of the three resolutions.
LEVELS = ("#009E73", "#0072B2", "#E69F00")
CONCEPT, RANDOM, VECTOR = "#0072B2", "#7A7A7A", "#CC0000"


def cutouts(clips, supervoxels, rows: np.ndarray, n: int, fill: int) -> list[np.ndarray]:
    """Return the first n supervoxels that lie in different clips as the network is shown them.

    Parameters
    ----------
    clips, supervoxels, rows, n
        See :func:`stce.viz.pictures.typical`.
    fill : int
        Grey value around the supervoxel, 0 to 255.

    Returns
    -------
    list of numpy.ndarray
        ``(H, W, 3) uint8``, of each the frame in which the supervoxel is largest.
    """
    images = []
    for row, video in first_of_clips(supervoxels, rows, n):
        mask = supervoxels.mask(row)
        t = int(mask.sum((1, 2)).argmax())
        one, frame = mask[t : t + 1], np.asarray(clips.frames[video])[t : t + 1]
        images.append(revealed(frame, one, fill, changed=one)[0])
    return images


def _arrow(figure, start: tuple[float, float], end: tuple[float, float], **style) -> None:
    options = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.4, "color": INK} | style
    figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure, **options))


def _stack(figure, box: list[float], images: list[np.ndarray], title: str, colour="#000000"):
    ax = figure.add_axes(box)
    show_image(ax, stack(images))
    ax.set_title(title, fontsize=9, color=colour, pad=3)
    return ax


def _step(figure, left: float, right: float, text: str) -> None:
    """Write the name of a step above what belongs to it, and a line below the name."""
    figure.text(left, 0.985, text, fontsize=10, weight="bold", va="top")
    line = Line2D([left, right], [0.93, 0.93], color=PALE, lw=1)
    figure.add_artist(line)


def framework(
    frames: np.ndarray,
    labels: np.ndarray,
    counts: list[int],
    concepts: list[list[np.ndarray]],
    scores: pd.DataFrame,
    network: str = "3D ConvNet",
) -> Figure:
    """Explain the method at a glance: supervoxels, concepts, scores (Figure 1).

    A clip, its supervoxels in green, blue and orange, concepts, and their scores.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``, a clip.
    labels : numpy.ndarray
        ``(3, T, H, W)``, its label volumes at three resolutions, coarse first.
    counts : list of int
        Segments asked for at each resolution.
    concepts : list of list of numpy.ndarray
        For each concept shown up to four images ``(H, W, 3) uint8`` of its supervoxels, see
        :func:`cutouts`.
    scores : pandas.DataFrame
        One row a concept shown, in the same order: ``rank``, ``score``, ``ci_low``, ``ci_high``.
    network : str, default "3D ConvNet"
        Its name.

    Raises
    ------
    ValueError
        If there are not three resolutions, or not as many scores as concepts.
    """
    if not len(labels) == len(counts) == len(LEVELS):
        raise ValueError(
            f"labels hold {len(labels)} resolutions and counts {len(counts)}; Figure 1 shows "
            f"{len(LEVELS)}: pass three of each."
        )
    if len(scores) != len(concepts):
        raise ValueError(
            f"There are {len(scores)} rows of scores for {len(concepts)} concepts; pass one each."
        )
    chosen = evenly(len(frames), 4)
    with styled():
        figure = plt.figure(figsize=(9.5, 5), dpi=144)
        _step(figure, 0.01, 0.475, "1  Segment the clips, embed the supervoxels")
        _step(figure, 0.505, 0.99, "2  Group them into concepts, score each")
        _stack(figure, [0.0, 0.33, 0.155, 0.31], [rgb(frames)[t] for t in chosen], "clip")
        for i, (colour, count) in enumerate(zip(LEVELS, counts, strict=True)):
            # Lines on a picture are brighter than text on white, to stand out from dark frames.
            ink = (255 - 0.6 * (255 - 255 * np.array(to_rgb(colour)))).astype(np.uint8)
            images = [outlined(frames[t], labels[i, t], colour=ink) for t in chosen]
            bottom = 0.615 - 0.3 * i
            _stack(figure, [0.19, bottom, 0.14, 0.26], images, f"{count} segments", colour)
            _arrow(figure, (0.15, 0.47), (0.195, bottom + 0.12), color=colour)
            _arrow(figure, (0.335, bottom + 0.12), (0.381, 0.46), color=colour)
        box = {"boxstyle": "round,pad=0.5", "fc": "#F2F2F2", "ec": INK}
        label = f"{network}\nup to layer $l$"
        how = {"ha": "center", "va": "center", "fontsize": 9, "parse_math": True}
        figure.text(0.428, 0.46, label, bbox=box, **how)
        _arrow(figure, (0.477, 0.46), (0.513, 0.46))
        _concept_rows(figure, concepts, scores)
    return figure


def _concept_rows(figure, concepts, scores: pd.DataFrame) -> None:
    """Draw a row of images for each concept and, level with it, the bar of its score."""
    n = len(concepts)
    tall = 0.78 / n
    side = min(0.9 * tall * 5 / 9.5, 0.072)  # as wide as tall, in inches
    left = 0.522
    right = left + 4 * (side + 0.003)
    figure.text(left, 0.905, "concepts: similar supervoxels", fontsize=9, va="top")
    for i, images in enumerate(concepts):
        bottom = 0.085 + tall * (n - 1 - i)
        for j, image in enumerate(images[:4]):
            ax = figure.add_axes(
                [left + j * (side + 0.003), bottom + tall / 2 - side * 0.95, side, side * 1.9]
            )
            show_image(ax, image)
    ax = figure.add_axes([right + 0.065, 0.085, 0.985 - right - 0.065, 0.78])
    score = scores["score"].to_numpy()
    spread = np.abs(scores[["ci_low", "ci_high"]].to_numpy().T - score)
    place = np.arange(n)
    ax.barh(place, score, height=0.45, color="#56B4E9")
    ax.errorbar(score, place, xerr=spread, fmt="none", ecolor=INK, capsize=3, lw=1.2)
    for y, value in enumerate(score):
        ax.text(0.02, y - 0.27, f"{value:.2f}", fontsize=9, va="bottom")
    ax.set(xlim=(0, 1.04), ylim=(n - 0.5, -0.5), xlabel="TCAV score")
    ax.set_yticks(place, [f"rank {r}" for r in scores["rank"]], fontsize=9)
    ax.tick_params(axis="y", length=0)


def stack(images: list[np.ndarray], step: float = 0.12) -> np.ndarray:
    """Lay images of one size over one another like the frames of a volume, the first in front.

    Parameters
    ----------
    images : list of numpy.ndarray
        n images ``(H, W, 3) uint8``.
    step : float, default 0.12
        How far each is behind the one before it, to the right and up, as a share of its height.

    Returns
    -------
    numpy.ndarray
        ``(H + (n - 1) s, W + (n - 1) s, 4) uint8`` with s = step H: RGB and opacity, which is 0
        where there is no image.

    Examples
    --------
    >>> stack([np.zeros((10, 20, 3), np.uint8)] * 3, step=0.2).shape
    (14, 24, 4)
    """
    height, width = images[0].shape[:2]
    offset = round(step * height)
    far = offset * (len(images) - 1)
    canvas = np.zeros((height + far, width + far, 4), np.uint8)
    for i, image in reversed(list(enumerate(images))):
        y, x = far - i * offset, i * offset
        canvas[y : y + height, x : x + width] = (255, 255, 255, 255)  # a white rim
        canvas[y + 1 : y + height - 1, x + 1 : x + width - 1, :3] = image[1:-1, 1:-1]
    return canvas


def plane(
    concept: np.ndarray, random: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project samples on the plane of a CAV and of what varies most besides it (Figure 2).

    Parameters
    ----------
    concept, random : numpy.ndarray
        ``(m, D)`` and ``(n, D)``, the samples of a classifier, as it sees them (standardised).
    weights : numpy.ndarray
        ``(D,)``, its weights.

    Returns
    -------
    concept, random : numpy.ndarray
        ``(m, 2)`` and ``(n, 2)``: the projection on the unit CAV, and on the first principal
        component of what the CAV leaves.

    Examples
    --------
    >>> plane(np.array([[3.0, 1], [3, -1]]), np.zeros((1, 2)), np.array([2.0, 0]))[0][:, 0]
    array([3., 3.])
    """
    both = np.concatenate([concept, random]).astype(np.float64)
    direction = unit(np.asarray(weights, np.float64))
    along = both @ direction
    rest = both - along[:, None] * direction
    rest -= rest.mean(0)
    across = np.linalg.svd(rest, full_matrices=False)[2][0]
    points = np.column_stack([along, rest @ across])
    return points[: len(concept)], points[len(concept) :]


def cav(
    concept: np.ndarray,
    random: np.ndarray,
    weights: np.ndarray,
    bias: float,
    concept_images: list[np.ndarray],
    random_images: list[np.ndarray],
) -> Figure:
    """Show how a concept activation vector comes about (Figure 2).

    The plane is that of :func:`plane`, so that the horizontal axis is what the classifier
    decides by, and the boundary stands where its decision is 0.
    Images of random clips, the plane, and images of supervoxels.

    Parameters
    ----------
    concept, random : numpy.ndarray
        ``(m, D)`` and ``(n, D)``, features of the concept's supervoxels and of random clips,
        standardised, see :func:`stce.cav.scaling`.
    weights : numpy.ndarray
        ``(D,)``, see :func:`stce.cav.classifiers`.
    bias : float
        Of the same classifier.
    concept_images, random_images : list of numpy.ndarray
        Up to six images ``(H, W, C) uint8`` of each.
    """
    positive, negative = plane(concept, random, weights)
    boundary = -bias / np.linalg.norm(weights)
    with styled():
        figure = plt.figure(figsize=(9.5, 4), dpi=144)
        _image_grid(figure, 0.005, random_images, "random clips", RANDOM)
        _image_grid(figure, 0.805, concept_images, "supervoxels of the concept", CONCEPT)
        ax = figure.add_axes([0.265, 0.13, 0.515, 0.78])
        x = np.concatenate([positive[:, 0], negative[:, 0], [boundary]])
        margin = 0.08 * (x.max() - x.min())
        low, high = x.min() - margin, x.max() + margin
        ax.axvspan(low, boundary, color=RANDOM, alpha=0.08, lw=0)
        ax.axvspan(boundary, high, color=CONCEPT, alpha=0.08, lw=0)
        ax.scatter(*negative.T, s=26, marker="s", c="#FFFFFF", edgecolor=RANDOM, label="random")
        ax.scatter(*positive.T, s=30, c=CONCEPT, edgecolor="#FFFFFF", lw=0.6, label="concept")
        ax.axvline(boundary, color=INK, ls="--", lw=1.4, label="decision boundary")
        y = np.concatenate([positive[:, 1], negative[:, 1]])
        # Below the points there is room for the arrow and the legend.
        floor = y.min() - 0.3 * (y.max() - y.min())
        height = y.min() - 0.13 * (y.max() - y.min())
        tip = max(positive[:, 0].mean(), boundary + 0.25 * (high - low))
        arrow = {"arrowstyle": "-|>,head_width=0.4,head_length=0.8", "color": VECTOR, "lw": 2.5}
        arrow |= {"shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (tip, height), (boundary, height), arrowprops=arrow)
        ax.text(
            tip, height, "  CAV $v_c^l$", color=VECTOR, va="center", fontsize=11, parse_math=True
        )
        ax.set(xlim=(low, high), ylim=(floor, y.max() + 0.08 * (y.max() - y.min())))
        ax.set(xlabel="projection on the CAV", ylabel="first principal component of the rest")
        figure.legend(loc="upper center", bbox_to_anchor=(0.52, 1.0), ncols=3, frameon=False)
    return figure


def _image_grid(figure, left: float, images: list[np.ndarray], title: str, colour: str) -> None:
    """Draw up to six images, two a row, with a title above."""
    figure.text(left + 0.095, 0.965, title, ha="center", va="top", fontsize=9, color=colour)
    for i, image in enumerate(images[:6]):
        bottom = 0.655 - 0.3 * (i // 2)
        ax = figure.add_axes([left + 0.0975 * (i % 2), bottom, 0.0925, 0.25])
        show_image(ax, rgb(image))
