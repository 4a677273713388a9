"""Train a run with several processes: ``torchrun ... -m stce.study.torchrun NAME``."""

from __future__ import annotations

import argparse
import contextlib
import os
from datetime import timedelta
from types import SimpleNamespace

import torch
from torch import distributed

from stce import clips, datasets, models, training, videos
from stce.study import jobs
from stce.study.known import resolve
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
        planned = jobs.plan(
            resolve(options.name), jobs.assignments(options.set), seeds, options.folder
        )
    except ValueError as error:
        parser.error(str(error))
    if len(planned) > 1:
        parser.error(f"{options.name} stands for {len(planned)} runs; name one, and its --seed.")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # The other processes wait while the first one decodes the videos.
    distributed.init_process_group(backend, timeout=timedelta(days=2))
    try:
        _train(planned[0], backend)
    finally:
        distributed.destroy_process_group()


def _train(job: jobs.Job, backend: str) -> None:
    p = SimpleNamespace(**job.settings()["train"])
    p.device = f"cuda:{os.environ['LOCAL_RANK']}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    stage = Run(job.folder).stage("train", vars(p))
    first = ranks.rank() == 0
    if not stage.todo:
        if first:
            print(f"{job.name}: train finished before")
        return
    with stage.write() if first else contextlib.nullcontext(stage.partial) as folder:
        if first:
            stage.notes["processes"] = ranks.size()
            for name in ("train", "test"):
                found = datasets.load(p.dataset, name, **p.dataset_options)
                longest = p.max_frames or None
                kept = videos.cache(
                    found, folder / f"videos-{name}", p.frame_size, p.n_frames, longest, p.n_jobs
                )
                stage.notes[f"skipped_{name}"] = kept.skipped
        distributed.barrier()
        split = {n: videos.CachedVideos.load(folder / f"videos-{n}") for n in ("train", "test")}
        test = clips.middle_clips(split["test"], None, p.n_frames, p.crop)
        like = len(test.classes), p.width, test.frames.shape[-1], (p.n_frames, *p.crop)
        network = models.build(p.network, *like, dropout=p.dropout, seed=p.seed)
        chosen = {name: getattr(p, name) for name in training.OPTIONS}
        training.train(network, split["train"], folder, test=test, **chosen)
        if first:
            predictions = training.evaluate(network, test, device=p.device)
            predictions.to_parquet(folder / "predictions.parquet")
            print(f"{job.name}: {100 * predictions['correct'].mean():.1f} % of the test clips")


if __name__ == "__main__":
    main()
