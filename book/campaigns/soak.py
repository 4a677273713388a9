"""What was tried to break it: ``python -m book.campaigns.soak [NAME ...]``, or ``nox -s soak``.

The rows of a trial are written to ``book/results/soak/NAME.csv`` when it ends, and a trial that is
there is not made again: a campaign that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

import pandas as pd

from book.campaigns import deaths
from stce.engine.storage import path_of, write_text

RESULTS = deaths.ROOT / "book" / "results" / "soak"
WORK = deaths.ROOT / "data" / "soak"

# What is repeated, how often if nobody says it, and what is counted to tell.
TRIALS: dict[str, tuple[Callable[[int, Path], Iterable[dict]], int]] = {
    "kills": (deaths.killed, 100),
    "disk": (deaths.without_room, 24),
    "worker": (deaths.without_worker, 12),
    "together": (deaths.together, 20),
}
INPUTS = 1000


def _inputs(work: Path, n: int, seed: int, done: pd.DataFrame | None) -> Iterator[dict]:
    yield from import_module("book.campaigns.mutations").campaign(work, n, seed, done)


def _trials(name: str, work: Path, n: int, seed: int, done: pd.DataFrame | None):
    """Yield the rows of one trial after the other, until there are `n`."""
    trial = TRIALS[name][0]
    known = set() if done is None else set(done["seed"])
    count = 0 if done is None else _count(done)
    while count < n:
        if seed not in known:
            rows = list(trial(seed, work))
            count += _count(pd.DataFrame(rows)) if rows else 0
            yield rows
        seed += 1


def _count(table: pd.DataFrame) -> int:
    """Count trials; of kills those of a whole tree, as a machine that loses its power does."""
    return int((table["whom"] == "tree").sum()) if "whom" in table else table["seed"].nunique()


def repeat(
    name: str,
    work: str | Path = WORK,
    n: int | None = None,
    seed: int = 0,
    results: str | Path = RESULTS,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Make the trials of a campaign that are not made yet.

    Parameters
    ----------
    name : str
        "kills", "disk", "worker", "together" or "inputs".
    work : path, default "data/soak"
        Where studies run; a trial that went well leaves nothing there.
    n : int, optional
        How many trials there are to be; of "kills", how many are killed with all their processes.
    seed : int, default 0
        Of the first trial; the others follow.
    results : path, default "book/results/soak"
        Where ``NAME.csv`` goes.
    report : callable, default print
        Told about each trial.

    Returns
    -------
    pandas.DataFrame
        All rows, also of trials made before.
    """
    target, work = Path(results) / f"{name}.csv", path_of(work).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(target) if target.exists() else None
    if name == "inputs":
        made = ([row] for row in _inputs(work, n or INPUTS, seed, done))
    else:
        made = _trials(name, work, n or TRIALS[name][1], seed, done)
    for rows in made:
        done = pd.concat([done, pd.DataFrame(rows)], ignore_index=True)
        write_text(target, done.to_csv(index=False))
        report(f"{name}: {len(done)} rows; {rows[-1] if rows else 'nothing hit'}")
    return done


def main(arguments: list[str] | None = None) -> None:
    """Run campaigns from the command line."""
    parser = argparse.ArgumentParser(prog="python -m book.campaigns.soak", description=__doc__)
    names = [*TRIALS, "inputs"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--n", type=int, help="how many trials each is to have")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--folder", default=WORK, help="where studies run (default data/soak)")
    parser.add_argument("--results", default=RESULTS, help="default book/results/soak")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(names)):
        parser.error(f"there is no campaign {unknown[0]!r}; choose from {', '.join(names)}")
    for name in chosen.names or names:
        repeat(name, chosen.folder, chosen.n, chosen.seed, chosen.results)


if __name__ == "__main__":
    main()
