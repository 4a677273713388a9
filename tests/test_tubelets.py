"""Supervoxels of what a network tells apart, in place of what is seen."""

import numpy as np
import pytest
import torch
from torch import nn

from stce import models
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.engine.slic import map_colours, painter
from stce.explanation import explain
from stce.models.adapt import adapt
from stce.supervoxels import segment

SMALL = {
    "n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3, "q_max": 2, "random": 10,
    "progress": False,
}  # fmt: skip


class Stripes(nn.Module):
    """A network that tells fine stripes from plain grey of the same brightness."""

    def __init__(self):
        super().__init__()
        self.edges = nn.Conv3d(1, 1, (1, 1, 2), stride=(2, 4, 2), bias=False)
        self.edges.weight.data = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 1, 2)
        self.fc = nn.Linear(1, 2)

    def forward(self, x):
        return self.fc(self.edges(x).abs().mean((2, 3, 4)))


def striped():
    """On the left plain grey, from column 20 on stripes of the same brightness; a darker top."""
    frames = np.full((1, 8, 32, 32, 1), 120, np.uint8)
    frames[:, :, 20:] += 6
    frames[..., 20::2, 0] -= 80
    frames[..., 21::2, 0] += 80
    return Clips.of_array(frames)


def mixed(cut):
    """Return the share of voxels whose segment lies mostly on the other side of the border."""
    wide = np.broadcast_to(np.arange(32) >= 20, (8, 32, 32)).ravel()
    counts = np.zeros((cut.labels.max() + 1, 2))
    np.add.at(counts, (cut.labels.ravel(), wide.astype(int)), 1)
    return counts.min(1).sum() / wide.size


def test_a_cut_follows_the_map_and_not_the_brightness():
    clips = striped()
    seen = adapt(Stripes(), "edges", clip_shape=clips.clip_shape)
    how = {"n_segments": (4,), "compactness": 5.0, "progress": False}
    cut = segment(clips, on=painter(seen, "features"), **how)
    assert cut.labels.shape == (1, 1, 8, 32, 32) and (cut.labels > 0).all()
    assert mixed(cut) < 0.04  # a column
    assert mixed(segment(clips, **how)) > 0.06


def test_colours_are_as_far_apart_as_the_map():
    from skimage.color import rgb2lab

    clips = textures(1, n_frames=8, size=(24, 24))
    model = nn.Sequential(nn.AvgPool3d(4), nn.Flatten(), nn.Linear(72, 2))
    seen = adapt(model, "0", clip_shape=clips.clip_shape, mean=0.0).pooled()
    painted = map_colours(seen, clips, 0)
    assert painted.shape == (8, 24, 24, 3) and painted.dtype == np.uint8
    light = rgb2lab(painted)[..., 0]
    blocks = clips.frames[0, ..., 0].reshape(2, 4, 6, 4, 6, 4).mean((1, 3, 5))
    # In the middle between four positions of the map lies their mean.
    wanted = (blocks[:, :-1, :-1] + blocks[:, 1:, 1:] + blocks[:, :-1, 1:] + blocks[:, 1:, :-1]) / 4
    shown = light.reshape(2, 4, 24, 24).mean(1)
    near = [np.s_[:, 4 * i + 3 : 4 * i + 5] for i in range(1, 4)]
    given = np.stack([shown[row][:, :, near[0][1]].mean((1, 2)) for row in near], 1)
    assert abs(np.corrcoef(given.ravel(), wanted[:, 1:4, 1].ravel())[0, 1]) > 0.99


@pytest.mark.parametrize("layer", ["fc7", "conv5b", "pool5"])
def test_a_network_of_ours_is_cut_by_the_same_map_whatever_its_layer(layer):
    network = models.build("c3d", 2, 1 / 16, 1, (16, 56, 56), layer=layer)
    paint = painter(network, "features")
    assert paint.args[0].layer == "conv4b" and paint.args[0].grid == (4, 7, 7)
    assert painter(network, "pixels") is None


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    model.append(nn.Linear(4, 2))
    clips = textures(8, n_frames=4, size=(24, 24), seed=1)
    how = SMALL | {"segment_on": "features", "random_from": "supervoxels"}
    return explain(model, "1", clips.frames[:5], 0, test_clips=clips.frames[5:], **how)


def test_every_step_cuts_alike(found, tmp_path):
    assert found.settings["segment_on"] == "features"
    paint = painter(found.network, "features")
    how = {"n_segments": (4, 8), "progress": False}
    mine = segment(found.clips, on=paint, **how)
    assert np.array_equal(mine.labels, found.supervoxels.labels)
    plain = segment(found.clips, **how)
    assert not np.array_equal(plain.labels, found.supervoxels.labels)
    tested = found.evidence.tested
    assert np.array_equal(tested.supervoxels.labels, segment(tested.clips, on=paint, **how).labels)
    others = found.evidence.negatives
    assert np.array_equal(others.cut.labels, segment(others.clips, on=paint, **how).labels)
    told = found.explain_clip(tested.clips.frames[0])
    assert len(told.supervoxels) == (tested.supervoxels.table["video"] == 0).sum()
    found.save(tmp_path / "it")
    again = (
        type(found)
        .load(tmp_path / "it")
        .explain_clip(tested.clips.frames[0], network=found.network)
    )
    assert np.array_equal(again.voxels, told.voxels)


def test_a_map_of_nan_is_named():
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    clips = textures(1, n_frames=4, size=(24, 24))
    seen = adapt(model, "0", clip_shape=clips.clip_shape).pooled()
    nn.init.constant_(model[0].bias, np.nan)
    with pytest.raises(ValueError, match="at '0' holds NaN or infinite values for clip 0; look fo"):
        segment(clips, on=painter(seen, "features"), n_segments=(4,), progress=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segment_on": "motion"}, "segment_on is 'motion'; choose one of pixels, features."),
        ({"layer": "3"}, "cannot be pooled from '3'"),
    ],
)
def test_what_cannot_be_cut_by_is_one_sentence(change, said):
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    model.append(nn.Linear(4, 2))
    how = {"layer": "1", **SMALL, "segment_on": "features", **change}
    with pytest.raises(ValueError, match=said):
        explain(model, how.pop("layer"), textures(5, n_frames=4, size=(24, 24)).frames, 0, **how)
