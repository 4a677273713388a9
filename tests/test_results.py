"""Published results: what is written is what the run found, and pages say what is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from book import paper, publish, published, tables, wild
from stce.ablation import MATCHED
from stce.study import known
from stce.study.known import Known
from stce.study.run import STAGES, Run
from stce.viz.tables import leads

CLASSES = ("boxing", "walking")
ROOT = Path(__file__).parent.parent


def finish(folder, seed=0, network="c3d", dataset="actors", change=None):
    """Write a run with all six stages, small but of the real form.

    `change` takes the outcomes and gives those that are written, and controls.
    """
    rng = np.random.default_rng(seed)
    parameters = {
        "train": {
            "dataset": dataset,
            "network": network,
            "width": 0.125,
            "n_frames": 16,
            "crop": [56, 56],
            "epochs": 3,
        },
        "segment": {"n_segments": [15, 50, 80], "n_discovery": 20},
        "cluster": {"n_concepts": 25, "stretch": False},
        "tcav": {"n_groups": 50},
    }
    ids = [f"{c}{i}" for c in CLASSES for i in range(20)]
    for number, name in enumerate(STAGES):
        stage = Run(folder).stage(name, {**parameters.get(name, {}), "seed": seed}, STAGES[:number])
        with stage.write() as out:
            if name == "train":
                (out / "videos-train").mkdir()
                pd.DataFrame({"id": ids}).to_parquet(out / "videos-train" / "table.parquet")
                pd.DataFrame({"correct": rng.random(40) < 0.9}).to_parquet(
                    out / "predictions.parquet"
                )
            if name == "tcav":
                stage.notes["random_clips"] = "HMDB51"
                pd.DataFrame(
                    {c: [1, 2] if c != "class" else list(CLASSES) for c in published.SCORES}
                ).to_parquet(out / "scores.parquet")
            if name == "ablate":
                rows = [
                    (v, ids[v], ids[v][:-1].rstrip("1"), mode, order, repeat, q)
                    for v in range(40)
                    for mode in ("add", "remove")
                    for order, repeats in (("top", 1), ("random", 4), ("least", 1))
                    for repeat in range(repeats)
                    for q in range(6)
                ]
                names = ["video", "id", "class", "mode", "order", "repeat", "q"]
                table = pd.DataFrame(rows, columns=names)
                chance = {"top": 0.8, "random": 0.5, "least": 0.2}
                level = table["order"].map(chance)
                level = level.where(table["mode"] == "add", 1 - level)
                table["correct"] = rng.random(len(table)) < level
                table["probability"] = level.where(table["q"] > 0, 0.5).where(table["q"] < 5, 1.0)
                table["revealed"] = 0.5
                if change:
                    table, controls = change(table)
                    controls.to_parquet(out / "controls.parquet")
                table.to_parquet(out / "outcomes.parquet")


KNOWN = Known("kth-standard", groups=["kth"], tables=[3, 4], seeds=[0, 1])


def test_published_outcomes_give_the_runs_own_accuracies(tmp_path):
    finish(tmp_path / "run", seed=1)
    place = published.publish(KNOWN, tmp_path / "run", tmp_path / "results")
    assert place == tmp_path / "results" / "kth-standard" / "seed-1"
    found = published.load(tmp_path / "results")
    original = pd.read_parquet(tmp_path / "run" / "ablate" / "outcomes.parquet")
    keys = ["mode", "order", "q"]
    pd.testing.assert_series_equal(
        found.outcomes.groupby(keys)["correct"].mean(),
        original.groupby(keys)["correct"].mean(),
        check_index_type=False,
    )
    fact = found.runs.iloc[0]
    assert (fact["model"], fact["setting"], fact["seed"]) == ("C3D", "standard", 1)
    assert fact["random_clips"] == "HMDB51" and fact["n_trained_on"] == 40
    assert sum(f.stat().st_size for f in place.iterdir()) < 100_000


def test_published_evidence_is_the_mean_log_odds_of_the_steps(tmp_path):
    finish(tmp_path / "run", seed=1)
    place = published.publish(KNOWN, tmp_path / "run", tmp_path / "results")
    told = published.evidence(tmp_path / "results", KNOWN.name)
    assert len(told) == 40 * 2 * 3 and (told["seed"] == 1).all()
    # Four steps at 4 to 1, and one as sure as a probability in float32 can tell: 1e7 to 1.
    rows = told.query("mode == 'remove' and order == 'least'")
    least, least_p = rows["log_odds"], rows["probability"]
    assert least.to_numpy() == pytest.approx((4 * np.log(4) + np.log(1e7)) / 5, abs=1e-3)
    assert least_p.to_numpy() == pytest.approx((4 * 0.8 + 1) / 5, abs=1e-4)
    # What was published before log odds were is read as having none.
    old = pd.read_csv(place / "outcomes.csv").drop(columns="log_odds")
    old.to_csv(place / "outcomes.csv", index=False)
    assert published.evidence(tmp_path / "results", KNOWN.name).empty
    assert len(published.load(tmp_path / "results").outcomes) == 40 * 2 * 3 * 6


def test_what_damaged_clips_are_named_is_published_and_who_is_favoured_told(tmp_path):
    def change(table):
        # Whatever is hidden by chance is taken for walking, a blank clip for boxing.
        top, blank = table[table["order"] == "top"], table["q"].eq(0) & table["mode"].eq("add")
        chance = pd.concat(top.assign(order=order, predicted="walking") for order in MATCHED)
        return table.assign(predicted=table["class"].mask(blank, "boxing")), chance

    finish(tmp_path / "run", change=change)
    published.publish(KNOWN, tmp_path / "run", tmp_path / "results")
    named = published.named(tmp_path / "results", KNOWN.name)
    assert set(named["order"]) == {"top", "least", "random", "blank", "whole", *MATCHED}
    shares = named.groupby(["class", "mode", "order"])["share"].sum()
    assert shares.to_numpy() == pytest.approx(1, abs=1e-3)
    pulled = wild.pulled(named)
    assert pulled.loc["walking"].tolist()[1:] == [100, 100]
    assert pulled.loc["boxing"].tolist()[1:] == [0, 0]
    said = wild.falls(pulled)
    assert "are taken for *walking* (100, 100 %) more often than one of 2" in said
    assert "A blank clip is taken for *boxing*" in said
    assert "are taken for no class more often" in wild.falls(0.3 * pulled)


def test_folds_are_compared_with_chance_as_one_run_in_each_measure(tmp_path):
    for fold in (1, 2):

        def change(table, fold=fold):
            # Removing tells nothing; adding boxing does in both folds, walking in the second alone.
            table["id"] = f"fold{fold}/" + table["id"]
            found = table["class"].eq("boxing") | (fold == 2)
            told = table["mode"].eq("add") & table["order"].eq("top") & found
            table["correct"], table["probability"] = told, np.where(told, 0.8, 0.2)
            table["predicted"] = "boxing"
            rest = table[table["order"] == "least"]
            return table, pd.concat(rest.assign(order=order) for order in MATCHED)

        finish(tmp_path / "run" / str(fold), seed=0, change=change)
        name = Known(f"two-fold{fold}", groups=["two"], tables=[], seeds=[0])
        published.publish(name, tmp_path / "run" / str(fold), tmp_path / "results")
    each = wild.measured(tmp_path / "results", "two-fold*")
    told = {name: table["gain"].tolist() for name, table in each.items()}
    assert [name for name, _ in each["correct"].index[::2]] == ["boxing", "walking", "all"]
    assert told["correct"] == pytest.approx([1, 0, 0.5, 0, 0.75, 0])
    assert told["probability"] == pytest.approx([0.6, 0, 0.3, 0, 0.45, 0], abs=1e-3)
    odds = 2 * np.log(4)
    assert told["log_odds"] == pytest.approx([odds, 0, odds / 2, 0, 0.75 * odds, 0], abs=1e-3)
    assert each["correct"]["n_clips"].tolist() == [40] * 4 + [80] * 2
    one = wild.measured(tmp_path / "results", "two-fold1")["correct"]
    assert one["gain"].tolist() == [1, 0, 0, 0, 0.5, 0]
    said = wild.in_words({"correct": one})
    assert said.endswith("adding or removing: *boxing*. Behind: *none*.")
    shown = wild.side_by_side(each, "Gain").to_html()
    assert "log_odds" in shown and "n_clips" not in shown


def test_what_a_validation_answers_is_told_in_words():
    stability = {"changed": ["k-means"] * 2, "class": ["a", "all"], "correlation": [0.1, 0.8]}
    truth = {"class": ["a", "all"], "top": [9, 2.0], "random": [9, 1.0], "p": [1, 0.01]}
    networks = {"network": ["trained", "fc", "stem"], "significant": [0.5, 0.25, 0.1]}
    areas = {
        "mode": ["add"] * 3 + ["remove"] * 3,
        "order": ["top", "least", "occlusion"] * 2,
        "gain_low": [0, 0.1, 0.1, 0, 0.1, -0.4],
        "gain_high": [0, 0.2, 0.2, 0, 0.2, -0.1],
    }
    tables = {
        "significance": {"verdict": ["for", "against", "chance", "not separable"]},
        "motion": {"kind": ["unsure", "look", "unsure"]},
        "sanity": networks, "stability": stability, "truth": truth, "areas": areas,
    }  # fmt: skip
    said = wild.asked({name: pd.DataFrame(table) for name, table in tables.items()}).splitlines()
    assert said[0].endswith("2 of 4 concepts; with random weights 25 %.")
    assert "hold 2.0 times" in said[1] and "at random 1.0 times (p = 0.0100)" in said[1]
    assert said[2].endswith("made anew: k-means 0.80.")
    assert "clear of zero: adding *least, occlusion*; removing *least*." in said[3]
    assert said[3].endswith("Behind: adding *none*; removing *occlusion*.")
    assert said[4].endswith("Of 3 concepts, each changed by itself, 2 unsure, 1 look.")


def test_an_unfinished_run_publishes_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    assert published.publish(KNOWN, tmp_path / "run", tmp_path / "results") is None
    assert not (tmp_path / "results").exists()
    assert published.load(tmp_path / "results").runs.empty


def test_publishing_again_replaces_and_other_seeds_stay(tmp_path):
    for seed in (0, 1):
        finish(tmp_path / f"run{seed}", seed=seed)
        published.publish(KNOWN, tmp_path / f"run{seed}", tmp_path / "results")
    finish(tmp_path / "again", seed=0, network="r3d18")
    published.publish(KNOWN, tmp_path / "again", tmp_path / "results")
    found = published.load(tmp_path / "results")
    assert found.runs[["seed", "model"]].to_numpy().tolist() == [[1, "C3D"], [0, "R3D"]]
    assert not list((tmp_path / "results").rglob("*.partial"))


def test_seeds_that_are_shown_together_are_published_together(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(known, "HOME", tmp_path)
    monkeypatch.setattr(publish, "known", lambda: {KNOWN.name: KNOWN})
    target = tmp_path / "results"
    finish(KNOWN.folder(0))
    publish.publish_runs(target)  # the first seeds of a run that has none yet
    assert [place.name for place in (target / KNOWN.name).iterdir()] == ["seed-0"]
    finish(KNOWN.folder(1), seed=1)
    publish.publish_runs(target)
    before = {file: file.read_bytes() for file in target.rglob("*.*") if file.is_file()}
    assert len({file.parent for file in before}) == 2
    for seed in (0, 1):
        shutil.rmtree(KNOWN.folder(seed))
    finish(KNOWN.folder(0), network="r3d18")
    publish.publish_runs(target)
    assert {file: file.read_bytes() for file in before} == before
    assert "left as it is: seed 1 was published, and is not here" in capsys.readouterr().out


def test_no_manifest_of_a_published_run_names_this_machine(tmp_path):
    finish(tmp_path / "run")
    place = published.publish(KNOWN, tmp_path / "run", tmp_path / "results")
    assert str(tmp_path) not in (place / "facts.json").read_text()
    assert set(json.loads((place / "facts.json").read_text())["seconds"]) == set(STAGES)


def test_a_table_holds_the_papers_cells_and_ours_in_one_shape(tmp_path):
    for seed in (0, 1):
        finish(tmp_path / f"run{seed}", seed=seed)
        published.publish(KNOWN, tmp_path / f"run{seed}", tmp_path / "results")
    found = published.load(tmp_path / "results")
    shown = tables.beside_paper(paper.table(3), found.beside(3)).data
    assert list(shown.index) == [("C3D", "Top"), ("C3D", "Random"), ("C3D", "Least")]
    assert list(shown.columns.get_level_values(0).unique()) == ["Paper (KTH)", "Ours (actors, kth)"]
    assert shown.loc[("C3D", "Top"), ("Paper (KTH)", "5")] == "<b>46.23</b>"
    assert shown.loc[("C3D", "Random"), ("Paper (KTH)", "Baseline")] == "91.31"
    mine = found.outcomes.query("mode == 'add' and order == 'top' and q == 5")["correct"].mean()
    cell = shown.loc[("C3D", "Top"), ("Ours (actors, kth)", "5")]
    assert f">{100 * mine:.1f}</a>" in cell and "05_ablate.html" in cell


def test_a_model_that_was_not_run_leaves_its_cells_empty(tmp_path):
    finish(tmp_path / "run", network="i3d")
    known = Known("kinetics-i3d", groups=["kinetics"], tables=[1])
    published.publish(known, tmp_path / "run", tmp_path / "results")
    shown = tables.beside_paper(paper.table(1), published.load(tmp_path / "results").beside(1)).data
    ours = shown["Ours (actors, kinetics)"]
    assert (ours.loc["C3D"] == "").all().all() and (ours.loc["I3D"].iloc[0, :5] != "").all()


def test_films_of_a_folder_have_rows_of_their_own(tmp_path):
    finish(tmp_path / "run", network="i3d", dataset="folder")
    films = Known("films", groups=["films"], tables=[1])
    published.publish(films, tmp_path / "run", tmp_path / "results")
    found = published.load(tmp_path / "results").beside(1)
    shown = tables.beside_paper(paper.table(1), found).data
    assert list(shown.columns.get_level_values(0).unique()) == ["Paper (Kinetics)", "Ours"]
    assert (shown["Ours"].iloc[:9] == "").all().all()
    own = shown.loc["I3D<br>real clips,<br>pretrained"]
    assert (own["Paper (Kinetics)"] == "").all().all() and (own["Ours"].iloc[0, :5] != "").all()


def test_without_any_run_the_papers_numbers_stand_alone(tmp_path):
    shown = tables.beside_paper(paper.table(1), published.load(tmp_path).beside(1)).data
    assert shown.shape == (9, 6)
    assert "<b>58.54</b>" in shown.to_numpy()


@pytest.mark.parametrize("number", [0, 7, "1"])
def test_there_are_six_tables(number):
    with pytest.raises(ValueError, match="tables 1 to 6"):
        paper.table(number)


def test_a_table_that_was_never_published_is_named(tmp_path):
    (tmp_path / "null.csv").write_text("seed\n0\n")
    assert set(published.tables(tmp_path, ["null"])) == {"null"}
    with pytest.raises(FileNotFoundError, match="has no table labels, truth"):
        published.tables(tmp_path, ["truth", "null", "labels"])


def test_leads_are_marked_by_verdict():
    rows = [("add", "least", 1, 40.0, "holds"), ("add", "least", 2, 3.0, "within noise")]
    rows += [("remove", "least", 1, -40.0, "reversed"), ("remove", "least", 2, 0.0, "within noise")]
    columns = ["mode", "second", "q", "gap", "verdict"]
    shown = leads(pd.DataFrame(rows, columns=columns)).data
    assert shown.to_numpy().tolist() == [["+40 ✓", "+3 ≈"], ["-40 ✗", "+0 ≈"]]


@pytest.fixture
def checkout(tmp_path):
    """What the command that publishes reads and writes, in a folder of its own."""
    for part in ("book", "notebooks", "stce", "data/paper"):
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


def _publish(checkout, *words):
    command = [sys.executable, "-m", "book.publish", *words]
    options = {"cwd": checkout, "env": os.environ | {"PYTHONPATH": str(checkout)}}
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_a_run_made_again_stands_beside_what_was_published(checkout):
    published = checkout / "book" / "results"
    before = {file: file.read_bytes() for file in published.rglob("*.csv")}
    finish(checkout / "data" / "runs" / "actors-small" / "seed-1", seed=1)
    done = _publish(checkout, "--again")
    assert done.returncode == 0, done.stderr
    assert "actors-small seed 1: published" in done.stdout
    assert {file: file.read_bytes() for file in before} == before
    assert (published / "again" / "actors-small" / "seed-1" / "outcomes.csv").exists()
    cells = json.loads((checkout / "notebooks" / "tables.ipynb").read_text())["cells"]
    (shown,) = [cell for cell in cells if cell["id"] == "tables-again-shown"]
    assert "actors-small" in json.dumps(shown["outputs"])


def test_a_page_that_is_not_there_is_refused(checkout):
    done = _publish(checkout, "speeed")
    assert done.returncode == 2 and "there is no page 'speeed'" in done.stderr


def test_a_page_is_executed_in_its_folder_and_one_without_its_run_is_left(checkout):
    pages = checkout / "book" / "pages"
    before = {path: path.read_text() for path in pages.iterdir()}
    changed = json.loads(before[pages / "table_5.ipynb"])
    shown = [cell for cell in changed["cells"] if cell.get("outputs")]
    checked = shown[-1]["outputs"]
    for cell in shown:
        cell["outputs"] = []
    (pages / "table_5.ipynb").write_text(json.dumps(changed))
    done = _publish(checkout, "table_5", "figure_1")
    assert done.returncode == 0, done.stderr
    assert "table_5 executed and stored" in done.stdout
    assert "figure_1 is left as it is. Run 'actors' was never made here" in done.stdout
    cells = json.loads((pages / "table_5.ipynb").read_text())["cells"]
    assert [c["source"] for c in cells] == [c["source"] for c in changed["cells"]]
    assert cells[-1]["outputs"] == checked and all("papermill" not in c["metadata"] for c in cells)
    del before[pages / "table_5.ipynb"]
    assert {path: path.read_text() for path in before} == before
