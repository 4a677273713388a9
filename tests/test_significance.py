"""Tests of significance on features without signal, and with a planted one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from book.campaigns import noise
from stce import cav, tcav
from stce.concepts import Concepts
from stce.engine.resampling import mean_interval
from stce.evaluation import significance
from stce.evaluation.significance import random_sets
from stce.models.adapt import Explainable, Functions, adapt


class Net(torch.nn.Module, Explainable):
    """A linear head with given weights; only the head is used."""

    def __init__(self, weights):
        super().__init__()
        self.head = torch.nn.Linear(len(weights[0]), len(weights))
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(weights))

    def logits(self, z):
        return self.head(z)


def _sets(n_concepts, size, class_names=("a",)):
    """Concept k holds rows k * size and on; the classes follow each other."""
    parts = []
    for y, name in enumerate(class_names):
        rows = np.arange(n_concepts * size)
        columns = {"concept": rows // size, "supervoxel": rows + y * len(rows)}
        columns |= {"rank": rows % size, "distance": 0.0}
        parts.append(pd.DataFrame({"class": name} | columns))
    centres = {name: np.zeros((n_concepts, 1), np.float32) for name in class_names}
    return Concepts(pd.concat(parts, ignore_index=True), pd.DataFrame(), centres)


@pytest.mark.parametrize("clustered", [False, True])
def test_false_discovery_rate_without_signal(clustered):
    tables = [noise.study(seed, clustered=clustered, n=60) for seed in range(100)]
    everything = pd.concat(tables)
    # Nothing is true here, so the false discovery rate is the share of studies that find any.
    any_found = np.mean([(table["q_value"] < 0.05).any() for table in tables])
    assert any_found <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)
    assert (everything["p_weights"] < 0.05).mean() < 0.09
    assert 0.35 < everything["p_weights"].mean() < 0.65
    if not clustered:
        assert (everything["p_derivative"] < 0.05).mean() < 0.09
        assert (everything["q_accuracy"] < 0.05).mean() < 0.05
        assert (everything["verdict"] == "not separable").mean() > 0.9


def test_planted_signal_is_found():
    # With 99 shuffles p is 0.02 or more, which three concepts correct to 0.06.
    seeds = range(0, 20, 2)
    found = [noise.study(seed, planted=4.0, n=199).set_index("concept") for seed in seeds]
    assert sum(table.loc[0, "verdict"] == "for" for table in found) >= 8
    assert sum(table.loc[0, "rank"] == 1 for table in found) >= 8
    assert sum((table.loc[[1, 2], "q_value"] < 0.05).any() for table in found) <= 3


def _study(rng, sizes=(12, 12)):
    """Two classes; concept 0 of "a" lies along its gradient, concept 0 of "b" against its own."""
    d, size = 40, sizes[0]
    weights = rng.normal(size=(2, d)).astype(np.float32)
    z = rng.normal(size=(4 * size, d)).astype(np.float32)
    direction = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    z[:size] += 5 * direction[0]
    z[2 * size : 3 * size] -= 5 * direction[1]
    found = _sets(2, size, ("a", "b"))
    keep = ~((found.table["concept"] == 1) & (found.table["rank"] >= sizes[1]))
    found = Concepts(found.table[keep].reset_index(drop=True), found.sizes, found.centres)
    random = rng.normal(size=(120, d)).astype(np.float32)
    clips = {name: rng.normal(size=(6, d)).astype(np.float32) for name in "ab"}
    groups = tcav.random_groups(120, 10, size, rng)
    samples = tcav.Samples(found, z, clips, random, groups, ("a", "b"))
    net = Net(weights)
    return net, tcav.score(net, samples), samples


def test_for_against_and_not_separable():
    net, result, samples = _study(np.random.default_rng(0), sizes=(12, 7))
    before = [p.clone() for p in net.parameters()]
    scores = result.scores.copy()
    table = significance.assess(net, result, samples, n_null=99, n_shuffles=199)
    verdict = table.set_index(["class", "concept"])["verdict"]
    assert (verdict["a", 0], verdict["b", 0]) == ("for", "against")
    assert (verdict["a", 1], verdict["b", 1]) == ("not separable", "not separable")
    assert significance.summary(table).loc["a"].tolist() == [1, 0, 0, 1]
    assert (table["derivative_low"] <= table["derivative"] + 1e-6).all()
    assert (table["derivative"] <= table["derivative_high"] + 1e-6).all()
    assert (table["p"] >= table[["p_derivative", "p_weights"]].max(axis=1)).all()
    assert table[["p_score", "p_accuracy"]].notna().all(axis=None)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert result.scores.equals(scores)
    again = significance.assess(net, result, samples, n_null=99, n_shuffles=199)
    assert again.equals(table)


def test_random_sets_equal_every_pair_fitted():
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(40, 6)) * np.arange(1, 7)
    mean, scale = cav.scaling([clips])
    standard = (clips - mean) / scale
    gradient = rng.normal(size=(5, 6))
    options = {"n_groups": 4, "n_null": 4}
    tables, accuracy = significance.random_sets(
        standard, scale, {"a": gradient}, 10, rng=np.random.default_rng(7), **options
    )
    groups = tcav.random_groups(40, 4, 10, np.random.default_rng(7))
    sign, gram = np.repeat([1, -1], 10), standard @ standard.T
    for i in range(4):
        problems = np.stack([np.r_[groups[i], groups[j]] for j in range(4) if j != i])
        weights, _ = cav.classifiers(standard, gram, problems, sign)
        derivative = cav.unit(weights / scale) @ gradient.T
        assert tables["a"]["derivative"][i] == pytest.approx(derivative.mean(), abs=1e-6)
        assert tables["a"]["score"][i] == pytest.approx((derivative > 0).mean())
        right = cav.held_out_accuracy(gram, problems, sign)
        assert accuracy[i] == pytest.approx(right.mean())


def test_in_a_circle_every_group_meets_as_many_others_once():
    first, second = significance._pairs(30, 12)
    pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(pairs) == len(first) == 30 * 6
    assert (np.bincount(first, minlength=30) + np.bincount(second, minlength=30) == 12).all()


def test_sets_against_some_others_spread_like_sets_against_all():
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(600, 6))
    mean, scale = cav.scaling([clips])
    standard = (clips - mean) / scale
    gradient = {"a": rng.normal(size=(5, 6))}
    given = standard, scale, gradient, 10
    spread = [
        random_sets(*given, n_opponents=n, n_null=600, rng=np.random.default_rng(1))[0]["a"]
        for n in (12, 49)
    ]
    few, all_others = (table["derivative"].std() for table in spread)
    # sqrt(1 + 1 / 12) against sqrt(1 + 1 / 49): 3 % wider, so p-values err upwards.
    assert 1.0 < few / all_others < 1.06


def test_shuffled_weights_keep_their_values_and_lose_their_place():
    layer = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.BatchNorm1d(10))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    significance.shuffle_weights(layer, np.random.default_rng(0))
    for name, value in layer.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    assert not torch.equal(layer[0].weight, before["0.weight"])


def test_interval_covers_a_known_mean():
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(30, 1)) + rng.normal(size=(1, 40))
        low, high = mean_interval(values, 400, rng)
        inside += low < 0 < high
    assert inside >= 88


def test_too_few_random_clips():
    with pytest.raises(ValueError, match="20 random clips make 2 disjoint groups of 10"):
        significance.random_sets(
            np.zeros((20, 2)), np.ones(2), {}, 10, rng=np.random.default_rng(0), n_groups=5
        )


def test_adapted_model_is_shuffled_behind_its_layer_and_left_alone():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(1, 40, 3), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten()
    )
    model = torch.nn.Sequential(model, torch.nn.Linear(40, 2)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = adapt(model, "0", clip_shape=(1, 4, 8, 8), classes=("a", "b"))
    _, _, samples = _study(np.random.default_rng(0))
    result = tcav.score(network, samples)
    table = significance.assess(network, result, samples, n_null=20, n_shuffles=20)
    assert table["p_weights"].between(0, 1).all()
    assert table["p_weights"].nunique() > 1
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


def test_given_gradients_are_shuffled_where_there_are_no_weights():
    net, result, samples = _study(np.random.default_rng(0))
    slopes = dict(samples.gradients(net, "ab"))
    table = significance.assess(None, result, replace(samples, slopes=slopes), n_null=20)
    by_head = significance.assess(net, result, samples, n_null=20)
    verdicts = table.set_index(["class", "concept"])["p_weights"]
    assert (verdicts["a", 0], verdicts["b", 0]) == (2 / 401, 2 / 401)
    # Of a linear head the rows are the gradients, so both ways ask the same.
    apart = (table["p_weights"] - by_head["p_weights"]).abs()
    assert apart.max() < 0.15
    assert (table["p"] == table[["p_derivative", "p_weights"]].max(axis=1)).all()


def test_what_is_announced_is_what_was_assessed():
    net, result, samples = _study(np.random.default_rng(0))
    how = {"n_null": 99, "n_shuffles": 199}
    told = significance.against_chance(net, result, samples, **how).scores
    table = significance.assess(net, result, samples, **how)
    assert told["q_chance"].equals(table["q_value"].rename("q_chance"))
    assert told["verdict"].equals(table["verdict"])
    assert told.drop(columns=["q_chance", "verdict"]).equals(result.scores)
    again = significance.assess(net, replace(result, scores=told), samples, **how)
    assert again.equals(table)  # stage 7 of a run whose stage 4 has told it before


def test_features_of_ones_own_are_tested_by_the_weights_there_are():
    head, result, samples = _study(np.random.default_rng(0))
    few = {"n_null": 20, "n_shuffles": 20}
    wanted = significance.assess(head, result, samples, **few)["p_weights"]
    shape = (1, 1, 4, 10)
    module = Functions(lambda x: x.flatten(1), head.head, shape)
    found = significance.assess(module, result, samples, **few)
    assert found["p_weights"].tolist() == wanted.tolist()
    plain = Functions(lambda x: x.flatten(1), lambda z: head.head(z), shape)
    found = significance.assess(plain, result, samples, **few)  # its gradients are shuffled
    assert found["p_weights"].notna().all()


def _shifted(rng):
    """Return a study whose first concept is told apart best by features that hardly vary.

    The head reads all features alike; the concept is shifted along it where they vary much.
    """
    d, size = 24, 12
    spread = np.repeat([10.0, 0.1], d // 2)
    weights = rng.normal(size=(1, d)).astype(np.float32)
    along, other = weights[0] / np.linalg.norm(weights), rng.normal(size=d)
    z = rng.normal(size=(2 * size, d)) * spread
    z[:size] += spread * np.where(spread > 1, 5 * along, 3 * along + other)
    random = (rng.normal(size=(120, d)) * spread).astype(np.float32)
    groups = tcav.random_groups(120, 10, size, rng)
    clips = {"a": (rng.normal(size=(6, d)) * spread).astype(np.float32)}
    samples = tcav.Samples(_sets(2, size), z.astype(np.float32), clips, random, groups, ("a",))
    net = Net(weights)
    return net, tcav.score(net, samples, n_bootstrap=10), samples


def test_what_a_concept_shifts_is_asked_and_not_what_separates_it_best():
    ours, along_cav = [], []
    for seed in range(10):
        net, result, samples = _shifted(np.random.default_rng(seed))
        table = significance.assess(net, result, samples, n_null=99, n_shuffles=199)
        ours.append(table.set_index("concept").loc[0, "p_weights"])
        rng, vector = np.random.default_rng(0), result.cavs["a"][0].mean(0).astype(float)
        heads = rng.permuted(np.tile(net.head.weight.detach().numpy()[0], (199, 1)), axis=1)
        value, null = net.head.weight.detach().numpy()[0] @ vector, heads @ vector
        along_cav.append(2 * min((null >= value).mean(), (null <= value).mean()))
    assert max(ours) < 0.05
    assert sum(p < 0.05 for p in along_cav) <= 6
