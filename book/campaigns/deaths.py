"""Studies that die: killed, stopped, without room, without their workers, or two in one folder.

Each campaign is a function of a seed that returns rows; ``book.campaigns.soak`` repeats them. All
of them run the study `smoke` as its users do, and compare its tables with those of a run that
nobody disturbed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from stce.engine.workers import owner
from stce.study.run import STAGES, Run, notebook_name

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "stce.study", "run", "smoke")
TABLES = STAGES[1:5]
KILLS = 12  # in a study
LATE = (0.06, 0.06, 0.12, 0.2, 0.28, 0.28)  # how many begin at each stage, the later the cheaper
LIMIT = 900  # seconds after which a study hangs; undisturbed it takes 45 of a core
STOPPED = "stopped; the same command goes on where this one was."
REFUSED = r"error: \S+ is being written by process \d+ on \S+ \(.*\); "
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Started:
    """A study that was started, with all that it says."""

    def __init__(self, folder: Path, *words: str, prefix: tuple[str, ...] = ()):
        self.began, self.at = time.monotonic(), time.time()
        self._out = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._err = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        place = ["--folder", str(folder), *words]
        command = [*prefix, *COMMAND, *place]
        quiet = {"STCE_PROGRESS": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        how = {"cwd": ROOT, "env": {**os.environ, **quiet}, "stdin": subprocess.DEVNULL}
        how |= {"stdout": self._out, "stderr": self._err, "start_new_session": True}
        how["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # if in background
        self.process = subprocess.Popen(command, **how)
        self._itself, self._theirs = psutil.Process(self.process.pid), []

    @property
    def seconds(self) -> float:
        """How long ago it was started."""
        return round(time.monotonic() - self.began, 2)

    def running(self) -> bool:
        """Tell whether it has not ended."""
        return self.process.poll() is None

    def kernels(self) -> list[psutil.Process]:
        """Return all processes that it has started, and those that these have."""
        with contextlib.suppress(psutil.Error):
            self._theirs = self._itself.children(recursive=True)
        return self._theirs

    def stop(self) -> None:
        """Let it stand still, so that what it does at this moment can be told and no more is done.

        Its processes are those that were last asked for, which takes longer than a move does.
        """
        _signal([self._itself, *self._theirs], signal.SIGSTOP)

    def send(self, number: int, whom: str = "tree") -> None:
        """Send a signal to all its processes at once ("tree"), to its kernel's or to it alone."""
        theirs = self.kernels()
        if whom == "tree":  # none may see another one die
            _signal([self._itself, *theirs], signal.SIGSTOP)
            theirs = self.kernels()
        chosen = {"tree": [self._itself, *theirs], "kernel": theirs}.get(whom) or [self._itself]
        _signal(chosen, number)
        _signal([self._itself, *theirs], signal.SIGCONT)
        psutil.wait_procs(theirs if whom == "tree" else [], timeout=10)

    def end(self, limit: float = LIMIT) -> dict:
        """Wait for its end; returns the exit code, what it said, and if it had to be killed."""
        hang = False
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            hang = True
            self.send(signal.SIGKILL)
            self.process.wait()
        said = []
        for file in (self._out, self._err):
            file.seek(0)
            said.append(file.read().strip())
            file.close()
        traceback = "Traceback (most recent" in "".join(said)
        told = {"code": self.process.returncode, "traceback": traceback, "hang": hang}
        return told | {"sentence": said[1]}


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def undisturbed(work: Path, seed: int = 0) -> Path:
    """Return the folder of a run that nobody disturbed, made at the first call."""
    folder = work / f"undisturbed-{seed}"
    if Run(folder).missing() or not (folder / "notebooks" / notebook_name("visualize")).exists():
        told = Started(folder, "--seeds", str(seed)).end()
        if told["code"]:
            raise RuntimeError(f"The undisturbed run in {folder} failed: {told['sentence']}")
    return folder


def beginning(source: Path, target: Path, n: int) -> Path:
    """Copy the first `n` stages of a run, with their executed notebooks."""
    (target / "notebooks").mkdir(parents=True)
    for stage in STAGES[:n]:
        shutil.copytree(source / stage, target / stage)
        shutil.copy2(source / "notebooks" / notebook_name(stage), target / "notebooks")
    return target


def manifests(folder: Path, stages=STAGES) -> dict[str, tuple[int, bytes]]:
    """Return time and bytes of the manifest of each stage that is in its place."""
    found = {}
    for stage in stages:
        with contextlib.suppress(FileNotFoundError):
            path = folder / stage / "manifest.json"
            found[stage] = path.stat().st_mtime_ns, path.read_bytes()
    return found


def again(kept: dict, folder: Path) -> int:
    """Count the stages that were finished and are not there any more as they were."""
    return sum(manifests(folder).get(stage) != was for stage, was in kept.items())


def same(folder: Path, wanted: Path) -> bool:
    """Tell whether all stages are whole, and the tables those of an undisturbed run."""
    run, other = Run(folder), Run(wanted)
    try:
        whole = not any(run.verify(stage) for stage in STAGES)
        return whole and all(
            run.manifest(s)["outputs"] == other.manifest(s)["outputs"] for s in TABLES
        )
    except (OSError, ValueError):
        return False


def left(folder: Path) -> str:
    """Name what a finished study should not leave: locks, partial and hidden files."""
    kinds = (".*", "*.partial", "*.failed.ipynb", "inputs.json")
    found = [path for kind in kinds for path in folder.rglob(kind)]
    return " ".join(sorted({path.relative_to(folder).as_posix() for path in found}))


def plain(sentence: str, *places: Path) -> str:
    """Return a sentence without what differs from machine to machine and from trial to trial."""
    for place in places:
        beside = os.path.relpath(place.resolve(), ROOT / "notebooks")
        for way in (place.resolve(), place, beside):
            sentence = sentence.replace(str(way), "RUN")
    sentence = sentence.replace(str(ROOT), "HOME").replace(os.uname().nodename, "HOST")
    sentence = re.sub(r"[^\s(]*/python[\d.]*(?= -m)", "python", sentence)
    return re.sub(r"process \d+", "process N", sentence)


def one(sentence: str) -> bool:
    """Tell whether this is a single message, and no traceback."""
    return len(re.findall(r"^error: ", sentence, re.M)) == 1 and "Traceback" not in sentence


# --- killed ---

MOMENTS = ("starting", "kernel starts", "working", "moving", "notebook ends")
SPAN = {"starting": 2.5, "kernel starts": 4.0, "moving": 0.04, "notebook ends": 1.2}
WORK = (4.0, 0.6, 0.4, 1.6, 0.8, 0.2)  # seconds of each stage


def plan(rng: np.random.Generator, n: int) -> list[tuple[int, str, float]]:
    """Draw `n` moments in their order: number of the stage, what it does, a share of its span."""
    places = [(s, m) for s in range(len(STAGES)) for m in MOMENTS]
    chosen = sorted(rng.choice(len(places), n, replace=False))
    return [(*places[i], float(rng.random())) for i in chosen]


class Watched:
    """A run's folder as it looks from outside, of which the first stages were `done` before."""

    def __init__(self, folder: Path, done: int = 0):
        self.folder, self.done, self.old = folder, done, manifests(folder)

    def new(self, stage: str) -> float:
        """Return when a stage was finished, if it was since; else 0."""
        made = manifests(self.folder, [stage]).get(stage)
        return made[0] / 1e9 if made and made != self.old.get(stage) else 0.0

    def now(self, study: Started) -> tuple[int, str]:
        """Return the number of the stage that is being made, and what it does there."""
        for number, stage in list(enumerate(STAGES))[self.done :]:
            notebook, made = self.folder / "notebooks" / notebook_name(stage), self.new(stage)
            with contextlib.suppress(FileNotFoundError):
                if made and notebook.stat().st_mtime > made:
                    continue
            return number, self._moment(study, stage, made)
        return len(STAGES) - 1, MOMENTS[-1]

    def _moment(self, study: Started, stage: str, made: float) -> str:
        holder = owner(self.folder / ".study.lock")
        if not holder or holder[0] != study.process.pid:
            return "starting"
        holder = owner(self.folder / ".stage.lock")
        if holder and psutil.pid_exists(holder[0]):
            for place in (f".{stage}.partial/manifest.json", f"{stage}/inputs.json"):
                with contextlib.suppress(FileNotFoundError):
                    if (self.folder / place).stat().st_mtime > study.at:
                        return "moving"
            return "working"
        return "notebook ends" if made > study.at else "kernel starts"

    def wait(self, study: Started, stage: int, moment: str, share: float) -> bool:
        """Wait for a moment of a stage; False if the study has ended, or is past the stage."""
        span = WORK[stage] if moment == "working" else SPAN[moment]
        if moment == "starting":
            until = study.began + share * span
            if time.monotonic() > until:
                return False
        else:
            at = before = (0, "")
            while at[1] not in MOMENTS[MOMENTS.index(moment) :] or at[0] < stage:
                at = self.now(study)
                if at[0] > stage or not study.running():
                    return False
                if at != before:
                    before, _ = at, study.kernels()
                time.sleep(0.0 if at == (stage, "working") else 0.005)
            until = time.monotonic() + share * span
        while study.running() and time.monotonic() < until:
            time.sleep(0.0005)
        return study.running()


def killed(seed: int, work: Path) -> Iterator[dict]:
    """Kill a study again and again until it ends, and look at what it ends with."""
    rng = np.random.default_rng([seed, 1])
    wanted, folder = undisturbed(work), work / f"killed-{seed}" / "run"
    if replaces := bool(seed % 2):  # all stages are there already, of another seed
        beginning(undisturbed(work, 1), folder, len(STAGES))
    whom = ("tree", "tree", "signal", "tree", "tree", "kernel" if seed % 4 < 2 else "study")
    whom = whom[seed % len(whom)]
    watched, rows, kept, waiting = Watched(folder), [], {}, plan(rng, KILLS)
    refused = 0
    while True:
        study, hit = Started(folder), False
        while waiting and not hit and study.running():
            hit = watched.wait(study, *waiting.pop(0))
        if not hit:
            told = study.end()
            if re.match(REFUSED, told["sentence"]) and refused < 9:  # by the kernel of a dead one
                refused += 1
                time.sleep(1)
                continue
            break
        number = SIGNALS[int(rng.integers(2))] if whom == "signal" else signal.SIGKILL
        seconds, _ = study.seconds, study.stop()
        stage, moment = watched.now(study)
        row = {"seed": seed, "kill": len(rows), "replaces": replaces, "whom": whom}
        row |= {"signal": number.name, "stage": STAGES[stage], "moment": moment}
        study.send(number, whom)
        row |= {"seconds": seconds} | (told := study.end())
        row["one"] = told["sentence"] == STOPPED if whom == "signal" else one(told["sentence"])
        row["absent"] = sum(not Run(folder).holds(s) for s in (STAGES if replaces else kept))
        row["again"] = again(kept, folder)
        kept |= {s: m for s, m in manifests(folder).items() if watched.new(s)}
        rows.append(row)
        if not told["code"]:  # what was killed was not needed any more
            break
        if whom == "study":  # its kernel sees that it is alone, and ends
            time.sleep(float(rng.random()) * 3)
    end = {"refused": refused, "ended": told["code"], "said": plain(told["sentence"], folder)}
    end |= {"same": same(folder, wanted), "left": left(folder)}
    end["late"] = again(kept, folder)
    for row in rows:
        yield row | end | {"sentence": plain(row["sentence"], folder)}
    if end["same"] and not end["left"]:
        shutil.rmtree(folder.parent)


# --- without room ---

MIDWAY = ("filled midway", "read-only midway")
KINDS = ("full", "no more files", *MIDWAY, "full", "read-only", *MIDWAY, "another user")


class Refused(OSError):
    """The machine does not let us make such a folder."""


def _call(*words: object) -> None:
    told = subprocess.run([str(w) for w in words], capture_output=True, encoding="utf-8")
    if told.returncode:
        raise Refused(f"{words[0]}: {told.stderr.strip() or told.returncode}")


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


class Small:
    """A folder on a file system of its own, of which the room can be taken away and given back."""

    def __init__(self, folder: Path):
        self.folder, self.run = folder, folder / "run"

    def __enter__(self):
        """Mount it."""
        self.folder.mkdir(parents=True)
        _call("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.folder)
        return self

    def __exit__(self, *raised):
        """Unmount it."""
        _call("umount", "-l", self.folder)

    def take(self, kind: str, rng: np.random.Generator, need: int) -> int | None:
        """Leave less than `need` bytes, few files, or nothing; returns how many of them."""
        now, left = os.statvfs(self.folder), None
        if kind == "full":
            left = 4096 * int(rng.random() * need / 4096)
            used = (now.f_blocks - now.f_bfree) * now.f_frsize
            _call("mount", "-o", f"remount,size={used + left}", self.folder)
        elif kind == "no more files":
            left = int(rng.integers(40))
            used = now.f_files - now.f_ffree
            _call("mount", "-o", f"remount,nr_inodes={used + left}", self.folder)
        elif kind == "filled midway":
            with contextlib.suppress(OSError), open(self.folder / "filler", "wb", 0) as file:
                while True:
                    file.write(bytes(4096))
        elif kind == "read-only midway":
            _call("chattr", "+i", self.run)
        elif kind == "read-only":
            _call("mount", "-o", "remount,ro", self.folder)
        return left

    def give(self, kind: str) -> None:
        """Make room again."""
        if kind == "read-only midway":
            _call("chattr", "-i", self.run)
        else:
            _call("mount", "-o", "remount,rw,size=64m,nr_inodes=100k", self.folder)
        (self.folder / "filler").unlink(missing_ok=True)


def without_room(seed: int, work: Path) -> Iterator[dict]:
    """Let the disk become full, or not be written at all, and give it room again."""
    rng = np.random.default_rng([seed, 2])
    wanted, folder = undisturbed(work), work / f"disk-{seed}"
    kind, n = KINDS[seed % len(KINDS)], int(rng.choice(len(STAGES), p=LATE))
    row = {"seed": seed, "kind": kind, "stage": STAGES[n], "not_tried": ""}
    user = ("setpriv", "--reuid=65534", "--clear-groups") if kind == "another user" else ()
    try:
        with Small(folder) as small:
            kept = manifests(beginning(wanted, small.run, n))
            watched, share = Watched(small.run, n), float(rng.random())
            if kind not in MIDWAY:
                last = n + 1 if rng.random() < 0.5 else len(STAGES)
                need = sum(_size(wanted / stage) for stage in STAGES[n:last])
                row["room"] = small.take(kind, rng, need)
            study = Started(small.run, prefix=user)
            if kind in MIDWAY:
                hit = watched.wait(study, n, MOMENTS[int(rng.integers(1, len(MOMENTS)))], share)
                small.take(kind, rng, 0)
                row |= {"hit": hit, "moment": watched.now(study)[1]}
            told = study.end()
            row |= told | {"one": one(told["sentence"])}
            row |= {"sentence": plain(told["sentence"], small.run), "lost": again(kept, small.run)}
            kept |= {s: m for s, m in manifests(small.run).items() if s in kept or watched.new(s)}
            small.give(kind)
            told = Started(small.run).end()
            row |= {"ended": told["code"], "said": plain(told["sentence"], small.run)}
            row |= {"same": same(small.run, wanted), "left": left(small.run)}
            row["again"] = again(kept, small.run)
    except Refused as error:
        row["not_tried"] = plain(str(error), folder)
    yield row
    shutil.rmtree(folder, ignore_errors=True)


# --- without workers ---


def without_worker(seed: int, work: Path) -> Iterator[dict]:
    """Kill a worker of the Dask cluster that a study runs on, or all of them."""
    import distributed

    rng = np.random.default_rng([seed, 3])
    stage = ("segment", "cluster", "ablate")[seed % 3]
    wanted, folder = undisturbed(work), work / f"worker-{seed}" / "run"
    beginning(wanted, folder, STAGES.index(stage))
    kept, watched = manifests(folder), Watched(folder, STAGES.index(stage))
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**how) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            workers = list(client.run(os.getpid).values())
        chosen = workers if seed % 4 == 3 else workers[:1]
        study = Started(folder, "--set", f"scheduler={cluster.scheduler_address}")
        hit = watched.wait(study, STAGES.index(stage), "working", float(rng.random()))
        at = watched.now(study)
        for number in chosen:
            os.kill(number, signal.SIGKILL)
        row = {"seed": seed, "killed": len(chosen), "hit": hit, "stage": STAGES[at[0]]}
        row |= {"moment": at[1], "seconds": study.seconds} | study.end()
    row["sentence"] = plain(row["sentence"], folder)
    row |= {"same": same(folder, wanted), "left": left(folder), "again": again(kept, folder)}
    yield row
    if row["same"]:
        shutil.rmtree(folder.parent)


# --- together ---


def together(seed: int, work: Path) -> Iterator[dict]:
    """Start two studies in one folder: one wins, the other one is told who did."""
    rng = np.random.default_rng([seed, 4])
    folder, seeds = work / f"together-{seed}" / "run", [0, int(seed % 2)]
    rng.shuffle(seeds)
    n = int(rng.choice(len(STAGES), p=LATE))
    delay = float(rng.choice([0.0, rng.random() * 4]))
    beginning(undisturbed(work), folder, n)
    first = Started(folder, "--seeds", str(seeds[0]))
    time.sleep(delay)
    second = Started(folder, "--seeds", str(seeds[1]))
    told = [study.end() for study in (first, second)]
    won = [not one["code"] for one in told]
    row = {"seed": seed, "seeds": " ".join(map(str, seeds)), "begins": STAGES[n]}
    row |= {"delay": round(delay, 2), "winners": sum(won), "first_won": won[0]}
    loser, winner = told[won[0]], seeds[won.index(True)] if any(won) else 0
    row |= loser | {"sentence": plain(loser["sentence"], folder)}
    named = re.match(REFUSED, loser["sentence"]) and "-m stce.study run smoke" in loser["sentence"]
    row["named"] = bool(named)
    row["traceback"] = any(one["traceback"] for one in told)
    row["hang"] = any(one["hang"] for one in told)
    row |= {"same": same(folder, undisturbed(work, winner)), "left": left(folder)}
    yield row
    if row["same"]:
        shutil.rmtree(folder.parent)
