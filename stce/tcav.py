"""Importance of concepts: directional derivatives along CAVs and their scores (paper 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import scipy  # loads a part of it when that is first used, and so does not delay what needs none
import torch
from joblib import Parallel, delayed
from torch import Tensor

from stce import cav
from stce.concepts import Concepts
from stce.engine.device import resolve
from stce.engine.resampling import mean_interval, p_value
from stce.engine.storage import read_parts, read_rows, write_parts
from stce.engine.threads import forward
from stce.engine.workers import spread

TARGETS = ("logit", "log_prob")


@dataclass(frozen=True)
class Samples:
    """What concepts are scored from; `dataclasses.replace` gives it other groups or concepts.

    Attributes
    ----------
    concepts, features : stce.concepts.Concepts and array_like
        The concepts of each class, and ``(S, D) float32``, numpy or zarr, of the supervoxels that
        they refer to.
    clips : dict of str to numpy.ndarray
        For each class its ``(N, D) float32`` of :func:`stce.features.extract_layer`.
    random : numpy.ndarray
        ``(M, D) float32``, features of the random clips, see :class:`stce.features.Negatives`.
    groups : numpy.ndarray or dict of str to numpy.ndarray
        ``(R, m) int64``, rows of `random` for all classes or for each, of :func:`random_groups`;
        or for each class ``(K, R, m)``, for each of its concepts, of :func:`matched_groups`.
    classes, target : tuple of str, and {"logit", "log_prob"}, default "logit"
        Output names of the network, in order, and the class output, see :func:`slopes`.
    slopes : dict of str to numpy.ndarray, optional
        For each class the :func:`slopes` at its clips, where a network has no head for them.
    """

    concepts: Concepts
    features: np.ndarray
    clips: dict[str, np.ndarray]
    random: np.ndarray
    groups: np.ndarray | dict[str, np.ndarray]
    classes: tuple[str, ...]
    target: str = "logit"
    slopes: dict[str, np.ndarray] | None = None

    def groups_of(self, name: str) -> np.ndarray:
        """Return the random groups of a class, ``(R, m) int64``, or ``(K, R, m)``."""
        return self.groups[name] if isinstance(self.groups, dict) else self.groups

    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale of all samples, by which classifiers standardise, each ``(D,)``.

        A class at a time is read, so that the memory does not grow with the number of classes. See
        :func:`stce.cav.scaling`.
        """
        found = self.concepts
        blocks = (read_rows(self.features, found.used(name)) for name in found.centres)
        mean, scale = cav.scaling(chain([self.random], blocks))
        if not (np.isfinite(mean) & np.isfinite(scale)).all():
            where = "random clips" if not np.isfinite(self.random).all() else "supervoxels"
            raise ValueError(
                f"The features of the {where} hold NaN or infinite values; look for weights that "
                "diverged, or a normalisation (mean, std) that is not the network's."
            )
        return mean, scale

    def gradients(
        self, network, names: Iterable[str], device="cpu"
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield classes and the :func:`slopes` at their clips, computed unless they are given."""
        for name in names:
            if self.slopes is None:
                y = self.classes.index(name)
                slope = slopes(network, self.clips[name], y, self.target, device=device)
            else:
                slope = self.slopes[name]
            yield name, _finite(name, slope)


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
    cavs, sensitivity : dict of str to numpy.ndarray
        For each class the unit CAVs, ``(K, R, D) float32``, positive towards the concept, and the
        directional derivative of equation 1 at each clip, mean over groups, ``(K, N_y) float32``.
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
        write_parts(folder, scores=self.scores, cavs=self.cavs, sensitivity=self.sensitivity)

    @classmethod
    def load(cls, folder: str | Path) -> Tcav:
        """Read what :meth:`save` wrote."""
        return cls(*read_parts(folder, "scores", "cavs", "sensitivity"))


def random_groups(n_clips: int, n_groups: int, size: int, rng: np.random.Generator, owners=None):
    """Draw the groups of random clips (paper 4.1), ``(R, size) int64``.

    No clip occurs twice in a group; the groups are disjoint where there are clips enough. In the
    paper R is 50 and `size` 40. With `owners`, the classes of the clips ``(n_clips,) str``, each
    class has its groups in a dict, of clips of the others. No more clips than one group needs are
    refused with a ValueError.

    Examples
    --------
    >>> random_groups(6, 2, 3, np.random.default_rng(0)).shape
    (2, 3)
    """
    if owners is not None:
        others = {name: np.flatnonzero(owners != name) for name in np.unique(owners).tolist()}
        return {n: i[random_groups(len(i), n_groups, size, rng)] for n, i in others.items()}
    if n_clips <= size:  # all groups would be one
        raise ValueError(
            f"There are {n_clips} random clips, too few for groups of {size}. Raise random or "
            "n_random_clips (of other classes: n_discovery), add films, lower n_keep, or take "
            "their supervoxels (random_from)."
        )
    if n_clips >= n_groups * size:
        return rng.permutation(n_clips)[: n_groups * size].reshape(n_groups, size)
    return np.stack([rng.permutation(n_clips)[:size] for _ in range(n_groups)])


def matched_groups(
    found: Concepts, places: np.ndarray, negatives, n_groups: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw for each concept groups of supervoxels that are as large and lie where its own do.

    What a CAV then tells apart is neither size nor place. For each supervoxel of a concept the
    `n_groups` negatives that are most like it are dealt out, one to each group. Likeness is the
    distance of size and centre, each in standard deviations of the negatives.

    Parameters
    ----------
    found, places : stce.concepts.Concepts and numpy.ndarray
        K concepts a class, and of the supervoxels among which they were found the ``(S, 4)`` of
        :meth:`stce.supervoxels.Supervoxels.places`.
    negatives : stce.features.Negatives
        Supervoxels to draw from; where they have owners, those of other classes. A class with fewer
        than `n_groups` of them is refused with a ValueError.
    n_groups, rng : int and numpy.random.Generator
        Groups a concept, R, and the source of the deals.

    Returns
    -------
    dict of str to numpy.ndarray
        ``(K, R, m) int64``, rows of the negatives, m the largest number of members. Where a concept
        has fewer, the last entries repeat its first.
    """
    there, groups = negatives.cut.places()[negatives.rows], {}
    for name, centres in found.centres.items():
        other = np.full(len(there), True) if negatives.owners is None else negatives.owners != name
        rows = np.flatnonzero(other)
        if len(rows) < n_groups:
            raise ValueError(
                f"There are {len(rows)} supervoxels to tell {name!r} apart from, fewer than "
                f"n_groups={n_groups}; give more clips, or lower n_groups."
            )
        scale = there[rows].std(axis=0)
        scale[scale == 0] = 1
        near = scipy.spatial.cKDTree(there[rows] / scale)
        members = [found.members(name, k) for k in range(len(centres))]
        size, dealt = max(map(len, members)), []
        for mine in members:
            like = near.query(places[mine] / scale, n_groups)[1].reshape(len(mine), n_groups)
            like = rng.permuted(like, axis=1)
            dealt.append(rows[np.resize(like, (size, n_groups)).T])
        groups[name] = np.stack(dealt)
    return groups


@torch.inference_mode(False)  # whatever the caller has switched off
@torch.enable_grad()
def slopes(
    network, clips: np.ndarray, class_index: int, target: str = "logit", *, device="cpu"
) -> np.ndarray:
    """Return the gradient of a class output by layer l (equation 1), ``(N, D) float32``.

    Parameters
    ----------
    network, class_index : stce.models.network.Network and int
        Its head is differentiated, in evaluation mode, on `device`; the class y.
    clips : numpy.ndarray
        ``(N, D) float32``, clips at layer l, of :func:`stce.features.extract_layer`.
    target : {"logit", "log_prob"}, default "logit"
        The class output. Where the head is one linear map, the gradient of the logit is the
        same for every clip; that of the log-probability is not.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; choose one of {', '.join(TARGETS)}.")
    network = network.to(device).eval()

    def slope(part: slice) -> Tensor:
        z = some[part].requires_grad_()
        gradient = network.derivative(network.logits(z), z, class_index, target)
        # A pooled feature stands for all positions.
        return gradient.unflatten(1, (network.n_features, -1)).sum(2) if network.grid else gradient

    found = []
    for start in range(0, len(clips), 256):
        some = torch.from_numpy(clips[start : start + 256]).to(device)
        found.append(forward(network, slope, len(some), device).cpu().numpy())
    return np.concatenate(found)


def score(
    network,
    samples: Samples,
    *,
    strength: float = 1.0,
    n_bootstrap: int = 1000,
    seed: int = 0,
    device="cpu",
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
    network, samples : stce.models.network.Network and Samples
        The network to explain; the concepts, their features, clips and random clips. Features or
        gradients that are not finite are refused with a ValueError.
    strength, device : float, default 1, and torch.device, default "cpu"
        See :func:`stce.cav.classifiers`; the head runs there, too.
    n_bootstrap, seed : int, default 1000 and 0
        Resamples of clips and groups for the interval, and their seed.

    References
    ----------
    Kim et al., Interpretability beyond feature attribution: quantitative testing with concept
    activation vectors, 2018. Benjamini and Hochberg, 1995,
    :doi:`10.1111/j.2517-6161.1995.tb02031.x`.
    """
    rng = np.random.default_rng(seed)
    mean, scale = samples.scaling()
    how = {"strength": strength, "device": (device := resolve(device))}
    random = cav.standard(samples.random, mean, scale)
    # A class at a time: the memory this takes does not grow with the number of classes.
    shared = spread((random, mean, scale, how))
    fitted = Parallel(return_as="generator")(
        delayed(_fit_class)(shared, samples.groups_of(name), *_members(samples, name))
        for name in samples.clips
    )
    random, null_cavs = (samples.random - mean) / scale, None
    rows, cavs, sensitivity, null = [], {}, {}, []
    known = samples.gradients(network, samples.clips, device)
    for (name, slope), made in zip(known, fitted, strict=True):
        if null_cavs is None or isinstance(samples.groups, dict):
            groups = samples.groups_of(name)
            if groups.ndim == 3:  # one group of each concept in turn
                turn = np.arange(groups.shape[1])
                groups = groups[turn % len(groups), turn]
            null_cavs = _null_cavs(random, groups, scale, how)
        null.append(_means(null_cavs, slope))
        vectors, shares = [], []
        for k, (vector, accuracy, n_members) in enumerate(made):
            derivative = vector @ slope.T.astype(np.float64)
            share, along, cosine = (x[0] for x in _means(vector[None], slope))
            ends = mean_interval(derivative > 0, n_bootstrap, rng)
            vectors.append(vector)
            shares.append(derivative.mean(0).astype(np.float32))
            rows.append((name, k, share, *ends, along, cosine, n_members, accuracy.mean()))
        cavs[name], sensitivity[name] = np.stack(vectors), np.stack(shares)
    columns = ["class", "concept", "score", "ci_low", "ci_high", "derivative", "cosine"]
    table = pd.DataFrame(rows, columns=[*columns, "n_members", "cav_accuracy"])
    return Tcav(_rank(table, null), cavs, sensitivity)


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

    Takes `cavs` of :class:`Tcav`, `clips`, `classes` and `target` of :class:`Samples`. Returns one
    row a concept: ``class``, ``concept``, ``score``, ``derivative``.
    """
    parts = []
    for name, vectors in cavs.items():
        slope = slopes(network, clips[name], classes.index(name), target, device=device)
        share, derivative, _ = _means(vectors, _finite(name, slope))
        columns = {"concept": np.arange(len(share)), "score": share, "derivative": derivative}
        parts.append(pd.DataFrame({"class": name} | columns))
    return pd.concat(parts, ignore_index=True)


def _finite(name: str, slope: np.ndarray) -> np.ndarray:
    if not np.isfinite(slope).all():
        raise ValueError(
            f"The gradients of class {name!r} hold NaN or infinite values, so no score means any"
            "thing; look for a logarithm, a root or a division in the head, or clips not finite."
        )
    return slope


def _members(samples: Samples, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the features of a class's supervoxels, and of each concept its rows among them."""
    found = samples.concepts
    used = found.used(name)
    members = (found.members(name, k) for k in range(len(found.centres[name])))
    return read_rows(samples.features, used), [np.searchsorted(used, rows) for rows in members]


def _fit_class(shared: tuple, groups: np.ndarray, own: np.ndarray, positives: list) -> list[tuple]:
    """Return of each concept of a class its CAVs, their accuracy, and how many members it has."""
    random, mean, scale, how = shared
    own, alike = cav.standard(own, mean, scale), groups.ndim == 2
    # Against the same groups concepts are fitted together: what groups share is found once.
    sets = [(positives, groups)] if alike else zip(([p] for p in positives), groups, strict=True)
    found = [one for rows, drawn in sets for one in cav.against(own, rows, random[drawn], **how)]
    both = zip(found, positives, strict=True)
    scale = scale.astype(np.float32)
    return [(cav.unit(weights / scale), told, len(rows)) for (weights, told), rows in both]


def _null_cavs(random: np.ndarray, groups: np.ndarray, scale: np.ndarray, how: dict) -> np.ndarray:
    """Return the CAVs of each group against all others, ``(R, R - 1, D)``."""
    n, size = groups.shape
    used, place = np.unique(groups, return_inverse=True)
    random, groups = random[used], place.reshape(groups.shape)
    first, second = np.triu_indices(n, 1)
    problems, sign = np.hstack([groups[first], groups[second]]), np.repeat([1, -1], size)
    weights, _ = cav.classifiers(random, random @ random.T, problems, sign, **how)
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


def _rank(table: pd.DataFrame, null: list[tuple[np.ndarray, ...]]) -> pd.DataFrame:
    shares, _, cosines = (np.concatenate(x) for x in zip(*null, strict=True))
    table["p"] = p_value(np.abs(cosines), table.pop("cosine").abs().to_numpy())
    table["p_score"] = p_value(np.abs(shares - 0.5), (table["score"] - 0.5).abs().to_numpy())
    table["q_value"] = scipy.stats.false_discovery_control(table["p"])
    best = {"class": True, "score": False, "derivative": False, "concept": True}
    table = table.sort_values(list(best), ascending=list(best.values()))
    table.insert(2, "rank", table.groupby("class").cumcount() + 1)
    return table.reset_index(drop=True)
