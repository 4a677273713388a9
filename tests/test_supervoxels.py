"""Supervoxels on worlds where the right answer is known."""

import numpy as np
import pytest
from skimage.segmentation import slic

from stce.evaluation.truth import recovery
from stce.supervoxels import Supervoxels, deduplicate, jaccard, segment, segment_clip, sift


@pytest.fixture
def moving_square():
    """A bright square that crosses a dark clip: ``(16, 32, 32, 1)`` and its mask."""
    frames = np.full((16, 32, 32, 1), 40, np.uint8)
    mask = np.zeros((16, 32, 32), bool)
    for t in range(16):
        mask[t, 10:20, 4 + t : 14 + t] = True
    frames[mask] = 220
    return frames, mask


class _Clips:
    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames)


def _noise_clips(n, shape=(8, 24, 24, 1)):
    rng = np.random.default_rng(0)
    return _Clips(rng.integers(0, 255, (n, *shape), np.uint8))


def test_jaccard_equals_mask_by_mask():
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 6, (2, 5, 7, 9))
    index = jaccard(a, b)
    for i in range(1, 6):
        for j in range(1, 6):
            expected = ((a == i) & (b == j)).sum() / ((a == i) | (b == j)).sum()
            assert index[i, j] == pytest.approx(expected)


def test_supervoxels_follow_the_object(moving_square):
    frames, mask = moving_square
    labels, table = segment_clip(frames, sigma=0.0)
    assert (recovery(labels, mask) > 0.9).all()
    assert len(table) > 10


def test_every_pair_left_is_distinct_and_coarse_survives():
    labels, table = segment_clip(_noise_clips(1).frames[0], n_segments=(4, 5, 8))
    kept = [(r.level, r.label) for r in table.itertuples()]
    masks = [labels[level] == label for level, label in kept]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert (a & b).sum() / (a | b).sum() <= 0.5
    coarse = set(np.unique(labels[0]))
    assert {label for level, label in kept if level == 0} == coarse
    # What is kept covers the clip.
    assert np.logical_or.reduce(masks).all()


def test_recovery_equals_segment_by_segment():
    rng = np.random.default_rng(2)
    labels, truth = rng.integers(1, 9, (2, 4, 6, 6)), rng.random((4, 6, 6)) < 0.5
    for volume, found in zip(labels, recovery(labels, truth), strict=True):
        inside = [k for k in range(1, 9) if truth[volume == k].mean() > 0.5]
        union = np.isin(volume, inside)
        assert found == pytest.approx((union & truth).sum() / (union | truth).sum())


def test_identical_levels_keep_the_first():
    volume = np.arange(1, 9).reshape(2, 2, 2)
    keep = deduplicate(np.stack([volume, volume]))
    assert keep[0][1:].all() and not keep[1].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_same_segments_as_scikit_image_alone(channels):
    frames = np.random.default_rng(3).integers(0, 255, (6, 30, 30, channels), np.uint8)
    labels, _ = segment_clip(frames, n_segments=(6, 12), compactness=5.0, spacing=(2.0, 1.0, 1.0))
    rgb = frames.repeat(3 // channels, axis=-1)
    for level, n in enumerate((6, 12)):
        alone = slic(rgb, n, 5.0, sigma=1, spacing=(2, 1, 1), start_label=1, convert2lab=True)
        assert (labels[level] == alone).mean() > 0.995


def test_boxes_and_sizes_are_exact():
    labels, table = segment_clip(_noise_clips(1).frames[0], n_segments=(5, 9))
    for row in table.itertuples():
        where = np.argwhere(labels[row.level] == row.label)
        assert row.size == len(where)
        assert [row.t0, row.y0, row.x0] == where.min(0).tolist()
        assert [row.t1, row.y1, row.x1] == (where.max(0) + 1).tolist()


def test_places_are_size_and_centre_as_shares_of_the_clip():
    volume = np.ones((1, 4, 8, 16), np.uint8)
    volume[0, 2:, :4, 12:] = 2
    labels, table = sift(volume)
    places = Supervoxels(labels[None], table.assign(video=0)).places()
    expected = [[np.log(15 / 16), 0.5, 0.5, 0.5], [np.log(1 / 16), 0.75, 0.25, 0.875]]
    np.testing.assert_allclose(places, expected)
    # They do not change with the size of the clip.
    larger, table = sift(volume.repeat(2, 1).repeat(3, 2).repeat(5, 3))
    again = Supervoxels(larger[None], table.assign(video=0)).places()
    np.testing.assert_allclose(again, expected)


def test_spacing_shortens_supervoxels_in_time():
    frames = np.random.default_rng(5).integers(0, 255, (16, 32, 32, 1), np.uint8)
    spans = []
    for step in (1.0, 6.0):
        _, table = segment_clip(frames, (30,), compactness=100.0, spacing=(step, 1.0, 1.0))
        spans.append((table.t1 - table.t0).mean())
    assert spans[1] < 0.8 * spans[0]


def test_on_disk_parallel_and_resumed_equal_in_memory(tmp_path, monkeypatch):
    clips = _noise_clips(6)
    options = {"n_segments": (4, 8)}
    memory = segment(clips, **options)
    disk = segment(clips, tmp_path / "whole", n_jobs=2, **options)
    assert np.array_equal(memory.labels, disk.labels[:])
    assert memory.table.equals(disk.table)

    # Stopped after three clips, then continued: only the rest is segmented.
    import stce.supervoxels as module

    calls = []

    def counted(frames, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return segment_clip(frames, **kwargs)

    monkeypatch.setattr(module, "segment_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        segment(clips, tmp_path / "cut", **options)
    segment(clips, tmp_path / "cut", **options)
    assert len(calls) == 4 + 3
    again = Supervoxels.load(tmp_path / "cut")
    assert np.array_equal(memory.labels, again.labels[:])
    assert memory.table.equals(again.table)


def test_some_clips_keep_their_supervoxels():
    whole = segment(_noise_clips(4), n_segments=(4, 8))
    some = whole.select(np.array([2, 0]))
    assert len(some.labels) == 2
    for new, old in enumerate((2, 0)):
        mine, theirs = some.rows_of(new), whole.rows_of(old)
        assert len(mine) == len(theirs)
        assert np.array_equal(some.mask(mine[3]), whole.mask(theirs[3]))


def test_a_flat_clip_is_segmented():
    labels, table = segment_clip(np.zeros((4, 16, 16, 3), np.uint8), n_segments=(2, 4))
    assert labels.min() == 1
    assert len(table) >= 2


@pytest.mark.parametrize("frames", [np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 1))])
def test_wrong_frames(frames):
    with pytest.raises(ValueError, match=r"uint8 of shape \(T, H, W, C\)"):
        segment_clip(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_segments": (4.5,)}, r"n_segments is \(4.5,\); it takes a list of counts above 0"),
        ({"compactness": 0}, "compactness is 0; it takes a number, at least 1e-06"),
        ({"sigma": "1"}, "sigma is '1'; it takes a number, at least 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        segment(_noise_clips(1), **options)


def test_levels_must_grow():
    with pytest.raises(ValueError, match="from coarse to fine"):
        segment_clip(np.zeros((4, 8, 8, 1), np.uint8), n_segments=(8, 4))


def test_a_clip_without_supervoxels_is_refused():
    with pytest.raises(ValueError, match="Clip 0 keeps no supervoxel of min_fraction=0.5"):
        segment(_noise_clips(1), n_segments=(4, 8), min_fraction=0.5)


def test_more_segments_than_asked_for_are_told_apart():
    clips = _noise_clips(1, (16, 24, 24, 1))
    options = {"n_segments": (100,), "compactness": 100.0, "min_fraction": 0.0}
    labels, _ = segment_clip(clips.frames[0], **options)
    assert np.array_equal(segment(clips, **options).labels[0], labels)
    assert segment(clips, **options).labels.dtype == np.uint16
