"""The random clips that concepts are told apart from: HMDB51, or the embedded textures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from stce.clips import Clips
from stce.datasets.textures import textures

__all__ = ["SOURCES", "negatives"]

SOURCES = ("textures", "hmdb")


def negatives(
    source: str,
    n: int,
    *,
    folder: str | Path = "../data/hmdb51",
    exclude: Iterable[str] = (),
    n_frames: int = 16,
    size: tuple[int, int] = (112, 112),
    channels: int = 1,
    seed: int = 0,
    n_jobs: int = 1,
) -> tuple[Clips, str]:
    """Return random clips and what they are (paper 4.1: 50 groups of random HMDB videos).

    Parameters
    ----------
    source : {"textures", "hmdb"}
        Moving textures, or the user's copy of HMDB51. Where that folder is missing the textures
        stand in, with a warning; the second value returned says so.
    n : int
        Number of clips N.
    folder : path
        Of HMDB51; holds one folder a class.
    exclude : iterable of str
        Classes of the network: HMDB's classes of the same meaning are left out.
    n_frames, size, channels, seed
        See :func:`stce.datasets.textures.textures`.
    n_jobs : int, default 1
        Processes that decode videos.

    Returns
    -------
    clips : stce.clips.Clips
        Frames ``(N, T, H, W, C) uint8``.
    used : str
        "textures", "HMDB51", or "textures (no HMDB51)".

    Raises
    ------
    ValueError
        If `source` is neither.

    Examples
    --------
    >>> clips, used = negatives("textures", 2, n_frames=4, size=(16, 16))
    >>> len(clips), used
    (2, 'textures')
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, not {source!r}.")
    shape = {"n_frames": n_frames, "size": tuple(size), "channels": channels, "seed": seed}
    if source == "hmdb":
        if Path(folder).is_dir():
            from stce.datasets import hmdb

            return (
                hmdb.random_clips(n, folder=folder, exclude=exclude, n_jobs=n_jobs, **shape),
                "HMDB51",
            )
        warnings.warn(
            f"There is no HMDB51 in {folder}: moving textures stand in for the random clips, and "
            "every table says so. Set random_folder to use your copy.",
            stacklevel=2,
        )
    return textures(n, **shape), "textures" + (" (no HMDB51)" if source == "hmdb" else "")
