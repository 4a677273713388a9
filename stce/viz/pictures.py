"""Pictures: frames and masks in, frames out; :mod:`stce.viz.figures` makes Figures of them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion
from skimage.segmentation import find_boundaries

__all__ = [
    "cutouts",
    "fullest",
    "highlight",
    "in_a_row",
    "lift",
    "middle",
    "outlined",
    "revealed",
    "rgb",
    "side_by_side",
    "typical",
]

EDGE = np.array([255, 176, 0], np.uint8)


def rgb(frames: np.ndarray) -> np.ndarray:
    """Give grey frames three equal channels; colour frames come back as they are.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(..., C) uint8``, C = 1 or 3.

    Returns
    -------
    numpy.ndarray
        ``(..., 3) uint8``.

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
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    mask : numpy.ndarray
        ``(T, H, W) bool``.
    dim : float, default 0.3
        Brightness left outside, 0 to 1.
    width : int, default 1
        Of the border, in pixels; more for large frames.

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


def _border(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """Return the outermost voxels of a mask in each frame; a frame's own edge is no border."""
    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)  # within the frame only
    return mask & ~binary_erosion(mask, cross, iterations=width, border_value=1)


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
    pairs = []
    for row, video in _apart(supervoxels, rows, n):
        frames = np.asarray(clips.frames[video])
        pairs.append((highlight(frames, supervoxels.mask(row)), frames))
    return pairs


def _apart(supervoxels, rows: np.ndarray, n: int) -> list[tuple[int, int]]:
    """Return the first n supervoxels that lie in different clips, and these clips."""
    videos = supervoxels.table["video"].to_numpy()
    first = {}
    for row in rows:
        first.setdefault(int(videos[row]), int(row))
    return [(row, video) for video, row in first.items()][:n]


def cutouts(clips, supervoxels, rows: np.ndarray, n: int, fill: int) -> list[np.ndarray]:
    """Return the first n supervoxels that lie in different clips as the network is shown them.

    Parameters
    ----------
    clips, supervoxels, rows, n
        See :func:`typical`.
    fill : int
        Grey value around the supervoxel, 0 to 255.

    Returns
    -------
    list of numpy.ndarray
        ``(H, W, 3) uint8``, of each the frame in which the supervoxel is largest.
    """
    images = []
    for row, video in _apart(supervoxels, rows, n):
        mask = supervoxels.mask(row)
        t = int(mask.sum((1, 2)).argmax())
        one, frame = mask[t : t + 1], np.asarray(clips.frames[video])[t : t + 1]
        images.append(revealed(frame, one, fill, changed=one)[0])
    return images


def fullest(lit: np.ndarray) -> np.ndarray:
    """Return the frame of a highlighted clip in which most is lit, ``(H, W, 3) uint8``."""
    # The rest is dimmed, so that frame is the brightest.
    return lit[lit.sum((1, 2, 3)).argmax()]


def in_a_row(clips: list[np.ndarray], gap: int = 2) -> np.ndarray:
    """Set clips side by side, for one video.

    Parameters
    ----------
    clips : list of numpy.ndarray
        n clips ``(T, H, W, C) uint8``.
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
    above, below = (in_a_row(list(clips), gap) for clips in zip(*columns, strict=True))
    pad = ((0, 0), (0, gap), (0, 0), (0, 0))
    return np.concatenate([np.pad(above, pad, constant_values=255), below], axis=1)


def revealed(
    frames: np.ndarray, visible: np.ndarray, fill: int, changed: np.ndarray | None = None
) -> np.ndarray:
    """Show what the network is shown: the visible voxels, the rest filled (equation 5).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``.
    visible : numpy.ndarray
        ``(T, H, W) bool``.
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


def middle(frames: np.ndarray, n_frames: int, longest: int = 0) -> np.ndarray:
    """Take the middle frames of a video, those that :func:`stce.clips.middle_clips` takes.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T_i, H, W, C)``, a video.
    n_frames : int
        T, frames of a clip.
    longest : int, default 0
        If not 0, the video was first shortened to its middle `longest` frames, see
        :func:`stce.videos.cache`.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W, C)``, a view.

    Examples
    --------
    >>> middle(np.arange(9), 2).tolist(), middle(np.arange(9), 2, longest=4).tolist()
    ([3, 4], [3, 4])
    """
    if longest and len(frames) > longest:
        start = (len(frames) - longest) // 2
        frames = frames[start : start + longest]
    start = (len(frames) - n_frames) // 2
    return frames[start : start + n_frames]


def lift(mask: np.ndarray, frame_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Lift a mask from the network's input to the video's own frames (Figure 9).

    Undoes the centre crop and the resize by which the clip was made: a pixel of the video takes
    the voxel in which its centre came to lie (nearest neighbour), or none, where it was cropped.

    Parameters
    ----------
    mask : numpy.ndarray
        ``(T, h, w) bool`` at the network's input size.
    frame_size : tuple of int
        (height, width) to which frames were resized before the crop.
    size : tuple of int
        (height, width) of the video itself.

    Returns
    -------
    numpy.ndarray
        ``(T, height, width) bool``.

    Raises
    ------
    ValueError
        If the mask is larger than `frame_size`, so that it cannot be a crop of such frames.

    Examples
    --------
    >>> lift(np.ones((1, 2, 2), bool), (4, 4), (8, 8))[0].sum(0)
    array([0, 0, 4, 4, 4, 4, 0, 0])
    """
    crop = mask.shape[1:]
    if crop[0] > frame_size[0] or crop[1] > frame_size[1]:
        raise ValueError(
            f"frame_size is {tuple(frame_size)}, smaller than the mask's {crop}; give the size "
            "to which frames were resized before they were cropped."
        )
    lifted = mask
    for axis in (1, 2):
        new, resized, cut = size[axis - 1], frame_size[axis - 1], crop[axis - 1]
        index = (np.arange(new) * 2 + 1) * resized // (2 * new) - (resized - cut) // 2
        lifted = np.take(lifted, index.clip(0, cut - 1), axis)
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        lifted = lifted & ((index >= 0) & (index < cut)).reshape(shape)
    return lifted
