"""Films of every make are seen as FFmpeg's players show them: by what was drawn into them."""

import struct
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image
from test_films import peak, shown, textured, turn

from stce import datasets
from stce.videos import cache, decode
from stce.videos.decoding import DamagedFilm, header

PATCHES = [(200, 40, 60), (30, 180, 90), (20, 50, 220), (128, 128, 128), (250, 250, 250), (9, 9, 9)]
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue, by the standards


def drawn(n=6):
    """Six patches of colour beside each other, 32 x 96."""
    row = np.repeat(np.array(PATCHES, np.uint8), 16, 0)
    return np.ascontiguousarray(np.broadcast_to(row, (n, 32, 96, 3)))


def marked(n=20):
    """A red bar, of which the place tells the frame: it begins at column 4 t."""
    frames = np.zeros((n, 32, 4 * n + 16, 3), np.uint8)
    for t in range(n):
        frames[t, :, 4 * t : 4 * t + 16] = 250, 30, 40
    return frames


def places(film):
    """Tell the number of each frame of what `marked` has drawn."""
    return [int((frame[8, :, 0] > 125).argmax()) // 4 for frame in film]


def quiet(path, **how):
    """Decode a film, of which nothing may be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode(path, **how)


def store(path, codec, fmt, frames, pts=None, last=0, setup=lambda stream: None, **options):
    """Write frames, arrays or `av.VideoFrame`, at 25 a second or with stamps in ms."""
    unit = Fraction(1, 1000) if pts else Fraction(1, 25)
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=25, options=options)
        stream.pix_fmt, stream.codec_context.thread_count = fmt, 1
        stream.codec_context.time_base = unit
        setup(stream)
        packets = []
        for t, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                kind = "gray" if frame.ndim == 2 else "rgb24" if frame.shape[2] == 3 else "rgba"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind)
                frame = frame.reformat(format=fmt)
            if not t:
                stream.height, stream.width = frame.height, frame.width
            frame.pts, frame.time_base = pts[t] if pts else t, unit
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if last:
            final = max(packets, key=lambda packet: packet.pts)
            final.duration = int(last / final.time_base)
        for packet in packets:
            film.mux(packet)
    return path


# --- colour ------------------------------------------------------------------------------------


def planes(frames, fmt, standard, full):
    """Work out luma and colour differences of RGB, as ITU-R BT.601 and BT.709 define them."""
    bits = int(fmt[-4:-2]) if fmt.endswith("le") else 8
    red, blue = WEIGHTS[standard]
    r, g, b = np.moveaxis(frames[0] / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    differences = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    unit, top = 2 ** (bits - 8), 2**bits - 1
    luma = y * top if full else (16 + 219 * y) * unit
    chroma = [d * (top if full else 224 * unit) + 128 * unit for d in differences]
    every = {"420": np.s_[::2, ::2], "422": np.s_[:, ::2], "444": np.s_[:]}[fmt.strip("yuvaj")[:3]]
    values = [luma, *(c[every] for c in chroma), *([np.full(y.shape, top // 2)] * ("va" in fmt))]
    return [a.round().clip(0, top).astype(np.uint8 if bits == 8 else "<u2") for a in values]


def coloured(fmt, standard, full):
    """Return frames of these planes, tagged with what they are."""
    for _ in range(4):
        frame = av.VideoFrame(96, 32, fmt)
        for plane, values in zip(frame.planes, planes(drawn(1), fmt, standard, full), strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : values[0].nbytes] = np.ascontiguousarray(values).view(np.uint8)
            plane.update(rows)
        frame.color_range, frame.colorspace = 2 if full else 1, {"bt709": 1, "bt601": 5}[standard]
        yield frame


LOSSLESS = {"x265-params": "lossless=1:log-level=none"}
FORMATS = [
    ("libx264", "mp4", "yuv420p", {"crf": "0"}),
    ("libx264", "mkv", "yuvj420p", {"crf": "0"}),
    ("libx264", "mp4", "yuv420p10le", {"crf": "0"}),
    ("libx265", "mp4", "yuv420p10le", LOSSLESS),
    ("libx265", "mkv", "yuv444p12le", LOSSLESS),
    ("libvpx-vp9", "webm", "yuva420p", {"crf": "0", "b": "0", "cpu-used": "8"}),
    ("libsvtav1", "mp4", "yuv420p10le", {"crf": "4", "preset": "12"}),
    ("prores_ks", "mov", "yuv422p10le", {"qscale": "1"}),
    ("mjpeg", "avi", "yuvj420p", {"qscale": "1"}),
    ("ffv1", "mkv", "yuva420p", {}),
]


# One format has one range, one is full by its name, and one has no word for its matrix.
TAGGED = [
    (*one, standard, full)
    for one in FORMATS
    for standard in (["bt601"] if one[0] == "mjpeg" else WEIGHTS)
    for full in (
        [True] if "yuvj" in one[2] else [False] if one[0] == "prores_ks" else [False, True]
    )
]


@pytest.mark.parametrize(("codec", "ending", "fmt", "options", "standard", "full"), TAGGED)
def test_colours_are_those_that_were_drawn(tmp_path, codec, ending, fmt, options, standard, full):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV without {codec}")

    def tag(stream):
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = {"bt709": 1, "bt601": 5}[standard]

    path, frames = tmp_path / f"a.{ending}", list(coloured(fmt, standard, full))
    film = quiet(store(path, codec, fmt, frames, setup=tag, **options))
    assert film.shape == (4, 32, 96, 3)
    assert np.abs(film[:, 8, 8::16].astype(int) - PATCHES).max() <= 3  # 8 bits, and half the places


@pytest.mark.parametrize(
    ("codec", "ending", "fmt"),
    [
        ("png", "mov", "rgb24"),
        ("png", "mov", "rgba"),
        ("png", "mov", "rgb48be"),
        ("qtrle", "mov", "rgb24"),
        ("qtrle", "mov", "argb"),
        ("prores_ks", "mov", "yuva444p10le"),
        ("rawvideo", "avi", "bgr24"),
        ("ffv1", "mkv", "bgra"),
        ("libx264rgb", "mp4", "rgb24"),
        ("utvideo", "avi", "gbrap"),
    ],
)
def test_rgb_with_and_without_alpha(tmp_path, codec, ending, fmt):
    frames = drawn()
    if "a" in fmt.removesuffix("le"):
        frames = np.concatenate([frames, np.full_like(frames[..., :1], 128)], -1)
    options = {"qp": "0"} if "x264" in codec else {}
    path = store(tmp_path / f"a.{ending}", codec, fmt, frames, **options)
    assert np.abs(quiet(path).astype(int) - drawn()).max() <= 1


@pytest.mark.parametrize(
    ("codec", "ending", "fmt"),
    [
        ("ffv1", "mkv", "gray"),
        ("ffv1", "mkv", "gray16le"),
        ("qtrle", "mov", "gray"),
        ("rawvideo", "avi", "gray"),
    ],
)
def test_grey_keeps_its_values(tmp_path, codec, ending, fmt):
    ramp = np.broadcast_to(np.arange(0, 192, 2, dtype=np.uint8), (6, 32, 96))
    path = store(tmp_path / f"a.{ending}", codec, fmt, ramp)
    assert np.abs(quiet(path).astype(int) - ramp[..., None]).max() <= 1
    assert np.abs(quiet(path, grey=True)[..., 0].astype(int) - ramp).max() <= 1


def test_a_palette_is_looked_up(tmp_path):
    indices = np.repeat(np.arange(6, dtype=np.uint8), 16)[None].repeat(32, 0)
    palette = np.zeros((256, 4), np.uint8)
    palette[:6] = np.insert(PATCHES, 0, 255, axis=1)  # alpha in front
    frames = [av.VideoFrame.from_ndarray((indices, palette), format="pal8") for _ in range(4)]
    film = quiet(store(tmp_path / "a.mov", "png", "pal8", frames))
    np.testing.assert_array_equal(film, drawn(4))


def test_fields_stay_woven(tmp_path):
    options = {"crf": "0", "x264-params": "tff=1"}
    film = quiet(store(tmp_path / "a.mp4", "libx264", "yuv420p", textured(8), **options))
    assert np.abs(film.astype(int) - textured(8)).mean() < 3


# --- moving pictures ---------------------------------------------------------------------------

DELAYS = [40, 100, 500, 40, 40, 1000, 70, 40, 40, 200, 40, 3000]  # ms


@pytest.mark.parametrize(("ending", "kind"), [("gif", "GIF"), ("apng", "PNG")])
def test_moving_pictures_last_as_long_as_they_say(tmp_path, ending, kind):
    frames = marked(12)
    first, *others = map(Image.fromarray, frames)
    how = {"save_all": True, "append_images": others, "duration": DELAYS, "loop": 0}
    first.save(tmp_path / f"a.{ending}", kind, **how)
    np.testing.assert_array_equal(quiet(tmp_path / f"a.{ending}"), frames)
    seen = places(quiet(tmp_path / f"a.{ending}", fps=10))
    assert len(seen) == round(sum(DELAYS) / 100)
    starts = np.cumsum([0, *DELAYS[:-1]])
    nearest = [int(np.abs(starts - 100 * k).argmin()) for k in range(len(seen))]
    assert seen == nearest
    assert seen.count(11) >= 30  # the last is held for 3 s


def test_what_a_gif_leaves_open_is_white_and_keeps_nothing_of_the_frame_before(tmp_path):
    frames = []
    for t in range(12):
        frame = np.zeros((32, 96, 4), np.uint8)
        frame[:, 4 * t : 4 * t + 16] = 250, 30, 40, 255
        frames.append(Image.fromarray(frame))
    how = {"save_all": True, "append_images": frames[1:], "duration": 50, "disposal": 2}
    frames[0].save(tmp_path / "a.gif", **how)
    film = quiet(tmp_path / "a.gif")
    for t in range(12):
        wanted = np.full((32, 96, 3), 255)
        wanted[:, 4 * t : 4 * t + 16] = 250, 30, 40
        np.testing.assert_array_equal(film[t], wanted)


def test_a_moving_webp_is_either_read_or_refused(tmp_path):
    first, *others = map(Image.fromarray, marked(12))
    how = {"save_all": True, "append_images": others, "duration": 50, "lossless": True}
    first.save(tmp_path / "a.webp", **how)
    try:
        film = quiet(tmp_path / "a.webp")
    except ValueError as error:
        assert "a.webp is broken: no frame can be decoded" in str(error)
        assert str(error).endswith("fetch or convert it again, or delete it.")
    else:
        np.testing.assert_array_equal(film, marked(12))


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp"])
def test_a_picture_is_a_film_of_one_frame(tmp_path, ending):
    Image.fromarray(marked()[0]).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "a.mp4")
    assert places(quiet(tmp_path / "a.mp4")) == [0]
    for name in ("clap", "wave"):
        (tmp_path / "films" / name).mkdir(parents=True)
        for person in ("p1", "p2"):
            store(tmp_path / "films" / name / f"{person}_1.mp4", "libx264", "yuv420p", marked())
    (tmp_path / "a.mp4").rename(tmp_path / "films" / "clap" / "p1_2.mp4")
    videos = datasets.load("folder", "train", folder=tmp_path / "films", test_groups=["p2"])
    with pytest.warns(UserWarning, match="p1_2.mp4' is skipped. It has 1 frames, fewer than"):
        cache(videos, tmp_path / "cache", (16, 16))


# --- shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "ending", "size", "aspect", "wanted"),
    [
        ("libx264", "mp4", (576, 720), Fraction(64, 45), (576, 1024)),
        ("mpeg2video", "mpg", (576, 720), Fraction(64, 45), (576, 1024)),
        ("mpeg4", "avi", (576, 720), Fraction(16, 15), (576, 768)),
        ("libx264", "mkv", (48, 64), Fraction(1, 2), (96, 64)),
        ("libx264", "ts", (48, 64), Fraction(2, 1), (48, 128)),
        ("libvpx", "webm", (48, 64), Fraction(1, 1), (48, 64)),
        ("libx264", "mp4", (48, 64), Fraction(50, 1), (48, 64)),  # nobody's
    ],
)
def test_pixels_that_are_not_square_are_made_so(tmp_path, codec, ending, size, aspect, wanted):
    y, x = np.mgrid[: size[0], : size[1]]
    wide = float(aspect) if aspect < 10 else 1
    out = ((x - size[1] / 2) * wide) ** 2 + (y - size[0] / 2) ** 2 > (
        size[0] / 3 * min(1, wide)
    ) ** 2
    disc = np.repeat(np.where(out, 0, 255).astype(np.uint8)[None, ..., None], 3, -1)
    disc = np.broadcast_to(disc, (3, *disc.shape[1:]))

    def flat(stream):
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect

    path = store(tmp_path / f"a.{ending}", codec, "yuv420p", disc, setup=flat, b="4M")
    film = quiet(path)
    assert film.shape == (3, *wanted, 3) and header(path)[1:3] == wanted
    bright = film[1, ..., 0] > 128
    across, down = bright.any(0).sum(), bright.any(1).sum()
    assert abs(across - down) <= 3  # a disc is as wide as high


def test_a_film_on_its_side_is_widened_before_it_is_turned(tmp_path):
    def flat(stream):
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = 2

    path = store(tmp_path / "a.mp4", "libx264", "yuv420p", textured(4), setup=flat)
    upright = decode(path)
    assert upright.shape == (4, 48, 128, 3)
    np.testing.assert_array_equal(decode(turn(path, (0, 1, -1, 0))), shown(upright, (0, 1, -1, 0)))
    assert header(path)[1:3] == (128, 48)


def halves(n, height, width):
    """A bright left half."""
    frames = np.zeros((n, height, width, 3), np.uint8)
    frames[:, :, : width // 2] = 200
    return frames


@pytest.mark.parametrize("then", [(64, 192), (16, 48), (96, 96)])
@pytest.mark.parametrize("ending", ["mkv", "ts"])
def test_a_size_that_changes_midway_becomes_that_of_the_first_frame(tmp_path, ending, then):
    parts = halves(10, 32, 96), halves(10, *then)
    path = tmp_path / f"a.{ending}"
    if ending == "ts":
        for k, part in enumerate(parts):
            stamps = [400 * k + 40 * t for t in range(10)]
            store(tmp_path / f"{k}.ts", "libx264", "yuv420p", part, stamps, bf="0")
        path.write_bytes(b"".join((tmp_path / f"{k}.ts").read_bytes() for k in range(2)))
    else:
        with av.open(str(path), "w") as film:
            stream = film.add_stream("mjpeg", rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 96, "yuvj420p"
            film.start_encoding()
            for k, part in enumerate(parts):
                with av.open(
                    str(store(tmp_path / f"{k}.avi", "mjpeg", "yuvj420p", part))
                ) as source:
                    for packet in source.demux(video=0):
                        if packet.size:
                            packet.pts += 10 * k
                            packet.dts, packet.stream = packet.pts, stream
                            film.mux(packet)
    film = quiet(path)
    assert film.shape == (20, 32, 96, 3)
    assert np.abs(film[..., :46, :].astype(int) - 200).max() < 12 and film[..., 50:, :].max() < 12
    late = quiet(path, take=lambda n: range(n - 3, n))
    np.testing.assert_array_equal(late, film[-3:])  # also if the first is not among them


SAID = {
    "rotate=90": lambda film: np.rot90(film, 1, (1, 2)),  # against the clock
    "rotate=180": lambda film: film[:, ::-1, ::-1],
    "rotate=270": lambda film: np.rot90(film, 3, (1, 2)),
    "flip=horizontal": lambda film: film[:, :, ::-1],
    "flip=vertical": lambda film: film[:, ::-1],
}


@pytest.mark.parametrize("said", SAID)
def test_what_the_stream_says_of_its_first_frame_turns_all(tmp_path, said):
    path = store(tmp_path / "a.mp4", "libx264", "yuv420p", textured(20), bf="0")
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        told = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{said}", stream)
        for packet in source.demux(stream):
            for changed in told.filter(packet if packet.size else None):
                changed.stream = copy
                out.mux(changed)
    wanted = SAID[said](decode(path))
    np.testing.assert_array_equal(quiet(tmp_path / "b.mp4"), wanted)
    np.testing.assert_array_equal(
        quiet(tmp_path / "b.mp4", take=lambda n: [9, 12]), wanted[[9, 12]]
    )
    assert header(tmp_path / "b.mp4")[1:3] == wanted.shape[1:3]


# --- time --------------------------------------------------------------------------------------


def edited(path, entries):
    """Give an mp4 or mov file an edit list: lengths in ms, and first frames, -1 for none."""
    data = bytearray(path.read_bytes())

    def find(inside, *names):
        place, end = inside
        while names and place < end:
            size, name = struct.unpack(">I4s", data[place : place + 8])
            if name == names[0]:
                return (
                    (place, place + size) if not names[1:] else find((place + 8, end), *names[1:])
                )
            place += size

    moov = find((0, len(data)), b"moov")
    trak, old = (find((0, len(data)), b"moov", b"trak", *more) for more in ((), (b"edts",)))
    ticks = [(ms, -1 if frame < 0 else 512 * frame) for ms, frame in entries]
    body = b"".join(struct.pack(">Iihh", *entry, 1, 0) for entry in ticks)
    body = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(entries)) + body
    data[slice(*old)] = new = struct.pack(">I4s", 8 + len(body), b"edts") + body
    for start, end in (moov, trak):
        data[start : start + 4] = struct.pack(">I", end - start + len(new) - (old[1] - old[0]))
    path.write_bytes(data)
    return path


EDITS = {
    "start cut, no key frame": ([(560, 6)], range(6, 20)),
    "start cut, key frame": ([(400, 10)], range(10, 20)),
    "end cut": ([(400, 0)], range(10)),
    "both cut": ([(320, 4)], range(4, 12)),
    "begins late": ([(1000, -1), (800, 0)], range(20)),
    "begins late, cut": ([(500, -1), (400, 5)], range(5, 15)),
    "two pieces": ([(200, 0), (200, 10)], [*range(5), *range(10, 15)]),
    "one piece twice": ([(400, 0), (400, 0)], [*range(10), *range(10)]),
    "changed order": ([(400, 10), (400, 0)], [*range(10, 20), *range(10)]),
}


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_a_film_are_kept_to(tmp_path, edit, ending):
    entries, wanted = EDITS[edit]
    path = store(tmp_path / f"a.{ending}", "libx264", "yuv420p", marked(), g="10", bf="0")
    assert places(quiet(edited(path, entries))) == list(wanted)
    middle = quiet(path, take=lambda n: range(n // 2 - 2, n // 2 + 2))
    assert places(middle) == list(wanted)[len(wanted) // 2 - 2 : len(wanted) // 2 + 2]


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("nut", "ffv1")]
)
def test_a_clock_of_its_own_is_resampled_by_the_nearest_frame(tmp_path, ending, codec):
    stamps = np.cumsum([0, 40, 400, 40, 33, 900, 16, 16, 40, 500, 40, 40, 40]).tolist()
    options = {"bf": "0"} if codec == "libx264" else {}
    path = tmp_path / f"a.{ending}"
    store(path, codec, "yuv420p", marked(13), stamps, last=0.04, **options)
    seen = places(quiet(path, fps=20))
    assert len(seen) == round((stamps[-1] + 40) / 50)
    assert seen == [int(np.abs(np.array(stamps) - 50 * k).argmin()) for k in range(len(seen))]


def test_a_last_frame_that_is_held_is_repeated_for_a_minute_at_most(tmp_path):
    path = store(tmp_path / "a.mp4", "libx264", "yuv420p", marked(10), last=2, bf="0")
    assert places(quiet(path, fps=25)) == [*range(9), *[9] * 50]
    store(path, "libx264", "yuv420p", marked(10), last=3600, bf="0")
    assert places(quiet(path, fps=1)) == [0, *[9] * 59]
    assert len(quiet(path)) == 10


@pytest.mark.parametrize("codec", ["flv", "libx264"])
def test_flv_that_holds_its_last_frame_is_whole_and_cut_it_is_not(tmp_path, codec):
    path = tmp_path / "a.flv"
    for last in (0, 5):
        store(path, codec, "yuv420p", textured(50, (96, 128)), last=last)
        assert len(quiet(path)) == 50
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match="is broken: it ends after .* s of"):
            decode(path)


@pytest.mark.parametrize(
    ("ending", "codec"), [("ts", "libx264"), ("ts", "mpeg2video"), ("mpg", "mpeg2video")]
)
def test_streams_that_state_no_length_are_what_is_there_of_them(tmp_path, ending, codec):
    path = store(tmp_path / f"a.{ending}", codec, "yuv420p", textured(100, (96, 128)), g="10")
    whole = quiet(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedFilm)  # the last frame may be cut
        part = decode(path)
    assert 35 < len(part) < 65
    np.testing.assert_array_equal(part[:30], whole[:30])


# --- which pictures ----------------------------------------------------------------------------


def test_of_two_streams_the_default_one_is_shown(tmp_path):
    sources = [
        store(tmp_path / f"{k}.mkv", "ffv1", "bgr0", halves(8, 32, 64 + 32 * k)) for k in (0, 1)
    ]
    for default in (0, 1):
        path = tmp_path / f"both{default}.mkv"
        with av.open(str(path), "w") as film:
            opened = [av.open(str(source)) for source in sources]
            streams = [film.add_stream_from_template(one.streams.video[0]) for one in opened]
            streams[default].disposition = av.stream.Disposition.default
            streams[1 - default].disposition = av.stream.Disposition(0)
            for one, stream in zip(opened, streams, strict=True):
                for packet in one.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        film.mux(packet)
                one.close()
        np.testing.assert_array_equal(quiet(path), halves(8, 32, 64 + 32 * default))


@pytest.mark.parametrize(
    ("ending", "codec", "fmt"),
    [
        ("mp4", "libx264", "yuv420p"),
        ("mov", "qtrle", "rgb24"),
        ("mkv", "libx264", "yuv420p"),
        ("webm", "libvpx", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("flv", "flv", "yuv420p"),
        ("ts", "libx264", "yuv420p"),
    ],
)
def test_a_film_without_a_frame_is_refused(tmp_path, ending, codec, fmt):
    with av.open(str(tmp_path / f"a.{ending}"), "w") as film:
        stream = film.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, fmt
        film.start_encoding()
        film.mux(stream.encode(None))
    remedy = (
        r"a\.\w+ (cannot be read|is broken|is empty).*(fetch|convert) .*it again.* delete it\.$"
    )
    with pytest.raises(ValueError, match=remedy):
        decode(tmp_path / f"a.{ending}")


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["window='motion', window_frames=16", "parts='motion'"])
def test_memory_follows_what_is_kept_where_motion_is_looked_for(tmp_path, how):
    for name in ("clap", "wave"):
        (tmp_path / name).mkdir()
    still = np.repeat(textured(1, (480, 64))[:, :, :1], 640, 2)
    for place in ("clap/p1_1", "clap/p2_1", "wave/p1_1", "wave/p2_1"):
        frames = (still[0] for _ in range(600 if place == "clap/p1_1" else 20))
        store(tmp_path / f"{place}.mp4", "libx264", "yuv420p", frames, preset="ultrafast")
    body = (
        "from stce import datasets\n"
        f"how = {{'folder': {str(tmp_path)!r}, 'test_groups': ['p2']}}\n"
        f"v = datasets.load('folder', 'train', **how, {how})\n"
        "assert v.middle(FILM, (32, 32), 16)[0].shape == (16, 32, 32, 3)"
    )
    long, short = (peak(body.replace("FILM", film)) for film in "01")
    assert long - short < 200  # all frames are 550 MB
