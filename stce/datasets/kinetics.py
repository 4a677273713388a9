"""Kinetics-700: ten classes from the user's own copy, in any of its common layouts.

::

    kinetics/train/checking watch/-0vWdKJKqTc_000012_000022.mp4     a folder a class, two parts
    kinetics/val/checking_watch/...
    kinetics/checking watch/-0vWdKJKqTc_000012_000022.mp4           a folder a class
    kinetics/-0vWdKJKqTc_000012_000022.mp4                          flat, with the annotations:
    kinetics/train.csv                            label,youtube_id,time_start,time_end,split

Names are ``ID_START_END.mp4`` with the video's id on YouTube and seconds of six digits. Class
folders may be written with spaces or underscores. In a copy of Kinetics some videos are always
missing or broken: `load` leaves out the missing ones with a warning, and `stce.videos.cache` the
broken ones; ``python -m stce.datasets kinetics --check`` lists both.
"""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path

from stce.datasets import check_split, command
from stce.datasets.copies import listing, plain
from stce.datasets.folder import FolderVideos, shuffled
from stce.videos import Videos
from stce.videos.decoding import header


def load(
    split,
    *,
    folder: str | Path = "../data/kinetics",
    classes: list[str] = (),
    n_classes: int = 0,
    seed: int = 0,
    max_train: int = 0,
    max_test: int = 0,
    annotations: str | Path = "",
    test_share: float = 0.2,
    fps: float = 0.0,
) -> Videos:
    """Load the training or the test videos of some classes of Kinetics.

    Parameters
    ----------
    split : {"train", "test"}
        The training part, or the validation part, on which the paper tests.
    folder : path
        The copy, in one of the layouts above; see :func:`stce.datasets.kth.load`.
    classes : list of str
        Names of classes, in the order of their labels; case and underscores do not matter.
    n_classes : int
        Draw with `seed`, from the classes that have videos in both parts, as many more as make so
        many; 0 for those named only, or for 10 where none is. The paper has 10 and names "cooking
        sausages", "checking watch", "delivering mail" and "bending back".
    seed : int
        Decides on all that is drawn: classes, videos and the share held out.
    max_train, max_test : int
        At most so many videos a class, drawn; 0 for all.
    annotations : path
        A CSV file with the columns label, youtube_id, time_start, time_end and split. Empty: all
        such files in `folder` and in its sub-folder ``annotations``, if any.
    test_share : float
        Where neither sub-folders nor annotations say what is for testing: hold out this share of
        each class, by the id on YouTube, so that no source is on both sides. 0 to 1, exclusive.
    fps : float
        See :func:`stce.datasets.folder.load`.

    Returns
    -------
    videos : stce.datasets.folder.FolderVideos
        ``read(i)`` gives (T_i, H, W, 3) uint8; a video's group is its id on YouTube.

    Raises
    ------
    FileNotFoundError
        If the folder or the annotations are not there.
    ValueError
        If an option is out of range, a class is unknown or has no video in one of the parts, or
        the layout is none of the above.
    """
    check_split(split, " for Kinetics")
    given = {"n_classes": n_classes, "max_train": max_train, "max_test": max_test, "fps": fps}
    for name, value in given.items():
        if value < 0:
            raise ValueError(f"{name} must be 0 or more for Kinetics, not {value!r}.")
    table, classes = _choose(folder, classes, n_classes, seed, annotations, test_share)
    bad = table[(table["problem"] != "") & table["split"].isin([split, ""])]
    if len(bad):
        warnings.warn(
            f"{len(bad)} videos of Kinetics are left out, the first is {bad['file'].iloc[0]!r} "
            f"({bad['problem'].iloc[0]}); `{command('kinetics', 'check', folder)}` lists them.",
            stacklevel=2,
        )
    table = table[(table["problem"] == "") & (table["split"] == split)]
    most = (max_train if split == "train" else max_test) or None
    drawn = (shuffled(table["file"][table["class"] == name], seed)[:most] for name in classes)
    kept = [file for files in drawn for file in sorted(files)]
    table = table.set_index("file").loc[kept].rename_axis("id").reset_index()
    table["label"] = [classes.index(name) for name in table["class"]]
    return FolderVideos(table[["id", "label", "class", "group", "path"]], classes, fps or None)


def check_videos(folder, *, classes=(), n_classes=0, seed=0, annotations="", test_share=0.2):
    """List the videos of the chosen classes, and open each one's header.

    Parameters
    ----------
    folder, classes, n_classes, seed, annotations, test_share
        As for :func:`load`, which raises the same errors.

    Returns
    -------
    table : DataFrame
        One row a video: file, class, split, and problem, which is empty where there is none.
    """
    table, _ = _choose(folder, classes, n_classes, seed, annotations, test_share)
    table = table.reset_index(drop=True)
    for i, path in table["path"][table["problem"] == ""].items():
        try:
            header(path)
        except ValueError as error:
            table.loc[i, "problem"] = str(error)
    return table[["file", "class", "split", "problem"]]


def _choose(folder, classes, n_classes, seed, annotations, test_share):
    """Return the videos of the classes asked for and of those drawn in addition, and the names."""
    table = listing(folder, annotations, test_share, seed)
    good = table[table["problem"] == ""]
    both = {part: set(good["class"][good["split"] == part]) for part in ("train", "test")}
    named = _named(table, both, folder, classes)
    wanted = (n_classes or (0 if named else 10)) - len(named)
    usable = sorted(both["train"] & both["test"] - set(named))
    if len(usable) < wanted:
        raise ValueError(
            f"n_classes={n_classes or 10} classes cannot be drawn: only "
            f"{len(usable) + len(named)} in the Kinetics folder {folder} have videos to train and "
            "to test on; lower n_classes, or add videos "
            f"(`{command('kinetics', 'check', folder)}`)."
        )
    classes = (*named, *sorted(shuffled(usable, seed)[: max(wanted, 0)]))
    return table[table["class"].isin(classes)], classes


def _named(table, both, folder, classes):
    """Return the classes asked for as they are spelled in the folder, or say what is wrong."""
    known = {name.lower(): name for name in table["class"]}
    keys = [plain(name).lower() for name in classes]
    if len(set(keys)) < len(keys):
        raise ValueError(f"classes names a class twice: {', '.join(classes)}; give each once.")
    for name, key in zip(classes, keys, strict=True):
        if key not in known:
            near = difflib.get_close_matches(key, known, 3, 0.4) or sorted(known)[:3]
            raise ValueError(
                f"The Kinetics folder {folder} has no class {name!r}; nearest are "
                f"{', '.join(known[k] for k in near)}."
            )
        for part, names in both.items():
            if known[key] not in names:
                raise ValueError(
                    f"Class {known[key]!r} has no video to {part} on in the Kinetics folder "
                    f"{folder}; add some, or leave the class out."
                )
    return tuple(known[key] for key in keys)
