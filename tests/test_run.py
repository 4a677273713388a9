"""Stages are complete or absent, resumed or skipped, and say what is missing."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from stce.study import run as run_module
from stce.study.run import HOME, STAGES, Run, notebook_name


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


def test_what_only_a_stopped_stage_needs_goes_when_it_is_finished(tmp_path):
    stage = Run(tmp_path).stage("ablate", {})
    with pytest.raises(KeyboardInterrupt), stage.write() as folder:
        (folder / ".clips").mkdir()
        (folder / ".clips" / "0.txt").write_text("1")
        raise KeyboardInterrupt
    with stage.write() as folder:
        assert (folder / ".clips" / "0.txt").read_text() == "1"
        (folder / "all.txt").write_text("1")
    assert sorted(p.name for p in (tmp_path / "ablate").iterdir()) == ["all.txt", "manifest.json"]
    assert Run(tmp_path).verify("ablate") == ""


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


def test_a_full_disk_is_told_with_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=f"Cannot write to {tmp_path}/run: No space left"):
        with Run("run").stage("train", {}).write():
            raise OSError(errno.ENOSPC, "from the disk")


def test_a_run_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"), Run(tmp_path / "run").stage("train", {}).write():
        pass


def test_notebook_names():
    assert notebook_name("train") == "01_train.ipynb"
    assert notebook_name("visualize") == "06_visualize.ipynb"
    assert notebook_name("validate") == "07_validate.ipynb"


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_writer_is_told_who_the_first_one_is_and_takes_nothing_from_it(tmp_path):
    run = Run(tmp_path)
    _make(run, "segment", {})
    told = rf"{tmp_path} is being written by process {os.getpid()} on .* \(.*\); wait for it"
    with run.stage("train", {"seed": 0}).write() as mine:
        (mine / "state").write_text("an hour of training")
        for other in ("train", "segment"):
            with pytest.raises(RuntimeError, match=told), Run(tmp_path).stage(other, {}).write():
                pass
        with ThreadPoolExecutor(1) as pool:
            thread = pool.submit(_make, Run(tmp_path), "train", {"seed": 1})
            assert isinstance(thread.exception(), RuntimeError)
        assert (mine / "state").exists()
        assert Run(tmp_path).manifest("segment")["stage"] == "segment"  # reading is allowed
    assert _names(tmp_path) == ["segment", "train"]


def test_the_lock_of_a_dead_process_is_taken_over_and_one_of_another_machine_is_not(tmp_path):
    run = Run(tmp_path)
    command = "import time; from stce.study.run import Run\n"
    command += f"with Run({str(tmp_path)!r}).stage('train', {{}}).write(): print(1, flush=True); "
    command += "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(RuntimeError, match=f"process {other.pid} on"):
            _make(run, "train", {})
        other.kill()
    _make(run, "train", {})
    assert _names(tmp_path) == ["train"]
    (tmp_path / ".stage.lock").write_text("12\nelsewhere\n")
    with pytest.raises(RuntimeError, match=f"process 12 on elsewhere.*delete {tmp_path}/.stage.lo"):
        _make(run, "train", {})
    assert (tmp_path / ".stage.lock").exists()


def test_the_lock_of_a_zombie_and_one_that_nobody_signed_are_taken_over(tmp_path):
    for lock in (".study.lock", ".stage.lock"):
        if not (child := os.fork()):
            os._exit(0)
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        (tmp_path / lock).write_text(f"{child}\n{socket.gethostname()}\n")
        _make(Run(tmp_path), "train", {})
        os.waitpid(child, 0)
        (tmp_path / lock).write_text("")
        with pytest.raises(RuntimeError, match="written by process unknown"):  # not signed yet
            _make(Run(tmp_path), "train", {})
        os.utime(tmp_path / lock, (0, time.time() - 3))
        _make(Run(tmp_path), "train", {})
        assert _names(tmp_path) == ["train"]


def test_what_a_killed_writer_had_yet_to_remove_is_gone_after_the_next(tmp_path):
    run = Run(tmp_path)
    for name in STAGES[:3]:
        _make(run, name, {}, text=name)
    for left in (".train.old", ".tcav.borrowed"):
        shutil.copytree(tmp_path / "segment", tmp_path / left)
    (tmp_path / "train" / "inputs.json").write_text("")
    (tmp_path / "cluster").rename(tmp_path / ".cluster.old")  # killed between two calls
    (tmp_path / ".stage.lock").write_text(f"{2**22 - 1}\n{socket.gethostname()}\n")  # nobody's
    with run.writing(study=True):
        pass
    assert _names(tmp_path) == sorted(STAGES[:3])
    assert _names(tmp_path / "train") == ["manifest.json", "result.txt"]
    assert all(run.verify(name) == "" for name in STAGES[:3])


def test_the_command_that_makes_a_run_names_its_seed_and_its_folder(tmp_path):
    for folder, words in (
        (HOME / "data" / "runs" / "smoke", "smoke"),
        (HOME / "data" / "runs" / "smoke" / "seed-3", "smoke --seeds 3"),
        (tmp_path / "smoke", f"smoke --folder {tmp_path}/smoke"),
        (tmp_path / "my runs" / "smoke" / "seed-1", f"smoke --seeds 1 --folder '{tmp_path}/my ru"),
    ):
        assert Run(folder).command.startswith(f"python -m stce.study run {words}")
    with pytest.raises(FileNotFoundError, match=f"smoke --folder {tmp_path}/smoke --from train`"):
        Run(tmp_path / "smoke").manifest("train")


def test_a_forked_process_does_not_take_its_parents_lock_away(tmp_path):
    with Run(tmp_path).stage("train", {}).write():
        if not (child := os.fork()):
            with contextlib.suppress(BaseException):
                _make(Run(tmp_path), "train", {})
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / ".stage.lock").exists()


def test_a_study_is_the_only_writer_but_for_the_kernels_that_it_starts(tmp_path, monkeypatch):
    study = os.getpid()

    def in_process(parent):
        ours = {**vars(os), "getpid": lambda: 1, "getppid": lambda: parent}
        monkeypatch.setattr(run_module, "os", SimpleNamespace(**ours))

    with Run(tmp_path).writing(study=True):
        in_process(parent=study)
        _make(Run(tmp_path), "train", {})
        in_process(parent=2)
        with pytest.raises(RuntimeError, match=f"written by process {study} on .*study.lock"):
            _make(Run(tmp_path), "train", {})
    assert _names(tmp_path) == ["train"]


class Killed(BaseException):
    """What is raised in the place of a call; nothing of ours catches it."""


CALLS = ("rename", "replace", "unlink", "rmdir", "fsync", "open", "link", "mkdir")


def _die_at(monkeypatch, n):
    """Let the process die before the n-th call to the disk; return how many there were."""
    made = []

    def watched(call):
        def one(*args, **options):
            made.append(call.__name__)
            if len(made) >= n:  # a dead process makes no call after it
                raise Killed(made[n - 1])
            return call(*args, **options)

        return one

    for name in CALLS:
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    return made


def test_a_stage_that_is_replaced_is_there_whenever_the_process_dies(tmp_path, monkeypatch):
    for slow in ("_hardware", "_versions", "_revision"):
        monkeypatch.setattr(run_module, slow, lambda *given: None)
    deaths = 0
    for n in range(1, 200):
        run = Run(tmp_path / str(n))
        _make(run, "train", {"seed": 0}, text="old")
        stage, died = run.stage("train", {"seed": 1}), False
        with monkeypatch.context() as patch:
            try:
                with stage.write() as folder:
                    (folder / "result.txt").write_text("new")
                    _die_at(patch, n)
            except Killed:
                died = True
        for lock in run.folder.glob(".*.lock*"):
            lock.unlink()  # of a process that is dead, which this one is not
        seed = Run(run.folder).manifest("train")["parameters"]["seed"]
        text = (Run(run.folder).path("train") / "result.txt").read_text()
        assert (seed, text) in ((0, "old"), (1, "new"))
        _make(Run(run.folder), "train", {"seed": 2}, text="newer")
        assert (Run(run.folder).path("train") / "result.txt").read_text() == "newer"
        assert _names(run.folder) == ["train"] and Run(run.folder).verify("train") == ""
        deaths += died
        if not died:
            break
    assert 10 < deaths < 198


def test_files_are_on_the_disk_before_the_manifest_is(tmp_path, monkeypatch):
    made, flush = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda f: (made.append(Path(os.readlink(f"/proc/self/fd/{f}")).name), flush(f))
    )
    with Run(tmp_path).stage("train", {}).write() as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "result.txt").write_text("1")
    order = [made.index(n) for n in ("result.txt", ".manifest.json.tmp", tmp_path.name)]
    assert order == sorted(order) and "inner" in made[: order[1]]


def _damage(kind, folder, other):
    a, b = folder / "a.npy", folder / "inner" / "b.npy"
    if kind == "truncated":
        a.write_bytes(a.read_bytes()[:-1])
    elif kind == "swapped":
        a.rename(folder / "c")
        b.rename(a)
        (folder / "c").rename(b)
    elif kind == "edited":
        a.write_bytes(a.read_bytes()[:-1] + b"x")
    elif kind == "missing":
        b.unlink()
    elif kind == "added":
        (folder / "c.npy").write_text("")
    elif kind == "link":
        a.unlink()
        a.symlink_to("inner/b.npy")
    elif kind == "dangling":
        a.unlink()
        a.symlink_to("nowhere")
    elif kind in ("empty", "no dict"):
        (folder / "manifest.json").write_text("[]" if kind == "no dict" else "")
    elif kind == "manifest":
        told = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(told.replace('"seed": 0', '"seed": 1'))
    elif kind == "another stage":
        shutil.rmtree(folder)
        shutil.copytree(other, folder)


@pytest.mark.parametrize(
    ("kind", "file", "what"),
    [
        ("truncated", "a.npy", "has 135 bytes instead of 136"),
        ("swapped", "a.npy", "holds something else"),
        ("edited", "a.npy", "holds something else"),
        ("missing", "inner/b.npy", "is missing"),
        ("added", "c.npy", "was added"),
        ("link", "a.npy", "holds something else"),
        ("dangling", "a.npy", "is missing"),
        ("empty", "manifest.json", "cannot be read"),
        ("no dict", "manifest.json", "cannot be read"),
        ("manifest", "manifest.json", "has been edited"),
        ("another stage", "manifest.json", "is of stage 'segment'"),
    ],
)
def test_what_is_not_as_it_was_written_is_named_with_its_remedy(tmp_path, kind, file, what):
    run = Run(tmp_path / "smoke")
    for name in ("train", "segment"):
        with run.stage(name, {"seed": 0}).write() as folder:
            (folder / "inner").mkdir()
            np.save(folder / "a.npy", np.arange(1))
            np.save(folder / "inner" / "b.npy", np.arange(1, 2))
    assert run.verify("train") == ""
    _damage(kind, run.folder / "train", run.folder / "segment")
    again = f"Make it again: `python -m stce.study run smoke --folder {run.folder} --from train --f"
    message = rf"Stage 'train' is not as.*train/{file} {what}.*{again}"
    again = Run(run.folder)
    for read in (
        lambda: again.path("train"),
        lambda: again.stage("tcav", {}, ("train",)),
        lambda: again.stage("train", {"seed": 0}),
    ):
        with pytest.raises(ValueError, match=message):
            read()
    assert re.search(message, again.verify("train"))
    (tmp_path / "other").mkdir()
    if kind != "another stage":
        assert not Run(tmp_path / "other").stage("train", {"seed": 0}).borrow(again)
    with again.stage("train", {"seed": 0, "force": True}).write() as folder:
        (folder / "result.txt").write_text("again")
    assert Run(run.folder).path("train")


def test_a_changed_file_with_its_old_time_is_found_by_verify(tmp_path):
    _make(Run(tmp_path), "train", {})
    file = tmp_path / "train" / "result.txt"
    times = file.stat()
    file.write_text("dome")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Run(tmp_path).path("train")
    assert "result.txt holds something else" in Run(tmp_path).verify("train")


def test_a_copy_with_other_times_or_hidden_files_is_read_once_and_taken(tmp_path, monkeypatch):
    _make(Run(tmp_path / "a"), "train", {})
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    (tmp_path / "b" / "train" / ".DS_Store").write_text("of a file manager")
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (read.append(a), digest(*a))[1])
    for _ in range(2):
        assert Run(tmp_path / "b").path("train") and Run(tmp_path / "a").path("train")
    assert len(read) == 1
    (tmp_path / "c").symlink_to(tmp_path / "b" / "train")
    assert Run(tmp_path / "b").verify("train") == ""


def test_a_run_older_than_seals_opens(tmp_path):
    _make(Run(tmp_path), "train", {"seed": 0})
    file = tmp_path / "train" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in manifest.items() if k not in ("files", "seal")}))
    run = Run(tmp_path)
    assert run.path("train") and not run.stage("train", {"seed": 0}).todo
    assert run.verify("train") == ""
    (tmp_path / "train" / "result.txt").write_text("other")
    assert f"a file in {tmp_path}/train has changed" in run.verify("train")


def test_reading_writes_nothing_and_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    _make(Run(tmp_path), "train", {})

    def refuse(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        opened = os.open
        patch.setattr(
            os, "open", lambda p, f, *a, **o: refuse() if f & 3 else opened(p, f, *a, **o)
        )
        for name in ("mkdir", "rename", "replace", "unlink", "link", "utime"):
            patch.setattr(os, name, refuse)
        run = Run(tmp_path)
        assert run.path("train") and not run.stage("train", {}).todo and run.verify("train") == ""
        with pytest.raises(OSError, match=f"Cannot write to {tmp_path}: Read-only"):
            _make(run, "segment", {}, ("train",))
    assert _names(tmp_path) == ["train"]
