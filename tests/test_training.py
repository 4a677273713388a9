import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stce import models, training
from stce.clips import Clips
from stce.models.adapt import Functions
from stce.models.store import read_tensors, write_tensors
from stce.training import evaluate, learning_rate, loop, train
from stce.training.draws import RandomClips
from stce.videos import Videos

CLASSES = ("up", "down", "alone")
SIZE = (8, 16, 16)


class Lamps(Videos):
    """A noisy room where a lamp is turned up, turned down or left alone: only time tells."""

    def __init__(self, per_class=4, shape=(10, 18, 18), channels=1, seed=0, classes=CLASSES):
        labels = np.arange(per_class * len(classes)) % len(classes)
        table = pd.DataFrame({"label": labels, "class": np.array(classes)[labels]})
        table["id"] = table["group"] = [f"v{i:02d}" for i in range(len(labels))]
        super().__init__(table, classes)
        self.shape, self.channels, self.seed = shape, channels, seed
        self.reads, self.fail_at = 0, None

    def read(self, i):
        self.reads += 1
        if self.reads == self.fail_at:
            raise OSError("killed")
        rng = np.random.default_rng([self.seed, i])
        frames = rng.integers(0, 60, (*self.shape, self.channels), dtype=np.uint8)
        slope = (1, -1, 0)[self.table["label"].iloc[i] % 3]
        light = 98 + 90 * slope * np.linspace(-1, 1, len(frames))
        return frames + light.astype(np.uint8)[:, None, None, None]


def clips(videos):
    frames = np.stack([videos.read(i)[1:9, 1:17, 1:17] for i in range(len(videos))])
    table = videos.table
    return Clips(frames, table["label"], table["id"], table["group"], videos.classes)


def network(name="r3d18", **changes):
    settings = {"n_classes": 3, "width": 0.125, "in_channels": 1, "input_size": SIZE}
    return models.build(name, **{**settings, "dropout": 0.3, **changes})


def fit(videos, folder, net=None, **changes):
    settings = {"epochs": 3, "batch_size": 5, "n_frames": 8, "crop": (16, 16), "flip": False}
    return train(net or network(), videos, folder, **{**settings, "seed": 3, **changes})


def weights(path):
    return load_file(path)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", ["c3d", "r3d18"])
def test_it_learns_what_only_time_tells(tmp_path, name):
    videos, test = Lamps(16), clips(Lamps(8, seed=1))
    net = network(name, dropout=0.0)
    table = fit(
        videos, tmp_path, net, test=test, epochs=12, batch_size=8, lr=0.03, schedule="onecycle",
        max_norm=1.0,
    )  # fmt: skip
    assert table["test_accuracy"].iloc[-1] >= 0.9
    assert table["loss"].iloc[-1] < 0.5 * table["loss"].iloc[0]
    assert not net.training and net.classes == CLASSES
    last = models.load(tmp_path / "last.safetensors")
    assert evaluate(last, test)["correct"].mean() == table["test_accuracy"].iloc[-1]


def test_files_and_history(tmp_path):
    videos = Lamps()
    test = clips(Lamps(2, seed=1))
    table = fit(videos, tmp_path / "a" / "b", test=test, epochs=5, evaluate_every=2, lr_step=2)
    folder = tmp_path / "a" / "b"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["best.safetensors", "history.csv", "last.safetensors"]
    assert table.columns.tolist() == ["epoch", "lr", "loss", "accuracy", "test_accuracy"]
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(table["lr"], [0.01, 0.01, 1e-3, 1e-3, 1e-4])
    assert table["test_accuracy"].notna().tolist() == [False, True, False, True, True]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), table)
    best = models.load(folder / "best.safetensors")
    chosen = table.loc[table["test_accuracy"].idxmax()]
    assert best.metadata == {"epoch": chosen["epoch"], "test_accuracy": chosen["test_accuracy"]}
    assert evaluate(best, test)["correct"].mean() == chosen["test_accuracy"]
    assert models.load(folder / "last.safetensors").metadata == {"epoch": 5}


def test_without_test_clips_best_is_by_training_accuracy(tmp_path):
    table = fit(Lamps(), tmp_path)
    assert table["test_accuracy"].isna().all()
    best = models.load(tmp_path / "best.safetensors").metadata
    assert best == {"epoch": table["accuracy"].idxmax() + 1, "accuracy": table["accuracy"].max()}


def test_the_moments_of_the_videos_go_into_the_network(tmp_path):
    videos = Lamps(2)
    fit(videos, tmp_path, epochs=1)
    values = np.stack([videos.read(i) for i in range(len(videos))]) / 255
    net = models.load(tmp_path / "last.safetensors")
    np.testing.assert_allclose(net.mean, [values.mean()], rtol=1e-5)
    np.testing.assert_allclose(net.std, [values.std()], rtol=1e-5)


@pytest.mark.parametrize("schedule", training.SCHEDULES)
@pytest.mark.parametrize("fail_at", [5, 12 * 2 + 7])  # reads: in the first epoch, in the third
def test_stopped_and_resumed_is_bit_identical(tmp_path, monkeypatch, schedule, fail_at):
    videos, test = Lamps(), clips(Lamps(2, seed=1))
    monkeypatch.setattr(loop, "moments", lambda videos: ([0.3], [0.25]))
    settings = {"test": test, "epochs": 4, "schedule": schedule, "evaluate_every": 1, "flip": True}
    straight = fit(videos, tmp_path / "straight", **settings)
    videos.reads, videos.fail_at = 0, fail_at
    with pytest.raises(OSError, match="killed"):
        fit(videos, tmp_path / "stopped", **settings)
    assert not (tmp_path / "stopped" / "last.safetensors").exists()
    torch.rand(7)  # the global random state must not matter
    before = videos.reads
    resumed = fit(videos, tmp_path / "stopped", **settings)
    done = (fail_at - 1) // 12
    assert videos.reads - before == 12 * (4 - done)
    for name in ("last.safetensors", "best.safetensors"):
        first, second = (weights(tmp_path / run / name) for run in ("straight", "stopped"))
        assert same(first, second)
    pd.testing.assert_frame_equal(straight, resumed)


def test_a_resumed_training_takes_its_weights_from_the_state(tmp_path):
    videos = Lamps(2)
    straight = network()
    fit(videos, tmp_path / "straight", straight, epochs=2)
    videos.reads, videos.fail_at = 0, 6 * 2 + 3  # moments read each video once
    with pytest.raises(OSError, match="killed"):
        fit(videos, tmp_path / "stopped", epochs=2)
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    fit(videos, tmp_path / "stopped", other, epochs=2)
    assert same(straight.state_dict(), other.state_dict())


def test_a_state_of_other_arguments_is_not_gone_on_with(tmp_path):
    videos = Lamps(2)
    videos.fail_at = 6 * 2 + 3
    with pytest.raises(OSError, match="killed"):
        fit(videos, tmp_path)
    with pytest.raises(ValueError, match=r"training with lr=0.01, not 0.02; give the same"):
        fit(videos, tmp_path, lr=0.02)
    with pytest.raises(ValueError, match=r"training with network="):
        fit(videos, tmp_path, network(width=0.25))
    fit(videos, tmp_path)
    assert (tmp_path / "last.safetensors").exists()


def test_the_seed_decides_and_nothing_else(tmp_path):
    videos = Lamps(2)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    fit(videos, tmp_path / "a", epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    fit(videos, tmp_path / "b", epochs=1)
    fit(videos, tmp_path / "c", epochs=1, seed=4)
    a, b, c = (weights(tmp_path / name / "last.safetensors") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.parametrize(
    ("last_good", "what"),
    [(1.0, "the loss became nan"), (1.5, "the weights overflowed")],  # an epoch has two steps
)
def test_a_training_that_diverges_says_so(tmp_path, monkeypatch, last_good, what):
    videos = Lamps(2)

    def explode(progress, *rest):
        return 0.01 if progress < last_good else float("inf")

    monkeypatch.setattr(loop, "learning_rate", explode)
    with pytest.raises(RuntimeError, match=rf"{what} in epoch 2 at .* inf: .*lower lr"):
        fit(videos, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.safetensors", "resume.safetensors"]
    for name in names:
        assert all(value.isfinite().all() for value in weights(tmp_path / name).values())


def test_onecycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=101, cycle_momentum=False, pct_start=31 / 101
    )
    for step in range(101):
        ours = learning_rate(step / 10, "onecycle", 0.1, 10)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step < 100:
            theirs.step()


def test_the_papers_schedule():
    rates = [learning_rate(e, "step", 0.01, 150) for e in (0, 49.99, 50, 99.99, 100, 149.99)]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


class Counting(Videos):
    """Every voxel tells its time, row and column."""

    def __init__(self, n=40, shape=(12, 10, 9)):
        names = [f"v{i}" for i in range(n)]
        columns = {"id": names, "label": np.arange(n) % 2, "class": "c", "group": names}
        super().__init__(pd.DataFrame(columns), ("a", "b"))
        grid = np.indices(shape).transpose(1, 2, 3, 0).astype(np.uint8)
        self.frames = grid

    def read(self, i):
        return self.frames


def test_random_clips_are_consecutive_everywhere_and_flipped_half_the_time():
    sampler = RandomClips(Counting(), (4, 6, 6), True, 16, seed=0)
    starts, flips, sizes = [], [], []
    for epoch in range(20):
        for frames, labels, weight in sampler.batches(epoch):
            assert weight == 1
            frames = frames.numpy().astype(int)
            assert frames.shape[1:] == (4, 6, 6, 3)
            sizes.append(len(frames))
            assert len(labels) == len(frames)
            assert (np.diff(frames[..., 0], axis=1) == 1).all()
            assert (np.diff(frames[..., 1], axis=2) == 1).all()
            steps = np.diff(frames[..., 2], axis=3)
            flipped = steps[:, 0, 0, 0] == -1
            assert (steps == np.where(flipped, -1, 1)[:, None, None, None]).all()
            flips.extend(flipped)
            starts.extend(frames.min(axis=(1, 2, 3)))
    assert set(sizes) == {13, 14}  # 40 videos in three steps
    assert 0.45 < np.mean(flips) < 0.55
    # All 9 x 5 x 4 places occur: 800 draws leave about 2 of 180 out.
    assert np.min(starts, axis=0).tolist() == [0, 0, 0]
    assert np.max(starts, axis=0).tolist() == [8, 4, 3]
    assert len({tuple(start) for start in np.array(starts)}) > 165


def test_an_epoch_takes_every_video_once_in_an_order_of_its_own():
    videos = Counting()
    taken = []
    videos.read = lambda i: taken.append(i) or videos.frames
    sampler = RandomClips(videos, (4, 6, 6), False, 16, seed=0)
    first = np.concatenate([labels for _, labels, _ in sampler.batches(0)])
    again = np.concatenate([labels for _, labels, _ in sampler.batches(0)])
    _ = list(sampler.batches(1))
    epochs = np.array(taken).reshape(3, 40)
    assert (np.sort(epochs, axis=1) == np.arange(40)).all()
    assert (epochs[0] == epochs[1]).all() and (epochs[0] != epochs[2]).any()
    assert (first == epochs[0] % 2).all() and (first == again).all()
    assert all((frames[..., 2].diff(dim=3) == 1).all() for frames, *_ in sampler.batches(0))


@pytest.mark.parametrize(
    ("videos", "changes", "message"),
    [
        (Lamps(), {"epochs": 0}, "epochs must be at least 1, got 0"),
        (Lamps(), {"lr": 0.0}, "lr must be above 0"),
        (Lamps(), {"schedule": "cosine"}, "schedule must be one of step, onecycle, got 'cosine'"),
        (Lamps(), {"momentum": 1.0}, "momentum must be"),
        (Lamps(), {"label_smoothing": 1.0}, "label_smoothing must be"),
        (Lamps(), {"max_norm": -1.0}, "max_norm must be at least 0"),
        (Lamps(), {"evaluate_every": 0}, "evaluate_every must be at least 1"),
        (Lamps(), {"n_frames": 16}, r"\[16, 16, 16\] do not fit .* \[8, 16, 16\]"),
        (Lamps(classes=("a", "b")), {}, "3 logits for 2 classes"),
        (Lamps().select([0, 1, 3, 4]), {}, "4 training videos leave .* empty: alone;"),
        (Lamps(shape=(10, 18, 15)), {}, r"'v\d\d' is \(10, 18, 15\).*smaller than the clips"),
        (Lamps(shape=(7, 18, 18)), {}, "smaller than the clips"),
        (Lamps(channels=3), {}, "in_channels=1, the data 3"),
    ],
)
def test_train_says_what_is_wrong(tmp_path, videos, changes, message):
    with pytest.raises(ValueError, match=message):
        fit(videos, tmp_path, **changes)


def test_test_clips_of_other_classes(tmp_path):
    test = clips(Lamps(1, classes=("down", "up", "alone")))
    with pytest.raises(ValueError, match="the same data set"):
        fit(Lamps(), tmp_path, test=test)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_evaluate(batch_size):
    data = clips(Lamps(2))
    net = network()
    net.set_moments([0.3], [0.25])
    table = evaluate(net, data, batch_size=batch_size)
    assert net.training  # as it was
    net.eval()
    with torch.no_grad():
        values = net(net.prepare(data.frames)).softmax(1).numpy()
    assert table["id"].tolist() == data.ids.tolist()
    assert table["class"].tolist() == [CLASSES[i] for i in data.labels]
    assert table["predicted"].tolist() == [CLASSES[i] for i in values.argmax(1)]
    assert (table["correct"] == (table["class"] == table["predicted"])).all()
    np.testing.assert_allclose(table["probability"], values[np.arange(6), data.labels], rtol=1e-4)
    assert not evaluate(net, data)["correct"].isna().any() and not net.training


def test_evaluate_restores_the_mode_after_an_error():
    data, net = clips(Lamps(1, shape=(10, 18, 18))), network(input_size=(8, 12, 12))
    with pytest.raises(ValueError, match="cut the clips to this size"):
        evaluate(net, data)
    assert net.training


def test_evaluate_with_other_classes():
    net = network()
    net.classes = ("walk", "run", "wave")
    with pytest.raises(ValueError, match="trained for the classes walk, run, wave, not for up"):
        evaluate(net, clips(Lamps(1)))


def test_evaluate_without_clips():
    assert len(evaluate(network(), clips(Lamps(1)).select([]))) == 0


def test_nothing_is_pickled(tmp_path):
    videos = Lamps(2)
    videos.fail_at = 6 * 2 + 3
    with pytest.raises(OSError, match="killed"):
        fit(videos, tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        size = int.from_bytes(path.read_bytes()[:8], "little")
        header = json.loads(path.read_bytes()[8 : 8 + size])
        assert "stce" in header["__metadata__"]
    assert len(list(tmp_path.iterdir())) == 2


def test_mixed_precision_is_for_gpus_only(tmp_path):
    videos = Lamps(2)
    fit(videos, tmp_path / "a", epochs=1, amp=True)
    fit(videos, tmp_path / "b", epochs=1)
    a, b = (weights(tmp_path / name / "last.safetensors") for name in "ab")
    assert same(a, b)


def test_a_training_that_goes_on_elsewhere_says_what_it_was_computed_in(tmp_path):
    videos = Lamps(2)
    videos.fail_at = 6 * 2 + 3
    with pytest.raises(OSError, match="killed"):
        fit(videos, tmp_path, amp=True)
    state = tmp_path / "resume.safetensors"
    tensors, header = read_tensors(state)
    assert header["settings"]["amp"] is False  # no GPU, so none of it was
    header["settings"]["amp"] = True
    write_tensors(state, tensors, {"stce": json.dumps(header)})
    videos.fail_at = None
    with pytest.raises(ValueError, match="a training with amp=True, not False"):
        fit(videos, tmp_path, amp=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", [False, True])
def test_it_learns_on_a_gpu(tmp_path, amp):
    test = clips(Lamps(6, seed=1))
    table = fit(
        Lamps(16), tmp_path, network(dropout=0.0), test=test, epochs=16, batch_size=8, lr=0.05,
        schedule="onecycle", device="cuda", amp=amp,
    )  # fmt: skip
    assert table["test_accuracy"].iloc[-1] >= 0.9


def test_the_parts_of_a_batch_are_the_batch_and_their_weights_make_its_mean():
    whole = list(RandomClips(Counting(), (4, 6, 6), True, 16, 0).batches(3))
    dealt = [
        list(RandomClips(Counting(), (4, 6, 6), True, 16, 0, (i, 2)).batches(3)) for i in (0, 1)
    ]
    assert {len(labels) % 2 for _, labels, _ in whole} == {0, 1}
    for (frames, labels, _), *parts in zip(whole, *dealt, strict=True):
        assert sum(len(some) for _, some, _ in parts) == len(labels)
        both = torch.cat([some for some, *_ in parts]).flatten(1).long().sum(1)
        assert sorted(both.tolist()) == sorted(frames.flatten(1).long().sum(1).tolist())
        mean = sum(weight * some.double().mean() for some, _, weight in parts) / 2
        assert float(mean) == pytest.approx(float(frames.double().mean()), rel=1e-12)


def test_a_batch_too_small_for_the_processes_is_refused():
    with pytest.raises(ValueError, match="batch_size is 2 for 3 processes"):
        RandomClips(Counting(), (4, 6, 6), True, 2, 0, (0, 3))


def test_numbers_of_numpy_are_numbers(tmp_path):
    table = fit(Lamps(), tmp_path, epochs=np.int64(1), lr=np.float32(0.01), seed=np.int64(0))
    assert len(table) == 1


def test_evaluate_takes_features_of_ones_own():
    test = clips(Lamps())
    own = Functions(lambda x: x.mean((3, 4)).flatten(1), nn.Linear(8, 3), (1, 8, 16, 16))
    table = evaluate(own, test)
    assert len(table) == len(test) and table["probability"].between(0, 1).all()
