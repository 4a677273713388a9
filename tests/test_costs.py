"""The cost model is arithmetic: each of its terms can be done by hand."""

import dataclasses
import math

import pytest

from benchmarks.costs import (
    Rates,
    Size,
    bends,
    compare,
    feeding,
    predict,
    speed_up,
    throughput,
    used,
)

RATES = Rates(
    train=0.1,
    segment=0.5,
    embed=0.02,
    cluster=0.001,
    draw=0.01,
    forward=0.02,
    null=3.0,
    fit=0.05,
    judge=0.01,
    mask=0.03,
    write=1e-8,
    supervoxels=100,
    masks=120,
    label_bytes=1e5,
    feature_bytes=2e3,
)
SIZE = Size(10, 20, 36, n_train=100, epochs=3)


def _step(table, stage, step):
    return table.set_index(["stage", "step"]).loc[(stage, step)]


def test_each_step_is_units_times_rate():
    table = predict(RATES, SIZE, 1, 2)
    seconds = table.set_index(["stage", "step"])["seconds"]
    assert seconds["train", "steps"] == pytest.approx(3 * 1000 * 0.1)
    assert seconds["segment", "segment"] == pytest.approx(560 * 0.5 / 2)
    assert seconds["cluster", "embed"] == pytest.approx(20_000 * 0.02)
    assert seconds["cluster", "k-means"] == pytest.approx(20_000 * 0.001 / 2)
    assert seconds["tcav", "draw random clips"] == pytest.approx(2000 * 0.01)
    assert seconds["tcav", "embed clips"] == pytest.approx(2200 * 0.02)
    assert seconds["tcav", "random directions"] == 3
    assert seconds["tcav", "fit CAVs"] == pytest.approx(250 * 0.05)
    assert seconds["tcav", "score"] == pytest.approx(250 * 0.01)
    assert seconds["ablate", "embed"] == pytest.approx(360 * 100 * 0.02)
    assert seconds["ablate", "predict"] == pytest.approx(360 * 120 * 0.03)
    assert _step(table, "segment", "segment")["megabytes"] == pytest.approx(56)
    assert _step(table, "cluster", "embed")["megabytes"] == pytest.approx(40)


def test_throughput_is_work_over_time_and_its_share_of_the_peak():
    found = throughput(RATES, flop=4e9, peak=1e12)
    assert found["per_second"].to_dict() == pytest.approx(
        {"segment": 2, "embed": 50, "forward": 50, "mask": 1 / 0.03, "train": 10}
    )
    shares = {"embed": 0.2, "forward": 0.2, "mask": 4e9 / 0.03 / 1e12, "train": 0.12}
    assert found["share"].drop("segment").to_dict() == pytest.approx(shares)
    assert math.isnan(found.loc["segment", "share"])


def test_a_network_that_is_trained_needs_no_training():
    table = predict(RATES, dataclasses.replace(SIZE, epochs=0))
    assert "train" not in set(table["stage"])


def test_the_last_round_counts_whole_and_says_so():
    # Ten classes on 2 x 8 cores: one round, in which six cores wait.
    step = _step(predict(RATES, SIZE, 2, 8), "cluster", "k-means")
    assert step["seconds"] == pytest.approx(2000 * 0.001)
    assert step["bound"] == "tasks"


def test_one_writer_holds_many_devices_back():
    slow = dataclasses.replace(RATES, write=1e-6)
    step = _step(predict(slow, SIZE, 64, 16), "segment", "segment")
    assert step["seconds"] == pytest.approx(56e6 * 1e-6)
    assert step["bound"] == "writer"


def test_more_devices_are_never_slower_and_never_more_than_linear():
    table = speed_up(RATES, SIZE, [1, 2, 4, 8, 64, 512], 16)
    assert (table["hours"].diff().dropna() <= 0).all()
    assert table["efficiency"].iloc[0] == 1
    assert (table["efficiency"].diff().dropna() <= 1e-12).all()
    assert table["step"].iloc[0] == "" and table["share"].iloc[0] == 0
    # What one process does is left over in the end.
    alone = 2000 * 0.01 + 3 + 250 * 0.01
    assert table["hours"].iloc[-1] * 3600 > alone
    table = speed_up(dataclasses.replace(RATES, null=1e4), SIZE, [512], 16)
    assert table["step"].tolist() == ["tcav: random directions"]
    assert table["bound"].tolist() == ["one process"]


def test_another_device_is_as_fast_as_its_passes():
    other = RATES.on(flop=8e10, tflops=40)
    assert other.embed == other.mask == other.forward == pytest.approx(0.002)
    assert other.train == pytest.approx(0.006)
    assert other.segment == RATES.segment


@pytest.mark.parametrize("name", ["train", "supervoxels"])
def test_rates_are_numbers(name):
    with pytest.raises(ValueError, match=f"{name} is nan; give what was measured"):
        dataclasses.replace(RATES, **{name: float("nan")})


def test_sizes_and_devices_are_counts():
    with pytest.raises(ValueError, match="n_classes is 0; it has to be at least 1"):
        Size(0, 1, 1)
    with pytest.raises(ValueError, match="n_devices is 0, cores is 2"):
        predict(RATES, SIZE, 0)


def test_a_whole_run_is_set_beside_what_was_predicted():
    size = dataclasses.asdict(dataclasses.replace(SIZE, n_train=0, epochs=0))
    steps = predict(RATES, Size(**size), 1, 2).groupby("stage")["seconds"].sum()
    both = compare({"size": size, "seconds": dict(2 * steps)}, RATES, 2)
    assert both["ratio"].tolist() == pytest.approx([2] * 5)
    assert both.index.tolist() == ["segment", "cluster", "tcav", "ablate", "all"]


def test_cores_that_feed_a_device():
    row = feeding({"gpu": RATES}, left_to_cpu=0.04).loc["gpu"]
    assert row.tolist() == pytest.approx([0.5 / (100 * 0.02), 0.5 / 0.02, 0.04 / 0.02])


def test_use_of_every_device_and_network():
    world = {"rates": dataclasses.asdict(RATES), "flop": 1e9}
    table = used({"cpu": {"peak": 1e11, "worlds": {"one": world, "two": world}}})
    assert table.loc[("cpu", "one"), ("embed", "per s")] == pytest.approx(50)
    assert table.loc[("cpu", "two"), ("train", "share")] == pytest.approx(10 * 3 * 1e9 / 1e11)
    assert ("segment", "share") not in table


def test_a_study_bends_where_it_is_no_longer_linear():
    made = speed_up(RATES, SIZE, [1, 8, 64], 2)
    told = bends({"study": made}).loc["study"]
    assert told["bends at"] == made.loc[made["efficiency"] < 0.9, "devices"].iloc[0]
    assert told["hours on 64"] == made["hours"].iloc[-1]
    assert bends({"study": made}, least=0)["bends at"].tolist() == [64]
