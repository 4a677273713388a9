"""What videos a copy of Kinetics holds, whichever its layout (see `stce.datasets.kinetics`)."""

import re
import unicodedata
from pathlib import Path

import pandas as pd

from stce.datasets import folder_of, text_of, text_table
from stce.datasets.folder import shuffled
from stce.videos.sources import is_film

# The split of stce that each of the data set's own parts is for; its test part has no labels.
_PARTS = {"train": "train", "val": "test", "validate": "test", "validation": "test"}
_NAME = re.compile(r"(.+)_\d{6}_\d{6}")
_COLUMNS = ["label", "youtube_id", "time_start", "time_end", "split"]
_TABLE = ["file", "class", "split", "group", "path", "problem"]


def listing(folder, annotations, test_share, seed):
    """List all videos: those in class folders, or those that the annotations name.

    Parameters
    ----------
    folder, annotations, test_share, seed
        As for :func:`stce.datasets.kinetics.load`, which raises the same errors.

    Returns
    -------
    table : DataFrame
        One row a video: file (``class/ID_START_END``, unique in a split), class, split, group (id
        on YouTube), path, and problem, which is empty where there is none.
    """
    folder = folder_of("Kinetics", folder)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, exclusive, not {test_share!r}.")
    files, listed = _scan(folder), _read_annotations(folder, annotations)
    if listed is not None:
        table = _join(listed, files)
        # A part without annotations is what its class folders say.
        rest = files[files["class"].ne("") & files["split"].ne("")]
        rest = rest[~rest["split"].isin(table["split"])]
        return pd.concat([table, rest], ignore_index=True)
    table = files[files["class"] != ""].reset_index(drop=True)
    if table.empty:
        raise ValueError(
            f"The Kinetics folder {folder} has no class folders with videos and no annotations; "
            f"put a CSV file with the columns {', '.join(_COLUMNS)} there, or give `annotations`."
        )
    parts = set(table["split"])
    if parts in ({"train"}, {"test"}):
        raise ValueError(
            f"The Kinetics folder {folder} has videos in only one of its parts train/ and val/; "
            "add the other, or give the part itself as `folder` to hold out a share of it."
        )
    if parts == {""}:
        held_out = set()
        for _, ids in table[table["problem"] == ""].groupby("class")["group"]:
            ids = shuffled(set(ids), seed)
            held_out |= set(ids[: max(1, round(test_share * len(ids)))])
        table["split"] = ["test" if group in held_out else "train" for group in table["group"]]
    return table


def _scan(folder):
    """List the video files in the folder, its parts and class folders; class "" where flat."""
    parts = [name for name in _PARTS if (folder / name).is_dir()]
    found, rows = [], []
    for part in ["", *parts]:
        for path in sorted((folder / part).iterdir()):
            if path.is_file():
                found.append((path, "", part))
            elif (part or not parts) and path.name[0] not in "._":
                found += [(file, path.name, part) for file in sorted(path.iterdir())]
    for path, name, part in found:
        name, path = plain(text_of(name)), text_of(path)
        if is_film(Path(path)):
            stem = Path(path).stem
            match = _NAME.fullmatch(stem)
            problem = "" if match else "its name is not ID_START_END with six digits each"
            file = f"{name}/{stem}" if name else stem
            group = match[1] if match else stem
            rows.append((file, name, _PARTS.get(part, ""), group, path, problem))
    return pd.DataFrame(rows, columns=_TABLE).drop_duplicates(["file", "split"])


def plain(name):
    """Return the name of a class, of a folder or in the annotations, with single spaces alone.

    Examples
    --------
    >>> plain("checking_watch")
    'checking watch'
    """
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def _read_annotations(folder, annotations):
    """Read the annotations that are given, or else all that lie in the folder; None if none do."""
    found = [*sorted(folder.glob("*.csv")), *sorted(folder.glob("annotations/*.csv"))]
    usable = []
    for path in [annotations] if annotations else found:
        table = text_table(path, "annotations")
        lacking = [column for column in _COLUMNS if column not in table.columns]
        if not lacking:
            usable.append(table[_COLUMNS])
        # Those of the test part have no labels; other files are none of ours.
        elif annotations or (lacking != ["label"] and "youtube_id" in "".join(table.columns)):
            raise ValueError(
                f"The annotations {path} lack the column {', '.join(lacking)}; they need "
                f"{', '.join(_COLUMNS)}, with commas between them. Repair or remove the file."
            )
    return pd.concat(usable, ignore_index=True) if usable else None


def _join(listed, files):
    """Give each annotated video its file, or the problem that it is missing."""
    listed = listed[listed["split"].isin(_PARTS)]
    times = listed[["time_start", "time_end"]].apply(pd.to_numeric, errors="coerce")
    if (bad := times.isna().any(axis=1)).any():
        raise ValueError(
            f"The annotations give a time of {listed['youtube_id'][bad].iloc[0]!r} that is not a "
            "number of seconds; repair that row, or remove it."
        )
    spans = zip(listed["youtube_id"], times.to_numpy(int), strict=True)
    stems = [f"{name}_{start:06d}_{end:06d}" for name, (start, end) in spans]
    paths = {Path(path).stem: path for path in files["path"]}
    names = [plain(name) for name in listed["label"]]
    table = pd.DataFrame(
        {
            "file": [f"{name}/{stem}" for name, stem in zip(names, stems, strict=True)],
            "class": names,
            "split": [_PARTS[part] for part in listed["split"]],
            "group": list(listed["youtube_id"]),
            "path": [paths.get(stem, "") for stem in stems],
        }
    )
    table["problem"] = ["" if path else "missing" for path in table["path"]]
    return table.drop_duplicates("file", ignore_index=True)
