"""The random clips that concepts are told apart from: HMDB51, one's own films, or textures."""

from __future__ import annotations

import filecmp
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stce.clips import Clips, as_clips
from stce.datasets import hmdb, text_of
from stce.datasets.copies import plain
from stce.datasets.textures import textures
from stce.engine.device import typed
from stce.engine.storage import explain_read, path_of
from stce.videos.decoding import ENDINGS
from stce.videos.sources import is_film


def films(folder: str | Path, classes=(), known=()) -> dict[str, list[str]]:
    """List the films at any depth of a folder, for each folder in it, as paths from there.

    It must be there and hold films, but none of `classes`: no folder of that name (case and
    underscores do not matter), and none of the films `known`, under whatever name.
    """
    folder = path_of(folder).resolve()
    remedy = "correct random_folder, or set random_source: others"
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder of negatives {folder} is not there; {remedy}.")
    listed, sizes = {}, {}
    for path in filter(Path.is_file, map(path_of, known)):
        sizes.setdefault(path.stat().st_size, []).append(path)
    for path in sorted(filter(is_film, folder.rglob("*.*"))):
        inside = path.relative_to(folder)
        named = {plain(part).casefold() for part in (folder.name, *inside.parts[:-1])}
        told = [f"is of class {name!r}" for name in classes if plain(name).casefold() in named]
        alike = sizes.get(path.stat().st_size, ())
        told += [f"is {one}" for one in alike if filecmp.cmp(one, path, shallow=False)]
        if told:
            raise ValueError(
                f"{path}, among the negatives, {told[0]}, which is to be explained; move it out of "
                f"there, {remedy}."
            )
        name = text_of(inside.as_posix())
        listed.setdefault(name.rpartition("/")[0], []).append(name)
    if not listed:
        raise ValueError(
            f"{folder} holds no film ({', '.join(ENDINGS[:4])}) for negatives; {remedy}."
        )
    return listed


@partial(typed, but=("folder", "known"))
def negatives(
    source: str,
    n: int,
    *,
    folder: str | Path = "../data/hmdb51",
    exclude: Sequence[str] = (),
    n_jobs: int = 1,
    known: Iterable[str | Path] = (),
    notes: dict | None = None,
    **shape,
) -> tuple[Clips, str]:
    """Return random clips and what they are (paper 4.1: 50 groups of random HMDB videos).

    That is "textures", "films of a folder", "HMDB51", or "textures (no HMDB51)".

    Parameters
    ----------
    source : {"textures", "folder", "hmdb"}
        Moving textures, one's own films, or the user's copy of HMDB51. Where that is missing the
        textures stand in, with a warning; the second value returned says so.
    n, folder, exclude, n_jobs, known, notes
        See :func:`stce.datasets.hmdb.random_clips`, and :func:`films` for a folder.
    **shape
        n_frames, size, channels and seed, see :func:`stce.datasets.textures.textures`; for a folder
        also frame_size, fps, stride and fit.

    Raises
    ------
    ValueError
        If `source` is none of them, or the folder is refused by :func:`films`.

    Examples
    --------
    >>> clips, used = negatives("textures", 2, n_frames=4, size=(16, 16))
    >>> len(clips), used
    (2, 'textures')
    """
    if not isinstance(source, str) or source not in ("textures", "folder", "hmdb"):
        raise ValueError(f"source must be one of textures, folder, hmdb, not {source!r}.")
    how = {"folder": folder, "n_jobs": n_jobs, "notes": notes}
    if source == "folder":
        found = films(folder, exclude, known)
        clips = hmdb.random_clips(n, videos=found, **how, **shape)
        return clips, "films of a folder"
    if source == "hmdb" and path_of(folder).is_dir():
        clips = hmdb.random_clips(n, exclude=exclude, **how, **shape)
        return clips, "HMDB51"
    if source == "hmdb":
        warnings.warn(
            f"There is no HMDB51 in {folder}: moving textures stand in for the random clips, and "
            "every table says so. Set random_folder to use your copy.",
            stacklevel=2,
        )
    return textures(n, **shape), "textures" + (" (no HMDB51)" if source == "hmdb" else "")


def shown_by(concepts, clips: Clips, n: int, seed: int) -> dict[str, Clips | np.ndarray]:
    """Return clips that show each concept, or masks of it in `clips`, as `explain` takes them.

    `concepts` maps names to clips, masks ``(N, T, H, W) bool`` or folders of films, of which n
    clips are taken; None is no concept.
    """
    if not isinstance(concepts, Mapping | None):
        raise ValueError(f"concepts is a {type(concepts).__name__}; give a dict of name to clips.")
    return {name: _shown(name, of, clips, n, seed) for name, of in (concepts or {}).items()}


def _shown(name: str, given, clips: Clips, n: int, seed: int) -> Clips | np.ndarray:
    what, (channels, n_frames, *size) = f"concepts[{name!r}]", clips.clip_shape
    if not isinstance(name, str) or not name:
        raise ValueError(f"concepts has the key {name!r}; name each concept by a text.")
    if isinstance(given, (str, Path)):
        folder = path_of(given)
        if not any(map(is_film, folder.rglob("*.*"))):
            there = "holds no film" if folder.is_dir() else "is not there"
            raise FileNotFoundError(f"{what} is the folder {folder}, which {there}; correct it.")
        how = {"n_frames": n_frames, "size": tuple(size), "channels": channels, "seed": seed}
        return negatives("folder", n, folder=given, fit="crop", **how)[0]
    if "bool" in str(getattr(given, "dtype", "")):  # of numpy or torch
        return np.asarray(given)
    return as_clips(given, what, clips.clip_shape)


def clips_against(random, clips: Clips, class_name: str, seed: int = 0) -> Clips:
    """Return what concepts are told apart from, as :func:`stce.explanation.explain` takes it.

    `random` is clips, "others" (those of the other classes in `clips`), or a number of moving
    textures.
    """
    if isinstance(random, str):
        owners = np.asarray(clips.classes)[clips.labels]
        if random != "others" or class_name not in owners or (owners == class_name).all():
            raise ValueError(
                f"random is {random!r}; give clips, how many moving textures, or 'others' if clips "
                f"are of {class_name!r} and other classes, not of "
                f"{', '.join(np.unique(owners))!r} alone."
            )
        random = clips.select(owners != class_name)
    if isinstance(random, (int, np.integer)):
        channels, n_frames, *size = clips.clip_shape
        like = {"n_frames": n_frames, "size": tuple(size), "channels": channels, "seed": seed}
        with explain_read(
            f"random {random}", "give clips, or 2 moving textures or more", "is none"
        ):
            random = textures(int(random), **like)
    return as_clips(random, "random", clips.clip_shape)
