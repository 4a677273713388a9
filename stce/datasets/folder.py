"""Anyone's videos: a folder with one sub-folder for each class.

::

    my-videos/
        wave/   person1_take1.avi  person1_take2.avi  person2_take1.mp4  ...
        clap/   person1_take1.avi  ...

Any frame size, rate and length will do; `stce.videos.cache` brings them to one size. Training and
test videos never share a group (a person, a place, a source video): the group is read from the file
name, and the groups to test on are named.
"""

import hashlib
import re
from pathlib import Path

import pandas as pd

from stce.datasets import check_split
from stce.videos import Videos, decode

ENDINGS = (".avi", ".mp4", ".mkv", ".webm")


class FolderVideos(Videos):
    """Video files, decoded when they are read; the table's column ``path`` says where they are."""

    def __init__(self, table, classes, fps=None):
        super().__init__(table, classes)
        self.fps = fps

    def read(self, i):
        """Decode a video, ``(T_i, H, W, 3) uint8`` RGB; ValueError if it is broken or empty."""
        return decode(self.table["path"].iloc[i], self.fps)


def load(
    split: str,
    *,
    folder: str | Path,
    test_groups: list[str],
    group_pattern: str = r"^([^_]+)_",
    fps: float = 0.0,
) -> Videos:
    r"""Load the training or the test videos of a folder.

    Parameters
    ----------
    split : {"train", "test"}
        Which part.
    folder : path
        Holds one sub-folder a class with its video files (avi, mp4, mkv, webm).
    test_groups : list of str
        The groups to test on; all others are for training.
    group_pattern : str
        Regular expression searched in each file name. Its first group, or the whole match if it
        has none, is the name of the group. The default takes what stands before the first
        underscore: ``person1`` of ``person1_take2.avi``. Others: ``r"^(.+)_\d+\.\w+$"`` for all but
        a running number, ``r"_g(\d+)_"`` for ``v_Archery_g01_c02.avi``.
    fps : float
        Bring all videos to this rate by the nearest frames in time; 0 keeps each video's own.

    Returns
    -------
    videos : FolderVideos

    Raises
    ------
    FileNotFoundError
        If the folder is not there.
    ValueError
        If there is no class, a class has fewer than two videos or none in one of the parts, the
        pattern does not match a name, or a test group does not exist.
    """
    folder = Path(folder)
    check_split(split)
    if not fps >= 0:
        raise ValueError(f"fps must be a positive rate, or 0 for each video's own, not {fps}.")
    table, classes = _table(folder, _compile(group_pattern))
    is_test = table["group"].isin(_known(test_groups, table["group"]))
    for part, rows in (("train", table[~is_test]), ("test", table[is_test])):
        empty = [name for name in classes if name not in set(rows["class"])]
        if empty:
            groups = ", ".join(sorted(set(table["group"][table["class"] == empty[0]])))
            raise ValueError(
                f"Class {empty[0]!r} has no video to {part} on when test_groups is "
                f"{list(test_groups)}: its videos are of {groups}. Choose test_groups so that "
                "each class has videos among them and among the others."
            )
    return FolderVideos(table[is_test if split == "test" else ~is_test], classes, fps or None)


def _compile(pattern):
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"group_pattern {pattern!r} is not a regular expression: {error}."
        ) from error


def _table(folder, pattern):
    """List the videos of all classes, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of videos {folder} is not there; correct `folder`, which is relative to "
            f"{Path.cwd()}."
        )
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    if not classes:
        raise ValueError(
            f"The folder {folder} has no sub-folders; make one for each class and put its videos "
            f"there, as in {folder / 'wave' / 'person1_take1.avi'}."
        )
    rows = []
    for label, name in enumerate(classes):
        files = (folder / name).iterdir()
        paths = sorted(p for p in files if p.suffix.lower() in ENDINGS and p.name[0] != ".")
        if len(paths) < 2:
            raise ValueError(
                f"The class folder {folder / name} has {len(paths)} video"
                f"{'' if len(paths) == 1 else 's'} ({', '.join(ENDINGS)}): a class needs at least "
                "two clips, one to train and one to test. Add videos, or remove the folder."
            )
        for path in paths:
            group = _group(path, pattern)
            rows.append((f"{name}/{path.name}", label, name, group, str(path)))
    return pd.DataFrame(rows, columns=["id", "label", "class", "group", "path"]), tuple(classes)


def _group(path, pattern):
    """Read the group from a file name."""
    match = pattern.search(path.name)
    group = match and match.group(1 if pattern.groups else 0)
    if not group:
        raise ValueError(
            f"group_pattern {pattern.pattern!r} finds no group in the file name {path.name!r} (in "
            f"{path.parent}); rename the file, or give a pattern whose first group is the person, "
            r"such as r'^(person\d+)'."
        )
    return group


def _known(test_groups, groups):
    """Check the groups to test on."""
    known = sorted(set(groups))
    if isinstance(test_groups, str) or not list(test_groups):
        raise ValueError(
            f"test_groups must be a list of one or more groups, such as [{known[-1]!r}], not "
            f"{test_groups!r}; the groups are {', '.join(known)}."
        )
    unknown = [group for group in test_groups if group not in known]
    if unknown:
        raise ValueError(
            f"test_groups names {unknown[0]!r}, but no video is of that group; the groups are "
            f"{', '.join(known)}."
        )
    return list(test_groups)


def shuffled(names, seed):
    """Return names in an order that the seed decides; one more name moves none of the others.

    Examples
    --------
    >>> shuffled("abcde", 0)
    ['c', 'b', 'e', 'd', 'a']
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
