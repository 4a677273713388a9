"""Videos of any length and size, read one at a time: what a data set's `load` returns."""

import abc
from pathlib import Path

import numpy as np

from stce.engine.storage import explain_read
from stce.videos.decoding import ENDINGS
from stce.videos.frames import fitted


class Videos(abc.ABC):
    """Labelled videos of any length and size; a data set derives from it and gives `read`.

    Its `fit` says how `cache` brings frames to a size, see :func:`stce.videos.frames.fitted`.

    Parameters
    ----------
    table : DataFrame
        One row a video: ``id`` (unique str), ``label`` (index into `classes`), ``class`` (name),
        ``group`` (person, str), and free columns such as ``path``.
    classes : tuple of str
        Class names.

    Raises
    ------
    ValueError
        If a column is missing, an id occurs twice or a label is out of range.
    """

    fit = "squash"

    def __init__(self, table, classes):
        missing = [c for c in ("id", "label", "class", "group") if c not in table.columns]
        if missing:
            raise ValueError(
                f"The table of videos lacks {', '.join(missing)}; it needs id, label, class and "
                f"group, and has {', '.join(map(str, table.columns))}."
            )
        self.table = table.reset_index(drop=True)
        self.classes = tuple(classes)
        if self.table["id"].duplicated().any():
            twice = self.table["id"][self.table["id"].duplicated()].iloc[0]
            raise ValueError(f"Two videos are called {twice!r}; the ids of a table must be unique.")
        if not self.table["label"].between(0, len(self.classes) - 1).all():
            raise ValueError(
                f"Labels must be indices into the {len(self.classes)} classes, but run from "
                f"{self.table['label'].min()} to {self.table['label'].max()}."
            )

    def __len__(self):
        return len(self.table)

    @abc.abstractmethod
    def read(self, i):
        """Return the video of row `i` of the table, at its own size and rate.

        Returns
        -------
        frames : (T_i, H, W, C) uint8

        Raises
        ------
        ValueError
            If the video is broken or empty.
        """

    def parts(self, i):
        """Return the truth of each voxel, ``(T_i, H, W) uint8``, or None where it is not known."""
        return None

    def middle(self, i, size, most=None):
        """Return a video brought to a size as `fit` says, at most so many middle frames, and parts.

        A data set of long videos overrides it, so as not to have whole ones in memory.
        """
        frames, parts = self.read(i), self.parts(i)
        used = central(len(frames), most)
        return fitted(frames[used], None if parts is None else parts[used], size, self.fit)

    def select(self, indices):
        """Return the videos of some rows (slice, ``(n,) int`` or ``(N,) bool``), in that order."""
        with explain_read(f"indices {indices!r:.99}", f"give some below {len(self)}", "are none"):
            return _Selection(self, np.arange(len(self))[indices])

    def _options(self):
        """Return what decides on the frames besides the table: a seed, a rate, ..."""
        public = {name: value for name, value in vars(self).items() if name[0] != "_"}
        plain = str | int | float | None
        return {name: value for name, value in public.items() if isinstance(value, plain)}


class _Selection(Videos):
    """Some rows of other videos."""

    def __init__(self, videos, indices):
        super().__init__(videos.table.iloc[indices], videos.classes)
        self._videos, self._indices, self.fit = videos, indices, videos.fit

    def read(self, i):
        return self._videos.read(self._indices[i])

    def parts(self, i):
        return self._videos.parts(self._indices[i])

    def middle(self, i, *how):
        return self._videos.middle(self._indices[i], *how)

    def _options(self):
        return self._videos._options()


def central(n, most):
    """Return the slice of the middle of `n`, all or `most` of them."""
    start = max(0, (n - most) // 2) if most else 0
    return slice(start, start + (most or n))


def is_film(path):
    """Tell whether a file counts as a film: by its ending, unless it is hidden."""
    return path.suffix.lower() in ENDINGS and path.name[0] != "." and path.is_file()


def left_out(folder, taken):
    """Say which files of a folder look like films and are not taken: one sentence, or none.

    Either they lie in no folder of a class, or a film's ending is not the last one of their names.
    What begins with a dot or an underscore was put aside on purpose.
    """
    taken = set(taken)
    inside = (path for path in Path(folder).rglob("*.*") if str(path) not in taken)
    alike = sorted(
        path.relative_to(folder)
        for path in inside
        if {suffix.lower() for suffix in path.suffixes} & set(ENDINGS) and path.is_file()
    )
    alike = [str(path) for path in alike if not any(part[0] in "._" for part in path.parts)]
    return alike and [
        f"{len(alike)} files in {folder} look like films but are left out, such as {alike[0]}: put "
        f"each into the folder of its class, with an ending such as {', '.join(ENDINGS[:4])}."
    ]
