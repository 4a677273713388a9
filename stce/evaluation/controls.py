"""Controls for the ablation: orders that show as much as the ranking does, and paired tests.

A curve of :mod:`stce.ablation` can rise because more of the clip is seen, not because what is seen
matters. Here random voxels and random supervoxels are shown, at each step exactly as many voxels
of a clip as the most important concepts show at that step. Outcomes have the columns of
:func:`stce.ablation.run`, so both can be joined and go into the same curves.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from book import verdict
from stce import ablation
from stce.masking import check, each_clip, explained, filling, outcomes, predict, voxels

__all__ = [
    "along",
    "matched_supervoxels",
    "matched_voxels",
    "mcnemar",
    "run",
    "smallest",
    "voxel_order",
]


def voxel_order(labels: np.ndarray, table: pd.DataFrame, order: np.ndarray) -> np.ndarray:
    """Turn an order of supervoxels into one of voxels, so that any area can be shown.

    A voxel comes with the first supervoxel that holds it. Within a supervoxel earlier frames come
    first, then upper rows: the last supervoxel that an area reaches is cut in time. Voxels that no
    kept supervoxel holds come last.

    Parameters
    ----------
    labels : numpy.ndarray
        ``(L, T, H, W)``, label volumes of one clip.
    table : pandas.DataFrame
        ``s`` kept supervoxels of this clip, with ``level`` and ``label``.
    order : numpy.ndarray
        ``(s,) int``, positions in `table`, first one first.

    Returns
    -------
    numpy.ndarray
        ``(T, H, W) int32``, the place of each voxel, 0 to T * H * W - 1.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 2, 2]]], [[[1, 2, 2, 2]]]])
    >>> table = pd.DataFrame({"level": [0, 1], "label": [2, 2]})
    >>> voxel_order(labels, table, np.array([0, 1]))
    array([[[3, 2, 0, 1]]], dtype=int32)
    """
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    level, label = table["level"].to_numpy(), table["label"].to_numpy()
    first = np.full(labels.shape[1:], len(table))
    for i, volume in enumerate(labels):
        lookup = np.full(int(volume.max()) + 1, len(table))
        lookup[label[level == i]] = place[level == i]
        first = np.minimum(first, lookup[volume])
    return _places(np.argsort(first, axis=None, kind="stable"), first.shape)


def _places(sequence: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the place of each voxel in a sequence of flat positions."""
    places = np.empty(len(sequence), np.int32)
    places[sequence] = np.arange(len(sequence))
    return places.reshape(shape)


def _random_voxels(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return _places(rng.permutation(int(np.prod(shape))), shape)


def _matched(top: np.ndarray, places: np.ndarray) -> np.ndarray:
    return places < top.sum(axis=(1, 2, 3))[:, None, None, None]


def matched_voxels(top: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose random voxels, at each step as many as an order of concepts shows.

    Parameters
    ----------
    top : numpy.ndarray
        ``(Q + 1, T, H, W) bool``, growing: as :func:`stce.ablation.visible` returns for "add".
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    numpy.ndarray
        ``(Q + 1, T, H, W) bool``, growing; a step's voxels are chosen in the whole clip. When
        removing, they are what is hidden.

    Examples
    --------
    >>> top = np.arange(6).reshape(1, 1, 6) < np.array([0, 2, 3])[:, None, None, None]
    >>> matched_voxels(top, np.random.default_rng(0)).sum(axis=(1, 2, 3))
    array([0, 2, 3])
    """
    return _matched(top, _random_voxels(top.shape[1:], rng))


def matched_supervoxels(
    top: np.ndarray, labels: np.ndarray, table: pd.DataFrame, rng: np.random.Generator
) -> np.ndarray:
    """Choose random supervoxels, at each step as many voxels as an order of concepts shows.

    Unlike random voxels they leave connected pieces of the clip. Supervoxels are drawn from all
    kept ones with equal chances; the last one is cut so that the area is met exactly.

    Parameters
    ----------
    top, rng
        See :func:`matched_voxels`.
    labels, table
        See :func:`voxel_order`.

    Returns
    -------
    numpy.ndarray
        ``(Q + 1, T, H, W) bool``, growing.
    """
    return _matched(top, voxel_order(labels, table, rng.permutation(len(table))))


def run(
    network,
    clips,
    supervoxels,
    concepts,
    rankings: dict[str, list[int]],
    *,
    n_repeats: int = 10,
    seed: int = 0,
    **options,
) -> Iterator[pd.DataFrame]:
    """Show random voxels and random supervoxels, as many as the top order shows, and hide them.

    Parameters
    ----------
    network, clips, supervoxels, concepts, rankings
        See :func:`stce.ablation.run`; give both the same.
    n_repeats : int, default 10
        Draws of each of the two controls, a clip.
    seed : int, default 0
        Seeds the draws, with the clip's id: they do not depend on which other clips are run.
    **options
        Passed to :func:`along`.

    Yields
    ------
    pandas.DataFrame
        Outcomes of one clip, as of :func:`stce.ablation.run`, with the orders "random voxels" and
        "random supervoxels".

    Raises
    ------
    ValueError
        See :func:`stce.ablation.run`.
    """

    def draw(n: int) -> list[tuple[str, int, np.ndarray]]:
        rng = np.random.default_rng([seed, zlib.crc32(str(clips.ids[n]).encode())])
        labels = np.asarray(supervoxels.labels[n])
        table = supervoxels.table.iloc[supervoxels.rows_of(n)]
        listed = []
        for repeat in range(n_repeats):
            listed.append(("random voxels", repeat, _random_voxels(labels.shape[1:], rng)))
            drawn = rng.permutation(len(table))
            listed.append(("random supervoxels", repeat, voxel_order(labels, table, drawn)))
        return listed

    inputs = network, clips, supervoxels, concepts, rankings
    yield from along(*inputs, draw, seed=seed, **options)


def along(
    network,
    clips,
    supervoxels,
    concepts,
    rankings: dict[str, list[int]],
    orders: Callable[[int], list[tuple[str, int, np.ndarray]]],
    *,
    q_max: int = 5,
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
    """Show and hide the voxels of clips in any order, as many a step as the top order does.

    Parameters
    ----------
    network, clips, supervoxels, concepts, rankings, q_max, assign, fill, stretch, features, region
        See :func:`stce.ablation.run`; they say how many voxels a step of a clip has.
    orders : callable
        For the index of a clip its orders: name, repeat and the place of each voxel,
        ``(T, H, W) int32``, see :func:`voxel_order`.
    seed : int, default 0
        Seeds the noise of `fill`.
    videos, batch_size, device, folder, progress
        See :func:`stce.ablation.run`.

    Yields
    ------
    pandas.DataFrame
        Outcomes of one clip, as of :func:`stce.ablation.run`.

    Raises
    ------
    ValueError
        See :func:`stce.ablation.run`.
    """
    check(network, clips, supervoxels, rankings, q_max, assign, fill, features)
    network = network.to(device).eval()
    how = {"assign": assign, "stretch": stretch, "features": features}
    how |= {"batch_size": batch_size, "device": device}

    def answer(n: int) -> pd.DataFrame:
        one = ablation.case(network, clips, supervoxels, concepts, n, rankings, **how)
        top = ablation.visible(one.bits, rankings[one.owner][:q_max], "add")
        area = [int(mask.sum()) for mask in top]
        listed = orders(n)
        steps, keys = [], []
        for mode in ablation.MODES:
            for i, (order, repeat, _) in enumerate(listed):
                for q in range(q_max + 1):
                    steps.append((mode, order, repeat, q))
                    # No voxel chosen is the same in every order.
                    keys.append((mode, i if area[q] else 0, area[q]))
        places = torch.from_numpy(np.stack([p for *_, p in listed])).to(one.clip.device)
        answers = predict(
            network,
            one.clip,
            list(dict.fromkeys(keys)),
            partial(_shown, places),
            filling(one.clip, fill, seed, n),
            batch_size,
            voxels(region, n, one.clip.device),
        )
        return outcomes(clips, n, steps, [answers[key] for key in keys])

    yield from each_clip(explained(clips, rankings, videos), answer, folder, progress, "control")


def _shown(places: torch.Tensor, wanted: list[tuple[str, int, int]]) -> torch.Tensor:
    """Return the visible voxels of each (mode, order, area): ``(B, T, H, W) bool``."""
    area = torch.tensor([a for *_, a in wanted], device=places.device)
    remove = torch.tensor([mode == "remove" for mode, *_ in wanted], device=places.device)
    chosen = places[[i for _, i, _ in wanted]] < area[:, None, None, None]
    return chosen ^ remove[:, None, None, None]


def mcnemar(
    outcomes: pd.DataFrame, first: str = "top", second: str = "least", repeat: int = 0
) -> pd.DataFrame:
    """Compare two orders on the same clips with McNemar's exact test, step by step.

    Only clips that are recognised under one order and not under the other count; without a
    difference each of them falls to either side like a coin [1]_. The test is cautious where such
    clips are few. It needs one yes or no a clip; for the mean of several repeats use
    :func:`book.verdict.gaps`.

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run`, of :func:`run` or of both joined, of one run.
    first, second : str
        Names of the orders.
    repeat : int, default 0
        Which repeat stands for a random order; orders without repeats ignore it.

    Returns
    -------
    pandas.DataFrame
        One row a mode and q >= 1: ``first``, ``second``, ``first_only`` and ``second_only``
        (clips on which only that order does its work: recognised when adding, not recognised when
        removing), ``gap`` (percentage points, positive if `first` is the better), ``p``,
        two-sided, ``p_holm``, corrected over modes and q, ``verdict`` (see
        :func:`book.verdict.judge`) and ``n_clips``.

    Raises
    ------
    ValueError
        If an order or the repeat is not there, or a clip occurs twice.

    References
    ----------
    .. [1] Q. McNemar, "Note on the sampling error of the difference between correlated proportions
       or percentages", Psychometrika 12, 1947, :doi:`10.1007/BF02295996`.

    Examples
    --------
    >>> rows = [(v, "add", o, 0, 1, o == "top") for v in range(6) for o in ("top", "least")]
    >>> columns = ["video", "mode", "order", "repeat", "q", "correct"]
    >>> mcnemar(pd.DataFrame(rows, columns=columns))[["gap", "p"]].to_numpy().tolist()
    [[100.0, 0.03125]]
    """
    pair = {}
    for name in (first, second):
        one = outcomes[(outcomes["order"] == name) & (outcomes["q"] > 0)]
        if one["repeat"].nunique() > 1:
            one = one[one["repeat"] == repeat]
        if one.empty:
            raise ValueError(
                f"The outcomes have no order {name!r} with repeat {repeat}; their orders are "
                f"{', '.join(sorted(outcomes['order'].unique()))}."
            )
        pair[name] = one.set_index(["mode", "q", "video"])["correct"].astype(bool)
        if pair[name].index.has_duplicates:
            raise ValueError(
                f"Clips occur twice in the order {name!r}; pass the outcomes of one run and seed."
            )
    both = pd.concat(pair, axis=1, join="inner")
    rows = []
    for (mode, q), part in both.groupby(level=["mode", "q"]):
        works = part.to_numpy() == (mode == "add")
        wins, losses = (
            int((works[:, 0] > works[:, 1]).sum()),
            int((works[:, 0] < works[:, 1]).sum()),
        )
        p = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        gap = 100 * (wins - losses) / len(works)
        rows.append((mode, q, first, second, wins, losses, gap, p, len(works)))
    columns = ["mode", "q", "first", "second", "first_only", "second_only", "gap", "p", "n_clips"]
    return verdict.judge(pd.DataFrame(rows, columns=columns))


def smallest(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Find the smallest sufficient and the smallest destroying concepts of each clip (SSC, SDC).

    Parameters
    ----------
    outcomes : pandas.DataFrame
        Rows of :func:`stce.ablation.run` or :func:`run`.

    Returns
    -------
    pandas.DataFrame
        One row a ``video``, ``mode``, ``order`` and ``repeat``: ``q``, the first step at which the
        prediction is right (mode "add": SSC) or wrong (mode "remove": SDC); NaN if there is none.
        0 means that no concept was needed: the blank clip is taken for this class, or the intact
        one is not recognised, whatever the order.

    References
    ----------
    Ghorbani et al., Towards automatic concept-based explanations, 2019.

    Examples
    --------
    >>> rows = [(0, "add", "top", 0, q, q >= 2) for q in range(4)]
    >>> rows += [(0, "remove", "top", 0, q, True) for q in range(4)]
    >>> columns = ["video", "mode", "order", "repeat", "q", "correct"]
    >>> smallest(pd.DataFrame(rows, columns=columns))["q"].tolist()
    [2.0, nan]
    """
    done = outcomes["correct"].astype(bool) == (outcomes["mode"] == "add")
    steps = outcomes.assign(q=outcomes["q"].where(done).astype(float))
    return steps.groupby(["video", "mode", "order", "repeat"])["q"].min().reset_index()
