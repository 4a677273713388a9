"""Run the notebooks of a study with papermill: ``python -m stce.study``."""

from __future__ import annotations

import atexit
import os
import signal
import sys

STOPPED = "stopped; the same command goes on where this one was."


def _leave(number, frame) -> None:
    """Stop where nothing has to be cleared up: while modules are loaded, or at the very end."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)


def _listen(handler) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


if __name__ == "__main__":  # before the imports, which take seconds
    _listen(_leave)
    atexit.register(_listen, signal.SIG_IGN)  # Python takes its handlers away before it has ended

# ruff: noqa: E402
import argparse
from pathlib import Path

from stce.study import jobs
from stce.study.known import groups, known
from stce.study.make import StageFailed, make
from stce.study.run import OPTIONAL, STAGES, Run


def _run(options: argparse.Namespace) -> int:
    chosen = {"seeds": options.seeds, "folder": options.folder, "also": options.also}
    work = jobs.chains(jobs.plan(options.name, jobs.assignments(options.set), **chosen))
    devices = jobs.gpus() if len(work) > 1 else []
    if len(devices) > 1:
        extra = ["--set", *options.set] if options.set else []
        extra += ["--from", options.start] if options.start else []
        extra += ["--force"] if options.force else []
        extra += ["--also", *options.also] if options.also else []
        failed = jobs.on_devices(work, devices, lambda job: jobs.study_command(job, extra))
        for job in failed:
            print(f"error: {job.name} is not finished; see above.", file=sys.stderr)
        return bool(failed)
    failed = 0
    for chain in work:
        try:
            for job in chain:
                folder = make(job, start=options.start, force=options.force)
                print(f"Run folder: {folder}")
        except StageFailed as error:  # the other chains do not depend on this one
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return bool(failed)


def _verify(name: str) -> int:
    """Print a line a stage; returns 1 if one is missing, or not as it was written."""
    there = Path(name).is_dir()
    folders = [Path(name)] if there else [job.folder for job in jobs.plan(name)]
    runs, code = [Run(folder) for folder in folders], 0
    if not any(run.holds(stage) for run in runs for stage in STAGES):
        raise ValueError(runs[0].missing())
    for run in runs:
        for stage in (*STAGES, *filter(run.holds, OPTIONAL)):
            damage = f"Stage {stage!r} is missing. Make it: `{run.command}`."
            damage = run.verify(stage) if run.holds(stage) else damage
            print(f"{run.folder}  {stage:<10} {damage or 'as it was written'}")
            code |= bool(damage)
    return code


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stce.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the known runs and groups")
    run = commands.add_parser("run", help="execute the notebooks of a run, or of all in a group")
    run.add_argument("name", help="a known run or group")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    run.add_argument("--seeds", nargs="+", default=[], type=int, metavar="SEED")
    run.add_argument("--from", dest="start", metavar="STAGE", help=", ".join(STAGES))
    run.add_argument("--also", nargs="+", default=[], metavar="STAGE", help=", ".join(OPTIONAL))
    run.add_argument("--force", action="store_true", help="compute finished stages again")
    run.add_argument("--folder", help="folder of the run (default data/runs/NAME)")
    check = commands.add_parser("verify", help="read all that a run's stages wrote: is it whole?")
    check.add_argument("name", metavar="RUN", help="a known run or group, or the folder of a run")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            return _run(options)
        if options.command == "verify":
            return _verify(options.name)
        runs = known()
        for entry in runs.values():
            print(f"{entry.name:<24} {entry.description}")
        for group, members in groups(runs).items():
            print(f"{group + ' (group)':<24} {', '.join(members)}")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a class has any name, in any locale
    _listen(signal.default_int_handler)  # the system's request to end, too, is a Ctrl-C
    code = main()
    _listen(signal.SIG_IGN if code == 130 else _leave)
    sys.exit(code)
