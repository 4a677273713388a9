"""How a figure moves: joint positions over time for six actions.

Positions are (T, 2) arrays in body heights, x forward (side view) or to the figure's left (frontal
view), y up from the ground. The legs of the gaits follow the path of the ball of the foot, which
stands still on the ground while it bears weight; hips and knees come from inverse kinematics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDES = ("near", "far")
DEGREE = np.pi / 180


@dataclass(frozen=True)
class Body:
    """Proportions of a person, in body heights (lengths of the bones) or relative to the mean."""

    thigh: float = 0.245
    shank: float = 0.235
    torso: float = 0.295
    upper_arm: float = 0.17
    forearm: float = 0.15
    shoulders: float = 0.125
    girth: float = 1.0
    head: float = 1.0
    tempo: float = 1.0
    vigour: float = 1.0


@dataclass(frozen=True)
class Gait:
    """A way of moving on: speed in heights a second, stride rate in Hz, angles in degrees."""

    speed: float
    rate: float
    duty: float  # share of a stride for which a foot is on the ground; below 0.5 there is flight
    lift: float  # height of the foot in mid-swing
    push: float  # pitch of the foot when it leaves the ground
    land: float  # pitch when it arrives
    lean: float
    crouch: float
    bob: float  # rise of the hips at mid-stance (negative: they sink and bounce)
    arm: float  # swing of the upper arm to each side
    arm_rest: float
    elbow: float
    elbow_swing: float


GAITS = {
    "walking": Gait(0.67, 0.95, 0.61, 0.015, 48, -18, 3, 0.025, 0.008, 27, -3, 14, 10),
    "jogging": Gait(1.14, 1.32, 0.42, 0.125, 52, -4, 8, 0.036, -0.016, 30, -8, 78, 10),
    "running": Gait(1.72, 1.52, 0.34, 0.220, 58, 2, 12, 0.038, -0.018, 46, -10, 88, 18),
}
ANKLE, FOOT = 0.042, 0.085  # height of the ankle; from the ankle to the ball of the foot


def two_bones(root, target, first, second, bend):
    """Return the middle joint and the end of two bones that reach from `root` for `target`."""
    reach = target - root
    length = np.hypot(*reach.T)
    clipped = np.clip(length, abs(first - second) + 0.01, 0.998 * (first + second))
    axis = reach / np.maximum(length, 1e-6)[:, None]
    along = (first**2 - second**2 + clipped**2) / (2 * clipped)
    aside = bend * np.sqrt(np.maximum(first**2 - along**2, 0))
    perpendicular = np.stack([-axis[:, 1], axis[:, 0]], 1)
    middle = root + along[:, None] * axis + aside[:, None] * perpendicular
    return middle, root + clipped[:, None] * axis


def _points(x, y):
    return np.stack(np.broadcast_arrays(x, y), -1).astype(np.float64)


def _direction(angle):
    """Unit vectors at `angle` (radians) from straight down, positive forward."""
    return np.stack([np.sin(angle), -np.cos(angle)], -1)


def _foot(phase, gait, reach):
    """Path of the ball of the foot about the hip, its height and the pitch of the foot (T,)."""
    stance = np.clip(phase / gait.duty, 0, 1)
    swing = np.clip((phase - gait.duty) / (1 - gait.duty), 0, 1)
    # Swing: a cubic whose ends move backward with the ground, so the foot neither jumps nor skids.
    slope = -0.75 * reach / gait.duty * (1 - gait.duty)
    s2, s3 = swing**2, swing**3
    forward = -0.5 * reach * (2 * s3 - 3 * s2 + 1) + 0.5 * reach * (3 * s2 - 2 * s3)
    forward += slope * (2 * s3 - 3 * s2 + swing)
    on_ground = phase < gait.duty
    x = np.where(on_ground, reach * (0.5 - stance), forward)
    y = np.where(on_ground, 0.0, gait.lift * np.sin(np.pi * swing**0.85) ** 1.4)
    arrive = gait.land * np.clip(1 - stance / 0.15, 0, 1)
    leave = gait.push * np.clip((stance - 0.5) / 0.5, 0, 1) ** 1.5
    ease = 0.5 - 0.5 * np.cos(np.pi * np.clip((swing - 0.1) / 0.75, 0, 1))
    pitch = np.where(on_ground, arrive + leave, gait.push + (gait.land - gait.push) * ease)
    return x, y, pitch * DEGREE


def _trunk(joints, hip, body, lean):
    """Add pelvis, chest and head to `joints`, `lean` radians forward."""
    up, nod = (_points(np.sin(a), np.cos(a)) * np.ones((len(hip), 1)) for a in (lean, 0.6 * lean))
    joints["pelvis"], joints["chest"] = hip, hip + body.torso * up
    joints["head"], joints["up"] = joints["chest"] + 0.115 * nod, nod


def _arm_by_angles(joints, side, body, shoulder, swing, elbow, scale=1.0):
    joints[f"shoulder_{side}"] = shoulder
    joints[f"elbow_{side}"] = shoulder + scale * body.upper_arm * _direction(swing)
    wrist = joints[f"elbow_{side}"] + scale * body.forearm * _direction(swing + elbow)
    joints[f"wrist_{side}"] = wrist
    joints[f"hand_{side}"] = wrist + 0.045 * _direction(swing + elbow)


def _arm_to(joints, side, body, shoulder, target):
    elbow, wrist = two_bones(shoulder, target, body.upper_arm, body.forearm, bend=-1.0)
    along = (wrist - elbow) / np.hypot(*(wrist - elbow).T)[:, None]
    joints[f"shoulder_{side}"], joints[f"elbow_{side}"] = shoulder, elbow
    joints[f"wrist_{side}"], joints[f"hand_{side}"] = wrist, wrist + 0.045 * along


def _arm_in_front(joints, side, body, shoulder, target, swing):
    """An arm held towards the viewer: the forearm looks as short as its hand is near the elbow."""
    elbow = shoulder + 0.95 * body.upper_arm * _direction(swing)
    fore = target - elbow
    fore *= np.minimum(1, body.forearm / np.hypot(*fore.T))[:, None]
    joints[f"shoulder_{side}"], joints[f"elbow_{side}"] = shoulder, elbow
    joints[f"wrist_{side}"] = elbow + fore
    joints[f"hand_{side}"] = elbow + fore * (1 + 0.045 / body.forearm)


def _leg_to(joints, side, body, hip, ankle, bend=1.0, toe=(0.105, -0.03), heel=(-0.03, -0.03)):
    knee, ankle = two_bones(hip, ankle, body.thigh, body.shank, bend)
    joints[f"hip_{side}"], joints[f"knee_{side}"], joints[f"ankle_{side}"] = hip, knee, ankle
    joints[f"toe_{side}"], joints[f"heel_{side}"] = ankle + toe, ankle + heel


def locomotion(action, rng, body, time):
    """Walk, jog or run, seen from the side.

    Parameters
    ----------
    action : str
        "walking", "jogging" or "running".
    rng : numpy.random.Generator
        Draws phase, tempo and small differences of style.
    body : Body
        Whose gait it is.
    time : ndarray, (T,) float
        Seconds.

    Returns
    -------
    joints : dict of ndarray, (T, 2) float64
        Joints by name, hips at x = 0.
    speed : float
        Body heights a second at which the ground passes.
    """
    mean = GAITS[action]
    jitter = dict(zip(GAITS["walking"].__dict__, rng.normal(1, 0.06, 13), strict=True))
    gait = Gait(**{name: value * jitter[name] for name, value in mean.__dict__.items()})
    rate = mean.rate * body.tempo * np.clip(jitter["rate"], 0.92, 1.08)
    speed = mean.speed * body.tempo * body.vigour * np.clip(jitter["speed"], 0.9, 1.1)
    duty = np.clip(gait.duty, 0.28, 0.49) if action != "walking" else np.clip(gait.duty, 0.57, 0.66)
    gait = Gait(**{**gait.__dict__, "duty": duty, "lift": gait.lift * body.vigour**1.5})
    phase = rng.uniform() + rate * time
    reach = speed * duty / rate
    lean = gait.lean * DEGREE * body.vigour
    bounce = np.cos(4 * np.pi * (phase - duty / 2))
    height = (body.thigh + body.shank) * (1 - gait.crouch) + ANKLE + gait.bob * bounce
    hip = _points(np.zeros_like(time), height)
    joints = {}
    _trunk(joints, hip, body, lean + 0.02 * bounce)
    for side, offset, depth in (("near", 0.0, 0.0), ("far", 0.5, 0.012)):
        x, y, pitch = _foot((phase + offset) % 1, gait, reach)
        ball = _points(x + 0.085 - 0.2 * lean, y + depth)
        ankle = ball + _points(-FOOT * np.cos(pitch), ANKLE + FOOT * np.sin(pitch))
        turn = np.stack([np.cos(pitch), -np.sin(pitch)], -1)
        normal = np.stack([np.sin(pitch), np.cos(pitch)], -1)
        toe, heel = 0.105 * turn - 0.022 * normal, -0.025 * turn - 0.02 * normal
        _leg_to(joints, side, body, hip + (0.0, 0.4 * depth), ankle, toe=toe, heel=heel)
        swing = -np.cos(2 * np.pi * (phase + offset + 0.04))
        upper = (gait.arm_rest + gait.arm * body.vigour * swing) * DEGREE + 0.4 * lean
        elbow = (gait.elbow + gait.elbow_swing * swing) * DEGREE
        shoulder = joints["chest"] + _points(0.018 * swing, -0.03 + depth)
        _arm_by_angles(joints, side, body, shoulder, upper, elbow)
    return joints, speed


def boxing(rng, body, time):
    """Punch from a guarded stance, seen from the side; returns joints and a speed of 0."""
    rate = rng.uniform(1.05, 1.55) * body.tempo
    phase = rng.uniform() + rate * time
    lean = rng.uniform(3, 9) * DEGREE
    stance = rng.uniform(0.10, 0.15)
    weakest = rng.choice([0.3, 1.0, 1.0, 1.0])  # some box with one arm most of the time
    strong = rng.permutation([1.0, weakest])
    bounce = rng.uniform(0.003, 0.012) * np.cos(4 * np.pi * phase)
    bumps = (np.maximum(np.sin(2 * np.pi * (phase + turn)), 0) ** 1.2 for turn in (0.0, 0.5))
    punches = [amplitude * bump for amplitude, bump in zip(strong, bumps, strict=True)]
    push = 0.025 * (punches[0] + punches[1])
    height = (body.thigh + body.shank) * rng.uniform(0.93, 0.97) + ANKLE + bounce
    hip = _points(push - 0.01, height)
    joints = {}
    _trunk(joints, hip, body, lean + 0.8 * push)
    aim = rng.uniform(-8, 14) * DEGREE
    guard = rng.uniform(0.10, 0.14), rng.uniform(-0.03, 0.05)
    for side, depth, foot, punch in zip(SIDES, (0, 0.012), (-1, 1), punches, strict=True):
        _leg_to(joints, side, body, hip, _points(foot * stance + 0 * time, ANKLE + depth))
        turn = 0.045 * (punch - 0.5)
        shoulder = joints["chest"] + _points(turn, -0.03 + depth)
        straight = 0.985 * (body.upper_arm + body.forearm)
        reach = np.array([straight * np.cos(aim), straight * np.sin(aim)])
        start = np.array([guard[0] + 0.02 * foot, guard[1]])
        target = shoulder + start + punch[:, None] * (reach - start)
        _arm_to(joints, side, body, shoulder, target)
    return joints, 0.0


def frontal(action, rng, body, time):
    """Wave or clap both hands, seen from the front; returns joints and a speed of 0."""
    joints = {}
    sway = rng.uniform(0.002, 0.010) * np.sin(2 * np.pi * (0.5 * time + rng.uniform()))
    height = 0.99 * (body.thigh + body.shank) + ANKLE
    hip = _points(sway, height + 0 * time)
    _trunk(joints, hip, body, sway)
    stance = rng.uniform(0.08, 0.14)
    waving = action == "handwaving"
    rate = (rng.uniform(0.62, 0.92) if waving else rng.uniform(1.1, 1.8)) * body.tempo
    phase = rng.uniform() + rate * time
    low, high = rng.uniform(18, 50) * DEGREE, rng.uniform(138, 172) * DEGREE
    elbow = rng.uniform(6, 32) * DEGREE
    narrow, wide = rng.uniform(0.012, 0.022), rng.uniform(0.22, 0.36) * body.vigour
    level, dip = rng.uniform(-0.15, -0.03), rng.uniform(-0.05, 0.05)
    tuck, spread = rng.uniform(8, 24) * DEGREE, rng.uniform(14, 38) * DEGREE
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        mirror = np.array([sign, 1.0])
        root = hip * mirror + (0.052 * body.girth, 0.0)
        ankle = _points(stance + 0 * time, ANKLE)
        leg = {}
        _leg_to(leg, side, body, root, ankle, 0.3, toe=(0.018, -0.045), heel=(0.0, -0.012))
        own = phase + rng.normal(0, 0.015)
        opening = 0.5 - 0.5 * np.cos(2 * np.pi * own)
        shoulder = joints["chest"] * mirror + (body.shoulders - 0.022, -0.04)
        if waving:
            angle = low + (high - low) * opening
            shoulder = shoulder + _points(-0.012 * opening, 0.035 * opening)
            bend = elbow * (1 - 0.6 * np.sin(2 * np.pi * own))
            _arm_by_angles(leg, side, body, shoulder, angle, bend, scale=0.98)
        else:
            gap = narrow + (wide - narrow) * opening**0.8
            target = _points(gap, joints["chest"][:, 1] + level + dip * opening)
            _arm_in_front(leg, side, body, shoulder, target, tuck + spread * opening)
        joints.update({name: point * mirror for name, point in leg.items()})
    return joints, 0.0


def hang(joints, limb, body):
    """Let the arms or the legs of a performance hang straight down from where they are held."""
    for side in SIDES:
        if limb == "arms":
            down = joints[f"shoulder_{side}"]
            lengths = {"elbow": body.upper_arm, "wrist": body.forearm, "hand": 0.045}
        else:
            down = joints[f"hip_{side}"]
            lengths = {"knee": body.thigh, "ankle": body.shank}
            foot = {
                end: joints[f"{end}_{side}"] - joints[f"ankle_{side}"] for end in ("toe", "heel")
            }
        for joint, length in lengths.items():
            down = down - (0.0, length)
            joints[f"{joint}_{side}"] = down
        if limb == "legs":
            for end, way in foot.items():
                joints[f"{end}_{side}"] = down + np.median(way, axis=0)


def perform(action, rng, body, time):
    """Return joints (dict of (T, 2) float64), speed (heights a second) and view of an action."""
    if action in GAITS:
        return *locomotion(action, rng, body, time), "side"
    if action == "boxing":
        return *boxing(rng, body, time), "side"
    return *frontal(action, rng, body, time), "front"
