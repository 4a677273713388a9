"""Films of the rendered actors, written as the files of known data sets are."""

import av
import numpy as np
import pytest

from stce.datasets.actors import CLASSES, render

BITS, BLOCK = 11, 10  # a frame's number in black and white blocks, which no encoder blurs away


class Films:
    """Writes films of an actor whose frames carry their numbers, and reads the numbers back."""

    @staticmethod
    def frames(action, n_frames, person=1, scenario=1):
        """Return a film (T, 120, 160, 1) uint8; frame t, counted from 1, shows its number t."""
        film, _ = render(0, person, scenario, CLASSES.index(action), 0, n_frames=min(n_frames, 32))
        film = np.resize(film, (n_frames, *film.shape[1:]))
        for t, frame in enumerate(film, 1):
            for bit in range(BITS):
                frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235 if t >> bit & 1 else 20
        return film

    @staticmethod
    def numbers(frames):
        """Return the number that each frame shows, at whatever size it is now."""
        step = frames.shape[2] / 160 * BLOCK
        row = int(frames.shape[1] / 120 * BLOCK / 2)
        columns = [int((bit + 0.5) * step) for bit in range(BITS)]
        bits = frames[:, row, columns].mean(-1) > 128
        return (bits * 2 ** np.arange(BITS)).sum(1).tolist()

    @staticmethod
    def write(path, frames, codec="mpeg4", tag="XVID", fps=25, **options):
        """Write frames (T, H, W, 1); mpeg4 with a tag is what DivX and Xvid write."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 500_000
            stream.codec_context.thread_count = 1
            if codec == "mpeg4":
                stream.codec_context.codec_tag = tag
            for frame in np.broadcast_to(frames, (*frames.shape[:3], 3)):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path


@pytest.fixture(scope="session")
def films():
    return Films


@pytest.fixture
def no_proxy(monkeypatch):
    """Reach a server on this machine directly, whatever the environment says about proxies."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
