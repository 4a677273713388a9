"""Stages are complete or absent, resumed or skipped, and say what is missing."""

import errno
import json

import pytest

from stce.study.run import STAGES, Run, notebook_name


def _make(run, name, parameters, reads=(), text="done"):
    stage = run.stage(name, parameters, reads)
    with stage.write() as folder:
        (folder / "result.txt").write_text(text)
    return stage


def test_a_finished_stage_is_skipped_until_something_changes(tmp_path):
    run = Run(tmp_path)
    _make(run, "train", {"epochs": 2, "seed": 0})
    assert not run.stage("train", {"epochs": 2, "seed": 0}).todo
    assert run.stage("train", {"epochs": 2, "seed": 1}).todo
    assert run.stage("train", {"epochs": 2, "seed": 0, "force": True}).todo
    # Where it runs does not matter to what it computes.
    assert not run.stage("train", {"epochs": 2, "seed": 0, "device": "cuda", "n_jobs": 4}).todo


def test_a_changed_input_makes_the_reader_stale_but_an_equal_one_does_not(tmp_path):
    run = Run(tmp_path)
    _make(run, "train", {"epochs": 2})
    _make(run, "segment", {}, ("train",))
    _make(run, "train", {"epochs": 2})
    assert not run.stage("segment", {}, ("train",)).todo
    _make(run, "train", {"epochs": 2}, text="other weights")
    assert run.stage("segment", {}, ("train",)).todo


def test_stages_that_do_not_belong_together_are_refused(tmp_path):
    run = Run(tmp_path)
    _make(run, "train", {"epochs": 2})
    _make(run, "segment", {}, ("train",))
    _make(run, "train", {"epochs": 3}, text="other weights")
    with pytest.raises(ValueError, match="Stage 'segment' .* made from another 'train' .* 02_seg"):
        run.stage("cluster", {}, ("train", "segment"))
    _make(run, "segment", {}, ("train",))
    assert run.stage("cluster", {}, ("train", "segment")).todo


def test_a_run_says_what_it_lacks(tmp_path):
    run = Run(tmp_path)
    for i, stage in enumerate(STAGES):
        assert "was never made here" in run.missing()
        _make(run, stage, {}, STAGES[:i])
    assert run.missing() == ""
    _make(run, "cluster", {}, STAGES[:2], text="other concepts")
    assert "Stage 'tcav'" in run.missing() and "another 'cluster'" in run.missing()


def test_a_stage_older_than_a_parameter_had_its_default(tmp_path):
    run = Run(tmp_path)
    _make(run, "cluster", {"n_keep": 7, "device": "cuda"})
    made = run.parameters("cluster")
    assert (made["n_keep"], made["features"]) == (7, "supervoxels")
    assert "device" not in made
    assert not run.stage("cluster", {"n_keep": 7, "features": "supervoxels"}).todo
    assert run.stage("cluster", {"n_keep": 7, "features": "pooled"}).todo
    _make(run, "segment", {"n_segment": [4]})
    with pytest.raises(ValueError, match="did you mean 'n_segments'"):
        run.parameters("segment")


def test_manifest_tells_where_the_stage_came_from(tmp_path):
    run = Run(tmp_path)
    _make(run, "train", {"epochs": 2, "seed": 7, "run_folder": "x"})
    _make(run, "segment", {"seed": 7}, ("train",))
    manifest = run.manifest("segment")
    assert manifest["parameters"] == {"seed": 7}
    assert manifest["reads"] == {"train": run.manifest("train")["outputs"]}
    assert {"versions", "revision", "hardware", "seconds", "outputs"} <= manifest.keys()
    assert manifest["versions"]["torch"]


def test_a_failed_stage_leaves_nothing_but_continues(tmp_path):
    run = Run(tmp_path)
    stage = run.stage("train", {"epochs": 2})
    with pytest.raises(KeyboardInterrupt), stage.write() as folder:
        (folder / "first-half.txt").write_text("1")
        raise KeyboardInterrupt
    assert not (tmp_path / "train").exists()
    with run.stage("train", {"epochs": 2}).write() as folder:
        assert (folder / "first-half.txt").exists()
    assert json.loads((tmp_path / "train" / "manifest.json").read_text())["stage"] == "train"
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_other_parameters_start_afresh_and_the_old_result_stays_until_then(tmp_path):
    run = Run(tmp_path)
    _make(run, "train", {"epochs": 2}, text="old")
    with pytest.raises(RuntimeError), run.stage("train", {"epochs": 3}).write() as folder:
        (folder / "half.txt").write_text("1")
        raise RuntimeError
    assert (tmp_path / "train" / "result.txt").read_text() == "old"
    with run.stage("train", {"epochs": 4}).write() as folder:
        assert not (folder / "half.txt").exists()
        (folder / "result.txt").write_text("new")
    assert (tmp_path / "train" / "result.txt").read_text() == "new"


def test_a_missing_stage_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Stage 'tcav' reads stage 'train'.*--from train"):
        Run(tmp_path).stage("tcav", {}, ("train",))
    with pytest.raises(FileNotFoundError, match=r"notebook 03_cluster\.ipynb"):
        Run(tmp_path).path("cluster")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_no_room_is_one_clear_error_and_nothing_is_lost(tmp_path, code):
    run = Run(tmp_path)
    _make(run, "train", {})
    stage = run.stage("segment", {}, ("train",))
    message = r"Cannot write to .*Free some space.*finished stages are kept"
    with pytest.raises(OSError, match=message), stage.write() as folder:
        (folder / "one-clip.txt").write_text("1")
        raise OSError(code, "from the disk")
    assert run.path("train").exists()
    assert (tmp_path / ".segment.partial" / "one-clip.txt").exists()


def test_a_run_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"), Run(tmp_path / "run").stage("train", {}).write():
        pass


def test_notebook_names():
    assert notebook_name("train") == "01_train.ipynb"
    assert notebook_name("visualize") == "06_visualize.ipynb"
    assert notebook_name("validate") == "07_validate.ipynb"
