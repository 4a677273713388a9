"""CAVs against scikit-learn, scores on worlds with planted and with absent concepts."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stce import cav, tcav
from stce.concepts import Concepts, cluster
from stce.engine import logistic
from stce.engine.resampling import p_value
from stce.features import Negatives
from stce.models.adapt import Explainable
from stce.supervoxels import Supervoxels


class LinearHead(torch.nn.Module, Explainable):
    """Stands for a network whose head is one linear map; only the head is used by TCAV."""

    def __init__(self, weights, curved=False):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        self.curved = curved

    def logits(self, z):
        return (torch.tanh(z) if self.curved else z) @ self.weights.T


def _standardised(samples):
    mean, scale = cav.scaling([samples])
    return (samples - mean) / scale


def _problem(rng, n, d, shift):
    x = rng.normal(size=(2 * n, d)) * rng.uniform(0.1, 5, d)
    x[:n] += shift
    return x, np.repeat([1, -1], n)


@pytest.mark.parametrize(
    ("n", "d", "shift"), [(40, 300, 0.5), (40, 10, 0.2), (15, 60, 0), (3, 5, 9)]
)
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_classifier_equals_scikit_learn(n, d, shift, strength):
    x, sign = _problem(np.random.default_rng(n + d), n, d, shift)
    standard = _standardised(x)
    problems = np.arange(2 * n)[None]
    w, b = cav.classifiers(standard, standard @ standard.T, problems, sign, strength=strength)
    peer = LogisticRegression(C=strength, tol=1e-12, max_iter=100_000, solver="newton-cholesky")
    peer.fit(standard, sign)
    cosine = cav.unit(w[0]) @ cav.unit(peer.coef_[0])
    assert cosine > 0.999999
    np.testing.assert_allclose(w[0], peer.coef_[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(b[0], peer.intercept_[0], rtol=1e-4, atol=1e-6)


def test_batch_equals_single():
    rng = np.random.default_rng(0)
    standard = _standardised(rng.normal(size=(60, 20)))
    gram = standard @ standard.T
    sign = np.repeat([1, -1], 10)
    problems = np.stack([rng.permutation(60)[:20] for _ in range(300)])
    together, _ = cav.classifiers(standard, gram, problems, sign)
    for i in (0, 123, 299):
        alone, _ = cav.classifiers(standard, gram, problems[i : i + 1], sign)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-7, atol=1e-10)


def test_held_out_accuracy_knows_signal_from_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 50))
    x[:40, 0] += 8
    standard = _standardised(x)
    sign = np.repeat([1, -1], 40)
    real = np.hstack([np.arange(40), np.arange(40, 80)])
    noise = np.stack([40 + rng.permutation(360)[:80] for _ in range(20)])
    accuracy = cav.held_out_accuracy(standard @ standard.T, np.vstack([real, noise]), sign)
    assert accuracy[0] > 0.95
    assert 0.4 < accuracy[1:].mean() < 0.6


def _world(rng, curved=False):
    """Class "a" reads feature 0, class "b" feature 1; concept 0 of "a" and 1 of "b" hold them."""
    weights = np.zeros((2, 16))
    weights[0, 0] = weights[1, 1] = 1.0
    weights[0, 1] = weights[1, 0] = -0.5
    middles = np.zeros((2, 3, 16))
    middles[:, 0, 0] = middles[:, 1, 1] = middles[:, 2, 2] = 6
    labels, truth = np.repeat([0, 1], 60), np.tile(np.repeat([0, 1, 2], 20), 2)
    z = (middles[labels, truth] + rng.normal(size=(120, 16))).astype(np.float32)
    found = cluster(z, labels, np.arange(120), ("a", "b"), n_concepts=3)
    clips = {c: rng.normal(size=(12, 16)).astype(np.float32) for c in ("a", "b")}
    random = rng.normal(size=(400, 16)).astype(np.float32)
    return LinearHead(weights, curved), found, z, clips, random, truth


@pytest.mark.parametrize("curved", [False, True])
def test_planted_concept_is_first_and_its_rival_last(curved):
    rng = np.random.default_rng(0)
    head, found, z, clips, random, truth = _world(rng, curved)
    groups = tcav.random_groups(400, 20, 20, rng)
    result = tcav.score(head, tcav.Samples(found, z, clips, random, groups, ("a", "b")))
    for name, best, worst in (("a", 0, 1), ("b", 1, 0)):
        order = [truth[found.members(name, k)[0]] for k in result.ranking(name)]
        assert (order[0], order[-1]) == (best, worst)
        table = result.scores[result.scores["class"] == name].set_index("rank")
        assert table.loc[1, "score"] > 0.95
        assert table.loc[3, "score"] < 0.1
        assert table.loc[[1, 3], "q_value"].max() < 0.1
        assert (table.ci_low <= table.score).all()
        assert (table.score <= table.ci_high).all()
        assert (table.cav_accuracy > 0.9).all()


def test_logit_of_a_linear_head_votes_and_log_prob_varies():
    rng = np.random.default_rng(0)
    head, *_ = _world(rng)
    z = rng.normal(size=(30, 16)).astype(np.float32)
    logit = tcav.slopes(head, z, 0, "logit")
    assert np.ptp(logit, axis=0).max() == 0
    assert np.allclose(logit[0], head.weights[0].detach())
    assert np.ptp(tcav.slopes(head, z, 0, "log_prob"), axis=0).max() > 0.1


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(3, 5)), curved=True)
    z, v = rng.normal(size=(4, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    derivative = tcav.slopes(head, z, 2, "log_prob") @ v
    step = 1e-2
    with torch.no_grad():
        up, down = (
            head.logits(torch.from_numpy(z + s * step * v)).log_softmax(1)[:, 2] for s in (1, -1)
        )
    np.testing.assert_allclose(derivative, (up - down) / (2 * step), rtol=1e-2, atol=1e-3)


def test_score_is_equation_two_by_hand():
    rng = np.random.default_rng(4)
    head, found, z, clips, random, _ = _world(rng, curved=True)
    groups = tcav.random_groups(400, 6, 20, rng)
    result = tcav.score(head, tcav.Samples(found, z, clips, random, groups, ("a", "b")))
    row = result.scores[(result.scores["class"] == "b") & (result.scores.concept == 2)].iloc[0]
    gradient = tcav.slopes(head, clips["b"], 1)
    derivative = result.cavs["b"][2] @ gradient.T
    assert row.score == pytest.approx((derivative > 0).mean())
    assert row.derivative == pytest.approx(derivative.mean(), abs=1e-6)
    assert np.allclose(np.linalg.norm(result.cavs["b"], axis=-1), 1, atol=1e-5)
    again = tcav.rescore(head, result.cavs, clips, ("a", "b"), "logit")
    both = result.scores.merge(again, on=["class", "concept"])
    np.testing.assert_allclose(both.derivative_x, both.derivative_y, atol=1e-6)
    np.testing.assert_allclose(both.score_x, both.score_y, atol=1 / 12)
    turned = tcav.rescore(head, result.cavs, clips, ("a", "b"), "log_prob")
    assert not np.allclose(turned.derivative, again.derivative)


def test_without_signal_few_concepts_are_significant():
    significant = total = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(200, 12)).astype(np.float32)
        random = rng.normal(size=(300, 12)).astype(np.float32)
        clips = {c: rng.normal(size=(8, 12)).astype(np.float32) for c in "ab"}
        # Concepts are arbitrary sets, not clusters: nothing tells them from the random clips.
        table = cluster(z[:100], np.zeros(100, int), np.arange(100), ("a",), n_concepts=5).table
        table["supervoxel"] = rng.permutation(len(table))
        both = pd.concat([table, table.assign(**{"class": "b"})], ignore_index=True)
        found = Concepts(both, both, {c: np.zeros((5, 12), np.float32) for c in "ab"})
        head = LinearHead(rng.normal(size=(2, 12)))
        groups = tcav.random_groups(300, 15, 20, rng)
        samples = tcav.Samples(found, z, clips, random, groups, ("a", "b"))
        q = tcav.score(head, samples).scores.q_value
        significant, total = significant + (q < 0.05).sum(), total + len(q)
    assert significant / total < 0.05


def test_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    head, found, z, clips, random, _ = _world(rng)
    groups = tcav.random_groups(400, 4, 20, rng)
    result = tcav.score(head, tcav.Samples(found, z, clips, random, groups, ("a", "b")))
    result.save(tmp_path)
    again = tcav.Tcav.load(tmp_path)
    assert again.scores.equals(result.scores)
    assert np.array_equal(again.cavs["a"], result.cavs["a"])
    twice = tcav.score(head, tcav.Samples(found, z, clips, random, groups, ("a", "b")))
    assert twice.scores.equals(result.scores)


def test_groups_are_disjoint_where_they_can_be():
    rng = np.random.default_rng(0)
    assert len(np.unique(tcav.random_groups(60, 3, 20, rng))) == 60
    tight = tcav.random_groups(30, 5, 20, rng)
    assert all(len(set(group)) == 20 for group in tight)


def _boxes(rng, across, shape=(16, 64, 64)):
    """Supervoxels as boxes: anywhere and of any size, or all alike but for where they lie in x."""
    if across is None:
        start = rng.integers(0, 12, (400, 3))
        stop = start + rng.integers(1, 5, start.shape)
        edges = np.stack([start, stop], axis=2) * np.array([[1], [4], [4]])
    else:
        edges = np.tile([[4.0, 8], [8, 16], [0, 4]], (len(across), 1, 1))
        edges[:, 2] += 60 * across[:, None]
    columns = ["t0", "t1", "y0", "y1", "x0", "x1"]
    table = pd.DataFrame(edges.reshape(-1, 6), columns=columns)
    table["fraction"] = np.prod((edges[..., 1] - edges[..., 0]) / shape, axis=1)
    return Supervoxels(np.zeros((1, 1, *shape), np.uint8), table.assign(video=0))


def test_matched_groups_are_of_other_classes_and_lie_where_the_concepts_do():
    rng = np.random.default_rng(0)
    cut, owners = _boxes(rng, None), np.repeat(["a", "b"], 200)
    negatives = Negatives(None, cut, np.arange(400), owners)
    places = cut.places()
    table = pd.DataFrame(
        {"class": np.repeat(["a", "b"], 30), "concept": np.tile([0] * 20 + [1] * 10, 2)}
    )
    table["supervoxel"] = [*rng.permutation(200)[:30], *(200 + rng.permutation(200)[:30])]
    table["rank"] = table.groupby(["class", "concept"]).cumcount()
    found = Concepts(table, None, {"a": np.zeros((2, 1)), "b": np.zeros((2, 1))})
    groups = tcav.matched_groups(found, places, negatives, 6, rng)
    drawn = tcav.random_groups(400, 6, 20, rng, owners)
    for name in ("a", "b"):
        assert groups[name].shape == (2, 6, 20)
        assert (owners[groups[name]] != name).all()
        # The smaller concept's groups repeat its ten.
        np.testing.assert_array_equal(groups[name][1][:, 10:], groups[name][1][:, :10])
        mine = places[found.members(name, 0)]
        apart = [np.abs(places[g] - mine).mean((0, 1)) for g in (groups[name][0], drawn[name])]
        assert (apart[0] < 0.7 * apart[1]).all()  # in size, and on each axis
        # Each member's six nearest are dealt out, one to each group.
        assert all(len(set(one)) == 6 for one in groups[name][0].T)
    again = tcav.matched_groups(found, places, negatives, 6, np.random.default_rng(1))
    assert {*again["a"][0][:, 0]} == {*groups["a"][0][:, 0]}
    message = "There are 200 supervoxels to tell 'a' apart from, fewer than n_groups=201"
    with pytest.raises(ValueError, match=message):
        tcav.matched_groups(found, places, negatives, 201, rng)


def test_what_only_its_place_tells_apart_is_no_concept_against_matched_groups():
    # Feature 0 says where a supervoxel lies, feature 1 what it is; the class reads both.
    rng = np.random.default_rng(0)
    across = np.concatenate(
        [rng.uniform(0.9, 1, 20), rng.uniform(0, 1, 20), rng.uniform(0, 1, 800)]
    )
    cut, z = _boxes(rng, across), rng.normal(size=(840, 8)).astype(np.float32)
    z[:, 0] = 3.5 * across + 0.1 * z[:, 0]
    z[:, 1] *= 0.3
    z[20:40, 1] += 4
    own = np.arange(40)
    found = cluster(z[:40], np.zeros(40, int), own, ("a",), n_concepts=2, n_keep=20)
    placed = next(k for k in (0, 1) if set(found.members("a", k)) == set(range(20)))
    head = LinearHead(np.array([[1, 0.6, 0, 0, 0, 0, 0, 0], [0] * 8]))
    clips = {"a": rng.normal(size=(12, 8)).astype(np.float32)}
    negatives = Negatives(None, cut, np.arange(40, 840))
    matched = tcav.matched_groups(found, cut.places(), negatives, 10, rng)
    results = {}
    for name, groups in (("random", tcav.random_groups(800, 10, 20, rng)), ("matched", matched)):
        samples = tcav.Samples(found, z[:40], clips, z[40:], groups, ("a", "b"))
        results[name] = tcav.score(head, samples)
    assert results["random"].ranking("a") == [placed, 1 - placed]
    assert results["matched"].ranking("a") == [1 - placed, placed]
    # Held out, nothing tells it from its like; the other concept is known either way.
    told = {n: r.scores.set_index("concept")["cav_accuracy"] for n, r in results.items()}
    assert told["random"][placed] > 0.75 and 0.4 < told["matched"][placed] < 0.6
    assert all(accuracy[1 - placed] > 0.95 for accuracy in told.values())


def test_errors():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="There are 10 random clips, too few for groups of 20"):
        tcav.random_groups(10, 2, 20, rng)
    with pytest.raises(ValueError, match="target is 'loss'; choose one of logit, log_prob"):
        tcav.slopes(LinearHead(np.eye(2)), np.zeros((1, 2), np.float32), 0, "loss")


def test_moments_of_blocks_are_those_of_the_whole():
    x = 1e4 + np.random.default_rng(0).normal(size=(90, 300)) * np.arange(1, 301)
    x[:, 7] = 5.0
    mean, scale = cav.scaling([x[:1], x[1:40], x[40:]])
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(scale[8:], x.std(0)[8:], rtol=1e-10)
    assert scale[7] == 1


def test_concepts_against_groups_are_the_same_classifiers():
    rng = np.random.default_rng(0)
    own, groups = rng.normal(size=(30, 50)) + 0.5, rng.normal(size=(4, 12, 50))
    concepts = [np.arange(12), np.array([20, 13, 29, 7, 11])]  # the second has fewer samples
    pool = np.concatenate([own, groups.reshape(-1, 50)])
    for rows, (weights, accuracy) in zip(concepts, cav.against(own, concepts, groups), strict=True):
        n = len(rows)
        negatives = 30 + np.arange(48).reshape(4, 12)[:, :n]
        problems = np.hstack([np.tile(rows, (4, 1)), negatives])
        given = problems, np.repeat([1, -1], n)
        expected, _ = cav.classifiers(pool, pool @ pool.T, *given)
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(accuracy, cav.held_out_accuracy(pool @ pool.T, *given))
    without = cav.against(own, concepts, groups, held_out=False)
    assert np.isnan(without[0][1]).all() and without[0][0].shape == (4, 50)


def test_inner_products_in_single_precision_are_precise_enough():
    rng = np.random.default_rng(0)
    own = np.maximum(rng.normal(size=(40, 600)) + 0.3, 0).astype(np.float32)
    groups = np.maximum(rng.normal(size=(5, 20, 600)), 0).astype(np.float32)
    mean, scale = cav.scaling([own, groups.reshape(-1, 600)])
    own, groups = cav.standard(own, mean, scale), cav.standard(groups, mean, scale)
    assert own.dtype == groups.dtype == np.float32 and groups.shape == (5, 20, 600)
    rows = [np.arange(20), np.arange(20, 40)]
    single = cav.against(own, rows, groups)
    double = cav.against(own.astype(np.float64), rows, groups.astype(np.float64))
    for (mine, told), (exact, expected) in zip(single, double, strict=True):
        assert mine.dtype == np.float32
        cosine = (cav.unit(mine.astype(np.float64)) * cav.unit(exact)).sum(1)
        assert 1 - cosine.min() < 1e-10
        np.testing.assert_array_equal(told, expected)


def test_few_features_in_single_precision_end_in_few_steps(monkeypatch):
    # A product in single precision is not quite symmetric, and a line search needs a symmetric one.
    rng = np.random.default_rng(0)
    own, groups = (rng.normal(size=(n, 10, 24)).astype(np.float32) for n in (3, 9))
    tries, real = [], logistic._far
    monkeypatch.setattr(logistic, "_far", lambda *given: tries.append(1) or real(*given))
    found = cav.against(own.reshape(30, 24), np.arange(30).reshape(3, 10), groups)
    assert 0 < len(tries) < 9 * 12  # three concepts, each as a whole and by halves
    exact = cav.against(
        own.reshape(30, 24).astype(np.float64),
        np.arange(30).reshape(3, 10),
        groups.astype(np.float64),
    )
    for (mine, _), (wanted, _) in zip(found, exact, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-3, atol=1e-5)


def test_a_feature_that_only_rounding_tells_apart_does_not_decide():
    rng = np.random.default_rng(0)
    _, found, z, _, random, _ = _world(rng)
    # One more feature: a constant, but in its last digit for what was computed with the concepts.
    constant = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
    z, random = (
        np.hstack([x, np.full((len(x), 1), c)]) for x, c in zip((z, random), constant, strict=True)
    )
    mean, scale = tcav.Samples(found, z, {}, random, None, ()).scaling()
    assert scale[-1] == 1
    concept = (z[found.members("a", 0)] - mean)[:, -1]
    assert np.abs(concept).max() < 1e-7
    assert scale[:-1].min() > 0.5


def test_moments_of_features_in_double_keep_what_they_tell():
    x = 1e4 + 1e-6 * np.random.default_rng(0).normal(size=(50, 1))
    assert cav.scaling([x])[1][0] == pytest.approx(x.std(), rel=1e-3)
    assert cav.scaling([x.astype(np.float32)])[1][0] == 1


def test_the_scale_of_a_constant_is_one_where_all_else_is_tiny():
    tiny = np.zeros((4, 2), np.float32)
    tiny[:2, 0] = np.finfo(np.float32).tiny
    with np.errstate(under="ignore"):
        _, scale = cav.scaling([tiny])
    assert scale[1] == 1 and scale[0] > 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("random", "features of the random clips hold NaN"),
        ("features", "features of the supervoxels hold NaN"),
        ("clips", "gradients of class 'b' hold NaN"),
    ],
)
def test_what_is_not_finite_is_refused(where, message):
    rng = np.random.default_rng(0)
    head, found, z, clips, random, _ = _world(rng, curved=True)
    groups = tcav.random_groups(400, 5, 20, rng)
    broken = {"random": random, "features": z, "clips": clips["b"]}[where]
    broken[found.members("a", 0)[0] if where == "features" else 0, 3] = np.nan
    with pytest.raises(ValueError, match=message):
        tcav.score(head, tcav.Samples(found, z, clips, random, groups, ("a", "b")))


def test_nan_is_never_significant():
    values = np.array([5.0, np.nan])
    assert p_value(np.zeros(9), values).tolist() == [0.1, 1.0]
