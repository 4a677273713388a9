"""Runs with several seeds, groups of runs, a training that two runs share, several devices."""

import json
import os
import sys
import time

import pytest

from stce.engine import progress
from stce.study import jobs, known
from stce.study.run import Run


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A checkout with three small parameter files."""
    folder = tmp_path / "notebooks" / "parameters"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text("groups: [both]\nseeds: [0, 1]\nepochs: 2\n")
    (folder / "standard.yaml").write_text(
        "groups: [both]\ntables: [1]\nseeds: [0, 1]\nepochs: 2\nn_concepts: 25\n"
    )
    (folder / "plain.yaml").write_text("description: one run\n")
    monkeypatch.setattr(known, "HOME", tmp_path)
    return tmp_path


def test_a_group_is_planned_seed_by_seed_and_run_by_shared_training(home):
    planned = jobs.plan("both")
    assert [job.name for job in planned] == [
        "small seed 0",
        "small seed 1",
        "standard seed 0",
        "standard seed 1",
    ]
    names = [[job.name for job in chain] for chain in jobs.chains(planned)]
    assert names == [["small seed 0", "standard seed 0"], ["small seed 1", "standard seed 1"]]
    assert planned[3].folder == home / "data" / "runs" / "standard" / "seed-1"
    assert planned[3].settings["ablate"]["seed"] == 1
    assert planned[3].siblings == [home / "data" / "runs" / "small" / "seed-1"]


def test_a_plain_run_has_one_folder_unless_it_is_given_seeds(home):
    (job,) = jobs.plan("plain", {"seed": 3})
    assert job.folder == home / "data" / "runs" / "plain"
    assert (job.name, job.settings["train"]["seed"]) == ("plain", 3)
    assert [job.name for job in jobs.plan("plain", seeds=[0, 4])] == [
        "plain seed 0",
        "plain seed 4",
    ]


def test_one_folder_cannot_take_several_runs(home, tmp_path):
    with pytest.raises(ValueError, match="--folder .* is for one run, and these are 2"):
        jobs.plan("small", folder=tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: 3", "'seeds' in .* is 3; it takes a list of int"),
        ("seeds: [1, 1]", "seeds are 0 or more, each once"),
        ("seeds: [-1]", "seeds are 0 or more"),
        ("tables: [7]", "the paper has tables 1 to 6"),
        ("groups: laptop", "'groups' in .* is 'laptop'; it takes a list of str"),
        ("epoch: 3", "Unknown parameter 'epoch'"),
        ("run_folder: there", "run_folder is 'there'"),
        ("epochs 3", "holds 'epochs 3'; write one `name: value` a line"),
        ("epochs: [3", "wrong.yaml is not YAML"),
    ],
)
def test_a_wrong_parameter_file_is_refused(home, text, message):
    (home / "notebooks" / "parameters" / "wrong.yaml").write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        jobs.plan("wrong")


def _finish(run, parameters, text):
    stage = run.stage("train", parameters)
    with stage.write() as folder:
        (folder / "weights").mkdir()
        (folder / "weights" / "w.txt").write_text(text)


def test_a_stage_is_borrowed_only_with_equal_parameters(tmp_path):
    _finish(Run(tmp_path / "a"), {"epochs": 2}, "trained")
    (tmp_path / "b").mkdir()
    other = Run(tmp_path / "b").stage("train", {"epochs": 3})
    assert not other.borrow(Run(tmp_path / "a")) and other.todo
    assert not other.borrow(Run(tmp_path / "nowhere"))
    same = Run(tmp_path / "b").stage("train", {"epochs": 2, "device": "cuda"})
    assert same.borrow(Run(tmp_path / "a")) and not same.todo
    assert Run(tmp_path / "b").manifest("train") == Run(tmp_path / "a").manifest("train")
    # A link, so it costs no room; and replacing one of them leaves the other alone.
    assert os.stat(tmp_path / "b/train/weights/w.txt").st_nlink == 2
    _finish(Run(tmp_path / "b"), {"epochs": 9}, "trained longer")
    assert (tmp_path / "a/train/weights/w.txt").read_text() == "trained"


SAY = "import os, sys, time; time.sleep(.3); print(os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1])"


def test_chains_run_side_by_side_and_a_failure_stops_only_its_own(home):
    work = jobs.chains(jobs.plan("both", seeds=[0, 1, 2]))

    def command(job):
        bad = job.name == "small seed 1"
        return [sys.executable, "-c", "exit(3)" if bad else SAY, job.name]

    lines = []
    failed = jobs.on_devices(work, ["4", "7"], command, lines.append)
    assert [job.name for job in failed] == ["small seed 1", "standard seed 1"]
    ran = [line.split(" ", 1) for line in lines]
    assert sorted(name for _, name in ran) == [
        "small seed 0",
        "small seed 2",
        "standard seed 0",
        "standard seed 2",
    ]
    assert {device for device, _ in ran} == {"4", "7"}
    # A chain stays on its device, in order.
    assert dict(map(reversed, ran))["small seed 0"] == dict(map(reversed, ran))["standard seed 0"]


def test_a_kernel_tells_how_far_it_is(tmp_path, monkeypatch):
    file = tmp_path / "progress.json"
    monkeypatch.setenv("STCE_PROGRESS", str(file))
    with progress.bar(total=10, desc="segment", unit="clip") as shown:
        shown.update(4)
        shown.refresh()
        facts = json.loads(file.read_text())
        assert (facts["n"], facts["total"]) == (4, 10)
        assert progress.state(file).startswith("segment 4/10 clips, 0:0")


def test_the_watcher_reports_lines_off_a_terminal_and_restores_the_variable(monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.05)
    monkeypatch.delenv("STCE_PROGRESS", raising=False)
    lines = []
    with progress.watch("small seed 0  3/6", lines.append):
        for _ in progress.bar(range(4), desc="embed", unit="supervoxel"):
            time.sleep(0.4)
    assert "STCE_PROGRESS" not in os.environ
    assert any(line.startswith("small seed 0  3/6  embed ") for line in lines)
