import re
import shutil

import av
import numpy as np
import pytest

from stce import datasets, videos
from stce.datasets import folder as folder_module
from stce.videos import cache, decode
from stce.viz.film import write_video

CLASSES = ("clap", "wave")
EXACT = {"global_quality": "236", "g": "300", "sc_threshold": "1000000000"}  # of FFmpeg's mpeg4


def counter(n_frames=20, height=24, width=32):
    """Frames whose brightness counts: frame t is 10 t bright all over."""
    return np.broadcast_to(
        (10 * np.arange(n_frames, dtype=np.uint8))[:, None, None, None],
        (n_frames, height, width, 3),
    )


def order(frames):
    return np.round(frames.mean((1, 2, 3)) / 10).astype(int).tolist()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    for name in CLASSES:
        (root / name).mkdir()
        for person in ("p1", "p2", "p3"):
            write_video(root / name / f"{person}_take1.avi", counter())
    return root


@pytest.fixture
def own(films, tmp_path):
    return shutil.copytree(films, tmp_path / "films")


def load(root, split="train", test_groups=("p3",), **options):
    return datasets.load("folder", split, folder=root, test_groups=list(test_groups), **options)


def test_split_keeps_groups_apart(films):
    train, test = load(films), load(films, "test")
    assert train.classes == test.classes == CLASSES
    assert train.table["id"].tolist() == [
        f"{c}/{p}_take1.avi" for c in CLASSES for p in "p1 p2".split()
    ]
    assert test.table["group"].tolist() == ["p3", "p3"]
    assert test.table["label"].tolist() == [0, 1]
    frames = test.read(1)
    assert frames.shape == (20, 24, 32, 3) and frames.dtype == np.uint8
    assert order(frames) == list(range(20))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.AVI", "mpeg4", {}),
        ("a.avi", "mpeg4", {"bf": "2", "flags": "+qscale"}),
        ("a.avi", "mjpeg", {}),
        ("a.mp4", "libx264", {"bf": "3"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.mkv", "mpeg4", {}),
        ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("a.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_all_frames_in_order_in_any_format(tmp_path, name, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV without {codec}")
    if codec == "mjpeg":
        options = {"strict": "unofficial"}
    if "flags" in options:
        options = options | EXACT
    write_video(tmp_path / name, counter(), codec=codec, options=options)
    assert order(decode(tmp_path / name)) == list(range(20))


def write_packed(path, frames):
    """Write an AVI as DivX and Xvid do: a B-frame in the packet of the P-frame that it needs.

    FFmpeg then guesses the time stamps wrong, as it does for many AVI files of action data sets.
    """
    plain = path.with_name("plain.avi")
    write_video(plain, frames, codec="mpeg4", options={"bf": "2", "flags": "+qscale", **EXACT})
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        data = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        chunks = [re.sub(rb"Lavc[\d.]+", b"DivX999b000p\0", data[0])]
        for p, b1, b2 in zip(data[1::3], data[2::3], data[3::3], strict=True):
            chunks += [p + b1, b2, b"\0\0\1\xb6\x50\x41\x7f"]  # ends in an empty frame
        for t, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = stream, source.streams.video[0].time_base
            packet.pts = packet.dts = t
            packet.is_keyframe = t == 0
            target.mux(packet)


def test_decode_keeps_the_order_that_get_clip_loses(tmp_path):
    """If the first half fails, pytorchvideo was repaired and `decode` can use its `get_clip`."""
    from stce.videos import compat  # noqa: F401

    # isort: split
    from pytorchvideo.data.encoded_video import EncodedVideo

    write_packed(tmp_path / "packed.avi", counter(19))
    video = EncodedVideo.from_path(str(tmp_path / "packed.avi"), decode_audio=False)
    clip = order(video.get_clip(0, video.duration)["video"].permute(1, 2, 3, 0).numpy())
    assert clip[:7] == [0, 1, 3, 2, 4, 6, 5]
    assert order(decode(tmp_path / "packed.avi")) == list(range(19))
    assert order(decode(tmp_path / "packed.avi", fps=12.5)) == list(range(0, 19, 2))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (10, list(range(20))),
        (5, list(range(0, 20, 2))),
        (2.5, list(range(0, 20, 4))),
        (20, [t // 2 for t in range(40)]),
        (4, [0, 2, 5, 7, 10, 12, 15, 17]),  # ticks at 0, 2.5, 5, 7.5: a tie takes the earlier
    ],
)
@pytest.mark.parametrize("ending", ["avi", "mkv"])
def test_fps_takes_the_nearest_frames(tmp_path, fps, expected, ending):
    write_video(tmp_path / f"a.{ending}", counter(), fps=10)
    assert order(decode(tmp_path / f"a.{ending}", fps=fps)) == expected


def test_fps_reaches_the_videos(films):
    assert load(films, fps=12.5).read(0).shape[0] == 10
    assert load(films, fps=0).read(0).shape[0] == 20


def test_sizes_and_rates_may_differ(own, tmp_path):
    write_video(own / "clap" / "p1_take2.mp4", counter(30, 50, 70), fps=60)
    cached = cache(load(own), tmp_path / "cache", (16, 20))
    assert [cached.read(i).shape for i in range(len(cached))][1] == (30, 16, 20, 3)


def test_pattern_without_group_takes_the_whole_match(films):
    train = load(films, group_pattern=r"p\d")
    assert sorted(set(train.table["group"])) == ["p1", "p2"]


# --- what can be wrong with the folder -------------------------------------------------------


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there; correct `folder`"):
        load(tmp_path / "nowhere")


def test_no_classes(tmp_path):
    write_video(tmp_path / "p1_take1.avi", counter())
    (tmp_path / ".ipynb_checkpoints").mkdir()
    with pytest.raises(ValueError, match="no sub-folders; make one for each class"):
        load(tmp_path)


@pytest.mark.parametrize("n", [0, 1])
def test_class_with_too_few_clips(own, n):
    (own / "jump").mkdir()
    (own / "jump" / "notes.txt").write_text("not a video")
    if n:
        write_video(own / "jump" / "p1_take1.avi", counter())
    with pytest.raises(
        ValueError,
        match=f"jump has {n} video.*a class needs at least two clips, one to train and one to test",
    ):
        load(own)


def test_pattern_that_does_not_match(own):
    write_video(own / "wave" / "solo.avi", counter())
    with pytest.raises(ValueError, match=r"finds no group in the file name 'solo.avi'"):
        load(own)


def test_pattern_that_is_none(films):
    with pytest.raises(ValueError, match=r"group_pattern '\(' is not a regular expression"):
        load(films, group_pattern="(")


def test_unknown_test_group(films):
    with pytest.raises(ValueError, match="names 'p9', but .* the groups are p1, p2, p3"):
        load(films, test_groups=["p3", "p9"])


def test_no_test_group(films):
    with pytest.raises(ValueError, match="one or more groups.*p1, p2, p3"):
        load(films, test_groups=[])
    with pytest.raises(ValueError, match="must be a list of one or more groups"):
        folder_module.load("test", folder=films, test_groups="p3")


def test_class_without_a_video_in_one_part(own):
    (own / "wave" / "p3_take1.avi").rename(own / "wave" / "p1_take9.avi")
    with pytest.raises(ValueError, match="'wave' has no video to test on when test_groups is"):
        load(own)
    with pytest.raises(ValueError, match="'wave' has no video to train on"):
        load(own, test_groups=["p1", "p2"])


def test_unknown_split_and_rate(films):
    with pytest.raises(ValueError, match="'train' or 'test', not 'validation'"):
        load(films, "validation")
    with pytest.raises(ValueError, match="fps must be .*not -1"):
        load(films, fps=-1.0)


# --- what can be wrong with a video ----------------------------------------------------------


def broken(kind, path):
    """Write a video with a fault; return what the message must say."""
    write_video(path, counter(), codec="mpeg4" if path.suffix == ".avi" else None)
    data = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
        return r"is empty \(0 bytes\)"
    if kind == "text":
        path.write_text("this is not a video\n" * 100)
        return "cannot be read as a video"
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
        return "is broken|cannot be read as a video"
    if kind == "header":
        path.write_bytes(data[: 64 if path.suffix == ".avi" else 40])
        return "cannot be read as a video|no frame can be decoded"
    write_video(path, counter(8))
    return "has 8 frames, fewer than the 16"


@pytest.mark.parametrize("ending", ["avi", "mp4", "mkv", "webm"])
@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "header"])
def test_broken_video_is_named(tmp_path, kind, ending):
    path = tmp_path / f"a.{ending}"
    message = broken(kind, path)
    with pytest.raises(ValueError, match=message) as caught:
        decode(path)
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)


def test_missing_video(tmp_path):
    with pytest.raises(FileNotFoundError, match="correct the path"):
        decode(tmp_path / "gone.avi")


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "short"])
def test_one_broken_video_is_skipped_and_listed(own, tmp_path, kind):
    message = broken(kind, own / "clap" / "p2_take1.avi")
    with pytest.warns(UserWarning, match=f"'clap/p2_take1.avi' is skipped.*({message})"):
        cached = cache(load(own), tmp_path / "cache", (16, 16))
    assert [row["id"] for row in cached.skipped] == ["clap/p2_take1.avi"]
    assert cached.table["id"].tolist() == ["clap/p1_take1.avi"] + [
        f"wave/{p}_take1.avi" for p in ("p1", "p2")
    ]
    assert order(cached.read(1)) == list(range(20))  # the files do not move up
    assert videos.CachedVideos.load(tmp_path / "cache").skipped == cached.skipped


def test_class_of_broken_videos_is_an_error(own, tmp_path):
    for person in ("p1", "p2"):
        broken("empty", own / "wave" / f"{person}_take1.avi")
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(
            ValueError, match="None of the 2 videos of class 'wave' can be used.*0 bytes"
        ),
    ):
        cache(load(own), tmp_path / "cache", (16, 16))


def test_processes_after_decoding_here(films, tmp_path):
    """Decode in this process first, after which a forked worker could hang."""
    train = load(films)
    frames = train.read(0)
    cached = cache(train, tmp_path / "cache", frames.shape[1:3], n_jobs=2)
    assert len(cached) == 4
    np.testing.assert_array_equal(cached.read(0), frames)


# --- the registry ----------------------------------------------------------------------------


def test_registry_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="no data set 'kittens'; choose one of actors, folder"):
        datasets.load("kittens", "train")
    with pytest.raises(ValueError, match="no option 'test_group'; its options are folder.*fps"):
        datasets.check_options("folder", {"test_group": ["p1"]})
    with pytest.raises(ValueError, match="needs the option 'test_groups'"):
        datasets.check_options("folder", {"folder": "x"})
    with pytest.raises(ValueError, match="'train' or 'test'"):
        datasets.load("folder", "val", folder="x", test_groups=["p1"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("fps", "25"),
        ("fps", True),
        ("folder", 3),
        ("test_groups", "p1"),
        ("test_groups", [1]),
        ("group_pattern", None),
    ],
)
def test_registry_checks_types(option, value):
    options = {"folder": "x", "test_groups": ["p1"]} | {option: value}
    with pytest.raises(ValueError, match=f"Option '{option}' .* must be"):
        datasets.check_options("folder", options)


def test_registry_takes_what_fits(tmp_path):
    datasets.check_options("folder", {"folder": tmp_path, "test_groups": ["p1"], "fps": 25})
    datasets.check_options("folder", {"folder": "x", "test_groups": ("p1",), "fps": np.float32(5)})
