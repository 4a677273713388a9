"""Concepts matched between runs: the same run, renamed concepts, other supervoxels, chance."""

import numpy as np
import pandas as pd
import pytest
import torch

from stce import tcav
from stce.concepts import cluster
from stce.evaluation import stability
from stce.models.adapt import Explainable
from stce.supervoxels import Supervoxels


def _run(volumes, features, centres):
    rows = [(v, 0, s) for v, volume in enumerate(volumes) for s in np.unique(volume)]
    table = pd.DataFrame(rows, columns=["video", "level", "label"])
    values = np.array([features[s] for s in table["label"]], np.float32)[:, None]
    return Supervoxels(np.asarray(volumes)[:, None], table), values, np.array(centres)[:, None]


def test_overlap_by_hand():
    halves = np.repeat([1, 2], 8).reshape(1, 4, 4).astype(np.uint8)
    quarters = np.repeat([1, 2, 3, 4], 4).reshape(1, 4, 4).astype(np.uint8)
    first = _run([halves, halves], {1: 0.0, 2: 9.0}, [0.0, 9.0])
    # Other supervoxels, and the concepts the other way round: quarters 1 to 3 are one concept.
    second = _run([quarters, quarters], {1: 0.0, 2: 0.0, 3: 1.0, 4: 9.0}, [9.0, 0.0])
    index = stability.overlap(first, second, np.arange(2))
    np.testing.assert_allclose(index, [[0, 2 / 3], [1 / 2, 1 / 4]])
    pairs = stability.match(index)
    assert pairs["second"].tolist() == [1, 0]
    np.testing.assert_allclose(stability.overlap(first, first, np.arange(2)), np.eye(2))


def _scores(rng, names=("a", "b"), k=12):
    table = pd.DataFrame([(n, i) for n in names for i in range(k)], columns=["class", "concept"])
    return table.assign(derivative=rng.normal(size=len(table)))


def test_renamed_concepts_agree_fully():
    rng = np.random.default_rng(0)
    first = _scores(rng)
    centres = rng.normal(size=(12, 5))
    order = rng.permutation(12)
    renamed = first.assign(concept=first["concept"].map(dict(zip(order, range(12), strict=True))))
    pairs = stability.match(stability.by_distance(centres, centres[order]))
    table = stability.agreement(first, renamed, {"a": pairs, "b": pairs})
    np.testing.assert_allclose(table["correlation"], 1)
    assert table["p"].max() < 0.01
    unmatched = stability.agreement(first, renamed)
    assert unmatched["correlation"].max() < 0.9


def test_independent_runs_do_not_agree():
    rng = np.random.default_rng(1)
    covered, p = 0, []
    for _ in range(60):
        table = stability.agreement(_scores(rng), _scores(rng), n_random=200, n_bootstrap=200)
        both = table.set_index("class").loc["all"]
        covered += both.ci_low <= 0 <= both.ci_high
        p.append(both.p)
    assert covered >= 48
    assert np.mean(np.array(p) < 0.05) < 0.12


def test_constant_scores_have_no_rank():
    scores = _scores(np.random.default_rng(0))
    table = stability.agreement(scores, scores.assign(derivative=1.0))
    assert table["correlation"].isna().all()
    assert (table["p"] == 1).all()


def test_runs_of_other_classes_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no class in common: a and b"):
        stability.agreement(_scores(rng, ("a",)), _scores(rng, ("b",)))


class Net(torch.nn.Module, Explainable):
    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def logits(self, z):
        return z @ self.weights.T


def test_ours_does_not_depend_on_a_seed_and_sgd_does():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 30)).astype(np.float32)
    z[:30, 0] += 6
    found = cluster(z, np.zeros(60, int), np.arange(60), ("a",), n_concepts=2, n_keep=10)
    random = rng.normal(size=(80, 30)).astype(np.float32)
    groups = tcav.random_groups(80, 4, 10, rng)
    given = found, z, {"a": z[:5]}, random, groups, ("a",)
    net = Net(np.eye(1, 30, dtype=np.float32))
    ours = [tcav.score(net, *given, seed=s).scores["derivative"] for s in (0, 1)]
    assert ours[0].equals(ours[1])
    sgd = [stability.sgd_scores(net, *given, seed=s) for s in (0, 0, 1)]
    assert sgd[0].equals(sgd[1])
    assert not sgd[0]["derivative"].equals(sgd[2]["derivative"])
    planted = int(np.argmax(found.centres["a"][:, 0]))
    assert sgd[0]["derivative"].idxmax() == planted
