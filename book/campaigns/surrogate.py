"""Does the explanation explain the logits? They are predicted from concepts alone, by a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from book.campaigns.causal import logits
from book.campaigns.replays import GROUP, scored_runs
from stce import features
from stce.concepts import assign
from stce.engine import resampling
from stce.engine.resampling import interval
from stce.study.finished import Finished

STRENGTHS = np.logspace(-2, 4, 13)


def described(
    features: np.ndarray,
    table: pd.DataFrame,
    n_clips: int,
    centres: Mapping[str, np.ndarray],
    directions: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Describe each clip by its concepts: which are there, how large, how much they are so.

    Parameters
    ----------
    features, table : numpy.ndarray and pandas.DataFrame
        ``(S, D)`` of the kept supervoxels of N clips, and their rows, with ``video`` and
        ``fraction``.
    n_clips : int
        N.
    centres, directions : mapping of str to numpy.ndarray
        ``(K, D)`` of each class: where its concepts lie, and their mean CAVs.

    Returns
    -------
    numpy.ndarray
        ``(N, 3 K Y) float64``. Of each concept of each class: 1 if a supervoxel of the clip is
        nearest to it among those of its class (equation 4), the share of the clip that these
        supervoxels have, summed over levels, and their mean activation along the CAV (0 if none).
    """
    video, share = table["video"].to_numpy(), table["fraction"].to_numpy()
    sides = []
    for name, centre in centres.items():
        concept = assign(features, centre)
        along = (features * directions[name][concept]).sum(1)
        cell = video * len(centre) + concept
        count, area, total = (
            np.bincount(cell, weights, n_clips * len(centre)) for weights in (None, share, along)
        )
        each = count > 0, area, total / np.maximum(count, 1)
        sides += [side.reshape(n_clips, -1).astype(float) for side in each]
    return np.concatenate(sides, axis=1)


def fit(
    known: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the logits of unseen clips by a ridge regression on known ones.

    Takes descriptions ``(N, P)`` and logits ``(N, Y)`` of both; the strength of the ridge is chosen
    by leaving out one known clip at a time. Returns the squared error of each unseen clip, and that
    of the known clips' mean, both ``(N,)``, summed over logits.

    Examples
    --------
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> error, mean = fit((x[:4], x[:4, :1]), (x[4:], x[4:, :1]))
    >>> bool((error < 0.01 * mean).all())
    True
    """
    (x, y), (x_unseen, y_unseen) = known, unseen
    model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(x, y)
    told = model.predict(x_unseen).reshape(y_unseen.shape)
    return ((y_unseen - told) ** 2).sum(1), ((y_unseen - y.mean(0)) ** 2).sum(1)


def explained(errors: Mapping[str, np.ndarray], mean: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Return the share of the logits' variance that each description explains on unseen clips.

    Takes the squared errors of each, and those of the mean, ``(N,)``, of :func:`fit`; returns one
    row a ``description``: ``explained`` (1 is all, below 0 is worse than the mean), with a 95 %
    interval over clips, ``ci_low`` and ``ci_high``.
    """
    draws = resampling.resamples(len(mean), 1000, np.random.default_rng(seed))
    rows = []
    for name, error in errors.items():
        low, high = interval(1 - (draws @ error) / (draws @ mean))
        rows.append((name, 1 - error.sum() / mean.sum(), low, high))
    return pd.DataFrame(rows, columns=["description", "explained", "ci_low", "ci_high"])


def assess(
    known: Mapping, unseen: Mapping, centres: Mapping, directions: Mapping, *, seed: int = 0
) -> pd.DataFrame:
    """Tell how well the concepts of a clip predict all of its logits, beside what else could.

    Beside the concepts' own description (:func:`described`) stand: *random concepts*, the same with
    as many centres drawn among the supervoxels and directions drawn by chance; *shuffled clips*,
    the concepts' with the known clips dealt to other logits; *random directions*, as many numbers,
    of the clips' features along directions drawn by chance; and the *features* themselves, the
    ceiling of a line.

    Parameters
    ----------
    known, unseen : mapping of str to array
        ``features`` ``(S, D)`` and ``table`` of the supervoxels, ``whole`` ``(N, D)`` and
        ``logits`` ``(N, Y)`` of the clips: those in which concepts were found, and others.
    centres, directions : mapping of str to numpy.ndarray
        See :func:`described`.
    seed : int, default 0
        Of all that is drawn.

    Returns
    -------
    pandas.DataFrame
        See :func:`explained`.
    """
    rng = np.random.default_rng(seed)
    drawn = {
        name: known["features"][rng.choice(len(known["features"]), len(centre), replace=False)]
        for name, centre in centres.items()
    }
    chance = {name: rng.standard_normal(of.shape) for name, of in directions.items()}
    n_columns = 3 * sum(map(len, centres.values()))
    turned = rng.standard_normal((known["whole"].shape[1], n_columns))

    def both(describe):
        return [describe(side) for side in (known, unseen)]

    def by(*given):
        return lambda side: described(side["features"], side["table"], len(side["logits"]), *given)

    own = both(by(centres, directions))
    given = {
        "concepts": own,
        "random concepts": both(by(drawn, chance)),
        "shuffled clips": [rng.permutation(own[0]), own[1]],
        "random directions": both(lambda side: side["whole"] @ turned),
        "features": both(lambda side: side["whole"]),
    }
    errors = {}
    for name, (x, x_unseen) in given.items():
        errors[name], mean = fit((x, known["logits"]), (x_unseen, unseen["logits"]))
    return explained(errors, mean, seed)


def of_run(it: Finished, seed: int = 0) -> pd.DataFrame:
    """Tell how well the concepts of a run predict its logits: learnt on the clips they are from.

    See :func:`assess`; the errors are those of the test clips.
    """
    how = {"device": it.device, "progress": False}
    made = it.run.parameters("cluster")
    z = features.extract(it.network, *it.test, stretch=made["stretch"], **how)
    sides = [
        {
            "features": of,
            "table": part.supervoxels.table,
            "whole": features.extract_clips(it.network, part.clips, device=it.device),
            "logits": logits(it.network, part.clips),
        }
        for of, part in ((np.asarray(it.features[:]), it.discovery), (z, it.test))
    ]
    directions = {name: cavs.mean(1) for name, cavs in it.tcav.cavs.items()}
    return assess(*sides, it.concepts.centres, directions, seed=seed)


def explained_logits(seed: int) -> list[dict]:
    """Ask each run of the group whose concepts are scored with this seed."""
    rows = []
    for name, run in scored_runs(seed, GROUP).items():
        rows += of_run(Finished(run), seed).assign(run=name).to_dict("records")
    return rows


TRIALS: dict[str, Callable[[int], list[dict]]] = {"surrogate": explained_logits}
