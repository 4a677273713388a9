"""What supervoxels add to a logit, where it is known by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stce import explain
from stce.ablation import Subject
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.evaluation.effects.contributions import contributions, explain_clip
from stce.models.adapt import Functions
from stce.supervoxels import Supervoxels

SHAPE = (1, 4, 4, 12)
WEIGHTS = np.repeat([3.0, -2.0, 0.5], 4)


def _case(logit, n=3):
    """Return a clip of ones, cut into three columns of which the last is in no supervoxel kept."""
    frames = np.full((1, 4, 4, 12, 1), 255, np.uint8)
    clips = Clips(frames, [1], ["a"], ["a"], ("no", "yes"))
    volume = np.tile(np.repeat([1, 2, 3], 4), (4, 4, 1)).astype(np.uint8)
    table = pd.DataFrame({"video": 0, "level": 0, "label": [1, 2, 3][:n], "size": 64})
    network = Functions(logit, lambda z: torch.cat([0 * z, z], 1), SHAPE)
    concepts = Concepts(None, None, {"yes": np.array([[0.0], [9.0]], np.float32)})
    features = np.array([[0.0], [9.0], [9.0]], np.float32)[:n]
    cut = Supervoxels(volume[None, None], table)
    return Subject(network, clips, cut, concepts, {"yes": [0, 1]}, features=features).case(0)


def _linear(x):
    return (x.mean((1, 2, 3)) @ torch.tensor(WEIGHTS, dtype=torch.float32))[:, None]


def test_a_linear_network_gives_each_voxel_its_own_part():
    found = contributions(_case(_linear))
    table = found.supervoxels
    assert table["contribution"].tolist() == pytest.approx([12, -8, 2], abs=1e-5)
    assert table["error"].tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert found.voxels.sum() == pytest.approx(6, abs=1e-4)
    assert found.profile.tolist() == pytest.approx([1.5] * 4, abs=1e-4)
    assert found.voxels[0, 0, ::4].tolist() == pytest.approx([12 / 64, -8 / 64, 2 / 64])
    assert found.concepts.to_dict("list") == {
        "concept": [0, 1], "contribution": pytest.approx([12, -6]), "supervoxels": [1, 2]
    }  # fmt: skip


def test_what_no_supervoxel_holds_is_the_residual():
    found = contributions(_case(_linear, n=2))
    logits = found.logits.iloc[0]
    assert logits[["blank", "shown", "whole", "residual"]].tolist() == pytest.approx([0, 4, 6, 2])
    assert found.supervoxels["contribution"].sum() == pytest.approx(4)
    assert (found.voxels[..., 8:] == 0).all()


def test_two_that_count_only_together_share_it():
    def both(x):
        left, right = x[..., :4].mean((1, 2, 3, 4)), x[..., 4:8].mean((1, 2, 3, 4))
        return (10 * left * right)[:, None]

    assert contributions(_case(both)).supervoxels["contribution"].tolist() == [5, 5, 0]


def test_supervoxels_that_overlap_share_what_both_hold():
    case = _case(_linear)
    labels = np.stack([case.labels[0], np.where(case.labels[0] == 1, 1, 2)]).astype(np.uint8)
    table = pd.DataFrame({"video": 0, "level": [0, 1], "label": [1, 1], "size": 64})
    same = type(case)(case.subject, 0, "yes", case.clip, labels, table, np.array([0, 1]))
    assert contributions(same).supervoxels["contribution"].tolist() == pytest.approx([6, 6])


@pytest.mark.parametrize("n_orders", [0, 2, 5])
def test_too_few_orders(n_orders):
    with pytest.raises(ValueError, match=f"n_orders is {n_orders}; it takes even numbers from 4"):
        contributions(_case(_linear), n_orders=n_orders)


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    clips = textures(4, n_frames=4, size=(24, 24)).frames
    how = {"random": 10, "n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3}
    return model, explain(model, "0", clips, 1, progress=False, **how)


def test_a_clip_adds_up(found):
    model, it = found
    clip = textures(1, n_frames=4, size=(24, 24), seed=5).frames[0]
    told = it.explain_clip(clip)
    x = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 255
    logits = told.logits.iloc[0]
    with torch.no_grad():
        assert logits["whole"] == pytest.approx(float(model.eval()(x)[0, 1]), rel=1e-5)
        assert logits["blank"] == pytest.approx(float(model(0 * x)[0, 1]), rel=1e-5)
    added = told.supervoxels["contribution"].sum()
    assert added == pytest.approx(logits["shown"] - logits["blank"], abs=1e-5)
    assert told.voxels.sum() == pytest.approx(added, abs=1e-4)
    assert told.profile.sum() == pytest.approx(added, abs=1e-4)
    assert set(told.supervoxels["concept"]) <= {0, 1, 2}
    again = explain_clip(it, clip)
    pd.testing.assert_frame_equal(told.supervoxels, again.supervoxels)


def test_a_video_is_told_clip_by_clip(found):
    it = found[1]
    video = textures(1, n_frames=10, size=(24, 24), seed=6).frames[0]
    told = explain_clip(it, video)
    assert told.logits["start"].tolist() == [0, 4, 6]
    assert told.voxels.shape == (10, 24, 24) and told.profile.shape == (10,)
    first, last = explain_clip(it, video[:4]), explain_clip(it, video[6:])
    assert told.voxels[:4] == pytest.approx(first.voxels)
    assert told.voxels[8:] == pytest.approx(last.voxels[2:])


def test_a_module_comes_back_as_it_was(found):
    model, it = found
    model.train()
    explain_clip(it, textures(1, n_frames=4, size=(24, 24)).frames[0])
    assert model.training


def test_bad_clips(found, tmp_path):
    it = found[1]
    video = textures(1, n_frames=4, size=(24, 24)).frames[0]
    with pytest.raises(ValueError, match="clip has 2 frames; the network takes 4"):
        explain_clip(it, video[:2])
    with pytest.raises(ValueError, match=r"but the model takes \(1, 4, 24, 24\)"):
        explain_clip(it, video[:, :20])
    it.save(tmp_path / "kept")
    kept = type(it).load(tmp_path / "kept")
    with pytest.raises(ValueError, match="pass it as network"):
        explain_clip(kept, video)
    assert explain_clip(kept, video, network=it.network).profile.shape == (4,)


def test_a_clip_is_cut_as_the_explanation_of_a_run_was(found):
    it, clip = found[1], textures(1, n_frames=4, size=(24, 24), seed=5).frames[0]
    run = replace(
        it, settings=it.settings | {"concept_layer": "", "min_fraction": 0.2, "jaccard": 0.5}
    )
    few, all_of_them = (one.explain_clip(clip).supervoxels for one in (run, it))
    assert 0 < len(few) < len(all_of_them) and few["size"].min() >= 0.2 * 4 * 24 * 24
