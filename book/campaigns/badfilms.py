"""Films that are damaged: small real ones in many containers and codecs, mutated.

What can be known of a damaged film at all? Most codecs carry no checksum: a flipped bit in a
picture is another picture, and nobody can tell. A film cut off where its container states no length
is a shorter film. So a film counts as wrong in silence only where its frames are not those of the
intact one (or fewer by more than decoders keep back) without a warning or an error, although FFmpeg
itself, asked to look at everything that it can check (``err_detect``), reports an error while it
reads it, which it does not of the intact one.
"""

from __future__ import annotations

import struct
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from book.campaigns.mutations import Refused, Trial
from stce import datasets
from stce.datasets.__main__ import main
from stce.datasets.folder import survey
from stce.videos import decode
from stce.videos.damage import KEPT_BACK

__all__ = ["films", "mutated", "stocked"]

LENGTH, SIZE = 36, (48, 64)
# Ending, codec, pixel format, options of the codec, options of the container, and what else.
MADE = {
    "h264.mp4": ("libx264", "yuv420p", {"bf": "2", "g": "12"}, {}, ""),
    "fragments.mp4": ("libx264", "yuv420p", {"g": "12"}, {"movflags": "frag_keyframe"}, ""),
    "faststart.m4v": ("libx264", "yuv420p", {"g": "12"}, {"movflags": "faststart"}, "sound"),
    "turned.mov": ("mpeg4", "yuv420p", {"g": "12"}, {}, "turned"),
    "cover.mp4": ("mpeg4", "yuv420p", {"g": "12"}, {}, "cover"),
    "deep.mov": ("prores_ks", "yuv422p10le", {}, {}, ""),
    "alpha.mov": ("qtrle", "argb", {}, {}, ""),
    "png.mov": ("png", "rgb24", {}, {}, ""),
    "xvid.avi": ("mpeg4", "yuv420p", {"bf": "2", "g": "12"}, {}, ""),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, {}, ""),
    "sound.avi": ("mpeg4", "yuv420p", {"g": "12"}, {}, "sound"),
    "huff.avi": ("huffyuv", "yuv422p", {}, {}, ""),
    "h264.mkv": ("libx264", "yuv420p", {"bf": "2", "g": "12"}, {}, "sound"),
    "live.mkv": ("mpeg4", "yuv420p", {"g": "12"}, {"live": "1"}, ""),
    "ffv1.mkv": ("ffv1", "yuv420p", {"level": "3", "slicecrc": "1"}, {}, ""),
    "two.mkv": ("mpeg4", "yuv420p", {"g": "12"}, {}, "two"),
    "vp8.webm": ("libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, {}, ""),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, {}, ""),
    "mpeg1.mpg": ("mpeg1video", "yuv420p", {"g": "12"}, {}, ""),
    "mpeg2.vob": ("mpeg2video", "yuv420p", {"g": "12"}, {}, ""),
    "h264.ts": ("libx264", "yuv420p", {"bf": "0", "g": "12"}, {}, ""),
    "mpeg2.m2ts": ("mpeg2video", "yuv420p", {"g": "12"}, {}, "sound"),
    "flv1.flv": ("flv", "yuv420p", {"g": "12"}, {}, ""),
    "colours.gif": ("gif", "rgb8", {}, {}, ""),
    "wmv2.wmv": ("wmv2", "yuv420p", {"g": "12"}, {}, ""),
    "raw.y4m": ("wrapped_avframe", "yuv420p", {}, {}, ""),
    "moving.apng": ("apng", "rgb24", {}, {}, ""),
    "mpeg4.nut": ("mpeg4", "yuv420p", {"g": "12"}, {}, ""),
    "h263.3gp": ("h263", "yuv420p", {"g": "12"}, {}, "qcif"),
    "sound.mp4": ("", "", {}, {}, "sound alone"),
}


def _pictures(size: tuple[int, int]) -> np.ndarray:
    """Noise over blocks of grey, and a bright one that moves."""
    rng = np.random.default_rng(0)
    height, width = size
    still = np.kron(rng.integers(60, 200, (height // 8, width // 8)), np.ones((8, 8)))
    frames = (still + rng.normal(0, 12, (LENGTH, height, width))).astype(np.uint8)
    for t in range(LENGTH):
        frames[t, 12:36, t : t + 16] = 255 - 3 * t
    return np.repeat(frames[..., None], 3, -1)


def _write(path: Path, codec, fmt, options, muxer, more) -> None:
    kind = {".m4v": "mp4", ".m2ts": "mpegts"}.get(path.suffix)
    with av.open(str(path), "w", format=kind, options=muxer) as film:
        streams = []
        for _ in range(bool(codec) + (more == "two")):
            stream = film.add_stream(codec, rate=25, options=options)
            stream.height, stream.width = (144, 176) if more == "qcif" else SIZE
            stream.pix_fmt, stream.codec_context.thread_count = fmt, 1
            streams.append(stream)
        if "sound" in more:
            sound = film.add_stream("mp2" if path.suffix == ".m2ts" else "aac", rate=44100)
        if more == "cover":
            cover = film.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 9, np.uint8))
            picture.pts = 0
            first = [*cover.encode(picture), *cover.encode(None)]
        for t in range(LENGTH):
            for number, stream in enumerate(streams):
                shown = _pictures((stream.height, stream.width))[t]
                picture = av.VideoFrame.from_ndarray(shown[:, ::-1] if number else shown)
                picture.pts, picture.time_base = t, Fraction(1, 25)
                film.mux(stream.encode(picture.reformat(format=fmt)))
            if t == 0 and more == "cover":
                film.mux(first)
        for stream in streams:
            film.mux(stream.encode(None))
        if "sound" in more:
            kind, step = sound.codec_context.format.name, sound.codec_context.frame_size or 1024
            for k in range(44100 * LENGTH // 25 // step):
                silence = av.AudioFrame(kind, "stereo", step)
                silence.sample_rate, silence.pts = 44100, k * step
                for plane in silence.planes:
                    plane.update(bytes(plane.buffer_size))
                film.mux(sound.encode(silence))
            film.mux(sound.encode(None))
    if more == "turned":
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 44
        matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
        data[at : at + 36] = struct.pack(">9i", *matrix)
        path.write_bytes(data)


def stocked(stock: Path) -> dict[str, Path]:
    """Return the intact films by their names; they are written once, their frames beside them."""
    folder = stock / "films"
    if not folder.exists():
        made = folder.with_name(".films")
        made.mkdir(parents=True, exist_ok=True)
        for name, how in MADE.items():
            if how[0] and how[0] not in av.codecs_available:
                continue
            _write(made / name, *how)
            frames = decode(made / name) if how[0] else np.empty((0, *SIZE, 3), np.uint8)
            np.save(made / f"{name}.npy", frames)
        made.rename(folder)
    return {path.name: path for path in sorted(folder.iterdir()) if path.suffix != ".npy"}


# --- mutations ---------------------------------------------------------------------------------


def mutated(data: bytes, rng: np.random.Generator, other: bytes = b"") -> tuple[str, bytes]:
    """Return what was done to some bytes, and the new ones."""
    data, n = bytearray(data), len(data)
    at, span = int(rng.integers(max(n, 1))), int(rng.integers(1, max(2, n // 8)))
    kind = str(rng.choice(["flipped", "zeroed", "inserted", "removed", "random", "truncated",
                           "beheaded", "joined", "swapped", "header", "trailed"]))  # fmt: skip
    if kind == "flipped":
        for place in rng.integers(n, size=int(rng.integers(1, 33))):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == "zeroed":
        data[at : at + span] = bytes(len(data[at : at + span]))
    elif kind == "inserted":
        data[at:at] = rng.bytes(span)
    elif kind == "removed":
        del data[at : at + span]
    elif kind == "random":
        data[at : at + span] = rng.bytes(len(data[at : at + span]))
    elif kind == "truncated":
        del data[at:]
    elif kind == "beheaded":
        del data[: span if rng.random() < 0.5 else at]
    elif kind == "joined":
        data = bytes(data) + other
    elif kind == "swapped":
        there = int(rng.integers(n))
        one, two = bytes(data[at : at + span]), bytes(data[there : there + span])
        data[at : at + len(two)], data[there : there + len(one)] = two, one
    elif kind == "header":
        for place in rng.integers(min(n, 96), size=int(rng.integers(1, 7))):
            data[place] = int(rng.choice([0, 1, 127, 128, 255]))
    else:
        data += rng.bytes(span)
    return kind, bytes(data)


BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"udta")


def _boxes(data: bytes, start: int, end: int, above=()) -> list[tuple[int, int, tuple]]:
    """Return start, size and the starts of those around it of each box of an mp4 or mov file."""
    found = []
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            break
        found.append((start, size, above))
        if name in BOXES:
            found += _boxes(data, start + 8, start + size, (*above, start))
        start += size
    return found


def _boxed(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return what was done to a box of an mp4 or mov file, and the new bytes."""
    start, size, above = (boxes := _boxes(data, 0, len(data)))[int(rng.integers(len(boxes)))]
    name = data[start + 4 : start + 8].decode("latin1")
    box, out = data[start : start + size], bytearray(data)
    kind = str(
        rng.choice(["removed", "doubled", "resized", "renamed", "zeroed", "moved", "fields"])
    )
    grown = 0
    if kind == "removed":
        del out[start : start + size]
        grown = -size
    elif kind == "doubled":
        out[start:start] = box
        grown = size
    elif kind == "resized":
        new = int(rng.choice([0, 1, 7, 8, size - 1, size + 1, 2 * size, 2**31, 2**32 - 1]))
        struct.pack_into(">I", out, start, new)
    elif kind == "renamed":
        out[start + 4 : start + 8] = rng.choice([b"free", b"skip", b"\0\0\0\0", b"trak"])
    elif kind == "zeroed":
        out[start + 8 : start + size] = bytes(size - 8)
    elif kind == "moved":
        del out[start : start + size]
        out += box
        grown = -size
    else:
        for place in rng.integers(start + 8, max(start + 9, start + min(size, 64)), size=4):
            if place < len(out):
                out[place] = int(rng.choice([0, 1, 127, 255]))
    for one in above if grown else ():
        (old,) = struct.unpack_from(">I", out, one)
        struct.pack_into(">I", out, one, old + grown)
    return f"box {name.strip(chr(0))} {kind}", bytes(out)


def _impostor(rng: np.random.Generator, place: Path, path: Path) -> tuple[str, bytes]:
    """Return a file that is no film, although it is called one, and what it is."""
    secret = place / "in" / "secret.txt"
    secret.write_text("no film leads here\n", "utf-8")
    texts = {
        "empty": b"",
        "zeros": bytes(int(rng.integers(1, 10**6))),
        "noise": rng.bytes(int(rng.integers(1, 10**5))),
        "text": b"not a film\n" * 100,
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/a.ts\n",
        "concat": f"ffconcat version 1.0\nfile '{path}'\n".encode(),
        "concat of a secret": b"ffconcat version 1.0\nfile '../../../../../etc/passwd'\n",
        "subtitles": b"1\n00:00:00,000 --> 00:00:02,000\nHello\n",
        "zip": b"PK\x05\x06" + bytes(18),
        "html": b"<html><body>404 Not Found</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "pickle": b"cos\nsystem\n(S'true'\ntR.",
    }
    kind = str(rng.choice(list(texts)))
    return kind, texts[kind]


def _damaged(rng: np.random.Generator, place: Path, stock: Path) -> tuple[str, str, bytes]:
    known = stocked(stock)
    name = str(rng.choice(list(known)))
    data, kind = known[name].read_bytes(), rng.random()
    if kind < 0.08:
        what, data = _impostor(rng, place, known[name])
    elif kind < 0.4 and known[name].suffix in (".mp4", ".mov", ".m4v", ".3gp"):
        what, data = _boxed(data, rng)
    else:
        other = known[str(rng.choice(list(known)))].read_bytes()
        what, data = mutated(data, rng, other)
    return name, what, data


# --- what is right -----------------------------------------------------------------------------


def _objections(path: Path) -> list[str]:
    """Return what FFmpeg says of a film while it decodes it and checks all that it can."""
    said = []
    before, options = av.logging.get_level(), {"err_detect": "crccheck+bitstream+buffer+careful"}
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # a repeated line is told with the next film's
    try:
        with av.logging.Capture(local=False) as heard:
            try:
                with av.open(f"file:{path}", metadata_errors="replace", options=options) as film:
                    for packet in film.demux(video=0):
                        try:
                            corrupt = any(frame.is_corrupt for frame in packet.decode())
                            said += ["a corrupt frame"] if corrupt or packet.is_corrupt else []
                        except av.FFmpegError as error:
                            said.append(str(error))
            except (av.FFmpegError, IndexError) as error:
                said.append(str(error))
        said += [text for level, _, text in heard]
    finally:
        av.logging.set_level(before)
    return said


def _differs(frames: np.ndarray, intact: np.ndarray) -> str:
    """Say how much a film differs from the intact one, "" if by no more than coding loses."""
    if frames.shape[1:] != intact.shape[1:]:
        return f"frames of {frames.shape[1:3]} for {intact.shape[1:3]}"
    if len(frames) < len(intact) - KEPT_BACK:
        return f"{len(frames)} frames of {len(intact)}"
    lost = 0
    for t, frame in enumerate(frames):
        near = intact[max(0, t - KEPT_BACK) : t + KEPT_BACK + 1].astype(np.int16)
        lost += not len(near) or np.abs(near - frame).mean((1, 2, 3)).min() > 12
    return f"{lost} strange frames of {len(frames)}" if lost > KEPT_BACK else ""


def _in_silence(path: Path, frames, intact, warned: list, before: set) -> str:
    differs = _differs(frames, intact)
    if not differs or warned:
        return ""
    new = [one for one in _objections(path) if one.strip() not in before]
    return f"{differs}, although FFmpeg says: {new[0].strip()}" if new else ""


def films(rng: np.random.Generator, place: Path, stock: Path) -> Trial:
    """Damage a film, and decode it, or load and check a folder with it."""
    name, what, data = _damaged(rng, place, stock)
    known = stocked(stock)
    path = place / "in" / "films" / "wave" / f"anna_{name}"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    intact = np.load(known[name].with_name(f"{name}.npy"))
    before = {one.strip() for one in _objections(known[name])}
    others = {"wave/ben_1": "h264.mp4", "clap/anna_1": "xvid.avi", "clap/ben_1": "mjpeg.avi"}
    for other, like in others.items():
        target = place / "in" / "films" / f"{other}{Path(like).suffix}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(known[like].read_bytes())
    folder, kind = place / "in" / "films", str(rng.choice(["decode", "decode", "load", "check"]))

    def act():
        if kind == "check":
            code = main(["folder", "--check", "--folder", str(folder)])
            table = survey(folder, progress=False)[0].set_index("file")
            if problem := table.loc[f"wave/{path.name}", "problem"]:
                raise Refused(problem)
            return "a code of error, and no problem" if code else ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            if kind == "decode":
                frames = decode(path)
            else:
                videos = datasets.load("folder", "train", folder=folder, test_groups=["ben"])
                (row,) = np.flatnonzero(videos.table["class"] == "wave")
                warned.clear()
                frames = videos.read(int(row))
        return _in_silence(path, frames, intact, warned, before)

    return Trial(f"{name}: {what}, {kind}", act, (path.name,))
