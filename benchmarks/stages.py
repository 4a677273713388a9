"""What a unit of each stage costs, for the cost model of ``benchmarks.costs``."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import worlds
from benchmarks.costs import Rates
from stce import ablation, cav, features, models, study, supervoxels, tcav
from stce.concepts import Concepts, cluster
from stce.datasets.textures import textures
from stce.engine import slic
from stce.study.known import known
from stce.study.run import Run

__all__ = ["WORLDS", "check", "rates"]


@dataclass(frozen=True)
class World:
    """A network, clips, and how much of each kind of work is timed."""

    network: str
    width: float
    size: int
    channels: int
    n_segments: tuple[int, ...] = (15, 50, 80)
    rows: int = 24
    batch: int = 2
    # Steps and random orders of the ablation that is timed, and of the one that is counted.
    timed: tuple[int, int] = (2, 1)
    counted: tuple[int, int] = (5, 10)
    n_concepts: int = 25
    n_groups: int = 50
    n_keep: int = 40
    stretch: bool = True


WORLDS = {
    "actors-r3d": World("r3d18", 0.125, 56, 1, rows=512, batch=16, timed=(5, 10), stretch=False),
    "kinetics-r3d": World("r3d18", 1.0, 112, 3),
    "kinetics-c3d": World("c3d", 1.0, 112, 3),
}
TINY = {"n_segments": (4, 8), "rows": 8, "timed": (1, 1), "counted": (2, 1)}
QUICK = {
    "small": World("c3d", 0.125, 32, 1, **TINY, n_concepts=2, n_groups=3, n_keep=6),
}
N_CLIPS, N_DRAWN = 6, 32
# The run that the model is compared with: the stages after training, all of them.
CHECKED, SEED, COMPARED = "actors-r3d", 0, ("segment", "cluster", "tcav", "ablate")


def _seconds(work: Callable[[], object], device: str = "cpu") -> tuple[float, object]:
    """Return the seconds of one call, the first one having warmed up, and what it returned."""
    work()
    _wait(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - start, result


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _peak(device: str) -> float:
    """Return the operations a second of a large product or convolution, whichever has more."""
    n, clips, repeats = (2048, 4, 5) if device == "cpu" else (8192, 64, 20)
    a, b = torch.randn(2, n, n, device=device)
    layer = torch.nn.Conv3d(512, 512, 3, padding=1, bias=False).to(device)
    x = torch.randn(clips, 512, 4, 14, 14, device=device)
    layer, x = (each.to(memory_format=torch.channels_last_3d) for each in (layer, x))
    work = {2 * n**3: lambda: a @ b, 2 * 27 * 512 * x.numel(): lambda: layer(x)}
    before = torch.get_float32_matmul_precision()
    if device != "cpu" and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")  # as convolutions are computed
    try:
        with torch.inference_mode():
            return max(
                flop / min(_seconds(one, device)[0] for _ in range(repeats))
                for flop, one in work.items()
            )
    finally:
        torch.set_float32_matmul_precision(before)


def _train_step(network, clips, device: str) -> None:
    x = network.prepare(torch.from_numpy(clips.frames).to(device))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    target = torch.zeros(len(clips), dtype=torch.int64, device=device)
    network.train()
    torch.nn.functional.cross_entropy(network(x), target).backward()
    network.zero_grad(set_to_none=True)
    network.eval()


def _score(network, classes: tuple[str, ...], world: World, device: str) -> float:
    """Return the seconds of scoring some classes; any numbers cost as much."""
    rng, size = np.random.default_rng(0), network.n_features
    n = world.n_concepts * world.n_keep
    z = rng.normal(size=(len(classes) * n, size)).astype(np.float32)
    table = pd.DataFrame({"class": np.repeat(classes, n), "supervoxel": np.arange(len(z))})
    table["concept"] = np.arange(len(z)) // world.n_keep % world.n_concepts
    table["rank"], table["distance"] = np.arange(len(z)) % world.n_keep, 0.0
    found = Concepts(table, None, dict.fromkeys(classes, z[: world.n_concepts]))
    random = rng.normal(size=(world.n_groups * world.n_keep, size)).astype(np.float32)
    groups = tcav.random_groups(len(random), world.n_groups, world.n_keep, rng)
    clips = dict.fromkeys(classes, z[:20])
    given = network, found, z, clips, random, groups, network.classes
    return _seconds(lambda: tcav.score(*given, device=device), device)[0]


def _fit(size: int, world: World, device: str) -> float:
    """Return the seconds of the CAVs of a concept, one of a class, and of their accuracy."""
    rng = np.random.default_rng(0)
    n_own, n_others = world.n_concepts * world.n_keep, world.n_groups * world.n_keep
    own, others = np.split(rng.normal(size=(n_own + n_others, size)).astype(np.float32), [n_own])
    groups = others.reshape(world.n_groups, -1, size)
    rows = np.arange(len(own)).reshape(world.n_concepts, -1)
    seconds, _ = _seconds(lambda: cav.against(own, rows, groups, device=device), device)
    return seconds / world.n_concepts


def _ablate(network, clips, cut, z, plan: tuple[int, int], world: World, device: str):
    """Return the seconds of the ablation of one clip, and its passes through the network."""
    centres = z[: world.n_concepts]
    found = Concepts(None, None, dict.fromkeys(clips.classes, centres))
    rankings = dict.fromkeys(clips.classes, list(range(len(centres))))
    how = {"q_max": plan[0], "videos": [0], "progress": False}

    def one():
        given = network, clips, cut, found, rankings
        subject = ablation.Subject(*given, features=z, device=device)
        return pd.concat(ablation.run(subject, ablation.ranked(plan[1]), **how))

    seconds, table = _seconds(one, device)
    # A mask that occurs in several orders is answered once.
    return seconds, len(table[["mode", "revealed", "probability"]].drop_duplicates())


def _left_to_cpu(labels: np.ndarray, world: World) -> None:
    """Do what a core still does where SLIC runs on a device."""
    pairs = zip(labels, world.n_segments, strict=True)
    supervoxels.sift(np.stack([slic.join(volume, n) for volume, n in pairs]))


def _world(world: World, device: str) -> dict:
    torch.set_flush_denormal(True)  # as stce.engine.device.resolve does for every study
    clips = worlds.actors(N_CLIPS, world.size, world.channels)
    network = worlds.trained(world.network, world.width, clips, device)
    network.classes = clips.classes
    size, classes = network.n_features, clips.classes
    few = textures(world.batch, size=clips.frames.shape[2:4], channels=world.channels)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        how = {"n_segments": world.n_segments, "progress": False}
        segment, cut = _seconds(lambda: supervoxels.segment(clips, **how))
        left, _ = _seconds(lambda: [_left_to_cpu(labels, world) for labels in cut.labels])
        supervoxels.segment(clips, place, **how)
        label_bytes = _bytes(place / "labels.zarr") / N_CLIPS
        rows = np.arange(min(world.rows, len(cut)))
        how = {"stretch": world.stretch, "device": device}
        embed, _ = _seconds(lambda: features.extract_rows(network, clips, cut, rows, **how))
        # k-means takes its time on what differs: numbers drawn around as many centres.
        rng = np.random.default_rng(0)
        n = 3 * world.n_concepts * world.n_keep
        middle = rng.normal(size=(world.n_concepts, size))
        drawn = rng.normal(size=(n, size)) + middle[rng.integers(0, world.n_concepts, n)]
        drawn = drawn.astype(np.float32)
        labels = np.zeros(n, int)
        kmeans, _ = _seconds(
            lambda: cluster(drawn, labels, labels, classes, n_concepts=world.n_concepts)
        )
        write = _write(drawn, place / "features.zarr")
        feature_bytes = _bytes(place / "features.zarr") / n
    forward, _ = _seconds(lambda: features.extract_clips(network, few, device=device))
    step, _ = _seconds(lambda: _train_step(network, few, device))
    like = {"size": clips.frames.shape[2:4], "channels": world.channels}
    draw, _ = _seconds(lambda: textures(N_DRAWN, **like))
    small = models.build("c3d", len(classes), 0.125, world.channels, clips.frames.shape[1:4])
    own = cut.rows_of(0)
    z = np.zeros((len(cut), size), np.float32)
    z[own] = rng.normal(size=(len(own), size))
    seconds, passes = _ablate(network, clips, cut, z, world.timed, world, device)
    _, masks = _ablate(small, clips, cut, z, world.counted, world, "cpu")
    one, two = (_score(network, classes[:k], world, device) for k in (1, 2))
    fit = _fit(size, world, device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(network.prepare(torch.from_numpy(few.frames[:1]).to(device)))
    found = Rates(
        train=step / world.batch,
        segment=segment / N_CLIPS,
        embed=embed / len(rows),
        cluster=kmeans / n,
        draw=draw / N_DRAWN,
        forward=forward / world.batch,
        null=max(2 * one - two, 0.0),
        fit=fit,
        judge=max((two - one) / world.n_concepts - fit, 0.0),
        mask=seconds / passes,
        write=write / (n * 4 * size),
        supervoxels=len(cut) / N_CLIPS,
        masks=masks,
        label_bytes=label_bytes,
        feature_bytes=feature_bytes,
    )
    facts = {
        "left_to_cpu": left / N_CLIPS,
        "network": world.network,
        "width": world.width,
        "frames": clips.frames.shape[1:],
    }
    return facts | {"flop": counter.get_total_flops(), "rates": asdict(found)}


def _write(rows: np.ndarray, path: Path) -> float:
    """Return the seconds of writing features as the stage does."""
    array = zarr.create_array(path, shape=rows.shape, dtype="f4", chunks=(1024, rows.shape[1]))
    start = time.perf_counter()
    array[:] = rows
    return time.perf_counter() - start


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rates(quick: bool, device: str) -> dict:
    """Measure what a unit of each stage costs, in each world.

    Returns
    -------
    dict
        For each of the worlds its network, ``flop`` of a pass, ``left_to_cpu`` (seconds a core and
        clip where SLIC runs on a device), and ``rates``, the fields of
        :class:`benchmarks.costs.Rates`; and the ``peak`` of the device, in operations a second.
    """
    chosen = QUICK if quick else WORLDS
    found = {name: _world(w, device) for name, w in chosen.items()}
    return {"worlds": found, "peak": _peak(device), "same": True}


def check(quick: bool, device: str) -> dict:
    """Make the stages of a whole run again, after its training, and note their seconds.

    Returns
    -------
    dict
        ``run``, its ``seconds`` by stage, its ``size`` (fields of :class:`benchmarks.costs.Size`),
        and whether its accuracy is that of the run before.

    Raises
    ------
    FileNotFoundError
        If the run has not been made.
    """
    name = "smoke" if quick else CHECKED
    before = Run(known()[name].folder(None if quick else SEED))
    if before.missing():
        command = f"python -m stce.study run {name}" + ("" if quick else f" --seeds {SEED}")
        raise FileNotFoundError(f"{before.folder} is not finished; make it first: `{command}`.")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(before.path("train"), Path(folder) / "train")
        seeds = () if quick else (SEED,)
        # By force: or else stages would be taken from the run that was made before.
        options = {"start": "segment", "force": True, "report": lambda _: None}
        study.execute(name, {"device": device}, seeds=seeds, folder=folder, **options)
        again = Run(folder)
        seconds = {stage: again.manifest(stage)["seconds"] for stage in COMPARED}
        given = {k: v for s in COMPARED for k, v in again.manifest(s)["parameters"].items()}
        size = {
            "n_classes": len(Concepts.load(again.path("cluster")).centres),
            "n_random": given["n_random_clips"],
            **{name: given[name] for name in ("n_discovery", "n_test", "n_concepts")},
        }
        tables = [
            pd.read_parquet(run.path("ablate") / "accuracy.parquet") for run in (before, again)
        ]
    change = np.abs(tables[0]["accuracy"] - tables[1]["accuracy"]).max()
    return {
        "run": name,
        "seconds": seconds,
        "size": size,
        "largest_change_of_accuracy": float(change),
        "same": bool(change < 0.02),
    }
