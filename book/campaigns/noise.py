"""Studies of features that mean nothing, to count what is found in them all the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from stce import tcav
from stce.concepts import Concepts, cluster
from stce.evaluation import significance
from stce.models.adapt import Explainable

__all__ = ["false_discoveries", "study"]


class _Head(torch.nn.Module, Explainable):
    """A random linear head."""

    def __init__(self, weights: np.ndarray):
        super().__init__()
        self.head = torch.nn.Linear(weights.shape[1], weights.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights))

    def logits(self, z):
        return self.head(z)


def study(
    seed: int,
    *,
    clustered: bool = True,
    planted: float = 0.0,
    n: int = 99,
    discover: str = "kmeans",
) -> pd.DataFrame:
    """Study features without signal, of one class.

    Parameters
    ----------
    seed : int
        Of everything; with odd seeds the features are correlated.
    clustered : bool, default True
        Concepts are clusters of noise, as k-means would find; otherwise arbitrary sets of it.
    planted : float, default 0
        Shift of the first concept along the class gradient, in standard deviations: a signal.
    n : int, default 99
        Random sets and shuffles of the test.
    discover : str, default "kmeans"
        How the clusters are found, see :func:`stce.concepts.cluster`.

    Returns
    -------
    pandas.DataFrame
        Of :func:`stce.evaluation.significance.assess`, three rows.
    """
    rng = np.random.default_rng(seed)
    d, k, size = 24, 3, 10
    mixing = rng.normal(size=(d, d)) / np.sqrt(d) if seed % 2 else np.eye(d)
    weights = rng.normal(size=(1, d))

    def draw(m):
        return (rng.normal(size=(m, d)) @ mixing).astype(np.float32)

    z = draw(k * size * (2 if clustered else 1))
    labels, videos = np.zeros(len(z), int), np.arange(len(z))
    how = {"n_concepts": k, "n_keep": size, "n_init": 1, "discover": discover}
    found = cluster(z, labels, videos, ("a",), **how)
    if not clustered or planted:
        columns = {"concept": np.repeat(np.arange(k), size), "supervoxel": np.arange(k * size)}
        columns |= {"rank": np.tile(np.arange(size), k), "distance": 0.0}
        table = pd.DataFrame({"class": "a"} | columns)
        found = Concepts(table, found.sizes, found.centres)
        z[:size] += planted * (weights / np.linalg.norm(weights)).astype(np.float32)
    net, random = _Head(weights), draw(100)
    groups = tcav.random_groups(100, 10, size, rng)
    samples = tcav.Samples(found, z, {"a": draw(6)}, random, groups, ("a",))
    result = tcav.score(net, samples, n_bootstrap=10)
    how = {"n_null": n, "n_shuffles": n, "n_bootstrap": 10, "seed": seed}
    return significance.assess(net, result, samples, **how)


def false_discoveries(seed: int) -> list[dict]:
    """Count what is significant in features without signal, and what is found of a signal."""
    rows = []
    for world, how in (
        ("arbitrary sets", {"clustered": False}),
        ("clusters of noise", {}),
        ("planted", {"planted": 4.0}),
    ):
        table = study(seed, n=399, **how)
        row = {"world": world, "concepts": len(table)}
        for column in ("p_derivative", "p_score", "p_weights", "p", "q_value"):
            row[column] = int((table[column] < 0.05).sum())
        planted = table["concept"] == 0
        row["found"] = int((table.loc[planted, "q_value"] < 0.05).sum())
        rows.append(row)
    return rows
