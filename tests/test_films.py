"""A film is what a player shows: upright, whole or known to be damaged, and no larger than kept."""

import json
import struct
import subprocess
import sys
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest

from stce import datasets
from stce.datasets.__main__ import main
from stce.datasets.hmdb import random_clips
from stce.datasets.negatives import negatives
from stce.videos import cache, decode, decoding
from stce.videos.decoding import ENDINGS, DamagedFilm, header
from stce.viz.film import write_video

CODECS = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx-vp9"}
# Where the corners of a film of 64 x 48 with a bright left half and a dark spot at its top left
# are shown: the matrix (a, b, c, d), by which (x, y) is shown at (a x + c y, b x + d y).
MATRICES = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (-1, 0, 0, -1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, -1, 0),
    (0, -1, 1, 0),
]


def textured(n, size=(48, 64), seed=0):
    """Blocks of random grey that move two pixels a frame."""
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, 40), np.uint8)
    wide = np.kron(blocks, np.ones((8, 8), np.uint8))
    moved = [np.roll(wide, 2 * t, 1)[:, : size[1]] for t in range(n)]
    return np.repeat(np.array(moved)[..., None], 3, -1)


def write(path, frames, codec=None, pts=None, last=0, muxer=(), sound=0, fmt="yuv420p", **options):
    """Write a film of 25 frames a second, or with time stamps in ms and a last frame held (s)."""
    with av.open(str(path), "w", options=dict(muxer)) as film:
        stream = film.add_stream(codec or CODECS[path.suffix[1:]], rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = fmt
        unit = Fraction(1, 1000) if pts else Fraction(1, 25)
        stream.codec_context.time_base = unit
        stream.codec_context.thread_count = 1
        if sound:
            audio = film.add_stream("aac", rate=8000, layout="mono")
            for k in range(int(sound * 8000) // 1024):
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), "fltp", "mono")
                quiet.sample_rate, quiet.pts = 8000, 1024 * k
                film.mux(audio.encode(quiet))
            film.mux(audio.encode(None))
        for t, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))
            picture.pts, picture.time_base = pts[t] if pts else t, unit
            film.mux(stream.encode(picture))
        packets = stream.encode(None)
        if last:
            packets[-1].duration = int(last / packets[-1].time_base)
        film.mux(packets)
    return path


def turn(path, matrix):
    """Write a matrix into the header of an mp4 or mov file, as phones do."""
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def shown(frames, matrix):
    """Place each pixel where the matrix says, one by one: the definition."""
    a, b, c, d = matrix
    height, width = frames.shape[1:3]
    y, x = np.mgrid[:height, :width]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    out = np.zeros((len(frames), down.max() + 1, right.max() + 1, 3), np.uint8)
    out[:, down, right] = frames
    return out


# --- upright -----------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_a_film_is_turned_and_mirrored_as_it_is_shown(tmp_path, ending, matrix):
    path = write(tmp_path / f"a.{ending}", textured(6))
    stored = decode(path)
    np.testing.assert_array_equal(decode(turn(path, matrix)), shown(stored, matrix))
    assert header(path)[1:3] == shown(stored[:1], matrix).shape[1:3]


def test_a_phone_clip_on_its_side(tmp_path):
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    frames[:, :, :32] = 255
    write_video(tmp_path / "a.mp4", frames)
    seen = decode(turn(tmp_path / "a.mp4", (0, 1, -1, 0)))
    assert seen.shape == (20, 64, 48, 3)
    assert seen[5, :5].mean() > 250 and seen[5, -5:].mean() < 5


@pytest.fixture
def turned(tmp_path):
    """Two classes of films that lie on their side, of which the middle frames are bright."""
    for name in ("clap", "wave"):
        (tmp_path / "films" / name).mkdir(parents=True)
        for person in ("p1", "p2", "p3"):
            path = write(tmp_path / "films" / name / f"{person}_1.mp4", textured(20))
            turn(path, (0, 1, -1, 0))
    return tmp_path / "films"


def load(folder, split="train", **options):
    return datasets.load("folder", split, folder=folder, test_groups=["p3"], **options)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_turned_films_reach_every_reader(turned, tmp_path, fit, capsys):
    upright = decode(turned / "clap" / "p1_1.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        videos = load(turned, fit=fit)
    np.testing.assert_array_equal(videos.read(0), upright)
    cached = cache(videos, tmp_path / "cache", (32, 32), max_frames=16)
    from stce.videos.frames import fitted

    np.testing.assert_array_equal(cached.read(0), fitted(upright[2:18], None, (32, 32), fit)[0])
    clips = random_clips(2, folder=turned, n_frames=16, size=(32, 24), channels=3, fit="squash")
    assert clips.frames.shape == (2, 16, 32, 24, 3)
    assert main(["folder", "--folder", str(turned)]) == 0
    assert "0.75 (0.75-0.75)" in capsys.readouterr().out


# --- which stream ------------------------------------------------------------------------------


def covered(path, film, first):
    """Copy a film into an mp4 or mkv with a cover before or after it."""
    cover = write(
        path.with_name("cover.mp4"), np.full((1, 64, 64, 3), 200, np.uint8), "png", fmt="rgb24"
    )
    with av.open(str(film)) as a, av.open(str(cover)) as b, av.open(str(path), "w") as out:
        streams = {}
        for name, source in (("cover", b), ("film", a)) if first else (("film", a), ("cover", b)):
            streams[name] = out.add_stream_from_template(source.streams.video[0])
        streams["cover"].disposition = av.stream.Disposition.attached_pic
        for name, source in (("cover", b), ("film", a)):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = streams[name]
                    out.mux(packet)
    return path


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_is_no_film(tmp_path, first):
    film = write(tmp_path / "film.mp4", textured(12))
    path = covered(tmp_path / "a.mp4", film, first)
    np.testing.assert_array_equal(decode(path), decode(film))


def test_sound_alone_is_told(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), "fltp", "mono")
        quiet.sample_rate = 8000
        file.mux(stream.encode(quiet))
        file.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video \(it has no pict"):
        decode(tmp_path / "a.mp4")


# --- how long ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", CODECS)
@pytest.mark.parametrize(
    "how",
    [
        {"last": 5, "bf": "0"},
        {"pts": [7000 + 40 * t for t in range(26)]},
        {"pts": np.cumsum([40, 400, 40, 33, 900, 16, 16, 40, 500, 40, 40, 40, 40] * 2).tolist()},
        {"muxer": {"live": "1"}},
        {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "g": "12"},
        {"sound": 4},
    ],
    ids=["held", "late", "variable", "live", "fragmented", "sound"],
)
def test_whole_films_are_whole(tmp_path, ending, how):
    how = dict(how)
    if ending == "webm":
        how = {k: v for k, v in how.items() if k not in ("bf", "g", "sound")}
        how |= {"deadline": "realtime", "cpu-used": "8"}
    path = write(tmp_path / f"a.{ending}", textured(26), **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(decode(path)) == 26


def test_one_frame_odd_sizes_and_a_colon_in_the_name(tmp_path):
    path = write(tmp_path / "an:na.mp4", textured(1, (40, 48)), "mjpeg", strict="unofficial")
    assert decode(path).shape == (1, 40, 48, 3)


# --- damage ------------------------------------------------------------------------------------


def zeroed(path, start, n):
    data = bytearray(path.read_bytes())
    data[start : start + n] = bytes(n)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["mkv", "webm"])
@pytest.mark.parametrize("muxer", [{"live": "1"}, {"cluster_time_limit": "400"}])
def test_a_tenth_of_the_bytes_lost_is_told(tmp_path, ending, muxer):
    options = {"deadline": "realtime", "cpu-used": "8"} if ending == "webm" else {}
    codec = "libvpx" if ending == "webm" else None
    path = tmp_path / f"a.{ending}"
    write(path, textured(50, (96, 128)), codec, muxer=muxer, g="12", **options)
    size = path.stat().st_size
    with pytest.raises(ValueError, match=r"is broken: (it ends after .* s of|\d+ of its \d+ fr)"):
        decode(zeroed(path, size // 2, size // 10))


def packets(path):
    with av.open(str(path)) as film:
        return [(p.pos, p.size) for p in film.demux(video=0) if p.size]


def test_wrong_bytes_in_h264_are_told(tmp_path):
    path = write(tmp_path / "a.mp4", textured(50, (96, 128)))
    for place, size in packets(path)[3:12:4]:
        zeroed(path, place + size // 2, size // 4)
    with pytest.raises(ValueError, match=r"of its 50 frames are lost or corrupt \(\d+\.\d%\), and"):
        decode(path)


def slightly(path):
    """Write a film of 100 frames of which one packet, no key frame, is zeroed."""
    write(path, textured(100), "mpeg4", g="10", bf="0")
    place, size = packets(path)[55]
    return zeroed(path, place, size)


def test_a_little_damage_is_noted(tmp_path):
    path = slightly(tmp_path / "a.mp4")
    with pytest.warns(DamagedFilm, match=r"1 of its 100 frames are lost.*\(1\.0%\)"):
        assert len(decode(path)) == 99


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_note_reaches_the_cache(turned, tmp_path, n_jobs):
    slightly(turned / "clap" / "p1_1.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached = cache(load(turned), tmp_path / "cache", (32, 32), n_jobs=n_jobs)
    assert cached.skipped == [] and len(cached) == 4
    assert [row["id"] for row in cached.damaged()] == ["clap/p1_1.mp4"]
    again = cache(load(turned), tmp_path / "cache", (32, 32))
    assert "1 of its 100 frames" in json.dumps(again.damaged())


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_note_reaches_who_asks_for_negatives(turned, n_jobs):
    slightly(turned / "clap" / "p1_1.mp4")
    how = {"folder": turned, "n_frames": 8, "size": (16, 16), "n_jobs": n_jobs}
    with pytest.warns(DamagedFilm, match="1 of its 100 frames"):
        clips, _ = negatives("folder", 6, notes=(notes := {}), **how)
    assert len(clips) == 6 and notes["skipped_random"] == []
    ((name, note),) = [row.values() for row in notes["damaged_random"]]
    assert name == "clap/p1_1.mp4" and "1 of its 100 frames" in note


def test_what_ffmpeg_complains_of_and_marks_nowhere_is_noted(tmp_path):
    path = write(tmp_path / "a.gif", textured(20), "gif", fmt="rgb8")
    place, size = packets(path)[10]
    data = bytearray(path.read_bytes())
    data[place + size // 2 : place + size // 2 + 40] = bytes(range(100, 140))
    path.write_bytes(data)
    with pytest.warns(DamagedFilm, match="FFmpeg says of it 'LZW decode failed'"):
        decode(path)


def test_a_stream_that_begins_before_its_first_key_frame_is_noted(tmp_path):
    path = write(tmp_path / "a.ts", textured(36), "libx264", g="12", bf="0")
    assert len(decode(path)) == 36
    path.write_bytes(path.read_bytes()[188 * 24 :])  # the first key frame of three is gone
    with pytest.warns(DamagedFilm, match="a.ts is damaged"):
        assert len(decode(path)) == 24


def test_a_header_that_claims_more_frames_than_bytes_takes_no_memory(tmp_path):
    path = write(tmp_path / "a.mp4", textured(8))
    data = bytearray(path.read_bytes())
    at = data.index(b"stts") + 12
    data[at : at + 4] = struct.pack(">I", 2**30)
    path.write_bytes(data)
    assert len(decode(path)) == 8


def test_the_end_of_another_stream_is_none_of_the_film(tmp_path):
    path = write(tmp_path / "a.mov", textured(8), "qtrle", fmt="argb")
    path.write_bytes(path.read_bytes().replace(b"udta", b"trak"))
    assert len(decode(path)) == 8


# --- windows -----------------------------------------------------------------------------------

GROUPS = [
    ("libx264", {"g": "20", "bf": "0"}),
    ("libx264", {"g": "20", "bf": "3"}),
    ("libx264", {"g": "20", "bf": "3", "x264-params": "open-gop=1"}),
    ("libx264", {"g": "20", "x264-params": "intra-refresh=1"}),
    ("libx264", {"g": "20", "x264-params": "interlaced=1"}),
    ("libx265", {"x265-params": "keyint=20:open-gop=1:log-level=0"}),
    ("mpeg4", {"g": "20", "bf": "2"}),
]


@pytest.fixture
def decoded(monkeypatch):
    """How many packets were decoded, a number each time that a film is read."""
    counts, read = [], decoding._read

    def spied(path, keep, grey, each, span):
        found = read(path, keep, grey, each, span)
        counts.append(1 + span[-1] - span[-2] if span else len(found[2]) - 1)
        return found

    monkeypatch.setattr(decoding, "_read", spied)
    return counts


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("codec, options", GROUPS)
def test_a_window_is_what_the_whole_film_has_there(tmp_path, decoded, ending, codec, options):
    if ending == "avi" and codec == "libx265":
        pytest.skip("AVI takes no HEVC")
    path = write(tmp_path / f"a.{ending}", textured(120), codec, **options)
    whole = decode(path)
    for start in (0, 1, 17, 59, 85, 112):
        part = decode(path, take=lambda n, start=start: range(start, start + 8))
        np.testing.assert_array_equal(part, whole[start : start + 8])
        # The first frame, and a group or two; without stamps or groups that stand alone, all.
        alone = "open-gop" not in str(options) or codec == "libx265"
        alone &= "refresh" not in str(options)
        if codec != "mpeg4" and ending != "avi" and alone:
            assert decoded[-1] <= 45
    slower = decode(path, fps=10)
    np.testing.assert_array_equal(decode(path, 10, take=lambda n: [3, 30]), slower[[3, 30]])
    np.testing.assert_array_equal(decode(path, take=lambda n: [5, 100]), whole[[5, 100]])


def test_damage_in_a_window_is_told_and_what_is_far_from_it_is_not_looked_at(tmp_path):
    path = write(tmp_path / "a.mp4", textured(100, (96, 128)), g="10", bf="0")
    for place, size in packets(path)[52:55]:
        zeroed(path, place + size // 2, size // 4)
    with pytest.warns(DamagedFilm, match="of its 100 frames are lost or corrupt"):
        whole = decode(path)
    with pytest.warns(DamagedFilm, match="of its 100 frames are lost or corrupt"):
        part = decode(path, take=lambda n: range(50, 60))
    np.testing.assert_array_equal(part, whole[50:60])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = decode(path, take=lambda n: range(80, 90))
    np.testing.assert_array_equal(part, whole[80:90])


# --- which files -------------------------------------------------------------------------------


def test_each_ending_is_one_that_pyav_opens():
    known = set()
    for name in av.formats_available:
        known |= {f".{ending.strip()}" for ending in av.ContainerFormat(name).extensions}
    # Other names of what is known.
    assert set(ENDINGS) - known <= {".qt", ".mpe", ".ogm", ".divx", ".rmvb"}
    assert {".mov", ".m4v", ".mp4", ".avi", ".webm", ".ts", ".wmv", ".gif"} <= set(ENDINGS)


def test_every_ending_counts_and_what_is_left_out_is_named_once(turned):
    (turned / "clap" / "p1_1.mp4").rename(turned / "clap" / "p1_1.MOV")
    (turned / "clap" / "p2_1.mp4").rename(turned / "clap" / "p2_1.M4V")
    (turned / "wave" / "more").mkdir()
    write(turned / "wave" / "more" / "p1_2.mp4", textured(20))
    (turned / "wave" / "p1_3.mp4.part").write_bytes(b"half of it")
    (turned / "wave" / "._p1_1.mp4").write_bytes(b"not a film")
    said = "2 files in .* look like films but are left out, such as wave/more/p1_2.mp4"
    with pytest.warns(UserWarning, match=said) as caught:
        videos = load(turned)
        load(turned, "test")
    assert len(caught) == 1
    assert videos.table["id"].tolist()[:2] == ["clap/p1_1.MOV", "clap/p2_1.M4V"]
    assert len(videos.read(0)) == 20


# --- memory ------------------------------------------------------------------------------------

PEAK = """
import re
from pathlib import Path
{}
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def peak(body):
    """Run lines in a process of its own, and return the most memory that it had (MB)."""
    command = [sys.executable, "-c", PEAK.format(body)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the peak")
def test_memory_follows_what_is_kept(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.broadcast_to(textured(1, (480, 64)), (600, 480, 64, 3))
    write(path, np.broadcast_to(frames[:, :, :1], (600, 480, 640, 3)), preset="ultrafast")
    body = f"from stce.videos import decode; assert decode({str(path)!r}, fps=1).shape[0] == 24"
    assert peak(body) < 250  # all frames are 550 MB
