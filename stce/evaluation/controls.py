"""Controls for the ablation: orders of chance that show as much as the ranking does.

A curve of :mod:`stce.ablation` can rise because more of the clip is seen, not because what is seen
matters. Here random voxels and random supervoxels are shown, at each step exactly as many voxels
of a clip as the most important concepts show at that step.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from stce.ablation import Case, Order
from stce.masking import reached

__all__ = ["random", "voxel_order"]


def voxel_order(labels: np.ndarray, table: pd.DataFrame, order: np.ndarray) -> np.ndarray:
    """Turn an order of supervoxels into one of voxels, so that any area can be shown.

    A voxel comes with the first supervoxel that holds it. Within a supervoxel earlier frames come
    first, then upper rows: the last supervoxel that an area reaches is cut in time. Voxels that no
    kept supervoxel holds come last. Returns the place of each voxel, ``(T, H, W) int32``, 0 to
    T * H * W - 1.

    Parameters
    ----------
    labels, table
        See :func:`stce.masking.reached`.
    order : numpy.ndarray
        ``(s,) int``, positions in `table`, first one first.

    Examples
    --------
    >>> labels = np.array([[[[1, 1, 2, 2]]], [[[1, 2, 2, 2]]]])
    >>> table = pd.DataFrame({"level": [0, 1], "label": [2, 2]})
    >>> voxel_order(labels, table, np.array([0, 1]))
    array([[[3, 2, 0, 1]]], dtype=int32)
    """
    first = reached(labels, table, np.argsort(order), len(table))
    return _places(np.argsort(first, axis=None, kind="stable"), first.shape)


def _places(sequence: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the place of each voxel in a sequence of flat positions."""
    places = np.empty(len(sequence), np.int32)
    places[sequence] = np.arange(len(sequence))
    return places.reshape(shape)


def random(n_repeats: int = 10, seed: int = 0) -> Callable[[Case, int], list[Order]]:
    """Give "random voxels" and "random supervoxels", as many voxels a step as the top order shows.

    Random supervoxels leave connected pieces of the clip. They are drawn from all kept ones with
    equal chances; the last one is cut so that the area is met exactly. Returns what
    :func:`stce.ablation.run` takes.

    Parameters
    ----------
    n_repeats : int, default 10
        Draws of each of the two controls, a clip.
    seed : int, default 0
        Seeds the draws, with the clip's id: they do not depend on which other clips are run.
    """

    def orders(case: Case, q_max: int) -> list[Order]:
        name = str(case.subject.clips.ids[case.video])
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        shape, areas = case.labels.shape[1:], case.areas(q_max)
        listed = []
        for repeat in range(n_repeats):
            voxels = _places(rng.permutation(int(np.prod(shape))), shape)
            listed.append(Order("random voxels", repeat, voxels, areas))
            drawn = voxel_order(case.labels, case.table, rng.permutation(len(case.table)))
            listed.append(Order("random supervoxels", repeat, drawn, areas))
        return listed

    return orders
