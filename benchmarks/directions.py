"""Concept activation vectors and scores, against captum and against scikit-learn."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.runner import Check, Pair
from benchmarks.worlds import Directions, directions
from stce import cav, tcav

__all__ = ["captum", "fit_cavs", "scikit_learn"]


def _pool(world: Directions) -> np.ndarray:
    width = world.clips.shape[1]
    return np.concatenate([world.positives.reshape(-1, width), world.negatives.reshape(-1, width)])


def fit_cavs(world: Directions, device="cpu") -> np.ndarray:
    """Return the unit CAVs of all concepts against all groups, our way: ``(K, R, D)``."""
    n_concepts, size, width = world.positives.shape
    own = world.positives.reshape(-1, width)
    mean, scale = cav.scaling([own, world.negatives.reshape(-1, width)])
    own, groups = (cav.standard(z, mean, scale) for z in (own, world.negatives))
    concepts = np.arange(len(own)).reshape(n_concepts, size)
    fitted = cav.against(own, concepts, groups, held_out=False, device=device)
    return np.stack([cav.unit(weights / scale.astype(np.float32)) for weights, _ in fitted])


def _logistic() -> LogisticRegression:
    # At the default tolerance (1e-4) lbfgs stops early: some CAVs have a cosine of 0.997 with the
    # solution. One digit more costs three steps and gives 0.9999.
    return LogisticRegression(tol=1e-5, max_iter=1000)


def _apart(ours: np.ndarray, theirs: np.ndarray) -> Check:
    cosine = (ours * theirs).sum(-1)
    return Check("1 - smallest cosine of two CAVs", float(1 - cosine.min()), 1e-3)


def scikit_learn(quick: bool, device: str) -> Pair:
    """Fit all classifiers: together, or one by one with scikit-learn."""
    world = directions(quick)
    repeats = 2 if quick else 5
    parts = np.array_split(np.arange(len(world.positives)), repeats)

    def theirs(i: int) -> np.ndarray:
        pool = _pool(world)
        mean, scale = cav.scaling([pool])
        standard = (pool - mean) / scale
        n_concepts, size, _ = world.positives.shape
        rows = np.arange(len(standard)).reshape(-1, size)
        vectors = []
        for k in parts[i]:
            for negatives in rows[n_concepts:]:
                x = standard[np.concatenate([rows[k], negatives])]
                vectors.append(_logistic().fit(x, np.repeat([1, -1], size)).coef_[0] / scale)
        return cav.unit(np.array(vectors)).reshape(len(parts[i]), len(world.negatives), -1)

    count = world.positives.shape[0] * world.negatives.shape[0]
    return Pair(
        ours=lambda i: fit_cavs(world, device),
        theirs=theirs,
        same=lambda mine, other, i: [_apart(mine[parts[i]], other)],
        work=f"{count} linear classifiers of {2 * world.positives.shape[1]} samples, "
        f"{world.clips.shape[1]} features",
        against="scikit-learn LogisticRegression (lbfgs), one by one",
        measured=f"each pair: all of ours, another 1/{repeats} of theirs; all pairs: all of both",
        target=50.0,
        repeats=repeats,
        share=1 / repeats,
    )


def captum(quick: bool, device: str) -> Pair:
    """Fit all CAVs and score them by equation 2: with stce, or with captum's TCAV."""
    from captum.concept import TCAV, Classifier, Concept

    world = directions(quick)
    world.head.to(device)
    repeats = 2 if quick else 5
    n_concepts, n_groups = len(world.positives), len(world.negatives)
    parts = np.array_split(np.arange(n_concepts), repeats)
    mean, scale = cav.scaling([_pool(world)])

    class Logistic(Classifier):
        """scikit-learn's classifier on features standardised as ours are."""

        def __init__(self):
            self.model = _logistic()

        def train_and_eval(self, dataloader, **_):
            batches = [(x.cpu().numpy(), y.cpu().numpy()) for x, y in dataloader]
            x, y = (np.concatenate(values) for values in zip(*batches, strict=True))
            self.model.fit((x - mean) / scale, y)

        def weights(self):
            vector = cav.unit(self.model.coef_[0] / scale)
            return torch.from_numpy(np.stack([-vector, vector]))

        def classes(self):
            return self.model.classes_.tolist()

    def concept(number: int, values: np.ndarray) -> Concept:
        return Concept(number, f"concept{number}", [torch.from_numpy(values).to(device)])

    def ours(i: int):
        vectors = fit_cavs(world, device)
        clips = {"class": world.clips}
        names = ("class", "other")
        scores = tcav.rescore(world.head, {"class": vectors}, clips, names, "logit", device=device)
        return vectors, scores["score"].to_numpy()

    def theirs(i: int):
        concepts = [concept(k, world.positives[k]) for k in parts[i]]
        groups = [concept(n_concepts + r, z) for r, z in enumerate(world.negatives)]
        sets = [[c, g] for c in concepts for g in groups]
        with tempfile.TemporaryDirectory() as folder:
            method = TCAV(world.head, ["entry"], classifier=Logistic(), save_path=folder)
            inputs = torch.from_numpy(world.clips).to(device)
            scores = method.interpret(inputs, sets, target=0)
            keys = [f"{c.id}-{g.id}" for c, g in sets]
            vectors = [method.cavs[key]["entry"].stats["weights"][0].numpy() for key in keys]
        share = [float(scores[key]["entry"]["sign_count"][0]) for key in keys]
        shape = len(concepts), n_groups
        return np.array(vectors).reshape(*shape, -1), np.array(share).reshape(shape).mean(1)

    def same(mine, other, i: int) -> list[Check]:
        difference = np.abs(mine[1][parts[i]] - other[1]).max()
        return [
            Check("largest difference of two scores", float(difference), 0.02),
            _apart(mine[0][parts[i]], other[0]),
        ]

    return Pair(
        ours=ours,
        theirs=theirs,
        same=same,
        work=f"CAVs and scores of {n_concepts} concepts against {n_groups} groups, "
        f"{world.clips.shape[1]} features, {len(world.clips)} class clips",
        against="captum TCAV with scikit-learn's classifier and the features given",
        measured=f"each pair: all of ours, another 1/{repeats} of theirs; all pairs: all of both",
        target=100.0,
        repeats=repeats,
        share=1 / repeats,
    )
