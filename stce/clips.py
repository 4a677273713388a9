"""Clips of a fixed length: the array that every stage after training works on.

`Clips` holds frames in memory (numpy) or on disk (zarr, read clip by clip); `middle_clips` takes
them from videos. The variable-length side, `Videos`, `CachedVideos`, `decode`, `cache` and
`moments`, is in `stce.videos`; `resize` and `center_crop` are in `stce.videos.frames`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stce.engine import storage
from stce.engine.device import typed
from stce.engine.workers import check_there
from stce.videos.cached import write_clips
from stce.videos.frames import center_crop

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class Clips:
    """Fixed-length clips with their labels.

    Parameters
    ----------
    frames : (N, T, H, W, C) uint8, numpy or zarr
        Grey (C = 1) or RGB (C = 3). ``frames[i]`` and ``frames[a:b]`` give numpy arrays either way.
    labels, ids : (N,) int64 and (N,) str
        Index into `classes`, and a unique name.
    groups : (N,) str
        The person, or whatever must not be split between training and test.
    classes : tuple of str
        Class names.
    parts : (N, T, H, W) uint8, optional
        Truth of each voxel where it is known: index into the data set's ``PARTS``.

    Raises
    ------
    ValueError
        If shapes, types or lengths do not belong together, or an id occurs twice.

    Examples
    --------
    >>> frames = np.zeros((2, 16, 8, 8, 1), np.uint8)
    >>> clips = Clips(frames, [0, 1], ["a", "b"], ["p1", "p2"], ("walk", "run"))
    >>> len(clips), clips.indices_of("run")
    (2, array([1]))
    >>> clips.select([1]).ids
    array(['b'], dtype='<U1')
    """

    frames: ArrayLike
    labels: np.ndarray
    ids: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    parts: ArrayLike | None = None

    def __post_init__(self):
        # A frozen dataclass sets its own fields through object.__setattr__.
        for name in ("labels", "ids", "groups", "classes"):
            kind, value = np.int64 if name == "labels" else np.str_, getattr(self, name)
            try:
                given = np.asarray(value, kind).reshape(-1)
                "".join(map(str, given)).encode()
            except (TypeError, ValueError, OverflowError) as error:
                told = "whole numbers" if name == "labels" else "text in UTF-8"
                told = f"Clips.{name} is {value!r:.99}; give {told} ({error})."
                raise ValueError(told) from error
            object.__setattr__(self, name, tuple(given.tolist()) if name == "classes" else given)
        (shape, dtype), parts = (
            (tuple(getattr(a, "shape", ())), getattr(a, "dtype", type(a)))
            for a in (self.frames, self.parts)
        )
        if len(shape) != 5 or dtype != np.uint8 or shape[4] not in (1, 3):
            raise ValueError(
                f"Clips.frames must be (N, T, H, W, C) uint8 with C = 1 or 3, not {shape} {dtype}; "
                "add the missing axis, or turn 0..1 into bytes: (255 * x).round().astype('uint8')."
            )
        for name in ("labels", "ids", "groups"):
            if len(getattr(self, name)) != shape[0]:
                raise ValueError(
                    f"Clips.{name} has {len(getattr(self, name))} entries for {shape[0]} clips in "
                    "Clips.frames; give one entry for each clip."
                )
        if shape[0] and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(
                f"Clips.labels run from {self.labels.min()} to {self.labels.max()}, but there are "
                f"{len(self.classes)} classes; labels are indices into {self.classes}."
            )
        if len(set(self.ids)) != shape[0]:
            values, counts = np.unique(self.ids, return_counts=True)
            raise ValueError(
                f"Clips.ids must be unique, but {str(values[counts.argmax()])!r} occurs "
                f"{counts.max()} times; add the take or the time to the name."
            )
        if self.parts is not None and parts != (shape[:4], np.uint8):
            told = (
                f"Clips.parts must be {shape[:4]} uint8 like the frames, not {parts[0]} {parts[1]}."
            )
            raise ValueError(told)

    @property
    def clip_shape(self):
        """(C, T, H, W) of a clip, as networks take it."""
        return (self.frames.shape[4], *self.frames.shape[1:4])

    @classmethod
    def of_array(cls, array, name="clips"):
        """Take clips without labels: all are of one class, whose name is empty.

        Parameters
        ----------
        array, name : array_like or torch.Tensor, and str, default "clips"
            ``(N, C, T, H, W)`` or ``(N, T, H, W, C)`` with C = 1 or 3, ``uint8`` or floats in
            0..1, not normalised; and what messages call it.

        Raises
        ------
        ValueError
            If it is of another shape, type or range.
        """
        import torch  # only here: a process that cuts clips up need not wait for it

        if isinstance(array, torch.Tensor):
            array = array.detach().cpu()
            array = array.float() if array.is_floating_point() else array  # numpy lacks bfloat16
        with storage.explain_read(f"The argument {name}", "give one array of clips", "is none"):
            array = np.asarray(array)
        shape = array.shape
        if len(shape) != 5 or (shape[1] in (1, 3)) == (shape[-1] in (1, 3)):
            raise ValueError(
                f"{name} is of shape {shape}; give (N, C, T, H, W) or (N, T, H, W, C) with C = 1 "
                "or 3 on one side only, or Clips."
            )
        if shape[1] in (1, 3):
            array = np.moveaxis(array, 1, -1)
        if array.dtype != np.uint8:
            if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
                raise ValueError(
                    f"{name} is {array.dtype} from {array.min():.3g} to {array.max():.3g}; give "
                    "uint8, or floats in 0..1 that are not normalised yet (mean and std do that)."
                )
            array = np.round(255 * array).astype(np.uint8)
        ids = [f"clip {i}" for i in range(len(array))]
        return cls(np.ascontiguousarray(array), [0] * len(array), ids, ids, ("",))

    def __setstate__(self, state):
        self.__dict__.update(state)
        check_there(self.frames)

    def __len__(self):
        return int(self.frames.shape[0])

    def indices_of(self, class_name):
        """Return the indices of the clips of a class, ``(n,) int64``; ValueError for no class."""
        if not isinstance(class_name, str) or class_name not in self.classes:
            raise ValueError(
                f"No class {class_name!r} among the clips; choose one of {', '.join(self.classes)}."
            )
        return np.flatnonzero(self.labels == self.classes.index(class_name))

    def select(self, indices):
        """Return clips, in memory: of a slice, ``(n,) int`` or ``(N,) bool``, else ValueError."""
        try:
            rows = np.arange(len(self))[indices if isinstance(indices, slice) else [*indices]]
            (_,) = rows.shape
        except (IndexError, TypeError, ValueError) as error:
            fits = f"a slice, whole numbers below {len(self)} or {len(self)} times True or False"
            raise ValueError(f"indices must be {fits}, not {indices!r:.99}.") from error
        return Clips(
            storage.read_rows(self.frames, rows),
            self.labels[rows],
            self.ids[rows],
            self.groups[rows],
            self.classes,
            None if self.parts is None else storage.read_rows(self.parts, rows),
        )

    def save(self, folder):
        """Write the clips into a new folder, clip by clip; FileExistsError if it is there.

        The folder gets ``frames.zarr`` (one chunk a clip), ``parts.zarr`` where parts are known,
        ``table.parquet`` (id, label, class, group) and ``classes.json``. It appears only when
        everything is written.
        """
        parts = [None] * len(self) if self.parts is None else self.parts
        rows = ((self.frames[i], parts[i]) for i in range(len(self)))
        table = pd.DataFrame({"id": self.ids, "label": self.labels, "group": self.groups})
        write_clips(folder, rows, table, self.classes, self.frames.shape)

    @classmethod
    def load(cls, folder):
        """Open what `save` or `middle_clips` wrote, read as it is used; or FileNotFoundError."""
        folder = storage.path_of(folder)
        if not (folder / "table.parquet").is_file() or not (folder / "frames.zarr").is_dir():
            raise FileNotFoundError(
                f"No saved clips in {folder}: frames.zarr and table.parquet are not there; "
                "write them with Clips.save or middle_clips, or correct the folder."
            )
        storage.check_sealed(folder, "delete the folder and write the clips again")
        table = storage.read_file(folder / "table.parquet", "label", "id", "group")
        parts = folder / "parts.zarr"
        return cls(
            storage.open_array(folder / "frames.zarr"),
            table["label"].to_numpy(),
            table["id"].to_numpy(),
            table["group"].to_numpy(),
            storage.read_file(folder / "classes.json", kind=list),
            storage.open_array(parts) if parts.is_dir() else None,
        )


def as_clips(value, argument, shape=None) -> Clips:
    """Return clips, of class "" where no label came with them; `shape` is (C, T, H, W)."""
    clips = value if isinstance(value, Clips) else Clips.of_array(value, argument)
    if len(clips) < 2:
        raise ValueError(f"{argument} has {len(clips)} clips; give two or more.")
    if shape not in (None, clips.clip_shape):
        raise ValueError(
            f"{argument} has clips (C, T, H, W) = {clips.clip_shape}, but clips has {shape}; bring "
            "them to one size."
        )
    return clips


def of_class(clips, name, names, argument) -> Clips:
    """Return the clips of one class, labelled by the logits."""
    present = sorted({clips.classes[y] for y in clips.labels})
    if name in present:
        clips = clips.select(clips.indices_of(name))
    elif len(present) > 1 or present[0] in names:
        raise ValueError(
            f"{argument} has no clip of {name!r} but of {', '.join(present)}; give clips of the "
            "target_class, or name the logits with classes."
        )
    labels = np.full(len(clips), names.index(name))
    return as_clips(replace(clips, labels=labels, classes=names), argument)


@typed
def middle_clips(videos, folder=None, n_frames=16, crop=(112, 112), indices=None) -> Clips:
    """Take the middle frames of each video and the centre of each frame (section 4.1).

    Parameters
    ----------
    videos : Videos
        Usually cached, so that all have one size.
    folder : path, optional
        A new folder: the clips are written there one by one and read lazily. Without it they
        are in memory.
    n_frames, crop : int and (int, int) or None
        Length of the clips, 16 in the paper; (height, width) of the centre crop, or all of it.
    indices : (n,) int, optional
        Rows of the videos' table; all by default.

    Raises
    ------
    ValueError
        If a video is too short, or smaller than the crop, or unlike the others. A FileExistsError
        if `folder` is there already.
    """
    if indices is not None:
        videos = videos.select(indices)
    if not len(videos):
        raise ValueError("There is no video to take clips from; check `indices` and the split.")

    def clip(i):
        name = videos.table["id"].iloc[i]
        frames, parts = videos.read(i), videos.parts(i)
        start = (len(frames) - n_frames) // 2
        if start < 0:
            raise ValueError(
                f"Video {name!r} has {len(frames)} frames, fewer than the {n_frames} of a clip; "
                "lower n_frames, or leave the video out with min_frames in `stce.videos.cache`."
            )
        both = [None if a is None else a[start : start + n_frames] for a in (frames, parts)]
        return [a if a is None or crop is None else center_crop(a, crop) for a in both]

    first, its_parts = clip(0)
    shape, has_parts = (len(videos), *first.shape), its_parts is not None

    def rows():
        for i in range(len(videos)):
            frames, parts = clip(i)
            if frames.shape != shape[1:] or (parts is not None) != has_parts:
                raise ValueError(
                    f"Video {videos.table['id'].iloc[i]!r} gives a clip of {frames.shape}, the "
                    f"first gave {shape[1:]}: all must have one size, one number of channels, and "
                    "parts or none; bring the videos to one size with `stce.videos.cache`."
                )
            yield frames, parts

    table = videos.table
    if folder is not None:
        write_clips(folder, rows(), table, videos.classes, shape)
        return Clips.load(folder)
    frames = np.empty(shape, np.uint8)
    parts = np.empty(shape[:4], np.uint8) if has_parts else None
    for i, (f, p) in enumerate(rows()):
        frames[i] = f
        if has_parts:
            parts[i] = p
    return Clips(frames, table["label"], table["id"], table["group"], videos.classes, parts)


def balanced(labels, classes, n, rng, only=()):
    """Draw the same number of clips from each class, without replacement (section 4.1).

    Returns the indices in ascending order, ``(M,) int64``.

    Parameters
    ----------
    labels, classes : (N,) int and tuple of str
        Class of each clip, index into `classes`, and all class names.
    n, rng : int and numpy.random.Generator
        Clips a class (0, or more than there are, takes all of them), and the source of the draw.
    only : sequence of str
        Classes to draw from; empty for all.

    Examples
    --------
    >>> balanced([0, 0, 0, 1, 1], ("walk", "run"), 2, np.random.default_rng(0)).size
    4
    """
    if unknown := [name for name in only if name not in classes]:
        raise ValueError(
            f"There is no class {unknown[0]!r} in this data set; choose from {', '.join(classes)}."
        )
    labels = np.asarray(labels)
    chosen = []
    for y, name in enumerate(classes):
        rows = np.flatnonzero(labels == y)
        draw = rng.permutation(rows)[: n or len(rows)]
        if not only or name in only:
            chosen.append(draw)
    return np.sort(np.concatenate(chosen))
