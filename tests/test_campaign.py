"""Campaigns go on where they stopped, and are published whole."""

import json

import numpy as np
import pandas as pd
import pytest

from book.campaigns import __main__, repeat


def test_goes_on_after_a_failure(tmp_path):
    asked, told = [], []

    def trial(seed):
        asked.append(seed)
        if seed == 2 and len(asked) < 4:
            raise RuntimeError("the machine went away")
        return [{"value": np.float32(seed) / 2, "what": w} for w in ("x", "y")]

    with pytest.raises(RuntimeError, match="went away"):
        repeat.run("demo", range(4), trial, tmp_path, told.append)
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [
        "seed-0000.json",
        "seed-0001.json",
    ]
    table = repeat.run("demo", range(4), trial, tmp_path, told.append)
    assert asked == [0, 1, 2, 2, 3]
    assert table["seed"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert table["value"].tolist() == [0, 0, 0.5, 0.5, 1, 1, 1.5, 1.5]
    assert told[2] == "demo seed 0: done before"


def test_published_as_one_table(tmp_path):
    trial = lambda seed: [{"value": seed / 3}]  # noqa: E731
    repeat.run("demo", [0, 1], trial, tmp_path / "in", lambda line: None)
    (written,) = repeat.publish(tmp_path / "out", tmp_path / "in")
    assert written == tmp_path / "out" / "campaigns" / "demo.csv"
    table = pd.read_csv(written)
    assert table.columns.tolist() == ["seed", "seconds", "value"]
    assert repeat.publish(tmp_path / "out", tmp_path / "nothing") == []


def test_rows_that_cannot_be_written(tmp_path):
    with pytest.raises(TypeError, match="give numbers or text"):
        repeat.run("demo", [0], lambda seed: [{"a": np.zeros(2)}], tmp_path)
    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.parametrize("text", ["", "a", "1-", "1,,2", "-3"])
def test_seeds_that_are_none(text):
    with pytest.raises(ValueError, match="write numbers and ranges, such as 0-19"):
        repeat.seeds(text)


def test_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(__main__, "FOLDER", tmp_path)
    with pytest.raises(SystemExit):
        __main__.main(["no-such"])
    assert "invalid choice: 'no-such'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["null", "--seeds", "x"])
    assert "seeds is 'x'" in capsys.readouterr().err


def test_one_seed_of_the_smallest_trial(tmp_path):
    from book.campaigns.worlds import TRIALS

    table = repeat.run("null", [0], TRIALS["null"], tmp_path, lambda line: None)
    assert table["world"].tolist() == ["arbitrary sets", "clusters of noise", "planted"]
    record = json.loads((tmp_path / "null" / "seed-0000.json").read_text())
    assert record["seed"] == 0


def test_runs_that_are_not_there_end_a_campaign_with_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("stce.study.known.HOME", tmp_path)
    (tmp_path / "notebooks" / "parameters").mkdir(parents=True)
    file = tmp_path / "notebooks" / "parameters" / "one.yaml"
    file.write_text("description: a run that was never made\ngroups: [laptop]\nseeds: [0]\n")
    with pytest.raises(SystemExit) as stop:
        __main__.main(["truth", "--seeds", "0", "--folder", str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "is not finished" in said and "python -m stce.study run laptop --seeds 0" in said
    assert not list((tmp_path / "truth").glob("*.json"))
