"""Concepts: clusters of similar supervoxels of one class (paper 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from stce.engine.storage import read_parts, read_rows, write_parts


@dataclass(frozen=True)
class Concepts:
    """The concepts of every class.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a kept supervoxel: ``class``, ``concept`` (0 to K - 1), ``supervoxel`` (row of
        the supervoxel table), ``rank`` (0 is nearest to the centre), ``distance``.
    sizes : pandas.DataFrame
        One row a concept: ``class``, ``concept``, ``n_supervoxels`` and ``n_videos`` before
        only the nearest were kept.
    centres : dict of str to numpy.ndarray
        For each class the cluster centres f_c, ``(K, D) float32``.
    """

    table: pd.DataFrame
    sizes: pd.DataFrame
    centres: dict[str, np.ndarray]

    def used(self, name: str) -> np.ndarray:
        """Return the supervoxels of all concepts of a class, ``(m,) int64``, in rising order."""
        return np.unique(self.table.loc[self.table["class"] == name, "supervoxel"].to_numpy())

    def members(self, class_name: str, concept: int) -> np.ndarray:
        """Return the supervoxel rows of one concept, nearest first, ``(m,) int64``."""
        chosen = self.table[(self.table["class"] == class_name) & (self.table.concept == concept)]
        return chosen.sort_values("rank")["supervoxel"].to_numpy()

    def save(self, folder: str | Path) -> None:
        """Write ``concepts.parquet``, ``sizes.parquet`` and ``centres.safetensors``."""
        write_parts(folder, concepts=self.table, sizes=self.sizes, centres=self.centres)

    @classmethod
    def load(cls, folder: str | Path) -> Concepts:
        """Read what :meth:`save` wrote."""
        return cls(*read_parts(folder, "concepts", "sizes", "centres"))


def _nearest(features, centres) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of and the Euclidean distance to the nearest centre."""
    features, centres = np.asarray(features, np.float64), np.asarray(centres, np.float64)
    squares = (features**2).sum(1)[:, None] - 2 * features @ centres.T + (centres**2).sum(1)
    nearest = squares.argmin(axis=1)
    return nearest, np.linalg.norm(features - centres[nearest], axis=1)


def assign(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Give each supervoxel to the concept with the nearest centre (equation 4).

    Takes ``(S, D)`` features of supervoxels and the ``(K, D)`` centres of one class; returns
    ``(S,) int64``, concept 0 to K - 1.

    Examples
    --------
    >>> assign(np.array([[0.1, 0], [2, 2]]), np.array([[0.0, 0], [3, 3]]))
    array([0, 1])
    """
    return _nearest(features, centres)[0]


def _cluster_class(features: np.ndarray, n_concepts: int, seed: int, n_init: int):
    # One thread: with several, k-means adds up its sums in an order that differs from run to run.
    with threadpool_limits(1):
        kmeans = KMeans(n_concepts, n_init=n_init, random_state=seed).fit(features)
        centres = kmeans.cluster_centers_
        return centres, *_nearest(features, centres)


def cluster(
    features: np.ndarray,
    labels: np.ndarray,
    videos: np.ndarray,
    classes: tuple[str, ...],
    *,
    n_concepts: int = 25,
    n_keep: int = 40,
    seed: int = 0,
    n_init: int = 4,
    n_jobs: int = 1,
) -> Concepts:
    """Group the supervoxels of each class into concepts and keep the nearest (paper 3.2).

    Classes that own no supervoxel are left out.

    Parameters
    ----------
    features : array_like
        ``(S, D) float32``, numpy or zarr; one class is in memory at a time.
    labels, videos : numpy.ndarray
        ``(S,)``, class of each supervoxel's clip, index into `classes`, and that clip.
    classes : tuple of str
        Names of the classes to explain.
    n_concepts, n_keep : int, default 25 and 40
        Clusters a class (the paper's "small" setting: 15), and supervoxels kept a concept, the
        nearest to its centre.
    seed, n_init, n_jobs : int, default 0, 4 and 1
        Of k-means; its starts, of which the tightest is kept; classes clustered at the same time.

    Raises
    ------
    ValueError
        If a class has fewer supervoxels than concepts, or fewer different features.

    Examples
    --------
    >>> z = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    >>> found = cluster(z, np.zeros(6, int), np.arange(6), ("wave",), n_concepts=2)
    >>> found.table.groupby("concept").size().tolist()
    [3, 3]
    """
    every = {name: np.flatnonzero(labels == y) for y, name in enumerate(classes)}
    owned = {name: rows for name, rows in every.items() if len(rows)}
    for name, rows in owned.items():
        if len(rows) < n_concepts:
            raise ValueError(
                f"Class {name!r} has {len(rows)} supervoxels, fewer than n_concepts={n_concepts}. "
                "Use more clips a class, more segments, or fewer concepts."
            )
    made = Parallel(n_jobs=n_jobs)(
        delayed(_cluster_class)(read_rows(features, rows), n_concepts, seed, n_init)
        for rows in owned.values()
    )
    tables, sizes, centres = [], [], {}
    for (name, rows), (centre, concept, distance) in zip(owned.items(), made, strict=True):
        if (filled := len(np.unique(concept))) < n_concepts:
            raise ValueError(
                f"n_concepts is {n_concepts}, but the {len(rows)} supervoxels of class {name!r} "
                f"have only {filled} different features at this layer; lower n_concepts, ask for "
                "more segments, or take another layer."
            )
        own = {"concept": concept, "supervoxel": rows, "distance": distance, "video": videos[rows]}
        table = pd.DataFrame({"class": name} | own)
        counts = {"n_supervoxels": ("video", "size"), "n_videos": ("video", "nunique")}
        sizes.append(table.groupby(["class", "concept"], as_index=False).agg(**counts))
        table = table.sort_values(["concept", "distance", "supervoxel"])
        table["rank"] = table.groupby("concept").cumcount()
        tables.append(table[table["rank"] < n_keep])
        centres[name] = np.ascontiguousarray(centre, np.float32)
    columns = ["class", "concept", "supervoxel", "rank", "distance"]
    table, sizes = (pd.concat(parts, ignore_index=True) for parts in (tables, sizes))
    return Concepts(table[columns], sizes, centres)
