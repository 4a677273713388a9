"""Publish what runs have found: ``python -m book.publish``.

Writes the small tables of every finished run beneath ``data/runs`` to ``book/results``, executes
the pages that look across runs, and stores them with their outputs in ``notebooks``. With
``--again`` what was published stays, and runs made on another machine are put beside it.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat

from book import published
from book.campaigns import repeat
from book.store import ROOT, keep, tidy
from stce.study.known import known
from stce.study.make import run_notebook
from stce.study.parameters import PAGES

RESULTS = ROOT / "book" / "results"


def publish_runs(target: Path = RESULTS) -> None:
    """Publish each finished run of a group; the others keep what was published before."""
    for run in known().values():
        for seed in run.seeds if run.groups else []:
            place = published.publish(run, run.folder(seed), target)
            done = "published" if place else "not finished here"
            print(f"{run.name} seed {seed}: {done}")


def publish_checks() -> None:
    """Publish what campaigns and validations have found."""
    for path in repeat.publish(RESULTS):
        print(f"campaign {path.stem}: published")
    for run in known().values():
        folders = [run.folder(seed) for seed in run.seeds] or [run.folder()]
        for folder in folders if run.also else []:
            if place := published.publish_validation(folder, RESULTS):
                print(f"validation of {place.name}: published")


def execute_pages(names: list[str]) -> None:
    """Execute pages and store them; a page that fails leaves its stored version as it was."""
    os.environ["STCE_PROGRESS"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = ROOT / "notebooks" / f"{name}.ipynb"
            executed = Path(folder) / source.name
            run_notebook(source, executed, {})
            nbformat.write(tidy(nbformat.read(executed, as_version=4)), source)
            print(f"{source.name} executed and stored")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="pages to execute, all of them by default")
    parser.add_argument("--again", action="store_true", help="beside what was published before")
    options = parser.parse_args()
    chosen = options.pages
    unknown = sorted(set(chosen) - set(PAGES))
    if unknown:
        parser.error(f"there is no page {unknown[0]!r}; choose from {', '.join(PAGES)}")
    if options.again:
        publish_runs(RESULTS / "again")
        execute_pages(chosen or ["tables"])
        sys.exit()
    publish_runs()
    publish_checks()
    default = ROOT / "data" / "runs" / "actors"
    if not chosen and (default / "visualize" / "manifest.json").exists():
        keep(default / "notebooks")
        print("notebooks of run 'actors' stored")
    execute_pages(chosen or list(PAGES))
