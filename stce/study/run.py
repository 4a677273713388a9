"""A run: one folder, one sub-folder a stage, each complete or absent, each with its provenance."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from stce.engine.storage import changed, path_of, present, remove, seal, swap
from stce.engine.workers import locked, owner
from stce.models.store import read_tensors
from stce.models.weights import located, sha256
from stce.study.parameters import HOME, PARAMETERS, check

__all__ = ["HOME", "OPTIONAL", "READS", "STAGES", "Run", "Stage", "notebook_name"]

STAGES = ("train", "segment", "cluster", "tcav", "ablate", "visualize")

# Made on demand; no stage reads it.
OPTIONAL = ("validate",)

# Each stage reads all before it.
READS = {stage: STAGES[:i] for i, stage in enumerate(STAGES)}
READS |= dict.fromkeys(OPTIONAL, STAGES[:-1])

# What changes where or how fast a stage runs, but not what it computes.
INCIDENTAL = frozenset({"run_folder", "device", "n_jobs", "scheduler", "force"})

PACKAGES = ("torch", "numpy", "scikit-image", "scikit-learn", "av", "pytorchvideo")

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


def _complete(stage: str, given: Mapping) -> dict:
    """Leave out what is incidental; a stage older than a parameter was made with its default."""
    defaults = {name: one.default for name, one in PARAMETERS.get(stage, {}).items()}
    return {k: v for k, v in {**defaults, **given}.items() if k not in INCIDENTAL}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    how = {"cwd": Path(__file__).parent, "stderr": subprocess.DEVNULL, "encoding": "utf-8"}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(command, **how).strip()


def _hardware(device: str) -> dict:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and device != "cpu" else None
    return {"machine": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("stce", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


class Stage:
    """One step of a run; see :meth:`Run.stage`.

    Attributes
    ----------
    partial : pathlib.Path
        Where it is written until it is complete.
    todo : bool
        Whether it must be computed: there is no finished stage, or it was computed with other
        parameters or from other inputs, or `force` was set.
    notes : dict
        Free facts for the manifest, for example skipped clips.
    weights : pathlib.Path or None
        The file that its training begins with; what it holds is one of the inputs.
    """

    def __init__(self, run: Run, name: str, parameters: Mapping, reads: tuple[str, ...]):
        self.name, self._run = name, run
        self.partial = run.folder / f".{name}.partial"
        self.notes: dict = {}
        self._parameters = {k: v for k, v in parameters.items() if k not in INCIDENTAL}
        self._device = str(parameters.get("device", "cpu"))
        self._reads = {r: run.manifest(r, needed_by=name)["outputs"] for r in reads}
        self.weights = None
        if weights := parameters.get("weights"):
            beside = path_of(weights, HOME / "notebooks")
            self.weights = beside if beside.is_file() else located(weights)
            read_tensors(self.weights)  # refuses what is no network of ours
            self._reads["weights"] = sha256(self.weights)
        if stale := run.stale(reads):
            raise ValueError(stale)
        self.todo = bool(parameters.get("force")) or not self._current(run)

    @property
    def folder(self) -> Path:
        """Where the finished stage lies, see :func:`stce.engine.storage.present`."""
        return present(self._run.folder / self.name)

    def _current(self, run: Run) -> bool:
        if not run.holds(self.name):
            return False
        manifest = run.manifest(self.name)
        facts = _complete(self.name, manifest["parameters"]), manifest["reads"]
        wanted = _complete(self.name, json.loads(json.dumps(self._parameters)))
        return facts == (wanted, self._reads)

    def borrow(self, other: Run) -> bool:
        """Take another run's finished stage if it had the same parameters and inputs; tell if so.

        Its files are linked, not copied, where the disk allows; a finished stage never changes.
        One that is not as it was written is left alone.
        """
        try:
            if not self._current(other):
                return False
        except ValueError:
            return False
        copy = self._run.folder / f".{self.name}.borrowed"
        with self._run.writing():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(present(other.folder / self.name), copy, copy_function=_link)
            swap(copy, self._run.folder / self.name)
        self.todo = False
        return True

    @contextlib.contextmanager
    def write(self) -> Iterator[Path]:
        """Yield a hidden folder to write to; move it in place when the block ends well.

        If the block fails or the process is killed, the hidden folder stays, and the next call with
        the same parameters and inputs continues in it; with others it starts afresh. What is hidden
        in it goes when the block ends. A finished stage is replaced only once the new one is
        complete, see :func:`stce.engine.storage.seal`. Whoever writes the run meanwhile is a
        RuntimeError.
        """
        key = json.dumps([self._parameters, self._reads], sort_keys=True)
        with self._run.writing():
            mark = self.partial / "inputs.json"
            if self.partial.exists() and not (mark.exists() and mark.read_text("utf-8") == key):
                shutil.rmtree(self.partial)
            self.partial.mkdir(exist_ok=True)
            mark.write_text(key, "utf-8")
            started = time.monotonic()
            yield self.partial
            for scratch in self.partial.glob(".*"):  # of use to a stage that was stopped only
                remove(scratch)
            seal(
                self.partial,
                stage=self.name,
                parameters=self._parameters,
                reads=self._reads,
                versions=_versions(),
                revision=_revision(),
                hardware=_hardware(self._device),
                seconds=round(time.monotonic() - started, 1),
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
                notes=self.notes,
            )
            swap(self.partial, self._run.folder / self.name)
            (self._run.folder / self.name / mark.name).unlink()  # a killed run goes on without it
            self.todo = False


class Run:
    """A folder that holds the stages of one study.

    Parameters
    ----------
    folder : path
        Made at the first write.

    Examples
    --------
    >>> import tempfile
    >>> run = Run(tempfile.mkdtemp())
    >>> stage = run.stage("train", {"epochs": 2})
    >>> with stage.write() as folder:
    ...     _ = (folder / "note.txt").write_text("trained", "utf-8")
    >>> run.stage("train", {"epochs": 2}).todo, run.stage("train", {"epochs": 3}).todo
    (False, True)
    """

    def __init__(self, folder: str | Path):
        self.folder = path_of(folder)
        self._checked: set[str] = set()

    @contextlib.contextmanager
    def writing(self, study: bool = False) -> Iterator[None]:
        """Be the only one who writes to the run, which is a RuntimeError while somebody else does.

        A `study` is so from its first stage to its last, and lets the kernels that it starts write.
        """
        lock = self.folder / ".study.lock"
        mine = owner(lock) in [(n, socket.gethostname()) for n in (os.getpid(), os.getppid())]
        try:
            with contextlib.ExitStack() as stack:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not mine:
                    stack.enter_context(locked(lock))
                    with locked(self.folder / ".stage.lock"):  # that of a dead kernel goes, too
                        self._tidy()
                if not study:
                    stack.enter_context(locked(self.folder / ".stage.lock"))
                yield
        except OSError as error:
            if error.errno not in NO_ROOM or "finished stages are kept" in str(error):
                raise
            raise OSError(
                error.errno,
                f"Cannot write to {self.folder.resolve()}: {os.strerror(error.errno)}. Free some "
                "space, or pass a run_folder that can be written; finished stages are kept, not "
                "computed again",
            ) from error

    def _tidy(self) -> None:
        """Finish what a killed writer had yet to remove, or to put in its place."""
        for place in (self.folder / name for name in (*STAGES, *OPTIONAL)):
            shutil.rmtree(place.with_name(f".{place.name}.borrowed"), ignore_errors=True)
            if (old := present(place)) != place:
                old.rename(place)
            shutil.rmtree(place.with_name(f".{place.name}.old"), ignore_errors=True)
            (place / "inputs.json").unlink(missing_ok=True)

    def stage(self, name: str, parameters: Mapping, reads: tuple[str, ...] = ()) -> Stage:
        """Prepare one stage.

        Parameters
        ----------
        name : str
            Name of the stage and its folder.
        parameters : mapping
            What the stage depends on; ``run_folder``, ``device``, ``n_jobs`` and ``force``
            are not held against a finished stage.
        reads : tuple of str
            Stages it reads; their output hashes are recorded.

        Raises
        ------
        FileNotFoundError
            If a stage that it reads is missing.
        ValueError
            If the stages that it reads do not belong together, see :meth:`stale`.
        """
        return Stage(self, name, parameters, tuple(reads))

    def path(self, name: str) -> Path:
        """Return the folder of a finished stage; FileNotFoundError says how to make it."""
        self.manifest(name)
        return present(self.folder / name)

    def holds(self, name: str) -> bool:
        """Tell whether a stage is finished."""
        return (present(self.folder / name) / "manifest.json").exists()

    def parameters(self, name: str) -> dict[str, object]:
        """Return the parameters of a finished stage; one that is newer than it had its default.

        Those that do not change what is computed are left out, such as ``device``.

        Raises
        ------
        FileNotFoundError
            If the stage is missing.
        ValueError
            As :func:`stce.study.parameters.check`.
        """
        given = self.manifest(name)["parameters"]
        check(name, given)
        return _complete(name, given)

    def manifest(self, name: str, needed_by: str | None = None) -> dict:
        """Return the manifest of a finished stage; ValueError if it fails :meth:`verify`."""
        if not self.holds(name):
            reader = f"Stage {needed_by!r} reads" if needed_by else "This step reads"
            raise FileNotFoundError(
                f"{reader} stage {name!r}, which {self.folder} does not hold. Make it with "
                f"`{self.command} --from {name}`, or run notebook "
                f"{notebook_name(name)} with the same run_folder."
            )
        if name not in self._checked and (damage := self.verify(name, every=False)):
            raise ValueError(damage)
        self._checked.add(name)
        return json.loads((present(self.folder / name) / "manifest.json").read_text("utf-8"))

    def verify(self, name: str, every: bool = True) -> str:
        """Say in a sentence what in a finished stage is not as it was written; "" if all is.

        Without `every`, files of which size and time are as they were are not read.
        """
        folder = present(self.folder / name)
        if not (found := changed(folder, every, stage=name)):
            return ""
        also = f" --also {name}" if name in OPTIONAL else ""
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return (
            f"Stage {name!r} is not as it was written: {found[0]}{more}. "
            f"Make it again: `{self.command}{also} --from {name} --force`, "
            f"or run notebook {notebook_name(name)} with force=True and the same run_folder."
        )

    @property
    def name(self) -> str:
        """The run's name; one seed's folder lies below that of its run."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name.startswith("seed-") else folder.name

    @property
    def command(self) -> str:
        """The command that makes it, with its seed, and its folder where that is not the usual."""
        folder, usual = self.folder.resolve(), HOME / "data" / "runs" / self.name
        words = f"python -m stce.study run {self.name}"
        if folder.name.startswith("seed-"):
            words, usual = f"{words} --seeds {folder.name[5:]}", usual / folder.name
        return words if folder == usual else f"{words} --folder {shlex.quote(str(folder))}"

    def stale(self, stages: Iterable[str]) -> str:
        """Say in a sentence that a stage was made from another one than is there; "" if none was.

        So it is where one notebook was run again alone, and those that read it were not.
        """
        outputs = {stage: self.manifest(stage)["outputs"] for stage in stages}
        for stage in outputs:
            for read, digest in self.manifest(stage)["reads"].items():
                if digest != outputs.get(read, digest):
                    return (
                        f"Stage {stage!r} in {self.folder} was made from another {read!r} than is "
                        "there now, so the two do not belong together. Make it again: "
                        f"`{self.command}`, or run notebook {notebook_name(stage)} and "
                        "those after it with the same run_folder."
                    )
        return ""

    def missing(self) -> str:
        """Say in a sentence what the run lacks, and how to make it; "" if it is complete."""
        if all(map(self.holds, STAGES)):
            return self.stale(STAGES)
        return f"Run {self.name!r} was never made here: `{self.command}`."


def notebook_name(stage: str) -> str:
    """Return the file name of a stage's notebook."""
    known = (*STAGES, *OPTIONAL)
    return f"{known.index(stage) + 1:02d}_{stage}.ipynb" if stage in known else stage
