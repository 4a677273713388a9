"""Randomised networks and shuffled labels."""

import numpy as np
import pandas as pd
import pytest
import torch

from book.campaigns.replays import ShuffledLabels
from stce import concepts, features, models, supervoxels, tcav
from stce.clips import Clips
from stce.datasets import load
from stce.datasets.textures import textures
from stce.evaluation import sanity, significance
from stce.evaluation.effects import depth


def _network():
    return models.build("r3d18", 2, 0.125, 1, (8, 16, 16), seed=0)


def test_cascade_goes_from_the_top_down_and_leaves_the_network():
    network = _network().eval()
    x = torch.randn(2, 1, 8, 16, 16)
    with torch.no_grad():
        before, z = network(x), network.features(x)
        steps = list(sanity.cascade(network, np.random.default_rng(0)))
        assert torch.equal(network(x), before)
        assert torch.equal(steps[0][1].features(x), z)  # only the head so far
        assert not torch.allclose(steps[0][1](x), before)
        assert not torch.allclose(steps[-1][1].features(x), z)
    names = [name for name, _ in steps]
    blocks = network.blocks()
    assert names == [n for n in reversed(blocks) if any(True for _ in blocks[n].parameters())]
    for (_, above), (name, below) in zip(steps, steps[1:], strict=False):
        for block in blocks:  # one more block at each step
            pairs = zip(
                above.blocks()[block].parameters(), below.blocks()[block].parameters(), strict=True
            )
            assert all(torch.equal(a, b) for a, b in pairs) == (
                block != name or not list(blocks[block].parameters())
            )


def test_shuffled_labels_keep_videos_and_counts():
    videos = load("actors", "test", takes=1, n_frames=2)
    shuffled = ShuffledLabels(videos, np.random.default_rng(0))
    assert np.array_equal(np.sort(shuffled.table["label"]), np.sort(videos.table["label"]))
    names = np.array(videos.classes)[shuffled.table["label"]]
    assert (shuffled.table["class"] == names).all()
    same = (shuffled.table["label"] == videos.table["label"]).mean()
    assert same < 0.35
    assert np.array_equal(shuffled.read(5), videos.read(5))
    assert np.array_equal(shuffled.parts(5), videos.parts(5))


@pytest.fixture(scope="module")
def study():
    network = _network()
    found = textures(8, n_frames=8, size=(16, 16))
    labels = np.repeat([0, 1], 4)
    clips = Clips(found.frames, labels, found.ids, found.groups, ("a", "b"))
    cut = supervoxels.segment(clips, n_segments=(6,), progress=False)
    z = features.extract(network, clips, cut, stretch=False, progress=False)
    rows = cut.table["video"].to_numpy()
    how = {"n_concepts": 2, "n_keep": 6}
    concept = concepts.cluster(z, labels[rows], rows, clips.classes, **how)
    random = textures(40, n_frames=8, size=(16, 16), seed=1)
    groups = tcav.random_groups(40, 5, 6, np.random.default_rng(0))
    return network, z, concept, clips, cut, random, groups


def _tested(network, samples):
    result = tcav.score(network, samples)
    return significance.assess(network, result, samples, n_null=10, n_shuffles=10)


def test_as_seen_by_the_same_network_the_score_is_the_same(study):
    network, z, concept, clips, cut, random, groups = study
    whole = features.extract_clips(network, clips)
    mine = {name: whole[clips.indices_of(name)] for name in clips.classes}
    background = features.extract_clips(network, random)
    samples = tcav.Samples(concept, z, mine, background, groups, clips.classes)
    inputs = samples, clips, cut, features.Negatives(random)
    table = _tested(network, *depth.as_seen_by([network], *inputs, stretch=False))
    direct = tcav.score(network, samples).scores
    np.testing.assert_allclose(table["derivative"], direct["derivative"], rtol=1e-3, atol=1e-6)
    other = next(n for _, n in sanity.cascade(network, np.random.default_rng(0)))
    changed = _tested(other, *depth.as_seen_by([other], *inputs, stretch=False))
    assert not np.allclose(changed["derivative"], table["derivative"])


def test_tables_are_compared_with_the_trained_network():
    rng = np.random.default_rng(0)
    base = pd.DataFrame({"class": np.repeat(["a", "b"], 10), "concept": np.tile(range(10), 2)})
    trained = base.assign(derivative=rng.normal(size=20), p=0.001, q_value=0.002)
    random = base.assign(derivative=rng.normal(size=20), p=rng.random(20), q_value=1.0)
    table = sanity.against_trained({"trained": trained, "random": random}).set_index("network")
    assert table.loc["trained", ["significant", "correlation"]].tolist() == [1.0, 1.0]
    assert table.loc["random", "significant"] == 0
    assert table.loc["random", "ci_low"] < 0 < table.loc["random", "ci_high"]
    with pytest.raises(ValueError, match="There is no network 'trained' among random"):
        sanity.against_trained({"random": random})
