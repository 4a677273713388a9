import os
import re
import shutil
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

from stce import datasets, videos
from stce.datasets import folder as folder_module
from stce.datasets.__main__ import main
from stce.videos import cache, decode
from stce.viz.film import write_video

CLASSES = ("clap", "wave")
EXACT = {"global_quality": "236", "g": "300", "sc_threshold": "1000000000"}  # of FFmpeg's mpeg4
GOOD = {"global_quality": "236", "flags": "+qscale"}


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


# --- which frames, and what moves in them ----------------------------------------------------


def passing(n_frames=40, size=(48, 64), start=12, n_moves=16, noise=0):
    """A bright square crosses a grey ground; in frames `start` to `start + n_moves`, then rests."""
    rng = np.random.default_rng(0)
    frames = np.full((n_frames, *size, 3), 90, np.int16)
    truth = np.zeros((n_frames, *size), np.uint8)
    for t in range(start, start + n_moves):
        x = 2 + 3 * (t - start)
        frames[t, 20:32, x : x + 12] = 220
        truth[t, 20:32, x : x + 12] = 1
    frames += rng.integers(-noise, noise + 1, frames.shape, np.int16)
    return frames.astype(np.uint8), truth


def lossless(path, frames, **how):
    write_video(path, frames, codec="ffv1", **how)


@pytest.fixture
def passings(tmp_path):
    if "ffv1" not in av.codecs_available:
        pytest.skip("PyAV without ffv1")
    root = tmp_path / "passings"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for person, start in (("p1", 2), ("p3", 20)):
            lossless(root / name / f"{person}_take1.mkv", passing(start=start)[0])
    return root


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, list(range(20))),
        ({"stride": 3}, list(range(0, 20, 3))),
        ({"stride": 3, "fps": 12.5}, [0, 6, 12, 18]),
        ({"window_frames": 8}, list(range(6, 14))),
        ({"stride": 2, "window_frames": 7}, list(range(2, 16, 2))),
        ({"window_frames": 20, "window": "motion"}, list(range(20))),
    ],
)
def test_which_frames(films, options, expected):
    assert order(load(films, **options).read(0)) == expected


def test_window_of_motion_is_where_the_pictures_change(passings):
    for group, start in (("p1", 2), ("p3", 20)):
        videos = load(passings, "test", [group], window="motion", window_frames=18)
        film = decode(passings / "clap" / f"{group}_take1.mkv")
        # 17 differences: from before it comes to after it has gone.
        np.testing.assert_array_equal(videos.read(0), film[start - 1 : start + 17])
        videos = load(passings, "test", [group], window="motion", window_frames=4, stride=2)
        assert len(videos.read(0)) == 4
        assert any(np.array_equal(videos.read(0)[0], film[t]) for t in range(start - 2, start + 16))


def test_film_shorter_than_the_window_is_skipped_with_the_remedy(own, tmp_path):
    write_video(own / "clap" / "p2_take1.avi", counter(30))
    with pytest.warns(UserWarning, match="'clap/p1_take1.avi' has 10 frames at stride 2, fewer"):
        cached = cache(
            load(own, stride=2, window_frames=12, test_groups=["p3"]).select([0, 1]),
            tmp_path / "cache",
            (16, 16),
            min_frames=4,
        )
    assert cached.table["id"].tolist() == ["clap/p2_take1.avi"]
    assert "lower window_frames or stride" in cached.skipped[0]["reason"]


def recipe(film, used):
    """What moves, written out as it was measured on real films."""
    ground = np.median(film[:: max(1, len(film) // 48)], axis=0).astype(np.int16)
    marked = []
    for t in used:
        change = np.abs(film[t].astype(np.int16) - ground).max(-1)
        sure = apply_hysteresis_threshold(ndimage.median_filter(change, 3), 14, 28)
        marked.append(ndimage.binary_opening(sure, np.ones((3, 3))))
    return np.array(marked, np.uint8)


def test_what_moves(passings, tmp_path, monkeypatch):
    film, truth = passing(60, start=25, noise=6)
    lossless(passings / "clap" / "p1_take1.mkv", film)
    film, other = (decode(passings / name / "p1_take1.mkv") for name in CLASSES)
    used, decoded = np.arange(0, 60, 2), []
    videos = load(passings, parts="motion", stride=2)
    monkeypatch.setattr(
        folder_module, "decode", lambda *a, **how: decoded.append(a) or decode(*a, **how)
    )
    frames, parts = videos.read(0), videos.parts(0)
    assert len(decoded) == 1  # one film, decoded once
    np.testing.assert_array_equal(frames, film[used])
    np.testing.assert_array_equal(parts, recipe(film, used))
    both, either = (parts & truth[used]).sum(), (parts | truth[used]).sum()
    assert both / either > 0.95
    np.testing.assert_array_equal(videos.parts(1), recipe(other, range(0, 40, 2)))
    np.testing.assert_array_equal(videos.parts(0), parts)  # in any order
    cached = cache(videos, tmp_path / "cache", (24, 24))
    small = np.ascontiguousarray(parts[:, :, 8:56])[:, 1::2, 1::2]
    np.testing.assert_array_equal(cached.parts(0), small)
    assert load(passings).parts(0) is None
    assert set(np.unique(parts)) == set(range(len(folder_module.PARTS)))


def test_camera_that_moves_is_told(passings):
    noise = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3), np.uint8)
    lossless(passings / "clap" / "p1_take1.mkv", noise.repeat(8, 1).repeat(8, 2))
    videos = load(passings, parts="motion")
    with pytest.warns(UserWarning, match="the camera does not stand still.*parts='none'"):
        videos.read(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        videos.read(1)


def test_fit_of_a_folder_is_crop_unless_it_is_chosen(films):
    assert load(films).fit == "crop" and load(films, fit="squash").select([0]).fit == "squash"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("stride", 0, "stride must be a whole number from 1"),
        ("window_frames", -1, "window_frames must be a whole number from 0"),
        ("fit", "zoom", "fit must be one of crop, pad, squash .* not 'zoom'"),
        ("window", "start", "window must be one of middle, motion .* not 'start'"),
        ("parts", "limbs", "parts must be one of none, motion .* not 'limbs'"),
        ("window", "motion", "give window_frames, such as 16"),
    ],
)
def test_option_out_of_range(films, option, value, message):
    with pytest.raises(ValueError, match=message):
        load(films, **{option: value})


def test_pattern_without_group_takes_the_whole_match(films):
    train = load(films, group_pattern=r"p\d")
    assert sorted(set(train.table["group"])) == ["p1", "p2"]


# --- groups from a file -----------------------------------------------------------------------


def listing(path, text):
    path.write_text(text)
    return {"groups_file": str(path)}


def test_groups_from_a_file(films, tmp_path):
    rows = "file,group,note\nclap/p1_take1.avi,red,1\np1_take1.avi,blue,2\n"
    rows += "p2_take1.avi,blue,3\np3_take1.avi, 07,4\nold.avi,gone,5\n"
    given = listing(tmp_path / "groups.csv", rows)
    train = load(films, test_groups=["07"], **given)
    assert train.table["group"].tolist() == ["red", "blue", "blue", "blue"]  # class/name first
    assert load(films, "test", ["07"], **given).table["group"].tolist() == ["07", "07"]
    assert list(train.table) == ["id", "label", "class", "group", "path"]


def test_split_from_a_file(films, tmp_path):
    rows = "file,group,split\np1_take1.avi,a,test\np2_take1.avi,b,train\np3_take1.avi,c,train\n"
    given = listing(tmp_path / "groups.csv", rows)
    assert load(films, "test", [], **given).table["group"].tolist() == ["a", "a"]
    assert load(films, "test", ["c"], **given).table["group"].tolist() == ["c", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,person\na,b\n", "needs the columns file and group"),
        ("file,group\np1_take1.avi,a\np1_take1.avi,b\n", "and a file once"),
        ("file,group\np1_take1.avi,a\np2_take1.avi,b\n", "gives 'clap/p3_take1.avi' no group"),
        ("file,group\np1_take1.avi,a\np2_take1.avi,\np3_take1.avi,c\n", "p2_take1.avi' no group"),
        (
            "file,group,split\np1_take1.avi,a,train\np2_take1.avi,b,dev\np3_take1.avi,c,test\n",
            "p2_take1.avi' no group, or a split that is neither",
        ),
        (
            "file,group,split\np1_take1.avi,a,train\np2_take1.avi,a,test\np3_take1.avi,c,test\n",
            "splits group 'a'; put it into one part",
        ),
        (
            "file,group,split\np1_take1.avi,a,train\np2_take1.avi,b,train\np3_take1.avi,c,train\n",
            "has no video to test on",
        ),
        ("", "groups.csv cannot be read as groups_file"),
    ],
)
def test_groups_file_that_does_not_do(films, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(films, test_groups=[], **listing(tmp_path / "groups.csv", text))


def test_groups_file_that_is_not_there(films, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv is not there .* correct `groups_file`"):
        load(films, groups_file=str(tmp_path / "none.csv"))


# --- a look before anything is trained --------------------------------------------------------


def textured(seed, n_frames, shape, level=128, still=False):
    """A random texture that drifts, so that no two films are alike."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(-60, 61, (8, 8, 3), np.int16).repeat(16, 0).repeat(16, 1)
    steps = np.cumsum(rng.integers(-6, 7, (n_frames, 2)), 0) * (not still)
    rolled = [np.roll(texture, tuple(step), (0, 1))[: shape[0], : shape[1]] for step in steps]
    return (level + np.array(rolled)).clip(0, 255).astype(np.uint8)


def survey_of(root, change, n_groups=8):
    """Write films of two classes and `n_groups` groups; `change` is what class b has of its own."""
    for k in range(n_groups):
        for y, name in enumerate("ab"):
            (root / name).mkdir(parents=True, exist_ok=True)
            how = {"shape": (48, 64 + 4 * (k % 3)), "n_frames": 20 + k % 4, "level": 120 + k % 5}
            how |= {"fps": 25, "codec": "mpeg4"} | (change if y else {})
            film = textured(2 * k + y, how["n_frames"], how["shape"], how["level"])
            write_video(root / name / f"p{k}_1.avi", film, how["fps"], codec=how["codec"])
    return folder_module.survey(root, progress=False)


@pytest.mark.parametrize(
    ("change", "fact", "remedy"),
    [
        ({}, None, ""),
        ({"shape": (64, 48)}, "shape", "fit='crop'"),
        ({"n_frames": 30}, "length", "window_frames"),
        ({"fps": 30}, "rate", "fps"),
        ({"level": 90}, "brightness", "same light"),
        ({"codec": "ffv1"}, "codec", "encode"),
    ],
)
def test_what_alone_tells_the_classes(tmp_path, change, fact, remedy):
    if change.get("codec", "mpeg4") not in av.codecs_available:
        pytest.skip("PyAV without it")
    table, warned = survey_of(tmp_path, change)
    assert table["problem"].eq("").all() and len(table) == 16
    assert len(warned) == (fact is not None)
    if fact:
        assert warned[0].startswith(f"The {fact} of a film alone tells the class of 100% of the")
        assert "chance: 50%" in warned[0] and remedy in warned[0]


def test_shape_that_fit_shows_is_warned_of_when_it_tells_the_classes(tmp_path):
    survey_of(tmp_path, {"shape": (64, 48)})
    (tmp_path / "a" / "p0_2.avi").write_bytes(b"broken")
    given = {"folder": tmp_path, "test_groups": ["p0"]}
    for fit in ("pad", "squash"):
        with pytest.warns(UserWarning, match="shape of a film alone tells.*fit='crop'") as caught:
            for split in ("train", "test"):
                folder_module.load(split, fit=fit, **given)
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder_module.load("train", **given)


def test_copies_and_groups_of_one_class(tmp_path):
    survey_of(tmp_path, {})
    film = decode(tmp_path / "a" / "p1_1.avi")
    half = videos.frames.resize(film, (24, film.shape[2] // 2))
    write_video(tmp_path / "a" / "p2_2.mp4", half, codec="mpeg4", options=GOOD)
    shutil.copy(tmp_path / "a" / "p3_1.avi", tmp_path / "b" / "p3_2.avi")  # of one group: allowed
    write_video(tmp_path / "b" / "solo_1.avi", textured(99, 20, (48, 64)))
    _, warned = folder_module.survey(tmp_path, progress=False)
    assert len(warned) == 2
    assert "1 of 9 groups have one class only, such as 'solo'" in warned[0]
    assert "1 pairs of films in different groups" in warned[1]
    assert "a/p1_1.avi and a/p2_2.mp4" in warned[1]
    for groups, found in ((["p2"], True), (["p5"], False)):
        table, warned = folder_module.survey(tmp_path, test_groups=groups, progress=False)
        assert any("in different splits" in text for text in warned) == found
        assert set(table["group"][table["split"] == "test"]) == set(groups)


def check(root, *options):
    return main(["folder", "--check", "--folder", str(root), *options])


def test_check_from_the_command_line(tmp_path, capsys):
    survey_of(tmp_path, {"shape": (64, 48)})
    assert check(tmp_path, "--test-groups", "p0", "p1") == 0
    out = capsys.readouterr().out
    assert "16 files, 16 good" in out and "warning: The shape of a film alone" in out
    assert re.search(r"\nb +test +2 +2\n", out)
    assert re.search(r"\nb +0.75 \(0.75-0.75\) +21.5 \(20-23\) +25 \(25-25\) .* mpeg4", out)
    (tmp_path / "a" / "p2_1.avi").write_bytes(b"")
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert "16 files, 15 good" in out and "a/p2_1.avi: The video" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-groups", "p9"], "test_groups names 'p9'"),
        (["--group-pattern", "x"], "finds no group in the file name"),
        (["--groups-file", "none.csv"], "none.csv is not there"),
    ],
)
def test_check_says_what_is_wrong_at_once(films, capsys, options, message):
    assert check(films, *options) == 1
    assert message in capsys.readouterr().err


def test_check_names_a_class_without_a_video_in_one_part(own, capsys):
    (own / "wave" / "p3_take1.avi").rename(own / "wave" / "p1_take9.avi")
    assert check(own, "--test-groups", "p3") == 1
    assert "'wave' has no video to test on" in capsys.readouterr().err


def test_nothing_good_is_no_reason_to_fail(own, capsys):
    for path in own.glob("*/*"):
        path.write_bytes(b"")
    assert check(own) == 1
    assert "6 files, 0 good" in capsys.readouterr().out


CLIPS = os.environ.get("STCE_CLIPS", "")  # a folder with UT-Interaction's segmented films


@pytest.mark.skipif(not CLIPS, reason="STCE_CLIPS names no folder of real clips")
def test_real_clips_show_their_classes_by_shape_and_length(capsys):
    root = Path(CLIPS) / "ut_interaction"
    scene = [f"seq{k}" for k in range(11, 21)]
    assert check(root, "--group-pattern", r"^(seq\d+)_", "--test-groups", *scene) == 0
    told = re.findall(r"warning: The (\w+)", capsys.readouterr().out)
    assert told == ["shape", "length"]
    how = {"test_groups": scene, "group_pattern": r"^(seq\d+)_", "stride": 2, "window_frames": 16}
    train = folder_module.load("train", folder=root, parts="motion", **how)
    for i in train.table.groupby("class").head(1).index:
        assert 0.02 < train.parts(i).mean() < 0.5


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
