"""Run the notebooks of a study with papermill: ``python -m stce.study``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import yaml

from stce import datasets
from stce.parameters import PARAMETERS, check_all
from stce.run import STAGES, Run, notebook_name

__all__ = ["HOME", "StageFailed", "execute", "known", "main", "settings"]

# The notebooks live beside the package in a checkout; STCE_HOME names another checkout.
HOME = Path(os.environ.get("STCE_HOME", Path(__file__).resolve().parent.parent))

READS = {
    "train": (),
    "segment": ("train",),
    "cluster": ("train", "segment"),
    "tcav": ("train", "segment", "cluster"),
    "ablate": ("train", "segment", "cluster", "tcav"),
    "visualize": ("train", "segment", "cluster", "tcav", "ablate"),
}


class StageFailed(RuntimeError):
    """A notebook stopped with an error; the message is that error in one paragraph."""


def known() -> dict[str, str]:
    """Return the known runs and their descriptions, from ``notebooks/parameters/*.yaml``."""
    files = sorted((HOME / "notebooks" / "parameters").glob("*.yaml"))
    return {f.stem: yaml.safe_load(f.read_text()).get("description", "") for f in files}


def settings(name: str, overrides: dict[str, object] | None = None) -> dict[str, dict]:
    """Read a parameter file, apply overrides and check everything.

    Parameters
    ----------
    name : str
        A known run.
    overrides : dict, optional
        Parameters to set instead.

    Returns
    -------
    dict of str to dict
        For each stage all its parameters.

    Raises
    ------
    ValueError
        If the run, or a parameter, is unknown, or a value is not allowed.
    """
    path = HOME / "notebooks" / "parameters" / f"{name}.yaml"
    if not path.exists():
        raise ValueError(
            f"Unknown run {name!r}; choose from {', '.join(known())}, or add "
            f"notebooks/parameters/{name}.yaml."
        )
    values = yaml.safe_load(path.read_text()) or {}
    values.pop("description", None)
    chosen = check_all({**values, **(overrides or {})})
    datasets.check_options(chosen["train"]["dataset"], chosen["train"]["dataset_options"])
    return chosen


def _execute_notebook(stage: str, parameters: dict, folder: Path) -> None:
    import papermill

    source = HOME / "notebooks" / notebook_name(stage)
    target = folder / "notebooks" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".failed.ipynb")
    changed = {n: v for n, v in parameters.items() if v != PARAMETERS[stage][n].default}
    os.environ["STCE_PROGRESS"] = "0"  # the kernel inherits it: no bars in stored notebooks
    try:
        papermill.execute_notebook(
            source,
            draft,
            changed,
            cwd=source.parent,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],  # else each kernel warns of its transport
        )
    except papermill.PapermillExecutionError as error:
        raise StageFailed(
            f"Stage {stage!r} failed: {error.ename}: {error.evalue}\n(The notebook as far as it "
            f"came: {draft})"
        ) from error
    draft.replace(target)


def execute(
    name: str,
    overrides: dict[str, object] | None = None,
    *,
    start: str | None = None,
    force: bool = False,
    folder: str | Path | None = None,
    report=print,
) -> Path:
    """Execute the notebooks of a run, skipping stages that are finished and current.

    Parameters
    ----------
    name : str
        A known run.
    overrides : dict, optional
        Parameters to set instead of those of its file.
    start : str, optional
        First stage to execute; earlier ones must be finished.
    force : bool, default False
        Compute every executed stage again.
    folder : path, optional
        Folder of the run, default ``data/runs/NAME``.
    report : callable, default print
        Receives one line a stage.

    Returns
    -------
    pathlib.Path
        The run's folder; the executed notebooks are in its ``notebooks/``.

    Raises
    ------
    ValueError
        Before anything starts, if a parameter is not allowed.
    StageFailed
        If a notebook stops with an error. Stages finished before are kept.
    """
    folder = Path(folder or HOME / "data" / "runs" / name).resolve()
    chosen = settings(name, overrides)
    if start is not None and start not in STAGES:
        raise ValueError(f"Unknown stage {start!r}; choose from {', '.join(STAGES)}.")
    for stage in STAGES[STAGES.index(start) if start else 0 :]:
        parameters = chosen[stage]
        parameters["run_folder"] = os.path.relpath(folder, HOME / "notebooks")
        parameters["force"] = force or parameters["force"]
        todo = Run(folder).stage(stage, parameters, READS[stage]).todo
        if not todo and (folder / "notebooks" / notebook_name(stage)).exists():
            report(f"{name}  {stage:<10} finished before")
            continue
        started = time.monotonic()
        _execute_notebook(stage, parameters, folder)
        report(f"{name}  {stage:<10} {time.monotonic() - started:6.1f} s")
    return folder


def _assignments(pairs: list[str]) -> dict[str, object]:
    overrides = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"--set takes KEY=VALUE, for example epochs=30; got {pair!r}.")
        overrides[key] = yaml.safe_load(value)
    options = overrides.get("dataset_options")
    if isinstance(options, dict) and isinstance(options.get("folder"), str):
        # Typed on a command line, a path is meant from where the user stands.
        options["folder"] = str(Path(options["folder"]).expanduser().resolve())
    return overrides


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stce.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the known runs")
    run = commands.add_parser("run", help="execute the notebooks of a run")
    run.add_argument("name", help="a known run")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    run.add_argument("--from", dest="start", metavar="STAGE", help=", ".join(STAGES))
    run.add_argument("--force", action="store_true", help="compute finished stages again")
    run.add_argument("--folder", help="folder of the run (default data/runs/NAME)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            for name, description in known().items():
                print(f"{name:<16} {description}")
        else:
            overrides = _assignments(options.set)
            folder = execute(
                options.name,
                overrides,
                start=options.start,
                force=options.force,
                folder=options.folder,
            )
            print(f"Run folder: {folder}")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
