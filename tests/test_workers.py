"""A real Dask cluster of processes: the same tables, also when a worker is lost."""

import os
import pickle
import signal

import distributed
import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from stce import ablation, concepts, features, models, supervoxels, tcav
from stce.clips import Clips
from stce.datasets.textures import textures
from stce.engine.workers import connect, spread


@pytest.fixture(scope="module")
def cluster():
    made = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    )
    with made:
        yield made


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    made = textures(6, n_frames=8, size=(32, 32))
    names = ("left", "right")
    labels = np.arange(6) % 2
    groups = made.ids
    folder = tmp_path_factory.mktemp("input") / "train"
    Clips(made.frames, labels, made.ids, groups, names).save(folder)
    return Clips.load(folder)


def study(clips, folder):
    """Run the middle of a study: the tables of its stages."""
    network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32))
    cut = supervoxels.segment(clips, folder / "cut", n_segments=(4, 10), progress=False, n_jobs=2)
    z = features.extract(network, clips, cut, folder / "z", stretch=False, progress=False)
    rows = cut.table["video"].to_numpy()
    how = {"n_concepts": 3, "n_keep": 6, "n_jobs": 2}
    found = concepts.cluster(z, clips.labels[rows], rows, clips.classes, **how)
    random = features.extract_clips(network, textures(40, n_frames=8, size=(32, 32), seed=1))
    whole = features.extract_clips(network, clips)
    mine = {name: whole[clips.indices_of(name)] for name in found.centres}
    groups = tcav.random_groups(40, 5, 6, np.random.default_rng(0))
    result = tcav.score(network, tcav.Samples(found, z, mine, random, groups, clips.classes))
    rankings = {name: result.ranking(name) for name in found.centres}
    subject = ablation.Subject(network, clips, cut, found, rankings, stretch=False)
    how = {"q_max": 3, "folder": folder / "clips", "progress": False}
    outcomes = pd.concat(ablation.run(subject, ablation.ranked(2), **how))
    return cut.table, np.asarray(z[:]), found.table, result.scores, outcomes


@pytest.fixture(scope="module")
def alone(clips, tmp_path_factory):
    return study(clips, tmp_path_factory.mktemp("alone"))


def same(first, second):
    for a, b in zip(first, second, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
        else:
            pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_a_cluster_gives_the_same_tables(cluster, clips, alone, tmp_path):
    with connect(cluster.scheduler_address):
        same(alone, study(clips, tmp_path))


def test_a_product_does_not_depend_on_where_its_numbers_lie():
    weights, given = torch.randn(6, 512), torch.randn(3, 512)
    results = set()
    for shift in (0, 1, 3, 4, 8):
        moved = torch.empty(given.numel() + 16)[shift : shift + given.numel()].view_as(given)
        moved.copy_(given)
        results.add(torch.nn.functional.linear(moved, weights).numpy().tobytes())
    assert len(results) == 1


def test_tasks_run_on_the_cluster(cluster):
    with connect(cluster.scheduler_address):
        pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(8))
    assert set(pids) <= set(_pids(cluster)) and os.getpid() not in pids
    assert joblib.Parallel()([joblib.delayed(os.getpid)()]) == [os.getpid()]


def test_a_worker_killed_in_the_middle_loses_nothing(cluster, clips, alone, tmp_path, monkeypatch):
    pids, killed = _pids(cluster), []

    def kill_one(table, path, **options):
        if not killed and "clips" in str(path):
            killed.append(pids[0])
            os.kill(killed[0], signal.SIGKILL)
        return plain(table, path, **options)

    plain = pd.DataFrame.to_parquet
    monkeypatch.setattr(pd.DataFrame, "to_parquet", kill_one)
    with connect(cluster.scheduler_address):
        same(alone, study(clips, tmp_path))
    assert killed and killed[0] not in _pids(cluster)


def test_the_arrays_of_a_task_are_not_lost_with_a_worker(cluster, tmp_path):
    def total(array, mark):
        if array[0] == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return array.sum()

    rows = [np.full(2000, i) for i in range(12)]
    with connect(cluster.scheduler_address):
        run = joblib.Parallel()
        sums = run(joblib.delayed(total)(row, tmp_path / "mark") for row in rows)
    assert sums == [row.sum() for row in rows] and (tmp_path / "mark").exists()


def test_what_all_tasks_need_is_not_lost_with_all_workers(cluster):
    with connect(cluster.scheduler_address):
        future = spread(np.arange(5000))
        for pid in _pids(cluster):
            os.kill(pid, signal.SIGKILL)
        sums = joblib.Parallel()(joblib.delayed(np.sum)(future) for _ in range(3))
    assert sums == [np.arange(5000).sum()] * 3


def test_a_single_worker_of_one_thread_is_a_cluster():
    how = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**how) as one, connect(one.scheduler_address):
        future = spread(np.arange(5000))
        pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(2))
        sums = joblib.Parallel()(joblib.delayed(np.sum)(future) for _ in range(3))
    assert sums == [np.arange(5000).sum()] * 3 and os.getpid() not in pids


def _pids(cluster) -> list[int]:
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2)
        return list(client.run(os.getpid).values())


def test_no_scheduler_is_one_clear_error():
    with pytest.raises(ConnectionError, match="no Dask scheduler answers; start one with"):
        with connect("tcp://127.0.0.1:9"):
            pass


def test_a_scheduler_without_workers_is_one_clear_error():
    empty = distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0")
    with empty, pytest.raises(ConnectionError, match="has no workers; start some with"):
        with connect(empty.scheduler_address):
            pass


def test_what_all_tasks_need_is_on_every_worker(cluster):
    with connect(cluster.scheduler_address):
        future = spread(torch.nn.Linear(2, 2))
        (holders,) = future.client.who_has([future]).values()
        assert len(holders) == len(future.client.scheduler_info()["workers"])
        bias = joblib.Parallel()(joblib.delayed(getattr)(future, "bias") for _ in range(2))
    assert torch.equal(bias[0], bias[1])


def test_a_worker_finds_clips_that_were_opened_under_a_relative_path(clips, tmp_path, monkeypatch):
    clips.save(tmp_path / "clips")
    supervoxels.segment(clips, tmp_path / "cut", n_segments=(4, 10), progress=False)
    monkeypatch.chdir(tmp_path)
    opened = Clips.load("clips"), supervoxels.Supervoxels.load("cut")
    network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32))
    z = features.extract(network, *opened, "z", stretch=False, progress=False)
    monkeypatch.chdir("/")
    there, cut, same_z = pickle.loads(pickle.dumps((*opened, z)))
    np.testing.assert_array_equal(there.frames[:], clips.frames)
    assert cut.labels[:].min() > 0
    np.testing.assert_array_equal(same_z[:], features.stored(tmp_path / "z")[:])
    assert np.abs(same_z[:]).max() > 0


@pytest.mark.parametrize("name", ["clips", "cut"])
def test_a_worker_that_does_not_see_the_folder_says_so(clips, tmp_path, name):
    clips.save(tmp_path / "clips")
    supervoxels.segment(clips, tmp_path / "cut", n_segments=(4, 10), progress=False)
    load = {"clips": Clips, "cut": supervoxels.Supervoxels}[name].load
    sent = pickle.dumps(load(tmp_path / name))
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="under the same path"):
        pickle.loads(sent)
