"""The study as users run it: the command line, all six notebooks, errors and exit codes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import distributed
import filelock
import nbformat
import numpy as np
import pandas as pd
import pytest

from book import publish, published
from book.campaigns import causal, discoveries, effects, replays, surrogate
from stce import datasets, features, masking, study, supervoxels, tcav
from stce.engine.slic import painter
from stce.evaluation import validation, variants
from stce.study import make
from stce.study.__main__ import main
from stce.study.finished import Finished
from stce.study.run import STAGES, Run
from stce.viz import film


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A finished smoke run: its folder and the seconds of a core that its notebooks took."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, told = base / "shared" / "smoke", base / "smoke.json"
    with filelock.FileLock(base / "smoke.lock"):  # once for all processes that run tests
        if not told.exists():
            started = os.times()
            study.execute("smoke", folder=folder, report=lambda line: None)
            ended = os.times()
            spent = ended.children_user + ended.children_system
            spent -= started.children_user + started.children_system
            told.write_text(json.dumps(spent), "utf-8")
    return folder, json.loads(told.read_text("utf-8"))


def _cli(*arguments):
    """Call the command line, but not in a process of its own, which takes seconds to start."""
    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()) as failed:
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(arguments, code, told.getvalue(), failed.getvalue())


def _copy_until(source: Path, target: Path, last: str) -> Path:
    """Link the first stages of a run, so that a test can go on from there."""
    target.mkdir()
    for stage in STAGES[: STAGES.index(last) + 1]:
        (target / stage).symlink_to(source / stage)
    return target


def test_smoke_runs_all_six_notebooks_in_a_minute(smoke):
    folder, seconds = smoke
    for stage in STAGES:
        assert Run(folder).manifest(stage)["stage"] == stage
        # No clip or video has a file of its own.
        assert len([path for path in (folder / stage).rglob("*") if path.is_file()]) < 22
    executed = sorted(p.name for p in (folder / "notebooks").iterdir())
    assert len(executed) == 6
    for name in executed:
        notebook = nbformat.read(folder / "notebooks" / name, 4)
        assert not [
            o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"
        ]
    assert 5 < seconds < 90


def test_a_second_call_computes_nothing(smoke):
    lines = []
    started = time.monotonic()
    study.execute("smoke", folder=smoke[0], report=lines.append)
    assert time.monotonic() - started < 5
    assert all("finished before" in line for line in lines)


QUICK = {"n_null": 19, "n_randomised": 1, "n_sgd": 3, "n_controls": 1, "n_clips": 1}


def test_a_run_can_be_validated_after_it_is_finished(smoke, tmp_path):
    folder = _copy_until(smoke[0], tmp_path / "smoke", "visualize")
    shutil.copytree(smoke[0] / "notebooks", folder / "notebooks")
    chosen = {**QUICK, "others": [str(smoke[0])], "n_discovery_tried": 2, "fills": ["blur"]}
    study.execute("smoke", chosen, folder=folder, also=["validate"], report=lambda line: None)
    found = {file.stem for file in (folder / "validate").glob("*.parquet")}
    asked = {"significance", "truth", "composition", "sanity", "stability", "fills", "variants"}
    asked |= {"motion"}
    assert found == asked | {"outcomes", "accuracy", "areas", "paired", "pointed"}
    orders = set(pd.read_parquet(folder / "validate" / "outcomes.parquet")["order"])
    assert {"top", "random voxels", "occlusion", "integrated gradients"} < orders
    # The same run, its concepts matched with themselves: nothing has changed.
    table = pd.read_parquet(folder / "validate" / "stability.parquet")
    itself = table[table["changed"].str.startswith("all, ")]
    assert len(itself) and (itself["correlation"].dropna() > 0.999).all()
    place = published.publish_validation(folder, tmp_path / "results")
    assert {f.name for f in place.iterdir()} == {f"{n}.csv" for n in found - {"outcomes"}} | {
        "facts.json"
    }
    assert set(published.tables(place)) == found - {"outcomes"}
    with pytest.raises(ValueError, match="choose from validate"):
        study.execute("smoke", folder=folder, also=["validation"])


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        ("fc9/logit/pooled", "layer 'fc9'"),
        ("fc7/softmax/pooled", "target is 'softmax'; choose one of logit, log_prob"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_before_the_questions_that_take_hours(
    smoke, monkeypatch, tried, message
):
    monkeypatch.setattr(validation, "Sceptic", None)  # nothing is asked of the run
    asked = SimpleNamespace(tried=[tried], n_clips=1, n_discovery_tried=1, seed=0)
    with pytest.raises(ValueError, match=message):
        validation.answers(Finished(smoke[0]), asked, [])


def test_what_parts_truly_do_is_told_beside_what_methods_say_of_them(smoke):
    it = Finished(smoke[0])
    table = pd.DataFrame(causal.compared(it, n_clips=1)).assign(run="smoke", seed=0)
    parts = table.dropna(subset="part")
    assert set(parts["part"]) == set(causal.CHANGES) and parts["id"].nunique() == 2
    # What is drawn without the arms is another clip; the logits are those of whole clips.
    assert (parts.query("part == 'arms'")["effect"] != 0).all()
    shown = table.dropna(subset="method")
    assert set(shown["method"]) == set(effects.METHODS)
    assert shown[["insertion", "deletion"]].stack().between(0, 1).all()
    told, _ = effects.methods(table)
    assert set(told["method"]) == set(effects.METHODS.values())
    assert told["correlation"].between(-1, 1).all()


def test_the_concepts_of_a_run_explain_its_logits_to_some_share(smoke):
    told = surrogate.of_run(Finished(smoke[0])).set_index("description")["explained"]
    assert set(told.index) >= {"concepts", "shuffled clips", "features"} and (told <= 1).all()


def untested(it):
    """Return a run's scores without what the test against chance has added."""
    return it.tcav.scores.drop(columns=["q_chance", "verdict"])


def test_ways_to_find_concepts_are_judged_alike(smoke):
    it = Finished(smoke[0])
    table = pd.DataFrame(discoveries.compared(it, n_clips=1)).set_index("way")
    assert table.index.tolist() == ["kmeans", "nmf", "convex", "sae"]
    assert table.notna().all(axis=None) and (table["found"] > 0).all()
    # The run's own way, judged by what it has stored.
    told = validation.Sceptic(it).parts_found()["truth"].iloc[-1]
    assert table.loc["kmeans", ["lift", "correlation"]].tolist() == pytest.approx(
        told[["gain", "correlation"]].tolist()
    )


def test_concepts_are_found_again_in_unseen_clips(smoke, monkeypatch):
    monkeypatch.setattr(replays, "scored_runs", lambda *_: {"smoke": smoke[0]})
    table = pd.DataFrame(replays.found_again(0))
    it = Finished(smoke[0])
    subject, parts = it.subject(), it.body["parts"]
    shares = table.groupby(["class", "concept"])["share"].sum()
    assert shares.to_numpy() == pytest.approx(1, abs=1e-3)
    for (name, concept), told in table.groupby(["class", "concept"]):
        assert (told["rank"] == 1 + subject.rankings[name].index(concept)).all()
    # One of them by hand: its voxels in all test clips of the class, supervoxel by supervoxel.
    name, concept = table.loc[0, ["class", "concept"]]
    inside = np.zeros(len(parts))
    for video in subject.clips.indices_of(name):
        case = subject.case(video)
        for i in np.flatnonzero(case.concept == concept):
            mask = case.labels[case.table["level"].iloc[i]] == case.table["label"].iloc[i]
            here = np.asarray(subject.clips.parts[video])[mask]
            inside += np.bincount(here, minlength=len(parts))
    told = table[(table["class"] == name) & (table["concept"] == concept)].set_index("part")
    assert told.loc[list(parts), "share"].to_numpy() == pytest.approx(
        inside / inside.sum(), abs=1e-4
    )


def test_two_ways_to_cut_are_judged_alike(smoke, monkeypatch):
    monkeypatch.setattr(discoveries, "scored_runs", lambda *_: {"smoke": smoke[0]})
    quick = {"n_clips": 1, "n_discovery": 2, "n_random_clips": 60}
    table = pd.DataFrame(discoveries.cut_by(0, **quick)).set_index("segment_on")
    assert table.index.tolist() == ["pixels", "features"]
    assert table[["gain", "truth", "pieces"]].notna().all(axis=None)
    it = Finished(smoke[0])
    part = variants.part_of(it, seed=0, **quick)
    assert table.loc["pixels", "pieces"] == len(part.cut) / len(part.clips)
    told = part.compare([], progress=False).iloc[0]
    assert table.loc["pixels", ["gain", "truth"]].tolist() == told[["gain", "truth"]].tolist()
    assert table.loc["features", "pieces"] != table.loc["pixels", "pieces"]


def test_the_samples_of_a_run_give_its_scores_again(smoke):
    it = Finished(smoke[0])
    again = tcav.score(it.network, it.samples, **it.options).scores
    pd.testing.assert_frame_equal(again, untested(it))


def test_pages_are_drawn_from_a_readers_own_run(smoke, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(publish, "RENDERED", tmp_path / "pages")
    monkeypatch.chdir(smoke[0].parent)

    def ask(*words):
        monkeypatch.setattr(sys, "argv", ["publish", *words])
        publish.main()

    ask("figure_5", "--set", "run_folder=smoke", "class_name=walking")
    assert capsys.readouterr().out == "figure_5 executed and stored\n"
    drawn = (tmp_path / "pages" / "figure_5.ipynb").read_text(encoding="utf-8")
    assert "concepts of **walking** score" in drawn and str(smoke[0]) not in drawn
    refused = {
        ("figure_5", "--set", "run_folder=nowhere"): "nowhere",
        ("figure_5", "--set", "class=running"): "class_name",
        ("figure_5", "--set", "run_folder=smoke", "class_name=flying"): "choose one of boxing",
        ("figure_5", "--set", "smoke"): "KEY=VALUE",
        ("figure_5", "--set", "run_folder=3"): "3",
        ("--set", "run_folder=smoke"): "such as figure_5",
    }
    for words, sentence in refused.items():
        with pytest.raises(SystemExit, match="2"):
            ask(*words)
        assert sentence in capsys.readouterr().err


def test_the_same_seed_gives_the_same_tables_to_the_bit_also_on_a_cluster(
    smoke, tmp_path, monkeypatch
):
    monkeypatch.setattr(make, "STAGES", STAGES[:5])
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**how) as cluster:
        chosen = {"scheduler": cluster.scheduler_address}
        study.execute("smoke", chosen, folder=tmp_path / "again", report=lambda line: None)
    first, again = Run(smoke[0]), Run(tmp_path / "again")
    for stage, table in (
        ("segment", "train-supervoxels/supervoxels"),
        ("cluster", "concepts"),
        ("tcav", "scores"),
        ("ablate", "outcomes"),
    ):
        a, b = (pd.read_parquet(r.path(stage) / f"{table}.parquet") for r in (first, again))
        assert a.equals(b), table
    for stage in STAGES[1:5]:
        assert first.manifest(stage)["outputs"] == again.manifest(stage)["outputs"], stage


def test_only_later_stages_run_again_after_a_change(smoke, tmp_path):
    folder = _copy_until(smoke[0], tmp_path / "changed", "train")
    chosen, lines = {"features": "pooled", "layer": "conv5b", "segment_on": "features"}, []
    study.execute("smoke", chosen, start="segment", folder=folder, report=lines.append)
    assert [line.split()[1] for line in lines] == list(STAGES[1:])
    run = Run(folder)
    clips, cut = Finished(run).discovery
    paint = painter(Finished(run).network, "features")
    keys = ("n_segments", "compactness", "sigma", "min_fraction")
    how = {key: run.parameters("segment")[key] for key in keys}
    again = supervoxels.segment(clips.select([0]), on=paint, progress=False, **how)
    np.testing.assert_array_equal(again.labels[0], cut.labels[0])
    assert run.parameters("cluster")["features"] == "pooled"
    # Whoever looks at the run again sees supervoxels as it did.
    it = Finished(run)
    rows = np.arange(5)
    again = features.extract_rows(it.network, *it.discovery, rows)
    np.testing.assert_allclose(again, it.features[:5], atol=1e-5)
    scores = tcav.score(it.network, it.samples, **it.options).scores
    pd.testing.assert_frame_equal(scores, untested(it), rtol=1e-5)
    tested = validation.Sceptic(it, n_null=20).chance()
    assert tested["p_weights"].notna().all()
    assert it.explanation("boxing").network.grid == it.network.grid


def test_a_skipped_stage_must_have_the_same_parameters(smoke, tmp_path):
    folder = _copy_until(smoke[0], tmp_path / "run", "cluster")
    again = _cli("run", "smoke", "--from", "tcav", "--set", "n_keep=7", "--folder", folder)
    assert again.returncode == 1
    assert "Stage 'cluster' in" in again.stderr and "finished with other param" in again.stderr


def test_textures_that_stood_in_for_hmdb_are_replaced_once_it_is_there(
    smoke, tmp_path, monkeypatch
):
    monkeypatch.setattr(make, "STAGES", STAGES[:4])
    folder, hmdb, lines = _copy_until(smoke[0], tmp_path / "run", "cluster"), tmp_path / "hmdb", []
    chosen = {"random_source": "hmdb", "random_folder": str(hmdb), "n_random_clips": 12}
    how = {"folder": folder, "report": lines.append}
    study.execute("smoke", chosen, start="tcav", **how)
    assert f"there is no HMDB51 in {hmdb}: moving textures stand in" in lines[0]
    assert Run(folder).manifest("tcav")["notes"]["random_clips"] == "textures (no HMDB51)"
    actors = datasets.load("actors", "test", takes=1, n_frames=20)
    for i in range(12):
        path = hmdb / f"class{i % 3}" / f"film_class{i % 3}_{i}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        film.write_video(path, actors.read(i).repeat(3, axis=-1), fps=25)
    study.execute("smoke", chosen, start="tcav", **how)
    assert Run(folder).manifest("tcav")["notes"]["random_clips"] == "HMDB51"
    study.execute("smoke", chosen, start="tcav", **how)
    assert lines[-1].endswith("finished before")


def test_negatives_of_other_classes_are_the_supervoxels_that_are_embedded_already(smoke, tmp_path):
    folder = _copy_until(smoke[0], tmp_path / "smoke", "cluster")
    chosen = {"random_source": "others", "random_from": "supervoxels", **QUICK}
    chosen |= {"n_discovery_tried": 2, "fills": ["blur"]}
    how = {"folder": folder, "also": ["validate"], "report": lambda line: None}
    study.execute("smoke", chosen, start="tcav", **how)
    it = Finished(folder)
    samples, negatives = it.samples, it.negatives
    assert Run(folder).manifest("tcav")["notes"]["random_clips"] == negatives.used
    np.testing.assert_array_equal(samples.random, it.features[:][negatives.rows])
    clips, cut = it.discovery
    owner = np.array(clips.classes)[clips.labels[cut.table["video"].iloc[negatives.rows]]]
    for name in it.concepts.centres:
        assert samples.groups_of(name).shape == (4, 8)
        assert name not in owner[samples.groups_of(name)]
    again = tcav.score(it.network, samples, **it.options).scores
    pd.testing.assert_frame_equal(again, untested(it))
    embedded = negatives.embed(it.network, stretch=False)
    np.testing.assert_allclose(embedded, samples.random, atol=1e-4)
    tables = published.tables(published.publish_validation(folder, tmp_path / "results"))
    assert tables["significance"]["p_derivative"].notna().all()
    assert {"variants", "stability", "sanity"} < set(tables)
    # The same run against other negatives, for a table of them; the run's own are as they were.
    plain, textures = it.against(random_source="textures", random_from="clips")
    assert textures.used == "textures" and plain.random.shape[0] == 32
    np.testing.assert_array_equal(plain.random, Finished(smoke[0]).samples.random)
    with pytest.raises(ValueError, match="takes str, one of 'textures', 'others', 'folder', 'h"):
        it.against(random_source="clouds")
    with pytest.raises(ValueError, match="There are 3 random clips, too few for groups of 8"):
        it.against(random_from="clips")


def test_films_of_a_folder_are_negatives(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "STAGES", STAGES[:4])
    folder = _copy_until(smoke[0], tmp_path / "run", "cluster")
    actors = datasets.load("actors", "test", takes=1, n_frames=40)
    for i in range(6):
        path = tmp_path / "films" / "park" / f"{i}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        film.write_video(path, actors.read(i).repeat(3, axis=-1), fps=25)
    chosen = {"random_source": "folder", "random_folder": str(tmp_path / "films")}
    chosen |= {"random_from": "supervoxels"}
    (tmp_path / "films" / "broken.avi").write_bytes(b"no film")
    study.execute("smoke", chosen, start="tcav", folder=folder, report=lambda line: None)
    notes = Run(folder).manifest("tcav")["notes"]
    assert notes["random_clips"] == "films of a folder"
    assert [row["id"] for row in notes["skipped_random"]] == ["broken.avi"]
    it = Finished(folder)
    assert set(it.negatives.clips.groups) == {f"park/{i}.avi" for i in range(6)}
    assert it.samples.random.shape == (32, it.network.n_features)
    pd.testing.assert_frame_equal(
        tcav.score(it.network, it.samples, **it.options).scores, untested(it)
    )
    (tmp_path / "films" / "Boxing").mkdir()
    (tmp_path / "films" / "park" / "0.avi").rename(tmp_path / "films" / "Boxing" / "0.avi")
    given = map("=".join, chosen.items())
    answer = _cli("run", "smoke", "--folder", tmp_path / "no", "--set", *given)
    assert answer.returncode != 0 and "is of class 'boxing', which is to be expl" in answer.stderr
    assert "Traceback" not in answer.stderr and not (tmp_path / "no").exists()


def _started(folder):
    command = [sys.executable, "-m", "stce.study", "run", "smoke", "--folder", str(folder)]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **how)


STOPPED = "stopped; the same command goes on where this one was.\n"


def test_a_stopped_study_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    started = _started(folder)
    while not (folder / ".segment.partial").exists() and started.poll() is None:
        time.sleep(0.1)
    with pytest.raises(RuntimeError, match=r"being written by process .* -m stce.study run smoke"):
        study.execute("smoke", folder=folder, report=lambda line: None)
    os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C does
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (130, STOPPED)
    assert Run(folder).manifest("train") and not (folder / "segment").exists()
    assert not (folder / ".study.lock").exists()


# Seconds after the call, or after its first sign of life: modules are loaded, the first kernel
# starts, works, and ends.
@pytest.mark.parametrize(
    ("sign", "seconds", "number"),
    [
        (None, 0.4, signal.SIGINT),
        (None, 1.5, signal.SIGTERM),
        (".study.lock", 0.0, signal.SIGINT),
        (".study.lock", 0.2, signal.SIGTERM),
        (".study.lock", 1.0, signal.SIGINT),
        (".stage.lock", 0.0, signal.SIGTERM),
        (".stage.lock", 1.0, signal.SIGINT),
        ("train/manifest.json", 0.1, signal.SIGINT),
    ],
)
def test_a_study_is_stopped_in_one_line_at_any_moment(tmp_path, sign, seconds, number):
    started = _started(tmp_path / "run")
    while sign and not (tmp_path / "run" / sign).exists() and started.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (130, STOPPED)


EARLY = """
import os, runpy, signal, sys
class First:
    def find_spec(self, name, path, target=None):
        if name == "argparse":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, First())
runpy.run_module("stce.study", run_name="__main__")
"""


def test_ctrl_c_is_one_line_from_the_first_import_on():
    answer = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (130, STOPPED)


LATE = """
import os, runpy, signal, sys
class Last:
    def __del__(self, kill=os.kill, number=signal.SIGINT, process=os.getpid()):
        kill(process, number)
last = Last()
sys.argv = ["study", "list"]
runpy.run_module("stce.study", run_name="__main__")
"""


def test_ctrl_c_while_python_ends_changes_nothing():
    answer = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "") and "smoke" in answer.stdout


def test_verify_names_the_file_and_the_command_that_makes_it_again(smoke, tmp_path):
    folder = tmp_path / "smoke"
    shutil.copytree(smoke[0], folder)
    whole = _cli("verify", folder)
    assert whole.returncode == 0 and whole.stdout.count("as it was written") == len(STAGES)
    chunk = folder / "cluster" / "features.zarr" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    answer = _cli("verify", folder)
    (line,) = [line for line in answer.stdout.splitlines() if "not as it was" in line]
    assert answer.returncode == 1 and answer.stdout.count("as it was written") == len(STAGES)
    assert f"{chunk} holds something else" in line
    assert f"`python -m stce.study run smoke --folder {folder} --from cluster --force`" in line
    shutil.rmtree(chunk.parent)
    again = _cli("run", "smoke", "--from", "tcav", "--force", "--folder", folder)
    assert again.returncode == 1 and f"{chunk} is missing" in again.stderr
    assert "Traceback" not in again.stderr
    for stage in STAGES[2:]:
        shutil.rmtree(folder / stage)
    part = _cli("verify", folder)
    assert part.returncode == 1 and part.stdout.count("as it was written") == 2
    assert "Stage 'ablate' is missing. Make it: `python -m stce.study run smoke --f" in part.stdout


def test_the_notebook_of_an_older_stage_is_not_taken_for_that_of_a_new_one(smoke, tmp_path):
    folder = _copy_until(smoke[0], tmp_path / "smoke", "visualize")
    shutil.copytree(smoke[0] / "notebooks", folder / "notebooks")
    shown = folder / "notebooks" / "06_visualize.ipynb"
    shown.rename(shown.with_suffix(".failed.ipynb"))
    shown.write_text("of an older stage, since the study was killed before the new one was stored")
    study.execute("smoke", folder=folder, report=lambda line: None)
    assert nbformat.read(shown, 4).cells and len(list(shown.parent.iterdir())) == len(STAGES)


def test_a_kernel_that_dies_is_one_sentence(tmp_path):
    source = tmp_path / "dies.ipynb"
    cell = nbformat.v4.new_code_cell("import os; os._exit(1)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
    with pytest.raises(make.StageFailed, match="dies.ipynb failed: its process was ended from out"):
        make.run_notebook(source, tmp_path / "out.ipynb", {})


def test_a_kernel_that_dies_while_it_starts_is_one_sentence_too(tmp_path, monkeypatch, caplog):
    (tmp_path / "ipykernel_launcher.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    source = make.HOME / "notebooks" / "06_visualize.ipynb"
    with pytest.raises(make.StageFailed, match="06_visualize.ipynb failed: its process was ended"):
        make.run_notebook(source, tmp_path / "out.ipynb", {})
    assert not caplog.records


def test_the_list_of_runs():
    command = [sys.executable, "-m", "stce.study", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0
    assert {"actors", "smoke"} <= {line.split()[0] for line in answer.stdout.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "Unknown run 'nothing'; choose a run ("),
        (["run", "smoke", "--set", "epoch=3"], "Unknown parameter 'epoch'; did you mean 'epochs'?"),
        (["run", "smoke", "--set", "epochs=3.5"], "'epochs' of 'train' is 3.5 (float)"),
        (["run", "smoke", "--set", "epochs"], "--set takes KEY=VALUE"),
        (["run", "smoke", "--from", "cut"], "Unknown stage 'cut'; choose from train, segment"),
        (["run", "smoke", "--set", "dataset_options={colour: 1}"], "has no option 'colour'"),
        (["run", "smoke", "--set", "dataset=ucf"], "There is no data set 'ucf'"),
        (["run", "smoke", "--set", "lr=1e-3"], "YAML takes 1e-3 for text: write 1.0e-3"),
        (["run", "smoke", "--set", "layer=[a"], "The value in --set 'layer=[a' cannot be read"),
        (["run", "smoke", "--set", "run_folder=x"], "run_folder is 'x', but a run's folder goes"),
        (["run", "smoke", "--set", "n_jobs=0"], "n_jobs is 0; give the number of processes"),
        (["run", "smoke", "--set", "device=gpu"], "device is 'gpu'; give 'auto', 'cpu', 'cuda' or"),
        (["run", "smoke", "--set", "q_max=9", "n_concepts=6"], "q_max is 9, but n_concepts is 6"),
        (
            ["run", "smoke", "--set", "n_random_clips=4"],
            "n_random_clips is 4, too few for groups of n_keep=8",
        ),
        (["run", "smoke", "--set", "random_source=sky"], "one of 'textures', 'others', 'folder'"),
        (["run", "smoke", "--set", "random_from=sky"], "one of 'clips', 'supervoxels'"),
        (["run", "smoke", "--set", "n_segments=[8, 4]"], "n_segments is [8, 4]; give counts from"),
        (["run", "smoke", "--set", "crop=[99, 99]"], "crop is [99, 99], larger than frame_size"),
        (["run", "smoke", "--set", "max_frames=2"], "max_frames is 2, fewer than n_frames=16"),
    ],
)
def test_a_wrong_call_is_one_paragraph_and_starts_nothing(tmp_path, arguments, message):
    folder = tmp_path / "run"
    answer = _cli(*arguments, "--folder", folder) if arguments[0] == "run" else _cli(*arguments)
    assert answer.returncode != 0
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not folder.exists()


def test_a_missing_stage_names_the_command(tmp_path):
    answer = _cli("run", "smoke", "--from", "tcav", "--folder", tmp_path / "run")
    assert answer.returncode == 1
    assert "Stage 'tcav' reads stage 'train'" in answer.stderr
    assert "python -m stce.study run" in answer.stderr


@pytest.mark.parametrize(
    ("setting", "stage", "message"),
    [
        ({"classes": ["swimming"]}, "segment", "There is no class 'swimming'"),
        ({"device": "cuda:7"}, "cluster", "cuda:7"),
    ],
)
def test_an_error_inside_a_notebook_is_one_paragraph_and_loses_nothing(
    smoke, tmp_path, setting, stage, message
):
    before = STAGES[STAGES.index(stage) - 1]
    folder = _copy_until(smoke[0], tmp_path / "run", before)
    with pytest.raises(make.StageFailed, match=f"_{stage}.ipynb failed: .*{message}"):
        study.execute("smoke", setting, start=stage, folder=folder, report=lambda line: None)
    assert Run(folder).manifest(before)
    assert not (folder / stage).exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layer": "fc9"}, "c3d has no layer 'fc9' to be split at; its layers are conv1, pool1"),
        ({"concept_layer": "conv9"}, "c3d has no layer 'conv9'"),
        ({"features": "pool"}, "features is 'pool'; choose one of supervoxels, pooled, or an ear"),
        (
            {"features": "conv3b", "concept_layer": "conv2"},
            "features is 'conv3b'; .*not before 'conv2'",
        ),
        ({"features": "pooled"}, "layer 'fc7' of c3d has .* no positions to pool over"),
    ],
)
def test_a_layer_that_the_network_lacks_is_told_before_it_is_trained(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        study.execute("smoke", setting, folder=tmp_path / "run", report=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_a_notebook_refuses_a_name_that_papermill_only_warns_about(smoke, tmp_path):
    import papermill

    source = make.HOME / "notebooks" / "06_visualize.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="Unknown parameter 'class_nam'"):
        papermill.execute_notebook(
            source,
            tmp_path / "out.ipynb",
            {"run_folder": str(smoke[0]), "class_nam": "walking"},
            kernel_name="python3",
            progress_bar=False,
        )


def test_manifests_hold_no_path_of_this_machine(smoke):
    for stage in STAGES:
        text = (smoke[0] / stage / "manifest.json").read_text()
        assert str(smoke[0].parent) not in text
        assert json.loads(text)["seconds"] >= 0


def test_own_videos_go_through_all_six_notebooks_and_a_broken_one_is_listed(tmp_path):
    actors = datasets.load("actors", "train", takes=1, n_frames=20)
    ending = {0: "avi", 1: "mp4", 2: "mkv", 3: "avi"}
    for name in ("boxing", "walking"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        rows = actors.table[actors.table["class"] == name].groupby("person").head(2).index[:8]
        for i, row in enumerate(rows):
            path = tmp_path / "videos" / name / f"person{i // 2}_take{i % 2}.{ending[i // 2]}"
            film.write_video(path, actors.read(int(row)).repeat(3, axis=-1), fps=25)
    (tmp_path / "videos" / "boxing" / "person0_take9.avi").write_bytes(b"not a video")
    small = {
        "dataset_options": {"folder": str(tmp_path / "videos"), "test_groups": ["person3"]},
        "frame_size": [34, 40], "crop": [32, 32], "epochs": 1, "n_discovery": 4,
        "n_segments": [4, 10], "n_concepts": 4, "n_keep": 6, "n_groups": 3, "n_random_clips": 30,
        "q_max": 2, "n_random_orders": 2, "random_from": "supervoxels", "amp": True,
    }  # fmt: skip
    (folder,) = study.execute("folder", small, folder=tmp_path / "run", report=lambda line: None)
    notes = Run(folder).manifest("train")["notes"]
    assert [s["id"] for s in notes["skipped_train"]] == ["boxing/person0_take9.avi"]
    # What was computed in, whatever was asked for: a network trains in bfloat16 on a GPU alone.
    assert notes["precision"] == "float32"
    used = masking.precision(True, "cpu")
    assert Run(folder).manifest("ablate")["notes"] == {"precision": used}
    outcomes = pd.read_parquet(folder / "ablate" / "outcomes.parquet")
    assert set(outcomes["id"].str.extract(r"(person\d)")[0]) == {"person3"}
