"""Time and memory against the number of clips: each number in a process of its own.

``python -m benchmarks.growth N`` runs the stages over N clips and prints seconds and MB.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zarr

from benchmarks.runner import Check
from stce import ablation, features, models, supervoxels
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures

__all__ = ["grow", "measure"]

SIZE, LEVELS = (16, 48, 48), (4, 8)


def measure(n: int, folder: Path) -> dict[str, float]:
    """Segment, embed and ablate n clips that lie on disk.

    Returns
    -------
    dict
        ``seconds``, and ``peak_mb``, the largest resident memory of the process.
    """
    few = textures(10, n_frames=SIZE[0], size=SIZE[1:])
    shape = (n, *few.frames.shape[1:])
    frames = zarr.create_array(folder / "clips", shape=shape, dtype="u1", chunks=(1, *shape[1:]))
    for i in range(n):
        frames[i] = few.frames[i % len(few)]
    names = [str(i) for i in range(n)]
    clips = Clips(frames, np.zeros(n, int), names, names, ("a", "b"))
    network = models.build("c3d", 2, 0.125, 1, SIZE).eval()
    centres = np.random.default_rng(0).normal(size=(3, network.n_features)).astype(np.float32)
    how = {"progress": False}
    warm = few.select([0])
    features.extract(network, warm, supervoxels.segment(warm, n_segments=LEVELS, **how), **how)
    start = time.perf_counter()
    cut = supervoxels.segment(clips, folder, n_segments=LEVELS, **how)
    features.extract(network, clips, cut, folder, **how)
    found = Concepts(None, None, {"a": centres})
    subject = ablation.Subject(network, clips, cut, found, {"a": [0, 1, 2]})
    for _ in ablation.run(subject, ablation.ranked(1), q_max=2, **how):
        pass
    seconds = time.perf_counter() - start
    # Linux counts in kB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def grow(quick: bool, device: str = "cpu") -> dict:
    """Measure several numbers of clips in turns, and fit the exponent of time.

    Returns
    -------
    dict
        ``clips``, ``seconds`` (all rounds), ``median_s``, ``peak_mb``, ``exponent`` and the
        checks: exponent at most 1.05, memory within 10 %.
    """
    counts = [4, 8] if quick else [50, 100, 200, 400]
    seconds, peaks = {n: [] for n in counts}, {n: [] for n in counts}
    for _ in range(1 if quick else 2):
        for n in counts:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "benchmarks.growth", str(n), folder]
                answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
            facts = json.loads(answer.stdout.splitlines()[-1])
            seconds[n].append(facts["seconds"])
            peaks[n].append(facts["peak_mb"])
    # Whatever disturbs a run makes it slower, so the fastest round is nearest to the truth.
    fastest = [min(seconds[n]) for n in counts]
    exponent = float(np.polyfit(np.log(counts), np.log(fastest), 1)[0])
    spread = max(map(max, peaks.values())) / min(map(min, peaks.values())) - 1
    checks = [
        Check("exponent of time", exponent, 1.05),
        Check("growth of peak memory", float(spread), 0.10),
    ]
    return {
        "work": f"segment, embed and ablate clips of {'x'.join(map(str, SIZE))} from disk, "
        "one process",
        "against": "itself with fewer clips",
        "clips": counts,
        "seconds": [seconds[n] for n in counts],
        "peak_mb": [max(peaks[n]) for n in counts],
        "exponent": exponent,
        "checks": [check.facts() for check in checks],
        "same": True,
        "reached": all(check.passed for check in checks),
    }


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    print(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))))
