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
    n_jobs: int = 1,
    **shape,
) -> tuple[Clips, str]:
    """Return random clips and what they are (paper 4.1: 50 groups of random HMDB videos).

    Parameters
    ----------
    source : {"textures", "hmdb"}
        Moving textures, or the user's copy of HMDB51. Where that folder is missing the textures
        stand in, with a warning; the second value returned says so.
    n, folder, exclude, n_jobs
        See :func:`stce.datasets.hmdb.random_clips`.
    **shape
        n_frames, size, channels and seed, see :func:`stce.datasets.textures.textures`.

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
    if source == "hmdb" and Path(folder).is_dir():
        from stce.datasets import hmdb

        clips = hmdb.random_clips(n, folder=folder, exclude=exclude, n_jobs=n_jobs, **shape)
        return clips, "HMDB51"
    if source == "hmdb":
        warnings.warn(
            f"There is no HMDB51 in {folder}: moving textures stand in for the random clips, and "
            "every table says so. Set random_folder to use your copy.",
            stacklevel=2,
        )
    return textures(n, **shape), "textures" + (" (no HMDB51)" if source == "hmdb" else "")
