"""Does the ranking matter? Concepts added to and removed from test clips (paper 4.2)."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stce import concepts as concepts_module
from stce import features as features_module
from stce.masking import check, each_clip, explained, filling, outcomes, predict, voxels

__all__ = ["Case", "case", "clip_bits", "concept_bits", "orders", "run", "visible"]

MODES = ("add", "remove")


def orders(
    ranking: list[int], n_random: int, rng: np.random.Generator
) -> list[tuple[str, int, list[int]]]:
    """List the orders in which the concepts of a class are added or removed.

    Parameters
    ----------
    ranking : list of int
        Concepts, most important first.
    n_random : int
        Random permutations.
    rng : numpy.random.Generator
        Source of the permutations.

    Returns
    -------
    list of (str, int, list of int)
        Order name ("top", "least" or "random"), repeat, concepts.

    Examples
    --------
    >>> [o[::2] for o in orders([2, 0, 1], 0, np.random.default_rng(0))]
    [('top', [2, 0, 1]), ('least', [1, 0, 2])]
    """
    listed = [("top", 0, list(ranking)), ("least", 0, list(reversed(ranking)))]
    for repeat in range(n_random):
        listed.append(("random", repeat, rng.permutation(ranking).tolist()))
    return listed


def concept_bits(labels: np.ndarray, table: pd.DataFrame, concept: np.ndarray) -> np.ndarray:
    """Write into each voxel which concepts cover it.

    The union of any set of concepts (M in equation 5) is then one bitwise test.

    Parameters
    ----------
    labels : numpy.ndarray
        ``(L, T, H, W)``, label volumes of one clip.
    table : pandas.DataFrame
        ``s`` kept supervoxels of this clip, with ``level`` and ``label``.
    concept : numpy.ndarray
        ``(s,)``, the concept of each, 0 to 62.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W) int64``; bit c is set where concept c covers the voxel.

    Raises
    ------
    ValueError
        If there are more than 63 concepts.

    Examples
    --------
    >>> labels = np.array([[[[1, 2]]], [[[1, 1]]]])
    >>> table = pd.DataFrame({"level": [0, 0, 1], "label": [1, 2, 1]})
    >>> concept_bits(labels, table, np.array([0, 1, 2]))
    array([[[5, 6]]])
    """
    if len(concept) and concept.max() > 62:
        raise ValueError(
            f"A class has {concept.max() + 1} concepts; ablation takes at most 63. "
            "Lower n_concepts."
        )
    bits = np.zeros(labels.shape[1:], np.int64)
    level = table["level"].to_numpy()
    label = table["label"].to_numpy()
    for i, volume in enumerate(labels):
        lookup = np.zeros(int(volume.max()) + 1, np.int64)
        chosen = level == i
        lookup[label[chosen]] = np.left_shift(np.int64(1), concept[chosen].astype(np.int64))
        bits |= lookup[volume]
    return bits


def clip_bits(
    network,
    clips,
    supervoxels,
    video: int,
    centres: np.ndarray,
    *,
    stretch: bool = True,
    features: np.ndarray | None = None,
    batch_size: int = 64,
    device="cpu",
) -> np.ndarray:
    """Assign the supervoxels of one test clip to concepts (equation 4).

    Parameters
    ----------
    network, clips, supervoxels, stretch, features, batch_size, device
        See :func:`run`.
    video : int
        Index of the clip.
    centres : numpy.ndarray
        ``(K, D)``, concept centres of one class.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W) int64``, see :func:`concept_bits`.
    """
    rows = supervoxels.rows_of(video)
    if features is None:
        how = {"stretch": stretch, "batch_size": batch_size, "device": device}
        embedded = features_module.extract_rows(network, clips, supervoxels, rows, **how)
    else:
        embedded = features[rows]
    concept = concepts_module.assign(embedded, centres)
    labels = np.asarray(supervoxels.labels[video])
    return concept_bits(labels, supervoxels.table.iloc[rows], concept)


def visible(bits: np.ndarray, sequence: list[int], mode: str) -> list[np.ndarray]:
    """Return what one clip shows at each step of an order (equation 5, Figures 3 and 4).

    Parameters
    ----------
    bits : numpy.ndarray
        ``(T, H, W) int64``, see :func:`concept_bits`.
    sequence : list of int
        Concepts in the order in which they are added or removed.
    mode : {"add", "remove"}
        Whether they are added to a blank clip or removed from the whole one.

    Returns
    -------
    list of numpy.ndarray
        Visible voxels ``(T, H, W) bool``, for q = 0 to ``len(sequence)``.
    """
    sets = np.cumsum([0, *(1 << np.array(sequence, np.int64))])
    return list(_visible(torch.from_numpy(bits), [(mode, int(s)) for s in sets]).numpy())


def _visible(bits: torch.Tensor, shown: list[tuple[str, int]]) -> torch.Tensor:
    """Return the visible voxels of each (mode, concept set): ``(B, T, H, W) bool``."""
    sets = torch.tensor([s for _, s in shown], device=bits.device)
    covered = (bits[None] & sets[:, None, None, None]) != 0
    remove = torch.tensor([mode == "remove" for mode, _ in shown], device=bits.device)
    return covered ^ remove[:, None, None, None]


@dataclass(frozen=True, eq=False)
class Case:
    """One test clip, with the concepts that explain it.

    Attributes
    ----------
    clip : torch.Tensor
        ``(1, C, T, H, W) float32``, prepared.
    owner : str
        The class whose concepts they are.
    bits : numpy.ndarray
        ``(T, H, W) int64``, see :func:`concept_bits`.
    """

    clip: torch.Tensor
    owner: str
    bits: np.ndarray


def case(
    network,
    clips,
    supervoxels,
    concepts,
    video: int,
    names: Collection[str],
    *,
    assign: str = "true",
    stretch: bool = True,
    features: np.ndarray | None = None,
    batch_size: int = 64,
    device="cpu",
) -> Case:
    """Prepare one test clip and assign its supervoxels to concepts.

    Parameters
    ----------
    network, clips, supervoxels, concepts, assign, stretch, features, batch_size, device
        See :func:`run`.
    video : int
        Index of the clip.
    names : collection of str
        Classes with concepts; where the predicted one has none, the clip's own is taken.

    Returns
    -------
    Case
    """
    frames = torch.from_numpy(np.asarray(clips.frames[video]))[None].to(device)
    owner = clips.classes[clips.labels[video]]
    with torch.inference_mode():
        clip = network.prepare(frames)
        if assign == "predicted":
            predicted = clips.classes[int(network(clip).argmax())]
            owner = predicted if predicted in names else owner
    bits = clip_bits(
        network,
        clips,
        supervoxels,
        video,
        concepts.centres[owner],
        stretch=stretch,
        features=features,
        batch_size=batch_size,
        device=device,
    )
    return Case(clip, owner, bits)


def run(
    network,
    clips,
    supervoxels,
    concepts,
    rankings: dict[str, list[int]],
    *,
    q_max: int = 5,
    n_random: int = 10,
    assign: str = "true",
    fill: str = "mean",
    stretch: bool = True,
    features: np.ndarray | None = None,
    region: np.ndarray | None = None,
    seed: int = 0,
    videos: np.ndarray | None = None,
    batch_size: int = 64,
    device="cpu",
    folder: str | Path | None = None,
    progress: bool = True,
) -> Iterator[pd.DataFrame]:
    """Add concepts to a blank video and remove them from the clip, clip by clip.

    Every test supervoxel goes to the nearest concept centre (equation 4). With q concepts the
    clip shows the union of their supervoxels (adding, equation 5) or all but it (removing);
    hidden voxels hold the data set's mean (`fill`). A concept that a clip lacks uses up its step.
    Supervoxels are embedded and forgotten clip by clip, and a set of concepts that several
    orders reach is shown to the network once.

    Parameters
    ----------
    network : stce.models.network.Network
        The network to explain.
    clips : stce.clips.Clips
        N test clips.
    supervoxels : stce.supervoxels.Supervoxels
        Of the test clips.
    concepts : stce.concepts.Concepts
        Centres of each class.
    rankings : dict of str to list of int
        Concepts of each class, most important first. Test clips of other classes are left out.
    q_max : int, default 5
        Concepts added or removed, one by one.
    n_random : int, default 10
        Random orders a class, beside "top" and "least".
    assign : {"true", "predicted"}, default "true"
        Whose concepts a clip is explained with: those of its label (the paper) or those of the
        class that the network predicts, which needs no label.
    fill : {"mean", "blur", "noise"}, default "mean"
        What hidden voxels hold: the data set's mean (the paper's blank video), the clip itself
        under a Gaussian of an eighth of each axis, or white noise with the data set's moments. A
        blurred clip is not blank: its accuracy at q = 0 says what the blur leaves.
    stretch : bool, default True
        How supervoxels are embedded, see :func:`stce.features.batches`; as for the centres.
    features : numpy.ndarray, optional
        ``(S, D)``, of all supervoxels of the test clips, where they are embedded already or in
        another way, or once for several calls; `stretch` is then without effect.
    region : array_like, optional
        ``(N, T, H, W) bool``, voxels of interest, such as
        :func:`stce.evaluation.truth.region` finds.
    seed : int, default 0
        Seeds the random orders and the noise.
    videos : numpy.ndarray, optional
        Indices of the clips to run, default all.
    batch_size : int, default 64
        Masked clips or supervoxels a forward pass.
    device : torch.device, default "cpu"
        Where the masks are made and the network runs.
    folder : path, optional
        Keep the outcomes of each clip there; clips already there, from a run that was stopped,
        are read instead of run again.
    progress : bool, default True
        Show a progress bar on a terminal.

    Yields
    ------
    pandas.DataFrame
        Outcomes of one clip, one row a (mode, order, repeat, q): ``video``, ``id``, ``class``,
        ``mode``, ``order``, ``repeat``, ``q``, ``predicted``, ``correct``, ``probability`` (of
        the true class), ``revealed`` (visible share of voxels) and, with a region, ``held``
        (visible share of its voxels, NaN where the clip has none). Rows with q = 0 hold the intact
        clip (mode "remove") and the blank one (mode "add").

    Raises
    ------
    ValueError
        If `assign` or `fill` is unknown, `q_max` exceeds the concepts of a class, `features` are
        not of these supervoxels, or the clips' classes are not the network's.
    """
    check(network, clips, supervoxels, rankings, q_max, assign, fill, features)
    network = network.to(device).eval()
    plans = {}
    for name, ranking in rankings.items():
        # A class's random orders depend on its name and the seed alone, not on the other classes.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        plans[name] = _plan(orders(ranking, n_random, rng), q_max)
    how = {"assign": assign, "stretch": stretch, "features": features}
    how |= {"batch_size": batch_size, "device": device}

    def answer(n: int) -> pd.DataFrame:
        one = case(network, clips, supervoxels, concepts, n, plans, **how)
        blank = filling(one.clip, fill, seed, n)
        wanted = voxels(region, n, one.clip.device)
        return _outcomes(network, clips, n, one, plans[one.owner], blank, batch_size, wanted)

    yield from each_clip(explained(clips, rankings, videos), answer, folder, progress, "ablate")


def _plan(listed, q_max: int) -> list[tuple[str, str, int, int, int]]:
    """Return (mode, order, repeat, q, concept set as bits) for every step of every order."""
    plan = []
    for mode in MODES:
        for order, repeat, sequence in listed:
            shown = 0
            for q in range(q_max + 1):
                plan.append((mode, order, repeat, q, shown))
                if q < q_max:
                    shown |= 1 << sequence[q]
    return plan


def _outcomes(network, clips, n, one: Case, plan, blank, batch_size, region) -> pd.DataFrame:
    present = int(np.bitwise_or.reduce(one.bits, axis=None))
    # A concept the clip lacks changes nothing, so sets are compared by what is present.
    keys = [(mode, shown & present) for mode, *_, shown in plan]
    bits = torch.from_numpy(one.bits).to(one.clip.device)
    inputs = network, one.clip, list(dict.fromkeys(keys)), partial(_visible, bits)
    answers = predict(*inputs, blank, batch_size, region)
    return outcomes(clips, n, [step[:4] for step in plan], [answers[key] for key in keys])
