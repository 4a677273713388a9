"""Publish what runs have found: ``python -m book.publish``.

Writes the small tables of every finished run beneath ``data/runs`` to ``book/results``, executes
the pages that look across runs, and stores them with their outputs: those that are made from a
template (``book/pages.yaml``) in ``book/pages``, the others in ``notebooks``. A page whose run is
not there keeps its stored version. With ``--again`` what was published stays, and runs made on
another machine are put beside it. With ``--set`` pages are drawn from what is named there, such as
a run of a reader's own films, for the reader's own build of the book.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import nbformat

from book import parameters, published
from book.build import PICTURES
from book.campaigns import repeat
from book.templates import RENDERED, ROOT, TEMPLATES, pages, render
from stce.engine.storage import path_of, write_text
from stce.study import jobs
from stce.study.known import known
from stce.study.make import StageFailed, run_notebook
from stce.study.run import Run

RESULTS = ROOT / "book" / "results"
RUNS = ("run_folder", "small_folder")


def publish_runs(target: Path = RESULTS) -> None:
    """Publish each finished run of a group; the others keep what was published before.

    A run of which another seed was published, and is not finished here, keeps all of it: seeds that
    are shown together were made together.
    """
    for run in known().values():
        seeds = run.seeds if run.groups else []
        there = {seed for seed in seeds if (target / run.name / f"seed-{seed}").exists()}
        if kept := sorted(there & {seed for seed in seeds if Run(run.folder(seed)).missing()}):
            print(f"{run.name} is left as it is: seed {kept[0]} was published, and is not here")
            continue
        for seed in seeds:
            place = published.publish(run, run.folder(seed), target)
            done = "published" if place else "not finished here"
            print(f"{run.name} seed {seed}: {done}")


def publish_checks() -> None:
    """Publish what campaigns and validations have found."""
    for path in repeat.publish(RESULTS):
        print(f"campaign {path.stem}: published")
    for run in known().values():
        folders = [run.folder(seed) for seed in run.seeds]
        for folder in folders or ([run.folder()] if run.also else []):
            if place := published.publish_validation(folder, RESULTS):
                print(f"validation of {place.name}: published")


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as it would be had Jupyter run it, cells counted from 1.

    What names the machine or the run goes: the cell that papermill injected, its metadata, and
    the times of execution.
    """
    notebook.metadata.pop("papermill", None)
    kept = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in kept:
        for key in ("papermill", "execution", "lines_to_next_cell"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    notebook.cells = kept
    return notebook


def keep(folder: Path) -> None:
    """Store a run's executed notebooks in ``notebooks``, and its pictures in the book.

    Raises SystemExit, with nothing stored, if a notebook has been edited since it was executed.
    """
    executed = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        if path.stem.endswith(".failed"):
            continue
        notebook = executed[TEMPLATES / path.name] = tidy(nbformat.read(path, as_version=4))
        now = nbformat.read(TEMPLATES / path.name, as_version=4)
        if [c.source for c in notebook.cells] != [c.source for c in now.cells]:
            raise SystemExit(
                f"{path.name} has been edited since it was executed in {folder}: delete that one "
                "and run the study again, which takes what is finished from its stages."
            )
    for target, notebook in executed.items():
        write_text(target, nbformat.writes(notebook) + "\n")
    images = ROOT / "book" / "_images"
    images.mkdir(exist_ok=True)
    for picture in PICTURES:
        shutil.copy(folder.parent / "visualize" / picture, images)


def execute(name: str, page: dict | None, asked: dict[str, object]) -> None:
    """Execute a page and store it, unless a run that it shows is missing.

    Parameters
    ----------
    name : str
        Of the page.
    page : dict or None
        Its entry in ``book/pages.yaml``; None for one that is no template's.
    asked : dict
        Parameters of the page to set for this once.

    Raises
    ------
    ValueError
        If the page has no such parameter, or it does not take the value, or the run that `asked`
        names is not there.
    """
    kind, given = (page["notebook"], page.get("parameters", {})) if page else (name, {})
    shown = parameters.check(kind, given | asked)
    folders = [shown[n] for n in RUNS if n in shown]
    if missing := " ".join(filter(None, (Run(TEMPLATES / f).missing() for f in folders))):
        if asked:
            raise ValueError(missing)
        print(f"{name} is left as it is. {missing}")
        return
    target = (RENDERED if page else TEMPLATES) / f"{name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / target.name
        notebook = render(page) if page else nbformat.read(target, as_version=4)
        nbformat.write(notebook, source)
        run_notebook(source, source, asked, target.parent)
        # One that fails leaves its stored version as it was.
        executed = tidy(nbformat.read(source, as_version=4))
    write_text(target, nbformat.writes(executed) + "\n")
    print(f"{name} executed and stored")


def main() -> None:
    """Publish from the command line."""
    rendered = pages()
    templates = {page["notebook"] for page in rendered.values()}
    known_pages = [*(name for name in parameters.PAGES if name not in templates), *rendered]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="pages to execute, all of them by default")
    parser.add_argument("--again", action="store_true", help="beside what was published before")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    options = parser.parse_args()
    chosen = options.pages
    try:
        asked = jobs.assignments(options.set)
    except ValueError as error:
        parser.error(str(error))
    # Typed on a command line, a path is meant from where the user stands.
    asked |= {n: str(path_of(str(asked[n])).resolve()) for n in RUNS if n in asked}
    if unknown := sorted(set(chosen) - set(known_pages)):
        parser.error(f"there is no page {unknown[0]!r}; choose from {', '.join(known_pages)}")
    os.environ["STCE_PROGRESS"] = "0"
    if asked and not chosen:
        parser.error("--set is for pages that are named, such as figure_5")
    if options.again:
        publish_runs(RESULTS / "again")
        chosen = chosen or ["tables"]
    elif not asked:
        publish_runs()
        publish_checks()
        default = ROOT / "data" / "runs" / "actors"
        if not chosen and (default / "visualize" / "manifest.json").exists():
            keep(default / "notebooks")
            print("notebooks of run 'actors' stored")
    for name in chosen or known_pages:
        try:
            execute(name, rendered.get(name), asked)
        except (ValueError, StageFailed) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
