"""Importance of concepts: directional derivatives along CAVs and their scores (paper 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from safetensors.numpy import load_file, save_file
from scipy.stats import false_discovery_control

from stce import cav, gradients
from stce.engine.workers import spread

__all__ = ["Tcav", "moments", "random_groups", "rescore", "score"]


@dataclass(frozen=True)
class Tcav:
    """Scores and vectors of every concept.

    Attributes
    ----------
    scores : pandas.DataFrame
        One row a concept, best first within a class: ``class``, ``concept``, ``rank`` (1 is
        the most important), ``score`` (equation 2, averaged over the random groups) with its
        95 % bootstrap interval ``ci_low``, ``ci_high``, ``derivative`` (equation 1, mean over
        clips and groups), ``p`` and ``q_value`` (see :func:`score`), ``n_members``,
        ``cav_accuracy`` (held out).
    cavs : dict of str to numpy.ndarray
        For each class the unit CAVs, ``(K, R, D) float32``; positive towards the concept.
    sensitivity : dict of str to numpy.ndarray
        For each class the directional derivative of equation 1 averaged over the groups,
        ``(K, N_y) float32``, clip by clip.
    """

    scores: pd.DataFrame
    cavs: dict[str, np.ndarray]
    sensitivity: dict[str, np.ndarray]

    def ranking(self, class_name: str) -> list[int]:
        """Return the concepts of one class, most important first."""
        chosen = self.scores[self.scores["class"] == class_name].sort_values("rank")
        return chosen["concept"].tolist()

    def save(self, folder: str | Path) -> None:
        """Write ``scores.parquet``, ``cavs.safetensors`` and ``sensitivity.safetensors``."""
        folder = Path(folder)
        self.scores.to_parquet(folder / "scores.parquet")
        save_file(self.cavs, folder / "cavs.safetensors")
        save_file(self.sensitivity, folder / "sensitivity.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> Tcav:
        """Read what :meth:`save` wrote."""
        folder = Path(folder)
        return cls(
            pd.read_parquet(folder / "scores.parquet"),
            load_file(folder / "cavs.safetensors"),
            load_file(folder / "sensitivity.safetensors"),
        )


def random_groups(n_clips: int, n_groups: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the groups of random clips (paper 4.1), ``(R, size) int64``.

    No clip occurs twice in a group; the groups are disjoint where there are clips enough.

    Parameters
    ----------
    n_clips : int
        Random clips there are.
    n_groups : int
        Groups to draw, R (the paper: 50).
    size : int
        Clips a group (the paper: 40).
    rng : numpy.random.Generator
        Source of the draw.

    Raises
    ------
    ValueError
        If there are fewer clips than one group needs.

    Examples
    --------
    >>> random_groups(6, 2, 3, np.random.default_rng(0)).shape
    (2, 3)
    """
    if n_clips < size:
        raise ValueError(
            f"There are {n_clips} random clips, fewer than one group of {size}. "
            "Raise n_random_clips or lower n_keep."
        )
    if n_clips >= n_groups * size:
        return rng.permutation(n_clips)[: n_groups * size].reshape(n_groups, size)
    return np.stack([rng.permutation(n_clips)[:size] for _ in range(n_groups)])


def score(
    network,
    concepts,
    features: np.ndarray,
    clips: dict[str, np.ndarray],
    random: np.ndarray,
    groups: np.ndarray,
    classes: tuple[str, ...],
    *,
    target: str = "logit",
    strength: float = 1.0,
    n_bootstrap: int = 1000,
    seed: int = 0,
    device="cpu",
    gradient: dict[str, np.ndarray] | None = None,
) -> Tcav:
    """Score every concept of every class (equations 1 and 2).

    For each concept one CAV is fitted against each random group. Equation 1 is the dot product
    of the class gradient with a CAV, equation 2 the share of clips where it is positive; the
    score is the mean of equation 2 over the groups. Concepts are ranked by score, ties by the
    mean derivative.

    Significance: each random group is scored as if it were a concept, against all other groups.
    These random-against-random scores, of all classes together, say how far from 1/2 a score
    falls when there is no concept; ``p`` is the share of them at least as far, two-sided, by the
    mean derivative (``p_score``: by the score itself), and ``q_value`` corrects ``p`` over all
    concepts and classes (Benjamini & Hochberg).

    Parameters
    ----------
    network : stce.models.network.Network
        The network to explain.
    concepts : stce.concepts.Concepts
        The concepts of each class.
    features : array_like
        ``(S, D) float32``, of the supervoxels that `concepts` refers to.
    clips : dict of str to numpy.ndarray
        For each class the features of its K clips, ``(K, D) float32``.
    random : numpy.ndarray
        ``(M, D) float32``, features of the random clips.
    groups : numpy.ndarray
        ``(R, m) int64``, see :func:`random_groups`.
    classes : tuple of str
        Output names of the network, in order.
    target : {"logit", "log_prob"}, default "logit"
        See :func:`stce.gradients.at_clips`.
    strength : float, default 1
        See :func:`stce.cav.classifiers`.
    n_bootstrap : int, default 1000
        Resamples of clips and groups for the interval.
    seed : int, default 0
        Seeds the resampling.
    device : torch.device, default "cpu"
        Where the head runs and the classifiers are solved.
    gradient : dict of str to numpy.ndarray, optional
        For each class :func:`stce.gradients.at_clips` of its clips, ``(K, D) float32``, where a
        network has no head to compute them from.

    Returns
    -------
    Tcav
        Scores, CAVs and sensitivities.

    Raises
    ------
    ValueError
        If features or gradients are not finite.

    References
    ----------
    Kim et al., Interpretability beyond feature attribution: quantitative testing with concept
    activation vectors, 2018. Benjamini and Hochberg, 1995,
    :doi:`10.1111/j.2517-6161.1995.tb02031.x`.
    """
    rng = np.random.default_rng(seed)
    members = {
        (name, k): concepts.members(name, k)
        for name in concepts.centres
        for k in range(len(concepts.centres[name]))
    }
    used = {name: concepts.used(name) for name in concepts.centres}
    mean, scale = moments(concepts, features, random)
    how = {"strength": strength, "device": device}
    pool = _Pool(cav.standard(random, mean, scale)[groups], mean, scale, how)

    # A class at a time: the memory this takes does not grow with the number of classes.
    shared = spread(pool)
    fitted = Parallel(return_as="generator")(
        delayed(_fit_class)(
            shared,
            _rows(features, used[name]),
            [
                np.searchsorted(used[name], members[name, k])
                for k in range(len(concepts.centres[name]))
            ],
        )
        for name in clips
    )
    null_cavs = _null_cavs((random - mean) / scale, groups, scale, how)
    rows, cavs, sensitivity, null = [], {}, {}, []
    known = gradients.by_class(network, clips, classes, target, gradient, device)
    for (name, slope), made in zip(known, fitted, strict=True):
        null.append(_means(null_cavs, slope))
        vectors, shares = [], []
        for k, (vector, accuracy) in enumerate(made):
            derivative = vector @ slope.T.astype(np.float64)
            share, mean, cosine = _means(vector[None], slope)
            low, high = _interval(derivative > 0, n_bootstrap, rng)
            vectors.append(vector)
            shares.append(derivative.mean(0).astype(np.float32))
            rows.append(
                {
                    "class": name,
                    "concept": k,
                    "score": share[0],
                    "ci_low": low,
                    "ci_high": high,
                    "derivative": mean[0],
                    "cosine": cosine[0],
                    "n_members": len(members[name, k]),
                    "cav_accuracy": accuracy.mean(),
                }
            )
        cavs[name], sensitivity[name] = np.stack(vectors), np.stack(shares)
    return Tcav(_rank(pd.DataFrame(rows), null), cavs, sensitivity)


def rescore(
    network,
    cavs: dict[str, np.ndarray],
    clips: dict[str, np.ndarray],
    classes: tuple[str, ...],
    target: str,
    *,
    device="cpu",
) -> pd.DataFrame:
    """Score known CAVs for another class output, without fitting them again.

    Parameters
    ----------
    network, clips, classes, target, device
        See :func:`score`.
    cavs : dict of str to numpy.ndarray
        For each class ``(K, R, D)``, as in :class:`Tcav`.

    Returns
    -------
    pandas.DataFrame
        One row a concept: ``class``, ``concept``, ``score``, ``derivative``.
    """
    parts = []
    chosen = {name: clips[name] for name in cavs}
    for name, slope in gradients.by_class(network, chosen, classes, target, device=device):
        vectors = cavs[name]
        share, derivative, _ = _means(vectors, slope)
        columns = {"concept": np.arange(len(vectors)), "score": share, "derivative": derivative}
        parts.append(pd.DataFrame({"class": name} | columns))
    return pd.concat(parts, ignore_index=True)


def moments(concepts, features, random: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale of all samples of a study, by which its classifiers standardise.

    A class at a time is read, so that the memory does not grow with the number of classes.

    Parameters
    ----------
    concepts, features, random
        See :func:`score`.

    Returns
    -------
    mean, scale : numpy.ndarray
        ``(D,) float64``, see :func:`stce.cav.moments`.

    Raises
    ------
    ValueError
        If a feature is not finite.
    """
    blocks = (_rows(features, concepts.used(name)) for name in concepts.centres)
    mean, scale = cav.moments(chain([random], blocks))
    if not (np.isfinite(mean) & np.isfinite(scale)).all():
        where = "random clips" if not np.isfinite(random).all() else "supervoxels"
        raise ValueError(
            f"The features of the {where} hold NaN or infinite values; look for weights that "
            "diverged, or a normalisation (mean, std) that is not the network's."
        )
    return mean, scale


def _rows(features, rows: np.ndarray) -> np.ndarray:
    return features[rows] if isinstance(features, np.ndarray) else features.oindex[rows]


@dataclass(frozen=True)
class _Pool:
    """What all classes share: the random groups, standardised with all samples of the study."""

    groups: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    how: dict


def _fit_class(pool: _Pool, own: np.ndarray, positives: list[np.ndarray]) -> list[tuple]:
    """Return for each concept of a class its CAV against each group, and their accuracy."""
    own = cav.standard(own, pool.mean, pool.scale)
    found = cav.against(own, positives, pool.groups, **pool.how)
    scale = pool.scale.astype(np.float32)
    return [(cav.unit(weights / scale), accuracy) for weights, accuracy in found]


def _null_cavs(random: np.ndarray, groups: np.ndarray, scale: np.ndarray, how: dict) -> np.ndarray:
    """Return the CAVs of each group against all others, ``(R, R - 1, D)``."""
    n, size = groups.shape
    first, second = np.triu_indices(n, 1)
    problems = np.hstack([groups[first], groups[second]])
    weights, _ = cav.classifiers(
        random, random @ random.T, problems, np.repeat([1, -1], size), **how
    )
    vectors = np.empty((n, n, random.shape[1]))
    # The other way round the classifier is the same, with its sign changed.
    vectors[first, second] = cav.unit(weights / scale)
    vectors[second, first] = -vectors[first, second]
    return vectors[~np.eye(n, dtype=bool)].reshape(n, n - 1, -1)


def _means(vectors: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return score, mean derivative and its cosine form for CAVs ``(K, R, D)``, each ``(K,)``."""
    derivative = vectors @ gradient.T.astype(np.float64)
    length = np.linalg.norm(gradient.astype(np.float64), axis=1)
    cosine = derivative / np.where(length > 0, length, 1)
    return tuple(x.mean(axis=(1, 2)) for x in (derivative > 0, derivative, cosine))


def _interval(positive: np.ndarray, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``(R, N) bool`` over both axes."""
    groups, clips = positive.shape
    draw_groups = rng.multinomial(groups, np.full(groups, 1 / groups), n)
    draw_clips = rng.multinomial(clips, np.full(clips, 1 / clips), n)
    # Whole numbers until the division, so that a score of 1 has exactly 1 as its interval.
    means = ((draw_groups @ positive) * draw_clips).sum(1) / positive.size
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _share_beyond(null: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the Monte-Carlo p-value of each distance from the null's centre."""
    # A hair of slack: values equal but for rounding count as "at least as far".
    within = (np.abs(null)[None] < np.abs(values)[:, None] - 1e-12).sum(1)
    return (1 + len(null) - within) / (1 + len(null))


def _rank(table: pd.DataFrame, null: list[tuple[np.ndarray, ...]]) -> pd.DataFrame:
    shares, _, cosines = (np.concatenate(x) for x in zip(*null, strict=True))
    table["p"] = _share_beyond(cosines, table.pop("cosine").to_numpy())
    table["p_score"] = _share_beyond(shares - 0.5, table["score"].to_numpy() - 0.5)
    table["q_value"] = false_discovery_control(table["p"])
    table = table.sort_values(
        ["class", "score", "derivative", "concept"], ascending=[True, False, False, True]
    )
    table.insert(2, "rank", table.groupby("class").cumcount() + 1)
    return table.reset_index(drop=True)
