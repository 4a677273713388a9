"""Many runs: which to make, which of them share a training, and side by side on several GPUs."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from stce.datasets import PATHS
from stce.engine.storage import explain_read, path_of
from stce.engine.workers import stoppable
from stce.models.adapt import seen
from stce.models.zoo import assemble, complete
from stce.study.known import Loader, find, known
from stce.study.run import INCIDENTAL, OPTIONAL


@dataclass(frozen=True)
class Job:
    """One run with one seed.

    Attributes
    ----------
    run : str
        Name of the run.
    seed : int or None
        None for a run without a list of seeds.
    settings : dict of str to dict
        The parameters of each stage, see :meth:`stce.study.known.Known.settings`.
    folder : pathlib.Path
        Where it goes.
    also : list of str
        Stages made after the six.
    siblings : list of pathlib.Path
        Folders of runs of its groups, whose stages with the same parameters and inputs it takes.
    """

    run: str
    seed: int | None
    settings: dict[str, dict]
    folder: Path
    also: list[str]
    siblings: list[Path]

    @property
    def name(self) -> str:
        """Name of the run and of its seed, for people."""
        return self.run if self.seed is None else f"{self.run} seed {self.seed}"


def plan(
    name: str,
    overrides: Mapping[str, object] | None = None,
    *,
    seeds: Iterable[int] = (),
    folder: str | Path | None = None,
    also: Iterable[str] = (),
) -> list[Job]:
    """List the jobs of a run, or of all runs of a group: one for each seed.

    Parameters
    ----------
    name : str
        A known run or group.
    overrides : mapping, optional
        Parameters to set instead of those of the files.
    seeds : iterable of int, optional
        Seeds instead of those of the files.
    folder : path, optional
        Where the one job goes, instead of ``data/runs/NAME`` or ``data/runs/NAME/seed-N``.
    also : iterable of str, optional
        Stages to make after the six, beside those that the files name: "validate".

    Raises
    ------
    ValueError
        If a name or a parameter is not allowed, or there are several jobs for one folder.

    Examples
    --------
    >>> [job.name for job in plan("actors-small", seeds=[0, 1])]
    ['actors-small seed 0', 'actors-small seed 1']
    """
    overrides, seeds, also, everything = dict(overrides or {}), list(seeds), list(also), known()
    if unknown := sorted(set(also) - set(OPTIONAL)):
        raise ValueError(f"also is {unknown[0]!r}; choose from {', '.join(OPTIONAL)}.")
    if "seed" in overrides:
        seeds = [overrides.pop("seed")]
    jobs = []
    for run in find(name, everything):
        chosen = seeds or run.seeds
        # A plain run stays one folder, whatever its seed.
        plain = not run.seeds and len(chosen) < 2
        mates = [one for one in everything.values() if set(run.groups) & set(one.groups)]
        for seed in chosen or [None]:
            number = None if plain else seed
            given = overrides if seed is None else {**overrides, "seed": seed}
            place = path_of(folder or run.folder(number))
            more = list(dict.fromkeys([*run.also, *also]))
            theirs = [one.folder(number if one.seeds else None) for one in mates]
            siblings = [folder for folder in theirs if folder != place]
            settings = run.settings(given)
            _check_layers(settings["train"], settings["cluster"])
            jobs.append(Job(run.name, number, settings, place, more, siblings))
    if folder is not None and len(jobs) > 1:
        raise ValueError(
            f"--folder {folder} is for one run, and these are {len(jobs)}: "
            f"{', '.join(job.name for job in jobs)}. Name one run and, with --seeds, one seed."
        )
    return jobs


def _check_layers(p: Mapping, made: Mapping) -> None:
    """Refuse a layer that the network does not have, before hours go into its training."""
    size = {"input_size": (p["n_frames"], *p["crop"]), "in_channels": 1, "n_classes": 2}
    network = {"name": p["network"], "width": p["width"], "dropout": None} | size
    for layer in () if p["weights"] else {made["layer"], made["concept_layer"] or made["layer"]}:
        seen(assemble(complete(network | {"layer": layer or None})), None, made["features"])


def chains(jobs: Iterable[Job]) -> list[list[Job]]:
    """Group jobs that share a training: the first trains, the others take it from there.

    Examples
    --------
    >>> jobs = [*plan("actors-small", seeds=[0, 1]), *plan("actors-standard", seeds=[0, 1])]
    >>> [[job.name for job in chain] for chain in chains(jobs)][0]
    ['actors-small seed 0', 'actors-standard seed 0']
    """
    found: dict[str, list[Job]] = {}
    for job in jobs:
        training = job.settings["train"].items()
        key = repr(sorted((k, v) for k, v in training if k not in INCIDENTAL))
        found.setdefault(key, []).append(job)
    return list(found.values())


def gpus() -> list[str]:
    """Return the GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty without any."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(torch.cuda.device_count())]
    return chosen.split(",")[: len(names)] if chosen else names


def on_devices(
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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    pipes |= {"encoding": "utf-8", "errors": "replace"}
    free: queue.SimpleQueue = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def work_on(chain: list[Job]) -> list[Job]:
        device = free.get()
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        try:
            for done, job in enumerate(chain):
                with subprocess.Popen(command(job), env=environment, **pipes) as process:
                    for line in process.stdout:
                        report(line.rstrip())
                if process.returncode:
                    return chain[done:]
            return []
        finally:
            free.put(device)

    with stoppable(len(devices)) as pool:
        return [job for failed in pool.map(work_on, work) for job in failed]


def study_command(job: Job, extra: Iterable[str] = ()) -> list[str]:
    """Return the command line that makes one job."""
    seeds = [] if job.seed is None else ["--seeds", str(job.seed)]
    return [sys.executable, "-m", "stce.study", "run", job.run, *seeds, *extra]


def assignments(pairs: list[str]) -> dict[str, object]:
    """Read what was typed after ``--set``, such as ``epochs=30``."""
    overrides = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"--set takes KEY=VALUE, for example epochs=30; got {pair!r:.99}.")
        remedy = f"put text with special signs into quotes, as in --set '{key}=\"...\"'"
        with explain_read(f"The value in --set {pair!r:.99}", remedy):
            overrides[key] = yaml.load(value, Loader)
    # Typed on a command line, a path is meant from where the user stands.
    options, file = overrides.get("dataset_options"), Path(str(overrides.get("weights")))
    typed = [*((options, key) for key in PATHS), (overrides, "random_folder")]
    typed += [(overrides, "weights")] if file.suffix or file.exists() or file.parent.name else []
    for holder, key in typed:
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and holder[key]:
            holder[key] = str(path_of(holder[key]).resolve())
    if isinstance(others := overrides.get("others"), list):
        overrides["others"] = [str(path_of(str(one)).resolve()) for one in others]
    return overrides
