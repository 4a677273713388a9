"""Repeat a small study over many seeds: ``python -m book.campaigns NAME --seeds 0-19``.

One file a seed beneath ``data/campaigns/NAME``, written when the seed is done; a seed that is
there already is not run again, so a campaign that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from stce.engine.storage import write_text

__all__ = ["FOLDER", "collect", "publish", "run", "seeds"]

FOLDER = Path(__file__).resolve().parents[2] / "data" / "campaigns"


def seeds(text: str) -> list[int]:
    """Read seeds such as ``0-3,7``.

    Raises
    ------
    ValueError
        If the text is something else.

    Examples
    --------
    >>> seeds("0-3,7")
    [0, 1, 2, 3, 7]
    """
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"seeds is {text!r}; write numbers and ranges, such as 0-19 or 0,3,7.")
        found += range(int(first), int(last or first) + 1)
    return found


def run(
    name: str,
    chosen: Iterable[int],
    trial: Callable[[int], list[dict]],
    folder: str | Path = FOLDER,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Run a trial for each seed that is not done yet.

    Parameters
    ----------
    name : str
        Of the campaign: its sub-folder.
    chosen : iterable of int
        Seeds.
    trial : callable
        Takes a seed and returns rows.
    folder : path, default "data/campaigns"
        Of all campaigns.
    report : callable, default print
        Told about each seed.

    Returns
    -------
    pandas.DataFrame
        See :func:`collect`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     told = run("squares", [2, 3], lambda s: [{"square": s**2}], place, lambda line: None)
    >>> told["square"].tolist()
    [4, 9]
    """
    place = Path(folder) / name
    place.mkdir(parents=True, exist_ok=True)
    for seed in chosen:
        target = place / f"seed-{seed:04d}.json"
        if target.exists():
            report(f"{name} seed {seed}: done before")
            continue
        start = time.perf_counter()
        rows = trial(seed)
        seconds = time.perf_counter() - start
        record = {"seed": seed, "seconds": round(seconds, 1), "rows": rows}
        write_text(target, json.dumps(record, indent=1, default=_plain) + "\n")
        report(f"{name} seed {seed}: {seconds:.0f} s")
    return collect(name, folder)


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A row holds {value!r} of type {type(value).__name__}; give numbers or text.")


def collect(name: str, folder: str | Path = FOLDER) -> pd.DataFrame:
    """Read the rows of all seeds of a campaign that are done.

    Parameters
    ----------
    name : str
        The campaign.
    folder : path, default "data/campaigns"
        Of all campaigns.

    Returns
    -------
    pandas.DataFrame
        Columns ``seed``, ``seconds`` (of the whole seed) and those of the trial, by seed.
    """
    parts = []
    for path in sorted((Path(folder) / name).glob("seed-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = pd.DataFrame(record["rows"])
        rows.insert(0, "seed", record["seed"])
        rows.insert(1, "seconds", record["seconds"])
        parts.append(rows)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def publish(results: str | Path, folder: str | Path = FOLDER) -> list[Path]:
    """Write ``campaigns/NAME.csv`` beneath the published results, of each campaign begun.

    Parameters
    ----------
    results : path
        ``book/results``.
    folder : path, default "data/campaigns"
        Of all campaigns.

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    written = []
    for place in sorted(Path(folder).glob("*/")):
        table = collect(place.name, folder)
        if len(table):
            target = Path(results) / "campaigns" / f"{place.name}.csv"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, table.to_csv(index=False, float_format="%.6g"))
            written.append(target)
    return written
