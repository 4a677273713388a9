"""Anyone's videos: a folder with one sub-folder for each class.

::

    my-videos/
        wave/   person1_take1.avi  person1_take2.avi  person2_take1.mp4  ...
        clap/   person1_take1.avi  ...

Any frame size, rate and length will do; `stce.videos.cache` brings them to one size. Training and
test videos never share a group (a person, a place, a source video): the group is read from the file
name or a table, and the groups to test on are named.
"""

import hashlib
import re
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import scipy

from stce.datasets import by_name, check_split, check_whole, text_table
from stce.engine.progress import bar
from stce.engine.storage import path_of
from stce.videos import Videos, decode
from stce.videos.decoding import ENDINGS, header
from stce.videos.frames import FITS, fitted, resize, shrunk
from stce.videos.sources import central, is_film, left_out

PARTS = ("background", "moving")
GROUP_PATTERN, WINDOWS, TRUTHS = r"^([^_]+)_", ("middle", "motion"), ("none", "motion")
# What may tell the classes apart without an action, and what to do about it.
FACTS = {
    "shape": "load with fit='crop', which does not show it",
    "length": "show windows of one length (n_frames, window_frames), never whole films",
    "rate": "bring all to one rate with fps",
    "brightness": "film all classes in the same light",
    "codec": "encode all films alike",
}


class FolderVideos(Videos):
    """Video files, decoded when they are read; the table's column ``path`` says where they are."""

    stride, window, window_frames, truth = 1, "middle", 0, "none"

    def __init__(self, table, classes, fps=None, **options):
        super().__init__(table, classes)
        vars(self).update(options, fps=fps)  # as given to `load`, but for `truth`, its parts
        self._moves = None, None

    def read(self, i):
        """Decode a video, ``(T_i, H, W, 3) uint8`` RGB; ValueError if it is broken or too short."""
        frames, moves = self._film(i)
        self._moves = i, moves  # here, so that `parts` need not decode it again
        return frames

    def parts(self, i):
        """Return the truth of each voxel, ``(T_i, H, W) uint8``, index in `PARTS`, or None."""
        if self.truth == "motion" and self._moves[0] != i:
            self.read(i)
        return self._moves[1]

    def middle(self, i, size, most=None):
        """Keep no more than the frames wanted and, where the truth is asked for, 96 others."""
        each = partial(shrunk, size=size, how=self.fit) if self.truth == "none" else None
        return fitted(*self._film(i, most, each), size, self.fit)

    def _film(self, i, most=None, each=None):
        """Return the frames used, at most so many of their middle, and what moves in them."""
        path, name = self.table[["path", "id"]].iloc[i]
        wanted, ground, change = [], [], ()
        if self.window == "motion":  # seen in small pictures, so as not to hold a whole film
            every, tiny = slice(None, None, self.stride), partial(resize, size=(32, 32))
            small = decode(path, self.fps, take=lambda n: range(n)[every], each=tiny)
            change = np.abs(np.diff(small.astype(np.int16), axis=0)).sum((1, 2, 3))

        def take(n):
            used = range(n)[self._used(n, name, change)]
            wanted[:] = used[central(len(used), most)]
            ground[:] = range(0, n, max(1, n // 48)) if self.truth == "motion" else ()
            return sorted({*wanted, *ground})

        film = decode(path, self.fps, take=take, each=each)
        if self.truth == "none":
            return film, None
        kept = sorted({*wanted, *ground})
        frames, others = (film[np.searchsorted(kept, some)] for some in (wanted, ground))
        return frames, _moving(frames, others)

    def _used(self, n, name, change):
        n = len(range(0, n, self.stride))
        size = self.window_frames or n
        if n < size:
            raise ValueError(
                f"The film {name!r} has {n} frames at stride {self.stride}, fewer than the {size} "
                "of window_frames; lower window_frames or stride, or leave the film out."
            )
        start = (n - size) // 2
        if self.window == "motion":
            before = np.cumsum([0, *change])
            start = int((before[size - 1 :] - before[: len(before) - size + 1]).argmax())
        return slice(start * self.stride, (start + size - 1) * self.stride + 1, self.stride)


def _moving(frames, others):
    """Mark in frames what differs from the median of others of the film: `PARTS`, (T', H, W)."""
    from skimage.filters import apply_hysteresis_threshold

    ground = np.median(others, axis=0).astype(np.int16)
    marked = np.empty(frames.shape[:3], np.uint8)
    for frame, mark in zip(frames, marked, strict=True):
        change = scipy.ndimage.median_filter(np.abs(frame - ground).max(-1), 3)
        sure = apply_hysteresis_threshold(change, 14, 28)
        mark[:] = scipy.ndimage.binary_opening(sure, np.ones((3, 3)))
    if marked.mean() > 0.5:
        text = (
            "Most of a film differs from its median: the camera does not stand still; load it with "
        )
        warnings.warn(text + "parts='none', as nothing tells what moves.", stacklevel=3)
    return marked


def load(
    split: str,
    *,
    folder: str | Path,
    test_groups: list[str],
    group_pattern: str = GROUP_PATTERN,
    groups_file: str | Path = "",
    fps: float = 0.0,
    stride: int = 1,
    fit: str = "crop",
    window: str = "middle",
    window_frames: int = 0,
    parts: str = "none",
) -> Videos:
    r"""Load the training or the test videos of a folder.

    Parameters
    ----------
    split : {"train", "test"}
        Which part.
    folder : path
        Holds one sub-folder a class with its video files (avi, mp4, mkv, webm).
    test_groups : list of str
        The groups to test on; all others are for training. Empty: as `groups_file` splits.
    group_pattern : str
        Regular expression searched in each file name. Its first group, or the whole match if it
        has none, is the name of the group. The default takes what stands before the first
        underscore: ``person1`` of ``person1_take2.avi``. Others: ``r"^(.+)_\d+\.\w+$"`` for all but
        a running number, ``r"_g(\d+)_"`` for ``v_Archery_g01_c02.avi``.
    groups_file : path
        Instead of the pattern, a CSV file with the columns ``file`` (``class/name`` or the name
        alone), ``group`` and, if it is to decide on it, ``split`` (train or test).
    fps : float
        Bring all videos to this rate by the nearest frames in time; 0 keeps each video's own.
    stride : int
        Take every so many-th frame, after `fps`.
    fit : {"crop", "pad", "squash"}
        What becomes of frames of another shape, see :func:`stce.videos.frames.fitted`. All but
        "crop" show a network the shape; there is a warning if it tells the classes.
    window, window_frames : {"middle", "motion"} and int
        Keep so many frames, after `stride`, 0 for all: the middle, or where most changes.
    parts : {"none", "motion"}
        "motion" gives the truth of each voxel, index in `PARTS`: what differs from the film's
        median is moving. There is a warning if the camera does not stand still.

    Returns
    -------
    videos : FolderVideos

    Raises
    ------
    FileNotFoundError
        If the folder or `groups_file` is not there.
    ValueError
        If there is no class, a class has fewer than two videos or none in one of the parts, a video
        has no group, a test group does not exist, or an option is out of range.
    """
    check_split(split)
    if not fps >= 0:
        raise ValueError(f"fps must be a positive rate, or 0 for each video's own, not {fps}.")
    of = "a folder of videos"
    check_whole(of, ("stride", stride, 1, 10**4), ("window_frames", window_frames, 0, 10**6))
    choices = ("fit", fit, FITS), ("window", window, WINDOWS), ("parts", parts, TRUTHS)
    for name, value, valid in choices:
        if value not in valid:
            raise ValueError(f"{name} must be one of {', '.join(valid)} for {of}, not {value!r}.")
    if window == "motion" and not window_frames:
        raise ValueError("window='motion' needs to know how long; give window_frames, such as 16.")
    table, classes = _table(path_of(folder), group_pattern, groups_file)
    table["split"] = _split(table, classes, test_groups)
    warned = left_out(folder, table["path"]) if split == "train" else []  # once for both parts
    if fit != "crop" and split == "train":
        shapes = pd.Series(np.nan, table.index)
        for i, path in table["path"].items():
            with suppress(ValueError):  # what is broken is left out later
                _, height, width, *_ = header(path)
                shapes[i] = width / height
        warned += _giveaways(table.assign(shape=shapes))
    for text in warned:
        warnings.warn(text, stacklevel=2)
    given = {"stride": stride, "window": window, "window_frames": window_frames, "truth": parts}
    mine = table[table["split"] == split].drop(columns="split")
    return FolderVideos(mine, classes, fps or None, fit=fit, **given)


def survey(folder, *, test_groups=(), group_pattern=GROUP_PATTERN, groups_file="", progress=True):
    """Decode all films of a folder, to see before training what is wrong with them.

    Takes options of :func:`load`, with the same errors, but needs no split. Returns a table, a row
    a film, with its problem ("" for none) and `FACTS` (width / height, length in frames, ...), and
    sentences on what tells the classes without an action (by one fact a tree of depth 3 knows those
    of groups kept from it, above 1.5 times chance and with a binomial p < 0.001), groups of one
    class, and copies (of another size or quality, too) in both parts, or else in two groups.
    """
    table, classes = _table(path_of(folder), group_pattern, groups_file)
    by = "split" if len(test_groups) or "split" in table else "group"
    if by == "split":
        table["split"] = _split(table, classes, test_groups)
    paths = bar(table["path"], show=progress, desc="check", unit="video")
    facts, looks = zip(*map(_look, paths), strict=True)
    facts = pd.DataFrame(facts, columns=[*FACTS, "problem"])
    table = pd.concat([table.rename(columns={"id": "file"}), facts], axis=1)
    good = (table["problem"] == "").to_numpy()
    seen, looks = table[good].reset_index(drop=True), np.array(looks, np.float32)[good]
    warned = left_out(folder, table["path"]) + _giveaways(seen)
    one = seen.groupby("group")["class"].nunique() == 1
    if one.any():
        warned.append(
            f"{one.sum()} of {len(one)} groups have one class only, such as {one.idxmax()!r}: a "
            "network may know it by the group; let each group show several classes."
        )
    sides = seen[by].to_numpy()
    # Poor copies, or with 5 frames cut off, stay above 0.9; takes of other people are far below.
    pairs = np.argwhere(np.triu((looks @ looks.T > 0.9) & (sides[:, None] != sides)))
    if len(pairs):
        first = " and ".join(seen["file"][pairs[0]])
        warned.append(
            f"{len(pairs)} pairs of films in different {by}s look like copies, such as {first}; "
            "leave one of each out, or give both one group."
        )
    return table, warned


def _look(path):
    """Return the facts of a film, and how it changes, ``(2048,) float`` of length 1."""
    light = []

    def smaller(frame):  # a frame at a time: films may be long
        light.append(frame.mean())
        return resize(frame, (16, 16))

    try:
        film, (_, height, width, rate, codec) = decode(path, each=smaller), header(path)
    except ValueError as error:
        return {"problem": str(error)}, np.zeros(2048)
    small = film[(2 * np.arange(8) + 1) * len(film) // 16].mean(-1)
    change = (small - small.mean(0)).ravel()
    values = width / height, len(film), rate, np.mean(light[-len(film) :]), codec
    return dict(zip(FACTS, values, strict=True), problem=""), change / (np.linalg.norm(change) or 1)


def _giveaways(table):
    """Say which of the facts in a table alone tell the classes, a sentence each."""
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    said = []
    for fact in [name for name in FACTS if name in table]:
        known = table.dropna(subset=fact)
        x, y, groups = pd.get_dummies(known[[fact]]), known["class"], known["group"]
        if groups.nunique() < 2:
            continue
        tree = DecisionTreeClassifier(max_depth=3, random_state=0)
        told = cross_val_predict(tree, x, y, groups=groups, cv=LeaveOneGroupOut())
        right, chance = int((told == y).sum()), y.value_counts(normalize=True).max()
        p = scipy.stats.binomtest(right, len(y), chance, alternative="greater").pvalue
        if right / len(y) > 1.5 * chance and p < 0.001:
            said.append(
                f"The {fact} of a film alone tells the class of {right / len(y):.0%} of the films "
                f"(chance: {chance:.0%}); {FACTS[fact]}."
            )
    return said


def _split(table, classes, test_groups):
    """Return the part of each video: by the groups to test on, or as `groups_file` says."""
    if "split" in table and not len(test_groups):
        split = table["split"]
        both = split.groupby(table["group"]).nunique() > 1
        if both.any():
            raise ValueError(f"groups_file splits group {both.idxmax()!r}; put it into one part.")
    else:
        known = sorted(set(table["group"]))
        if isinstance(test_groups, str) or not list(test_groups):
            raise ValueError(
                f"test_groups must be a list of one or more groups, such as [{known[-1]!r}], not "
                f"{test_groups!r}; the groups are {', '.join(known)}."
            )
        if unknown := [group for group in test_groups if group not in known]:
            raise ValueError(
                f"test_groups names {unknown[0]!r}, but no video is of that group; the groups are "
                f"{', '.join(known)}."
            )
        split = table["group"].isin(list(test_groups)).map({True: "test", False: "train"})
    for part in ("train", "test"):
        rows = table[split == part]
        if empty := [name for name in classes if name not in set(rows["class"])]:
            groups = ", ".join(sorted(set(table["group"][table["class"] == empty[0]])))
            raise ValueError(
                f"Class {empty[0]!r} has no video to {part} on when test_groups is "
                f"{list(test_groups)}: its videos are of {groups}. Choose test_groups, or the "
                "split of groups_file, so that each class has videos among them and the others."
            )
    return split


def _table(folder, pattern, groups_file):
    """List the videos of all classes, in the order of their names."""
    try:
        pattern = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"group_pattern {pattern!r} is not a regular expression: {error}."
        ) from error
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of videos {folder} is not there; correct `folder`, which is relative to "
            f"{Path.cwd()}."
        )
    classes = by_name(p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    if not classes:
        raise ValueError(
            f"The folder {folder} has no sub-folders; make one for each class and put its videos "
            f"there, as in {folder / 'wave' / 'person1_take1.avi'}."
        )
    rows = []
    for label, (name, inside) in enumerate(classes.items()):
        paths = by_name(filter(is_film, path_of(inside).iterdir()))
        if len(paths) < 2:
            raise ValueError(
                f"The class folder {inside} has {len(paths)} video"
                f"{'' if len(paths) == 1 else 's'} ({', '.join(ENDINGS[:4])}): a class needs at "
                "least two clips, one to train and one to test. Add videos, or remove the folder."
            )
        for file, path in paths.items():
            group = "" if groups_file else _group(file, inside, pattern)
            rows.append((f"{name}/{file}", label, name, group, path))
    table = pd.DataFrame(rows, columns=["id", "label", "class", "group", "path"])
    listed = _listed(table["id"], groups_file) if groups_file else {}
    return table.assign(**listed), tuple(classes)


def _listed(files, path):
    """Return the group and, where it is told, the split of each video, from a CSV file."""
    listed = text_table(path, "groups_file")
    if not {"file", "group"} <= set(listed) or listed["file"].duplicated().any():
        raise ValueError(f"groups_file {path} needs the columns file and group, and a file once.")
    listed = listed.set_index("file").filter(["group", "split"])
    keys = [file if file in listed.index else Path(file).name for file in files]
    found = listed.reindex(keys, fill_value="").set_axis(files.index)
    bad = (found["group"] == "") | ~found.filter(["split"]).isin(["train", "test"]).all(axis=1)
    if bad.any():
        raise ValueError(
            f"groups_file {path} gives {files[bad].iloc[0]!r} no group, or a split that is neither "
            "train nor test; correct its row, or add one."
        )
    return found


def _group(file, folder, pattern):
    """Read the group from the name of a file in a folder."""
    match = pattern.search(file)
    group = match and match.group(1 if pattern.groups else 0)
    if not group:
        raise ValueError(
            f"group_pattern {pattern.pattern!r} finds no group in the file name {file!r} (in "
            f"{folder}); rename the file, or give a pattern whose first group is the person, "
            r"such as r'^(person\d+)'."
        )
    return group


def shuffled(names, seed):
    """Return names in an order that the seed decides; one more name moves none of the others.

    Examples
    --------
    >>> shuffled("abcde", 0)
    ['c', 'b', 'e', 'd', 'a']
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
