"""Compositions of coloured cubes, and rankings that are right, wrong or random."""

import numpy as np
import pandas as pd
import pytest

from stce.clips import Clips
from stce.concepts import Concepts
from stce.evaluation import truth
from stce.supervoxels import Supervoxels

NAMES = ("background", "arms", "legs")


def _cubes():
    """Two clips of four quarters: supervoxel 1 is arms, 2 is legs, 3 and 4 are background.

    Concept 0 holds the arms of both clips, concept 1 the legs of the first and background of the
    second, concept 2 background only.
    """
    volume = np.zeros((4, 8, 8), np.uint8)
    for i, (y, x) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)], start=1):
        volume[:, y : y + 4, x : x + 4] = i
    part = np.array([0, 1, 2, 0, 0], np.uint8)[volume]
    rows = [(v, 0, s, 0, 4, 0, 4, 0, 4, 64, 0.25) for v in (0, 1) for s in (1, 2, 3, 4)]
    columns = ["video", "level", "label", "t0", "t1", "y0", "y1", "x0", "x1", "size", "fraction"]
    cut = Supervoxels(np.stack([volume] * 2)[:, None], pd.DataFrame(rows, columns=columns))
    members = [(0, 0), (0, 4), (1, 1), (1, 6), (2, 3), (2, 7)]
    table = pd.DataFrame(members, columns=["concept", "supervoxel"]).assign(rank=0, distance=0.0)
    found = Concepts(table.assign(**{"class": "boxing"}), pd.DataFrame(), {})
    return found, cut, np.stack([part] * 2)


def test_lift_of_cubes_is_exact():
    table = truth.composition(truth.counts(*_cubes(), NAMES), n_bootstrap=200)
    lift = table.pivot(index="concept", columns="part", values="lift")[list(NAMES)]
    np.testing.assert_allclose(lift.loc[0], [0, 4, 0])
    np.testing.assert_allclose(lift.loc[1], [1, 0, 2])
    np.testing.assert_allclose(lift.loc[2], [2, 0, 0])
    legs = table[(table["concept"] == 1) & (table["part"] == "legs")].iloc[0]
    assert (legs.share, legs.base) == (0.5, 0.25)
    assert (legs.ci_low, legs.ci_high) == (0.0, 4.0)  # one of two clips: either may be drawn
    arms = table[(table["concept"] == 0) & (table["part"] == "arms")].iloc[0]
    assert arms.ci_low == arms.ci_high == 4.0


def test_groups_are_resampled_as_one():
    counted = truth.counts(*_cubes(), NAMES, group=np.array(["same", "same"]))
    table = truth.composition(counted, n_bootstrap=50)
    np.testing.assert_allclose(table["ci_low"], table["lift"])


def _ranked(lifts, derivatives):
    order = np.argsort(-np.asarray(derivatives))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(1, len(order) + 1)
    columns = {"class": "boxing", "concept": range(len(lifts)), "derivative": derivatives}
    lift = np.asarray(lifts, float)
    parts = {"class": "boxing", "concept": range(len(lifts)), "part": "arms"}
    return (
        pd.DataFrame(parts | {"share": lift / 20, "base": 1 / 20, "lift": lift}),
        pd.DataFrame(columns | {"rank": rank}),
    )


def test_right_wrong_and_random_rankings():
    lifts = np.r_[np.linspace(8, 4, 4), np.linspace(1, 0, 11)]
    carriers = {"boxing": ("arms",)}
    right = truth.found(*_ranked(lifts, lifts), carriers, n_top=4, n_random=2000)
    assert right["class"].tolist() == ["boxing", "all"]
    assert right.loc[0, "top"] == pytest.approx(6)
    assert right.loc[0, "gain"] == pytest.approx(6 - lifts.mean())
    assert right.loc[0, "correlation"] == pytest.approx(1)
    assert right.loc[0, "p"] < 0.01
    assert right.loc[0, "ci_low"] > 0
    wrong = truth.found(*_ranked(lifts, -lifts), carriers, n_top=4, n_random=2000)
    assert wrong.loc[0, "gain"] < 0
    assert wrong.loc[0, "p"] > 0.95
    assert wrong.loc[1, "correlation"] == pytest.approx(-1)
    rng = np.random.default_rng(0)
    p = [
        truth.found(
            *_ranked(lifts, rng.permutation(lifts)), carriers, n_top=4, n_random=300, n_bootstrap=5
        ).loc[0, "p"]
        for _ in range(200)
    ]
    assert np.mean(np.array(p) < 0.1) < 0.17
    assert 0.4 < np.mean(p) < 0.65


def test_classes_without_truth_are_refused():
    with pytest.raises(ValueError, match=r"None of the classes jumping.*give `carriers`"):
        truth.found(*_ranked([1, 2], [1, 2]), {"jumping": ("legs",)})


def test_a_region_is_what_carries_the_class_of_each_clip():
    _, _, parts = _cubes()
    frames = np.zeros((*parts.shape, 1), np.uint8)
    names = ("boxing", "walking", "other")
    clips = Clips(
        frames, np.array([0, 1]), np.array(["a", "b"]), np.array(["a", "b"]), names, parts
    )
    region = truth.region(clips, truth.KTH_CARRIERS, NAMES)
    np.testing.assert_array_equal(region[0], parts[0] == 1)
    np.testing.assert_array_equal(region[1], parts[1] == 2)
    other = Clips(frames, np.array([2, 2]), clips.ids, clips.groups, names, parts)
    assert not truth.region(other, truth.KTH_CARRIERS, NAMES).any()


def test_pointed_averages_lifts_over_steps_and_pairs_clips():
    rows = [
        # video, order, q, revealed, held: "top" sees nothing of video 1 at q = 1
        (0, "top", 1, 0.1, 0.4), (0, "top", 2, 0.2, 0.4), (0, "least", 1, 0.5, 0.5),
        (0, "least", 2, 1.0, 1.0), (1, "top", 1, 0.0, 0.0), (1, "top", 2, 0.2, 1.0),
        (1, "least", 1, 0.5, 0.0), (1, "least", 2, 1.0, 1.0), (1, "top", 3, 0.4, 0.0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["video", "order", "q", "revealed", "held"])
    told = truth.pointed(table.assign(mode="add"), q_max=2).set_index("order")
    assert told.loc["top", "lift"] == pytest.approx((3 + 5) / 2)
    assert told.loc["least", "lift"] == pytest.approx((1 + 0.5) / 2)
    assert told.loc["least", "gain"] == pytest.approx((2 + 4.5) / 2)
    assert (told.loc["least", "gain_low"], told.loc["least", "gain_high"]) == (2.0, 4.5)
    assert (told["n_clips"] == 2).all()


def test_a_class_without_scores_is_left_out():
    lifts, scores = _ranked([4, 3, 2, 1], [4, 3, 2, 1])
    other = lifts.assign(**{"class": "running"})
    carriers = {"boxing": ("arms",), "running": ("arms",)}
    both = truth.found(pd.concat([lifts, other]), scores, carriers, n_top=2, n_random=99)
    pd.testing.assert_frame_equal(both, truth.found(lifts, scores, carriers, n_top=2, n_random=99))
    assert both["class"].tolist() == ["boxing", "all"]
