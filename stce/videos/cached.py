"""Videos decoded and resized once, and kept on disk as arrays."""

import hashlib
import json
import os
import warnings
from contextlib import contextmanager, suppress
from itertools import chain, groupby, islice
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

PLACE = ["file", "first", "n_frames"]


class CachedVideos(Videos):
    """Videos of one size on disk, as `cache` writes them; frames are memory-mapped.

    The folder holds ``FILE.npy`` (the frames of up to a hundred videos, one behind the other) and,
    where the truth is known, ``FILE.parts.npy``; ``table.parquet`` (the source's columns, ``index``
    in the source, ``n_frames``, and the ``file`` and its frame with which each begins, ``first``);
    ``skipped.json``, ``classes.json`` and ``cache.json`` (settings); ``{index:06d}.damage.txt``
    says what a video lacks that was kept all the same.

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
        alone = {"file": self.table["index"].map("{:06d}".format), "first": 0}  # older versions
        where = self.table.assign(**(alone | dict(self.table)))[PLACE]
        self._where = list(where.itertuples(index=False, name=None))

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
        return self._open(i, ".npy")

    def parts(self, i):
        """Return the truth of each voxel, ``(T_i, H, W) uint8``, or None where it is not known."""
        return self._open(i, ".parts.npy")

    def damaged(self):
        """Return ``{"id": ..., "note": ...}`` of each video that was kept although damaged."""
        files = (self.folder / f"{i:06d}.damage.txt" for i in self.table["index"])
        both = zip(self.table["id"], files, strict=True)
        return [{"id": i, "note": f.read_text("utf-8")} for i, f in both if f.is_file()]

    def _open(self, i, ending):
        file, first, n_frames = self._where[i]
        path = self.folder / f"{file}{ending}"
        if ending != ".npy" and not path.is_file():
            return None
        with storage.explain_read(path):
            return np.load(path, mmap_mode="r")[first : first + n_frames]


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
    packed = _packed(folder)
    todo = [i for i in range(len(videos)) if i not in packed]
    missing = [i for i in todo if not _complete(folder, i)]
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
    return _finish(videos, folder, dict(sorted(reasons.items())), packed)


def _packed(folder):
    """Return file, first frame and number of frames of the videos that share a file, by index."""
    packed, paths = {}, (folder / "table.parquet", folder / "packed.json")
    if paths[0].is_file() and "file" in (table := storage.read_file(paths[0], "index")):
        packed = {i: where for i, *where in table[["index", *PLACE]].itertuples(index=False)}
    if paths[1].is_file():
        packed |= {int(i): where for i, where in storage.read_file(paths[1], kind=dict).items()}
    return {i: where for i, where in packed.items() if (folder / f"{where[0]}.npy").is_file()}


def _pack(folder, indices, packed):
    """Put videos that have a file each together, a hundred in a file, if of one shape."""

    def kind(i):
        frames, parts = _alone(folder, i)
        return np.load(frames, mmap_mode="r").shape[1:], parts.is_file()

    for (_, has_parts), alike in groupby(indices, kind):
        while some := list(islice(alike, storage.PACKED)):
            for end in (".parts.npy", ".npy") if has_parts else (".npy",):
                arrays = [np.load(folder / f"{i:06d}{end}", mmap_mode="r") for i in some]
                storage.write_npy(folder / f"videos-{some[0]:06d}{end}", *arrays)
            firsts = np.cumsum([0, *map(len, arrays)]).tolist()
            for i, first, array in zip(some, firsts, arrays, strict=False):
                packed[i] = [f"videos-{some[0]:06d}", first, len(array)]
            # Before the next ones are: the disk need not hold all of them twice.
            storage.write_text(folder / "packed.json", json.dumps(packed))
            for path in chain.from_iterable(_alone(folder, i) for i in some):
                path.unlink(missing_ok=True)


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
    skipped = {}
    for i in indices:
        if found := _read(videos, i, folder, skipped, **how):
            for array, path in zip(found[::-1], _alone(folder, i)[::-1], strict=True):
                if array is not None:  # the frames last: where they are, the video is complete
                    storage.write_npy(path, array, put=_moved)
    return len(indices), skipped


@contextmanager
def _moved(path):
    """Yield a hidden path, and move what is there in its place; a power cut may take it again."""
    partial = path.with_name(f".{path.name}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        storage.remove(partial)


def _alone(folder, i):
    """Return the files of a video that shares none: frames, and their truth."""
    return [folder / f"{i:06d}{end}" for end in (".npy", ".parts.npy")]


def _complete(folder, i):
    """Tell whether a video's files are there, and whole."""
    frames, parts = _alone(folder, i)
    with suppress(ValueError, OSError, EOFError):
        for path in (frames, parts) if parts.is_file() else (frames,):
            np.load(path, mmap_mode="r")
        return True
    return False


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


def _finish(videos, folder, reasons, packed):
    """Warn of the skipped videos, check that no class is lost, and write packs and tables."""
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
    _pack(folder, [i for i in kept if i not in packed], packed)
    where = dict(zip(PLACE, zip(*(packed[i] for i in kept), strict=True), strict=True))
    table = videos.table.iloc[kept].assign(index=kept, **where)
    storage.write_text(folder / "classes.json", json.dumps(videos.classes))
    storage.write_text(folder / "skipped.json", json.dumps(skipped, indent=1))
    storage.write_table(folder / "table.parquet", table, index=False)
    (folder / "packed.json").unlink(missing_ok=True)  # the table has it now
    for path in folder.glob("*.npy"):
        if path.name.split(".")[0] not in set(where["file"]):  # left by a killed run
            path.unlink()
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
        how = {"dtype": np.uint8, "compressors": ZstdCodec(level=1)}
        places = [partial / "frames.zarr", partial / "parts.zarr"]
        with storage.explain_write(folder.parent):
            arrays = [storage.growing(places[0], shape, **how)]
        for i, (frames, parts) in enumerate(rows):  # reading may fail too: not explained here
            with storage.explain_write(folder.parent):
                if not i and parts is not None:
                    arrays.append(storage.growing(places[1], shape[:4], **how))
                for array, given in zip(arrays, (frames, parts), strict=False):
                    array[i] = given
        with storage.explain_write(folder.parent):
            for place, _ in zip(places, arrays, strict=False):
                storage.grown(place)
            table.to_parquet(partial / "table.parquet", index=False)
            (partial / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")
            storage.seal(partial)
