"""Logits that concepts decide, and logits that they do not."""

import numpy as np
import pandas as pd
import pytest

from book.campaigns import surrogate

CENTRES = {"a": np.array([[0.0, 0], [9, 0]]), "b": np.array([[0.0, 0], [0, 9]])}
CAVS = {name: np.eye(2) for name in CENTRES}


def test_a_clip_is_described_by_what_is_in_it():
    z = np.array([[0.0, 0], [8, 1], [9, 0], [1, 8]])
    table = pd.DataFrame({"video": [0, 0, 0, 2], "fraction": [0.5, 0.2, 0.1, 0.7]})
    told = surrogate.described(z, table, 3, CENTRES, CAVS)
    there, area, along = np.split(told[:, :6], 3, axis=1)
    assert there.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert area == pytest.approx(np.array([[0.5, 0.3], [0, 0], [0.7, 0]]))
    # Along its own CAV: of concept 0 the first feature, of concept 1 the second.
    assert along == pytest.approx(np.array([[0, 0.5], [0, 0], [1, 0]]))
    assert told.shape == (3, 12)


def _clips(n, rng, decide):
    """Return clips with one supervoxel near one of the centres, and logits that follow it."""
    which = rng.integers(0, 3, n)
    places = np.array([[0.0, 0], [9, 0], [0, 9]])
    z = places[which] + rng.normal(0, 0.3, (n, 2))
    logits = decide(which, rng)
    table = pd.DataFrame({"video": np.arange(n), "fraction": 0.1})
    return {"features": z, "table": table, "whole": z, "logits": logits}


def _found(decide, seed=0):
    rng = np.random.default_rng(seed)
    sides = _clips(80, rng, decide), _clips(60, rng, decide)
    return surrogate.assess(*sides, CENTRES, CAVS, seed=seed).set_index("description")


def test_concepts_that_decide_explain_and_shuffled_clips_do_not():
    found = _found(lambda which, rng: np.eye(3)[which] * 5)
    assert found.loc["concepts", "explained"] > 0.97
    assert found.loc["shuffled clips", "explained"] < 0.1
    assert (found["ci_low"] <= found["explained"]).all()
    assert (found["explained"] <= found["ci_high"]).all()
    # A line through two features cannot tell which of three places a clip is in as well.
    assert found.loc["features", "explained"] > 0.9


def test_logits_of_chance_are_not_explained():
    found = _found(lambda which, rng: rng.normal(0, 1, (len(which), 3)))
    assert (found["explained"] < 0.15).all()


def test_the_same_seed_gives_the_same_table():
    tables = [_found(lambda which, rng: np.eye(3)[which], seed=4) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)
