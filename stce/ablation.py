"""Does the ranking matter? Concepts added to and removed from test clips (paper 4.2).

One engine shows and hides the voxels of clips in any :class:`Order`: that of the ranking, orders of
chance that show as much as it does, or saliency maps (:mod:`stce.evaluation.saliency`).
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from stce import concepts as concepts_module
from stce import features as features_module
from stce.clips import Clips
from stce.concepts import Concepts
from stce.engine.device import resolve, typed
from stce.engine.progress import bar
from stce.engine.storage import write_table
from stce.engine.threads import prepared
from stce.engine.workers import spread
from stce.masking import FILLS, filling, precision, predict, reached, voxel_order
from stce.supervoxels import Supervoxels

# Orders by chance that show as many voxels at each step as the order "top".
MATCHED = ("random voxels", "random supervoxels")


@dataclass(frozen=True, eq=False)
class Subject:
    """What is ablated: a network's answers to test clips, and the concepts that explain them.

    Attributes
    ----------
    network, clips, supervoxels : Network, Clips and Supervoxels
        The network to explain, N test clips, and theirs.
    concepts, rankings : stce.concepts.Concepts and dict of str to list of int
        Centres of each class, and its concepts, most important first. Test clips of classes without
        a ranking are left out.
    assign : {"true", "predicted"}, default "true"
        Whose concepts a clip is explained with: those of its label (the paper) or those of the
        class that the network predicts, which needs no label; its own where that has none.
    stretch : bool, default True
        How supervoxels are embedded, see :func:`stce.features.batches`; as for the centres.
    features : numpy.ndarray, optional
        ``(S, D)``, of all supervoxels of the test clips, where they are embedded already or in
        another way, or once for several calls; `stretch` is then without effect.
    region : array_like, optional
        ``(N, T, H, W) bool``, voxels of interest, as of :func:`stce.evaluation.truth.region`.
    batch_size, device : int, default 64, and torch.device, default "cpu"
        Masked clips or supervoxels a forward pass, and where it runs.
    amp : bool, default False
        Show masked clips in bfloat16 where that is faster, see :func:`stce.masking.precision`.
        Probabilities move by hundredths, and what is undecided may be named otherwise.

    Raises
    ------
    ValueError
        If `assign` is unknown, `features` are not of these supervoxels, or the clips' classes are
        not the network's.
    """

    network: object
    clips: Clips
    supervoxels: Supervoxels
    concepts: Concepts
    rankings: dict[str, list[int]]
    _: KW_ONLY
    assign: str = "true"
    stretch: bool = True
    features: np.ndarray | None = None
    region: np.ndarray | None = None
    batch_size: int = 64
    device: torch.device | str = "cpu"
    amp: bool = False

    def __post_init__(self):
        object.__setattr__(self, "device", resolve(self.device))
        self.network.check_classes(self.clips.classes)
        z, region, voxels = self.features, self.region, self.clips.frames.shape[:4]
        if z is not None and (np.ndim(z) != 2 or len(z) != len(self.supervoxels)):
            raise ValueError(
                f"features is {np.shape(z)} for {len(self.supervoxels)} supervoxels; embed the "
                "supervoxels of these test clips."
            )
        if region is not None and np.shape(region) != voxels:
            raise ValueError(f"region must be {voxels}, as the clips are, not {np.shape(region)}.")
        if self.assign not in ("true", "predicted"):
            raise ValueError(f"assign is {self.assign!r}; choose 'true' or 'predicted'.")

    def case(self, video: int) -> Case:
        """Prepare one test clip, of a class with a ranking, and explain it (equation 4)."""
        network, clips = self.network.to(self.device).eval(), self.clips
        owner = clips.classes[clips.labels[video]]
        with torch.inference_mode():
            clip = prepared(network, np.asarray(clips.frames[video])[None], self.device)
            if self.assign == "predicted":
                predicted = clips.classes[int(network(clip).argmax())]
                owner = predicted if predicted in self.rankings else owner
        rows = self.supervoxels.rows_of(video)
        if self.features is None:
            how = {"stretch": self.stretch, "batch_size": self.batch_size, "device": self.device}
            z = features_module.extract_rows(network, clips, self.supervoxels, rows, **how)
        else:
            z = self.features[rows]
        concept = concepts_module.assign(z, self.concepts.centres[owner])
        labels = np.asarray(self.supervoxels.labels[video])
        return Case(self, video, owner, clip, labels, self.supervoxels.table.iloc[rows], concept)


Subject.__init__ = typed(Subject.__init__)


@dataclass(frozen=True, eq=False)
class Case:
    """One test clip, with the concepts that explain it.

    Attributes
    ----------
    subject, video, owner : Subject, int and str
        What it belongs to, the index of the clip, and the class whose concepts explain it.
    clip : torch.Tensor
        ``(1, C, T, H, W) float32``, prepared.
    labels, table : numpy.ndarray and pandas.DataFrame
        Its label volumes ``(L, T, H, W)``, and its ``s`` kept supervoxels.
    concept : numpy.ndarray
        ``(s,) int64``, the concept of each supervoxel.
    """

    subject: Subject
    video: int
    owner: str
    clip: torch.Tensor
    labels: np.ndarray
    table: pd.DataFrame
    concept: np.ndarray

    def order(self, name: str, repeat: int, sequence: Sequence[int]) -> Order:
        """Return the order that shows the concepts of a sequence one by one.

        With q of them it chooses the union of their supervoxels, which may be none.
        """
        concept, never = self.concept.tolist(), len(sequence)
        at = {c: q for q, c in enumerate(sequence)}
        step = np.array([at.get(c, never) for c in concept], np.int32)
        place = reached(self.labels, self.table, step, never)
        sets = [frozenset(concept).intersection(sequence[:q]) for q in range(never + 1)]
        return Order(name, repeat, place, range(never + 1), sets)

    def areas(self, q_max: int) -> list[int]:
        """Return how many voxels the most important concepts choose at each step, q = 0 first."""
        top = self.order("top", 0, self.subject.rankings[self.owner][:q_max])
        return [int(mask.sum()) for mask in top.masks("add")]


@dataclass(frozen=True, eq=False)
class Order:
    """An order in which voxels of one clip are added to a blank clip, or removed from the whole.

    Attributes
    ----------
    name, repeat : str and int
        Such as "top", and which draw it is of a random order; 0 for others.
    place, steps : numpy.ndarray and sequence of int
        ``(T, H, W) int``, when each voxel's turn comes: step q chooses those below ``steps[q]``.
    sets : sequence of hashable, optional
        A name for what each step chooses: steps of the same name, in any of a clip's orders, are
        shown to the network once. Default: each step is its own, but one of 0 chooses nothing.
    """

    name: str
    repeat: int
    place: np.ndarray
    steps: Sequence[int]
    sets: Sequence[Hashable] | None = None

    def masks(self, mode: str) -> list[np.ndarray]:
        """Return the visible voxels of each step, ``(T, H, W) bool`` (equation 5, Figures 3, 4).

        When adding (`mode` is "add") they are what is chosen, when removing ("remove") the rest.
        """
        return [(self.place < step) ^ (mode == "remove") for step in self.steps]


def concept_orders(
    class_name: str, ranking: list[int], n_random: int, seed: int
) -> list[tuple[str, int, list[int]]]:
    """List name ("top", "least" or "random"), repeat and concepts of each order of a class.

    Of `ranking`, its concepts, the most important come first, or the least, or chance decides,
    `n_random` times: by the class's name and `seed` alone, whatever the other classes are.

    Examples
    --------
    >>> [o[::2] for o in concept_orders("wave", [2, 0, 1], 0, 0)]
    [('top', [2, 0, 1]), ('least', [1, 0, 2])]
    """
    rng = np.random.default_rng([seed, zlib.crc32(class_name.encode())])
    random = [("random", repeat, rng.permutation(ranking).tolist()) for repeat in range(n_random)]
    return [("top", 0, list(ranking)), ("least", 0, list(reversed(ranking))), *random]


@typed
def ranked(n_random: int = 10, seed: int = 0) -> Callable[[Case, int], list[Order]]:
    """Give :func:`run` the orders of the ranking, as :func:`concept_orders` lists them."""

    def orders(case: Case, q_max: int) -> list[Order]:
        ranking = case.subject.rankings[case.owner]
        listed = concept_orders(case.owner, ranking, n_random, seed)
        return [case.order(name, repeat, order[:q_max]) for name, repeat, order in listed]

    return orders


@typed
def matched(n_repeats: int = 10, seed: int = 0) -> Callable[[Case, int], list[Order]]:
    """Give :func:`run` orders by chance that show as much of a clip as the ranking does.

    A curve can rise because more is seen, not because what is seen matters. At each step "random
    voxels" and "random supervoxels" show exactly as many voxels as the most important concepts.
    Supervoxels are drawn from all kept ones with equal chances; the last is cut to the area. There
    are `n_repeats` draws of each, by the clip's id and `seed` alone, whatever other clips are run.
    """

    def orders(case: Case, q_max: int) -> list[Order]:
        name = str(case.subject.clips.ids[case.video])
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        shape, areas, listed = case.labels.shape[1:], case.areas(q_max), []
        for repeat in range(n_repeats):
            voxels = np.argsort(rng.permutation(int(np.prod(shape)))).astype(np.int32)
            pieces = voxel_order(case.labels, case.table, rng.permutation(len(case.table)))
            for order, place in zip(MATCHED, (voxels.reshape(shape), pieces), strict=True):
                listed.append(Order(order, repeat, place, areas))
        return listed

    return orders


@typed
def run(
    subject: Subject,
    *orders: Callable[[Case, int], list[Order]],
    q_max: int = 5,
    fill: str = "mean",
    seed: int = 0,
    videos: np.ndarray | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Iterator[pd.DataFrame]:
    """Add voxels to a blank video and remove them from the clip in some orders, clip by clip.

    Every test supervoxel goes to the nearest concept centre (equation 4). With q concepts the
    clip shows the union of their supervoxels (adding, equation 5) or all but it (removing); hidden
    voxels hold the data set's mean (`fill`). Supervoxels are embedded and forgotten clip by clip,
    and a set of concepts that several orders reach is shown to the network once. A concept that
    the clip lacks uses up its step.

    Parameters
    ----------
    subject : Subject
        What is ablated.
    *orders : callable
        Each gives orders of a clip, for its :class:`Case` and `q_max`: of :func:`ranked`,
        :func:`matched` or :func:`stce.evaluation.saliency.along`. One does not change what the
        network answers to another.
    q_max : int, default 5
        Concepts added or removed, one by one.
    fill : {"mean", "blur", "noise"}, default "mean"
        What hidden voxels hold, see :func:`stce.masking.filling`; the paper's blank video has the
        mean. A blurred clip is not blank: its accuracy at q = 0 says what the blur leaves.
    seed, videos : int, default 0, and numpy.ndarray, optional
        Seeds the noise; indices of the clips to run, default all.
    folder, progress : path, optional, and bool, default True
        Keep the outcomes of each clip there; clips already there, from a run that was stopped,
        are read instead of run again. Show a bar on a terminal.

    Yields
    ------
    pandas.DataFrame
        Outcomes of one clip, one row a (mode, order, repeat, q): ``video``, ``id``, ``class``,
        ``mode``, ``order``, ``repeat``, ``q``, ``predicted``, ``correct``, ``probability`` (of the
        true class), ``revealed`` (visible share of voxels) and, with a region, ``held`` (of its
        voxels; NaN where the clip has none). Rows with q = 0 hold the intact clip ("remove") and
        the blank one ("add").

    Raises
    ------
    ValueError
        If `fill` is unknown, or `q_max` exceeds the concepts of a class.
    """
    if fill not in FILLS:
        raise ValueError(f"fill is {fill!r}; choose one of {', '.join(FILLS)}.")
    for name, ranking in subject.rankings.items():
        if q_max > len(ranking):
            raise ValueError(
                f"q_max is {q_max}, but class {name!r} has {len(ranking)} concepts. "
                "Lower q_max or raise n_concepts."
            )
    clips, videos = subject.clips, range(len(subject.clips)) if videos is None else videos
    videos = [int(n) for n in videos if clips.classes[clips.labels[n]] in subject.rankings]
    used = precision(subject.amp, subject.device)  # by all workers of a cluster, whatever they are
    subject = replace(subject, amp=used == "bfloat16")
    kept = {n: Path(folder) / f"{n:06d}-{used}.parquet" for n in videos if folder is not None}
    todo = [n for n in videos if n not in kept or not kept[n].exists()]

    def answer(n: int) -> pd.DataFrame:
        case = subject.case(n)
        hidden = filling(case.clip, fill, seed, n)
        given = [made for each in orders if (made := each(case, q_max))]
        return pd.concat([_outcomes(case, made, hidden) for made in given], ignore_index=True)

    waiting, shared = set(todo), spread(answer)
    new = Parallel(return_as="generator")(delayed(operator.call)(shared, n) for n in todo)
    for n in bar(videos, show=progress, desc="ablate", unit="clip"):
        table = next(new) if n in waiting else pd.read_parquet(kept[n])
        if n in waiting and n in kept:
            kept[n].parent.mkdir(parents=True, exist_ok=True)
            write_table(kept[n], table)
        yield table


def _outcomes(case: Case, orders: list[Order], fill: torch.Tensor | None) -> pd.DataFrame:
    """Show a clip's orders to the network: the table of the clip."""
    subject, n, device = case.subject, case.video, case.clip.device
    steps, wanted = [], {}
    for mode in ("add", "remove"):
        for i, order in enumerate(orders):
            sets = order.sets or [(i, before) if before else () for before in order.steps]
            for q, before in enumerate(order.steps):
                steps.append(((mode, sets[q]), mode, order.name, order.repeat, q))
                wanted.setdefault((mode, sets[q]), (mode, i, before))
    places = torch.from_numpy(np.stack([order.place for order in orders])).to(device)
    region = None
    if subject.region is not None:
        region = torch.from_numpy(np.asarray(subject.region[n]).astype(bool)).to(device)
    how = {"fill": fill, "region": region, "batch_size": subject.batch_size, "amp": subject.amp}
    told = predict(subject.network, case.clip, places, list(wanted.values()), **how)
    answers = dict(zip(wanted, told, strict=True))
    label, classes = int(subject.clips.labels[n]), subject.clips.classes
    clip, rows = (n, str(subject.clips.ids[n]), classes[label]), []
    for key, *step in steps:
        probability, *shares = answers[key]
        guess = int(probability.argmax())
        seen = classes[guess], guess == label, probability[label], *shares
        rows.append((*clip, *step, *seen))
    columns = ["video", "id", "class", "mode", "order", "repeat", "q", "predicted", "correct"]
    columns += ["probability", "revealed", "held"]
    return pd.DataFrame(rows, columns=columns[: len(rows[0])])
