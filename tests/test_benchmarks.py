"""The bench at small sizes: both sides of every comparison compute the same."""

import json
import mmap
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import growth, reference, report, runner, stages, worlds
from benchmarks.costs import Rates, Size, predict, throughput
from stce import features, supervoxels
from stce.concepts import cluster
from stce.study import known

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("key", bench.COMPARISONS)
def test_both_sides_compute_the_same(key):
    if key == "tcav_vs_captum":
        pytest.importorskip("captum")
    pair = bench.COMPARISONS[key](True, "cpu")
    try:
        theirs = pair.theirs(1)
    except runner.Missing as reason:
        pytest.skip(str(reason))
    checks = pair.same(pair.ours(1), theirs, 1)
    assert checks
    assert [check for check in checks if not check.passed] == []


def test_what_a_machine_lacks_is_left_out_with_the_reason(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # as if it were not installed
    assert bench.main(["decode_vs_torchcodec", "--quick"]) == 0
    assert "is left out: torchcodec is not here" in capsys.readouterr().out


def _pair(ours, theirs, limit=0.0, **options):
    def same(mine, other, i):
        return [runner.Check("difference", abs(mine - other), limit)]

    return lambda quick, device: runner.Pair(
        ours, theirs, same, "adding", "subtracting", "all", 1.0, repeats=3, **options
    )


def test_sides_take_turns_and_the_worst_difference_is_kept():
    calls = []

    def side(name, values):
        def run(i):
            calls.append(name)
            return values[i]

        return run

    build = _pair(side("a", [1, 1, 1]), side("b", [1, 3, 2]), share=0.5)
    entry = runner.compare(build, True)
    assert calls == ["a", "b"] * 4  # the first two warm up
    assert entry["checks"] == [{"name": "difference", "value": 2, "limit": 0.0}]
    assert not entry["same"]
    assert entry["ratio_low"] <= entry["ratio"] <= entry["ratio_high"]
    seconds = entry["theirs"]["seconds"]
    ratios = [2 * b / a for a, b in zip(entry["ours"]["seconds"], seconds, strict=True)]
    assert entry["ratio"] == pytest.approx(np.median(ratios))


def test_a_difference_that_is_no_number_fails():
    assert not runner.Check("difference", float("nan"), 1.0).passed
    values = [1.0, float("nan"), 1.0]
    entry = runner.compare(_pair(lambda i: 1.0, lambda i: values[i], limit=1.0), True)
    assert not entry["same"]
    assert entry["checks"][0]["value"] is None


def _taken():
    """Take 128 MB from the system: the heap may have room for them since an earlier test."""
    held = np.frombuffer(mmap.mmap(-1, 2**27), np.uint8)
    held[:] = 1
    return held


def test_memory_that_a_side_takes_is_seen():
    def hold(i):
        held = _taken()
        time.sleep(0.3)  # several times as long as the watch looks away
        return int(held[0] * 0)

    build = _pair(lambda i: 0, hold)
    entry = runner.compare(build, True)
    assert entry["theirs"]["peak_added_mb"] > 80
    assert entry["ours"]["peak_added_mb"] < 40


def test_a_worker_that_ends_meanwhile_hides_no_memory():
    code = "import time; held = bytearray(2**28); print(flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    worker.stdout.read(1)  # it holds 256 MB now
    with runner._Peak("cpu") as peak:
        worker.kill()
        worker.communicate()
        held = _taken()
        time.sleep(0.3)
    assert 100 < peak.added / runner.MB < 200
    del held


def test_results_are_kept_and_a_change_of_the_machine_starts_anew(tmp_path):
    path = tmp_path / "results.json"
    results = runner.Results(path, {"cores": 2})
    results.add("a", "cpu", {"ratio": 2.0})
    results = runner.Results(path, {"cores": 2})
    assert results.has("a", "cpu") and not results.has("a", "cuda") and not results.has("b", "cpu")
    results.add("a", "cuda", {"ratio": 3.0})
    assert set(json.loads(path.read_text())["results"]["a"]) == {"cpu", "cuda"}
    assert not runner.Results(path, {"cores": 4}).has("a", "cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_command_line(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert bench.main(["cav_vs_sklearn", "--quick", "--output", str(path)]) == 0
    content = json.loads(path.read_text())
    entry = content["results"]["cav_vs_sklearn"]["cpu"]
    assert content["quick"] and content["hardware"]["cores"] and content["versions"]["torch"]
    assert entry["same"] and len(entry["ours"]["seconds"]) == len(entry["theirs"]["seconds"]) == 2
    assert "cav_vs_sklearn" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["cav_vs_nothing"])
    assert "there is no comparison 'cav_vs_nothing'; choose of" in capsys.readouterr().err


@pytest.mark.parametrize("pooled", [False, True])
def test_growth_measures_each_number_of_clips(tmp_path, pooled):
    facts = growth.measure(2, tmp_path, pooled)
    assert facts["seconds"] > 0 and facts["open_s"] > 0
    written = [p for p in (tmp_path / "stage").rglob("*") if p.is_file()]
    assert facts["files"] == len(written) < 10
    assert len(np.asarray(features.stored(tmp_path / "stage"))) > 2


def test_the_peak_is_that_of_the_process_itself():
    held = np.ones(2**27)  # 1 GB
    code = "from benchmarks.runner import peak_mb; print(peak_mb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert runner.peak_mb() > held.nbytes / runner.MB
    assert 100 < float(told.stdout) < 900


def test_world_network_is_decided():
    clips = worlds.actors(24, 32)
    network = worlds.trained("c3d", 0.125, clips)
    with torch.inference_mode():
        chance = network(network.prepare(torch.from_numpy(clips.frames))).softmax(1)
    assert (chance.argmax(1).numpy() == clips.labels).mean() > 0.9
    assert chance.max(1).values.median() > 0.5


def test_reference_clusters_as_stce_does():
    rng = np.random.default_rng(0)
    z = (np.repeat(5 * rng.normal(size=(3, 8)), 30, 0) + rng.normal(size=(90, 8))).astype("f4")
    ours = cluster(z, np.zeros(90, int), np.arange(90), ("a",), n_concepts=3, n_keep=10)
    centres, members = reference.cluster(z, 3, 10)
    np.testing.assert_allclose(ours.centres["a"], centres, rtol=1e-5)
    for k in range(3):
        np.testing.assert_array_equal(ours.members("a", k), members[k])


@pytest.mark.parametrize("stretch", [True, False])
def test_cutting_together_equals_one_by_one(stretch):
    """The way of a GPU and the way of a CPU, both run on the CPU."""
    clips = worlds.actors(1, 32, channels=3)
    cut = supervoxels.segment(clips, n_segments=(4, 9), progress=False)
    table = cut.table
    x = torch.from_numpy(clips.frames).permute(0, 4, 1, 2, 3).float()
    x = x.expand(len(table), *x.shape[1:])
    labels = torch.from_numpy(cut.labels[0].astype(np.int16))[table["level"].tolist()]
    label = torch.tensor(table["label"].tolist())
    boxes = torch.tensor(table[["t0", "t1", "y0", "y1", "x0", "x1"]].to_numpy())
    boxes = boxes if stretch else None
    together = features._cut_together(x, labels, label, boxes)
    torch.testing.assert_close(features.cut(x, labels, label, boxes), together, atol=1e-2, rtol=0)


def _results():
    pair = {"ratio": 4.0, "ratio_low": 3.0, "ratio_high": 6.0, "same": True, "reached": True}
    pair |= {side: {"peak_added_mb": 10.0, "stages_s": {"x": 2.0}} for side in ("ours", "theirs")}
    pair |= {"work": "w", "against": "v"}
    pair["theirs"] = pair["theirs"] | {"share": 0.5}
    missed = pair | {"target": 5.0, "reached": False}
    flat = {"clips": [1, 2], "seconds": [[1, 2], [3, 2]], "peak_mb": [5, 6], "exponent": 1.0}
    return {
        "a": {"cpu": pair | {"target": 3.0}, "cuda": pair | {"target": None}},
        "study_vs_reference": {"cpu": missed},
        "growth": {"cpu": flat},
    }


def test_charts_show_every_comparison():
    results = _results()
    assert report.table(results)["ratio"].tolist() == [4.0] * 3
    shown = report.ratios(results).axes[0]
    labels = [text.get_text() for text in shown.get_yticklabels()]
    assert labels == ["a", "a (GPU)", "study_vs_reference"]
    colours = shown.collections[1].get_facecolors()
    assert (colours[0] == colours[1]).all() and (colours[0] != colours[2]).any()
    flat = results["growth"]["cpu"]
    left, right = report.growth({"in place": flat, "pooled": flat | {"peak_mb": [7, 9]}}).axes
    assert left.lines[0].get_ydata().tolist() == [1, 2]
    assert [line.get_ydata().tolist() for line in right.lines] == [[5, 6], [7, 9]]
    assert right.get_ylim()[1] > 9
    bars = report.stages(results["study_vs_reference"]["cpu"]).axes[0].patches
    assert [bar.get_height() for bar in bars] == [2, 4]  # the other side did half of the work
    plt.close("all")


def test_a_missed_target_is_red_and_its_machine_is_told():
    page = report.limits(_results()).to_html()
    assert page.count(report.MISSED) == 1
    head = {"hardware": {"cores": 2, "processor": "p", "memory_gb": 8, "gpu": None}}
    head |= {"revision": "r", "versions": {"torch": "1"}}
    assert report.machine(head) == "Measured on 2 cores (p, 8 GB), revision r; torch 1."


def test_the_page_says_why_a_target_is_missed():
    cells = json.loads((ROOT / "notebooks" / "speed.ipynb").read_text())["cells"]
    (reasons,) = [
        "".join(c["source"]) for c in cells if "What profiling says" in "".join(c["source"])
    ]
    named = set(re.findall(r"`(\w+)`", reasons))
    assert named <= set(bench.COMPARISONS)
    made = report.table(report.read(ROOT / "benchmarks" / "results.json")["results"])
    assert set(made.loc[~made["reached"].astype(bool), "key"]) <= named


def test_results_that_were_not_measured_are_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="measure first: `python -m benchmarks`"):
        report.read(tmp_path / "results.json")


def test_unit_costs_are_all_measured_and_make_a_prediction():
    made = stages.rates(True, "cpu")
    found = made["worlds"]["small"]
    rates = Rates(**found["rates"])
    positive = {name for name, value in found["rates"].items() if value > 0}
    assert positive | {"judge", "null"} == set(found["rates"])
    assert found["flop"] > 1e6
    # Two modes of q = 0 to 2 in three orders, of which all share the intact and the blank clip.
    assert 2 < rates.masks <= 2 + 2 * 3 * 2
    table = predict(rates, Size(2, 3, 3, n_random=10, n_concepts=2))
    assert table["seconds"].gt(0).all()
    share = throughput(rates, found["flop"], made["peak"])["share"].drop("segment")
    assert share.between(0, 1, inclusive="neither").all()


def test_a_prediction_is_not_checked_on_a_run_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(known, "HOME", tmp_path)
    monkeypatch.setattr(stages, "known", lambda: {stages.CHECKED: known.Known("no")})
    with pytest.raises(FileNotFoundError, match="make it first: `python -m stce.study run"):
        stages.check(False, "cpu")
