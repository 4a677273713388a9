"""Worlds in which motion alone, or look alone, tells the classes: ``-m book.campaigns motion``.

In every clip two hands turn about their pivots, one moves and one stands, and a badge stands beside
them. The angle of a hand is uniform in every frame, whatever it does, so that no single frame says
how it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from book.campaigns import worlds
from stce import ablation, supervoxels, training
from stce.clips import Clips, balanced, middle_clips
from stce.datasets.render.canvas import Canvas
from stce.evaluation import truth
from stce.evaluation.effects import motion
from stce.videos import Videos

PARTS = ("background", "moving hand", "standing hand", "badge")
MOTIONS = ("clockwise", "counter-clockwise")
LOOKS = ("light core", "dark core")  # of the same mean
# What tells the classes of each world, of which part, and whether by its motion or by its look.
WORLDS: dict[str, tuple[tuple[str, str], ...]] = {
    "motion of a hand": (("moving hand", "motion"),),
    "look of a badge": (("badge", "look"),),
    "look of a hand that moves": (("moving hand", "look"),),
    "look of a hand that stands": (("standing hand", "look"),),
    "motion of a hand, look of a badge": (("moving hand", "motion"), ("badge", "look")),
    "motion and look of a hand": (("moving hand", "motion"), ("moving hand", "look")),
}
N_TRAIN, N_TEST = 120, 24


class Turning(Videos):
    """Clips of one world, drawn in memory, with the part of each voxel.

    Parameters
    ----------
    world : str
        One of `WORLDS`.
    n, seed : int
        Clips a class, and their seed.
    """

    def __init__(self, world: str, n: int, seed: int):
        carriers, rng = WORLDS[world], np.random.default_rng([seed, list(WORLDS).index(world)])
        told = [MOTIONS if how == "motion" else LOOKS for _, how in carriers]
        kinds = list(product(*(range(len(names)) for names in told)))
        classes = tuple(
            " and ".join(names[i] for names, i in zip(told, kind, strict=True)) for kind in kinds
        )
        labels = np.repeat(np.arange(len(classes)), n)
        ids = [f"{world}, {classes[y]} {i}" for i, y in enumerate(labels)]
        table = pd.DataFrame({"id": ids, "label": labels, "class": np.take(classes, labels)})
        super().__init__(table.assign(group=ids), classes)
        self._drawn = [draw(dict(zip(carriers, kinds[y], strict=True)), rng) for y in labels]

    def read(self, i):
        """Return the frames of clip `i`, ``(8, 40, 40, 1) uint8``."""
        return self._drawn[i][0]

    def parts(self, i):
        """Return the part of each voxel of clip `i`, index in `PARTS`."""
        return self._drawn[i][1]


def draw(
    label: Mapping[tuple[str, str], int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one clip: frames ``(T, H, W, 1)`` and parts ``(T, H, W)``, both uint8.

    Of the parts that tell the class, `label` says which motion or look each has.
    """
    n_frames, *size = worlds.SIZE
    coarse = rng.uniform(90, 160, (6, 6))
    rows, columns = (np.linspace(0, 5, n).round().astype(int) for n in size)
    image = np.repeat(coarse[rows][:, columns][None], n_frames, 0).astype(np.float32)
    canvas = Canvas(image, light=(0, 0, 1), ambient=1.0, diffuse=0.0)
    places = {"moving hand": (13, 16), "standing hand": (29, 26), "badge": (31, 8)}
    for part, (x, y) in places.items():
        # What does not tell the class is drawn by chance.
        way, look = (label.get((part, how), rng.integers(2)) for how in ("motion", "look"))
        speed = rng.uniform(0.25, 0.45) * (1 - 2 * way) * (part == "moving hand")
        angle = rng.uniform(0, 2 * np.pi) + speed * np.arange(n_frames)
        along = np.stack([np.cos(angle), np.sin(angle)], 1)
        root = np.array([x, y]) + 0 * along
        length = 3 if part == "badge" else 11
        for share, tone in ((1.0, 235), (0.55, 15)):
            radius = np.full(n_frames, (4.0 if part == "badge" else 3.2) * share, np.float32)
            ends = (end.astype(np.float32) for end in (root, root + length * along))
            shade = float(tone if look else 250 - tone)
            canvas.limb(*ends, radius, radius, shade, PARTS.index(part), halo=False)
    noisy = canvas.image + rng.normal(0, 3, canvas.image.shape)
    return noisy.clip(0, 255).astype(np.uint8)[..., None], canvas.parts


def shuffled(clips: Clips, rng: np.random.Generator) -> Clips:
    """Return clips with the frames of each in an order drawn by chance."""
    frames = np.stack([one[rng.permutation(len(one))] for one in np.asarray(clips.frames)])
    return Clips(frames, clips.labels, clips.ids, clips.groups, clips.classes)


def assessed(seed: int, chosen: Sequence[str] = tuple(WORLDS)) -> list[dict]:
    """Train a network on each world, and ask of its concepts whether they are motion or look.

    Returns
    -------
    list of dict
        One row a world, class and concept: the columns of the `Assessment` but its intervals,
        ``accuracy`` and ``accuracy_shuffled`` (frames in any order) of the network, and for each
        part whether the concept holds more of it than any place would.
    """
    rows = []
    for world in chosen:
        videos, unseen = Turning(world, N_TRAIN, 2 * seed), Turning(world, N_TEST, 2 * seed + 1)
        net = worlds.network(videos, seed)
        size = worlds.SIZE[0], worlds.SIZE[1:]
        labels = videos.table["label"].to_numpy()
        few = balanced(labels, videos.classes, worlds.N_DISCOVERY, np.random.default_rng(seed))
        run = worlds.explain(net, middle_clips(videos, None, *size, few), worlds._random(seed))
        test = middle_clips(unseen, None, *size)
        mixed = shuffled(test, np.random.default_rng(seed))
        known = {
            "accuracy": training.evaluate(net, test)["correct"].mean(),
            "accuracy_shuffled": training.evaluate(net, mixed)["correct"].mean(),
        }
        cut = supervoxels.segment(test, progress=False, **worlds.SLIC)
        rankings = {name: run.result.ranking(name) for name in videos.classes}
        subject = ablation.Subject(net, test, cut, run.samples.concepts, rankings, stretch=False)
        table = motion.assess(subject, seed=seed, progress=False).concepts
        table = table.loc[:, ~table.columns.str.contains("_low|_high")]
        held = truth.counts(run.samples.concepts, run.cut, run.clips.parts, PARTS)
        held = truth.composition(held, seed=seed)
        held = held.assign(holds=held["ci_low"] > 1).pivot(
            index=["class", "concept"], columns="part", values="holds"
        )
        table = table.join(held[list(PARTS[1:])], on=["class", "concept"])
        rows += table.assign(world=world, **known).round(4).to_dict("records")
    return rows


TRIALS: dict[str, Callable[[int], list[dict]]] = {"motion": assessed}
