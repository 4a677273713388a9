"""Two ways to do the same work, timed in turns, with the proof that they agree."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch

from stce.engine.storage import write_text

__all__ = ["Check", "Missing", "Pair", "Results", "compare", "header", "peak_mb"]

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "scikit-image", "captum")
MB = 2**20


class Missing(Exception):
    """What a comparison needs and this machine lacks: it is left out, with the reason."""


@dataclass(frozen=True)
class Check:
    """One way in which the two sides must agree.

    Attributes
    ----------
    name : str
        What is compared.
    value, limit : float
        The difference found, and the largest one allowed.
    """

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; NaN is not."""
        return self.value <= self.limit

    def worse(self, other: Check) -> bool:
        """Tell whether the difference is larger than another one; NaN is largest."""
        return not math.isnan(other.value) and not self.value <= other.value

    def facts(self) -> dict:
        """Return name, value and limit for a JSON file, which knows no NaN."""
        return asdict(self) | ({"value": None} if math.isnan(self.value) else {})


@dataclass(frozen=True)
class Pair:
    """Two sides of a comparison, ready to run.

    Attributes
    ----------
    ours, theirs : callable
        Do part i of the work, for i = 0 to `repeats` - 1, and return what was computed.
    same : callable
        From both results and i the list of `Check`.
    work, against : str
        What is done, and how the other side does it.
    measured : str
        Which part of the work each pair times.
    target : float or None
        The ratio to reach, theirs / ours.
    repeats : int
        Pairs.
    share : float
        The part of our side's work that the other side does in one pair.
    stages : callable, optional
        From a result the seconds of each of its stages.
    """

    ours: Callable[[int], object]
    theirs: Callable[[int], object]
    same: Callable[[object, object, int], list[Check]]
    work: str
    against: str
    measured: str
    target: float | None
    repeats: int = 5
    share: float = 1.0
    stages: Callable[[object], dict[str, float]] | None = None


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB.

    What the system accounts to a process (``getrusage``) may be that of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text("utf-8"))[1]) / 2**10
    import resource  # Unix alone has it

    # macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB


class _Peak:
    """Follow the resident memory of this process and its children while a block runs.

    It looks every 50 ms, so that it takes no time from what it watches; a peak shorter than that
    is not seen.
    """

    def __init__(self, device: str, every: float = 0.05):
        self.device, self.every, self.added = device, every, 0
        self._done = threading.Event()

    def _now(self) -> dict[int, int]:
        sizes = {}
        process = psutil.Process()
        for one in (process, *process.children(recursive=True)):
            try:
                sizes[one.pid] = one.memory_info().rss
            except psutil.NoSuchProcess:  # it has ended since
                continue
        return sizes

    def _look(self) -> None:
        """See what each process has more than at the start: one that ends takes nothing off."""
        more = (size - self._start.get(pid, 0) for pid, size in self._now().items())
        self.added = max(self.added, sum(max(0, size) for size in more))

    def _watch(self) -> None:
        while not self._done.wait(self.every):
            self._look()

    def __enter__(self):
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        self._start = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self._look()


def _timed(side: Callable[[int], object], i: int, device: str) -> tuple[object, dict]:
    with _Peak(device) as peak:
        start = time.perf_counter()
        result = side(i)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    facts = {"seconds": seconds, "added_mb": peak.added / MB}
    if device != "cpu":
        facts["gpu_mb"] = torch.cuda.max_memory_allocated() / MB
    return result, facts


def _summary(runs: list[dict]) -> dict:
    seconds = [run["seconds"] for run in runs]
    facts = {"median_s": statistics.median(seconds), "seconds": seconds}
    for name in ("added_mb", "gpu_mb"):
        if name in runs[0]:
            facts[f"peak_{name}"] = max(run[name] for run in runs)
    if "stages" in runs[0]:
        names = runs[0]["stages"]
        facts["stages_s"] = {n: statistics.median(r["stages"][n] for r in runs) for n in names}
    return facts


@contextlib.contextmanager
def _all_digits():
    """Convolve in single precision: TF32's three digits cannot tell whether two sides agree."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@_all_digits()
def compare(build: Callable[[bool, str], Pair], quick: bool, device: str = "cpu") -> dict:
    """Time both sides in turns: ours, theirs, ours, theirs; on a GPU without TF32.

    Parameters
    ----------
    build : callable
        From (quick, device) the pair. It is built twice: once small, to warm up.
    quick : bool
        Small sizes, for the tests.
    device : str, default "cpu"
        Where networks run.

    Returns
    -------
    dict
        Seconds of both sides, the ratio theirs / ours (median, smallest and largest of the
        pairs; ``ratio_whole`` from the sums), peak memory in MB above the start, and the
        checks. ``same`` says whether all of them passed, ``reached`` whether the target was.
    """
    small = build(True, device)
    small.ours(0), small.theirs(0)
    del small
    pair = build(quick, device)
    mine, others, ratios, checks = [], [], [], {}
    for i in range(pair.repeats):
        result, facts = _timed(pair.ours, i, device)
        mine.append(facts)
        rival, facts = _timed(pair.theirs, i, device)
        others.append(facts)
        if pair.stages is not None:
            for run, outcome in ((mine[-1], result), (others[-1], rival)):
                run["stages"] = pair.stages(outcome)
        ratios.append(facts["seconds"] / pair.share / mine[-1]["seconds"])
        for check in pair.same(result, rival, i):
            worst = checks.get(check.name)
            if worst is None or check.worse(worst):
                checks[check.name] = check
    whole = sum(f["seconds"] for f in others) / pair.share / sum(f["seconds"] for f in mine)
    middle = statistics.median(ratios)
    return {
        "work": pair.work,
        "against": pair.against,
        "measured": pair.measured,
        "target": pair.target,
        "ratio": middle,
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "ratio_whole": whole,
        "reached": pair.target is None or middle >= pair.target,
        "ours": _summary(mine),
        "theirs": _summary(others) | {"share": pair.share},
        "checks": [check.facts() for check in checks.values()],
        "same": bool(checks) and all(check.passed for check in checks.values()),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text("utf-8").splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*words: str) -> str | None:
    root = Path(__file__).parent.parent
    answer = subprocess.run(["git", *words], cwd=root, capture_output=True, encoding="utf-8")
    return answer.stdout.strip() or None


def header(quick: bool) -> dict:
    """Return what the numbers depend on: hardware, versions, revision and sizes."""
    revision = _git("rev-parse", "--short=12", "HEAD")
    # The results themselves are committed after they are measured.
    if revision and _git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results.json"):
        revision += "-dirty"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "quick": quick,
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30),
            "gpu": gpu,
        },
        "versions": versions,
        "revision": revision,
    }


class Results:
    """The file of results: written after each comparison, so that a killed bench keeps them.

    Parameters
    ----------
    path : path
        A JSON file. What it holds is kept if its header is the same; else it starts anew.
    head : dict
        See :func:`header`.
    """

    def __init__(self, path: str | Path, head: dict):
        self.path = Path(path)
        self.content = {**head, "results": {}}
        if self.path.exists():
            old = json.loads(self.path.read_text("utf-8"))
            if {**old, "results": {}} == self.content:
                self.content = old

    def has(self, key: str, device: str) -> bool:
        """Tell whether a comparison is done on a device."""
        return device in self.content["results"].get(key, {})

    def add(self, key: str, device: str, entry: dict) -> None:
        """Keep an entry, and write the file in one step."""
        self.content["results"].setdefault(key, {})[device] = entry
        write_text(self.path, json.dumps(self.content, indent=1, allow_nan=False) + "\n")
