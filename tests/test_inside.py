"""Supervoxels hidden on a map halfway: worked out by hand, at both ends, and in every step."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool3d

from stce import features, models
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.explanation import explain
from stce.models.adapt import adapt, seen
from stce.supervoxels import segment

SHAPE = (1, 8, 32, 32)


@pytest.fixture(scope="module")
def clips():
    frames = np.random.default_rng(0).integers(0, 256, (2, *SHAPE[1:], 1)).astype(np.uint8)
    return Clips(frames, [0, 1], list("ab"), list("ab"), ("no", "yes"))


@pytest.fixture(scope="module")
def cut(clips):
    return segment(clips, n_segments=(4, 12), progress=False)


def network(layer="avgpool"):
    made = models.build("r3d18", 2, 0.125, 1, SHAPE[1:], layer=layer).eval()
    made.set_moments([0.4], [0.2])
    return made


def test_what_is_shown_is_the_map_where_the_supervoxel_is_and_a_blank_map_elsewhere(clips, cut):
    whole = network()
    start = whole.split("layer2").pooled()
    z = features.extract(whole.hidden_at("layer2"), clips, cut, progress=False)
    blocks = list(whole.blocks().values())
    rest = nn.Sequential(*blocks[list(whole.blocks()).index("layer2") + 1 : -1])
    blank = start.maps(torch.zeros(1, *SHAPE))
    for row in (0, 7, len(cut) - 1):
        video = int(cut.table["video"].iloc[row])
        own = start.maps(whole.prepare(torch.from_numpy(clips.frames[video : video + 1])))
        share = adaptive_avg_pool3d(torch.from_numpy(cut.mask(row)[None]).float(), start.grid)
        with torch.inference_mode():
            wanted = rest(own * share + blank * (1 - share)).flatten()
        np.testing.assert_allclose(z[row], wanted, atol=1e-4, rtol=1e-4)


def test_where_cells_are_voxels_it_is_the_clip_itself_that_is_hidden(clips, cut):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 2, 1), nn.Conv3d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    ).append(nn.Linear(4, 2))
    how = {"clip_shape": SHAPE, "mean": 0.4, "std": 0.2}
    whole = adapt(model, "2", **how)
    in_place = features.extract(whole, clips, cut, stretch=False, progress=False)
    inside = features.extract(whole.hidden_at("0"), clips, cut, progress=False)
    np.testing.assert_allclose(inside, in_place, atol=1e-5)
    halfway = features.extract(whole.hidden_at("1"), clips, cut, progress=False)
    assert halfway.shape == in_place.shape and np.abs(halfway - in_place).max() > 1e-3
    # A ReLU of what is mixed, not a mixture of ReLUs: but for cells on borders the same.
    assert np.corrcoef(halfway.ravel(), in_place.ravel())[0, 1] > 0.9


def test_all_of_a_clip_has_the_features_of_the_clip(clips, cut):
    whole = network()
    hidden = whole.hidden_at("layer3")
    assert (hidden.shown, whole.shown) == ("layer3", "supervoxels")
    assert [*hidden.state_dict()] == [*whole.state_dict()]
    everything = segment(clips, n_segments=(1,), progress=False)
    z = features.extract(hidden, clips, everything, progress=False)
    np.testing.assert_allclose(z, features.extract_layer(whole, clips), atol=1e-4)
    np.testing.assert_array_equal(
        features.extract_layer(hidden, clips), features.extract_layer(whole, clips)
    )
    # Cut elsewhere, or asked for otherwise, it is seen as any network.
    assert seen(hidden, "layer4", "pooled").inside is None
    assert seen(hidden, "layer4", "layer1").inside.layer == "layer1"


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("layer9", "r3d18 has no layer 'layer9' to be split at; its layers are"),
        ("avgpool", "or an earlier layer with a map: it is not before 'layer4'"),
        ([1], r"features is \[1\]; choose one of supervoxels, pooled, or an earlier layer"),
    ],
)
def test_a_layer_that_cannot_hide_is_one_sentence(at, said):
    with pytest.raises(ValueError, match=said):
        network("layer4").hidden_at(at)


class Around(nn.Module):
    """A network whose second half is no row of modules."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3), nn.Conv3d(4, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        return self.fc((self.second(x) + x[..., 1:-1, 1:-1, 1:-1]).relu().mean((2, 3, 4)))


def test_a_module_that_is_no_row_is_refused():
    whole = adapt(Around(), "second", clip_shape=SHAPE)
    said = "features is 'first'; choose one of supervoxels, pooled, .* through modules in a row to"
    with pytest.raises(ValueError, match=said):
        whole.hidden_at("first")


def test_every_step_of_an_explanation_hides_there(tmp_path):
    clips = textures(10, n_frames=8, size=SHAPE[2:], seed=1)
    small = {"n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3, "q_max": 2}
    small |= {"random": 10, "random_from": "supervoxels", "progress": False, "stretch": False}
    found = explain(
        network(), None, clips.frames[:5], 0, test_clips=clips.frames[5:], features="layer2",
        layers=["layer3", "avgpool"], **small,
    )  # fmt: skip
    assert found.settings["features"] == "layer2" and set(found.layers["layer"]) == {
        "layer3", "avgpool",
    }  # fmt: skip
    hidden = found.network.hidden_at("layer2")
    z = features.extract(hidden, found.clips, found.supervoxels, progress=False)
    np.testing.assert_allclose(found.evidence.seen, z, atol=1e-5)
    told = found.explain_clip(clips.frames[6])
    assert np.isfinite(told.voxels).all()
