"""The stage train: videos are decoded, a network learns from them and is tested."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

from torch import distributed

from stce import clips, datasets, models, training, videos
from stce.study.run import Stage
from stce.training import ranks

__all__ = ["learn"]


def learn(stage: Stage, p: SimpleNamespace) -> None:
    """Compute the stage train, alone or as one of the processes that ``torchrun`` started.

    Parameters
    ----------
    stage : stce.study.run.Stage
        The stage. It will hold ``videos-train`` and ``videos-test``, the weights and the learning
        curve as :func:`stce.training.train` writes them, and ``predictions.parquet`` of the test
        clips (:func:`stce.training.evaluate`).
    p : types.SimpleNamespace
        Its parameters, one attribute each.
    """
    first, together = ranks.rank() == 0, distributed.is_initialized()
    # The first process writes; the others wait while it decodes the videos.
    with stage.write() if first else contextlib.nullcontext(stage.partial) as folder:
        if first:
            stage.notes |= {"processes": ranks.size()} if together else {}
            for name in ("train", "test"):
                found = datasets.load(p.dataset, name, **p.dataset_options)
                like = p.frame_size, p.n_frames, p.max_frames or None, p.n_jobs
                kept = videos.cache(found, folder / f"videos-{name}", *like)
                stage.notes[f"skipped_{name}"] = kept.skipped
        if together:
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
