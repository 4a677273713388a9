"""What pytest-xdist keeps together when ``nox -s check`` runs tests and notebooks side by side."""

from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent

# The longest first, so that no process is left with one of them at the end.
LONG = ("test_study.py", "test_explanation.py", "test_training.py", "test_book.py", "test_adapt.py")


@cache
def together(file: str) -> str:
    """Return a name for what one process has to run: a file, or all that reads the default run."""
    if file.endswith(".ipynb"):
        cells = nbformat.read(ROOT / file, as_version=4).cells
        given = "".join(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
        if "run_folder" in given:
            return "study"
    return file


def pytest_collection_modifyitems(items):
    """Put the groups that take longest in front."""
    order = {"study": 0} | {name: place for place, name in enumerate(LONG, start=1)}

    def place(item) -> int:
        file = item.nodeid.partition("::")[0]
        return order.get(together(file), order.get(Path(file).name, len(order)))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share the groups out, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid.partition("::")[0])

    return Groups(config, log)
