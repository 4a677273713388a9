"""Pictures show the frames and the masks they are given."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from book import diagrams, sketches
from stce.clips import Clips, middle_clips
from stce.supervoxels import Supervoxels
from stce.videos import Videos, cache
from stce.videos.frames import FITS, center_crop, fitted
from stce.viz import pictures


class Counted(Videos):
    """One video of 23 frames, each as grey as its number."""

    def read(self, i):
        return np.arange(23, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)


@pytest.fixture
def world():
    """Four clips whose left half is supervoxel 1 and whose right half is supervoxel 2."""
    frames = np.full((4, 6, 8, 8, 1), 100, np.uint8)
    clips = Clips(frames, [0, 0, 1, 1], list("abcd"), ["p"] * 4, ("wave", "walk"))
    labels = np.tile(np.repeat([1, 2], 4), (4, 1, 6, 8, 1)).astype(np.uint8)
    table = pd.DataFrame(
        [(v, 0, s) for v in range(4) for s in (1, 2)], columns=["video", "level", "label"]
    )
    return clips, Supervoxels(labels, table)


def test_highlight_keeps_the_inside_and_dims_the_rest():
    frames = np.full((2, 9, 9, 1), 200, np.uint8)
    mask = np.zeros((2, 9, 9), bool)
    mask[0, 2:7, 2:7] = True
    lit = pictures.highlight(frames, mask, dim=0.25)
    assert (lit[0, 3:6, 3:6] == 200).all()
    assert (lit[0, 2, 2:7] == pictures.EDGE).all()
    assert (lit[~mask] == 50).all()
    assert (frames == 200).all()


def test_lit_above_raw_has_lit_above_raw():
    lit, raw = np.full((3, 4, 5, 3), 9, np.uint8), np.full((3, 4, 5, 1), 7, np.uint8)
    both = pictures.lit_above_raw([(lit, raw)] * 3)
    assert both.shape == (3, 4 + 2 + 4, 3 * 5 + 2 * 2, 3)
    assert (both[:, :4, :5] == 9).all()
    assert (both[:, 6:, :5] == 7).all()
    assert (both[:, 4:6] == 255).all()


def test_typical_takes_one_supervoxel_a_clip_in_order(world):
    clips, supervoxels = world
    pairs = pictures.typical(clips, supervoxels, np.array([0, 1, 2, 4, 6]), 3)
    assert len(pairs) == 3
    assert all(np.array_equal(raw, clips.frames[0]) for _, raw in pairs)
    assert (pairs[0][0][:, :, :3].mean()) > (pairs[0][0][:, :, 5:].mean())


def test_the_first_of_each_clip_in_the_order_given(world):
    _, supervoxels = world
    found = pictures.first_of_clips(supervoxels, np.array([5, 4, 0, 1, 6]), 3)
    assert found == [(5, 2), (0, 0), (6, 3)]


def test_what_lasts_longest_comes_first_and_the_order_stays_else(world):
    _, supervoxels = world
    table = supervoxels.table.assign(t0=[0, 2, 0, 1, 0, 0, 0, 3], t1=[4, 4, 6, 6, 6, 2, 6, 6])
    timed = Supervoxels(supervoxels.labels, table)
    assert pictures.lasting(timed, np.array([5, 4, 0, 3, 2])).tolist() == [4, 2, 3, 0, 5]


def test_enlarged_supervoxels_have_a_thinner_border(world):
    clips, supervoxels = world
    ((lit, raw),) = pictures.typical(clips, supervoxels, np.array([0]), 1, zoom=3)
    assert lit.shape == (6, 24, 24, 3) and raw.shape == (6, 24, 24, 1)
    edge = (lit == pictures.EDGE).all(-1)
    assert edge[:, :, 11].all() and not edge[:, :, :11].any()


def test_the_border_can_be_thicker_and_does_not_follow_the_frame():
    mask = np.zeros((1, 12, 12), bool)
    mask[0, :6, :6] = True  # in a corner, so two of its sides lie on the frame's edge
    lit = pictures.highlight(np.full((1, 12, 12, 1), 200, np.uint8), mask, width=2)
    edge = (lit[0] == pictures.EDGE).all(-1)
    assert edge[:6, 4:6].all() and edge[4:6, :6].all()
    assert not edge[:4, :4].any()
    assert not edge[~mask[0]].any()


def test_outlines_run_where_labels_change_and_nowhere_else():
    labels = np.repeat([[1, 1, 2, 2]], 4, 0)
    lines = pictures.outlined(np.zeros((4, 4, 1), np.uint8), labels, 4, np.array([9, 8, 7]))
    assert lines.shape == (16, 16, 3)
    drawn = (lines == [9, 8, 7]).all(-1)
    assert drawn[:, 7:9].all()
    assert drawn.sum() == 16 * 2


def test_revealed_shows_visible_voxels_and_fills_the_rest():
    frames = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    visible = np.zeros((2, 8, 8), bool)
    visible[:, 1:6, 1:6] = True
    shown = pictures.revealed(frames, visible, fill=200)
    assert (shown[visible] == frames[visible]).all()
    assert (shown[~visible] == 200).all()
    marked = pictures.revealed(frames, visible, fill=200, changed=visible)
    assert (marked[:, 2:5, 2:5] == shown[:, 2:5, 2:5]).all()
    assert (marked[:, 1, 1:6] == pictures.EDGE).all()


def test_cutouts_hold_one_supervoxel_of_each_clip_on_the_fill(world):
    clips, supervoxels = world
    images = diagrams.cutouts(clips, supervoxels, np.array([1, 0, 3, 5]), 3, fill=50)
    assert len(images) == 3
    for image in images:
        assert (image[:, :4] == 50).all()  # the supervoxels asked for are the right halves
        assert (image[:, 5:] == 100).all()
        assert (image[:, 4] == pictures.EDGE).all()


def test_what_speaks_for_and_against_is_coloured_by_its_size():
    frames = np.full((1, 1, 4, 3), 100, np.uint8)
    shown = pictures.signed(frames, np.array([[[0.0, 2.0, -2.0, 1.0]]]))[0, 0].astype(int)
    assert shown[0].tolist() == [60, 60, 60]
    assert shown[1].tolist() == (0.2 * 60 + 0.8 * pictures.FOR).round().tolist()
    assert shown[2].tolist() == (0.2 * 60 + 0.8 * pictures.AGAINST).round().tolist()
    assert shown[0, 0] < shown[3, 0] < shown[1, 0]
    assert (pictures.signed(frames, np.zeros((1, 1, 4))) == 60).all()


def test_examples_of_concepts_are_titled_and_have_thumbnails(world):
    clips, cut = world
    # The table says how long a supervoxel lasts.
    supervoxels = Supervoxels(cut.labels, cut.table.assign(t0=0, t1=6))
    rows = {0: np.array([0, 1]), 1: np.array([4, 6])}
    found = SimpleNamespace(
        clips=clips,
        supervoxels=supervoxels,
        class_name="wave",
        ranking=[1, 0],
        members=rows.get,
        title=lambda k: f"rank of {k}",
    )
    pairs, titles = pictures.titled(found, [1, 0])
    assert titles == ["wave: rank of 1", "wave: rank of 0"]
    (expected,) = pictures.typical(clips, supervoxels, rows[1], 1)
    assert all(np.array_equal(a, b) for a, b in zip(pairs[0], expected, strict=True))
    assert [len(each) for each in pictures.examples(found, [0, 1], n=2)] == [1, 2]
    thumbs = pictures.thumbnails([found])
    assert set(thumbs) == {("wave", 0), ("wave", 1)}
    assert np.array_equal(thumbs["wave", 1], pictures.fullest(expected[0]))


def test_the_fullest_frame_is_the_one_with_the_largest_mask():
    mask = np.zeros((3, 8, 8), bool)
    mask[0, :2], mask[1, :5], mask[2, :3] = True, True, True
    lit = pictures.highlight(np.full((3, 8, 8, 1), 90, np.uint8), mask)
    assert (pictures.fullest(lit) == lit[1]).all()


@pytest.mark.parametrize("longest", [0, 8, 13, 40])
def test_middle_takes_the_frames_that_the_clip_has(longest, tmp_path):
    videos = Counted(pd.DataFrame({"id": ["a"], "label": 0, "class": "c", "group": "g"}), ["c"])
    cached = cache(videos, tmp_path, (8, 8), 6, longest or None, progress=False)
    clip = middle_clips(cached, n_frames=6, crop=None)
    assert (sketches.middle(videos.read(0), 6, longest) == clip.frames[0]).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("size", "resized", "crop"),
    [
        ((120, 160), (60, 60), (56, 56)),  # the embedded data
        ((120, 160), (120, 120), (112, 112)),  # KTH
        ((720, 1280), (128, 171), (112, 112)),  # Kinetics
        ((90, 77), (128, 171), (112, 112)),  # enlarged
    ],
)
def test_lifting_undoes_fit_and_crop_within_a_voxel(size, resized, crop, fit):
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (y / size[0] - 0.55) ** 2 + (x / size[1] - 0.45) ** 2 < 0.2**2
    frames = (255 * disc).astype(np.uint8)[None, ..., None]
    mask = center_crop(fitted(1 - frames // 255, None, resized, fit)[0], crop)[..., 0] == 0
    lifted = sketches.lift(mask, resized, size, fit)[0]
    assert lifted.shape == size
    # A voxel of the network is this many pixels of the video; the outlines are no further apart.
    reach = tuple(int(np.ceil(s / r)) * 2 + 1 for s, r in zip(size, resized, strict=True))
    assert not (lifted & ~ndimage.maximum_filter(disc, reach)).any()
    assert not (ndimage.minimum_filter(disc, reach) & ~lifted).any()
    assert lifted.mean() == pytest.approx(disc.mean(), rel=0.05)


def test_what_the_crop_cut_away_is_never_lit():
    lifted = sketches.lift(np.ones((2, 56, 56), bool), (60, 60), (120, 160))
    assert lifted.shape == (2, 120, 160)
    assert lifted[:, 4:-4, 6:-6].all()
    assert not lifted[:, :3].any() and not lifted[:, -3:].any()
    assert not lifted[..., :5].any() and not lifted[..., -5:].any()


def test_a_mask_larger_than_the_resized_frames_is_refused():
    with pytest.raises(ValueError, match=r"frame_size is \(60, 60\), smaller"):
        sketches.lift(np.ones((1, 112, 112), bool), (60, 60), (120, 160))
