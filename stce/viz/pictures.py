"""Pictures: frames and masks in, frames out; :mod:`stce.viz.figures` makes Figures of them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion
from skimage.segmentation import find_boundaries

EDGE = np.array([255, 176, 0], np.uint8)
FOR, AGAINST = np.array([213, 94, 0]), np.array([0, 114, 178])


def evenly(n: int, count: int) -> np.ndarray:
    """Return up to `count` of n indices, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, count).round().astype(int))


def rgb(frames: np.ndarray) -> np.ndarray:
    """Give grey frames three equal channels; colour frames come back as they are.

    Takes ``(..., C) uint8``, C = 1 or 3, and returns ``(..., 3) uint8``.

    Examples
    --------
    >>> rgb(np.full((1, 2, 2, 1), 7, np.uint8)).shape
    (1, 2, 2, 3)
    """
    return frames.repeat(3, axis=-1) if frames.shape[-1] == 1 else frames


def outlined(
    image: np.ndarray, labels: np.ndarray, zoom: int = 4, colour: np.ndarray = EDGE
) -> np.ndarray:
    """Draw the borders of a label image over the image, one thin line each.

    Parameters
    ----------
    image : numpy.ndarray
        ``(H, W, C) uint8``.
    labels : numpy.ndarray
        ``(H, W)``; a border runs wherever they change.
    zoom : int, default 4
        Enlargement, so that the lines are thinner than the pixels.
    colour : numpy.ndarray, optional
        ``(3,) uint8`` of the lines, default amber.

    Returns
    -------
    numpy.ndarray
        ``(zoom H, zoom W, 3) uint8``.

    Examples
    --------
    >>> outlined(np.zeros((2, 2, 1), np.uint8), np.array([[0, 1], [0, 1]]), zoom=2).shape
    (4, 4, 3)
    """
    image = rgb(image).repeat(zoom, 0).repeat(zoom, 1).copy()
    labels = labels.repeat(zoom, 0).repeat(zoom, 1)
    image[find_boundaries(labels, mode="inner")] = colour
    return image


def highlight(frames: np.ndarray, mask: np.ndarray, dim: float = 0.3, width: int = 1) -> np.ndarray:
    """Let a supervoxel stand out: the rest is dimmed, its border drawn (Figure 5).

    Parameters
    ----------
    frames, mask : numpy.ndarray
        ``(T, H, W, C) uint8`` and ``(T, H, W) bool``.
    dim, width : float, default 0.3, and int, default 1
        Brightness left outside, 0 to 1, and pixels of the border; more for large frames.

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
    colour = rgb(frames)
    lit = np.where(mask[..., None], colour, (colour * dim).astype(np.uint8))
    lit[_border(mask, width)] = EDGE
    return lit


def signed(frames: np.ndarray, values: np.ndarray, dim: float = 0.6) -> np.ndarray:
    """Colour what speaks for something orange and what speaks against it blue, over dim frames.

    Parameters
    ----------
    frames, values : numpy.ndarray
        ``(T, H, W, C) uint8`` and ``(T, H, W)``. The colour is full at the largest size of a value,
        but for the largest hundredth, and there is none at 0.
    dim : float, default 0.6
        Brightness of the frames, 0 to 1, which lose their own colours.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W, 3) uint8``.

    Examples
    --------
    >>> signed(np.full((1, 1, 2, 1), 100, np.uint8), np.array([[[0.0, -2.0]]]))[0, 0].tolist()
    [[60, 60, 60], [12, 103, 154]]
    """
    grey = dim * rgb(frames).mean(-1, keepdims=True)
    most = np.quantile(np.abs(values), 0.99) or 1.0
    share = 0.8 * np.clip(np.abs(values) / most, 0, 1)[..., None]
    colour = np.where(values[..., None] > 0, FOR, AGAINST)
    return ((1 - share) * grey + share * colour).round().astype(np.uint8)


def _border(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """Return the outermost voxels of a mask in each frame; a frame's own edge is no border."""
    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)  # within the frame only
    return mask & ~binary_erosion(mask, cross, iterations=width, border_value=1)


def first_of_clips(supervoxels, rows: np.ndarray, n: int) -> list[tuple[int, int]]:
    """Return the first n supervoxels that lie in different clips, each with its clip.

    Parameters
    ----------
    supervoxels : stce.supervoxels.Supervoxels
        Of any clips.
    rows : numpy.ndarray
        Rows of their table, the ones preferred first.
    n : int
        How many at most.

    Returns
    -------
    list of (int, int)
        Row and index of the clip.
    """
    clips = supervoxels.table["video"].to_numpy()
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(int(clips[row]), int(row))
    return [(row, clip) for clip, row in first.items()][:n]


def lasting(supervoxels, rows: np.ndarray) -> np.ndarray:
    """Return supervoxels by how many frames they last, the longest first.

    Of those that last equally long the order stays. So of a concept's members, nearest to its
    centre first, those come to the front in which it is seen from the first frame to the last.
    Takes supervoxels and rows as :func:`first_of_clips` does, and returns the rows in this order.
    """
    frames = (supervoxels.table["t1"] - supervoxels.table["t0"]).to_numpy()[rows]
    return np.asarray(rows)[np.argsort(-frames, kind="stable")]


def typical(
    clips, supervoxels, rows: np.ndarray, n: int, zoom: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the first n supervoxels that lie in different clips, lit and raw.

    Parameters
    ----------
    clips : stce.clips.Clips
        The clips they were cut from.
    supervoxels, rows, n
        See :func:`first_of_clips`.
    zoom : int, default 1
        Enlargement, so that borders are thinner than the pixels.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray)
        Highlighted ``(T, zoom H, zoom W, 3)`` and raw ``(T, zoom H, zoom W, C) uint8`` clips.
    """
    pairs = []
    for row, clip in first_of_clips(supervoxels, rows, n):
        frames = np.asarray(clips.frames[clip]).repeat(zoom, 1).repeat(zoom, 2)
        mask = supervoxels.mask(row).repeat(zoom, 1).repeat(zoom, 2)
        pairs.append((highlight(frames, mask), frames))
    return pairs


def examples(found, concepts, n: int = 1, zoom: int = 1) -> list[list[tuple]]:
    """Return for each concept what :func:`typical` does of the n that last longest.

    Takes a :class:`stce.explanation.Explanation` and some of its concepts.
    """
    rows = (lasting(found.supervoxels, found.members(k)) for k in concepts)
    return [typical(found.clips, found.supervoxels, some, n, zoom) for some in rows]


def titled(found, concepts, zoom: int = 1) -> tuple[list[tuple], list[str]]:
    """Return what :func:`stce.viz.figures.concept_frames` shows: one example a concept, titles."""
    pairs = [pairs[0] for pairs in examples(found, concepts, zoom=zoom)]
    return pairs, [f"{found.class_name}: {found.title(k)}" for k in concepts]


def thumbnails(explanations) -> dict[tuple[str, int], np.ndarray]:
    """Return one lit frame ``(H, W, 3) uint8`` of each concept, by class and concept."""
    return {
        (found.class_name, concept): fullest(pairs[0][0])
        for found in explanations
        for concept, pairs in zip(found.ranking, examples(found, found.ranking), strict=True)
    }


def fullest(lit: np.ndarray) -> np.ndarray:
    """Return the frame of a highlighted clip in which most is lit, ``(H, W, 3) uint8``."""
    # The rest is dimmed, so that frame is the brightest.
    return lit[lit.sum((1, 2, 3)).argmax()]


def in_a_row(clips: list[np.ndarray], gap: int = 2) -> np.ndarray:
    """Set clips side by side, for one video.

    Parameters
    ----------
    clips : list of numpy.ndarray
        n clips ``(T, H, W, C) uint8`` of one size.
    gap : int, default 2
        White pixels between clips.

    Returns
    -------
    numpy.ndarray
        ``(T, H, n (W + gap) - gap, 3) uint8``.

    Examples
    --------
    >>> in_a_row([np.zeros((2, 4, 5, 1), np.uint8)] * 3, gap=1).shape
    (2, 4, 17, 3)
    """
    pad = ((0, 0), (0, 0), (0, gap), (0, 0))
    padded = [np.pad(rgb(clip), pad, constant_values=255) for clip in clips]
    return np.concatenate(padded, axis=2)[:, :, : -gap or None]


def lit_above_raw(columns: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Set clips side by side, each highlighted above raw, for one video.

    Parameters
    ----------
    columns : list of (numpy.ndarray, numpy.ndarray)
        Pairs ``(T, H, W, 3)`` and ``(T, H, W, C) uint8``, see :func:`typical`.

    Returns
    -------
    numpy.ndarray
        ``(T, 2 H + 2, n (W + 2) - 2, 3) uint8``, with two white pixels between clips.
    """
    above, below = (in_a_row(list(clips)) for clips in zip(*columns, strict=True))
    pad = ((0, 0), (0, 2), (0, 0), (0, 0))
    return np.concatenate([np.pad(above, pad, constant_values=255), below], axis=1)


def revealed(
    frames: np.ndarray, visible: np.ndarray, fill: int, changed: np.ndarray | None = None
) -> np.ndarray:
    """Show what the network is shown: the visible voxels, the rest filled (equation 5).

    Parameters
    ----------
    frames, visible : numpy.ndarray
        ``(T, H, W, C) uint8`` and ``(T, H, W) bool``.
    fill : int
        Grey value of hidden voxels, 0 to 255.
    changed : numpy.ndarray, optional
        ``(T, H, W) bool``: voxels to be outlined, such as those of the last step.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W, 3) uint8``.

    Examples
    --------
    >>> seen = np.array([[[True, False]]])
    >>> revealed(np.full((1, 1, 2, 1), 200, np.uint8), seen, fill=90)[0, 0, :, 0]
    array([200,  90], dtype=uint8)
    """
    shown = np.where(visible[..., None], rgb(frames), np.uint8(fill))
    if changed is not None:
        shown[_border(changed)] = EDGE
    return shown
