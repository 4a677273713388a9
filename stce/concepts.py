"""Concepts: clusters of similar supervoxels of one class (paper 3.2)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from stce.clips import Clips
from stce.engine.storage import read_parts, read_rows, write_parts
from stce.supervoxels import Supervoxels, boxes

# The class of clips that show a concept, and the fewest examples that say what it is.
EXAMPLES, FEWEST_EXAMPLES = "(examples)", 5


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
        """Return the supervoxel rows of one concept, nearest first, ``(m,) int64``.

        A class or a concept that is not among these is a ValueError.
        """
        table = self.table
        if isinstance(class_name, str) and isinstance(concept, Integral):
            chosen = table[(table["class"] == class_name) & (table["concept"] == concept)]
            if len(chosen):
                return chosen.sort_values("rank")["supervoxel"].to_numpy()
        last = table.groupby("class")["concept"].max().to_dict()
        raise ValueError(f"No concept {concept!r} of class {class_name!r}; they go up to {last}.")

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


def _nmf(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import NMF

    model = NMF(k, init="nndsvda", max_iter=500, tol=1e-3, random_state=seed)
    return model.fit_transform(np.maximum(x, 0)) * np.linalg.norm(model.components_, axis=1)


def _on_simplex(rows: np.ndarray) -> np.ndarray:
    """Return the nearest points with entries from 0 that sum to 1, row by row [Duchi 2008]."""
    falling = -np.sort(-rows, axis=1)
    excess = (np.cumsum(falling, axis=1) - 1) / np.arange(1, rows.shape[1] + 1)
    last = (falling > excess).sum(axis=1) - 1
    return np.maximum(rows - excess[np.arange(len(rows)), last][:, None], 0)


def _convex(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return how much of each of k archetypes, which are mixtures of rows, mixes up each row."""
    from sklearn.cluster import kmeans_plusplus

    x = x - x.mean(0)
    x /= np.linalg.norm(x, 2) or 1.0
    rows = kmeans_plusplus(x, k, random_state=seed)[1]
    made = np.zeros((k, len(x)))  # each archetype out of rows, and each row out of archetypes
    made[np.arange(k), rows] = 1
    mixed = np.full((len(x), k), 1 / k)
    for _ in range(1000):
        atoms = made @ x
        for _ in range(3):
            step = (mixed @ atoms - x) @ atoms.T / np.linalg.norm(atoms, 2) ** 2
            mixed = _on_simplex(mixed - step)
        step = mixed.T @ (mixed @ atoms - x) @ x.T / np.linalg.norm(mixed, 2) ** 2
        made = _on_simplex(made - step)
    return mixed


def _sae(x: np.ndarray, k: int, seed: int, n_active: int = 3, n_steps: int = 1000) -> np.ndarray:
    """Return what each row makes of a sparse autoencoder's k units, of which the largest stay."""
    from sklearn.cluster import kmeans_plusplus

    z = torch.from_numpy(x - x.mean(0))
    z = z / z.norm(dim=1).mean().clamp(min=1e-9)
    start = torch.from_numpy(kmeans_plusplus(z.numpy(), k, random_state=seed)[0])
    encoder = start.clone().requires_grad_()
    decoder, bias = (
        start.clone().requires_grad_(),
        torch.zeros(k, dtype=z.dtype, requires_grad=True),
    )
    trained = torch.optim.Adam([encoder, decoder, bias], lr=0.01)

    def code() -> torch.Tensor:
        all_units = (z @ encoder.T + bias).relu()
        kept = all_units.topk(min(n_active, k), dim=1)
        return torch.zeros_like(all_units).scatter(1, kept.indices, kept.values)

    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(n_steps):
            unit = decoder / decoder.norm(dim=1, keepdim=True).clamp(min=1e-9)
            loss = (code() @ unit - z).square().sum(1).mean()
            trained.zero_grad()
            loss.backward()
            trained.step()
        return code().detach().numpy()


WAYS = {"kmeans": None, "nmf": _nmf, "convex": _convex, "sae": _sae}


def _cluster_class(features: np.ndarray, n_concepts: int, seed: int, n_init: int, discover: str):
    # One thread: with several, k-means adds up its sums in an order that differs from run to run.
    with threadpool_limits(1):
        if discover == "kmeans":
            from sklearn.cluster import KMeans  # only here: it takes as long to load as to run

            kmeans = KMeans(n_concepts, n_init=n_init, random_state=seed).fit(features)
            centres = kmeans.cluster_centers_
            return centres, *_nearest(features, centres)
        shares = WAYS[discover](np.asarray(features, np.float64), n_concepts, seed)
    total, concept = shares.sum(axis=1), shares.argmax(axis=1)
    distance = 1 - shares.max(axis=1) / np.where(total > 0, total, np.inf)
    of = [features[(concept == k) & (total > 0)] for k in range(n_concepts)]
    centres = np.stack(
        [some.mean(0) if len(some) else np.full(features.shape[1], np.inf) for some in of]
    )
    there = np.flatnonzero(np.isfinite(centres[:, 0]))
    # What is part of no concept goes to the nearest one, as what is the least of it.
    nearest = there[_nearest(features, centres[there])[0]]
    kept, concept = np.unique(np.where(total > 0, concept, nearest), return_inverse=True)
    return centres[kept], concept, distance


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
    discover: str = "kmeans",
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
        Of what is drawn; starts of k-means, of which the tightest is kept; classes clustered at
        the same time.
    discover : {"kmeans", "nmf", "convex", "sae"}, default "kmeans"
        How concepts are found: k-means as in the paper; non-negative matrix factorisation of the
        features above 0 [1]_; archetypes, mixtures of supervoxels that others are mixtures of [2]_;
        or a sparse autoencoder with three active units [3]_. But for k-means a supervoxel is of the
        concept that has most of it, ``distance`` is the share of the others, 0 to 1, and the centre
        is the mean of its supervoxels, so that equation 4 holds for all. A concept that has most of
        none is left out, with a warning that says how many there are.

    Raises
    ------
    ValueError
        If a class has fewer supervoxels than concepts, or fewer different features, a way finds
        fewer than two concepts, or there is no such way.

    References
    ----------
    .. [1] D. D. Lee and H. S. Seung, 1999, :doi:`10.1038/44565`.
    .. [2] A. Cutler and L. Breiman, "Archetypal analysis", 1994, :doi:`10.2307/1269949`.
    .. [3] L. Gao et al., "Scaling and evaluating sparse autoencoders", 2024,
       :doi:`10.48550/arXiv.2406.04093`.

    Examples
    --------
    >>> z = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    >>> found = cluster(z, np.zeros(6, int), np.arange(6), ("wave",), n_concepts=2)
    >>> found.table.groupby("concept").size().tolist()
    [3, 3]
    """
    if discover not in WAYS:
        raise ValueError(f"discover is {discover!r}; choose one of {', '.join(WAYS)}.")
    every = {name: np.flatnonzero(labels == y) for y, name in enumerate(classes)}
    owned = {name: rows for name, rows in every.items() if len(rows)}
    for name, rows in owned.items():
        if len(rows) < n_concepts:
            raise ValueError(
                f"Class {name!r} has {len(rows)} supervoxels, fewer than n_concepts={n_concepts}. "
                "Use more clips a class, more segments, or fewer concepts."
            )
    made = Parallel(n_jobs=n_jobs)(
        delayed(_cluster_class)(read_rows(features, rows), n_concepts, seed, n_init, discover)
        for rows in owned.values()
    )
    tables, sizes, centres = [], [], {}
    for (name, rows), (centre, concept, distance) in zip(owned.items(), made, strict=True):
        filled = len(np.unique(concept))
        if filled < (n_concepts if discover == "kmeans" else 2):
            raise ValueError(
                f"n_concepts is {n_concepts}, but the {len(rows)} supervoxels of class {name!r} "
                f"have only {filled} different features at this layer, or make so few concepts by "
                f"{discover}; lower n_concepts, ask for more segments, or take another layer."
            )
        if filled < n_concepts:
            said = f"{discover} makes {filled} concepts of class {name!r}, not {n_concepts}: "
            warnings.warn(f"{said}the others have most of no supervoxel.", stacklevel=2)
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


def with_examples(
    clips: Clips, cut: Supervoxels, given: Mapping[str, Clips | np.ndarray]
) -> tuple[Clips, Supervoxels, dict[str, np.ndarray]]:
    """Put examples of concepts that somebody names among the supervoxels of a class.

    Parameters
    ----------
    clips, cut : stce.clips.Clips and stce.supervoxels.Supervoxels
        N clips of the class, and theirs.
    given : mapping of str to Clips or numpy.ndarray
        Clips that show a concept, whole; or masks ``(N, T, H, W) bool`` of it in `clips`, where a
        clip without it has an empty one.

    Returns
    -------
    clips, cut : stce.clips.Clips and stce.supervoxels.Supervoxels
        The same, with the clips that were given, of a class `EXAMPLES`, and a level more for each
        concept, in which an example is a supervoxel.
    rows : dict of str to numpy.ndarray
        Their rows in the table, ``(m,) int64``.

    Raises
    ------
    ValueError
        If masks are of another shape, or there are fewer than `FEWEST_EXAMPLES`.

    Examples
    --------
    >>> from stce.datasets.textures import textures
    >>> from stce.supervoxels import segment
    >>> clips = textures(5, n_frames=2, size=(8, 8))
    >>> cut, masks = segment(clips, n_segments=(2,)), np.zeros((5, 2, 8, 8), bool)
    >>> masks[:, :, :4] = True
    >>> rows = with_examples(clips, cut, {"above": masks})[2]["above"]
    >>> rows.tolist() == list(range(len(cut), len(cut) + 5))
    True
    """
    shape, n = clips.frames.shape[:4], len(clips)
    more = {name: of for name, of in given.items() if isinstance(of, Clips)}
    levels, total = cut.labels.shape[1], n + sum(map(len, more.values()))
    labels = np.zeros((total, levels + len(given), *shape[1:]), cut.labels.dtype)
    for i in range(n):
        labels[i, :levels] = cut.labels[i]
    table, rows, start = [cut.table], {}, n
    for level, (name, of) in enumerate(given.items(), start=levels):
        if isinstance(of, Clips):
            labels[start : start + len(of), level] = 1
            start += len(of)
        else:
            if of.shape != shape or of.dtype != bool:
                raise ValueError(
                    f"concepts[{name!r}] is {of.shape} {of.dtype}; give clips, a folder of films, "
                    f"or masks {shape} bool, one for each clip of the class."
                )
            labels[:n, level] = of
        there = np.flatnonzero(labels[:, level].any((1, 2, 3)))
        if len(there) < FEWEST_EXAMPLES:
            raise ValueError(
                f"concepts[{name!r}] has {len(there)} examples; give {FEWEST_EXAMPLES} or more."
            )
        first = sum(map(len, table))
        rows[name] = np.arange(first, first + len(there))
        table.append(boxes(labels[there, level]).assign(video=there, level=level))
    table = pd.concat(table, ignore_index=True)[list(cut.table.columns)]
    frames = np.concatenate([clips.frames[:], *(of.frames[:] for of in more.values())])
    parts = None
    if clips.parts is not None:  # of what stands alone nothing is known
        parts = np.zeros(frames.shape[:4], np.uint8)
        parts[:n] = clips.parts[:]
    names = [f"{name}: {one}" for name, of in more.items() for one in of.ids]
    labelled = np.concatenate([clips.labels, np.full(len(names), len(clips.classes))])
    ids, groups = ([*of, *names] for of in (clips.ids, clips.groups))
    every = Clips(frames, labelled, ids, groups, (*clips.classes, EXAMPLES), parts)
    return every, Supervoxels(labels, table), rows


def with_named(
    found: Concepts | None, features: np.ndarray, videos: np.ndarray, class_name: str, rows: Mapping
) -> Concepts:
    """Return the concepts of a class that were found, if any, and those that are named behind them.

    The centre of a named one is the mean of its examples, of which all are kept: `rows` of the
    `features` ``(S, D)``, of the clips `videos` ``(S,)``. See :func:`with_examples`.
    """
    centres, tables, sizes = [np.empty((0, features.shape[1]))], [], []
    if found is not None:
        centres, tables, sizes = [found.centres[class_name]], [found.table], [found.sizes]
    for concept, own in enumerate(rows.values(), len(centres[0])):
        z = read_rows(features, own)
        centres.append(z.mean(0, keepdims=True))
        distance = np.linalg.norm(z - centres[-1], axis=1)
        order = np.argsort(distance, kind="stable")
        what = {"class": class_name, "concept": concept}
        kept = {"supervoxel": own[order], "rank": np.arange(len(own)), "distance": distance[order]}
        tables.append(pd.DataFrame(what | kept))
        count = {"n_supervoxels": len(own), "n_videos": len(np.unique(videos[own]))}
        sizes.append(pd.DataFrame([what | count]))
    table, sizes = (pd.concat(parts, ignore_index=True) for parts in (tables, sizes))
    every = np.concatenate(centres).astype(np.float32)
    return Concepts(table, sizes, {class_name: every})
