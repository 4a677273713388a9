"""Adding and removing concepts on a clip whose only evidence is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from stce import ablation, curves
from stce.clips import Clips
from stce.concepts import Concepts
from stce.models.adapt import Explainable
from stce.supervoxels import Supervoxels


class Corners(torch.nn.Module, Explainable):
    """Says class 1 if and only if the left quarter of the clip is bright; sees masked pixels."""

    n_features = 4

    def __init__(self):
        super().__init__()
        self.forwards = 0

    def prepare(self, frames):
        return frames.permute(0, 4, 1, 2, 3).float() / 255 - 0.5

    def features(self, x):
        # The mean of each quarter of the width, which tells the planted supervoxels apart.
        return torch.stack([q.abs().mean((1, 2, 3, 4)) for q in x.chunk(4, dim=-1)], dim=1)

    def forward(self, x):
        self.forwards += len(x)
        evidence = x[..., :4].mean((1, 2, 3, 4))
        return torch.stack([torch.full_like(evidence, 0.1), evidence], dim=1) * 20


@pytest.fixture
def world(monkeypatch):
    """Three clips of class 1; four supervoxels, one a quarter of the width; one concept each."""
    frames = np.full((3, 4, 8, 16, 1), 255, np.uint8)
    clips = Clips(frames, [1, 1, 1], ["a", "b", "c"], ["p"] * 3, ("no", "yes"))
    volume = np.tile(np.repeat([1, 2, 3, 4], 4), (4, 8, 1)).astype(np.uint8)
    labels = np.tile(volume, (3, 1, 1, 1, 1))
    rows = [
        (video, 0, i + 1, 0, 4, 0, 8, 4 * i, 4 * i + 4, 128, 0.25)
        for video in range(3)
        for i in range(4)
    ]
    columns = "video level label t0 t1 y0 y1 x0 x1 size fraction".split()
    supervoxels = Supervoxels(labels, pd.DataFrame(rows, columns=columns))
    # Assign by position: supervoxel i belongs to concept i.
    monkeypatch.setattr(ablation.concepts_module, "assign", lambda z, c: np.arange(len(z)) % 4)
    concepts = Concepts(None, None, {"yes": np.zeros((4, 4), np.float32)})
    return Corners(), clips, supervoxels, concepts


def _run(world, ranking, **options):
    network, clips, supervoxels, concepts = world
    options = {"q_max": 4, "n_random": 3, "progress": False} | options
    parts = ablation.run(network, clips, supervoxels, concepts, {"yes": ranking}, **options)
    return pd.concat(parts, ignore_index=True)


def test_the_concept_that_carries_the_class_decides(world):
    table = _run(world, [0, 1, 2, 3])
    right = table.set_index(["video", "mode", "order", "repeat", "q"])["correct"]
    for video in range(3):
        assert not right[video, "add", "top", 0, 0]
        assert right[video, "remove", "top", 0, 0]
        for q in (1, 2, 3, 4):
            assert right[video, "add", "top", 0, q]
            assert not right[video, "remove", "top", 0, q]
        for q in (1, 2, 3):
            assert not right[video, "add", "least", 0, q]
            assert right[video, "remove", "least", 0, q]
    gain = curves.difference(table).set_index("mode")
    assert gain.loc["add", "gain"] == gain.loc["remove", "gain"] == 0.75
    assert (gain.ci_low > 0).all()
    turned = curves.difference(_run(world, [3, 2, 1, 0]))
    assert (turned.gain < 0).all()


def test_adding_all_is_the_clip_and_removing_all_is_blank(world):
    table = _run(world, [2, 0, 3, 1])
    whole = table[table.q == 4].groupby("mode")[["revealed", "correct"]].mean()
    assert whole.loc["add"].tolist() == [1, 1]
    assert whole.loc["remove"].tolist() == [0, 0]
    steps = table[(table.order == "top") & (table.video == 0)].set_index(["mode", "q"]).revealed
    assert steps["add"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert steps["remove"].tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_masks_are_the_union_of_supervoxels_of_all_levels():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 5, (3, 2, 6, 6)).astype(np.uint8)
    table = pd.DataFrame(
        [(lev, lab) for lev in range(3) for lab in range(1, 5) if (lev + lab) % 3],
        columns=["level", "label"],
    )
    concept = rng.integers(0, 6, len(table))
    bits = ablation.concept_bits(labels, table, concept)
    for chosen in ([0], [1, 4], [0, 2, 3, 5]):
        expected = np.zeros(labels.shape[1:], bool)
        for (level, label), c in zip(table.to_numpy(), concept, strict=True):
            if c in chosen:
                expected |= labels[level] == label
        shown = sum(1 << c for c in chosen)
        both = ablation._visible(torch.from_numpy(bits), [("add", shown), ("remove", shown)])
        assert np.array_equal(both[0], expected)
        assert np.array_equal(both[1], ~expected)


def test_equal_sets_are_evaluated_once(world):
    table = _run(world, [0, 1, 2, 3], n_random=200)
    # 16 subsets, two modes, and the intact clip, for each of the three clips.
    assert world[0].forwards <= 3 * (2 * 16 + 1)
    assert len(table) == 3 * 2 * 202 * 5


def test_an_absent_concept_uses_up_its_step(world):
    network, clips, supervoxels, concepts = world
    kept = supervoxels.table[supervoxels.table.label != 2].reset_index(drop=True)
    concepts.centres["yes"] = np.zeros((5, 4), np.float32)
    world = network, clips, Supervoxels(supervoxels.labels, kept), concepts
    table = _run(world, [4, 0, 1, 2, 3], q_max=2, n_random=1)
    top = table[(table.order == "top") & (table["mode"] == "add") & (table.video == 0)]
    assert top.sort_values("q").revealed.tolist() == [0, 0, 0.25]


def test_same_seed_same_outcomes_and_predicted_class_needs_no_label(world):
    assert _run(world, [0, 1, 2, 3], seed=5).equals(_run(world, [0, 1, 2, 3], seed=5))
    other = _run(world, [0, 1, 2, 3], seed=6, n_random=20)
    assert not other.correct.equals(_run(world, [0, 1, 2, 3], seed=5, n_random=20).correct)
    predicted = _run(world, [0, 1, 2, 3], assign="predicted")
    assert predicted.equals(_run(world, [0, 1, 2, 3]))


def test_accuracy_table_averages_repeats_within_a_clip():
    rows = [(v, "add", "random", r, 1, v == 0 or r == 0, 0.5) for v in range(4) for r in range(2)]
    columns = ["video", "mode", "order", "repeat", "q", "correct", "revealed"]
    table = curves.accuracy_table(pd.DataFrame(rows, columns=columns))
    assert table.accuracy.tolist() == [(1 + 3 * 0.5) / 4]
    assert table.n_clips.tolist() == [4]
    assert (table.ci_low <= table.accuracy).all() and (table.accuracy <= table.ci_high).all()


def test_errors(world):
    with pytest.raises(ValueError, match=r"q_max is 9, but class 'yes' has 4 concepts"):
        _run(world, [0, 1, 2, 3], q_max=9)
    with pytest.raises(ValueError, match="assign is 'guess'"):
        _run(world, [0, 1, 2, 3], assign="guess")
    with pytest.raises(ValueError, match="at most 63"):
        ablation.concept_bits(
            np.ones((1, 1, 1, 1), int), pd.DataFrame({"level": [0], "label": [1]}), np.array([63])
        )
