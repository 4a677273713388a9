"""Who performs: proportions, clothes and tones of each person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stce.datasets.render.motion import Body


@dataclass(frozen=True)
class Look:
    """Clothes and tones (albedo, 0 to 1) of a person in one scenario."""

    skin: float = 0.7
    hair: float = 0.2
    top: float = 0.5
    bottom: float = 0.3
    shoes: float = 0.2
    accent: float = 0.4  # hat and bag
    style: str = "short"  # of the hair: short, long, bun, bald
    sleeves: str = "long"  # long, short, none
    legs: str = "trousers"  # trousers, shorts, skirt
    stripes: int = 0
    coat: bool = False
    bag: str = ""  # backpack, shoulder
    hat: str = ""  # cap, beanie


def person_body(seed, person):
    """Proportions and habits of `person` (1 to 25) in the data set `seed`."""
    rng = np.random.default_rng([seed, person, 101])
    leg = rng.uniform(0.95, 1.05)
    girth = rng.uniform(0.92, 1.18)
    return Body(
        thigh=0.245 * leg,
        shank=0.235 * leg,
        torso=0.295 * (2 - leg),
        upper_arm=0.17 * rng.uniform(0.96, 1.06),
        forearm=0.15 * rng.uniform(0.96, 1.06),
        shoulders=0.122 * girth**0.6 * rng.uniform(0.95, 1.06),
        girth=girth,
        head=rng.uniform(0.93, 1.08),
        tempo=rng.uniform(0.88, 1.12),
        vigour=rng.uniform(0.86, 1.14),
    )


def person_look(seed, person, scenario):
    """Clothes of `person` in `scenario` 1 to 4: the same but in d3, with a coat, bag or hat."""
    rng = np.random.default_rng([seed, person, 102])
    skin = rng.uniform(0.42, 0.9)
    hair = rng.choice([0.08, 0.16, 0.3, 0.55, 0.8])
    style = str(rng.choice(["short", "short", "long", "bun", "bald"]))
    shoes = rng.uniform(0.08, 0.85)
    if scenario == 3:
        rng = np.random.default_rng([seed, person, 103])
    top, bottom = rng.uniform(0.08, 0.95), rng.uniform(0.06, 0.7)
    if abs(top - bottom) < 0.15:
        bottom = top - 0.25 if top > 0.4 else top + 0.25
    look = {
        "sleeves": str(rng.choice(["long", "short", "short", "none"])),
        "legs": str(rng.choice(["trousers"] * 4 + ["shorts", "shorts", "skirt"])),
        "stripes": int(rng.choice([0, 0, 0, 4, 6])),
    }
    accent = rng.uniform(0.08, 0.9)
    if scenario == 3:
        worn = rng.permutation(3)[: rng.integers(1, 3)]
        look["coat"] = bool(0 in worn)
        look["bag"] = str(rng.choice(["backpack", "shoulder"])) if 1 in worn else ""
        look["hat"] = str(rng.choice(["cap", "beanie"])) if 2 in worn else ""
        if look["coat"]:
            look.update(sleeves="long", stripes=0)
    return Look(skin, hair, top, bottom, shoes, accent, style, **look)
