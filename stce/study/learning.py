"""The stage train: videos are decoded, a network learns from them and is tested."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from torch import distributed

from stce import clips, datasets, features, models, training, videos
from stce.engine.device import resolve
from stce.engine.progress import bar
from stce.engine.storage import write_npy
from stce.study.run import Stage
from stce.training import beginning, ranks


def learn(stage: Stage, p: SimpleNamespace) -> None:
    """Compute the stage train, alone or as one of the processes that ``torchrun`` started.

    Parameters
    ----------
    stage : stce.study.run.Stage
        The stage. It will hold ``videos-train`` and ``videos-test``, the weights and, if all are
        trained, the learning curve as :func:`stce.training.train` writes them, and
        ``predictions.parquet`` of the test clips (:func:`stce.training.evaluate`).
    p : types.SimpleNamespace
        Its parameters, one attribute each.
    """
    first, together = ranks.rank() == 0, distributed.is_initialized()
    half = p.amp and p.trainable == "all" and resolve(p.device).type == "cuda"
    stage.notes["precision"] = "bfloat16" if half else "float32"
    # The first process writes; the others wait while it decodes the videos.
    with stage.write() if first else contextlib.nullcontext(stage.partial) as folder:
        if first:
            stage.notes |= {"processes": ranks.size()} if together else {}
            found = {n: datasets.load(p.dataset, n, **p.dataset_options) for n in ("train", "test")}
            if stage.weights:
                _begun(stage, p, found["train"])
            for name, some in found.items():
                like = p.frame_size, p.n_frames, p.max_frames or None, p.n_jobs
                kept = videos.cache(some, folder / f"videos-{name}", *like)
                stage.notes[f"skipped_{name}"] = kept.skipped
                stage.notes |= {f"damaged_{name}": bad} if (bad := kept.damaged()) else {}
        if together:
            distributed.barrier()
        split = {n: videos.CachedVideos.load(folder / f"videos-{n}") for n in ("train", "test")}
        test = clips.middle_clips(split["test"], None, p.n_frames, p.crop)
        if stage.weights:
            network, theirs, rows = _begun(stage, p, split["train"])
        else:
            like = len(test.classes), p.width, test.frames.shape[-1], (p.n_frames, *p.crop)
            network = models.build(p.network, *like, dropout=p.dropout, seed=p.seed)
        if p.trainable == "all":
            chosen = {name: getattr(p, name) for name in training.OPTIONS}
            training.train(network, split["train"], folder, test=test, **chosen)
        elif first:
            if p.trainable == "head":
                z = embed(network, split["train"], folder / ".embedded", p.flip, p.device)
                beginning.fit_head(network, z, split["train"].table["label"])
            models.save(folder / "last.safetensors", network, weights=p.weights)
        if first:
            table = training.evaluate(network, test, device=p.device)
            if p.trainable == "none":  # what it says if it may name all of its classes
                whole = replace(test, labels=np.take(rows, test.labels), classes=theirs.classes)
                named = training.evaluate(theirs, whole, device=p.device)
                table = table.assign(named=named["predicted"], named_right=named["correct"])
            table.to_parquet(folder / "predictions.parquet")


def _begun(stage: Stage, p: SimpleNamespace, found: videos.Videos) -> tuple:
    """Return the network to begin with, that of the weights, and which of its logits are kept."""
    theirs = models.load(stage.weights, input_size=(p.n_frames, *p.crop))
    made, name = theirs.settings, p.weights
    wanted = {"network": made["name"], "width": made["width"], "channels": made["in_channels"]}
    given = {**wanted, "network": p.network, "width": p.width}
    with contextlib.suppress(ValueError, FileNotFoundError):  # a broken video is told of later
        given["channels"] = found.middle(0, p.crop, 1)[0].shape[-1]
    for key, value in wanted.items():
        if given[key] != value:
            raise ValueError(
                f"{key} is {given[key]!r}, but {value!r} for the weights {name!r}; give {value!r} "
                "too, or take other weights (videos have 3 channels in RGB, 1 in grey)."
            )
    keep = p.class_map or p.trainable == "none"
    rows = beginning.logits_of(theirs, found.classes, p.class_map) if keep else None
    return beginning.begin(theirs, found.classes, rows, p.dropout, p.seed), theirs, rows


def embed(network, found, folder: Path, flip: bool, device="cpu", block: int = 32) -> np.ndarray:
    """Return what the last layer is given of the middle clips of N videos, ``(V, N, D) float32``.

    With `flip` their mirror images are a second view, V = 2. Each is run once: `block` videos are
    kept in a file of `folder`, and a call that was stopped goes on.
    """
    size, trunk = network.clip_shape[1:], network.split(network.layers[-1])
    folder.mkdir(exist_ok=True)
    files = [folder / f"{start:06d}.npy" for start in range(0, len(found), block)]
    for i, file in enumerate(bar(files, desc="embed", unit="block")):
        if not file.is_file():
            rows = slice(i * block, (i + 1) * block)
            views = [clips.middle_clips(found, None, size[0], size[1:], rows)]
            views += [replace(v, frames=v.frames[:, :, :, ::-1].copy()) for v in views if flip]
            z = [features.extract_clips(trunk, v, device=resolve(device)) for v in views]
            write_npy(file, np.stack(z))
    return np.concatenate([np.load(file) for file in files], axis=1)
