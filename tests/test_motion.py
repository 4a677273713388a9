"""What is changed in a clip, voxel by voxel, and networks that know motion alone, or look alone."""

import numpy as np
import pandas as pd
import pytest
import torch

from stce import explain, supervoxels
from stce.ablation import Subject
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.evaluation.effects import motion
from stce.models.adapt import Functions
from stce.supervoxels import Supervoxels

T, SIZE, SIDE, GREY = 8, 16, 4, 100


def moving(step, texture, start=0):
    """Return a textured square on grey that moves `step` columns a frame, and where it is."""
    frames = np.full((T, SIZE, SIZE, 1), GREY, np.uint8)
    mask = np.zeros((T, SIZE, SIZE), bool)
    pattern = np.indices((SIDE, SIDE)).sum(0) % 2
    for t in range(T):
        x = (start + step * t) % (SIZE - SIDE + 1)
        spot = (t, slice(6, 6 + SIDE), slice(x, x + SIDE))
        frames[spot] = (GREY + texture * (2 * pattern - 1) + 30)[..., None]
        mask[spot] = True
    return frames, mask


@pytest.mark.parametrize("change", motion.MOTION)
def test_motion_is_changed_and_nothing_else(change):
    frames, mask = moving(1, 20)
    changed = motion.altered(frames, mask, change, seed=3)
    order = {
        "freeze": [T // 2] * T,
        "reverse": range(T)[::-1],
        "shuffle": np.random.default_rng(3).permutation(T),
    }[change]
    # On a background that stands still the whole clip is the one with frames in this order.
    assert (changed == frames[list(order)]).all()
    assert changed.dtype == frames.dtype


def test_all_else_goes_on():
    frames, mask = moving(1, 20)
    frames[:, 0, 0, 0] = np.arange(T)  # moves elsewhere
    for change in motion.CHANGES:
        assert motion.altered(frames, mask, change)[:, 0, 0, 0].tolist() == list(range(T))


def test_a_concept_that_comes_late_is_held_at_the_middle_of_its_own_frames():
    frames, mask = moving(1, 20)
    mask[:4] = False
    frames[:4] = GREY
    assert (motion.altered(frames, mask, "freeze") == frames[6]).all()


def test_flat_keeps_the_silhouette_and_its_mean_and_remove_hides_it():
    frames, mask = moving(1, 20)
    flat = motion.altered(frames, mask, "flat")
    assert (flat[mask] == GREY + 30).all() and (flat[~mask] == GREY).all()
    assert (motion.altered(frames, mask, "remove", fill=7)[mask] == 7).all()


def test_held_still_and_flat_it_is_a_shape_that_stands():
    frames, mask = moving(1, 20)
    still = motion.altered(frames, mask, "freeze, flat")
    assert (still[:, mask[T // 2]] == GREY + 30).all()
    assert (still[:, ~mask[T // 2]] == GREY).all()


def test_what_is_always_hidden_stays_and_the_rest_is_uncovered_by_the_nearest_frame():
    frames = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) + np.array([0, 10], np.uint8)[:, None]
    mask = np.array([[1, 0], [1, 1], [1, 1], [1, 0]], bool).reshape(4, 1, 2)
    assert motion.behind(frames, mask)[:, 0, :, 0].tolist() == [[0, 10], [1, 10], [2, 13], [3, 13]]


def test_a_picture_cannot_move():
    frames, mask = moving(1, 20)
    with pytest.raises(ValueError, match="one frame"):
        motion.altered(frames[:1], mask[:1], "freeze")
    with pytest.raises(ValueError, match="mask is empty"):
        motion.altered(frames, np.zeros_like(mask), "freeze")
    with pytest.raises(ValueError, match="change is 'thaw'; choose one of remove, freeze"):
        motion.altered(frames, mask, "thaw")


def _world(features, n=12, classes=("no", "yes")):
    """Return a subject: clips in which a square moves (concept 0) and another stands (concept 1).

    The network says class 1 by the one feature it is given, and nothing else.
    """
    rng = np.random.default_rng(0)
    frames, labels, rows = [], [], []
    for video in range(n):
        clip, mask = moving(1, 40, start=int(rng.integers(4)))
        clip[:, 12:16, 12:16] = moving(0, 40)[0][:, 6:10, :4]
        volume = np.where(mask, 1, 2).astype(np.uint8)
        volume[:, 12:16, 12:16] = 3
        frames.append(clip)
        labels.append(volume[None])
        rows += [(video, 0, k, 0, T, 0, SIZE, 0, SIZE, 1, 0.1) for k in (1, 3)]
    columns = "video level label t0 t1 y0 y1 x0 x1 size fraction".split()
    ids = [f"clip {i}" for i in range(n)]
    clips = Clips(np.stack(frames), [1] * n, ids, ids, classes)
    cut = Supervoxels(np.stack(labels), pd.DataFrame(rows, columns=columns))
    network = Functions(
        features, lambda z: torch.cat([0 * z, 10 * z], 1), (1, T, SIZE, SIZE), GREY / 255, 0.1
    )
    concepts = Concepts(None, None, {"yes": np.array([[0.0], [1.0]], np.float32)})
    given = np.tile([[0.0], [1.0]], (n, 1)).astype(np.float32)
    return Subject(network, clips, cut, concepts, {"yes": [0, 1]}, features=given)


def _motion(x):
    return (x[:, :, 1:] - x[:, :, :-1]).abs().mean((1, 2, 3, 4))[:, None]


def _texture(x):
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean((1, 2, 3, 4))[:, None]


def _light(x):
    return x.mean((1, 2, 3, 4))[:, None]


def _both(x):
    return _motion(x) + _texture(x)


@pytest.mark.parametrize(
    ("network", "moves", "stands"),
    [
        (_motion, "motion", "unsure"),
        (_texture, "look", "look"),
        (_light, "presence", "presence"),
    ],
)
def test_networks_that_know_one_thing(network, moves, stands):
    found = motion.assess(_world(network), progress=False)
    table = found.concepts.set_index("concept")
    assert table["kind"].tolist() == [moves, stands]
    assert (table["n_clips"] == 12).all()
    drops = found.outcomes.groupby(["concept", "change"])["drop"].mean().unstack()
    # What stands still is the same however its frames are ordered.
    assert drops.loc[1, list(motion.MOTION)].tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    if network is _motion:
        assert drops.loc[0, "freeze"] == pytest.approx(drops.loc[0, "remove"], rel=1e-5)
        assert drops.loc[0, "reverse"] == pytest.approx(0, abs=1e-4)
    assert (table["remove_low"] <= table["remove"]).all()


def test_the_drop_is_that_of_the_logit():
    subject = _world(_both)
    found = motion.assess(subject, {"yes": [0]}, progress=False)
    network, case = subject.network, subject.case(3)
    place = case.order("", 0, [0]).place < 1
    hidden = case.clip * torch.from_numpy(~place)
    drop = float((network(case.clip) - network(hidden))[0, 1])
    row = found.outcomes.query("video == 3 and change == 'remove'").iloc[0]
    assert row["drop"] == pytest.approx(drop, rel=1e-5)
    assert row["area"] == pytest.approx(place.mean())
    assert row["id"] == "clip 3" and row["class"] == "yes"


def test_batches_and_seeds_change_nothing_and_something():
    subject = _world(_both, n=4)
    tables = [motion.assess(subject, seed=s, progress=False).outcomes for s in (0, 0, 1)]
    small = motion.assess(Subject(**vars(subject) | {"batch_size": 3}), progress=False).outcomes
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], small)
    assert not tables[0].equals(tables[2])


def test_concepts_that_no_clip_has_and_that_do_not_exist():
    subject = _world(_motion)
    subject.features[:] = 0  # all supervoxels are of concept 0
    assert motion.assess(subject, progress=False).concepts["kind"].tolist() == ["motion", "unseen"]
    with pytest.raises(ValueError, match="no clip of class 'yes' has its concept 1"):
        motion.assess(subject, {"yes": [1]}, progress=False)
    with pytest.raises(
        ValueError, match=r"concepts names \[5\] of class 'yes', whose concepts are"
    ):
        motion.assess(subject, {"yes": [5]}, progress=False)


def test_explain_asks_it_of_the_concepts_it_found(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool3d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    )
    clips, test = (textures(6, n_frames=4, size=(24, 24), seed=s).frames for s in (0, 1))
    how = {"random": 10, "n_segments": (4, 8), "n_concepts": 3, "n_keep": 5, "n_groups": 3}
    how |= {"progress": False, "n_random_orders": 2}
    found = explain(model, "0", clips, 1, test_clips=test, check=True, **how)
    unseen = Clips.of_array(test, "test")
    labelled = Clips(unseen.frames, [1] * 6, unseen.ids, unseen.groups, ("0", "1"))
    cut = supervoxels.segment(unseen, n_segments=(4, 8), progress=False)
    given = found.network, labelled, cut, found.concepts, {"1": found.ranking}
    told = motion.assess(Subject(*given, stretch=False), progress=False).concepts
    pd.testing.assert_frame_equal(found.motion, told)
    found.save(tmp_path / "kept")
    pd.testing.assert_frame_equal(type(found).load(tmp_path / "kept").motion, told)
    # It changes nothing else.
    plain = explain(model, "0", clips, 1, test_clips=test, **how)
    pd.testing.assert_frame_equal(plain.outcomes, found.outcomes)
    assert plain.motion is None
    with pytest.raises(ValueError, match="check is True, but .* give some"):
        explain(model, "0", clips, 1, check=True, **how)
