"""Reading a video file (`stce.videos.decode`)."""

import re
import warnings
from contextlib import ExitStack, contextmanager, suppress

import av
import numpy as np

from stce.engine.device import typed
from stce.engine.storage import path_of
from stce.videos.damage import losses

# Of the files that PyAV opens, those that are films; case does not matter.
ENDINGS = tuple(
    ".avi .mp4 .mkv .webm .mov .m4v .mpg .mpeg .mpe .m1v .m2v .vob .ts .mts .m2ts .m2t .3gp .3g2 "
    ".flv .f4v .wmv .asf .ogv .ogm .qt .mk3d .mjpg .mjpeg .mxf .dv .divx .amv .rm .rmvb .wtv .nut "
    ".ivf .y4m .gif .apng".split()
)
# Decoders that mark the frames in which they conceal a loss, and complain of much that is none.
MARKING, LOST = ("h264", "hevc"), ("non-existing", "no frame!")  # but for what says this
# Where decoding can begin: first bytes of units that need nothing before them, but the frames shown
# earlier (H.264: IDR, at any importance; HEVC: IDR, BLA, CRA). And formats with stamps that are so.
ENTRIES = {"h264": {0x25, 0x45, 0x65}, "hevc": {kind << 1 for kind in range(16, 22)}}
STAMPED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
# Where a header says how many bytes the lengths of units have.
UNIT_LENGTHS = {"h264": 4, "hevc": 21}
# Stills that a file shows in place of a film: the cover of a record, pictures for a menu.
STILLS = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


class DamagedFilm(UserWarning):
    """A film is kept although a few of its frames are lost or corrupt."""


@typed
def decode(path, fps=None, grey=False, take=None, each=None):
    """Decode a video file as a player shows it.

    Its first stream that is no still, or the one that FFmpeg's players prefer to it, is turned and
    mirrored as the file or its frames say, with square pixels and the size of its first frame. What
    is interlaced stays so, and what is transparent has the colour stored there. The frames are
    taken in the decoder's order: AVI files with B-frames have wrong time stamps (1, 2, 4, 3, ...).

    Parameters
    ----------
    path : path
        Anything FFmpeg reads, such as a file with one of `ENDINGS`.
    fps : float, optional
        Resample to this many frames per second by the nearest time stamp: frames are dropped or
        repeated, never mixed, the last one up to a minute. The video's own frames by default.
    grey : bool
        Return one channel, the luma of ITU-R BT.601; a film without colour keeps its values.
    take : callable, optional
        Given the number of frames, after `fps`, returns the indices of those wanted, ascending. The
        others are dropped as they are decoded, or not decoded at all: of H.264 and HEVC that looks
        whole only what leads from the key frame before the first to the last one wanted.
    each : callable, optional
        What is done to each frame wanted, ``(1, H, W, C) uint8``, as soon as it is decoded, such as
        making it smaller.

    Returns
    -------
    frames : (T, H, W, 3) or (T, H, W, 1) uint8
        RGB or grey, as large as it is shown. Takes 3 bytes a voxel of memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty, no video, broken or cut off, or too damaged. A film that is damaged a little
        is kept, with a `DamagedFilm` warning.
    """
    path = path_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"No video file {path}; correct the path, or fetch the video.")
    if path.stat().st_size == 0:
        raise ValueError(f"The video {path} is empty (0 bytes); fetch it again or delete it.")
    if fps is not None and not 0 < fps < 1e5:
        raise ValueError(f"fps must lie in (0, 100000), or be None for the video's own, not {fps}.")
    keep, span = [], None
    with suppress(ValueError, IndexError, av.FFmpegError):  # it is told when the film is read
        keep = _chosen(_announced(path, fps), fps, take)
        span = _span(path, keep) if take else None
    while True:
        with suppress(_Otherwise):
            video, kept, times, lost = _read(path, keep, grey, each, span)
            chosen = _chosen(times, fps, take)
            if set(chosen) <= set(kept):
                break
            keep = chosen  # the file announced other frames than it has
        span = None
    if lost:
        text = f"The video {path} is damaged: {lost}; it is kept, fetch it again to have them all."
        warnings.warn(text, DamagedFilm, stacklevel=2)
    return video[: len(kept)] if chosen == kept else video[np.searchsorted(kept, chosen)]


def header(path):
    """Return what a file's header states: n_frames, height, width, rate (per second) and codec.

    The size is that of the first frame as it is shown. `n_frames` and the rate are 0 where the
    format does not state them. If the file cannot be opened as a video, that is a ValueError.
    """
    container, stream = _opened(path)
    with container:
        height, width = stream.height, stream.width
        with suppress(av.FFmpegError, IndexError, StopIteration):
            frame = next(container.decode(stream))
            height, width, _ = _upright(frame, stream, _matrix(frame)).shape
        rate = float(stream.average_rate or stream.base_rate or 0)
        return stream.frames, height, width, rate, stream.codec_context.name


def _opened(path):
    """Return the container of a film, and the stream that FFmpeg's players show."""
    try:
        # "file:", as a name may have a colon. No frame depends on a title that is not UTF-8.
        container = av.open(f"file:{path}", metadata_errors="replace")
        best = container.streams.best("video")
    except (av.FFmpegError, OSError, IndexError) as error:  # of a stream that comes late
        problem = error
    else:
        known = [stream for stream in container.streams.video if stream.codec_context]
        if films := [stream for stream in known if not stream.disposition & STILLS]:
            return container, best if best in films else films[0]
        container.close()
        problem = f"it has no {'moving pictures, only sound or a still' if best else 'pictures'}"
    raise ValueError(
        f"The file {path} cannot be read as a video ({problem}); it is broken or of another "
        "format: fetch or convert it again, or delete it."
    )


def _matrix(frame, before=(1, 0, 0, 1)):
    """Return (a, b, c, d): what is stored at (x, y) is shown at (a x + c y, b x + d y)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return before if matrix is None else np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]]


def _upright(frame, stream, matrix, size=None, scaler=None):
    """Return a frame (H, W, 3) turned and mirrored, and so high and wide, or with square pixels."""
    (a, b, c, d), aspect = matrix, stream.sample_aspect_ratio or 1
    aspect = aspect if 0.1 < aspect < 10 else 1  # else a damaged header
    shape = round(frame.height / min(1, aspect)), round(frame.width * max(1, aspect))
    if size:
        shape = size if abs(a) > abs(b) else size[::-1]
    scaler = scaler or av.video.reformatter.VideoReformatter()
    # One thread: those of a scaler a frame are more than some machines let a process have.
    how = {"height": shape[0], "width": shape[1], "format": "rgb24", "threads": 1}
    picture = scaler.reformat(frame, **how).to_ndarray()
    if abs(b) >= abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _grey(frame):
    """Return the luma (H, W, 1) of an RGB frame; the weights sum to 2**16, so grey stays exact."""
    red, green, blue = np.moveaxis(frame.astype(np.uint32), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[..., None]


def _announced(path, fps):
    """Return times as `_clock` gives them, as the file states them before it is decoded."""
    container, stream = _opened(path)
    with container:
        if fps is None and 0 < stream.frames <= container.size:
            return _clock([(None, 0)] * stream.frames, stream)
        return _clock([(p.pts, p.duration) for p in container.demux(stream) if p.size], stream)


def _clock(frames, stream):
    """Return the times of frames in the order of showing, from the first (s), and their end.

    Takes time stamp and duration of each. Where stamps are missing or occur twice, the stated rate
    tells the times.
    """
    stamps, lasting = [stamp for stamp, *_ in frames], 0
    rate = float(stream.average_rate or stream.base_rate or 25)
    if any(stamp is None for stamp in stamps) or len(set(stamps)) < len(stamps):
        times = np.arange(len(stamps)) / rate
    else:  # sorted, because the order of the frames is right where that of the stamps is not
        times = (np.sort(stamps) - min(stamps, default=0)) * float(stream.time_base)
        lasting = (max(frames, default=(0, 0))[1] or 0) * float(stream.time_base)
    step = np.median(np.diff(times)) if len(times) > 1 else 1 / rate
    return np.append(times, times[-1:].sum() + max(step, min(lasting, 60)))


def _chosen(times, fps, take):
    """Return the indices of the frames wanted: those nearest to the ticks of a clock of `fps`."""
    chosen = range(len(times) - 1)
    if fps is not None and chosen:
        n = max(1, round(times[-1] * fps))
        between = (times[1:-1] + times[:-2]) / 2
        chosen = np.searchsorted(between, np.arange(n) / fps).tolist()
    return [chosen[i] for i in take(len(chosen))] if take else list(chosen)


class _Otherwise(Exception):
    """A part of a film, decoded by itself, has other frames than its packets said."""


def _span(path, keep):
    """Return what to decode of a film for the frames of some indices; None stands for all of it.

    It is told by the stamps of all frames, in the order of showing; which of them is the key frame
    to begin at, and which the last one wanted; and by the packets to decode: from which one to
    which, half-open, of those of the stream in the order of the file.
    """
    container, stream = _opened(path)
    with container:
        codec, kind = stream.codec_context.name, container.format.name
        if not keep or codec not in ENTRIES or kind not in STAMPED:
            return None
        said = stream.codec_context.extradata or b"\0"
        if (measured := said[0] == 1) and said[UNIT_LENGTHS[codec]] & 3 != 3:
            return None
        stamps, entries = [], []
        for packet in container.demux(stream):
            if packet.size:
                entry = packet.is_keyframe and _units(bytes(packet), measured) & ENTRIES[codec]
                entries += [len(stamps)] if entry else []
                stamps.append(packet.pts)
                if packet.is_corrupt or packet.is_discard or packet.pts is None:
                    return None
    if len(set(stamps)) < len(stamps) or max(keep) >= len(stamps):
        return None
    shown = sorted(stamps)
    first, last = shown[keep[0]], shown[keep[-1]]
    keys = [i for i in entries if stamps[i] <= first]
    if not keys or keys[0] > 0:
        return None
    stop = 1 + max(i for i, stamp in enumerate(stamps) if stamp <= last)
    return shown, shown.index(stamps[keys[-1]]), keep[-1], keys[-1], stop


def _read(path, keep, grey, each, span=None):
    """Decode a film, or a span of it, and keep the frames of some indices.

    Returns these frames, which they are, the times of all and their end, and in words what is lost
    of the film, "" for nothing.
    """
    wanted, kept, video, size, spoilt = set(keep), [], None, None, False
    packets, frames, errors, matrix = [], [], [], (1, 0, 0, 1)
    shown, begin, end, opening, closing = span or ([], 0, 0, 0, np.inf)
    order, count = {stamp: i for i, stamp in enumerate(shown)}, 0
    scaler = av.video.reformatter.VideoReformatter()
    with _listening() as said, ExitStack() as stack:
        container, stream = _opened(path)
        stack.enter_context(container)
        try:
            for packet in container.demux():
                start = packet.dts if packet.pts is None else packet.pts
                one = packet.stream_index, start, packet.duration, packet.pos, packet.size
                packets.append(one)
                if packet.stream is not stream:
                    continue
                count += packet.size > 0
                # The first frame has the size, and the way that the film is turned.
                if packet.size and not (count == 1 or opening < count <= closing):
                    continue
                try:
                    decoded = packet.decode()
                except av.FFmpegError as error:  # as in players: the next one may be whole
                    errors.append(error)
                    spoilt = True
                    continue
                for frame in decoded:
                    # Two films put together have such packets too, and a decoder without complaint.
                    lossy = packet.is_corrupt and (said or stream.codec_context.name not in MARKING)
                    corrupt = bool(frame.is_corrupt or lossy)
                    i = order.get(frame.pts, -1) if span else len(frames)
                    if span and 0 < i < begin:  # shown before the key frame, and drawn without it
                        continue
                    spoilt = corrupt or (spoilt and not frame.key_frame)
                    frames.append((frame.pts, frame.duration, corrupt, spoilt))
                    # H.264 may tell it once for all that follow; who is asked is kept for a while.
                    matrix = _matrix(frame, matrix) if frame.key_frame or not i else matrix
                    size = size or _upright(frame, stream, matrix).shape[:2]
                    if i not in wanted:
                        continue
                    picture = _upright(frame, stream, matrix, size, scaler)
                    picture = _grey(picture) if grey else picture
                    if each:
                        picture = each(np.ascontiguousarray(picture[None], np.uint8))[0]
                    if video is None:
                        with suppress(MemoryError):
                            video = np.empty((len(wanted), *picture.shape), np.uint8)
                        if video is None:
                            raise _broken(path, f"{len(wanted)} frames of it need too much memory")
                    video[len(kept)] = picture
                    kept.append(i)
        except (av.FFmpegError, IndexError) as error:
            raise _broken(path, f"it breaks off after {len(frames)} frames ({error})") from error
        if not frames:
            raise _broken(path, ": ".join(["no frame can be decoded", *map(str, errors[:1])]))
        if span:
            made, sound = ({f[0] for f in frames if not (of and f[3])} for of in (False, True))
            whole = {shown[0], *shown[begin : end + 1]} <= sound and made <= set(shown)
            if errors or _told(said, stream) or not whole or kept != sorted(kept):
                raise _Otherwise
            which, whens, lasting, *_ = zip(*packets, strict=True)
            passed = zip(which, whens, lasting, strict=True)
            passed = {when: held for one, when, held in passed if one == stream.index}
            frames += [(stamp, passed[stamp], False, False) for stamp in shown if stamp not in made]
            frames.sort()
        times = _clock(frames, stream)
        lost, usable = losses((container, stream), packets, frames, times, len(errors))
    if not usable:
        raise _broken(path, lost)
    if (told := _told(said, stream)) and not lost:
        lost = f"FFmpeg says of it {told[0]!r}"
    return video, kept, times, lost


def _units(data, measured):
    """Return the first byte of each unit of a packet, which tells its type.

    Units have their length in front, in four bytes, or a mark, which does not occur in them.
    """
    starts, at = [], 0
    if not measured:
        starts = [match.end() for match in re.finditer(b"\0\0\1", data)]
    while measured and at + 4 < len(data):
        starts.append(at + 4)
        at += 4 + int.from_bytes(data[at : at + 4])
    return {data[start] for start in starts if start < len(data)}


def _told(said, stream):
    """Return what FFmpeg said of a film that is more than a decoder's usual complaints."""
    marks = stream.codec_context.name in MARKING
    return [text.strip() for *_, text in said if not marks or any(word in text for word in LOST)]


@contextmanager
def _listening():
    """Collect FFmpeg's errors about what it goes on with, and marks in no frame."""
    before, skipping = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or one film's words come with the next one's
    try:
        with av.logging.Capture(local=False) as said:  # slices have threads
            yield said
    finally:
        av.logging.set_level(before)
        av.logging.set_skip_repeated(skipping)


def _broken(path, problem):
    return ValueError(
        f"The video {path} is broken: {problem}; fetch or convert it again, or delete it."
    )
