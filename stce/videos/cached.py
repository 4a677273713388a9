"""Videos decoded and resized once, and kept on disk as arrays."""

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
from zarr.codecs import ZstdCodec

from stce.engine import storage
from stce.engine.device import typed
from stce.engine.progress import bar
from stce.videos.decoding import DamagedFilm
from stce.videos.frames import FITS
from stce.videos.sources import Videos


class CachedVideos(Videos):
    """Videos of one size on disk, as `cache` writes them; frames are memory-mapped.

    The folder holds ``{index:06d}.npy`` (frames) and, where the truth is known,
    ``{index:06d}.parts.npy`` for each video, ``table.parquet`` (the source's columns, ``index`` in
    the source and ``n_frames``), ``skipped.json``, ``classes.json`` and ``cache.json`` (settings);
    ``{index:06d}.damage.txt`` says what a video lacks that was kept all the same.

    Parameters
    ----------
    folder : path
        The cache.
    table : DataFrame
        One row a cached video.
    classes : tuple of str
        Class names.
    skipped : list of dict
        ``{"id": ..., "reason": ...}`` of each video that was left out.
    """

    def __init__(self, folder, table, classes, skipped=()):
        super().__init__(table, classes)
        self.folder, self.skipped = Path(folder), list(skipped)

    @classmethod
    def load(cls, folder):
        """Open a finished cache; FileNotFoundError if there is none, or it is not finished."""
        folder = storage.path_of(folder)
        if not (folder / "table.parquet").is_file():
            raise FileNotFoundError(
                f"No finished cache of videos in {folder}: table.parquet, which is written last, "
                "is not there; run `stce.videos.cache` on this folder (it continues a started one)."
            )
        storage.check_sealed(folder, "delete the folder, and `stce.videos.cache` makes it again")
        files = folder / "classes.json", folder / "skipped.json"
        table = storage.read_file(folder / "table.parquet", "index", "label")
        return cls(folder, table, *(storage.read_file(file, kind=list) for file in files))

    def read(self, i):
        """Return the frames of a video, ``(T_i, H, W, C) uint8``, as a read-only memory map."""
        return self._open(self._path(i, ".npy"))

    def parts(self, i):
        """Return the truth of each voxel, ``(T_i, H, W) uint8``, or None where it is not known."""
        path = self._path(i, ".parts.npy")
        return self._open(path) if path.is_file() else None

    def damaged(self):
        """Return ``{"id": ..., "note": ...}`` of each video that was kept although damaged."""
        notes = {name: self._path(i, ".damage.txt") for i, name in enumerate(self.table["id"])}
        there = {name: path for name, path in notes.items() if path.is_file()}
        return [{"id": name, "note": path.read_text("utf-8")} for name, path in there.items()]

    def _open(self, path):
        with storage.explain_read(path):
            return np.load(path, mmap_mode="r")

    def _path(self, i, ending):
        return self.folder / f"{self.table['index'].iloc[i]:06d}{ending}"


@typed
def cache(videos, folder, size, min_frames=16, max_frames=None, n_jobs=1, progress=True):
    """Read and resize each video once, and keep the frames on disk.

    Returned are those that could be read, in their order, as `CachedVideos`. A killed run leaves no
    half-written file, and running again continues where it stopped. A video that is broken, empty
    or too short is skipped with a warning and tried again next time.

    Parameters
    ----------
    videos : Videos
        The source. Its table (but for a column ``path``) and its public attributes that are text or
        numbers, such as a seed, must be the same when it is run again.
    folder : path
        Where to; made if it is not there.
    size : tuple of int
        (height, width) in pixels: 128 x 171 for Kinetics and 120 x 120 for KTH in section 4.1. Of
        frames of another shape ``videos.fit`` says what becomes.
    min_frames : int
        Shorter videos are skipped.
    max_frames : int, optional
        Longer videos keep their middle frames; all frames by default.
    n_jobs : int
        Processes. They are started afresh (loky), because a process forked after a video was
        decoded can hang.
    progress : bool
        Show a bar on a terminal.

    Raises
    ------
    ValueError
        If no video of a class can be used, or the folder holds a cache of something else.
    OSError
        If the folder cannot be written. Finished videos stay.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> class Noise(Videos):
    ...     def read(self, i):
    ...         return np.random.default_rng(i).integers(0, 256, (20, 24, 32, 1), np.uint8)
    >>> table = pd.DataFrame({"id": ["a", "b"], "label": 0, "class": "noise", "group": "g"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cached = cache(Noise(table, ["noise"]), folder, size=(12, 12))
    ...     cached.read(1).shape
    (20, 12, 12, 1)
    """
    folder, size = storage.path_of(folder), tuple(int(s) for s in size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be a positive (height, width) in pixels, not {size}.")
    if min_frames < 1 or (max_frames is not None and max_frames < min_frames):
        raise ValueError(
            f"Between min_frames={min_frames} and max_frames={max_frames} there is no length a "
            "video could have; give 1 <= min_frames <= max_frames."
        )
    if videos.fit not in FITS:
        raise ValueError(f"fit of the videos must be one of {', '.join(FITS)}, not {videos.fit!r}.")
    content = videos.table.drop(columns="path", errors="ignore").to_csv(index=False)
    source = videos._options() | {"classes": videos.classes}
    source["table"] = hashlib.sha256(content.encode()).hexdigest()
    settings = {"size": size, "min_frames": min_frames, "max_frames": max_frames}
    _start(folder, source | settings)
    missing = [i for i in range(len(videos)) if not (folder / f"{i:06d}.npy").is_file()]
    # A few tasks a process for balance, and never so long that the bar stands still.
    chunk = max(1, min(8, len(missing) // (8 * joblib.effective_n_jobs(n_jobs))))
    tasks = (
        joblib.delayed(_cache_some)(videos, missing[k : k + chunk], folder, **settings)
        for k in range(0, len(missing), chunk)
    )
    reasons = {}
    run = joblib.Parallel(n_jobs=n_jobs, backend="loky", return_as="generator_unordered")
    with bar(total=len(missing), show=progress, desc="cache", unit="video") as shown:
        for n_done, skipped in run(tasks):
            reasons |= skipped
            shown.update(n_done)
    return _finish(videos, folder, dict(sorted(reasons.items())))


def _start(folder, settings):
    """Make the folder, or check that the cache in it is of the same videos and settings."""
    path, settings = folder / "cache.json", json.loads(json.dumps(settings))
    if path.is_file():
        there = storage.read_file(path, kind=dict)
        both = [(name, there.get(name), settings.get(name)) for name in there | settings]
        if changed := [f"{n}: {old} there, {new} asked" for n, old, new in both if old != new]:
            raise ValueError(
                f"The folder {folder} holds a cache of something else ({'; '.join(changed)}); "
                "delete it or choose another folder."
            )
        storage.check_sealed(folder, "delete the folder to make it again")
        (folder / "manifest.json").unlink(missing_ok=True)  # until all is there again
        return
    with storage.explain_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
    storage.write_text(path, json.dumps(settings, indent=1))


def _cache_some(videos, indices, folder, **how):
    """Cache some videos; return how many were tried, and the reason for each one skipped."""
    skipped, kept = {}, None
    with ThreadPoolExecutor(1) as pool:  # one video is decoded while the disk takes the one before
        for i in indices:
            found = _read(videos, i, folder, skipped, **how)
            if kept:
                kept.result()
            kept = found and pool.submit(_keep, folder / f"{i:06d}.npy", *found)
        if kept:
            kept.result()
    return len(indices), skipped


def _read(videos, i, folder, skipped, size, min_frames, max_frames):
    """Return frames and truth of a video, or note why it is skipped."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DamagedFilm)
            frames, parts = videos.middle(i, size, max_frames)
        if len(frames) < min_frames:
            raise ValueError(
                f"It has {len(frames)} frames, fewer than the {min_frames} needed: replace it "
                "by a longer one, take more of it (a folder's stride, window_frames) or lower "
                "min_frames (a clip is 16 frames in the paper)."
            )
    except (ValueError, FileNotFoundError) as error:
        skipped[i] = str(error)
        return None
    for said in caught:
        if said.category is DamagedFilm:
            storage.write_text(folder / f"{i:06d}.damage.txt", str(said.message))
        else:
            warnings.warn_explicit(said.message, said.category, said.filename, said.lineno)
    return frames, parts


def _keep(path, frames, parts):
    if parts is not None:  # before the frames: where those are, the video is complete
        storage.write_npy(path.with_suffix(".parts.npy"), parts)
    storage.write_npy(path, frames)


def _finish(videos, folder, reasons):
    """Warn of the skipped videos, check that no class is lost, and write the tables."""
    ids = videos.table["id"]
    skipped = [{"id": ids.iloc[i], "reason": reason} for i, reason in reasons.items()]
    for row in skipped:
        warnings.warn(f"Video {row['id']!r} is skipped. {row['reason']}", stacklevel=3)
    kept = [i for i in range(len(videos)) if i not in reasons]
    for name, rows in videos.table.groupby("class", sort=False).groups.items():
        if reasons.keys() >= set(rows):
            raise ValueError(
                f"None of the {len(rows)} videos of class {name!r} can be used; the first, "
                f"{ids.iloc[rows[0]]!r}: {reasons[rows[0]]} Repair or replace the videos, or leave "
                "the class out."
            )
    # From the headers: no frame is read.
    n_frames = [len(np.load(folder / f"{i:06d}.npy", mmap_mode="r")) for i in kept]
    table = videos.table.iloc[kept].assign(index=kept, n_frames=n_frames)
    storage.write_text(folder / "classes.json", json.dumps(videos.classes))
    storage.write_text(folder / "skipped.json", json.dumps(skipped, indent=1))
    storage.write_table(folder / "table.parquet", table, index=False)
    storage.seal(folder)
    return CachedVideos.load(folder)


def write_clips(folder, rows, table, classes, shape):
    """Write clips one by one into a temporary folder, then move it to its place."""
    folder = storage.path_of(folder)
    if folder.exists():
        raise FileExistsError(
            f"The folder {folder} is there already, and clips are only written into a new one; "
            "choose another name, delete it, or read it with Clips.load."
        )
    names = np.asarray(classes, object)
    table = table[["id", "label", "group"]].assign(**{"class": names[table["label"]]})
    with storage.replacing(folder, folder=True) as partial:
        with storage.explain_write(folder.parent):
            packed = {"dtype": np.uint8, "compressors": ZstdCodec(level=1)}
            frames, parts = storage.new_array(partial / "frames.zarr", shape, **packed), None
        for i, (row, row_parts) in enumerate(rows):  # reading may fail too: not explained here
            with storage.explain_write(folder.parent):
                frames[i] = row
                if row_parts is not None:
                    if parts is None:
                        parts = storage.new_array(partial / "parts.zarr", shape[:4], **packed)
                    parts[i] = row_parts
        with storage.explain_write(folder.parent):
            table.to_parquet(partial / "table.parquet", index=False)
            (partial / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")
            storage.seal(partial)
