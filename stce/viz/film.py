"""Frames to a video: for a page (`encode`, `html`, `filmstrip`) or in a file (`write_video`).

A clip of 16 frames is about 10 kB of H.264, which goes into the page itself, so that pages stay
whole when they are moved. Reading a video is `stce.videos.decode`.
"""

import base64
import io
from fractions import Fraction
from html import escape
from numbers import Real
from pathlib import Path

import av
import numpy as np
from PIL import Image

from stce.engine.device import typed
from stce.videos.frames import resize
from stce.viz.pictures import evenly

#: The codec that `write_video` takes for a file name's ending.
CODECS = {".avi": "mpeg4", ".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}


@typed
def encode(frames, fps=8, scale=1, smooth=False):
    """Encode frames as an H.264 video that every browser plays.

    Parameters
    ----------
    frames : (T, H, W, C) or (T, H, W) uint8
        Grey (C = 1) or RGB (C = 3). An odd height or width is padded by its last row or column.
    fps : float
        Frames per second; 8 shows the motion of 16 frames well, 25 is KTH's own rate.
    scale : int
        How many times larger; 2 to 4 for small clips.
    smooth : bool
        Enlarge by bilinear interpolation; otherwise by repeating pixels.

    Returns
    -------
    video : bytes
        An mp4 file.

    Raises
    ------
    ValueError
        If frames are not such an array, or `fps` or `scale` is not positive.
    RuntimeError
        If PyAV was built without an H.264 encoder.

    Examples
    --------
    >>> encode(np.zeros((4, 15, 21, 1), np.uint8), scale=2)[4:8]
    b'ftyp'
    """
    frames = _as_rgb(frames)
    if int(scale) != scale or scale < 1:
        raise ValueError(f"scale must be a whole number from 1, not {scale}.")
    if scale > 1 and smooth:
        frames = resize(frames, (frames.shape[1] * int(scale), frames.shape[2] * int(scale)))
    elif scale > 1:
        frames = frames.repeat(int(scale), axis=1).repeat(int(scale), axis=2)
    codec = next((c for c in ("libx264", "libopenh264") if c in av.codecs_available), None)
    if codec is None:
        raise RuntimeError(
            "PyAV has no H.264 encoder here, so that no video can be put into a page; "
            "install the wheel from PyPI: pip install --force-reinstall --only-binary av av"
        )
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        _encode_into(container, frames, fps, codec, {"crf": "20"} if codec == "libx264" else {})
    return file.getvalue()


@typed
def filmstrip(frames, n=6, height=64):
    """Lay some frames, evenly spaced in time, side by side.

    Parameters
    ----------
    frames
        See :func:`encode`.
    n : int
        How many frames at most, the first and the last among them.
    height : int
        Height of the strip in pixels.

    Returns
    -------
    strip : (height, n * width, 3) uint8

    Examples
    --------
    >>> filmstrip(np.zeros((16, 112, 112, 3), np.uint8), n=4, height=56).shape
    (56, 224, 3)
    """
    frames = _as_rgb(frames)
    if n < 1 or height < 1:
        raise ValueError(f"n and height must be at least 1, not {n} and {height}.")
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    return np.hstack(list(resize(frames[evenly(len(frames), n)], (height, width))))


@typed
def html(frames, fps=8, scale=1, width=None, alt="Video clip", smooth=False):
    """Return the HTML of a looping video, with a filmstrip where videos are not played.

    Parameters
    ----------
    frames, fps, scale, smooth
        See :func:`encode`.
    width : int, optional
        Width on the page in pixels; the video's own by default.
    alt : str
        What is to be seen, for those who cannot see it.

    Returns
    -------
    html : str
        One ``<video>`` element; give it to ``IPython.display.HTML``.

    Examples
    --------
    >>> page = html(np.zeros((16, 24, 32, 1), np.uint8), alt="A black clip")
    >>> page[:6], 'aria-label="A black clip"' in page
    ('<video', True)
    """
    if width is not None and not (isinstance(width, Real) and width >= 1):
        raise ValueError(f"width must be a number of pixels, at least 1, not {width!r}.")
    video = base64.b64encode(encode(frames, fps, scale, smooth)).decode()
    strip = still(filmstrip(frames), "JPEG", quality=70)
    alt = escape(alt, quote=True)
    size = "" if width is None else f' width="{int(width)}"'
    return (
        f'<video controls loop muted autoplay playsinline{size} aria-label="{alt}">'
        f'<source src="data:video/mp4;base64,{video}" type="video/mp4">'
        f'<img src="data:image/jpeg;base64,{strip}" alt="{alt}"></video>'
    )


def still(frame, kind, **options):
    """Return a frame as an image file in base64; options are those of its kind, such as "PNG"."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


@typed
def write_video(path, frames, fps=25, codec=None, options=None):
    """Write frames to a video file.

    Parameters
    ----------
    path : path
        Its ending chooses the container: avi, mp4, mkv, webm or another that FFmpeg knows.
    frames, fps
        See :func:`encode`.
    codec : str, optional
        FFmpeg's name of the encoder; by default as in `CODECS`.
    options : dict of str, optional
        Options of the encoder, such as ``{"bf": "2"}`` for two B-frames.

    Raises
    ------
    ValueError
        If there is no codec for the ending, or PyAV lacks it, or the frames are not such an array.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(f"{folder}/black.avi", np.zeros((16, 24, 32, 1), np.uint8))
    """
    path, frames = Path(path), _as_rgb(frames)
    codec = codec or CODECS.get(path.suffix.lower())
    if codec not in av.codecs_available:
        raise ValueError(
            f"No encoder for {path.name} (codec {codec}); choose one of the endings "
            f"{', '.join(CODECS)}, or a codec of av.codecs_available."
        )
    with av.open(str(path), "w") as container:
        _encode_into(container, frames, fps, codec, options or {})


def _as_rgb(frames):
    """Check frames and give them three channels, without copying grey ones."""
    frames = np.asarray(frames)
    if frames.ndim == 3:
        frames = frames[..., None]
    good = frames.ndim == 4 and frames.dtype == np.uint8 and frames.shape[3] in (1, 3)
    if not good or 0 in frames.shape:
        raise ValueError(
            "The frames of a video must be (T, H, W, C) uint8 with at least one frame and C = 1 or "
            f"3, not {frames.shape} {frames.dtype}."
        )
    return np.broadcast_to(frames, (*frames.shape[:3], 3))


def even(frames):
    """Repeat the last row or column of frames ``(..., H, W, C)`` where needed.

    The videos of a page have one colour for 2 x 2 pixels (yuv420p).
    """
    *rest, height, width, _ = frames.shape
    pad = [*[(0, 0)] * len(rest), (0, height % 2), (0, width % 2), (0, 0)]
    return np.pad(frames, pad, mode="edge")


def _encode_into(container, frames, fps, codec, options):
    """Encode RGB frames as the only stream of an open container."""
    if not fps > 0:
        raise ValueError(f"fps must be a positive number, not {fps}.")
    height, width = frames.shape[1:3]
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = height + height % 2, width + width % 2
    if codec == "libx264":
        # The same frames give the same bytes, so that pages that are built again do not change:
        # x264's routines beyond SSE2 let memory that was never set have a say in the result.
        options = {"x264-params": "asm=SSE2"} | options
    stream.pix_fmt, stream.options = "yuv420p", options
    stream.codec_context.thread_count = 1
    for frame in frames:
        frame = np.ascontiguousarray(even(frame))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
