"""Do two runs tell the same story? Concepts matched between runs, and their scores compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy

from stce import cav, tcav
from stce.concepts import assign
from stce.engine.resampling import interval, p_value, rank_correlation
from stce.engine.storage import read_rows


def overlap(first: tuple, second: tuple, videos: np.ndarray) -> np.ndarray:
    """Return the Jaccard index of every concept of one run with every one of another, 0 to 1.

    A concept is, in each clip, the union of the supervoxels that are nearest to its centre, at all
    resolutions (equation 4). Voxels are compared, so the two runs may have other supervoxels and
    other networks, as long as the clips are the same. Returns ``(K_first, K_second)``.

    Parameters
    ----------
    first, second : tuple
        Of each run: ``supervoxels`` (:class:`stce.supervoxels.Supervoxels`), ``features``
        ``(S, D)`` of them, ``centres`` ``(K, D)`` of the class.
    videos : numpy.ndarray
        The clips of the class, as both runs count them.
    """
    sizes = [len(run[2]) for run in (first, second)]
    both, own = np.zeros(sizes), [np.zeros(k) for k in sizes]
    for video in videos:
        masks = [_concept_masks(*run, int(video)) for run in (first, second)]
        both += masks[0].astype(np.float32) @ masks[1].astype(np.float32).T
        for total, mask in zip(own, masks, strict=True):
            total += mask.sum(1)
    return both / np.maximum(own[0][:, None] + own[1][None] - both, 1)


def _concept_masks(supervoxels, features, centres, video: int) -> np.ndarray:
    """Return the voxels of each concept in one clip, ``(K, voxels) bool``."""
    rows = supervoxels.rows_of(video)
    owners = assign(read_rows(features, rows), centres)
    volumes = np.asarray(supervoxels.labels[video])
    masks = np.zeros((len(centres), volumes[0].size), bool)
    places = supervoxels.table[["level", "label"]].to_numpy()[rows]
    for concept, (level, label) in zip(owners, places, strict=True):
        masks[concept] |= volumes[level].ravel() == label
    return masks


def by_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the likeness of concepts by their ``(K, D)`` centres, all from one network.

    It is minus the Euclidean distance, ``(K_first, K_second)``.
    """
    return -np.linalg.norm(np.asarray(first)[:, None] - np.asarray(second)[None], axis=-1)


def match(likeness: np.ndarray) -> pd.DataFrame:
    """Pair the concepts of two runs one to one, with the greatest sum of likeness [1]_.

    Takes what :func:`overlap` or :func:`by_distance` gives; returns one row a pair, with ``first``,
    ``second`` (concepts) and ``likeness``.

    References
    ----------
    .. [1] H. W. Kuhn, "The Hungarian method for the assignment problem", 1955,
       :doi:`10.1002/nav.3800020109`.

    Examples
    --------
    >>> match(np.array([[0.9, 0.8], [0.7, 0.1]]))["second"].tolist()
    [1, 0]
    """
    first, second = scipy.optimize.linear_sum_assignment(likeness, maximize=True)
    return pd.DataFrame({"first": first, "second": second, "likeness": likeness[first, second]})


def agreement(
    first: pd.DataFrame,
    second: pd.DataFrame,
    pairs: Mapping[str, pd.DataFrame] | None = None,
    *,
    value: str = "derivative",
    n_random: int = 1000,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate the scores of matched concepts of two runs.

    Parameters
    ----------
    first, second : pandas.DataFrame
        Scores of the two runs, as of :class:`stce.tcav.Tcav`.
    pairs : mapping of str to pandas.DataFrame, optional
        For each class of :func:`match`; without it concepts of the same number are paired, which
        is right where both runs score the same concepts.
    value : str, default "derivative"
        Column compared. At a layer that feeds a linear head the score is a vote of a few
        groups and mostly 0 or 1: the derivative is the graded quantity.
    n_random, n_bootstrap, seed : int, default 1000, 1000 and 0
        Random pairings, the null; resamples of the pairs for the interval; and the seed of both.

    Returns
    -------
    pandas.DataFrame
        One row a class and one, "all", for the mean over classes: ``n`` pairs, ``likeness`` (mean
        of the pairs), ``correlation`` (Spearman) with its 95 % interval ``ci_low``, ``ci_high``,
        and ``p`` (one-sided, random pairings that agree as well).

    Raises
    ------
    ValueError
        If the runs have no class in common.

    Examples
    --------
    >>> scores = pd.DataFrame({"class": "a", "concept": range(6), "derivative": range(6)})
    >>> agreement(scores, scores)["correlation"].tolist()
    [1.0, 1.0]
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(first["class"]) & set(second["class"]))
    if not names:
        raise ValueError(
            f"The runs have no class in common: {', '.join(sorted(set(first['class'])))} and "
            f"{', '.join(sorted(set(second['class'])))}; compare runs on the same classes."
        )
    rows, again, chance = [], [], []
    for name in names:
        a, b = (t[t["class"] == name].set_index("concept")[value] for t in (first, second))
        if pairs is None:
            joined = a.index.intersection(b.index)
            pair = pd.DataFrame({"first": joined, "second": joined, "likeness": np.nan})
        else:
            pair = pairs[name]
        a, b = a[pair["first"]].to_numpy(float), b[pair["second"]].to_numpy(float)
        n = len(pair)
        draws = rng.integers(0, n, (n_bootstrap, n))
        again.append(rank_correlation(a[draws], b[draws]))
        chance.append(rank_correlation(a[None], rng.permuted(np.tile(b, (n_random, 1)), axis=1)))
        rows.append((name, n, pair["likeness"].mean(), float(rank_correlation(a, b))))
    table = pd.DataFrame(rows, columns=["class", "n", "likeness", "correlation"])
    means = table[["likeness", "correlation"]].mean()
    table.loc[len(table)] = {"class": "all", "n": table["n"].sum(), **means}
    for drawn in again, chance:  # the mean of what is known
        drawn.append(np.ma.masked_invalid(drawn).mean(0).filled(np.nan))
    table[["ci_low", "ci_high"]] = [interval(x) for x in again]
    table["p"] = np.concatenate(list(map(p_value, chance, table[["correlation"]].to_numpy())))
    return table


def sgd_scores(network, samples: tcav.Samples, *, seed: int = 0, device="cpu") -> pd.DataFrame:
    """Score concepts with the reference code's classifier: a hinge loss by stochastic descent.

    That code leaves it unseeded, so what changes with `seed` here, the order of the samples,
    changes from run to run there. Other arguments are those of :func:`stce.tcav.score`, but
    `slopes` of the samples are not looked at; the table is that of :func:`stce.tcav.rescore`.
    """
    from sklearn.linear_model import SGDClassifier

    vectors = {}
    for name, centres in samples.concepts.centres.items():
        cavs, drawn = [], samples.groups_of(name)
        for k in range(len(centres)):
            groups = drawn if drawn.ndim == 2 else drawn[k]
            rows = samples.concepts.members(name, k)[: groups.shape[1]]
            held = read_rows(samples.features, rows)
            for r, group in enumerate(groups):
                x = np.concatenate([held, samples.random[group[: len(rows)]]])
                y = np.repeat([1, -1], len(rows))
                state = np.random.RandomState([seed, k, r])
                model = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=state)
                cavs.append(cav.unit(model.fit(x, y).coef_[0]))
        vectors[name] = np.reshape(cavs, (len(centres), len(groups), -1))
    clips, classes, target = samples.clips, samples.classes, samples.target
    return tcav.rescore(network, vectors, clips, classes, target, device=device)
