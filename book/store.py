"""Keep a run's outputs: ``python -m book.store data/runs/actors/notebooks``.

Copies executed notebooks into ``notebooks/``, without what names the machine or the run (the cell
that papermill injected, its metadata, the times of execution), and the run's picture into the book.
"""

import argparse
import shutil
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as it would be had Jupyter run it, cells counted from 1."""
    notebook.metadata.pop("papermill", None)
    kept = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in kept:
        for key in ("papermill", "execution", "lines_to_next_cell"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    notebook.cells = kept
    return notebook


def keep(folder: Path) -> None:
    """Store a run's executed notebooks and its picture.

    Raises SystemExit, with nothing stored, if a notebook has been edited since it was executed.
    """
    executed = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        if path.stem.endswith(".failed"):
            continue
        notebook = executed[ROOT / "notebooks" / path.name] = tidy(
            nbformat.read(path, as_version=4)
        )
        now = nbformat.read(ROOT / "notebooks" / path.name, as_version=4)
        if [c.source for c in notebook.cells] != [c.source for c in now.cells]:
            raise SystemExit(
                f"{path.name} has been edited since it was executed in {folder}: delete that one "
                "and run the study again, which takes what is finished from its stages."
            )
    for target, notebook in executed.items():
        nbformat.write(notebook, target)
    images = ROOT / "book" / "_images"
    images.mkdir(exist_ok=True)
    shutil.copy(folder.parent / "visualize" / "result.png", images)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, help="folder of executed notebooks")
    keep(parser.parse_args().notebooks)
