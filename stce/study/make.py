"""Run the notebooks of a study with papermill: ``python -m stce.study``."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stce import datasets
from stce.datasets.negatives import films
from stce.engine import progress
from stce.engine.storage import path_of
from stce.engine.workers import stoppable
from stce.study import jobs
from stce.study.known import HOME
from stce.study.parameters import PARAMETERS
from stce.study.run import READS, STAGES, Run, notebook_name


class StageFailed(RuntimeError):
    """A notebook stopped with an error; the message is that error in one paragraph."""


def run_notebook(
    source: Path, target: Path, parameters: dict[str, object], place: Path | None = None
) -> None:
    """Execute a notebook with papermill.

    Parameters
    ----------
    source, target : pathlib.Path
        The notebook, and where the executed one goes: only once it is complete; what a failed one
        came to is kept beside it as ``NAME.failed.ipynb``.
    parameters : dict
        Put in by papermill.
    place : pathlib.Path, optional
        Folder in which it is executed; default its own.

    Raises
    ------
    StageFailed
        If a cell raises an error, or the kernel dies.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it says is said below
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".failed.ipynb")
    how = {"cwd": place or source.parent, "kernel_name": "python3", "progress_bar": False}
    how["extra_arguments"] = ["--log-level=CRITICAL"]  # else each kernel warns of its transport
    try:
        with stoppable() as pool:
            pool.submit(papermill.execute_notebook, source, draft, parameters, **how).result()
    except RuntimeError as error:
        if "died" not in str(error):  # so nbclient says of a kernel at work, and of one that starts
            raise
        raise StageFailed(
            f"Notebook {source.name} failed: its process was ended from outside, most often since "
            "the memory was full; close other programs or lower n_jobs, and run it again."
        ) from error
    except papermill.PapermillExecutionError as error:
        raise StageFailed(
            f"Notebook {source.name} failed: {error.ename}: {error.evalue}\n(The notebook as far "
            f"as it came: {draft})"
        ) from error
    draft.replace(target)


def make(
    job: jobs.Job,
    *,
    start: str | None = None,
    force: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Execute the notebooks of one job, skipping stages that are finished and current.

    Parameters
    ----------
    job : stce.study.jobs.Job
        What to make.
    start : str, optional
        First stage to look at; earlier ones must be finished, with the same parameters.
    force : bool, default False
        Compute every executed stage again.
    report : callable, default print
        Receives one line a stage.

    Returns
    -------
    pathlib.Path
        The run's folder; the executed notebooks are in its ``notebooks/``.

    Raises
    ------
    ValueError
        Before anything starts, if a parameter is not allowed, or a stage before `start` is
        finished with other parameters.
    StageFailed
        If a notebook stops with an error. Stages finished before are kept.
    """
    stages = (*STAGES, *job.also)
    if start is not None and start not in stages:
        raise ValueError(f"Unknown stage {start!r}; choose from {', '.join(stages)}.")
    _check_films(job.settings)
    folder = job.folder.resolve()
    place = os.path.relpath(folder, HOME / "notebooks")
    skipped = stages.index(start) if start else 0
    for name in stages[:skipped]:
        Run(folder).manifest(name, needed_by=start)
        if Run(folder).stage(name, job.settings[name] | {"force": False}, READS[name]).todo:
            raise ValueError(
                f"Stage {name!r} in {folder} is finished with other parameters than these, and "
                f"--from {start} leaves it as it is. Leave out --from, or give the parameters "
                "that it was made with."
            )
    with contextlib.ExitStack() as alone:
        for number, name in enumerate(stages[skipped:], start=skipped + 1):
            parameters = {**job.settings[name], "run_folder": place}
            parameters["force"] = force or parameters["force"]
            stage = Run(folder).stage(name, parameters, READS[name])
            executed = folder / "notebooks" / notebook_name(name)
            if name == "tcav":
                for line in _stand_in(Run(folder), stage, parameters):
                    report(f"{job.name}  {name:<10} {line}")
            cut_short = executed.with_suffix(".failed.ipynb").exists()  # and that of an older stage
            if not stage.todo and executed.exists() and not cut_short:
                report(f"{job.name}  {name:<10} finished before")
                continue
            alone.enter_context(Run(folder).writing(study=True))  # from here to the last stage
            if stage.todo and not parameters["force"]:
                any(stage.borrow(Run(other)) for other in job.siblings)
            changed = {n: v for n, v in parameters.items() if v != PARAMETERS[name][n].default}
            started = time.monotonic()
            with progress.watch(f"{job.name}  {number}/{len(stages)}", report):
                run_notebook(HOME / "notebooks" / executed.name, executed, changed)
            report(f"{job.name}  {name:<10} {time.monotonic() - started:6.1f} s")
    return folder


def _check_films(settings: dict[str, dict]) -> None:
    """Refuse a folder of negatives that would stop stage tcav, before any stage is made."""
    made, chosen = settings["train"], settings["tcav"]
    if chosen["random_source"] == "folder":
        with contextlib.chdir(HOME / "notebooks"):
            table = datasets.load(made["dataset"], "train", **made["dataset_options"]).table
            named = settings["segment"]["classes"] or table["class"].unique()
            known = table[table["class"].isin(named)].get("path", ())
            films(chosen["random_folder"], named, known)


def _stand_in(run: Run, stage, parameters: dict[str, object]) -> Iterator[str]:
    """Say that textures stand in for an HMDB51 that is not there; replace them once it is."""
    folder = path_of(str(parameters["random_folder"]), HOME / "notebooks").resolve()
    if parameters["random_source"] != "hmdb":
        return
    if not folder.is_dir():
        yield f"there is no HMDB51 in {folder}: moving textures stand in"
    elif not stage.todo and "no HMDB51" in run.manifest("tcav")["notes"]["random_clips"]:
        yield f"HMDB51 is in {folder} now: moving textures stood in before"
        parameters["force"] = stage.todo = True


def execute(
    name: str,
    overrides: dict[str, object] | None = None,
    *,
    seeds: Iterable[int] = (),
    folder: str | Path | None = None,
    also: Iterable[str] = (),
    **options,
) -> list[Path]:
    """Make a run, or all runs of a group, one after the other.

    Parameters
    ----------
    name, overrides, seeds, folder, also
        See :func:`stce.study.jobs.plan`.
    **options
        `start`, `force` and `report` of :func:`make`.

    Returns
    -------
    list of pathlib.Path
        The runs' folders.

    Raises
    ------
    ValueError
        Before anything starts, if a name or a parameter is not allowed.
    StageFailed
        If a notebook stops with an error. What was finished before is kept.
    """
    planned = jobs.plan(name, overrides, seeds=seeds, folder=folder, also=also)
    return [make(job, **options) for chain in jobs.chains(planned) for job in chain]
