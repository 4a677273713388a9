"""Where it happens: textured outdoor and indoor backgrounds, and the camera that looks at them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

MARGIN = (24, 32)
"""Rows and columns of background beyond each side of the frame, for shake and zoom."""


def fractal(rng, shape, slope, stretch=1.0):
    """Periodic random texture whose amplitude falls with frequency to the power `slope`.

    It is ``(H, W) float32`` of mean 0 and standard deviation 1, clipped at 3.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the texture.
    shape : tuple of int
        (H, W).
    slope : float
        0 is white noise, 1 like natural scenes, 2 soft clouds.
    stretch : float
        Above 1 draws the texture out along x, below 1 along y.
    """
    spectrum = scipy.fft.rfft2(rng.standard_normal(shape, np.float32))
    fy = scipy.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    fx = scipy.fft.rfftfreq(shape[1]).astype(np.float32)
    power = fy * fy / stretch + fx * fx * stretch + np.float32(0.25 / max(shape) ** 2)
    spectrum *= power ** np.float32(-slope / 2)
    spectrum[0, 0] = 0
    texture = scipy.fft.irfft2(spectrum, shape)
    texture /= texture.std()
    return np.clip(texture, -3, 3, out=texture)


def _ridge(position, centre, width):
    """A soft line: 1 at `centre`, falling off over `width` pixels."""
    return np.exp(-(((position - centre) / width) ** 2))


def _rise(position, edge, softness=0.7):
    """0 below `edge`, 1 above, with the camera's softness."""
    return np.clip((position - edge) / (2 * softness) + 0.5, 0, 1)


def ground(rng, shape, horizon, slope=0.8):
    """Fractal texture seen in perspective below row `horizon`; (H, W) float32 of mean about 0."""
    tile = fractal(rng, (128, 128), slope)
    rows = np.arange(int(horizon), shape[0], dtype=np.float32)
    below = rows - int(horizon) + 6
    depth = np.float32(rng.uniform(14, 40)) / below
    x = np.arange(shape[1], dtype=np.float32) - shape[1] / 2
    grid = np.empty((2, len(rows), shape[1]), np.float32)
    grid[0] = (110 * depth)[:, None]
    grid[1] = depth[:, None] * x
    texture = np.zeros(shape, np.float32)
    texture[int(horizon) :] = scipy.ndimage.map_coordinates(tile, grid, order=1, mode="grid-wrap")
    # What is far is too fine for the camera: it averages out.
    texture[int(horizon) :] *= (below / (below + 10))[:, None]
    return texture


def outdoors(rng, shape, feet, level):
    """Background of d1 to d3: open field, trees, house front or wall over textured ground.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the scene.
    shape : tuple of int
        (H, W) with margins.
    feet : float
        Row on which the person stands.
    level : float
        Mean grey level of what is behind the person, 0 to 255.

    Returns
    -------
    image : ndarray, (H, W) float32
    wall : float
        Row where the ground meets an upright wall on which a shadow would fall, or -1.
    """
    y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)
    kind = rng.choice(["open", "trees", "house", "wall"])
    horizon = feet - (rng.uniform(10, 22) if kind in ("wall", "house") else rng.uniform(16, 50))
    busy = rng.uniform(3, 16)
    back = level + busy * fractal(rng, shape, rng.uniform(0.9, 1.7), rng.uniform(0.7, 2.5))
    wall = -1.0
    if kind == "open":
        back += rng.uniform(-12, 12) * (y - horizon) / 60
    elif kind == "trees":
        sky = level + rng.uniform(10, 45)
        line = horizon - rng.uniform(15, 55)
        for width, height in ((rng.uniform(8, 25), rng.uniform(2, 6)), (1.6, rng.uniform(1, 3))):
            heights = rng.standard_normal(shape[1])
            crowns = scipy.ndimage.gaussian_filter1d(heights, width, mode="wrap")
            line = line - height * crowns / crowns.std()
        back += (sky - back) * (1 - _rise(y, line, 1.2)) * rng.uniform(0.7, 1)
    elif kind == "house":
        wall, wide, high = horizon, rng.uniform(26, 44), rng.uniform(26, 40)
        inside = rng.uniform(-50, 30)
        columns = _rise((x + rng.uniform(0, wide)) % wide, wide * rng.uniform(0.45, 0.65))
        rows = _rise((y - horizon) % high, high * 0.45) * (y < horizon - high * 0.45)
        back += inside * columns * rows
    else:
        wall, course = horizon, rng.uniform(6, 11)
        row = np.floor((y - horizon) / course)
        joints = _ridge((y - horizon) % course, course / 2, 0.8)
        along = (x + (row % 2) * course + rng.uniform(0, 9)) % (2 * course)
        joints = np.maximum(joints, _ridge(along, course, 0.8))
        back += rng.uniform(-16, 10) * joints
    floor = level + rng.uniform(-45, 35)
    rough = rng.uniform(5, 20) * ground(rng, shape, horizon, rng.uniform(0.3, 1.2))
    edge = _rise(y, horizon, rng.uniform(0.6, 2.0))
    image = back + edge * (floor + rough - back)
    if rng.random() < 0.5:  # a kerb or path
        image += rng.uniform(-22, 22) * _ridge(y, rng.uniform(horizon, feet + 8), 1.6)
    return image.astype(np.float32), wall


def indoors(rng, shape, feet, level):
    """Background of d4: wall with skirting board, panels, door or picture, a floor, a light pool.

    Takes and returns the same as `outdoors`.
    """
    y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)
    wall = feet - rng.uniform(7, 20)
    image = level + 2.5 * fractal(rng, shape, 1.2)
    spacing = rng.uniform(34, 90)
    seams = _ridge((x + rng.uniform(0, spacing)) % spacing, spacing / 2, rng.uniform(0.7, 1.6))
    image += rng.uniform(-34, 18) * seams
    if rng.random() < 0.4:  # dado rail
        image += rng.uniform(-26, 26) * _ridge(y, wall - rng.uniform(26, 44), 1.2)
    for _ in range(rng.integers(0, 3)):  # door, window, picture: a framed rectangle
        left, wide = rng.uniform(0, shape[1]), rng.uniform(16, 44)
        low = wall if rng.random() < 0.5 else wall - rng.uniform(35, 60)
        high = low - (rng.uniform(75, 110) if low == wall else rng.uniform(15, 40))
        inset = np.minimum(np.minimum(x - left, left + wide - x), np.minimum(y - high, low - y))
        image += rng.uniform(-40, 30) * _rise(inset, 0.0)
        image += rng.uniform(-45, 25) * _ridge(inset, 0.0, 1.0)
    board = rng.uniform(3, 6)
    image += rng.uniform(-55, 45) * _rise(y, wall - board) + 0 * x
    floor = level + rng.uniform(-50, 25)
    texture = 4 * ground(rng, shape, wall, 1.0)
    if rng.random() < 0.6:  # boards or tiles towards the vanishing point
        depth = 60 / np.maximum(y - wall + 12, 1)
        lines = (x - shape[1] / 2 + rng.uniform(-40, 40)) * depth / 60
        texture -= rng.uniform(5, 14) * _ridge(lines % 1.2, 0.6, 0.06)
    edge = _rise(y, wall)
    image += edge * (floor + texture - image)
    image -= rng.uniform(15, 40) * _ridge(y, wall, 1.1)
    spot_x, spot_y = rng.uniform(0.2, 0.8) * shape[1], rng.uniform(0.1, 0.5) * shape[0]
    pool = np.exp(-(((x - spot_x) / 110) ** 2) - ((y - spot_y) / 100) ** 2)
    image *= 0.78 + rng.uniform(0.25, 0.45) * pool
    return image.astype(np.float32), wall


def film(background, shape, shift, zoom):
    """Resample a background through a moving, zooming camera, to frames ``(T, H, W) float32``.

    Parameters
    ----------
    background : ndarray, (H + 2 * 24, W + 2 * 32) float32
        Scene with `MARGIN` around the frame.
    shape : tuple of int
        (H, W) of the frames.
    shift : ndarray, (T, 2)
        Pixels ``(x, y)`` by which the picture moves.
    zoom : ndarray, (T,)
        Enlargement about the middle of the frame.
    """

    def positions(size, margin, move):
        middle = (size - 1) / 2
        at = (np.arange(size) - middle - move[:, None]) / zoom[:, None] + middle + margin
        return np.clip(at, 0, size + 2 * margin - 1.001)

    rows = positions(shape[0], MARGIN[0], shift[:, 1])
    columns = positions(shape[1], MARGIN[1], shift[:, 0])
    frames = np.empty((len(zoom), *shape), np.float32)
    for t, frame in enumerate(frames):
        frame[:] = sampled(background, rows[t], columns[t])
    return frames


def sampled(picture, rows, columns):
    """Read a picture (H, W), as if it went on periodically, at fractional places (bilinear)."""
    return _between(_between(picture, rows[:, None], 0), columns[None], 1)


def _between(picture, places, axis):
    """Read a picture between its rows or its columns, at `places` that broadcast over it."""
    first, size = np.floor(places).astype(np.int64), picture.shape[axis]
    left = picture.take(first.ravel() % size, axis)
    right = picture.take((first.ravel() + 1) % size, axis)
    right -= left
    right *= (places - first).astype(np.float32)
    right += left
    return right


@lru_cache(maxsize=1)
def _grain():
    return np.random.default_rng(2004).standard_normal(1 << 18, np.float32)


def expose(rng, image, noise, flicker):
    """Turn (T, H, W) float32 light, in place, into uint8 with sensor noise and gain flicker.

    `noise` is the standard deviation in grey levels, `flicker` that of the gain of a frame.
    """
    grain, pixels = _grain(), image[0].size
    starts = rng.integers(0, len(grain) - pixels, len(image))
    gains = 1 + np.float32(flicker) * rng.standard_normal(len(image), np.float32)
    for frame, start, gain in zip(image, starts, gains, strict=True):
        frame *= gain
        frame += np.float32(noise) * grain[start : start + pixels].reshape(frame.shape)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
