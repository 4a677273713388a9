"""Planted clusters must come back as concepts."""

import numpy as np
import pytest

from stce.concepts import Concepts, assign, cluster


@pytest.fixture
def planted():
    """Two classes with four well-separated clusters of 30 supervoxels each."""
    rng = np.random.default_rng(0)
    middles = 20 * rng.normal(size=(2, 4, 8))
    truth = np.tile(np.repeat(np.arange(4), 30), 2)
    labels = np.repeat([0, 1], 120)
    features = (middles[labels, truth] + rng.normal(size=(240, 8))).astype(np.float32)
    return features, labels, truth, np.arange(240) // 12


def test_planted_clusters_are_found(planted):
    features, labels, truth, videos = planted
    found = cluster(features, labels, videos, ("wave", "walk"), n_concepts=4, n_keep=40)
    for name in ("wave", "walk"):
        for concept in range(4):
            members = found.members(name, concept)
            assert len(members) == 30
            assert len(set(truth[members])) == 1
            assert (labels[members] == ("wave", "walk").index(name)).all()


def test_nearest_are_kept_in_order(planted):
    features, labels, _, videos = planted
    found = cluster(features, labels, videos, ("wave", "walk"), n_concepts=4, n_keep=10)
    everyone = cluster(features, labels, videos, ("wave", "walk"), n_concepts=4, n_keep=99)
    for concept in range(4):
        kept, all_ = found.members("wave", concept), everyone.members("wave", concept)
        assert kept.tolist() == all_[:10].tolist()
        distance = np.linalg.norm(features[all_] - found.centres["wave"][concept], axis=1)
        assert (np.diff(distance) >= 0).all()
    assert found.sizes["n_supervoxels"].eq(30).all()


def test_assign_is_the_nearest_centre():
    rng = np.random.default_rng(1)
    z, centres = rng.normal(size=(50, 6)), rng.normal(size=(7, 6))
    slow = [np.argmin([np.linalg.norm(v - c) for c in centres]) for v in z]
    assert assign(z, centres).tolist() == slow


def test_same_seed_same_concepts_any_number_of_jobs(planted, tmp_path):
    features, labels, _, videos = planted
    one = cluster(features, labels, videos, ("a", "b"), n_concepts=6, seed=3)
    two = cluster(features, labels, videos, ("a", "b"), n_concepts=6, seed=3, n_jobs=2)
    assert one.table.equals(two.table)
    one.save(tmp_path)
    again = Concepts.load(tmp_path)
    assert again.table.equals(one.table)
    assert all(np.array_equal(again.centres[c], two.centres[c]) for c in ("a", "b"))


def test_too_few_supervoxels():
    with pytest.raises(ValueError, match=r"'wave' has 3 supervoxels.*n_concepts=5"):
        cluster(np.eye(3), np.zeros(3, int), np.arange(3), ("wave",), n_concepts=5)


def test_fewer_different_features_than_concepts():
    z = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
    with pytest.raises(ValueError, match="n_concepts is 3, .* 8 .* 'a' have only 2 different"):
        with pytest.warns(UserWarning, match="distinct clusters"):
            cluster(z, np.zeros(8, int), np.arange(8), ("a",), n_concepts=3)


def test_distances_do_not_lose_their_digits_far_from_zero():
    z = 5e3 + np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    found = cluster(z, np.zeros(40, int), np.arange(40), ("a",), n_concepts=3, n_keep=40)
    rows = found.table.set_index("supervoxel").sort_index()
    away = np.linalg.norm(z[:, None].astype(float) - found.centres["a"], axis=2)
    assert (rows["concept"].to_numpy() == away.argmin(1)).all()


def test_a_way_that_makes_fewer_concepts_says_so():
    z = np.repeat(np.eye(2, 4, dtype=np.float32), 3, axis=0)
    given = z, np.zeros(6, int), np.arange(6), ("wave",)
    with pytest.warns(UserWarning, match="nmf makes 2 concepts of class 'wave', not"):
        found = cluster(*given, n_concepts=3, discover="nmf")
    assert found.centres["wave"].shape == (2, 4)
    sets = found.table.groupby("concept")["supervoxel"].apply(set).tolist()
    assert sorted(map(sorted, sets)) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="have only 2 different features"):
        cluster(*given, n_concepts=3)
