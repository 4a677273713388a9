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
    """

    def __init__(self, joints, scale, view, facing, body, look):
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
        shapes = [
            (j["pelvis"], j["chest"], self._r(wide * g), self._r(wide * g)),
            (j["chest"], self._at("head", up=0.02), self._r(0.05), self._r(0.06)),
        ]
        for s in SIDES:
            for a, b, ra, rb in (
                ("hip", "knee", 0.065, 0.045),
                ("knee", "ankle", 0.045, 0.03),
                ("shoulder", "elbow", 0.04, 0.035),
                ("elbow", "hand", 0.035, 0.03),
            ):
                shapes.append((j[f"{a}_{s}"], j[f"{b}_{s}"], self._r(ra), self._r(rb)))
        return shapes

    def draw(self, canvas, light=215.0):
        """Paint the person on `canvas`; `light` is the grey level of a white surface."""
        self.canvas, self.light = canvas, light
        if self.side:
            self._arm("far", 0.82)
            if self.look.bag == "backpack":
                self._backpack()
            self._leg("far", 0.80)
            self._leg("near", 1.0)
            self._trunk()
            self._head()
            self._arm("near", 1.0)
        else:
            if self.look.bag == "backpack":
                self._backpack()
            self._leg("far", 1.0)
            self._leg("near", 1.0)
            self._trunk()
            self._head()
            self._arm("far", 1.0)
            self._arm("near", 1.0)

    def _limb(self, a, b, ra, rb, tone, part, **options):
        if options.get("end_tone") is not None:
            options["end_tone"] *= self.light
        self.canvas.limb(a, b, self._r(ra), self._r(rb), tone * self.light, part, **options)

    def _panel(self, a, b, wa, wb, corner, tone, part, **options):
        wa, wb = (self._r(w) if np.isscalar(w) else w.astype(np.float32) for w in (wa, wb))
        self.canvas.panel(a, b, wa, wb, self._r(corner), tone * self.light, part, **options)

    def _arm(self, side, dim):
        j, look, g = self.j, self.look, self.body.girth**0.7
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
        shoulder, elbow = j[f"shoulder_{side}"], j[f"elbow_{side}"]
        wrist, hand = j[f"wrist_{side}"], j[f"hand_{side}"]
        self._limb(
            shoulder,
            elbow,
            0.050 * g * thick,
            0.042 * g * thick,
            upper,
            ARMS,
            end_tone=cut,
            cut=0.62,
        )
        self._limb(wrist, hand, 0.031, 0.034, skin, ARMS, halo=False)
        self._limb(
            elbow, wrist, 0.042 * g * thick, 0.032 * g * thick, lower, ARMS, bulge=0.08, halo=False
        )

    def _leg(self, side, dim):
        j, look, g = self.j, self.look, self.body.girth**0.6
        cloth, skin = look.bottom * dim, look.skin * dim
        bare = look.legs != "trousers"
        wide = 1.0 if bare else 1.08
        hip, knee, ankle = j[f"hip_{side}"], j[f"knee_{side}"], j[f"ankle_{side}"]
        self._limb(j[f"heel_{side}"], j[f"toe_{side}"], 0.026, 0.022, look.shoes * dim, LEGS)
        self._limb(
            knee,
            ankle,
            0.051 * g * wide,
            (0.033 if bare else 0.038) * g,
            skin if bare else cloth,
            LEGS,
            bulge=0.12 if bare else 0.03,
        )
        self._limb(
            hip,
            knee,
            0.076 * g,
            0.051 * g * wide,
            cloth,
            LEGS,
            bulge=0.04,
            end_tone=skin if bare else None,
            cut=0.72,
            halo=not self.side,
        )

    def _trunk(self):
        look, g, j = self.look, self.body.girth, self.j
        shoulders = 0.074 * g if self.side else self.body.shoulders
        hips = 0.078 * g if self.side else 0.108 * g
        if look.legs == "skirt":
            spread = np.abs(j["knee_near"][:, 0] - j["knee_far"][:, 0]) / 2 + self._r(0.052)
            hem = (j["knee_near"] + j["knee_far"]) / 2 - 0.02 * self.up
            self._panel(
                self._at("pelvis", up=0.06), hem, 0.95 * hips, spread, 0.02, look.bottom, LEGS
            )
        else:
            self._panel(
                self._at("pelvis", up=0.06),
                self._at("pelvis", up=-0.035),
                0.95 * hips,
                hips,
                0.03,
                look.bottom,
                LEGS,
                halo=False,
            )
        top, waist = self._at("chest", up=0.005), self._at("pelvis", up=0.015)
        corner = 0.06 if self.side else 0.05
        if look.coat:
            knees = (j["knee_near"] + j["knee_far"]) / 2
            hem = 0.42 * j["pelvis"] + 0.58 * knees
            spread = np.abs(j["knee_near"][:, 0] - j["knee_far"][:, 0]) * 0.3 + self._r(hips * 1.08)
            self._panel(
                top, hem, shoulders * 1.06, spread, corner * 0.9, look.top, TORSO, waist=0.04
            )
        else:
            self._panel(
                top,
                waist,
                shoulders,
                hips * 0.97,
                corner,
                look.top,
                TORSO,
                waist=0.10,
                stripes=look.stripes,
            )
        if look.bag == "shoulder":
            place = self._at("pelvis", -0.02, 0.06) if self.side else self._at("pelvis", -0.1, 0.05)
            self._limb(
                self._at("chest", 0.02 if self.side else 0.06, -0.01),
                place,
                0.012,
                0.012,
                look.accent * 0.8,
                TORSO,
                halo=False,
            )
            self._panel(place, place - 0.13 * self.up, 0.062, 0.066, 0.02, look.accent, TORSO)
        if look.bag == "backpack" and not self.side:
            for way in (-0.07, 0.07):
                self._limb(
                    self._at("chest", way, -0.01),
                    self._at("chest", way * 1.1, -0.17),
                    0.014,
                    0.012,
                    look.accent,
                    TORSO,
                    halo=False,
                )

    def _backpack(self):
        back = -0.115 * self.body.girth if self.side else 0.0
        wide = 0.062 if self.side else self.body.shoulders * 1.12
        self._panel(
            self._at("chest", back, -0.01),
            self._at("chest", back, -0.22),
            wide,
            wide * 1.05,
            0.035,
            self.look.accent,
            TORSO,
        )

    def _head(self):
        look, k = self.look, self.body.head
        ahead = 1.0 if self.side else 0.0
        hair = look.skin if look.style == "bald" else look.hair
        neck = self._at("chest", 0.012 * ahead, -0.01), self._at("head", 0.0, -0.02)
        if look.style == "long":
            self._limb(
                self._at("head", -0.035 * ahead, 0.01),
                self._at("chest", -0.05 * ahead, -0.035),
                0.062 * k,
                0.05 * k if self.side else 0.075 * k,
                hair,
                HEAD,
            )
        self._limb(*neck, 0.037, 0.035, look.skin * 0.9, HEAD, halo=False)
        if look.style == "bun":
            bun = self._at("head", -0.07 * k * ahead, 0.045 + 0.03 * (1 - ahead))
            self._limb(bun, bun + 0.01 * self.up, 0.033, 0.03, hair, HEAD, halo=False)
        self._limb(
            self._at("head", -0.012 * ahead, 0.026 * k),
            self._at("head", 0, -0.005),
            0.066 * k,
            0.058 * k,
            hair,
            HEAD,
        )
        self._limb(
            self._at("head", 0.016 * ahead, 0.008),
            self._at("head", 0.022 * ahead, -0.034),
            0.055 * k,
            0.043 * k,
            look.skin,
            HEAD,
            halo=False,
        )
        if self.side:
            nose = self._at("head", 0.064 * k, -0.004)
            self._limb(nose, nose - 0.012 * self.up, 0.011, 0.015, look.skin, HEAD, halo=False)
        if look.hat:
            self._limb(
                self._at("head", -0.02 * ahead, 0.055 * k),
                self._at("head", 0.012 * ahead, 0.052 * k),
                0.066 * k,
                0.062 * k,
                look.accent,
                HEAD,
                halo=False,
            )
            if look.hat == "cap":
                brim = self._at("head", 0.045 * ahead - 0.045 * (1 - ahead), 0.036)
                self._limb(
                    brim,
                    self._at("head", 0.115 * ahead + 0.045 * (1 - ahead), 0.03),
                    0.014,
                    0.011,
                    look.accent * 0.8,
                    HEAD,
                    halo=False,
                )
