"""Train a run with several processes: ``torchrun ... -m stce.study.torchrun NAME``."""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from types import SimpleNamespace

import pandas as pd
import torch
from torch import distributed

from stce.study import jobs
from stce.study.learning import learn
from stce.study.run import Run
from stce.training import ranks


def main(arguments: list[str] | None = None) -> None:
    """Run the stage train of one run; the study then finds it finished."""
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m stce.study.torchrun", description=main.__doc__
    )
    parser.add_argument("name", help="a known run, as for `python -m stce.study run`")
    parser.add_argument("--seed", type=int, help="one of the run's seeds")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[])
    parser.add_argument("--folder", help="folder of the run (default data/runs/NAME)")
    options = parser.parse_args(arguments)
    if "RANK" not in os.environ:
        parser.error(
            "this starts several processes that train together: "
            f"torchrun --nproc-per-node 2 -m stce.study.torchrun {options.name}"
        )
    try:
        seeds = [] if options.seed is None else [options.seed]
        chosen = jobs.assignments(options.set)
        planned = jobs.plan(options.name, chosen, seeds=seeds, folder=options.folder)
    except ValueError as error:
        parser.error(str(error))
    if len(planned) > 1:
        parser.error(f"{options.name} stands for {len(planned)} runs; name one, and its --seed.")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # The other processes wait while the first one decodes the videos.
    distributed.init_process_group(backend, timeout=timedelta(days=2))
    try:
        (job,) = planned
        p = SimpleNamespace(**job.settings["train"])
        p.device = f"cuda:{os.environ['LOCAL_RANK']}" if backend == "nccl" else "cpu"
        if backend == "nccl":
            torch.cuda.set_device(p.device)
        stage = Run(job.folder).stage("train", vars(p))
        if todo := stage.todo:
            learn(stage, p)
        if ranks.rank() == 0:
            right = pd.read_parquet(stage.folder / "predictions.parquet")["correct"].mean()
            told = f"{100 * right:.1f} % of the test clips" if todo else "train finished before"
            print(f"{job.name}: {told}")
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
