"""HMDB51: the random clips that concepts are told apart from, as in the paper (section 3.3).

The user's own copy [1]_ is one folder a class with its avi files, as the data set is published.

References
----------
.. [1] H. Kuehne et al., "HMDB: a large video database for human motion recognition", ICCV 2011,
       DOI 10.1109/ICCV.2011.6126543.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, deque
from functools import partial

import joblib
import numpy as np

from stce.clips import Clips
from stce.datasets import folder_of, text_of
from stce.datasets.copies import plain
from stce.datasets.folder import shuffled
from stce.datasets.textures import CLASSES, check_clips
from stce.engine.device import typed
from stce.engine.storage import path_of
from stce.videos import decode
from stce.videos.decoding import DamagedFilm
from stce.videos.frames import center_crop, fitted, shrunk
from stce.videos.sources import is_film

#: What HMDB calls the actions of KTH and of Kinetics (names without spaces and underscores).
SYNONYMS = {
    "walking": "walk",
    "jogging": "run",
    "running": "run",
    "handclapping": "clap",
    "clapping": "clap",
    "handwaving": "wave",
    "wavinghand": "wave",
    "boxing": "punch",
}


@partial(typed, but=("folder", "videos"))
def random_clips(
    n,
    *,
    folder="../data/hmdb51",
    n_frames=16,
    size=(112, 112),
    channels=1,
    exclude=(),
    seed=0,
    n_jobs=1,
    videos=None,
    notes=None,
    **shown,
):
    """Take clips of HMDB51, evenly from all its classes but the excluded ones.

    Each video gives its middle frames. Where there are fewer videos than clips, a video also gives
    windows before and after the middle one, without overlap. A class with too few videos is made
    up for by the others. Videos that are broken or too short are skipped with a warning. The
    classes take turns, so that any group of consecutive clips is mixed.

    Parameters
    ----------
    n : int
        Number of clips N, 1 or more.
    folder : path
        Holds one sub-folder a class with its videos; see :func:`stce.datasets.kth.load`.
    n_frames, size, channels
        See :func:`stce.datasets.textures.textures`; whole frames are resized.
    exclude : sequence of str
        Classes of the target: those of the same name are left out (case, spaces and underscores do
        not matter), and those of `SYNONYMS`.
    seed : int
        Decides on the order of classes and videos.
    n_jobs : int
        Processes that decode; the result does not depend on it.
    videos : dict of str to list of str, optional
        Other videos, as :func:`stce.datasets.negatives.films` lists them; fewer clips may come.
    notes : dict, optional
        Gets ``skipped_random`` and, if any, ``damaged_random``, as stage train notes its videos.
    **shown
        ``frame_size`` to resize frames to before the centre, of `size`, is taken, ``fps``,
        ``stride`` and ``fit``, see :func:`stce.datasets.folder.load`.

    Returns
    -------
    Clips
        Frames (N, T, H, W, C) uint8 of the one class "random"; the group is the video.

    Raises
    ------
    FileNotFoundError
        If the folder is not there.
    ValueError
        If a value is out of range, all classes are excluded, or the videos give fewer than `n`
        clips.
    """
    check_clips("HMDB51", n, n_frames, size, channels, seed)
    folder = path_of(folder)
    of, least = ("HMDB51", n) if videos is None else ("the folder", 1)
    videos = _videos(folder, exclude) if videos is None else videos
    queues = {c: deque((f, 0) for f in shuffled(videos[c], seed)) for c in shuffled(videos, seed)}
    frames = np.empty((n, n_frames, *size, channels), np.uint8)
    taken, skipped, damaged = [], [], []
    run = joblib.Parallel(n_jobs=n_jobs, backend="loky", return_as="generator")
    while len(taken) < n and any(queues.values()):
        counts = Counter(file.rpartition("/")[0] for file, _ in taken)
        tasks = _deal(queues, counts, n - len(taken))
        windows = run(
            joblib.delayed(_window)(folder / file, k, n_frames, size, channels, **shown)
            for file, k in tasks
        )
        for (file, k), (window, told) in zip(tasks, windows, strict=True):
            if window is not None:
                frames[len(taken)] = window
                taken.append((file, k))
                queues[file.rpartition("/")[0]].append((file, k + 1))
                damaged += [{"id": file, "note": told}] if told and k == 0 else []
            elif k == 0:
                skipped.append({"id": file, "reason": told})
    if notes is not None:
        notes |= {"skipped_random": skipped, **({"damaged_random": damaged} if damaged else {})}
    for row in damaged:
        warnings.warn(row["note"], DamagedFilm, stacklevel=3)
    if skipped:
        warnings.warn(
            f"{len(skipped)} videos of {of} are skipped, broken or shorter than {n_frames} "
            f"frames; the first is {skipped[0]['id']!r}: {skipped[0]['reason']}",
            stacklevel=3,
        )
    if len(taken) < least:
        raise ValueError(
            f"The videos of {of} in {folder} give {len(taken)} random clips of {n_frames} "
            f"frames, fewer than n={least}; add videos, lower n, or exclude fewer classes."
        )
    ids = [f"{file}#{k}" for file, k in taken]
    return Clips(frames[: len(ids)], [0] * len(ids), ids, [file for file, _ in taken], CLASSES)


def _key(name):
    """Return the name by which classes of two data sets are compared."""
    key = re.sub(r"[\s_]+", "", plain(name)).lower()
    return SYNONYMS.get(key, key)


def _videos(folder, exclude=()):
    """Return the videos of each class, as ``CLASS/NAME``, without the excluded classes."""
    unwanted = {_key(name) for name in exclude}
    videos = {}
    for sub in sorted(path for path in folder_of("HMDB51", folder).iterdir() if path.is_dir()):
        films = sorted(text_of(path.name) for path in filter(is_film, sub.iterdir()))
        if films and _key(name := text_of(sub.name)) not in unwanted:
            videos[name] = [f"{name}/{film}" for film in films]
    if not videos:
        raise ValueError(
            f"The HMDB51 folder {folder} has no class folder with videos besides the excluded "
            f"classes ({', '.join(exclude) or 'none'}); it must hold CLASS/NAME.avi."
        )
    return videos


def _deal(queues, counts, n):
    """Take the next `n` videos off the queues, from the class with the fewest clips each time."""
    tasks = []
    while len(tasks) < n and any(queues.values()):
        name = min((name for name in queues if queues[name]), key=lambda name: counts[name])
        counts[name] += 1
        tasks.append(queues[name].popleft())
    return tasks


@typed
def _window(path, k, n_frames, size, channels, frame_size=None, fps=None, stride=1, fit="squash"):
    """Return window `k` of a video (T, H, W, C), 0 in the middle, or None; and what is wrong."""

    def take(n):
        seen = range(0, n, stride)
        start = (len(seen) - n_frames) // 2 + (k + 1) // 2 * n_frames * (1 if k % 2 else -1)
        if not 0 <= start <= len(seen) - n_frames:
            raise ValueError(f"It has {len(seen)} frames, fewer than the {n_frames} needed.")
        return seen[start : start + n_frames]

    frame_size = size if frame_size is None else frame_size
    smaller = partial(shrunk, size=frame_size, how=fit)
    try:
        with warnings.catch_warnings(record=True, category=DamagedFilm, action="always") as said:
            video = decode(path, fps, grey=channels == 1, take=take, each=smaller)
    except (ValueError, FileNotFoundError) as error:
        return None, str(error)
    told = "".join(str(one.message) for one in said if one.category is DamagedFilm)
    return center_crop(fitted(video, None, frame_size, fit)[0], size), told
