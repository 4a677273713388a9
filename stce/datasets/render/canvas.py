"""A software canvas that paints one soft-edged shape into all frames of a video at once.

Two shapes are enough for a clothed figure: a `limb` (capsule between two joints, tapered, with a
bulge) and a `panel` (box with round corners along an axis, with a waist). Each is evaluated only in
a window around it, of one size for all frames, so that a shape costs tenths of a millisecond.
"""

from __future__ import annotations

import numpy as np

SOFTNESS = 1.3
"""Width of an edge in pixels, about that of a small video camera."""


class Canvas:
    """Frames, part masks and cast shadow of one video while it is being drawn.

    Parameters
    ----------
    image : ndarray, (T, H, W) float32
        The background, in grey levels; painted over in place.
    light : tuple of float
        Direction to the light ``(right, down, towards the camera)``.
    ambient, diffuse : float
        Share of a surface's tone that is always seen, and that depends on its angle to the light.
    """

    def __init__(self, image, light=(0.0, -0.5, 0.8), ambient=0.6, diffuse=0.5):
        self.image = image
        self.parts = np.zeros(image.shape, np.uint8)
        self.light, self.ambient, self.diffuse = light, ambient, diffuse
        self._t = np.arange(len(image))
        self._axes = [np.arange(size, dtype=np.float32) for size in image.shape[1:]]

    def limb(self, a, b, ra, rb, tone, part, *, bulge=0.0, end_tone=None, cut=0.5, halo=True):
        """Paint a tapered capsule from `a` to `b`.

        Parameters
        ----------
        a, b : ndarray, (T, 2) float32
            End points ``(x, y)`` in pixels.
        ra, rb : ndarray, (T,) float32
            Radii at the ends, in pixels.
        tone : float
            Grey level of the surface in full light.
        part : int
            Value written to the mask.
        bulge : float
            Extra radius half-way, as a fraction of `ra` (a calf, a thigh).
        end_tone, cut : float
            Tone beyond the fraction `cut` of the way to `b` (the bare arm below a short sleeve).
        halo : bool
            Darken other parts of the body just beside the shape, as contact shadows do.
        """
        window, axis, h, u, distance = self._capsule(a, b, ra, rb, bulge, margin=3.0)
        if end_tone is not None:
            tone = np.where(h < cut, np.float32(tone), np.float32(end_tone))
        self._paint(window, axis, distance, u, tone, part, halo)

    def panel(self, a, b, wa, wb, corner, tone, part, *, waist=0.0, stripes=0, halo=True):
        """Paint a box with round corners from `a` to `b`, of half-width `wa` and `wb` (T,) there.

        `corner` (T,) is the corners' radius in pixels, `waist` narrows the middle by a fraction
        of `wa`, `stripes` is a number of dark bands across; the rest is as in `limb`.
        """
        reach = np.maximum(wa, wb) + 3.0
        window, x, y, axis, length = self._window(a, b, reach)
        along = x * axis[:, 0, None, None] + y * axis[:, 1, None, None]
        u = y * axis[:, 0, None, None] - x * axis[:, 1, None, None]
        half = 0.5 * length[:, None, None]
        v = np.minimum(np.maximum(along / (2 * half), 0), 1)
        width = wa[:, None, None] + (wb - wa)[:, None, None] * v
        if waist:
            width -= (4 * waist * wa)[:, None, None] * v * (1 - v)
        round_ = corner[:, None, None]
        across = np.abs(u) - (width - round_)
        beyond = np.abs(along - half) - (half - round_)
        outside = np.sqrt(np.maximum(across, 0) ** 2 + np.maximum(beyond, 0) ** 2)
        distance = outside + np.minimum(np.maximum(across, beyond), 0) - round_
        if stripes:
            tone = tone * (1 - 0.32 * (np.sin(2 * np.pi * stripes * v) > 0.2))
        # Flatter than a limb: cloth over a chest, not over a tube.
        self._paint(window, axis, distance, 0.8 * u / width, tone, part, halo)

    def shadows(self, capsules, strength, softness):
        """Darken the image under `capsules`, a list of (a, b, ra, rb); overlaps do not add up."""
        shadow = np.zeros_like(self.image)
        for a, b, ra, rb in capsules:
            window, _, _, _, distance = self._capsule(a, b, ra, rb, 0.0, margin=softness + 1)
            cover = np.minimum(np.maximum(0.5 - distance / softness, 0), 1)
            view, index = self._view(shadow, window)
            view[index] = np.maximum(view[index], cover)
        shadow *= -strength
        shadow += 1
        self.image *= shadow

    def _capsule(self, a, b, ra, rb, bulge, margin):
        window, x, y, axis, length = self._window(a, b, np.maximum(ra, rb) * (1 + bulge) + margin)
        scaled = axis / length[:, None]
        along = x * scaled[:, 0, None, None] + y * scaled[:, 1, None, None]
        u = y * axis[:, 0, None, None] - x * axis[:, 1, None, None]
        h = np.minimum(np.maximum(along, 0), 1)
        r = (rb - ra)[:, None, None] * h + ra[:, None, None]
        if bulge:
            r += (4 * bulge * ra)[:, None, None] * h * (1 - h)
        along -= h
        along *= length[:, None, None]
        distance = np.sqrt(along * along + u * u) - r
        return window, axis, h, u / r, distance

    def _window(self, a, b, reach):
        """Return window, x (T, 1, w) and y (T, h, 1) from `a`, unit axis and length of a -> b."""
        low = np.floor(np.minimum(a, b) - reach[:, None]).astype(np.int64)
        high = np.ceil(np.maximum(a, b) + reach[:, None]).astype(np.int64)
        rows, columns = self.image.shape[1:]
        w, h = np.minimum((high - low).max(0) + 1, (columns, rows))
        x0 = np.clip(low[:, 0], 0, columns - w)
        y0 = np.clip(low[:, 1], 0, rows - h)
        x = self._axes[1][:w] + (x0 - a[:, 0]).astype(np.float32)[:, None]
        y = self._axes[0][:h] + (y0 - a[:, 1]).astype(np.float32)[:, None]
        length = np.maximum(np.hypot(*(b - a).T), 1e-3).astype(np.float32)
        axis = ((b - a) / length[:, None]).astype(np.float32)
        return (y0, x0, h, w), x[:, None, :], y[:, :, None], axis, length

    def _view(self, array, window):
        """Return all h x w windows of `array` as a view, and the index that takes one a frame."""
        y0, x0, h, w = window
        t, rows, columns = array.shape
        st, sy, sx = array.strides
        view = np.lib.stride_tricks.as_strided(
            array, (t, rows - h + 1, columns - w + 1, h, w), (st, sy, sx, sy, sx)
        )
        return view, (self._t, y0, x0)

    def _paint(self, window, axis, distance, u, tone, part, halo):
        image, index = self._view(self.image, window)
        parts, _ = self._view(self.parts, window)
        under, below = image[index], parts[index]
        if halo:
            near = np.minimum(np.maximum(1 - distance / 3, 0), 1)
            under *= 1 - 0.38 * near * (below > 0) * (below < 5)
        u = np.minimum(np.maximum(u, -1), 1)
        facing = axis[:, 0] * self.light[1] - axis[:, 1] * self.light[0]
        lit = facing.astype(np.float32)[:, None, None] * u
        lit += self.light[2] * (1 - u * u)
        value = tone * (self.ambient + self.diffuse * np.maximum(lit, 0))
        cover = np.minimum(np.maximum(0.5 - distance / SOFTNESS, 0), 1)
        under += cover * (value - under)
        image[index] = under
        parts[index] = np.where(cover >= 0.5, np.uint8(part), below)
