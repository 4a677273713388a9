"""Reading a video file (`stce.videos.decode`)."""

from contextlib import suppress

import av
import numpy as np

from stce.engine.storage import path_of


def decode(path, fps=None, grey=False):
    """Decode a whole video file.

    pytorchvideo's `EncodedVideo` opens the file. The frames are taken from its PyAV container in
    the decoder's order, not with ``get_clip``, which sorts them by time stamp: AVI files with
    B-frames carry wrong ones (1, 2, 4, 3, ...), and it shuffles their frames and loses the last.

    Parameters
    ----------
    path : path
        Anything FFmpeg reads: avi, mp4, mkv, webm, ...
    fps : float, optional
        Resample to this many frames per second by the nearest time stamp: frames are dropped or
        repeated, never mixed. The video's own frames by default.
    grey : bool
        Return one channel, the luma of ITU-R BT.601; a film without colour keeps its values.

    Returns
    -------
    frames : (T, H, W, 3) or (T, H, W, 1) uint8
        RGB or grey, in the video's own size. Takes 3 bytes a voxel of memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty, no video, broken or cut off, or its frame size changes.
    """
    path = path_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"No video file {path}; correct the path, or fetch the video.")
    if path.stat().st_size == 0:
        raise ValueError(f"The video {path} is empty (0 bytes); fetch it again or delete it.")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be a positive number or None for the video's own, not {fps}.")
    frames, times, step = _frames(path)
    keep = range(len(frames)) if fps is None else _nearest_times(times, step, fps)
    video = np.empty((len(keep), *frames[0].shape[:2], 1 if grey else 3), np.uint8)
    for j, i in enumerate(keep):
        video[j] = _grey(frames[i]) if grey else frames[i]
        if j + 1 == len(keep) or keep[j + 1] != i:
            frames[i] = None  # so that the video is not in memory twice
    return video


def header(path):
    """Return what a file's header states: n_frames, height, width, rate (per second) and codec.

    No frame is decoded. `n_frames` and the rate are 0 where the format does not state them. If the
    file cannot be opened as a video, that is a ValueError.
    """
    try:
        with av.open(str(path_of(path)), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.base_rate or 0)
            return stream.frames, stream.height, stream.width, rate, stream.codec_context.name
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(
            f"The file {path} cannot be read as a video ({error}); fetch it again or delete it."
        ) from error


def _grey(frame):
    """Return the luma (H, W, 1) of an RGB frame; the weights sum to 2**16, so grey stays exact."""
    red, green, blue = np.moveaxis(frame.astype(np.uint32), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[..., None]


def _opened(path):
    """Return the container of a film, and its frames where they were decoded on opening it."""
    from stce.videos import compat  # noqa: F401

    # isort: split
    from pytorchvideo.data.encoded_video import EncodedVideo

    try:
        video = EncodedVideo.from_path(str(path), decode_audio=False)
        return video._container, video._video
    except Exception as error:  # pytorchvideo raises RuntimeError, TypeError, ... as it happens
        with suppress(av.FFmpegError):
            # It gives up on a title or comment that is not UTF-8, which no frame depends on.
            container = av.open(str(path), metadata_errors="replace")
            if container.streams.video:
                return container, None
        raise ValueError(
            f"The file {path} cannot be read as a video ({error}); it is broken or of another "
            "format: fetch or convert it again, or delete it."
        ) from error


def _frames(path):
    """Return the frames, their times from the first one (s), and the usual step (s)."""
    container, decoded = _opened(path)
    stream = container.streams.video[0]
    frames, stamps = [], []
    problem = None
    try:
        if decoded is not None:  # no length in the header (mkv, webm)
            frames = [frame.numpy() for frame, _ in decoded]
            stamps = [stamp for _, stamp in decoded]
            decoded.clear()
        else:
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                stamps.append(frame.pts)
        rate = float(stream.average_rate or stream.base_rate or 25)
        times = _times(stamps, stream.time_base, rate)
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / rate
        length = _length(container, stream, rate)
    except av.FFmpegError as error:
        problem = f"it breaks off after {len(frames)} frames ({error})"
    finally:
        container.close()
    if problem is None and not frames:
        problem = "no frame can be decoded"
    # Lengths in headers are rounded, so that only a clear difference says that the end is missing.
    if problem is None and length and times[-1] + step < 0.9 * length - step:
        problem = f"it ends after {times[-1] + step:.1f} s of the {length:.1f} s in its header"
    if problem is None and len({frame.shape for frame in frames}) > 1:
        problem = "its frame size changes"
    if problem is not None:
        raise ValueError(
            f"The video {path} is broken: {problem}; fetch or convert it again, or delete it."
        )
    return frames, times, step


def _length(container, stream, rate):
    """Return the length (s) that the header states, or None."""
    if container.format.name == "avi" and stream.frames:
        return stream.frames / rate  # the duration is guessed where the index at the end is lost
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:  # else the sound may be longer
        return container.duration / av.time_base
    return None


def _times(stamps, time_base, rate):
    """Turn time stamps into seconds from the first frame, for frames in the order of showing."""
    if any(stamp is None for stamp in stamps) or len(set(stamps)) < len(stamps):
        return np.arange(len(stamps)) / rate
    # Sorted, because the order of the frames is right where that of the stamps is not.
    return (np.sort(stamps) - min(stamps, default=0)) * float(time_base)


def _nearest_times(times, step, fps):
    """Return the frame nearest in time to each tick of a clock of `fps`."""
    n = max(1, round((times[-1] + step) * fps))
    between = (times[1:] + times[:-1]) / 2
    return np.searchsorted(between, np.arange(n) / fps).tolist()
