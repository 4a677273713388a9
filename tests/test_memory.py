"""The stages that go over clips take the memory of a few clips, however many there are."""

import os
import subprocess
import sys

import pytest

# glibc gives large blocks back at once then: or else the peak differs by 30 MB from run to run.
EXACT = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}

SCRIPT = r"""
import re, sys, tempfile
from pathlib import Path
import numpy as np, torch
from stce import ablation, features, models, supervoxels
from stce.clips import Clips
from stce.concepts import Concepts
from stce.datasets.textures import textures

n, folder = int(sys.argv[1]), Path(tempfile.mkdtemp())
torch.set_num_threads(1)
few = textures(10, n_frames=16, size=(64, 64), channels=3)
import zarr
shape = (n, *few.frames.shape[1:])
frames = zarr.create_array(folder / "frames", shape=shape, dtype="u1", chunks=(1, *shape[1:]))
for i in range(n):
    frames[i] = few.frames[i % 10]
clips = Clips(frames, np.zeros(n, int), [str(i) for i in range(n)], ["p"] * n, ("a", "b"))
network = models.build("r3d18", 2, 0.125, input_size=(16, 64, 64))
cut = supervoxels.segment(clips, folder / "cut", n_segments=(2, 4))
features.extract(network, clips, cut, folder, batch_size=8)
centres = np.random.default_rng(0).normal(size=(3, network.n_features)).astype("f4")
found, rankings = Concepts(None, None, {"a": centres}), {"a": [0, 1, 2]}
subject = ablation.Subject(network, clips, cut, found, rankings, batch_size=8)
for table in ablation.run(subject, ablation.ranked(1), q_max=1):
    pass
# Not getrusage: it may say what the process needed that started this one.
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_peak_memory_is_flat_in_the_number_of_clips():
    peaks = []
    for n in (12, 60):
        command = [sys.executable, "-c", SCRIPT, str(n)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=EXACT)
        peaks.append(int(answer.stdout.split()[-1]))
    # 48 more clips are 9 MB of frames, 6 MB of labels, 38 MB of input to the network.
    assert peaks[1] - peaks[0] < 12, peaks
    assert 200 < min(peaks) and max(peaks) < 2048, peaks
