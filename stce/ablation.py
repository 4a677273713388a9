"""Does the ranking matter? Concepts added to and removed from test clips (paper 4.2)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stce import concepts as concepts_module
from stce import features as features_module
from stce.progress import bar

__all__ = ["clip_bits", "concept_bits", "orders", "run", "visible"]

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
    batch_size: int = 64,
    device="cpu",
) -> np.ndarray:
    """Assign the supervoxels of one test clip to concepts (equation 4).

    Parameters
    ----------
    network, clips, supervoxels, stretch, batch_size, device
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
    parts = features_module.batches(
        network,
        clips,
        supervoxels,
        rows=rows,
        stretch=stretch,
        batch_size=batch_size,
        device=device,
    )
    embedded = np.concatenate([z for _, z in parts])
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


@torch.inference_mode()
def _predict(network, clip, bits, wanted, batch_size) -> dict:
    """Return (probabilities, visible fraction) for each (mode, concept set) of one clip."""
    answers = {}
    for start in range(0, len(wanted), batch_size):
        part = wanted[start : start + batch_size]
        visible = _visible(bits, part)
        # Hidden voxels hold 0: the data set's mean, after normalisation.
        probability = network(
            (clip * visible[:, None]).contiguous(memory_format=torch.channels_last_3d)
        ).softmax(1)
        fraction = visible.flatten(1).float().mean(1)
        for key, p, f in zip(part, probability.cpu().numpy(), fraction.cpu().numpy(), strict=True):
            answers[key] = (p, float(f))
    return answers


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
    stretch: bool = True,
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
    hidden voxels hold the data set's mean. A concept that a clip lacks uses up its step.
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
    stretch : bool, default True
        How supervoxels are embedded, see :func:`stce.features.batches`; as for the centres.
    seed : int, default 0
        Seeds the random orders.
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
        the true class), ``revealed`` (visible share of voxels). Rows with q = 0 hold the intact
        clip (mode "remove") and the blank one (mode "add").

    Raises
    ------
    ValueError
        If `assign` is unknown or `q_max` exceeds the concepts of a class.
    """
    if assign not in ("true", "predicted"):
        raise ValueError(f"assign is {assign!r}; choose 'true' or 'predicted'.")
    for name, ranking in rankings.items():
        if q_max > len(ranking):
            raise ValueError(
                f"q_max is {q_max}, but class {name!r} has {len(ranking)} concepts. "
                "Lower q_max or raise n_concepts."
            )
    network = network.to(device).eval()
    plans = {}
    for name, ranking in rankings.items():
        # A class's random orders depend on its name and the seed alone, not on the other classes.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        plans[name] = _plan(orders(ranking, n_random, rng), q_max)
    videos = range(len(clips)) if videos is None else videos
    videos = [int(n) for n in videos if clips.classes[clips.labels[n]] in rankings]
    for n in bar(videos, show=progress, desc="ablate", unit="clip"):
        kept = None if folder is None else Path(folder) / f"{n:06d}.parquet"
        if kept is not None and kept.exists():
            yield pd.read_parquet(kept)
            continue
        frames = torch.from_numpy(np.asarray(clips.frames[n]))[None].to(device)
        with torch.inference_mode():
            clip = network.prepare(frames)
            intact = network(clip).softmax(1)[0].cpu().numpy()
        owner = clips.classes[clips.labels[n]]
        if assign == "predicted":
            predicted = clips.classes[int(intact.argmax())]
            owner = predicted if predicted in plans else owner
        bits = clip_bits(
            network,
            clips,
            supervoxels,
            n,
            concepts.centres[owner],
            stretch=stretch,
            batch_size=batch_size,
            device=device,
        )
        table = _outcomes(network, clips, n, clip, bits, plans[owner], batch_size)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(kept.with_suffix(".partial"))
            kept.with_suffix(".partial").rename(kept)
        yield table


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


def _outcomes(network, clips, n, clip, bits, plan, batch_size) -> pd.DataFrame:
    present = int(np.bitwise_or.reduce(bits, axis=None))
    # A concept the clip lacks changes nothing, so sets are compared by what is present.
    keys = [(mode, shown & present) for mode, *_, shown in plan]
    wanted = list(dict.fromkeys(keys))
    bits = torch.from_numpy(bits).to(clip.device)
    answers = _predict(network, clip, bits, wanted, batch_size)
    label = int(clips.labels[n])
    rows = []
    for (mode, order, repeat, q, _), key in zip(plan, keys, strict=True):
        probability, revealed = answers[key]
        predicted = int(probability.argmax())
        rows.append((mode, order, repeat, q, predicted, probability[label], revealed))
    table = pd.DataFrame(
        rows, columns=["mode", "order", "repeat", "q", "predicted", "probability", "revealed"]
    )
    table.insert(0, "class", clips.classes[label])
    table.insert(0, "id", clips.ids[n])
    table.insert(0, "video", n)
    table.insert(8, "correct", table["predicted"] == label)
    table["predicted"] = [clips.classes[p] for p in table["predicted"]]
    return table
