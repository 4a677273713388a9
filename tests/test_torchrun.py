"""Two processes train one network: the same weights as one process, and the study goes on."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from stce import models, study
from stce.study import make
from stce.study.run import STAGES, Run
from stce.study.torchrun import main


def torchrun(n, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(n), "-m", "stce.study.torchrun", *map(str, arguments)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The smoke run's training by one process and by two, without dropout."""
    folders = {}
    for n in (1, 2):
        folders[n] = tmp_path_factory.mktemp("runs") / "smoke"
        # Seven clips a step: the halves of a batch differ in size.
        chosen = ["epochs=3", "dropout=0.0", "batch_size=7"]
        done = torchrun(n, "smoke", "--folder", folders[n], "--set", *chosen)
        assert done.returncode == 0, done.stderr
    return folders


def test_two_processes_learn_what_one_does(trained):
    one, two = (models.load(folder / "train" / "last.safetensors") for folder in trained.values())
    first = models.build(**one.settings)
    for (name, begun), here, there in zip(
        first.named_parameters(), one.parameters(), two.parameters(), strict=True
    ):
        # Rounding takes a thousandth of the way that training went; a step whose two halves
        # counted alike, a sixth to a half of it.
        assert (here - there).norm() <= 0.01 * (here - begun).norm(), name
    history = [pd.read_csv(folder / "train" / "history.csv") for folder in trained.values()]
    assert (history[0]["loss"] - history[1]["loss"]).abs().max() < 1e-3
    assert history[0]["accuracy"].equals(history[1]["accuracy"])
    assert Run(trained[2]).manifest("train")["notes"]["processes"] == 2


def test_the_study_finds_the_training_finished(trained, monkeypatch):
    monkeypatch.setattr(make, "STAGES", STAGES[:2])
    chosen = json.loads((trained[2] / "train" / "manifest.json").read_text())["parameters"]
    before = (trained[2] / "train" / "last.safetensors").stat().st_mtime_ns
    lines = []
    wanted = {name: chosen[name] for name in ("epochs", "dropout", "batch_size")}
    study.execute("smoke", wanted, folder=trained[2], report=lines.append)
    assert (trained[2] / "train" / "last.safetensors").stat().st_mtime_ns == before
    again = torchrun(
        2, "smoke", "--folder", trained[2], "--set", *(f"{k}={v}" for k, v in wanted.items())
    )
    assert again.returncode == 0 and again.stdout.count("train finished before") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such"], "Unknown run 'no-such'"),
        (["laptop"], "stands for"),
        (["smoke", "--set", "x=1"], "x"),
    ],
)
def test_bad_calls_end_with_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and "Traceback" not in told


def test_without_torchrun_the_command_is_told():
    command = [sys.executable, "-m", "stce.study.torchrun", "smoke"]
    clean = {k: v for k, v in os.environ.items() if k != "RANK"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=clean)
    assert done.returncode == 2
    assert "torchrun --nproc-per-node 2 -m stce.study.torchrun smoke" in done.stderr
