import base64
import io
import re

import av
import numpy as np
import pytest
from PIL import Image

from stce.viz import film


def moving_square(n_frames=16, height=32, width=48, channels=3):
    """A white square that moves one pixel a frame over black: frame t starts at column t."""
    frames = np.zeros((n_frames, height, width, channels), np.uint8)
    for t in range(n_frames):
        frames[t, 8:24, t : t + 16] = 255
    return frames


def read(data):
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        codec = stream.codec_context
        return np.stack(frames), (codec.name, codec.pix_fmt, float(stream.average_rate))


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_keeps_what_is_seen(channels):
    frames = moving_square(channels=channels)
    decoded, stream = read(film.encode(frames, fps=12))
    assert decoded.shape == (16, 32, 48, 3)
    assert np.abs(decoded.astype(int) - frames).mean() < 3
    assert stream == ("h264", "yuv420p", 12)


def test_encode_takes_grey_without_channel_axis():
    frames = moving_square(channels=1)
    assert film.encode(frames[..., 0]) == film.encode(frames)


def test_odd_size_is_padded_by_the_edge():
    frames = np.full((4, 15, 21, 3), 200, np.uint8)
    decoded, _ = read(film.encode(frames))
    assert decoded.shape == (4, 16, 22, 3)
    assert decoded.min() > 190  # zeros at the border would be near 0


@pytest.mark.parametrize("smooth", [False, True])
def test_scale_enlarges(smooth):
    frames = moving_square()
    decoded, _ = read(film.encode(frames, scale=3, smooth=smooth))
    assert decoded.shape == (16, 96, 144, 3)
    assert decoded[5, 48, 3 * 13, 0] > 200 and decoded[5, 48, 3 * 40, 0] < 50
    # Repeated pixels keep a hard edge; interpolation makes a ramp of middle greys.
    grey = np.abs(decoded[5, 48, :, 0].astype(int) - 128) < 60
    assert (grey.sum() > 0) == smooth


def test_encode_is_deterministic():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 112, 340, 3), np.uint8)
    assert len({film.encode(frames) for _ in range(4)}) == 1


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 2), np.uint8),
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
    ],
)
def test_frames_are_checked(frames):
    with pytest.raises(ValueError, match="T, H, W, C"):
        film.encode(frames)


@pytest.mark.parametrize("options", [{"scale": 0}, {"scale": 1.5}, {"fps": 0}, {"fps": -1}])
def test_numbers_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        film.encode(moving_square(), **options)


def test_missing_encoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(RuntimeError, match="pip install"):
        film.encode(moving_square())


def test_html_holds_video_and_filmstrip():
    frames = moving_square()
    page = film.html(frames, width=200, alt='a "b" <c>')
    assert page.startswith("<video controls loop muted autoplay playsinline")
    assert 'width="200"' in page
    assert page.count("a &quot;b&quot; &lt;c&gt;") == 2 and "<c>" not in page
    data = re.search(r"data:video/mp4;base64,([^\"]+)", page).group(1)
    assert base64.b64decode(data) == film.encode(frames)
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", page).group(1)
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert strip.shape == (64, 6 * 96, 3)
    assert "http" not in page  # nothing is fetched


def test_filmstrip_runs_from_first_to_last_frame():
    frames = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    strip = film.filmstrip(frames, n=4, height=8)
    assert strip.shape == (8, 32, 3)
    assert strip[0, ::8, 0].tolist() == [0, 5, 10, 15]
    assert film.filmstrip(frames[:2], n=6, height=8).shape == (8, 16, 3)


def test_write_chooses_the_codec_by_the_ending(tmp_path):
    frames = moving_square()
    for ending, codec in film.CODECS.items():
        if codec not in av.codecs_available:
            pytest.skip(f"PyAV without {codec}")
        path = tmp_path / f"square{ending}"
        film.write_video(path, frames, fps=25)
        decoded, stream = read(path.read_bytes())
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames).mean() < 10
        assert stream[2] == pytest.approx(25)


def test_write_refuses_an_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match=r"\.avi, \.mp4, \.mkv, \.webm"):
        film.write_video(tmp_path / "square.xyz", moving_square())


@pytest.mark.parametrize(
    ("call", "wrong", "message"),
    [
        (film.html, {"fps": "8"}, "fps must be a number, not '8'"),
        (film.html, {"scale": 1.5}, "scale must be a whole number"),
        (film.html, {"width": "wide"}, "width must be a number of pixels"),
        (film.html, {"width": 0}, "width must be a number of pixels"),
        (film.html, {"alt": 3}, "alt must be text"),
        (film.filmstrip, {"n": 0}, "n and height must be at least 1"),
        (film.filmstrip, {"height": "64"}, "height must be a whole number"),
        (film.encode, {"smooth": "yes"}, "smooth must be True or False"),
    ],
)
def test_what_a_film_cannot_be_made_with_is_named(call, wrong, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((4, 16, 16, 1), np.uint8), **wrong)
