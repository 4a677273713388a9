"""Space-time supervoxels: 3-D SLIC at several resolutions, near-duplicates removed (paper 3.1)."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from joblib import Parallel, delayed
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.segmentation import slic

from stce.engine import storage
from stce.engine.device import typed
from stce.engine.progress import bar
from stce.engine.workers import check_there

COLUMNS = ("video", "level", "label", "t0", "t1", "y0", "y1", "x0", "x1", "size", "fraction")
N_SEGMENTS, MIN_FRACTION, THRESHOLD = (15, 50, 80), 0.001, 0.5


@dataclass(frozen=True)
class Supervoxels:
    """Label volumes of many clips and one table row for each supervoxel that was kept.

    Attributes
    ----------
    labels : array_like
        ``(N, L, T, H, W) uint8`` or ``uint16``, numpy or zarr: for each clip and resolution
        level (coarse first) the supervoxel that owns each voxel, counted from 1.
    table : pandas.DataFrame
        One row a kept supervoxel, sorted by clip: ``video`` (index into the clips), ``level``,
        ``label``, the half-open space-time box ``t0 t1 y0 y1 x0 x1`` in frames and pixels,
        ``size`` in voxels and ``fraction`` of the clip.
    """

    labels: np.ndarray | zarr.Array
    table: pd.DataFrame

    def __setstate__(self, state: dict):
        self.__dict__.update(state)
        check_there(self.labels)

    def __len__(self) -> int:
        return len(self.table)

    def rows_of(self, video: int) -> np.ndarray:
        """Return the table rows of one clip, as positions ``(s,) int64``."""
        return np.flatnonzero(self.table["video"].to_numpy() == video)

    def mask(self, row: int) -> np.ndarray:
        """Return the voxels of one supervoxel, ``(T, H, W) bool``."""
        entry = self.table.iloc[row]
        return np.asarray(self.labels[int(entry.video), int(entry.level)]) == entry.label

    def places(self) -> np.ndarray:
        """Return size (its logarithm) and centre of each, ``(S, 4) float64``, as shares of a clip.

        The centre is that of the box, in time, height and width.
        """
        size = np.log(self.table["fraction"])
        edges = (self.table[[f"{axis}0", f"{axis}1"]].mean(axis=1) for axis in "tyx")
        ends = zip(edges, self.labels.shape[2:], strict=True)
        return np.stack([size, *(edge / n for edge, n in ends)], axis=1)

    def select(self, videos: np.ndarray) -> Supervoxels:
        """Return those of some clips, in the order asked for, in memory."""
        number = pd.Series(np.arange(len(videos)), index=videos)
        table = self.table[self.table["video"].isin(videos)]
        table = table.assign(video=number[table["video"]].to_numpy())
        table = table.sort_values("video", kind="stable").reset_index(drop=True)
        return Supervoxels(np.stack([np.asarray(self.labels[int(i)]) for i in videos]), table)

    @classmethod
    def load(cls, folder: str | Path) -> Supervoxels:
        """Open what :func:`segment` wrote; the volumes stay on disk until they are indexed."""
        folder = Path(folder)
        table = storage.read_file(folder / "supervoxels.parquet")
        return cls(storage.open_array(folder / "labels.zarr"), table)


def _colour(frames: np.ndarray, sigma: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return smoothed Lab colour, ``(T, H, W, c) float64``, shared by all resolutions."""
    image = frames.astype(np.float64) / 255
    image -= image.min()
    if image.max() > 0:
        image /= image.max()
    # A grey voxel has a = b = 0, so L alone gives the distances of the full Lab colour.
    grey = image.shape[-1] == 1
    image = rgb2lab(image.repeat(3, axis=-1))[..., :1] if grey else rgb2lab(image)
    if sigma > 0:
        scale = [sigma / step for step in spacing]
        image = ndimage.gaussian_filter(image, sigma=(*scale, 0), mode="reflect")
    return image


@typed
def segment_clip(
    frames: np.ndarray,
    n_segments: tuple[int, ...] = N_SEGMENTS,
    compactness: float = 20.0,
    sigma: float = 1.0,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    min_fraction: float = MIN_FRACTION,
    threshold: float = THRESHOLD,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Cut one clip into supervoxels at several resolutions (paper 3.1).

    Parameters
    ----------
    frames : numpy.ndarray
        ``(T, H, W, C) uint8``, C = 1 or 3.
    n_segments : tuple of int, default (15, 50, 80)
        Segments asked of SLIC at each level, coarse first. SLIC returns somewhat fewer.
    compactness : float, default 20
        Weight of nearness in space-time against that in Lab colour; higher gives boxier segments.
        Log scale: 5, 10, 20, 40.
    sigma : float, default 1
        Width of the Gaussian smoothing before segmentation, in pixels (divided by `spacing`).
    spacing : tuple of float, default (1, 1, 1)
        Size of a voxel along time, height and width. With a larger first entry frames lie further
        apart, and segments end sooner in time.
    min_fraction, threshold : float, default 0.001 and 0.5
        Segments below this share of the clip are dropped, and duplicates, see :func:`deduplicate`.

    Returns
    -------
    labels, table : numpy.ndarray and pandas.DataFrame
        ``(L, T, H, W) uint8`` (``uint16`` where a level has more than 255 segments), and the rows
        of :class:`Supervoxels` without the column ``video``.

    References
    ----------
    Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, 2012,
    :doi:`10.1109/TPAMI.2012.120`.

    Examples
    --------
    >>> clip = np.zeros((4, 16, 16, 1), np.uint8)
    >>> clip[:, :, 8:] = 255
    >>> labels, table = segment_clip(clip, n_segments=(2, 4))
    >>> labels.shape, int(table["size"].max()) <= clip.size
    ((2, 4, 16, 16), True)
    """
    _check_frames(frames)
    check_cut(n_segments, compactness, sigma)
    colour = _colour(frames, sigma, spacing)
    span = float(colour.max() - colour.min()) or 1.0
    volumes = [
        # slic stretches its input to 0..1 first; dividing by the span undoes that.
        slic(colour, n, compactness / span, spacing=spacing, convert2lab=False, start_label=1)
        for n in n_segments
    ]
    return sift(np.stack(volumes), min_fraction, threshold)


def sift(
    labels: np.ndarray, min_fraction: float = MIN_FRACTION, threshold: float = THRESHOLD
) -> tuple[np.ndarray, pd.DataFrame]:
    """Drop what is found twice and what is small, as :func:`segment_clip` does, from its labels.

    Examples
    --------
    >>> coarse, fine = np.array([1, 1, 1, 2]), np.array([1, 1, 2, 3])
    >>> labels, table = sift(np.stack([coarse, fine]).reshape(2, 1, 1, 4))
    >>> table[["level", "label", "size"]].to_numpy().tolist()
    [[0, 1, 3], [0, 2, 1], [1, 2, 1]]
    """
    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
    return labels, _table(labels, deduplicate(labels, threshold), min_fraction)


def jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Jaccard index of every pair of segments of two label volumes of one shape.

    Labels are integers from 0 up. Entry ``[i, j]`` of the ``(a.max() + 1, b.max() + 1) float64`` is
    ``|i & j| / |i | j|``, 0 where a label does not occur. One pass counts all intersections.

    Examples
    --------
    >>> jaccard(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])).round(2)
    array([[0.5 , 0.25],
           [0.  , 0.67]])
    """
    n_a, n_b = int(a.max()) + 1, int(b.max()) + 1
    pairs = a.ravel().astype(np.intp) * n_b + b.ravel()
    both = np.bincount(pairs, minlength=n_a * n_b).reshape(n_a, n_b)
    either = both.sum(axis=1, keepdims=True) + both.sum(axis=0, keepdims=True) - both
    return both / np.maximum(either, 1)


def deduplicate(labels: np.ndarray, threshold: float = THRESHOLD) -> list[np.ndarray]:
    """Find the segments that do not repeat a coarser one (paper 3.1).

    A segment whose Jaccard index with one already kept exceeds the threshold (0 to 1) is a
    duplicate. The coarser one stays, so that what is kept still covers the clip.

    Takes ``(L, T, H, W)`` labels of integer type, coarse level first, from 1 up; returns for each
    level a ``bool`` array indexed by label (entry 0 is unused and False).

    Examples
    --------
    >>> [k.tolist() for k in deduplicate(np.array([[1, 1, 1, 2], [1, 1, 2, 3]]))]
    [[False, True, True], [False, False, True, False]]
    """
    kept = []
    for level, volume in enumerate(labels):
        new = np.bincount(volume.ravel()) > 0
        new[0] = False
        for coarser in range(level):
            index = jaccard(labels[coarser], volume)[kept[coarser]]
            new &= ~(index > threshold).any(axis=0)
        kept.append(new)
    return kept


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] not in (1, 3):
        raise ValueError(
            f"frames is {frames.dtype} of shape {frames.shape}; pass uint8 of shape "
            "(T, H, W, C) with C = 1 or 3."
        )


def check_cut(n_segments=N_SEGMENTS, compactness=20.0, sigma=1.0, **_) -> None:
    """Refuse options that :func:`segment_clip` does not take."""
    counts = np.asarray(n_segments)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (np.diff(counts, prepend=0) < 1).any():
        raise ValueError(
            f"n_segments is {n_segments!r}; it takes a list of counts above 0, from coarse to "
            "fine, for example (15, 50, 80)."
        )
    for name, value, least in (("compactness", compactness, 1e-6), ("sigma", sigma, 0)):
        if not isinstance(value, Real) or value < least:
            raise ValueError(f"{name} is {value!r}; it takes a number, at least {least:g}.")


def _table(labels: np.ndarray, kept: list[np.ndarray], min_fraction: float) -> pd.DataFrame:
    rows, voxels = [], labels[0].size
    for level, volume in enumerate(labels):
        sizes = np.bincount(volume.ravel())
        for label, box in enumerate(ndimage.find_objects(volume), start=1):
            if kept[level][label] and sizes[label] >= min_fraction * voxels:
                corners = [edge for axis in box for edge in (axis.start, axis.stop)]
                rows.append((level, label, *corners, sizes[label], sizes[label] / voxels))
    return pd.DataFrame(rows, columns=COLUMNS[1:]).astype({"size": np.int64})


def boxes(masks: np.ndarray) -> pd.DataFrame:
    """Return a row for each mask of ``(m, T, H, W)``, none of them empty: label 1 of its volume."""
    kept = [np.array([False, True])]
    return pd.concat([_table((mask > 0)[None].astype(np.uint8), kept, 0.0) for mask in masks])


@typed
def segment(
    clips,
    folder: str | Path | None = None,
    *,
    on: Callable | None = None,
    device: str | None = None,
    n_jobs: int = 1,
    progress: bool = True,
    **options,
) -> Supervoxels:
    """Segment many clips, in parallel and with the memory of a few.

    Parameters
    ----------
    clips : stce.clips.Clips
        N clips of one shape.
    folder : path, optional
        Where to write ``labels.zarr`` and ``supervoxels.parquet``. Clips
        already there, from a run that was stopped, are not segmented again. Without it the
        volumes are kept in memory.
    on : callable, optional
        Takes the clips and the number of one, and returns the ``(T, H, W, C) uint8`` frames that
        are cut in its place, such as a network's map (:func:`stce.engine.slic.painter`).
    device : str, optional
        Cut several clips at once there, such as on ``"cuda"``, by :func:`stce.engine.slic.slic`:
        the same supervoxels up to rounding. Without it scikit-image cuts one clip after the other
        on the CPU, where it is several times faster.
    n_jobs, progress : int, default 1, and bool, default True
        Processes, as in joblib (-1 for one a core; with `device`, threads that feed it), and
        whether to show a bar on a terminal.
    **options
        Passed to :func:`segment_clip`.

    Examples
    --------
    >>> from stce.datasets.textures import textures
    >>> result = segment(textures(2, n_frames=4, size=(24, 24)), n_segments=(4, 8))
    >>> result.labels.shape, sorted(result.table["video"].unique().tolist())
    ((2, 2, 4, 24, 24), [0, 1])
    """
    check_cut(**options)
    asked = options.get("n_segments", N_SEGMENTS)
    shape = (len(clips), len(asked), *clips.frames.shape[1:4])
    # The grid that SLIC starts from can have up to three times the points asked for.
    dtype = np.uint16 if 3 * max(asked) > 255 else np.uint8
    how = on, device, n_jobs, progress, options
    if folder is None:
        labels, tables = np.empty(shape, dtype), []
        for video, volume, table in _each(clips, range(len(clips)), dtype, *how):
            labels[video] = volume
            tables.append(table)
        return Supervoxels(labels, _join(tables))

    folder, rows = Path(folder), Path(folder) / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(len(clips)) if not (rows / f"{i:06d}.parquet").exists()]
    if todo or storage.grows(folder / "labels.zarr"):
        volumes = storage.growing(folder / "labels.zarr", shape, dtype)
        for video, volume, table in _each(clips, todo, dtype, *how):
            volumes[video] = volume
            # The rows are the mark that a clip is done, so they appear last and at once.
            storage.write_table(rows / f"{video:06d}.parquet", table)
        storage.grown(folder / "labels.zarr")
    tables = (pd.read_parquet(rows / f"{i:06d}.parquet") for i in range(len(clips)))
    # In parts, since all columns of a part are in memory while it is written.
    _join(tables).to_parquet(folder / "supervoxels.parquet", row_group_size=4096)
    shutil.rmtree(rows)
    return Supervoxels.load(folder)


def _each(clips, videos, dtype, on, device, n_jobs, progress, options) -> Iterator[tuple]:
    """Yield index, label volumes and table of each clip, in their order."""
    frames = (np.asarray(clips.frames[i] if on is None else on(clips, i)) for i in videos)
    if device is None:
        work = Parallel(n_jobs=n_jobs, return_as="generator", batch_size=4)(
            delayed(segment_clip)(one, **options) for one in frames
        )
    else:
        work = _each_batch(clips.frames, frames, device, n_jobs, options)
    shown = bar(work, total=len(videos), show=progress, desc="segment", unit="clip")
    for video, (labels, table) in zip(videos, shown, strict=True):
        if labels.max() > np.iinfo(dtype).max:
            raise ValueError(
                f"SLIC made {labels.max()} segments of clip {video}, more than {dtype.__name__} "
                "can number; lower n_segments."
            )
        if table.empty:
            raise ValueError(
                f"Clip {video} keeps no supervoxel of min_fraction="
                f"{options.get('min_fraction', MIN_FRACTION):g} of its voxels; lower min_fraction."
            )
        yield video, labels, table


def _each_batch(seen, frames, device, n_jobs, options) -> Iterator[tuple]:
    # Only here is torch needed, which takes a process that cuts clips with scikit-image longer to
    # load than several clips to cut.
    from stce.engine import slic as on_device

    _check_frames(seen[0])
    how = {"n_segments": N_SEGMENTS, **options}
    dropped = [how.pop("min_fraction", MIN_FRACTION), how.pop("threshold", THRESHOLD)]
    size = on_device.clips_at_once(seen.shape[1:4], how["n_segments"], device)

    def cut(frames: np.ndarray) -> list[tuple]:
        return [sift(labels, *dropped) for labels in on_device.slic(frames, device=device, **how)]

    # While one thread's clips are on the device, others join what is left over, on the CPU.
    work = Parallel(n_jobs=n_jobs, return_as="generator", prefer="threads")(
        delayed(cut)(np.stack(some))
        for some in iter(lambda: list(itertools.islice(frames, size)), [])
    )
    return itertools.chain.from_iterable(work)


def _join(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Put the tables of all clips into one, some at a time: each by itself takes ten times that."""
    joined, tables = [], enumerate(tables)
    while some := dict(itertools.islice(tables, 100)):
        joined.append(pd.concat(some, names=["video", None]).reset_index("video")[list(COLUMNS)])
    return pd.concat(joined, ignore_index=True)
