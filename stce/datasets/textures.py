"""Moving textures: the embedded random clips that concepts are told apart from.

The paper takes its random clips from HMDB; this broad family plays their part without a download.
No clip shows a figure.
"""

from __future__ import annotations

import numpy as np

from stce.clips import Clips
from stce.datasets import check_whole
from stce.datasets.render.scenery import fractal, sampled
from stce.engine.device import typed

CLASSES = ("random",)


@typed
def textures(n, *, n_frames=16, size=(112, 112), channels=1, seed=0):
    """Clips of moving textures: clouds, gratings, plaids, blobs, dots, polygons, pans, flicker.

    Clip `i` depends on (seed, i) and on the shape only, so the first clips of a longer set are
    those of a shorter one.

    Parameters
    ----------
    n : int
        Number of clips N, 1 or more. The paper uses 50 groups of as many clips as a concept has
        members (section 3.3).
    n_frames : int
        Frames T a clip.
    size : tuple of int
        (H, W) in pixels, 8 or more.
    channels : int
        1 (grey) or 3 (each clip between two random colours).
    seed : int
        0 or more.

    Returns
    -------
    Clips
        Frames (N, T, H, W, C) uint8 of the one class "random"; every clip is its own group.

    Raises
    ------
    ValueError
        If a value is of another type or out of range.

    Examples
    --------
    >>> clips = textures(3, n_frames=4, size=(16, 16))
    >>> clips.frames.shape, clips.classes
    ((3, 4, 16, 16, 1), ('random',))
    """
    check_clips("textures", n, n_frames, size, channels, seed, smallest=8)
    frames = np.empty((n, n_frames, *size, channels), np.uint8)
    for i in range(n):
        frames[i] = _clip(np.random.default_rng([seed, i]), (n_frames, *size), channels)
    ids = np.array([f"texture{i:06d}" for i in range(n)])
    return Clips(frames, np.zeros(n, np.int64), ids, ids, CLASSES)


def check_clips(of, n, n_frames, size, channels, seed, smallest=1):
    """Check what random clips are asked for; see :func:`textures`. `of` names what they are of."""
    check_whole(
        of,
        ("n", n, 1, 10**7),
        ("n_frames", n_frames, 1, 1000),
        ("height in size", size[0], smallest, 2048),
        ("width in size", size[1], smallest, 2048),
        ("seed", seed, 0, 2**31 - 1),
    )
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour) for {of}, not {channels!r}.")


def _clip(rng, shape, channels):
    """One clip (T, H, W, C) uint8: a texture of a random family, brought to a random tone range."""
    image = FAMILIES[rng.integers(len(FAMILIES))](rng, shape)
    image -= image.mean()
    contrast = np.float32(rng.uniform(12, 60)) / max(image.std(), np.float32(1e-3))
    brightness = np.float32(rng.uniform(70, 185))
    grain = rng.standard_normal(image[0].shape, np.float32) * np.float32(rng.uniform(0, 5))
    corners = [int(rng.integers(grain.size)) for _ in image]
    ends = (rng.uniform(0, 90, 3), rng.uniform(150, 255, 3)) if channels == 3 else ([0], [255])
    # A pixel is one element of its bytes: three times as fast as a row of three.
    levels = np.linspace(*ends, 256).astype(np.uint8).view(f"V{channels}").ravel()
    clip = np.empty((*image.shape, channels), np.uint8)
    for few in _few(image.shape):
        frames, shown = image[few], clip[few]
        frames *= contrast
        frames += brightness
        for frame, corner in zip(frames, corners[few], strict=True):
            frame += np.roll(grain, corner)  # from another corner it is new noise to the eye
        level = np.clip(frames, 0, 255, out=frames).astype(np.uint8)
        shown[...] = levels.take(level).view(np.uint8).reshape(shown.shape)
    return clip


def _axes(shape):
    """Return t (T, 1, 1), y (H, 1) and x (W,), y and x in units of half the height, about 0."""
    t = np.arange(shape[0], dtype=np.float32)[:, None, None] / 16
    y = (np.arange(shape[1], dtype=np.float32)[:, None] - shape[1] / 2) * 2 / shape[1]
    x = (np.arange(shape[2], dtype=np.float32) - shape[2] / 2) * 2 / shape[1]
    return t, y, x


def _few(shape):
    """Slices of the frames of a clip (T, H, W), as many as the processor's cache holds."""
    step = max(1, 2**16 // (shape[1] * shape[2]))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def _speed(rng, fastest=2.0):
    """A velocity (x, y) in half heights a clip of 16 frames; slow ones as frequent as fast ones."""
    size, angle = fastest * 10 ** rng.uniform(-1.3, 0), rng.uniform(0, 2 * np.pi)
    return np.float32(size * np.cos(angle)), np.float32(size * np.sin(angle))


def _still(rng, rows, columns):
    """A still picture (rows, columns): noise, or leaves of all sizes that hide each other."""
    noise = fractal(rng, (rows, columns), rng.uniform(0.5, 1.8), 2 ** rng.uniform(-1.5, 1.5))
    if rng.random() < 0.5:
        return noise
    picture = noise * np.float32(rng.uniform(0.05, 0.4))
    y, x = np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)
    square = rng.random() < 0.5
    for radius in np.sort(rows * 0.3 * rng.uniform(0.15, 1, 24) ** 2)[::-1]:
        dy, dx = np.abs(y - rng.uniform(0, rows)), np.abs(x - rng.uniform(0, columns))
        high, wide = dy[:, 0] < radius, dx < radius * (1.5 if square else 1)
        leaf = picture[tuple(slice(m.argmax(), m.argmax() + m.sum()) for m in (high, wide))]
        inside = True if square else dy[high] ** 2 + dx[wide] ** 2 < radius * radius
        leaf += inside * (np.float32(rng.normal()) - 0.8 * leaf)
    return picture


def _clouds(rng, shape):
    """One or two layers of fractal noise that drift over each other."""
    total = np.zeros(shape, np.float32)
    rows, columns = np.arange(shape[1]), np.arange(shape[2])
    for _ in range(rng.integers(1, 3)):
        layer = fractal(rng, shape[1:], rng.uniform(0.8, 2.2), 2 ** rng.uniform(-2, 2))
        vx, vy = _speed(rng)
        step = shape[1] / 32
        for t in range(shape[0]):
            total[t] += sampled(layer, rows - t * vy * step, columns - t * vx * step)
    return total


def _grating(rng, shape):
    """A drifting grating, from a soft sine to hard bars."""
    t, y, x = _axes(shape)
    vx, vy = _speed(rng, 1.2)
    frequency, angle = np.pi * 10 ** rng.uniform(0, 0.9), rng.uniform(0, np.pi)
    kx, ky = np.float32(frequency * np.cos(angle)), np.float32(frequency * np.sin(angle))
    start = np.float32(rng.uniform(0, 6.3))
    wave = np.sin(kx * (x - vx * t) + (ky * (y - vy * t) + start))
    hardness = np.float32(10 ** rng.uniform(-0.5, 0.7))
    return np.clip(hardness * wave, -1, 1)


def _plaid(rng, shape):
    """Two gratings, added or multiplied."""
    first, second = _grating(rng, shape), _grating(rng, shape)
    return first * second if rng.random() < 0.4 else first + second


def _bumps(rng, shape, count, low, high):
    """Sum of `count` moving Gaussian spots, as a product of one-dimensional ones."""
    t, y, x = _axes(shape)
    wide = shape[2] / shape[1]
    common = np.array(_speed(rng))
    own = np.stack([_speed(rng, 1.2) for _ in range(count)]) * rng.uniform(0, 1) + common
    at = rng.uniform(-1.3, 1.3, (count, 2)) * (wide, 1)
    at = at + t[:, :, 0, None] * own  # (T, count, 2)
    limit = np.array([1.4 * wide, 1.4])
    at = ((at + limit) % (2 * limit) - limit).astype(np.float32)
    width = np.float32(10) ** rng.uniform(np.log10(low), np.log10(high), count).astype(np.float32)
    gain = rng.choice([-1.0, 1.0], count).astype(np.float32) if rng.random() < 0.5 else 1.0
    columns = np.exp(-(((x[:, None] - at[:, None, :, 0]) / width) ** 2))
    rows = np.exp(-(((y - at[:, None, :, 1]) / width) ** 2)) * gain
    return rows @ columns.transpose(0, 2, 1)


def _blobs(rng, shape):
    """A few large soft spots."""
    return _bumps(rng, shape, rng.integers(2, 12), 0.12, 0.6)


def _dots(rng, shape):
    """A field of many small dots, moving together or apart."""
    return np.clip(_bumps(rng, shape, rng.integers(30, 90), 0.035, 0.09), -1, 1)


def _polygons(rng, shape):
    """Hard-edged polygons (or one long edge) that move and turn over a still picture."""
    t, y, x = _axes(shape)
    total = np.float32(rng.uniform(0.1, 0.5)) * _still(rng, *shape[1:]) * np.ones_like(t)
    sharp = np.float32(shape[1] / 3)
    for _ in range(rng.integers(1, 4)):
        vx, vy = _speed(rng)
        cx = x - np.float32(rng.uniform(-0.8, 0.8)) - vx * (t - 0.5)
        cy = y - np.float32(rng.uniform(-0.8, 0.8)) - vy * (t - 0.5)
        corners, size = rng.integers(1, 5), rng.uniform(0.15, 0.6)
        turn = rng.uniform(0, 6.3) + rng.normal(0, 0.8) * t
        angles = [turn + 2 * np.pi * corner / corners for corner in range(corners)]
        across, along = [cx * np.cos(a) for a in angles], [cy * np.sin(a) for a in angles]
        tone = np.float32(rng.normal(0, 1.5))
        for few in _few(shape):
            both = zip(across, along, strict=True)
            sides = [size - (u[few] + v[few]).astype(np.float32) for u, v in both]
            cover = np.clip(sharp * np.minimum.reduce(sides), 0, 1)
            total[few] += cover * (tone - total[few])
    return total


def _pan(rng, shape):
    """A camera that pans, zooms and rolls over a still picture."""
    t, y, x = _axes(shape)
    side = 1.5 * max(shape[1:])
    picture = _still(rng, int(side), int(side))
    vx, vy = _speed(rng, 1.0)
    zoom = 2 ** (rng.normal(0, 0.35) * (t - 0.5))
    roll = rng.normal(0, 0.3) * (t - 0.5)
    c, s = (np.float32(shape[1] / 2) * zoom * f(roll) for f in (np.cos, np.sin))
    c, s = c.astype(np.float32), s.astype(np.float32)
    h = np.float32(shape[1] / 2)
    middle = np.float32(side / 2)
    up, left = (middle + h * v * (t - 0.5) for v in (vy, vx))
    total = np.empty(shape, np.float32)
    for few in _few(shape):
        # Nearest of a slightly soft picture: at this size the eye cannot tell it from bilinear.
        rows = (c[few] * y + s[few] * x + up[few]).astype(np.int32)
        columns = (c[few] * x - s[few] * y + left[few]).astype(np.int32)
        index = rows % picture.shape[0] * picture.shape[1] + columns % picture.shape[1]
        total[few] = picture.ravel().take(index)
    return total


def _flicker(rng, shape):
    """Pictures that fade into each other, with a gain that pulses."""
    t = _axes(shape)[0]
    total = np.zeros(shape, np.float32)
    for _ in range(3):
        wave = np.sin(2 * np.pi * (rng.uniform(0.3, 3) * t + rng.uniform()))
        total += _still(rng, *shape[1:]) * wave.astype(np.float32)
    pulse = rng.uniform(0, 1.5) * np.sin(2 * np.pi * (rng.uniform(0.5, 4) * t + rng.uniform()))
    return total + pulse.astype(np.float32)


# Some are drawn twice as often as others.
FAMILIES = (_clouds, _clouds, _grating, _plaid, _blobs, _dots)
FAMILIES += (_polygons, _polygons, _pan, _pan, _flicker)
