"""Bad inputs of every kind, to see that each ends in success or in one clear sentence.

A trial makes something that is damaged, hostile or wrong in its type, and gives it to the package
as its user would. It passes if it ends well with a result that can be right, or with an error that
the package raises on purpose: one sentence of its own that names the file or the argument. Faults
are

traceback
    An error from below (of PyAV, zarr, pyarrow, Python, ...) that nobody put into words, a sentence
    that does not name what it is about, or a process that dies.
hang
    More than `PATIENCE` seconds of work, or as long without any.
wrong
    A result that is not right, without a word; or a pickle that is run, a program that is started.
outside
    Something written, removed or changed anywhere but in the folder that was asked for.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import linecache
import multiprocessing
import os
import re
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

__all__ = ["FAULTS", "KINDS", "PATIENCE", "Refused", "Trial", "campaign", "command"]

KINDS = ("films", "parameters", "archives", "saved", "arguments", "names")
FAULTS = ("traceback", "hang", "wrong", "outside")
PATIENCE, ROOM, LONGEST = 60, 3 << 30, 3000  # seconds, bytes above those of a process, and letters
PACKAGE = str(Path(__file__).resolve().parents[2] / "stce") + os.sep
# What a process tells of before it happens, and which of its arguments are paths.
CHANGES = {"os.mkdir": (0,), "os.rmdir": (0,), "os.remove": (0,), "os.rename": (0, 1),
           "os.link": (1,), "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,)}  # fmt: skip
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class",
             "socket.connect", "os.kill")  # fmt: skip


@dataclass
class Trial:
    """Something bad, made and ready.

    Attributes
    ----------
    mutation : str
        What is bad about it, in a word or two.
    act : callable
        Gives it to the package; returns what is wrong in silence, "" for nothing.
    named : tuple of str
        A sentence has to hold one of these; none for any sentence.
    """

    mutation: str
    act: Callable[[], str]
    named: tuple = ()


class Refused(Exception):
    """A command ended with a line of error; its cause is the error that it caught."""


class _Ear(io.StringIO):
    """Standard error, which notes the error that is being handled while a line is written."""

    heard = None

    def write(self, text):
        """Take a piece of text."""
        self.heard = sys.exception() or self.heard
        return super().write(text)


def command(main: Callable, arguments: list, printed: io.StringIO | None = None) -> None:
    """Run a command line in this process; Refused with what it says if it ends with another code.

    The cause is the error that it was made of: one from below is no sentence, whoever prints it.
    What it prints goes to `printed`.
    """
    ear = _Ear()
    with contextlib.redirect_stderr(ear), contextlib.redirect_stdout(printed or io.StringIO()):
        try:
            code = main([str(word) for word in arguments])
        except SystemExit as leaving:
            code = leaving.code
    if code:
        said = ear.getvalue()
        if said.startswith("usage:"):  # of argparse: the last line is the sentence
            raise Refused(said.splitlines()[-1])
        raise Refused(said[max(0, said.find("error: ")) :]) from ear.heard


@functools.cache
def _raises(file: str) -> list[tuple[int, int]]:
    tree = ast.parse("".join(linecache.getlines(file)))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc)
    return [(node.lineno, node.end_lineno) for node in found]


def _ours(error: BaseException) -> bool:
    """Tell whether an error was raised on purpose, by a line of the package that says so."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename if trace else ""
    return file.startswith(PACKAGE) and any(a <= trace.tb_lineno <= b for a, b in _raises(file))


def _judged(error: BaseException, named: tuple) -> tuple[str, str]:
    """Return what an error says, and what is wrong with that ("" for nothing)."""
    said = str(error).strip()
    cause = error.__cause__ if isinstance(error, Refused) else error
    if cause is not None and not _ours(cause):
        trace = cause.__traceback__
        while trace.tb_next and trace.tb_next.tb_frame.f_code.co_filename.startswith(PACKAGE):
            trace = trace.tb_next
        while trace.tb_next and not trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
            trace = trace.tb_next
        place = Path(trace.tb_frame.f_code.co_filename).name
        return f"{type(cause).__name__}: {said}", f"from below, at {place}:{trace.tb_lineno}"
    if len(said) < 30 or said.count("\n") > 4 or len(said) > LONGEST:
        return said, f"no clear sentence ({len(said)} letters)"
    if named and not any(one.lower() in said.lower() for one in named):
        return said, f"does not name {named[0]}"
    return said, ""


def _try(trial: Trial) -> dict:
    """Give something bad to the package, and say how that ended."""
    row = {"outcome": "success", "sentence": "", **dict.fromkeys(FAULTS, False)}
    before = _memory("VmRSS", fresh=True)
    started = time.monotonic()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            _GUARD.active = True
            wrong = trial.act()
        row["wrong"], row["sentence"] = bool(wrong), wrong
    except BaseException as error:
        said, fault = _judged(error, trial.named)
        row |= {"outcome": "refused", "traceback": bool(fault)}
        row["sentence"] = f"[{fault}] {said}" if fault else said
    finally:
        _GUARD.active = False
    row["seconds"] = round(time.monotonic() - started, 2)
    row["memory_mb"] = round((_memory("VmHWM") - before) / 1024)
    if _GUARD.forbidden:
        row |= {"wrong": True, "sentence": f"it did {_GUARD.forbidden[0]}"}
    return row


def _memory(what: str, fresh: bool = False) -> int:
    """Return a size of this process (kB); `fresh` begins its peak anew, where that is allowed."""
    if fresh:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    status = Path("/proc/self/status").read_text("utf-8")
    return int(re.search(rf"{what}:\s+(\d+)", status)[1])


class _Guard:
    """Hears what this process is about to do, and notes what it must not."""

    def __init__(self):
        self.active, self.allowed, self.outside, self.forbidden = False, (), [], []

    def __call__(self, event, arguments):
        if not self.active:
            return
        if event in FORBIDDEN and arguments[0] != "git":  # whose revision goes into manifests
            self.forbidden.append(event)
        paths = [arguments[i] for i in CHANGES.get(event, ())]
        if paths and isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "os.mkdir":
            return  # beside a folder that is open: of a temporary one that is removed
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if flags else 0
            paths = [path] if writes or set(mode or "") & set("wax+") else []
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                whole = os.path.abspath(os.fsdecode(path))
                if not f"{whole}/".startswith(self.allowed):
                    self.outside.append(whole)


_GUARD = _Guard()


def _seen(folder: Path) -> dict[bytes, tuple]:
    """Return what lies below a folder, by path: kind, size and time."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            it = os.lstat(path)
            found[path] = (it.st_mode, it.st_size if name in files else 0, it.st_mtime_ns)
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(place, name))]
    return found


def _places(work: Path) -> dict[str, str]:
    """Return the environment in which all that has a place of its own has it below `work`."""
    home, scratch, out = (str(work / name) for name in ("home", "scratch", "trial/out"))
    study = str(work / "study")
    return {"HOME": home, "TMPDIR": scratch, "MPLCONFIGDIR": scratch, "STCE_WEIGHTS": out,
            "STCE_HOME": study, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}  # fmt: skip


def _serve(pipe, work: Path, stock: Path) -> None:
    """Try what is asked for, in a process of its own."""
    home, scratch = work / "home", work / "scratch"
    for folder in (home, scratch, work / "study" / "notebooks" / "parameters", stock):
        folder.mkdir(parents=True, exist_ok=True)
    sys.dont_write_bytecode = True
    from book.campaigns.badfiles import archives, saved
    from book.campaigns.badfilms import films
    from book.campaigns.badwords import arguments, names, parameters

    kinds = dict(zip(KINDS, (films, parameters, archives, saved, arguments, names), strict=True))
    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text("utf-8"))[1])
    resource.setrlimit(resource.RLIMIT_AS, (1024 * size + ROOM,) * 2)
    sys.addaudithook(_GUARD)
    trial = work / "trial"
    _GUARD.allowed = tuple(f"{p}/" for p in (trial / "out", scratch, "/dev/null"))
    pipe.send("ready")
    while True:
        seed, kind = pipe.recv()
        os.chdir(work)
        shutil.rmtree(os.fsencode(trial), ignore_errors=True)
        (trial / "out").mkdir(parents=True)
        (trial / "in").mkdir()
        bad = kinds[kind](np.random.default_rng(seed), trial, stock)
        os.chdir(trial / "in")
        pipe.send(bad.mutation)
        _GUARD.outside, _GUARD.forbidden, before = [], [], _seen(work)
        row = _try(bad)
        inside = os.fsencode(trial / "out"), os.fsencode(scratch)
        after = _seen(work)
        changed = [p for p in before.keys() | after if before.get(p) != after.get(p)]
        changed = [os.fsdecode(p) for p in changed if not p.startswith(inside)]
        if said := [*_GUARD.outside, *changed]:
            row |= {"outside": True, "sentence": f"it changed {said[0]} and {len(said) - 1} more"}
        pipe.send(row)


class _Child:
    """A process that tries things, until one of them is its end."""

    def __init__(self, work: Path, stock: Path):
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        how = {"target": _serve, "args": (there, work, stock), "daemon": True}
        self._process = context.Process(**how)
        # Before the process begins: what it imports first finds out where its study is.
        mine = dict(os.environ)
        os.environ |= _places(work)
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ |= mine
        there.close()
        if not self._pipe.poll(300) or self._pipe.recv() != "ready":
            raise RuntimeError("The process that tries bad inputs does not start; see above.")

    def ask(self, seed: int, kind: str) -> dict:
        """Return the row of a trial; one that ends the process, or does not end, is a fault."""
        row, mutation = dict.fromkeys(FAULTS, False), "making it"
        started = time.monotonic()
        try:
            self._pipe.send((seed, kind))
            mutation = self._pipe.recv()
            first = before = self._worked()
            while not self._pipe.poll(PATIENCE):
                now = self._worked()
                if now - before < 1 or now - first > PATIENCE:
                    break
                before = now
            else:
                return {"mutation": mutation, **self._pipe.recv()}
            row |= {"hang": True, "sentence": f"[it did not end within {PATIENCE} s]"}
        except EOFError:
            self._process.join()
            row |= {"traceback": True, "sentence": f"[died: {self._process.exitcode}]"}
        self.end()
        seconds = round(time.monotonic() - started, 2)
        return {
            "mutation": mutation,
            "outcome": "refused",
            "seconds": seconds,
            "memory_mb": 0,
        } | row

    def _worked(self) -> float:
        """Return the processor's seconds so far; those of a clock say little on a busy one."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    @property
    def alive(self) -> bool:
        """Whether it can try one more."""
        return self._process.is_alive()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def campaign(
    work: Path, n: int, seed: int, done: pd.DataFrame | None = None
) -> Iterator[dict[str, object]]:
    """Try `n` bad inputs, of each of `KINDS` in turn.

    Parameters
    ----------
    work : pathlib.Path
        An empty folder, or that of an earlier call, for all that is made; it may be deleted.
    n, seed : int
        How many, and what decides on them: trial k depends on `seed` and k alone.
    done : pandas.DataFrame, optional
        Rows of an earlier call, whose trials are left out.

    Yields
    ------
    dict
        A row: kind, mutation, seed (that of the trial, ``10**6 * seed + k``), outcome ("success" or
        "refused"), seconds, memory_mb (the peak above what the process had), sentence (what was
        said, in 120 letters), and a truth for each of `FAULTS`.
    """
    work = Path(work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    stock = work / "stock"
    tried = set() if done is None else set(done["seed"])
    child = None
    try:
        for k in range(n):
            number, kind = 10**6 * seed + k, KINDS[k % len(KINDS)]
            if number in tried:
                continue
            if child is None or not child.alive:
                child = _Child(work, stock)
            row = child.ask(number, kind)
            sentence = " ".join(str(row["sentence"]).replace(f"{work}/trial/", "").split())
            sentence = sentence.replace(str(work), "...").replace(PACKAGE, "stce/")
            order = ("mutation", "seed", "outcome", "seconds", "memory_mb", "sentence", *FAULTS)
            row |= {"seed": number, "sentence": sentence[:120]}
            yield {"kind": kind} | {name: row[name] for name in order}
    finally:
        if child is not None:
            child.end()
