from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

from stce.engine.storage import replacing, write_npy, write_table, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    with replacing(tmp_path / "note.txt") as partial:
        partial.write_text("new")
        assert not (tmp_path / "note.txt").exists()
    assert names(tmp_path) == ["note.txt"] and (tmp_path / "note.txt").read_text() == "new"


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path):
    place = tmp_path / "above" / "run"
    for name in ("old", "new"):
        with replacing(place, folder=True) as partial:
            (partial / name).write_text(name)
    assert names(place) == ["new"] and names(place.parent) == ["run"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path, folder):
    place = tmp_path / "place"
    file = place / "note.txt" if folder else place
    for text, fails in (("never there", True), ("whole", False), ("half", True)):
        with suppress(KeyError), replacing(place, folder=folder) as partial:
            (partial / "note.txt" if folder else partial).write_text(text)
            if fails:
                raise KeyError("in the middle")
        assert file.exists() == (text != "never there")
    assert file.read_text() == "whole" and names(tmp_path) == ["place"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_run_has_left_is_no_part_of_the_next(tmp_path, folder):
    (tmp_path / ".place.tmp").mkdir()
    (tmp_path / ".place.tmp" / "old").write_text("half")
    with replacing(tmp_path / "place", folder=folder) as partial:
        (partial / "new" if folder else partial).write_text("whole")
    assert names(tmp_path) == ["place"]
    assert not folder or names(tmp_path / "place") == ["new"]


def test_a_failed_write_names_the_folder_and_keeps_the_file(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    write_text(tmp_path / "note.txt", "old")
    monkeypatch.setattr("pathlib.Path.write_text", full)
    monkeypatch.setattr("builtins.open", full)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    for write, value in ((write_text, "new"), (write_npy, np.ones(2)), (write_table, frame())):
        with pytest.raises(OSError, match=f"Cannot write into {tmp_path}: No space left.*; free"):
            write(tmp_path / "note.txt", value)
    monkeypatch.undo()
    assert (tmp_path / "note.txt").read_text() == "old" and names(tmp_path) == ["note.txt"]


def frame():
    return pd.DataFrame({"id": ["a", "b"]}, index=[3, 1])


def test_what_is_written_is_read_again(tmp_path):
    write_npy(tmp_path / "rows.npy", np.arange(6).reshape(2, 3).T)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), np.arange(6).reshape(2, 3).T)
    write_table(tmp_path / "table.parquet", frame())
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), frame())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write into .*file: Not a directory; free some space"):
        write_text(tmp_path / "file" / "note.txt", "text")
