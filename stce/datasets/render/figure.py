"""A clothed figure: shapes hung on the joints, painted from back to front."""

from __future__ import annotations

import numpy as np

from stce.datasets.render.motion import SIDES

BACKGROUND, HEAD, TORSO, ARMS, LEGS, CUE = range(6)


class Figure:
    """A person in pixels: joints and sizes mapped to the screen, and drawn from back to front.

    Parameters
    ----------
    joints : dict of ndarray, (T, 2)
        From `motion.perform`, already mapped to pixels except "up", a unit vector.
    scale : ndarray, (T,)
        Pixels in a body height.
    view : str
        "side" or "front".
    facing : ndarray, (T,)
        1 where the figure looks to the right, -1 to the left.
    body, look : Body, Look
        Of the person.
    without : sequence of str
        Parts that are left out: "head", "torso", "arms", "legs".
    """

    def __init__(self, joints, scale, view, facing, body, look, without=()):
        self.drawn = {"head", "torso", "arms", "legs"} - set(without)
        self.j = {name: np.asarray(p, np.float32) for name, p in joints.items()}
        self.scale, self.view = np.asarray(scale, np.float32), view
        self.facing = np.asarray(facing, np.float32)
        self.body, self.look = body, look
        # Up and forward, one body height long, in the figure's own (leaning) frame.
        up = self.j["up"] * np.stack([self.facing, -np.ones_like(self.facing)], 1)
        self.up = (up * self.scale[:, None]).astype(np.float32)
        forward = np.stack([-self.up[:, 1], self.up[:, 0]], 1)
        self.forward = forward * self.facing[:, None]
        self.side = view == "side"

    def _r(self, radius):
        return self.scale * np.float32(radius)

    def _at(self, joint, forward=0.0, up=0.0):
        return self.j[joint] + forward * self.forward + up * self.up

    def capsules(self):
        """Return the figure's bulk as ``(a, b, ra, rb)`` in pixels, for its shadow."""
        j, g = self.j, self.body.girth
        wide = 0.085 if self.side else 0.12
        head = j["chest"], self._at("head", up=0.02), self._r(0.05), self._r(0.06)
        torso = j["pelvis"], j["chest"], self._r(wide * g), self._r(wide * g)
        shapes = [("torso", torso), ("head", head)]
        for s in SIDES:
            for part, a, b, ra, rb in (
                ("legs", "hip", "knee", 0.065, 0.045),
                ("legs", "knee", "ankle", 0.045, 0.03),
                ("arms", "shoulder", "elbow", 0.04, 0.035),
                ("arms", "elbow", "hand", 0.035, 0.03),
            ):
                limb = j[f"{a}_{s}"], j[f"{b}_{s}"], self._r(ra), self._r(rb)
                shapes.append((part, limb))
        return [shape for part, shape in shapes if part in self.drawn]

    def draw(self, canvas, light=215.0):
        """Paint the person on `canvas`; `light` is the grey level of a white surface."""
        self.canvas, self.light = canvas, light
        # From the side the far limbs are in the shade, and the far arm is behind the body.
        if self.side:
            self._arm("far", 0.82)
        if self.look.bag == "backpack":
            self._backpack()
        self._leg("far", 0.80 if self.side else 1.0)
        self._leg("near", 1.0)
        self._trunk()
        self._head()
        if not self.side:
            self._arm("far", 1.0)
        self._arm("near", 1.0)

    def _limb(self, ends, radii, tone, part, **options):
        if options.get("end_tone") is not None:
            options["end_tone"] *= self.light
        self.canvas.limb(*ends, *map(self._r, radii), tone * self.light, part, **options)

    def _panel(self, ends, widths, corner, tone, part, **options):
        widths = [self._r(w) if np.isscalar(w) else w.astype(np.float32) for w in widths]
        self.canvas.panel(*ends, *widths, self._r(corner), tone * self.light, part, **options)

    def _arm(self, side, dim):
        if "arms" not in self.drawn:
            return
        look, g = self.look, self.body.girth**0.7
        shoulder, elbow, wrist, hand = (
            self.j[f"{joint}_{side}"] for joint in ("shoulder", "elbow", "wrist", "hand")
        )
        skin = look.skin * dim
        # The far side and bright sleeves on a bright top: a touch off the torso's own tone.
        sleeve = look.top * dim * (0.86 if look.top > 0.45 else 1.12)
        upper, lower, thick = skin, skin, 1.0
        cut = None
        if look.sleeves == "long":
            upper = lower = sleeve
            thick = 1.16 if look.coat else 1.06
        elif look.sleeves == "short":
            upper, cut = sleeve, skin
        radii = 0.050 * g * thick, 0.042 * g * thick, 0.032 * g * thick
        self._limb((shoulder, elbow), radii[:2], upper, ARMS, end_tone=cut, cut=0.62)
        self._limb((wrist, hand), (0.031, 0.034), skin, ARMS, halo=False)
        self._limb((elbow, wrist), radii[1:], lower, ARMS, bulge=0.08, halo=False)

    def _leg(self, side, dim):
        if "legs" not in self.drawn:
            return
        look, g = self.look, self.body.girth**0.6
        hip, knee, ankle, heel, toe = (
            self.j[f"{joint}_{side}"] for joint in ("hip", "knee", "ankle", "heel", "toe")
        )
        cloth, skin = look.bottom * dim, look.skin * dim
        bare = look.legs != "trousers"
        middle = 0.051 * g * (1.0 if bare else 1.08)
        self._limb((heel, toe), (0.026, 0.022), look.shoes * dim, LEGS)
        if bare:
            self._limb((knee, ankle), (middle, 0.033 * g), skin, LEGS, bulge=0.12)
        else:
            self._limb((knee, ankle), (middle, 0.038 * g), cloth, LEGS, bulge=0.03)
        thigh = {"bulge": 0.04, "end_tone": skin if bare else None, "cut": 0.72}
        self._limb((hip, knee), (0.076 * g, middle), cloth, LEGS, halo=not self.side, **thigh)

    def _trunk(self):
        if "torso" not in self.drawn:
            return
        look, g, j, at = self.look, self.body.girth, self.j, self._at
        shoulders = 0.074 * g if self.side else self.body.shoulders
        hips = 0.078 * g if self.side else 0.108 * g
        knees = (j["knee_near"] + j["knee_far"]) / 2
        apart = np.abs(j["knee_near"][:, 0] - j["knee_far"][:, 0])
        belt = at("pelvis", up=0.06)
        if look.legs == "skirt":
            widths = 0.95 * hips, apart / 2 + self._r(0.052)
            self._panel((belt, knees - 0.02 * self.up), widths, 0.02, look.bottom, LEGS)
        else:
            ends, widths = (belt, at("pelvis", up=-0.035)), (0.95 * hips, hips)
            self._panel(ends, widths, 0.03, look.bottom, LEGS, halo=False)
        top, waist = at("chest", up=0.005), at("pelvis", up=0.015)
        corner = 0.06 if self.side else 0.05
        if look.coat:
            ends = top, 0.42 * j["pelvis"] + 0.58 * knees
            widths = shoulders * 1.06, apart * 0.3 + self._r(hips * 1.08)
            self._panel(ends, widths, corner * 0.9, look.top, TORSO, waist=0.04)
        else:
            ends, widths = (top, waist), (shoulders, hips * 0.97)
            cut = {"waist": 0.10, "stripes": look.stripes}
            self._panel(ends, widths, corner, look.top, TORSO, **cut)
        if look.bag == "shoulder":
            place = at("pelvis", -0.02, 0.06) if self.side else at("pelvis", -0.1, 0.05)
            strap = at("chest", 0.02 if self.side else 0.06, -0.01), place
            self._limb(strap, (0.012, 0.012), look.accent * 0.8, TORSO, halo=False)
            ends = place, place - 0.13 * self.up
            self._panel(ends, (0.062, 0.066), 0.02, look.accent, TORSO)
        if look.bag == "backpack" and not self.side:
            for way in (-0.07, 0.07):
                strap = at("chest", way, -0.01), at("chest", way * 1.1, -0.17)
                self._limb(strap, (0.014, 0.012), look.accent, TORSO, halo=False)

    def _backpack(self):
        back = -0.115 * self.body.girth if self.side else 0.0
        wide = 0.062 if self.side else self.body.shoulders * 1.12
        ends = self._at("chest", back, -0.01), self._at("chest", back, -0.22)
        self._panel(ends, (wide, wide * 1.05), 0.035, self.look.accent, TORSO)

    def _head(self):
        if "head" not in self.drawn:
            return
        look, k, at = self.look, self.body.head, self._at
        ahead = 1.0 if self.side else 0.0
        hair = look.skin if look.style == "bald" else look.hair
        if look.style == "long":
            ends = at("head", -0.035 * ahead, 0.01), at("chest", -0.05 * ahead, -0.035)
            self._limb(ends, (0.062 * k, 0.05 * k if self.side else 0.075 * k), hair, HEAD)
        neck = at("chest", 0.012 * ahead, -0.01), at("head", 0.0, -0.02)
        self._limb(neck, (0.037, 0.035), look.skin * 0.9, HEAD, halo=False)
        if look.style == "bun":
            bun = at("head", -0.07 * k * ahead, 0.045 + 0.03 * (1 - ahead))
            self._limb((bun, bun + 0.01 * self.up), (0.033, 0.03), hair, HEAD, halo=False)
        skull = at("head", -0.012 * ahead, 0.026 * k), at("head", 0, -0.005)
        self._limb(skull, (0.066 * k, 0.058 * k), hair, HEAD)
        face = at("head", 0.016 * ahead, 0.008), at("head", 0.022 * ahead, -0.034)
        self._limb(face, (0.055 * k, 0.043 * k), look.skin, HEAD, halo=False)
        if self.side:
            nose = at("head", 0.064 * k, -0.004)
            self._limb((nose, nose - 0.012 * self.up), (0.011, 0.015), look.skin, HEAD, halo=False)
        if look.hat:
            ends = at("head", -0.02 * ahead, 0.055 * k), at("head", 0.012 * ahead, 0.052 * k)
            self._limb(ends, (0.066 * k, 0.062 * k), look.accent, HEAD, halo=False)
        if look.hat == "cap":
            start, end = 0.045 * ahead - 0.045 * (1 - ahead), 0.115 * ahead + 0.045 * (1 - ahead)
            brim = at("head", start, 0.036), at("head", end, 0.03)
            self._limb(brim, (0.014, 0.011), look.accent * 0.8, HEAD, halo=False)
