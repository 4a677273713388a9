"""The video transformer that the book explains, from its training to its row."""

import numpy as np
import pandas as pd
import pytest
import torch

from book.campaigns import transformers, worlds
from stce.clips import middle_clips
from stce.models.adapt import adapt

SHAPE = (1, *worlds.SIZE)


@pytest.fixture(scope="module")
def videos():
    return worlds.Small("train", seed=0).select(slice(None, None, 3))


@pytest.fixture(scope="module")
def model(videos):
    return transformers.fitted(videos, SHAPE, seed=0, epochs=1)


def test_the_same_seed_trains_the_same_network_and_leaves_other_draws_alone(videos, model):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    again = transformers.fitted(videos, SHAPE, seed=0, epochs=1)
    assert torch.equal(torch.rand(3), wanted)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_its_grid_is_told_by_the_module(model):
    seen = adapt(model, transformers.LAYER, clip_shape=SHAPE).pooled()
    assert seen.grid == (4, 5, 5) and seen.n_features == 4 * transformers.DIM


def test_each_class_is_asked_what_a_sceptic_asks(videos, model):
    clips = middle_clips(videos, None, *worlds.SIZE[:1], worlds.SIZE[1:])
    labels = pd.Series(clips.labels)
    rows = labels.groupby(labels).head(4).index
    train, test = clips.select(rows), clips.select(np.flatnonzero(~labels.index.isin(rows)))
    test = test.select(pd.Series(test.labels).groupby(test.labels).head(2).index)
    quick = {"n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 5, "random": 25}
    few = {"n_clips": 1, "n_null": 50, "n_changed": 1, "n_randomised": 1, "fills": ()}
    given = model, train, test, 0, ("walking",), few
    told = pd.DataFrame(transformers.explained(*given, **quick)).set_index("question")
    assert told["class"].unique().tolist() == ["walking"]
    asked = ["more than chance", "random weights", "random groups", "k-means"]
    assert told.index[:4].tolist() == asked and told.loc[asked, "passes"].notna().all()
    assert told["value"].notna().all()
