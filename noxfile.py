"""The jobs of this study: ``nox -s book``, or any other of ``nox --list``.

Words after ``--`` are passed on, for example ``nox -s tests -- tests/test_tcav.py``.
"""

import hashlib
import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["book"]

# A full environment is 2 GB, so all sessions share this one.
SHARED = Path(".nox", "environment")
PYTHON = str(SHARED.resolve() / ("Scripts" if os.name == "nt" else "bin") / "python")
job = nox.session(venv_backend="none", requires=["environment"])


@nox.session(reuse_venv=True)
def environment(session: nox.Session) -> None:
    """Install what all sessions share; again only when the requirements have changed."""
    wanted = Path("constraints.txt").read_bytes() + Path("pyproject.toml").read_bytes()
    stamp, digest = SHARED / "installed", hashlib.sha256(wanted).hexdigest()
    if not stamp.exists() or stamp.read_text("utf-8") != digest:
        stamp.unlink(missing_ok=True)
        session.install("-c", "constraints.txt", "-e", ".[book,test,dev]")
        stamp.write_text(digest, "utf-8")


@job
def book(session: nox.Session) -> None:
    """Run the default study and build the book from it (``-- --published``: build only)."""
    if "--published" in session.posargs:
        notebooks = "notebooks"
    else:
        session.run(PYTHON, "-m", "stce.study", "run", "actors", *session.posargs)
        notebooks = "data/runs/actors/notebooks"
    session.run(PYTHON, "-m", "book.build", notebooks)


@job
def study(session: nox.Session) -> None:
    """Run a study or a group of them: ``-- laptop``, ``-- smoke --seeds 1``, ``-- list``."""
    words = session.posargs or ["list"]
    command = [] if words[0] in ("list", "run", "verify") else ["run"]
    session.run(PYTHON, "-m", "stce.study", *command, *words)


@job
def weights(session: nox.Session) -> None:
    """Bring a pretrained network here, I3D if none is named: ``-- fetch NAME``, ``-- list``."""
    words = session.posargs or ["fetch", "i3d-kinetics400"]
    session.run(PYTHON, "-m", "stce.models", *words)


@job
def publish(session: nox.Session) -> None:
    """Put the results of finished runs into ``book/results`` and the pages that show them."""
    session.run(PYTHON, "-m", "book.publish", *session.posargs)


@job
def bench(session: nox.Session) -> None:
    """Measure speed, side by side with what a user would pick instead (``-- --quick``)."""
    session.run(PYTHON, "-m", "benchmarks", *session.posargs)


@job
def soak(session: nox.Session) -> None:
    """Try to break it: ``-- kills``, ``disk``, ``worker``, ``together``, ``inputs``, or all."""
    session.run(PYTHON, "-m", "book.campaigns.soak", *session.posargs)


@job
def tests(session: nox.Session) -> None:
    """Run the tests and the examples in the docstrings."""
    session.run(PYTHON, "-m", "pytest", *session.posargs)


@job
def nbval(session: nox.Session) -> None:
    """Run the notebooks again and compare the checked cells with the stored outputs."""
    options = ["--nbval-lax", "--nbval-current-env"]
    quiet, places = {"STCE_PROGRESS": "0"}, session.posargs or ["notebooks", "book/pages"]
    session.run(PYTHON, "-m", "pytest", *options, *places, env=quiet)


@job
def check(session: nox.Session) -> None:
    """Run `tests` and `nbval` side by side: what a change has to pass, in the least time."""
    options = ["-n", "2", "--no-loadscope-reorder", "--nbval-lax", "--nbval-current-env"]
    options += ["--durations", "40"]
    places = ["notebooks", "tests", "stce", "book", "benchmarks"]
    # Two processes that both want all cores spend their time waiting for each other.
    quiet = {"STCE_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    session.run(PYTHON, "-m", "pytest", *options, *(session.posargs or places), env=quiet)


@job
def lint(session: nox.Session) -> None:
    """Check the style of modules, tests and notebooks."""
    session.run(PYTHON, "-m", "ruff", "check", ".")
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")
