"""The campaigns that kill, starve and double studies, on a study whose stages take no time."""

import sys

import pandas as pd
import pytest

from book.campaigns import deaths, soak, tried

STUDY = """
import argparse, sys, time
from stce.study.run import READS, STAGES, Run, notebook_name

ask = argparse.ArgumentParser()
for name in ("--folder", "--seeds", "--set"):
    ask.add_argument(name, default="0")
given = ask.parse_args()
wait = 3 if "--seeds" in sys.argv else 0
run = Run(given.folder)
try:
    with run.writing(study=True):
        time.sleep(wait)
        for name in STAGES:
            stage = run.stage(name, {"seed": int(given.seeds)}, READS[name])
            if stage.todo:
                with stage.write() as folder:
                    (folder / "table.csv").write_text((name + given.seeds) * 3000)
                    time.sleep(0.1)
            shown = run.folder / "notebooks" / notebook_name(name)
            shown.parent.mkdir(exist_ok=True)
            shown.write_text(name)
except (OSError, RuntimeError) as error:
    sys.exit(f"error: {error}")
except KeyboardInterrupt:
    print("stopped; the same command goes on where this one was.", file=sys.stderr)
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder to work in and one for results, with a study that takes no time."""
    work = tmp_path_factory.mktemp("soak")
    (work / "study.py").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deaths, "COMMAND", (sys.executable, str(work / "study.py")))
        patch.setattr(deaths, "KILLS", 2)
        yield work / "work", work / "results"


def repeated(places, name, n, seed=0):
    lines = []
    work, results = places
    table = soak.repeat(name, work, n, seed, results, lines.append)
    assert lines and str(work) not in (results / f"{name}.csv").read_text()
    return table


def test_a_killed_study_ends_as_one_that_nobody_disturbed(places):
    table = repeated(places, "kills", 1)
    assert table.at[0, "whom"] == "tree" and table.at[0, "code"] == -9
    judged = tried.read(places[1])["kills"]
    assert judged["right"].all(), judged.to_dict("records")
    assert tried.hits(judged).to_numpy().sum() == len(table)
    assert not list(places[0].glob("killed-*"))
    assert len(soak.repeat("kills", places[0], 1, 0, places[1])) == len(table)  # no second time


def test_a_disk_without_room_is_told_and_goes_on_once_there_is(places):
    (row,) = repeated(places, "disk", 1, seed=5).to_dict("records")  # read-only
    if row["not_tried"]:
        assert row["not_tried"].startswith("mount: ")
    else:
        assert (row["code"], row["one"], row["ended"]) == (1, True, 0) and row["same"]
        assert "Cannot write to RUN: Read-only file system. Free" in row["sentence"]


def test_of_two_studies_in_one_folder_one_wins(places):
    (row,) = repeated(places, "together", 1, seed=1).to_dict("records")
    assert (row["winners"], row["same"], row["left"], row["code"]) == (1, True, "", 1)
    assert row["sentence"].startswith("error: RUN is being written by process N on HOST (")


def test_a_worker_is_killed(places):
    (row,) = repeated(places, "worker", 1).to_dict("records")
    assert (row["killed"], row["code"], row["same"]) == (1, 0, True)


def test_what_was_not_right_is_counted(tmp_path):
    row = {"kind": "films", "mutation": "cut", "seed": 0, "seconds": 1, "memory_mb": 90}
    row |= dict.fromkeys(("traceback", "hang", "wrong", "outside"), False)
    rows = [
        row | {"outcome": "success", "sentence": ""},
        row | {"outcome": "refused", "sentence": "The video is empty.", "hang": True},
        row | {"outcome": "success", "sentence": "", "outside": True},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "inputs.csv", index=False)
    made = tried.read(tmp_path)
    counts = tried.counts(made).loc["bad input: films"]
    assert counts.to_dict() == {
        "times": 3, "right": 1, "lost": 1, "not one sentence": 0, "tracebacks": 0, "hangs": 1,
    }  # fmt: skip
    assert len(tried.chart(made).axes) == 1


def test_an_unknown_campaign_is_refused(capsys):
    with pytest.raises(SystemExit):
        soak.main(["floods"])
    assert "no campaign 'floods'; choose from kills, disk" in capsys.readouterr().err
