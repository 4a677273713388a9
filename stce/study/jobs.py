"""Many runs: which to make, which of them share a training, and side by side on several GPUs."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from stce.study.known import Known, known, settings
from stce.study.run import INCIDENTAL

__all__ = ["Job", "chains", "gpus", "plan", "side_by_side"]


@dataclass(frozen=True)
class Job:
    """One run with one seed.

    Attributes
    ----------
    run : stce.study.known.Known
        Its parameter file.
    seed : int or None
        None for a run without a list of seeds.
    overrides : dict
        Parameters set instead of those of the file, the seed among them.
    folder : pathlib.Path
        Where it goes.
    """

    run: Known
    seed: int | None
    overrides: dict[str, object]
    folder: Path

    @property
    def name(self) -> str:
        """Name of the run and of its seed, for people."""
        return self.run.name if self.seed is None else f"{self.run.name} seed {self.seed}"

    def settings(self) -> dict[str, dict]:
        """Return the checked parameters of each stage; see :func:`stce.study.known.settings`."""
        return settings(self.run, self.overrides)

    def siblings(self) -> list[Path]:
        """Return the folders of runs that may hold stages with the same parameters."""
        mine = set(self.run.groups)
        runs = [run for run in known().values() if mine & set(run.groups)]
        folders = [run.folder(self.seed if run.seeds else None) for run in runs]
        return [folder for folder in folders if folder != self.folder]


def plan(
    runs: Iterable[Known],
    overrides: Mapping[str, object] | None = None,
    seeds: Iterable[int] = (),
    folder: str | Path | None = None,
) -> list[Job]:
    """List the jobs of some runs: one for each seed.

    Parameters
    ----------
    runs : iterable of Known
        Runs.
    overrides : mapping, optional
        Parameters to set instead of those of the files.
    seeds : iterable of int, optional
        Seeds instead of those of the files.
    folder : path, optional
        Where the one job goes, instead of ``data/runs/NAME`` or ``data/runs/NAME/seed-N``.

    Returns
    -------
    list of Job

    Raises
    ------
    ValueError
        If a parameter is not allowed, or there are several jobs for one folder.

    Examples
    --------
    >>> from stce.study.known import resolve
    >>> [job.name for job in plan(resolve("actors-small"), seeds=[0, 1])]
    ['actors-small seed 0', 'actors-small seed 1']
    """
    overrides = dict(overrides or {})
    if "seed" in overrides:
        seeds = [overrides.pop("seed")]
    jobs = []
    for run in runs:
        chosen = list(seeds) or run.seeds
        if not run.seeds and len(chosen) < 2:  # a plain run stays one folder, whatever its seed
            more = {"seed": chosen[0]} if chosen else {}
            jobs.append(Job(run, None, {**overrides, **more}, Path(folder or run.folder())))
            continue
        for seed in chosen:
            place = Path(folder or run.folder(seed))
            jobs.append(Job(run, seed, {**overrides, "seed": seed}, place))
    if folder is not None and len(jobs) > 1:
        raise ValueError(
            f"--folder {folder} is for one run, and these are {len(jobs)}: "
            f"{', '.join(job.name for job in jobs)}. Name one run and, with --seeds, one seed."
        )
    for job in jobs:
        job.settings()
    return jobs


def chains(jobs: Iterable[Job]) -> list[list[Job]]:
    """Group jobs that share a training: the first trains, the others take it from there.

    Examples
    --------
    >>> from stce.study.known import resolve
    >>> jobs = plan([*resolve("actors-small"), *resolve("actors-standard")], seeds=[0, 1])
    >>> [[job.name for job in chain] for chain in chains(jobs)][0]
    ['actors-small seed 0', 'actors-standard seed 0']
    """
    found: dict[str, list[Job]] = {}
    for job in jobs:
        training = job.settings()["train"].items()
        key = repr(sorted((k, v) for k, v in training if k not in INCIDENTAL))
        found.setdefault(key, []).append(job)
    return list(found.values())


def gpus() -> list[str]:
    """Return the GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty without any."""
    import torch

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(torch.cuda.device_count())]
    return chosen.split(",")[: len(names)] if chosen else names


def side_by_side(
    work: list[list[Job]],
    devices: list[str],
    command: Callable[[Job], list[str]],
    report: Callable[[str], None] = print,
) -> list[Job]:
    """Run chains of jobs as processes of their own, one at a time on each GPU.

    Parameters
    ----------
    work : list of list of Job
        Each inner list is run in order; the rest of it is left out when one of it fails.
    devices : list of str
        Values for ``CUDA_VISIBLE_DEVICES``.
    command : callable
        Gives the command line of a job.
    report : callable, default print
        Receives each line that they print.

    Returns
    -------
    list of Job
        Those that failed or were left out.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for chain in work:
        waiting.put(chain)
    failed: list[Job] = []

    def work_on(device: str) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        while True:
            try:
                chain = waiting.get_nowait()
            except queue.Empty:
                return
            for done, job in enumerate(chain):
                if _relay(command(job), environment, report):
                    failed.extend(chain[done:])
                    break

    threads = [threading.Thread(target=work_on, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def _relay(command: list[str], environment: dict[str, str], report) -> int:
    """Run a command, handing on each line as it comes; return its exit code."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **options) as process:
        for line in process.stdout or ():
            report(line.rstrip())
    return process.returncode


def study_command(job: Job, extra: Iterable[str] = ()) -> list[str]:
    """Return the command line that makes one job."""
    seeds = [] if job.seed is None else ["--seeds", str(job.seed)]
    return [sys.executable, "-m", "stce.study", "run", job.run.name, *seeds, *extra]


def assignments(pairs: list[str]) -> dict[str, object]:
    """Read what was typed after ``--set``, such as ``epochs=30``."""
    overrides = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"--set takes KEY=VALUE, for example epochs=30; got {pair!r}.")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(
                f"The value in --set {pair!r} cannot be read ({error.problem}); put text with "
                f"special signs into quotes, as in --set '{key}=\"...\"'."
            ) from error
    # Typed on a command line, a path is meant from where the user stands.
    for holder, key in ((overrides.get("dataset_options"), "folder"), (overrides, "random_folder")):
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = str(Path(holder[key]).expanduser().resolve())
    return overrides
