"""Films read, against PyAV and torchcodec as their own examples use them."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import av
import numpy as np

from benchmarks.runner import Check, Missing, Pair
from stce.datasets.actors import render
from stce.videos import decode
from stce.viz.film import write_video

__all__ = ["films"]

WINDOW = 16


def films(whole: bool, by: str = "pyav"):
    """Return the comparison on all frames of films, or on those of a window in the middle."""
    return partial(_films, whole, by)


def _pyav(path: Path, wanted: slice) -> np.ndarray:
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(every[wanted])


def _torchcodec(path: Path, wanted: slice) -> np.ndarray:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise Missing(
            "torchcodec is not here, or not the libraries of FFmpeg that it needs; on Debian "
            "install the package ffmpeg, and `pip install torchcodec`."
        ) from error
    return VideoDecoder(path, dimension_order="NHWC")[wanted].numpy()


RIVALS = {"pyav": _pyav, "torchcodec": _torchcodec}
READ = {
    "pyav": "PyAV: every frame decoded and turned into an array, nothing checked",
    "torchcodec": "torchcodec on the CPU: the frames that are wanted, sought in the file, "
    "nothing checked",
}


def _films(whole: bool, by: str, quick: bool, device: str) -> Pair:
    repeats, each, n = (2, 1, 60) if quick else (5, 6, 250)
    folder = tempfile.TemporaryDirectory()  # lives as long as the sides that read it
    paths = []
    for i in range(repeats * each):
        film, _ = render(0, 1 + i % 25, 1 + i % 4, i % 6, 0, n_frames=n)
        paths.append(Path(folder.name, f"{i}.mp4"))
        write_video(paths[-1], np.repeat(film, 3, axis=-1).repeat(2, 1).repeat(2, 2))
    height, width = decode(paths[0], take=lambda n: [0]).shape[1:3]
    parts = np.array_split(np.array(paths), repeats)
    start = (n - WINDOW) // 2
    take = None if whole else lambda n: range(start, start + WINDOW)

    wanted = slice(None) if whole else slice(start, start + WINDOW)

    def theirs(i: int, folder=folder) -> list[np.ndarray]:
        return [RIVALS[by](path, wanted) for path in parts[i]]

    def same(mine, other, i: int) -> list[Check]:
        apart = [np.abs(a.astype(int) - b).max() for a, b in zip(mine, other, strict=True)]
        return [Check("largest difference of a value", float(max(apart)), 0)]

    return Pair(
        ours=lambda i: [decode(path, take=take) for path in parts[i]],
        theirs=theirs,
        same=same,
        work=f"{'all' if whole else WINDOW} frames of films of {n} frames of {height}x{width}, "
        "H.264, and whether anything is missing of them",
        against=READ[by],
        measured=f"each pair: another {each} films, one process, the same on both sides",
        target=None,
        repeats=repeats,
    )
