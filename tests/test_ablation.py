"""Adding and removing concepts on a clip whose only evidence is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from stce import ablation, curves, masking, models
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


def _run(world, ranking, n_random=3, seed=0, assign="true", **options):
    subject = ablation.Subject(*world, {"yes": ranking}, assign=assign)
    options = {"q_max": 4, "seed": seed, "progress": False} | options
    parts = ablation.run(subject, ablation.ranked(n_random, seed), **options)
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


def _case(n_concepts=6, seed=0):
    """One clip of noise whose supervoxels of three levels have random concepts."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 5, (3, 2, 6, 6)).astype(np.uint8)
    table = pd.DataFrame(
        [(lev, lab) for lev in range(3) for lab in range(1, 5) if (lev + lab) % 3],
        columns=["level", "label"],
    )
    concept = rng.integers(0, n_concepts, len(table))
    return ablation.Case(None, 0, "yes", None, labels, table, concept)


def test_masks_are_the_union_of_supervoxels_of_all_levels():
    case = _case()
    for chosen in ([0], [1, 4], [0, 2, 3, 5]):
        expected = np.zeros(case.labels.shape[1:], bool)
        for (level, label), c in zip(case.table.to_numpy(), case.concept, strict=True):
            if c in chosen:
                expected |= case.labels[level] == label
        order = case.order("top", 0, chosen)
        assert np.array_equal(order.masks("add")[-1], expected)
        assert np.array_equal(order.masks("remove")[-1], ~expected)


@pytest.mark.parametrize("n_concepts", [6, 60, 200])
def test_an_order_shows_what_bits_of_its_concepts_would_show(n_concepts):
    for seed in range(5):
        case = _case(n_concepts, seed)
        # The other way to write the union down: which concepts hold a voxel, as a number.
        bits = np.zeros(case.labels.shape[1:], object)
        for (level, label), c in zip(case.table.to_numpy(), case.concept.tolist(), strict=True):
            bits[case.labels[level] == label] |= 1 << c
        sequence = np.random.default_rng(seed).permutation(n_concepts).tolist()
        order = case.order("random", 0, sequence)
        held = np.bitwise_or.reduce(bits, axis=None)
        places, shown = torch.from_numpy(order.place)[None], 0
        for q in range(n_concepts + 1):
            union = (bits & shown) != 0
            assert np.array_equal(order.masks("add")[q], union)
            assert np.array_equal(order.masks("remove")[q], ~union)
            wanted = [("add", 0, order.steps[q]), ("remove", 0, order.steps[q])]
            both = masking.visible(places, wanted).numpy()
            assert np.array_equal(both, [union, ~union])
            # Two steps are one to the network where they have the same of the concepts there.
            assert sum(1 << c for c in order.sets[q]) == held & shown
            if q < n_concepts:
                shown |= 1 << sequence[q]


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


@pytest.mark.parametrize("faster", [True, False])
def test_masked_clips_are_shown_in_bfloat16_where_that_is_faster(faster, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: faster)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    network = models.build("c3d", 2, 0.125, in_channels=1, input_size=(8, 32, 32)).eval()
    clip = torch.randn(1, 1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    places = torch.arange(8 * 32 * 32).reshape(1, 8, 32, 32)
    wanted = [("add", 0, 4096), ("remove", 0, 1024)]
    kinds = set()
    network.trunk[0].register_forward_hook(lambda module, x, y: kinds.add(y.dtype))
    asked = (masking.precision(amp, "cpu") == "bfloat16" for amp in (False, True))
    whole, half = (masking.predict(network, clip, places, wanted, amp=amp) for amp in asked)
    assert kinds == {torch.float32, torch.bfloat16 if faster else torch.float32}
    for (a, share), (b, also) in zip(whole, half, strict=True):
        assert share == also and a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.01 if faster else 0)


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
