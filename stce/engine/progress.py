"""Progress: bars on a terminal and in a live notebook, a small file for who started the kernel."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain

from stce.engine.storage import write_text

QUIET = 60.0  # seconds between lines off a terminal


class _Told(plain):
    """Writes how far it is into a file, about once a second, instead of drawing a bar."""

    def __init__(self, iterable, path: str, **options):
        self.path = Path(path)
        super().__init__(iterable, file=io.StringIO(), mininterval=1.0, **options)

    def display(self, msg=None, pos=None):
        facts = {key: self.format_dict[key] for key in ("n", "total", "elapsed", "unit", "prefix")}
        write_text(self.path, json.dumps(facts))


def bar(iterable=None, *, show: bool = True, **options) -> plain:
    """Return a tqdm bar; silent off a terminal, and if `show` is false.

    The variable STCE_PROGRESS silences it (``0``) or names a file to write progress to, which
    :func:`state` reads: stored notebooks show no bars, and yet the study tells how far they are.
    What is passed on to tqdm is ``total``, ``desc`` and ``unit``.

    Examples
    --------
    >>> list(bar([1, 2], show=False))
    [1, 2]
    """
    told = os.environ.get("STCE_PROGRESS", "1")
    if show and told not in ("", "0", "1"):
        return _Told(iterable, told, **options)
    quiet = not show or told == "0"
    return tqdm(iterable, disable=True if quiet else None, **options)


def tell(text: str, *, show: bool = True) -> None:
    """Print to standard error, unless `show` is false or STCE_PROGRESS silences or diverts bars."""
    if show and os.environ.get("STCE_PROGRESS", "1") == "1":
        print(text, file=sys.stderr)


def state(path: str | Path) -> str:
    """Say in words how far the bar that writes this file is; "" where there is none.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "progress.json")
    >>> facts = {"n": 30, "total": 120, "elapsed": 10, "unit": "clip", "prefix": "ablate"}
    >>> _ = file.write_text(json.dumps(facts), "utf-8")
    >>> state(file)
    'ablate 30/120 clips, 0:30 left'
    """
    try:
        facts = json.loads(Path(path).read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return ""
    n, total = facts["n"], facts["total"]
    words = f"{facts['prefix']} {n}/{total or '?'} {facts['unit']}s"
    if n and total:
        left = round(facts["elapsed"] / n * (total - n))
        words += f", {left // 60}:{left % 60:02d} left"
    return words


@contextmanager
def watch(name: str, report: Callable[[str], None] = print) -> Iterator[None]:
    """Show how far the bars of processes started in this block are: one line, kept current.

    It begins with `name`. Off a terminal `report` receives a line about every minute instead.
    """
    before = os.environ.get("STCE_PROGRESS")
    live, done = sys.stdout.isatty(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "progress.json"

        def look() -> None:
            while not done.wait(1.0 if live else QUIET):
                if words := state(file):
                    line = f"{name}  {words}"
                    print(f"\r\x1b[K{line}", end="", flush=True) if live else report(line)

        if before != "0":
            os.environ["STCE_PROGRESS"] = str(file)  # the kernel inherits it
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            if live:
                print("\r\x1b[K", end="", flush=True)
            os.environ.pop("STCE_PROGRESS", None)
            if before is not None:
                os.environ["STCE_PROGRESS"] = before
