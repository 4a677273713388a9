"""The known runs: one file each in ``notebooks/parameters``, alone or in groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from stce import datasets
from stce.engine.storage import explain_read
from stce.study.parameters import check_all
from stce.study.run import HOME, OPTIONAL

__all__ = ["HOME", "Known", "Loader", "find", "groups", "known"]

HEADER = {"description": str, "groups": list, "tables": list, "seeds": list, "also": list}


@dataclass(frozen=True)
class Known:
    """A parameter file: its head, and the notebook parameters that it sets.

    Attributes
    ----------
    name : str
        Of the file, and of the run.
    description : str
        One line.
    groups : list of str
        Groups that it belongs to.
    tables : list of int
        The paper's tables, 1 to 6, that its numbers stand beside.
    seeds : list of int
        Seeds it is run with, each in a folder of its own; empty for one run with `seed`.
    also : list of str
        Stages made after the six: "validate".
    values : dict
        Notebook parameters.
    """

    name: str
    description: str = ""
    groups: list[str] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    also: list[str] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)

    def folder(self, seed: int | None = None) -> Path:
        """Return the folder of the run, or of its run with one seed."""
        folder = HOME / "data" / "runs" / self.name
        return folder if seed is None else folder / f"seed-{seed}"

    def settings(self, overrides: Mapping[str, object] | None = None) -> dict[str, dict]:
        """Return all parameters of each stage, checked.

        Parameters
        ----------
        overrides : mapping, optional
            Parameters to set instead of those of the file.

        Raises
        ------
        ValueError
            If a parameter is unknown, or a value is not allowed.
        """
        given = {**self.values, **(overrides or {})}
        if "run_folder" in given:
            raise ValueError(
                f"run_folder is {given['run_folder']!r}, but a run's folder goes by its name; "
                "pass another with --folder."
            )
        chosen = check_all(given)
        datasets.check_options(chosen["train"]["dataset"], chosen["train"]["dataset_options"])
        return chosen


class Loader(yaml.SafeLoader):
    """YAML in which ``010``, ``1:30`` and ``2026-11-28`` are text, not 8, 90 and a date."""

    def construct_mapping(self, node, deep=False):
        """Return a dict, of which no key is given twice."""
        keys = [key.value for key, _ in node.value if key.tag.endswith(":str")]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        """Return a whole number that is written as everybody reads it, or else the text."""
        return int(node.value) if re.fullmatch(r"[-+]?(0|[1-9][\d_]*)", node.value) else node.value


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_str)


def _read(path: Path) -> Known:
    with explain_read(path, "write one `name: value` a line", "is not YAML"):
        values = yaml.load(path.read_bytes(), Loader) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {values!r}; write one `name: value` a line.")
    head = {}
    for key, kind in HEADER.items():
        head[key] = values.pop(key, kind())
        entries = head[key] if kind is list else []
        inner = str if key in ("groups", "also") else int
        if not isinstance(head[key], kind) or not all(type(e) is inner for e in entries):
            wanted = "text" if kind is str else f"a list of {inner.__name__}"
            raise ValueError(f"{key!r} in {path} is {head[key]!r}; it takes {wanted}.")
    if not set(head["tables"]) <= set(range(1, 7)):
        raise ValueError(f"'tables' in {path} is {head['tables']}; the paper has tables 1 to 6.")
    if len(set(head["seeds"])) < len(head["seeds"]) or min(head["seeds"], default=0) < 0:
        raise ValueError(f"'seeds' in {path} is {head['seeds']}; seeds are 0 or more, each once.")
    if not set(head["also"]) <= set(OPTIONAL):
        raise ValueError(f"'also' in {path} is {head['also']}; it takes {', '.join(OPTIONAL)}.")
    return Known(path.stem, **head, values=values)


def known() -> dict[str, Known]:
    """Return the known runs by name, from ``notebooks/parameters/*.yaml``."""
    files = sorted((HOME / "notebooks" / "parameters").glob("*.yaml"))
    return {file.stem: _read(file) for file in files}


def groups(runs: Mapping[str, Known]) -> dict[str, list[str]]:
    """Return the names of the runs of each group."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        for group in run.groups:
            found.setdefault(group, []).append(name)
    return dict(sorted(found.items()))


def find(name: str, runs: Mapping[str, Known]) -> list[Known]:
    """Return the runs that a name stands for: one run, or all of a group.

    Raises
    ------
    ValueError
        If there is no run and no group of that name.

    Examples
    --------
    >>> [run.name for run in find("smoke", known())]
    ['smoke']
    """
    if name in runs:
        return [runs[name]]
    grouped = groups(runs)
    if name in grouped:
        return [runs[member] for member in grouped[name]]
    raise ValueError(
        f"Unknown run {name!r}; choose a run ({', '.join(runs)}) or a group "
        f"({', '.join(grouped)}), or add notebooks/parameters/{name}.yaml."
    )
