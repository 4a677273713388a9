"""KTH: six actions of 25 persons, from the films of the data set, cut into its 2,391 sequences.

The films [1]_ are 160 x 120 pixels, grey, 25 frames a second, one for each person, action and
scenario, with three or four sequences each. ``data/kth/sequences.csv`` of this repository lists the
sequences' frames and the official split: 1,528 sequences of 16 persons for training (the official
training and validation parts together) and 863 of 9 persons for testing.

``python -m stce.datasets kth`` calls `check_films`, which says what is missing, and `download`.

References
----------
.. [1] C. Schuldt, I. Laptev and B. Caputo, "Recognizing human actions: a local SVM approach",
       ICPR 2004, DOI 10.1109/ICPR.2004.1334462.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stce.datasets import check_split, command, folder_of, text_of
from stce.datasets.download import fetch, unpack
from stce.engine.storage import path_of
from stce.videos import Videos, decode
from stce.videos.decoding import header

#: Where the archives ``CLASS.zip`` are published.
URL = "http://www.csc.kth.se/cvap/actions/"
#: The SHA-1 of each class's archive, as a public loader of KTH states it (visym/vipy).
ARCHIVES = {
    "boxing": "adb36ed9c29c846d44d2ba15f348bd115c951bbd",
    "handclapping": "d3b81261aa822ef63d0d1523f945bfaff27814d2",
    "handwaving": "0792f7cd69f7f895a205c08ac212ddaa7177e370",
    "jogging": "21943bdbcef9dad106db0d74661e49eaeaa15a25",
    "running": "da83bb313edfd4455fffdda6263696fa10d43c6f",
    "walking": "a3e81537271a0ab4576591774baa38c2d97b7e3a",
}
CLASSES = tuple(ARCHIVES)
SHAPE = (120, 160)
DATA = Path(__file__).resolve().parents[2] / "data" / "kth"
# Frames that may lack at the end of a film: DivX files lose the last ones in some decoders.
SLACK = 5


class KTHVideos(Videos):
    """The sequences, cut out of their films when they are read.

    A film is decoded once as long as its sequences are read one after the other.

    Parameters
    ----------
    table : DataFrame
        One row a sequence: id, label, class, group, person, scenario, sequence, first_frame and
        last_frame (counted from 1, both included), official_split (train, val, test), path.
    """

    def __init__(self, table):
        super().__init__(table, CLASSES)
        self._last = None, None

    def __getstate__(self):
        return self.__dict__ | {"_last": (None, None)}  # a worker does not need the film

    def read(self, i):
        """Return the frames of sequence `i`, (T_i, 120, 160, 1) uint8."""
        row = self.table.iloc[i]
        if self._last[0] != row["path"]:
            self._last = row["path"], decode(row["path"], grey=True)
        film = self._last[1]
        if len(film) + SLACK < row["last_frame"]:
            raise ValueError(
                f"The film {row['path']} has {len(film)} frames, but sequence {row['sequence']} "
                f"is frames {row['first_frame']} to {row['last_frame']}; fetch it again."
            )
        return film[row["first_frame"] - 1 : row["last_frame"]].copy()


def load(split, *, folder: str | Path = "../data/kth", partial: bool = False) -> Videos:
    """Load the training or the test sequences of KTH.

    Parameters
    ----------
    split : {"train", "test"}
        16 persons with 1,528 sequences, or 9 persons with 863.
    folder : path
        Holds the films ``personNN_ACTION_dN_uncomp.avi``, all in it or in sub-folders. A relative
        one is taken from where the notebook runs, ``notebooks/``.
    partial : bool
        Leave out the sequences whose film is missing, instead of an error.

    Returns
    -------
    videos : KTHVideos
        ``read(i)`` gives (T_i, 120, 160, 1) uint8, T_i from 24 to 362 frames.

    Raises
    ------
    FileNotFoundError
        If the folder is not there, or films are missing and `partial` is false, or all are.
    ValueError
        If `split` is something else.
    """
    check_split(split, " for KTH")
    table = sequences()
    table = table[(table["official_split"] == "test") == (split == "test")]
    films, there = table["file"].drop_duplicates(), _films(folder)
    missing = [file for file in films if file not in there]
    if len(missing) == len(films) or (missing and not partial):
        raise FileNotFoundError(
            f"{len(missing)} of the {len(films)} films to {split} on are missing in the KTH folder "
            f"{path_of(folder).resolve()}, the first is {missing[0]}. "
            f"`{command('kth', 'check', folder)}` lists them, `--download` fetches them, and the "
            "option partial=True leaves out what is missing."
        )
    table = table[table["file"].isin(there)]
    paths = [text_of(there[file]) for file in table["file"]]
    return KTHVideos(table.drop(columns="file").assign(path=paths))


def sequences():
    """Return the published list of sequences, one row each.

    Its columns are id, label, class, group, person, scenario, sequence, first_frame, last_frame,
    official_split, and the name of the film in ``file``; ordered by person, action, scenario.

    Raises
    ------
    FileNotFoundError
        If the list is not there, as in an installation without the repository.

    Examples
    --------
    >>> table = sequences()
    >>> len(table), table["file"].nunique(), table["id"][0]
    (2391, 599, 'person01_boxing_d1_s1')
    """
    path = DATA / "sequences.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"The list of KTH's sequences {path} is not there; it is part of the repository: "
            "install stce from there with `pip install -e .`"
        )
    order = ["person", "action", "scenario", "sequence"]
    table = pd.read_csv(path, encoding="utf-8").sort_values(order, ignore_index=True)
    people = "person" + table["person"].map("{:02d}".format)
    films = people + "_" + table["action"] + "_d" + table["scenario"].astype(str)
    kept = ["person", "scenario", "sequence", "first_frame", "last_frame", "official_split"]
    return pd.DataFrame(
        {
            "id": films + "_s" + table["sequence"].astype(str),
            "label": table["action"].map(CLASSES.index),
            "class": table["action"],
            "group": people,
            **table[kept],
            "file": films + "_uncomp.avi",
        }
    )


def check_films(folder=DATA):
    """Look for each of the 599 films, and read its header: size and number of frames.

    The table has one row a film: file, class, and problem, which is empty where there is none. The
    folder is as for :func:`load`, which raises the same error where it is missing.
    """
    cut = sequences().groupby("file", sort=False)
    films = cut.agg(**{"class": ("class", "first"), "n_frames": ("last_frame", "max")})
    there = _films(folder)
    films["problem"] = [_problem(there.get(file), n) for file, n in films["n_frames"].items()]
    return films.drop(columns="n_frames").reset_index()


def _problem(path, n_frames):
    """Say what is wrong with a film that must have so many frames."""
    if path is None:
        return "missing"
    try:
        n, *shape = header(path)[:3]
    except ValueError as error:
        return str(error)
    if tuple(shape) != SHAPE:
        return f"is {shape[1]} x {shape[0]} pixels, not {SHAPE[1]} x {SHAPE[0]}: another version"
    if n and n + SLACK < n_frames:
        return f"has {n} frames, but its last sequence ends at frame {n_frames}: fetch it again"
    return ""


def download(folder=DATA, *, url=URL, archives=None):
    """Fetch the archives of the classes that lack films, and unpack what is missing.

    An archive goes to ``archives/`` in the folder (:func:`stce.datasets.download.fetch`), which can
    be deleted when all films are there, and its films to a sub-folder with the name of the class.

    Parameters
    ----------
    folder : path
        Where to; made if it is not there.
    url : str
        The address before ``CLASS.zip``.
    archives : dict of str, optional
        SHA-1 of the archive of each class; `ARCHIVES` by default.

    Raises
    ------
    OSError
        If an archive cannot be fetched, or the folder cannot be written.
    ValueError
        If an archive is not the one published, or holds a path out of the folder, or lacks a film.
    """
    folder = path_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    films = sequences()[["file", "class"]].drop_duplicates()
    for action, sha1 in (archives or ARCHIVES).items():
        files = films["file"][films["class"] == action]
        missing = set(files) - _films(folder).keys()
        if missing:
            address = f"{url.rstrip('/')}/{action}.zip"
            archive = fetch(address, folder / "archives", sha1)
            unpack(archive, folder / action, missing)
            missing -= _films(folder).keys()
        if missing:
            raise ValueError(
                f"The archive {archive} lacks {len(missing)} of the {len(files)} films of "
                f"{action}, such as {min(missing)}; get them from another place and put them into "
                f"{folder / action}."
            )


def _films(folder):
    """Return the path of each avi file in a folder or its sub-folders, by its name."""
    remedy = f", or download the films: `{command('kth', 'download', folder)}`."
    folder = folder_of("KTH", folder, remedy)
    folders = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    paths = sorted(path for sub in folders for path in sub.glob("*.[aA][vV][iI]"))
    return {path.name.lower(): path for path in reversed(paths)}
