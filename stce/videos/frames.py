"""What is done to the frames of a video or clip: resize, crop; and the moments of all of them."""

import numpy as np

from stce.engine.device import typed

FITS = ("crop", "pad", "squash")


def resize(frames, size):
    """Resize frames, bilinear with antialiasing.

    Parameters
    ----------
    frames : (T, H, W, C) uint8
        Any number of channels.
    size : tuple of int
        New (height, width).

    Returns
    -------
    frames : (T, height, width, C) uint8
        The input itself if it has that size.

    Raises
    ------
    ValueError
        If frames are not (T, H, W, C) uint8, or a size is not positive.

    Examples
    --------
    >>> resize(np.full((16, 120, 160, 1), 7, np.uint8), (60, 60)).shape
    (16, 60, 60, 1)
    """
    import torch

    if frames.ndim != 4 or frames.dtype != np.uint8:
        raise ValueError(
            f"Frames must be (T, H, W, C) uint8, not {frames.shape} {frames.dtype}; "
            "a grey video needs a last axis of 1."
        )
    size = tuple(int(s) for s in size)
    if min(size) < 1:
        raise ValueError(f"size must be a positive (height, width), not {size}.")
    if frames.shape[1:3] == size:
        return frames
    if not frames.flags.writeable:  # torch warns at read-only memory, such as a memory map
        frames = frames.copy()
    # uint8 in channels_last has its own fast kernel: no conversion to float and back.
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    tensor = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(tensor.permute(0, 2, 3, 1).numpy())


def resize_parts(parts, size):
    """Resize part masks, ``(T, H, W)``, as frames: each pixel takes the one under its centre.

    Examples
    --------
    >>> resize_parts(np.array([[[1, 1, 2, 2], [3, 3, 4, 4]]]), (1, 2))
    array([[[3, 4]]])
    """
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for new, old in zip(size, parts.shape[1:], strict=True)
    )
    return np.ascontiguousarray(parts[:, rows[:, None], columns])


def center_crop(frames, size):
    """Return a view of the centre, (height, width), of frames or part masks ``(T, H, W, ...)``.

    Raises
    ------
    ValueError
        If the frames are smaller than that.

    Examples
    --------
    >>> center_crop(np.zeros((16, 120, 120, 3), np.uint8), (112, 112)).shape
    (16, 112, 112, 3)
    """
    (height, width), (crop_height, crop_width) = frames.shape[1:3], size
    if not (1 <= crop_height <= height and 1 <= crop_width <= width):
        raise ValueError(
            f"The crop {tuple(size)} does not fit into frames of {height} x {width} (height x "
            "width); choose a smaller crop, or cache the videos at a larger size."
        )
    y, x = (height - crop_height) // 2, (width - crop_width) // 2
    return frames[:, y : y + crop_height, x : x + crop_width]


@typed
def fitted(frames, parts, size, how="squash"):
    """Bring a film, ``(T, H, W, C) uint8``, and its part masks or None to a size.

    For another shape than that of `size`, "crop" takes the largest middle that has it, "pad" puts
    the whole film before its mean colour, which is part 0, and "squash" stretches.

    Examples
    --------
    >>> film = np.zeros((16, 120, 160, 3), np.uint8)
    >>> film[:, :, :20] = 255  # left of the middle
    >>> [int(fitted(film, None, (60, 60), how)[0][0, 0, 0, 0]) for how in FITS]
    [0, 32, 255]
    """
    size = tuple(size)
    cut, inner = cut_and_inner((frames if parts is None else parts).shape[1:3], size, how)
    frames = shrunk(frames, size, how)
    parts = None if parts is None else resize_parts(center_crop(parts, cut), inner)
    if inner == size:
        return frames, parts
    colour = frames.mean((0, 1, 2)).round()
    return _padded(frames, size, colour), None if parts is None else _padded(parts, size, 0)


def shrunk(frames, size, how="squash"):
    """Do what `fitted` does to each frame by itself: all but the padding, which looks at all."""
    cut, inner = cut_and_inner(frames.shape[1:3], tuple(size), how)
    return resize(np.ascontiguousarray(center_crop(frames, cut)), inner)


def cut_and_inner(shape, size, how):
    """Return the middle that :func:`fitted` takes of frames, and the size that it gets.

    Examples
    --------
    >>> [cut_and_inner((120, 160), (60, 60), how) for how in FITS]
    [((120, 120), (60, 60)), ((120, 160), (45, 60)), ((120, 160), (60, 60))]
    """
    cut = _within(shape, size) if how == "crop" else shape
    return cut, _within(size, shape) if how == "pad" else size


def _within(size, like):
    """Return the largest (height, width) in a size that has the shape of another."""
    (height, width), (h, w) = size, like
    return min(height, max(1, round(width * h / w))), min(width, max(1, round(height * w / h)))


def _padded(array, size, fill):
    whole = np.full((len(array), *size, *array.shape[3:]), fill, array.dtype)
    center_crop(whole, array.shape[1:3])[:] = array
    return whole


def moments(videos):
    """Return the mean and standard deviation of each channel over all voxels of all videos.

    Both are ``(C,) float32``, in units of 0..1. Every voxel counts once, so long videos weigh more.
    The sums are exact integers, taken video by video: order, length and number of videos cost no
    precision and no memory.

    Parameters
    ----------
    videos : Videos
        All of one number of channels.

    Raises
    ------
    ValueError
        If there is no voxel, or the numbers of channels differ.

    Examples
    --------
    >>> import pandas as pd
    >>> from stce.videos import Videos
    >>> class Half(Videos):
    ...     def read(self, i):
    ...         return np.repeat(np.uint8([0, 255]), 32).reshape(16, 2, 2, 1)
    >>> moments(Half(pd.DataFrame({"id": ["a"], "label": 0, "class": "c", "group": "g"}), ["c"]))
    (array([0.5], dtype=float32), array([0.5], dtype=float32))
    """
    counts = None
    for i in range(len(videos)):
        frames = videos.read(i)
        n_channels = frames.shape[-1]
        if counts is None:
            counts = np.zeros((n_channels, 256), np.int64)
        if n_channels != len(counts):
            raise ValueError(
                f"Video {videos.table['id'].iloc[i]!r} has {n_channels} channels, the first has "
                f"{len(counts)}; bring all to grey or all to RGB."
            )
        for frame in frames:  # bincount makes 8 bytes of each: a frame at a time
            counts += [np.bincount(c, minlength=256) for c in frame.reshape(-1, n_channels).T]
    if counts is None or not counts.any():
        raise ValueError("There is no frame to take the mean of; check the split and the videos.")
    values = np.arange(256)
    n, total, squares = counts.sum(1), counts @ values, counts @ values**2
    # n * squares - total**2 in Python's unbounded integers: no cancellation.
    variance = [int(k) * int(q) - int(t) ** 2 for k, q, t in zip(n, squares, total, strict=True)]
    std = np.sqrt(np.array(variance, float)) / n / 255
    return (total / n / 255).astype(np.float32), std.astype(np.float32)
