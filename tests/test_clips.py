import resource
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import zarr

from stce.clips import Clips, balanced, middle_clips
from stce.datasets.textures import textures
from stce.engine import storage
from stce.videos import CachedVideos, Videos, cache, moments
from stce.videos.frames import center_crop, fitted, resize, resize_parts


class Counting(Videos):
    """Video i has 20 + i frames; voxels hold 10 i + t, and the corner at (2, 3) holds 255."""

    def __init__(self, n=4, channels=1, size=(12, 16), with_parts=False, seed=0):
        labels = np.arange(n) % 2
        table = pd.DataFrame(
            {
                "id": [f"v{i}" for i in range(n)],
                "label": labels,
                "class": np.array(["walk", "run"])[labels],
                "group": [f"p{i // 2}" for i in range(n)],
            }
        )
        super().__init__(table, ("walk", "run"))
        self.channels, self.size, self.with_parts, self.seed = channels, size, with_parts, seed
        self.bad, self.log = {}, []

    def read(self, i):
        self.log.append(i)
        if i in self.bad:
            raise self.bad[i]
        frames = np.empty((20 + i, *self.size, self.channels), np.uint8)
        frames[:] = (10 * i + np.arange(20 + i))[:, None, None, None]
        frames[:, 2, 3] = 255
        return frames

    def parts(self, i):
        if not self.with_parts:
            return None
        parts = np.zeros((20 + i, *self.size), np.uint8)
        parts[:, :, self.size[1] // 2 :] = 4
        parts[:, : self.size[0] // 2] += 1
        return parts


def some_clips(n=3, with_parts=True, channels=3):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n, 16, 8, 10, channels), np.uint8)
    parts = rng.integers(0, 6, (n, 16, 8, 10), np.uint8) if with_parts else None
    ids = [f"clip{i}" for i in range(n)]
    return Clips(frames, np.arange(n) % 2, ids, ["p"] * n, ("walk", "run", "jump"), parts)


# --- Clips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_parts", [False, True])
def test_save_and_load_give_the_same_clips(tmp_path, with_parts):
    clips = some_clips(with_parts=with_parts)
    clips.save(tmp_path / "new" / "clips")
    loaded = Clips.load(tmp_path / "new" / "clips")
    assert isinstance(loaded.frames, zarr.Array)
    assert loaded.frames.chunks == (1, 16, 8, 10, 3) and loaded.frames.metadata.zarr_format == 3
    for got in (loaded.frames[1], loaded.frames[np.int64(1)]):
        np.testing.assert_array_equal(got, clips.frames[1])
    np.testing.assert_array_equal(loaded.frames[1:3], clips.frames[1:3])
    for name in ("labels", "ids", "groups"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(clips, name))
    assert loaded.labels.dtype == np.int64 and loaded.ids.dtype.kind == "U"
    assert loaded.classes == ("walk", "run", "jump")  # also the one without a clip
    assert (loaded.parts is None) != with_parts
    table = pd.read_parquet(tmp_path / "new" / "clips" / "table.parquet")
    assert table["class"].tolist() == ["walk", "run", "walk"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["clips"]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("indices", [[2, 0], slice(1, None), [True, False, True], [-1], []])
def test_select_keeps_the_order(tmp_path, lazy, indices):
    clips = some_clips()
    expected = np.arange(3)[indices]
    if lazy:
        clips.save(tmp_path / "clips")
    source = Clips.load(tmp_path / "clips") if lazy else clips
    chosen = source.select(indices)
    assert isinstance(chosen.frames, np.ndarray) and isinstance(chosen.parts, np.ndarray)
    np.testing.assert_array_equal(chosen.frames, clips.frames[expected])
    np.testing.assert_array_equal(chosen.parts, clips.parts[expected])
    assert chosen.ids.tolist() == clips.ids[expected].tolist()


def test_saved_clips_can_be_saved_again(tmp_path):
    some_clips().save(tmp_path / "a")
    Clips.load(tmp_path / "a").save(tmp_path / "b")
    np.testing.assert_array_equal(Clips.load(tmp_path / "b").frames[:], some_clips().frames)


def test_indices_of_a_class():
    clips = some_clips(5)
    assert clips.indices_of("walk").tolist() == [0, 2, 4]
    assert clips.indices_of("jump").tolist() == []
    with pytest.raises(ValueError, match="No class 'swim'.*walk, run, jump"):
        clips.indices_of("swim")
    with pytest.raises(ValueError, match=r"No class array.*walk, run, jump"):
        clips.indices_of(np.array(["walk", "run"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((3, 16, 8, 10), np.uint8)}, "must be .N, T, H, W, C. uint8"),
        ({"frames": np.zeros((3, 16, 8, 10, 3), np.float32)}, "convert|into bytes"),
        ({"frames": np.zeros((3, 16, 8, 10, 2), np.uint8)}, "C = 1 or 3"),
        ({"labels": [0, 1]}, "Clips.labels has 2 entries for 3 clips"),
        ({"labels": [0, 1, 3]}, "run from 0 to 3, but there are 3 classes"),
        ({"labels": [0, 1, -1]}, "run from -1"),
        ({"ids": ["a", "b", "a"]}, "'a' occurs 2 times"),
        ({"groups": ["a"]}, "Clips.groups has 1 entries"),
        ({"parts": np.zeros((3, 16, 8, 9), np.uint8)}, "Clips.parts must be"),
        ({"parts": np.zeros((3, 16, 8, 10), np.int64)}, "Clips.parts must be"),
        ({"parts": 3}, r"Clips.parts must be .*, not \(\) <class 'int'>"),
        ({"frames": [np.zeros(3), 1]}, r"Clips.frames must be .*, not \(\) <class 'list'>"),
    ],
)
def test_clips_check_what_they_are_given(change, message):
    clips = some_clips()
    fields = {name: getattr(clips, name) for name in clips.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        Clips(**(fields | change))


def test_save_only_into_a_new_folder(tmp_path):
    (tmp_path / "clips").mkdir()
    with pytest.raises(FileExistsError, match="is there already.*choose another name"):
        some_clips().save(tmp_path / "clips")


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="No saved clips in .*Clips.save or middle_clips"):
        Clips.load(tmp_path)


def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match=f"Cannot write into {tmp_path}: No space.*free some space"):
        some_clips().save(tmp_path / "clips")
    assert list(tmp_path.iterdir()) == []


# --- frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_averages_what_it_shrinks(channels):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 120, 160, channels), np.uint8)
    small = resize(frames, (30, 40))
    assert small.shape == (5, 30, 40, channels) and small.dtype == np.uint8
    # Independent noise averaged over at least 16 pixels; without antialiasing it would stay 74.
    assert small.std() < 25
    assert abs(small.mean() - frames.mean()) < 1


def test_resize_keeps_a_ramp_and_the_channels_apart():
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[:, None], (120, 160))
    frames = np.stack([ramp, np.full_like(ramp, 9), 255 - ramp], -1)[None]
    small = resize(frames, (60, 60)).astype(int)
    expected = np.arange(60) * 4 + 1
    assert np.abs(small[0, 2:-2, 30, 0] - expected[2:-2]).max() <= 1
    assert (small[..., 1] == 9).all()
    assert np.abs(small[..., 0] + small[..., 2] - 255).max() <= 1


def test_resize_of_the_same_size_is_the_same():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    assert resize(frames, (8, 8)) is frames


def test_resize_reads_what_is_read_only():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resize(frames, (4, 4)).shape == (2, 4, 4, 3)


def test_resize_checks():
    with pytest.raises(ValueError, match=r"last axis of 1"):
        resize(np.zeros((2, 8, 8), np.uint8), (4, 4))
    with pytest.raises(ValueError, match=r"positive \(height, width\), not \(0, 4\)"):
        resize(np.zeros((2, 8, 8, 1), np.uint8), (0, 4))


def test_center_crop():
    frames = np.arange(7)[:, None] * 10 + np.arange(9)
    assert center_crop(frames[None], (3, 5))[0].tolist() == frames[2:5, 2:7].tolist()
    with pytest.raises(ValueError, match=r"crop \(8, 5\) does not fit into frames of 7 x 9"):
        center_crop(frames[None], (8, 5))


@pytest.mark.parametrize(
    ("shape", "size", "cut", "inner"),
    [
        ((30, 50), (20, 20), (30, 30), (12, 20)),  # wide into square
        ((50, 31), (20, 20), (31, 31), (20, 12)),  # high into square
        ((30, 50), (20, 40), (25, 50), (20, 33)),  # wide into wider
        ((30, 50), (60, 100), (30, 50), (60, 100)),  # of the shape already
    ],
)
@pytest.mark.parametrize("how", ["crop", "pad", "squash"])
def test_fitted(how, shape, size, cut, inner):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, *shape, 3), np.uint8)
    parts = rng.integers(1, 3, (3, *shape), np.uint8)
    got, got_parts = fitted(frames, parts, size, how)
    assert got.shape == (3, *size, 3) and got_parts.shape == (3, *size)
    if how == "pad":
        small, inside = resize(frames, inner), np.zeros((3, *size), bool)
        center_crop(inside, inner)[:] = True
        np.testing.assert_array_equal(center_crop(got, inner), small)
        np.testing.assert_array_equal(center_crop(got_parts, inner), resize_parts(parts, inner))
        assert (got[~inside] == small.mean((0, 1, 2)).round()).all()
        assert not got_parts[~inside].any()
    else:
        cut = cut if how == "crop" else shape
        wanted = resize(np.ascontiguousarray(center_crop(frames, cut)), size)
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(got_parts, resize_parts(center_crop(parts, cut), size))
    alone, nothing = fitted(frames, None, size, how)
    np.testing.assert_array_equal(alone, got)
    assert nothing is None


# --- middle_clips ------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
def test_middle_clips(tmp_path, on_disk):
    source = Counting(with_parts=True)
    clips = middle_clips(
        source, tmp_path / "clips" if on_disk else None, n_frames=10, crop=(8, 8), indices=[3, 0]
    )
    assert isinstance(clips.frames, zarr.Array if on_disk else np.ndarray)
    assert clips.frames.shape == (2, 10, 8, 8, 1) and clips.ids.tolist() == ["v3", "v0"]
    # Video 3: 23 frames, the middle 10 start at 6; video 0: 20 frames, they start at 5.
    assert clips.frames[0][:, 4, 4, 0].tolist() == list(range(36, 46))
    assert clips.frames[1][:, 4, 4, 0].tolist() == list(range(5, 15))
    # The crop starts at (2, 4), and the middle of the part mask stays the middle.
    assert clips.parts[0][0, :, 0].tolist() == [1] * 4 + [0] * 4
    assert clips.parts[0][0, 7].tolist() == [0] * 4 + [4] * 4
    assert clips.labels.tolist() == [1, 0] and clips.groups.tolist() == ["p1", "p0"]


def test_middle_clips_whole_frame():
    assert middle_clips(Counting(), crop=None).frames.shape == (4, 16, 12, 16, 1)


def test_middle_clips_refuse(tmp_path):
    with pytest.raises(ValueError, match="'v0' has 20 frames, fewer than the 22 of a clip"):
        middle_clips(Counting(), n_frames=22, crop=None)
    with pytest.raises(ValueError, match=r"crop \(112, 112\) does not fit"):
        middle_clips(Counting())
    for call in (middle_clips, lambda videos: cache(videos, tmp_path / "cache", (6, 8))):
        for wrong in ([1], np.ones(2), None, "films"):
            with pytest.raises(ValueError, match="videos must be Videos, not"):
                call(wrong)
    with pytest.raises(ValueError, match="no video to take clips from"):
        middle_clips(Counting(), crop=None, indices=[])
    mixed = Counting()
    read = mixed.read
    mixed.read = lambda i: read(i)[:, : 12 - i]
    with pytest.raises(ValueError, match="'v1' gives a clip of .*all must have one size"):
        middle_clips(mixed, tmp_path / "clips", crop=None)
    assert list(tmp_path.iterdir()) == []


# --- Videos and their cache ----------------------------------------------------------------------


def test_table_is_checked():
    table = Counting().table
    for changed, message in (
        (table.drop(columns="group"), "lacks group"),
        (table.assign(id="same"), "Two videos are called 'same'"),
        (table.assign(label=[0, 1, 2, 0]), "indices into the 2 classes, but run from 0 to 2"),
    ):

        class Other(Videos):
            def read(self, i):
                return None

        with pytest.raises(ValueError, match=message):
            Other(changed, ("walk", "run"))


def test_select_videos():
    chosen = Counting(with_parts=True).select([3, 1]).select(np.array([False, True]))
    assert chosen.table["id"].tolist() == ["v1"] and chosen.table.index.tolist() == [0]
    assert chosen.read(0)[0, 0, 0, 0] == 10 and chosen.parts(0).shape[0] == 21


@pytest.mark.parametrize("channels", [1, 3])
def test_cache_holds_the_resized_videos(tmp_path, channels):
    source = Counting(channels=channels)
    cached = cache(source, tmp_path / "cache", (6, 8))
    assert cached.table["n_frames"].tolist() == [20, 21, 22, 23]
    assert cached.skipped == [] and cached.classes == ("walk", "run")
    for i in range(4):
        frames = cached.read(i)
        assert isinstance(frames, np.memmap) and not frames.flags.writeable
        np.testing.assert_array_equal(frames, resize(source.read(i), (6, 8)))
        assert cached.parts(i) is None
    again = CachedVideos.load(tmp_path / "cache")
    pd.testing.assert_frame_equal(again.table, cached.table)


def test_cache_resizes_parts_to_the_nearest(tmp_path):
    cached = cache(Counting(with_parts=True), tmp_path / "cache", (5, 4), max_frames=20)
    for i in range(4):
        assert cached.parts(i).shape == (20, 5, 4)
        # 12 rows to 5: centres at 1.2, 3.6, 6.0, ...; rows 0 to 5 are part 1.
        assert cached.parts(i)[7].tolist() == [[1, 1, 5, 5]] * 2 + [[0, 0, 4, 4]] * 3


@pytest.mark.parametrize("how", ["crop", "pad", "squash"])
def test_cache_fits_as_the_videos_say(tmp_path, how):
    videos = Counting(with_parts=True, size=(12, 20))
    videos.fit = how
    cached = cache(videos.select([1, 3]), tmp_path / "cache", (8, 8), max_frames=17)
    start = (21 - 17) // 2
    frames, parts = videos.read(1)[start : start + 17], videos.parts(1)[start : start + 17]
    frames, parts = fitted(frames, parts, (8, 8), how)
    np.testing.assert_array_equal(cached.read(0), frames)
    np.testing.assert_array_equal(cached.parts(0), parts)


def test_fit_is_a_setting_of_the_cache_only_where_it_is_chosen(tmp_path):
    cache(Counting(), tmp_path / "plain", (8, 8))
    assert '"fit"' not in (tmp_path / "plain" / "cache.json").read_text()
    chosen = Counting()
    chosen.fit = "crop"
    with pytest.raises(ValueError, match="something else .fit: None there, crop asked"):
        cache(chosen, tmp_path / "plain", (8, 8))
    cache(chosen, tmp_path / "cut", (8, 8))
    with pytest.raises(ValueError, match="something else .fit: crop there, None asked"):
        cache(Counting(), tmp_path / "cut", (8, 8))
    chosen.fit = "zoom"
    with pytest.raises(ValueError, match="fit of the videos must be one of crop, pad.*'zoom'"):
        cache(chosen, tmp_path / "never", (8, 8))
    assert not (tmp_path / "never").exists()


def test_max_frames_keeps_the_middle(tmp_path):
    cached = cache(Counting(), tmp_path / "cache", (12, 16), max_frames=16)
    assert cached.table["n_frames"].tolist() == [16] * 4
    assert cached.read(3)[:, 0, 0, 0].tolist() == list(range(33, 49))  # (23 - 16) // 2 = 3


def test_cache_continues(tmp_path):
    source = Counting()
    source.bad = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        cache(source, tmp_path / "cache", (6, 8))
    with pytest.raises(FileNotFoundError, match="No finished cache"):
        CachedVideos.load(tmp_path / "cache")
    source.bad, source.log = {}, []
    done = sorted(int(p.stem) for p in (tmp_path / "cache").glob("*.npy"))
    cached = cache(source, tmp_path / "cache", (6, 8))
    assert 0 in done and sorted(source.log) == sorted(set(range(4)) - set(done))
    assert cached.read(2)[0, 0, 0, 0] == 20
    source.log = []
    cache(source, tmp_path / "cache", (6, 8))
    assert source.log == []


def test_a_hundred_videos_share_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PACKED", 3)
    source = Counting(8)
    source.bad = {1: ValueError("It is torn.")}
    with pytest.warns(UserWarning, match="It is torn"):
        cached = cache(source, tmp_path, (6, 8))
    files = ["videos-000000.npy", "videos-000004.npy", "videos-000007.npy"]
    assert sorted(p.name for p in tmp_path.glob("*.npy")) == files
    for i, index in enumerate((0, 2, 3, 4, 5, 6, 7)):
        assert cached.read(i)[0, 0, 0, 0] == 10 * index
        assert len(cached.read(i)) == cached.table["n_frames"].iloc[i] == 20 + index
        assert cached.parts(i) is None
    # What was torn gets a file of its own, and nothing else is read again.
    source.bad, source.log = {}, []
    cached = cache(source, tmp_path, (6, 8))
    assert source.log == [1] and [cached.read(i)[0, 0, 0, 0] for i in (0, 1, 2)] == [0, 10, 20]
    assert sorted(p.name for p in tmp_path.glob("*.npy")) == [
        files[0],
        "videos-000001.npy",
        *files[1:],
    ]
    # A file that was lost is made again, of all that it held.
    (tmp_path / "videos-000004.npy").unlink()
    (tmp_path / "manifest.json").unlink()
    source.log = []
    cached = cache(source, tmp_path, (6, 8))
    assert sorted(source.log) == [4, 5, 6] and cached.read(5)[0, 0, 0, 0] == 50


def test_a_run_that_is_killed_while_it_packs_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PACKED", 2)
    write, source = storage.write_npy, Counting(8, with_parts=True)
    wanted = [source.parts(i)[3] for i in range(8)]

    def killed(path, *arrays, **how):
        if path.name.startswith("videos-000004"):
            raise KeyboardInterrupt
        write(path, *arrays, **how)

    monkeypatch.setattr(storage, "write_npy", killed)
    with pytest.raises(KeyboardInterrupt):
        cache(source, tmp_path, (12, 16))
    alone = sorted(p.name[:6] for p in tmp_path.glob("0*.npy"))
    assert alone == sorted(2 * [f"{i:06d}" for i in range(4, 8)])  # each with its parts
    monkeypatch.setattr(storage, "write_npy", write)
    source.log = []
    cached = cache(source, tmp_path, (12, 16))
    assert source.log == []
    for i in range(8):
        assert cached.read(i)[:, 0, 0, 0].tolist() == list(range(10 * i, 11 * i + 20))
        np.testing.assert_array_equal(cached.parts(i)[3], wanted[i])
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        *(f"videos-{i:06d}{end}" for i in (0, 2, 4, 6) for end in (".npy", ".parts.npy")),
        "table.parquet", "skipped.json", "classes.json", "cache.json", "manifest.json",
    }  # fmt: skip


def test_a_cache_of_an_older_version_is_read_and_packed(tmp_path):
    made = cache(Counting(), tmp_path, (6, 8))
    wanted = [made.read(i).copy() for i in range(4)]
    for i, frames in enumerate(wanted):
        np.save(tmp_path / f"{i:06d}.npy", frames)
    (tmp_path / "videos-000000.npy").unlink()
    (tmp_path / "manifest.json").unlink()
    table = pd.read_parquet(tmp_path / "table.parquet").drop(columns=["file", "first"])
    table.to_parquet(tmp_path / "table.parquet")
    for opened in (CachedVideos.load, lambda folder: cache(Counting(), folder, (6, 8))):
        again = opened(tmp_path)
        assert all(np.array_equal(again.read(i), wanted[i]) for i in range(4))
    assert [p.name for p in tmp_path.glob("*.npy")] == ["videos-000000.npy"]


@pytest.mark.parametrize("change", ["size", "seed", "table", "max_frames"])
def test_cache_of_something_else_is_refused(tmp_path, change):
    cache(Counting(), tmp_path / "cache", (6, 8))
    source = Counting(seed=int(change == "seed"), n=6 if change == "table" else 4)
    size, max_frames = (8, 8) if change == "size" else (6, 8), 18 if "max" in change else None
    with pytest.raises(ValueError, match=f"something else .{change}: .*delete it or choose"):
        cache(source, tmp_path / "cache", size, max_frames=max_frames)


def test_short_and_broken_videos_are_skipped_and_tried_again(tmp_path):
    source = Counting(6)
    source.bad = {2: ValueError("It is torn.")}
    with pytest.warns(UserWarning) as caught:
        cached = cache(source, tmp_path / "cache", (6, 8), min_frames=21)
    assert len(caught) == 2
    assert [row["id"] for row in cached.skipped] == ["v0", "v2"]
    assert "has 20 frames, fewer than the 21 needed" in cached.skipped[0]["reason"]
    assert cached.skipped[1]["reason"] == "It is torn."
    assert cached.table["id"].tolist() == ["v1", "v3", "v4", "v5"]
    assert cached.read(1)[0, 0, 0, 0] == 30  # the rows still find their files
    source.bad, source.log = {}, []
    with pytest.warns(UserWarning, match="'v0' is skipped"):
        cached = cache(source, tmp_path / "cache", (6, 8), min_frames=21)
    assert source.log == [0, 2] and cached.table["id"].tolist() == [f"v{i}" for i in range(1, 6)]


def test_lost_class_is_an_error(tmp_path):
    source = Counting()
    source.bad = {1: ValueError("It is torn."), 3: FileNotFoundError("It is gone.")}
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="None of the 2 videos of class 'run'.*'v1': It is torn"),
    ):
        cache(source, tmp_path / "cache", (6, 8))


def test_no_possible_length(tmp_path):
    with pytest.raises(ValueError, match="min_frames=16 and max_frames=8"):
        cache(Counting(), tmp_path / "cache", (6, 8), max_frames=8)


@pytest.mark.parametrize("size", [(0, 8), (8,), (8, -1)])
def test_no_possible_size(tmp_path, size):
    with pytest.raises(ValueError, match="size must be a positive .height, width."):
        cache(Counting(), tmp_path / "cache", size)


def test_full_disk_keeps_what_is_finished(tmp_path):
    """A limit on the size of files stands for a full disk: the third video does not fit."""
    source = Counting()
    limit = 128 + 21 * 6 * 8  # header and frames of video 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "cache"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as caught:
            cache(source, folder, (6, 8), progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert f"Cannot write into {folder}: " in message and "free some space or choose" in message
    assert sorted(p.name for p in folder.glob("*.npy")) == ["000000.npy", "000001.npy"]
    assert not list(folder.glob(".*")) and not (folder / "table.parquet").exists()
    source.log = []
    assert len(cache(source, folder, (6, 8))) == 4 and source.log == [2, 3]


def test_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.os, "replace", refuse)
    with pytest.raises(PermissionError, match="Cannot write into .*cache: Permission denied; "):
        cache(Counting(), tmp_path / "cache", (6, 8))
    assert not list((tmp_path / "cache").glob(".*.npy.tmp"))


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match="Cannot write into .*cache: File exists; .* another folder"):
        cache(Counting(), tmp_path / "cache", (6, 8))


def test_cache_of_a_cache(tmp_path):
    first = cache(Counting(with_parts=True), tmp_path / "a", (6, 8))
    second = cache(first.select([1, 2]), tmp_path / "b", (3, 4))
    assert second.table["id"].tolist() == ["v1", "v2"]
    np.testing.assert_array_equal(second.read(0), resize(first.read(1), (3, 4)))
    assert second.parts(1).shape == (22, 3, 4)


# --- moments -------------------------------------------------------------------------------------


class Noise(Videos):
    def __init__(self, n_frames, channels=3):
        n = len(n_frames)
        table = pd.DataFrame(
            {"id": [str(i) for i in range(n)], "label": 0, "class": "noise", "group": "g"}
        )
        super().__init__(table, ["noise"])
        self._n_frames, self._channels = n_frames, channels

    def read(self, i):
        rng = np.random.default_rng(i)
        high = [256, 100, 3][: self._channels]
        return rng.integers(0, high, (self._n_frames[i], 9, 7, self._channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_those_of_all_voxels_together(channels):
    source = Noise([5, 30, 17], channels)
    everything = np.concatenate([source.read(i) for i in range(3)]).astype(float) / 255
    mean, std = moments(source)
    assert mean.dtype == std.dtype == np.float32 and mean.shape == std.shape == (channels,)
    np.testing.assert_allclose(mean, everything.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, everything.std((0, 1, 2)), rtol=1e-6)


def test_moments_do_not_depend_on_the_order():
    source = Noise([5, 30, 17])
    for a, b in zip(moments(source), moments(source.select([2, 0, 1])), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moments_of_one_value():
    class Even(Noise):
        def read(self, i):
            return np.full((3, 5, 5, 1), 51, np.uint8)

    mean, std = moments(Even([3]))
    assert mean == np.float32(0.2) and std == 0  # exactly: no cancellation


def test_moments_refuse():
    with pytest.raises(ValueError, match="no frame to take the mean of"):
        moments(Noise([3]).select([]))

    class Mixed(Noise):
        def read(self, i):
            return np.zeros((3, 5, 5, 1 + 2 * i), np.uint8)

    with pytest.raises(ValueError, match="'1' has 3 channels, the first has 1"):
        moments(Mixed([3, 3]))


def test_balanced_draws_the_same_number_of_each_class_without_repeats():
    labels = np.repeat([0, 1, 2], [9, 5, 3])
    classes = ("a", "b", "c")
    drawn = balanced(labels, classes, 4, np.random.default_rng(0))
    assert np.bincount(labels[drawn]).tolist() == [4, 4, 3]
    assert len(set(drawn)) == len(drawn)
    assert (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, balanced(labels, classes, 4, np.random.default_rng(0)))
    assert not np.array_equal(drawn, balanced(labels, classes, 4, np.random.default_rng(1)))
    assert len(balanced(labels, classes, 0, np.random.default_rng(0))) == 17
    only = balanced(labels, classes, 4, np.random.default_rng(0), only=["b"])
    assert set(labels[only]) == {1}
    # Leaving a class out does not change what is drawn of the others.
    assert set(only) <= set(drawn)
    with pytest.raises(ValueError, match=r"no class 'd' in this data set; choose from a, b, c"):
        balanced(labels, classes, 4, np.random.default_rng(0), only=["d"])


def test_what_was_saved_is_what_is_loaded_or_it_is_named(tmp_path):
    clips = textures(3, n_frames=4, size=(24, 24))
    for name in ("lost", "cut", "old"):
        clips.save(tmp_path / name)
    shutil.rmtree(tmp_path / "lost" / "frames.zarr" / "c" / "0")
    with pytest.raises(ValueError, match=r"frames.zarr/c/0/0/0/0/0 is missing.*write the clips ag"):
        Clips.load(tmp_path / "lost")
    table = tmp_path / "cut" / "table.parquet"
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(ValueError, match="table.parquet has .* bytes instead of .*; delete"):
        Clips.load(tmp_path / "cut")
    (tmp_path / "old" / "manifest.json").unlink()  # as versions before seals wrote it
    assert (Clips.load(tmp_path / "old").frames[:] == clips.frames).all()
    shutil.rmtree(tmp_path / "old" / "frames.zarr" / "c" / "0")
    with pytest.raises(FileNotFoundError, match="frames.zarr/c/0/0/0/0/0 is missing, and zeros"):
        Clips.load(tmp_path / "old")


def test_black_clips_are_kept_as_they_are(tmp_path):
    black = textures(2, n_frames=4, size=(24, 24))
    black.frames[0] = 0
    black.save(tmp_path / "black")
    assert (Clips.load(tmp_path / "black").frames[:] == black.frames).all()


def test_names_that_are_no_list_are_named(tmp_path):
    cache(Counting(4), tmp_path / "cache", (6, 8))
    some_clips().save(tmp_path / "clips")
    wrong = {"cache/classes.json": CachedVideos.load, "cache/skipped.json": CachedVideos.load}
    for file, load in (wrong | {"clips/classes.json": Clips.load}).items():
        folder, before = (tmp_path / file).parent, (tmp_path / file).read_bytes()
        (folder / "manifest.json").unlink(missing_ok=True)
        for text in ("3", "null", '"wave"'):
            (tmp_path / file).write_text(text, "utf-8")
            with pytest.raises(
                ValueError, match=f"{file} cannot be read .*it holds a .*, not a li"
            ):
                load(folder)
        (tmp_path / file).write_bytes(before)
    (tmp_path / "cache" / "cache.json").write_text("[]", "utf-8")
    with pytest.raises(ValueError, match="cache.json cannot be read .*it holds a list, not a dict"):
        cache(Counting(4), tmp_path / "cache", (6, 8))


def test_two_files_of_a_cache_that_were_exchanged_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PACKED", 1)
    cache(Counting(4), tmp_path, (6, 8))
    (tmp_path / "videos-000001.npy").rename(tmp_path / "c")
    (tmp_path / "videos-000002.npy").rename(tmp_path / "videos-000001.npy")
    (tmp_path / "c").rename(tmp_path / "videos-000002.npy")
    for opened in (CachedVideos.load, lambda folder: cache(Counting(4), folder, (6, 8))):
        with pytest.raises(ValueError, match="000001.npy has .* bytes .*; delete the"):
            opened(tmp_path)


@pytest.mark.parametrize("wrong", [None, "0", [9], 2, 1.5, [[0]], [True], [0.5], object()])
def test_what_selects_no_clips_is_named(wrong):
    frames = np.zeros((4, 2, 8, 8, 1), np.uint8)
    clips = Clips(frames, [0] * 4, list("abcd"), list("abcd"), ("a",))
    told = "indices must be a slice, whole numbers below 4 or 4 times True or False"
    with pytest.raises(ValueError, match=told):
        clips.select(wrong)
    some = [0, 3], slice(0, 4, 3), np.array([True, False, False, True]), [0, -1]
    assert [clips.select(rows).ids.tolist() for rows in some] == [["a", "d"]] * 4
    assert len(clips.select([])) == 0
