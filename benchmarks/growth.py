"""Time, memory and files against the number of clips: each number in a process of its own.

``python -m benchmarks.growth N FOLDER [--pooled]`` runs the stages over N clips, prints facts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.runner import Check, peak_mb
from stce import ablation, features, models, supervoxels
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures
from stce.engine.storage import growing, grown
from stce.models.network import Pooled

__all__ = ["grow", "measure"]

SIZE, LEVELS, DRAWN = (8, 32, 32), (2, 4), 100


def measure(n: int, folder: Path, pooled: bool = False) -> dict[str, float]:
    """Segment, embed and ablate n clips that lie on disk.

    Parameters
    ----------
    n, folder : int and Path
        Clips, and where what is computed is written.
    pooled : bool, default False
        Pool features under supervoxels, a pass a clip, instead of a pass a supervoxel in place.

    Returns
    -------
    dict
        ``seconds``; ``peak_mb``, the largest resident memory of the process; ``files`` that were
        written, and ``open_s``, the seconds that opening them takes.
    """
    few = textures(DRAWN, n_frames=SIZE[0], size=SIZE[1:])
    shape = (n, *few.frames.shape[1:])
    frames = growing(folder / "clips", shape, "u1")
    for start in range(0, n, DRAWN):
        frames[start : start + DRAWN] = few.frames[: n - start]
    frames = grown(folder / "clips")
    names = [str(i) for i in range(n)]
    clips = Clips(frames, np.zeros(n, int), names, names, ("a", "b"))
    network = models.build("c3d", 2, 0.125, 1, SIZE).eval()
    if pooled:
        network = Pooled.of(network.split("conv4b"))
    centres = np.random.default_rng(0).normal(size=(3, network.n_features)).astype(np.float32)
    cutting, embedding = {"n_segments": LEVELS, "progress": False}, {"progress": False}
    embedding["stretch"] = False
    warm = few.select([0])
    features.extract(network, warm, supervoxels.segment(warm, **cutting), **embedding)
    stage = folder / "stage"
    start = time.perf_counter()
    cut = supervoxels.segment(clips, stage, **cutting)
    features.extract(network, clips, cut, stage, **embedding)
    given = clips, cut, Concepts(None, None, {"a": centres}), {"a": [0, 1, 2]}
    subject = ablation.Subject(network, *given, stretch=False)
    for _ in ablation.run(subject, ablation.ranked(1), q_max=2, progress=False):
        pass
    end = time.perf_counter()
    facts = {"seconds": end - start, "peak_mb": peak_mb()}
    files = sum(path.is_file() for path in stage.rglob("*"))
    start = time.perf_counter()
    again, z = supervoxels.Supervoxels.load(stage), features.stored(stage)
    if z.shape[0] != len(again) or not np.isfinite(z[len(again) - 1]).all():
        raise ValueError(f"{z.shape[0]} features for {len(again)} supervoxels in {stage}.")
    return facts | {"files": files, "open_s": time.perf_counter() - start}


def grow(pooled: bool):
    """Return what measures several numbers of clips in turns, and fits the exponent of time."""
    return partial(_grow, pooled)


def _grow(pooled: bool, quick: bool, device: str = "cpu") -> dict:
    """Return ``clips``, and for each number ``seconds``, ``peak_mb``, ``files`` and ``open_s``.

    With the ``exponent`` of time and the checks: the exponent is at most 1.05, memory the same
    within 10 %, files at most one a hundred clips beside ten, and opened within 2 s.
    """
    counts = [4, 8] if quick else [100, 1_000, 10_000]
    facts = {n: [] for n in counts}
    for round_ in range(1 if quick else 3):
        # The largest takes as long as all others together, and a pause is least of it.
        for n in counts if round_ == 0 else counts[:-1]:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "benchmarks.growth", str(n), folder]
                command += ["--pooled"] if pooled else []
                answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
            facts[n].append(json.loads(answer.stdout.splitlines()[-1]))
    # Whatever disturbs a run makes it slower, so the fastest round is nearest to the truth.
    fastest = [min(f["seconds"] for f in facts[n]) for n in counts]
    exponent = float(np.polyfit(np.log(counts), np.log(fastest), 1)[0])
    peaks, files, opened = (
        [max(f[name] for f in facts[n]) for n in counts] for name in ("peak_mb", "files", "open_s")
    )
    checks = [
        Check("exponent of time", exponent, 1.05),
        Check("growth of peak memory", max(peaks) / min(peaks) - 1, 0.10),
        Check("files", files[-1], 10 + counts[-1] / 100),
        Check("seconds to open", opened[-1], 2.0),
    ]
    how = "features pooled" if pooled else "supervoxels in place"
    return {
        "work": f"segment, embed ({how}) and ablate clips of {'x'.join(map(str, SIZE))} from disk, "
        "one process",
        "against": "itself with fewer clips",
        "clips": counts,
        "seconds": [[f["seconds"] for f in facts[n]] for n in counts],
        "peak_mb": peaks,
        "files": files,
        "open_s": opened,
        "exponent": exponent,
        "checks": [check.facts() for check in checks],
        "same": True,
        "reached": all(check.passed for check in checks),
    }


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    print(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]), "--pooled" in sys.argv[3:])))
