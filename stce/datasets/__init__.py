"""The data sets by name: `load(name, split)` gives `stce.videos.Videos`.

Each data set is a module with a function ``load(split, *, option=default, ...)``. It is imported
when it is asked for; its options and their types are those of that function.
"""

import importlib
import inspect
import numbers
import os
import types
import typing

NAMES = ("actors", "folder", "kth", "kinetics")


def load(name, split, **options):
    """Load a data set.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    split : {"train", "test"}
        Which part.
    **options
        As the data set's own ``load`` takes them.

    Returns
    -------
    videos : stce.videos.Videos

    Raises
    ------
    ValueError
        If the name, the split or an option is unknown, has the wrong type or is missing.
    """
    check_options(name, options)
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}.")
    return _loader(name)(split, **options)


def check_options(name, options):
    """Check a data set's options without loading anything.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    options : dict
        Options by name.

    Raises
    ------
    ValueError
        If the name or an option is unknown, an option has the wrong type, or one that is needed
        is missing. The message lists the valid ones.

    Examples
    --------
    >>> check_options("folder", {"folder": "videos", "test_groups": ["person1"], "fps": 25})
    >>> check_options("folder", {"fps": "fast"})
    Traceback (most recent call last):
    ...
    ValueError: Option 'fps' of the data set 'folder' must be float, not 'fast' (str); ...
    """
    signature = inspect.signature(_loader(name), eval_str=True)
    valid = {p.name: p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    listing = f"its options are {', '.join(_describe(p) for p in valid.values()) or 'none'}."
    for option, value in options.items():
        if option not in valid:
            raise ValueError(f"The data set {name!r} has no option {option!r}; {listing}")
        kind = _kind(valid[option])
        if not _fits(value, kind):
            raise ValueError(
                f"Option {option!r} of the data set {name!r} must be {_spell(kind)}, not "
                f"{value!r} ({type(value).__name__}); {listing}"
            )
    missing = [p for p in valid.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise ValueError(f"The data set {name!r} needs the option {missing[0].name!r}; {listing}")


def _loader(name):
    if name not in NAMES:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(NAMES)}.")
    return importlib.import_module(f"{__name__}.{name}").load


def _kind(parameter):
    """Return the type of an option: as annotated, or else that of its default."""
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    return typing.Any if parameter.default is parameter.empty else type(parameter.default)


def _fits(value, kind):
    """Say whether a value is of a type; whole numbers are floats too, and text is a path."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return True
    if kind is None or kind is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin is typing.Literal:
        return value in arguments
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is float:
        return isinstance(value, numbers.Real)
    if isinstance(kind, type) and issubclass(kind, os.PathLike):
        return isinstance(value, str | os.PathLike)
    if (origin or kind) in (list, tuple):  # a parameter file has only lists
        element = arguments[0] if arguments else typing.Any
        return isinstance(value, list | tuple) and all(_fits(v, element) for v in value)
    return isinstance(value, origin or kind)


def _spell(kind):
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _describe(parameter):
    kind = _spell(_kind(parameter)).replace("pathlib.", "")
    needed = parameter.default is parameter.empty
    return f"{parameter.name} ({kind}, {'needed' if needed else repr(parameter.default)})"
