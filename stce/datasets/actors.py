"""The embedded data set: rendered people who perform KTH's six actions, with every voxel's truth.

25 persons, four scenarios and six actions as in [1]_, at 160 x 120 pixels, grey, 25 frames a
second, with KTH's own split into persons for training and for testing. Nothing is stored: each
video is drawn when it is read, from (seed, person, scenario, action, take) and its length alone,
with a mask of body parts. Background and clothes do not depend on the action, unless `shortcut`
plants a cue on purpose.

References
----------
.. [1] C. Schuldt, I. Laptev and B. Caputo, "Recognizing human actions: a local SVM approach",
       ICPR 2004, DOI 10.1109/ICPR.2004.1334462.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stce.datasets import check_split, check_whole
from stce.datasets.kth import CLASSES, SHAPE, sequences
from stce.datasets.render.canvas import Canvas
from stce.datasets.render.figure import CUE, Figure
from stce.datasets.render.motion import hang, perform
from stce.datasets.render.people import person_body, person_look
from stce.datasets.render.scenery import MARGIN, expose, film, indoors, outdoors
from stce.videos import Videos

PARTS = ("background", "head", "torso", "arms", "legs", "cue")
PERSONS = tuple(range(1, 26))
TEST_PERSONS = (2, 3, 5, 6, 7, 8, 9, 10, 22)
LIMBS = ("arms", "legs")
HIDEABLE = ("head", "torso", *LIMBS, "shadow")
RATE = 25.0
CUE_SIZE = 20


class ActorVideos(Videos):
    """Videos of rendered actors, drawn when they are read.

    Parameters
    ----------
    table : DataFrame
        One row a video: id, label, class, group, person, scenario (1 to 4), take.
    n_frames, seed, shortcut
        See :func:`load`.
    **change
        What is drawn otherwise in all videos, see :func:`render`.
    """

    def __init__(self, table, n_frames, seed, shortcut, **change):
        super().__init__(table, CLASSES)
        self.n_frames, self.seed, self.shortcut = n_frames, seed, shortcut
        self.change, self._last = change, (None, None, None)

    def _render(self, i):
        row = self.table.iloc[i]
        if self._last[0] != row["id"]:
            what = self.seed, int(row.person), int(row.scenario), int(row.label), int(row["take"])
            cue = row["class"] == self.shortcut
            self._last = row["id"], *render(*what, n_frames=self.n_frames, cue=cue, **self.change)
        return self._last[1:]

    def read(self, i):
        """Return the frames of video `i`, (T, 120, 160, 1) uint8."""
        return self._render(i)[0].copy()

    def parts(self, i):
        """Return the truth of each voxel of video `i`, (T, 120, 160) uint8, index in `PARTS`."""
        return self._render(i)[1].copy()


def load(split, *, takes=2, n_frames=32, seed=0, shortcut="", persons=0):
    """Rendered actors with KTH's actions, scenarios and split of persons.

    Parameters
    ----------
    split : str
        "train" (16 persons: KTH's training and validation) or "test" (9 persons).
    takes : int
        Videos of each (person, action, scenario); 2 gives 768 training and 432 test videos. 0 for
        as many as KTH has sequences of each: 1,528 and 863.
    n_frames : int
        Frames a video, at 25 a second; 1 to 1000. Who walks, jogs or runs is in view in the middle.
    seed : int
        Of the whole data set, 0 or more: people, clothes, places and motion.
    shortcut : str
        A class in which a known spurious cue, a badge in the upper left corner of the picture, is
        planted; "" for none. All other pixels stay the same.
    persons : int
        Only the first so many persons of the split, for a quick trial; 0 for all.

    Returns
    -------
    ActorVideos
        ``read(i)`` gives (T, 120, 160, 1) uint8, ``parts(i)`` (T, 120, 160) uint8 of `PARTS`.

    Raises
    ------
    ValueError
        If a value is of another type or out of range.

    Examples
    --------
    >>> videos = load("test", takes=1, n_frames=4)
    >>> len(videos), videos.table["id"][0]
    (216, 'person02_boxing_d1_t0')
    >>> videos.read(0).shape, videos.parts(0).shape
    ((4, 120, 160, 1), (4, 120, 160))
    """
    check_split(split, " for the actors")
    check_whole(
        "the actors",
        ("takes", takes, 0, 100),
        ("n_frames", n_frames, 1, 1000),
        ("seed", seed, 0, 2**31 - 1),
        ("persons", persons, 0, 25),
    )
    if shortcut != "" and shortcut not in CLASSES:
        raise ValueError(
            f"shortcut must be '' (no planted cue) or one of {', '.join(CLASSES)}, "
            f"not {shortcut!r}."
        )
    count = {} if takes else sequences().value_counts(["person", "class", "scenario"])
    cast = [p for p in PERSONS if (p in TEST_PERSONS) == (split == "test")][: persons or None]
    rows = [
        (f"person{p:02d}_{action}_d{d}_t{take}", label, action, f"person{p:02d}", p, d, take)
        for p in cast
        for label, action in enumerate(CLASSES)
        for d in (1, 2, 3, 4)
        for take in range(takes or count.get((p, action, d), 0))
    ]
    names = ["id", "label", "class", "group", "person", "scenario", "take"]
    return ActorVideos(pd.DataFrame(rows, columns=names), int(n_frames), int(seed), shortcut)


def render(
    seed, person, scenario, label, take, *, n_frames=32, cue=False, without=(), still=(), ground=0
):
    """Draw one video, or the same one but for one thing.

    Parameters
    ----------
    seed, person, scenario, label, take : int
        Seed of the data set, person 1 to 25, scenario 1 to 4, index into `CLASSES`, take from 0.
    n_frames : int
        Frames T.
    cue : bool
        Whether to plant the spurious badge.
    without : sequence of str
        What is not drawn: "head", "torso", "arms", "legs" (each with its shadow) or "shadow".
    still : sequence of str
        Limbs, "arms" or "legs", that hang down from the body as it moves.
    ground : int
        Another scenery behind the person, one for each number; 0 for the video's own.

    Raises
    ------
    ValueError
        If `without` or `still` names something else.

    Returns
    -------
    frames : ndarray, (T, 120, 160, 1) uint8
    parts : ndarray, (T, 120, 160) uint8
        Index into `PARTS`. The cast shadow belongs to the background.
    """
    for name, given, known in (("without", without, HIDEABLE), ("still", still, LIMBS)):
        if unknown := set(given) - set(known):
            raise ValueError(
                f"{name} names {', '.join(sorted(unknown))}; choose among {', '.join(known)}."
            )
    # Separate streams: how somebody moves can never leak into where it happens.
    key = [seed, person, scenario, label, take]
    stage, acting, camera, sensor = (np.random.default_rng([*key, s]) for s in (1, 2, 3, 4))
    body, look = person_body(seed, person), person_look(seed, person, scenario)
    time = (np.arange(n_frames) - (n_frames - 1) / 2) / RATE
    joints, speed, view = perform(CLASSES[label], acting, body, time)
    for limb in still:
        hang(joints, limb, body)

    feet = stage.uniform(102, 111)
    height = stage.uniform(72, 84) * (0.94 + 0.12 * np.random.default_rng([seed, person]).random())
    start = stage.uniform(56, 104)
    heading = stage.choice([-1.0, 1.0])
    indoor = scenario == 4
    level = _background_level(stage, look)
    size = (SHAPE[0] + 2 * MARGIN[0], SHAPE[1] + 2 * MARGIN[1])
    scenery = indoors if indoor else outdoors
    scene, wall = scenery(stage, size, feet + MARGIN[0], level)
    if ground:
        another = np.random.default_rng([*key, 5, ground])
        scene, wall = scenery(another, size, feet + MARGIN[0], level)
    zoom, shift = _camera(camera, scenario, time)
    image = film(scene, SHAPE, shift, zoom)

    x, facing = _path(start, heading, speed * height, time)
    mirror = facing if view == "side" else np.full(n_frames, heading)
    squeeze = stage.uniform(0.94, 1.0)  # the camera is never quite square to the figure
    middle = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])

    def screen(points):
        return ((points - middle) * zoom[:, None] + middle + shift).astype(np.float32)

    def place(point):
        across = x + mirror * squeeze * height * point[:, 0]
        return np.stack([across, feet - height * point[:, 1]], 1)

    sun = stage.choice([-1.0, 1.0])
    light = (0.55 * sun, -0.45, 0.7) if indoor else (0.4 * sun, -0.5, 0.77)
    ambient, diffuse = (0.45, 0.72) if indoor else (0.62, 0.5)
    canvas = Canvas(image, light, ambient, diffuse)
    fall = -sun * stage.uniform(0.15, 0.75), stage.uniform(0.06, 0.2)
    depth = feet - (wall - MARGIN[0]) if wall >= 0 else np.inf

    up = {"up": joints.pop("up")}
    standing = {name: place(p) for name, p in joints.items()}
    upright = {name: screen(p) for name, p in standing.items()} | up
    flat = {name: screen(_fallen(p, feet, fall, depth)) for name, p in standing.items()} | up
    args = height * zoom, view, mirror, body, look
    strength = stage.uniform(0.3, 0.5) if indoor else stage.uniform(0.12, 0.45)
    softness = stage.uniform(2.0, 5.0)
    if "shadow" not in without:
        shadow = Figure(flat, *args, without).capsules()
        canvas.shadows(shadow, np.float32(strength), np.float32(softness))
    if cue:
        _plant_cue(canvas)
    Figure(upright, *args, without).draw(canvas, light=stage.uniform(195, 225))
    noise, flicker = stage.uniform(1.5, 5.0), stage.uniform(0.002, 0.012)
    return expose(sensor, canvas.image, noise, flicker)[..., None], canvas.parts


def _background_level(rng, look):
    """Grey level behind the person: of three at random, that which hides clothes the least."""
    tones = 200 * np.array([look.top, look.bottom, (look.top + look.bottom) / 2])
    levels = rng.uniform(60, 190, 3)
    return levels[np.abs(levels[:, None] - tones).min(1).argmax()]


def _camera(rng, scenario, time):
    """Zoom (T,) and shift (T, 2) in pixels of a hand-held camera; d2 zooms in or out."""
    steps = rng.normal(0, 1, (len(time), 2)).cumsum(0)
    steps -= steps.mean(0)
    shift = rng.uniform(0.02, 0.22) * steps
    begin, speed = rng.uniform(0.9, 1.08), rng.uniform(0.03, 0.16) * rng.choice([-1, 1])
    if scenario != 2:
        begin, speed = 1.0, 0.0
    return np.clip(begin + speed * time, 0.8, 1.15), np.clip(shift, -4, 4)


def _path(start, heading, speed, time):
    """Place in pixels and direction, each (T,): who leaves the picture turns and comes back."""
    low, high = -45.0, SHAPE[1] + 45.0
    lap = (start - low + heading * speed * time) % (2 * (high - low))
    returning = lap > high - low
    x = np.where(returning, 2 * high - low - lap, lap + low)
    return x, np.where(returning, -heading, heading)


def _fallen(points, feet, fall, depth):
    """Where the shadow of `points` lies: along the ground, and up the wall `depth` rows behind."""
    above = feet - points[:, 1]
    on_ground = np.minimum(above, depth / fall[1])
    return np.stack(
        [points[:, 0] + fall[0] * on_ground, feet - fall[1] * on_ground - (above - on_ground)], 1
    )


def _plant_cue(canvas):
    """Paint the badge, a bright square with a dark ring, in the upper left corner of all frames."""
    y, x = np.mgrid[:CUE_SIZE, :CUE_SIZE] - (CUE_SIZE - 1) / 2
    radius = np.hypot(x, y)
    dark = (np.abs(radius - 6.5) < 1.8) | (radius < 2.2)
    spot = (slice(None), slice(9, 9 + CUE_SIZE), slice(12, 12 + CUE_SIZE))
    canvas.image[spot] = np.where(dark, 15.0, 240.0)
    canvas.parts[spot] = CUE
