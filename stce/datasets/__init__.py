"""The data sets by name: `load(name, split)` gives `stce.videos.Videos`.

Each data set is a module with a function ``load(split, *, option=default, ...)``. It is imported
when it is asked for; its options and their types are those of that function.
"""

import importlib
import inspect
import numbers
import os
import re
import shlex
import unicodedata
from pathlib import Path

from stce.engine.storage import explain_read, path_of

DATASETS = ("actors", "folder", "kth", "kinetics")
PATHS = ("folder", "groups_file", "annotations")  # options that are paths, whatever the data set
# Of an option, as its loader writes it; a parameter file has whole numbers for rates, and lists.
_TYPES = {
    "bool": bool,
    "int": numbers.Integral,
    "float": numbers.Real,
    "str": str,
    "str | Path": str | os.PathLike,
    "list[str]": list | tuple,
}


def load(name, split, **options):
    """Load a data set's `stce.videos.Videos`.

    Parameters
    ----------
    name : str
        One of `DATASETS`.
    split : {"train", "test"}
        Which part.
    **options
        As the data set's own ``load`` takes them.

    Raises
    ------
    ValueError
        If the name, the split or an option is unknown, has the wrong type or is missing.
    """
    check_options(name, options)
    return module(name).load(split, **options)


def check_options(name, options):
    """Check a data set's options, a dict of them by name, without loading anything.

    The errors are those of :func:`load`; their message lists the valid options.

    Examples
    --------
    >>> check_options("folder", {"folder": "videos", "test_groups": ["person1"], "fps": 25})
    >>> check_options("folder", {"fps": "fast"})
    Traceback (most recent call last):
    ...
    ValueError: Option 'fps' of the data set 'folder' must be float, not 'fast' (str); ...
    """
    found = inspect.signature(module(name).load, eval_str=True).parameters.values()
    valid = {p.name: p for p in found if p.kind is p.KEYWORD_ONLY}
    needed = [p.name for p in valid.values() if p.default is p.empty]
    words = (
        f"{p.name} ({_kind(p)}, {'needed' if p.name in needed else repr(p.default)})"
        for p in valid.values()
    )
    listing = f"its options are {', '.join(words) or 'none'}."
    for option, value in options.items():
        if option not in valid:
            raise ValueError(f"The data set {name!r} has no option {option!r}; {listing}")
        kind = _kind(valid[option])
        if not _fits(value, kind):
            raise ValueError(
                f"Option {option!r} of the data set {name!r} must be {kind}, not "
                f"{value!r} ({type(value).__name__}); {listing}"
            )
    if missing := [option for option in needed if option not in options]:
        raise ValueError(f"The data set {name!r} needs the option {missing[0]!r}; {listing}")


def module(name):
    """Return a data set's module; its ``PARTS``, if any, are what ``parts`` of its videos index."""
    if not isinstance(name, str) or name not in DATASETS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    return importlib.import_module(f"{__name__}.{name}")


def _kind(parameter):
    """Return the type of an option in words: as annotated, or else that of its default."""
    written = parameter.annotation is not parameter.empty
    kind = parameter.annotation if written else type(parameter.default)
    return re.sub(r"pathlib\.(_local\.)?", "", inspect.formatannotation(kind))


def _fits(value, kind):
    fits = isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "bool")
    return fits and (kind != "list[str]" or all(isinstance(one, str) for one in value))


def command(name, action, folder):
    """Return the line that checks or fetches a data set in a folder, for messages."""
    quoted = shlex.quote(str(path_of(folder).resolve()))
    return f"python -m stce.datasets {name} --{action} --folder {quoted}"


def check_split(split, of=""):
    """Refuse a split that is neither "train" nor "test"; `of` says for what data set."""
    if not isinstance(split, str) or split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'{of}, not {split!r}.")


def folder_of(name, folder, remedy=""):
    """Return the path of a data set's folder, which has to be there; `remedy` if not."""
    folder = path_of(folder)
    if not folder.is_dir():
        own = f". stce does not download {name}: get a copy yourself, as book/data.md says."
        raise FileNotFoundError(
            f"The {name} folder {folder} is not there (seen from {Path.cwd()}); correct `folder`"
            f"{remedy or own}"
        )
    return folder


def text_table(path, option):
    """Read the CSV file that an option names, without making numbers of its text."""
    import pandas as pd

    path = path_of(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{option} {path} is not there (seen from {Path.cwd()}); correct `{option}`."
        )
    with explain_read(
        path, "write it as CSV in UTF-8, or remove it", f"cannot be read as {option}"
    ):
        # As text: an id may look like a number or a missing value.
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig"
        )
    table = table.rename(columns=str.strip)
    return table.apply(lambda column: column.str.strip().str.normalize("NFC"))


def text_of(path):
    """Return a path as text, whatever the locale; one that is not UTF-8 is refused."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The file name {os.fsencode(path)!r} is not UTF-8, so that no table can hold it; "
            "rename it, for instance with `convmv -f latin1 -t utf8`."
        ) from error


def by_name(paths):
    """Return paths, as text, by the name of each (NFC), in the order of the names."""
    paths = [text_of(path) for path in paths]
    names = [unicodedata.normalize("NFC", os.path.basename(path)) for path in paths]
    if twice := [path for path, name in zip(paths, names, strict=True) if names.count(name) > 1]:
        raise ValueError(
            f"{' and '.join(map(ascii, twice))} have one name (Unicode NFC); rename one."
        )
    return dict(sorted(zip(names, paths, strict=True)))


def check_whole(of, *values):
    """Refuse what is no whole number in its range, for a data set `of` that name.

    Of each of the `values` are given its name, itself, and the least and the largest one allowed.
    """
    for name, value, low, high in values:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise ValueError(
                f"{name} must be a whole number from {low} to {high} for {of}, not {value!r}."
            )
