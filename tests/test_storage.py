import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import SafetensorError
from zarr.codecs import ZstdCodec

from stce.engine import storage
from stce.engine.storage import (
    changed,
    explain_write,
    growing,
    grown,
    new_array,
    open_array,
    present,
    read_file,
    read_rows,
    replacing,
    seal,
    swap,
    write_npy,
    write_table,
    write_text,
)


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


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_folder_is_never_absent_while_another_takes_its_place(tmp_path, monkeypatch, call):
    for name in ("place", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note.txt").write_text(name)
    made = []

    def dies(self, target, rename=Path.rename):
        made.append(target)
        if len(made) >= call:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", dies)
        swap(tmp_path / "new", tmp_path / "place")
    text = (present(tmp_path / "place") / "note.txt").read_text()
    assert text == ("new" if call == 3 else "place")


def test_two_threads_that_write_one_file_do_so_one_after_the_other(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_text(tmp_path / "note.txt", str(i) * 1000), range(8)))
    assert len(set((tmp_path / "note.txt").read_text())) == 1 and names(tmp_path) == ["note.txt"]


def test_a_full_disk_is_told_whatever_writes(tmp_path):
    for wrong in (OSError(28, "No space"), SafetensorError("I/O error: no room (os error 28)")):
        with pytest.raises(OSError, match="Cannot write into .*; free some") as told:
            with explain_write(tmp_path):
                raise wrong
        assert told.value.errno == 28


def test_a_chunk_of_zeros_is_written_and_a_lost_one_is_named(tmp_path):
    array = new_array(tmp_path / "a.zarr", (5, 3), np.float32, rows=2)
    array[:2], array[2:] = 1, 0
    assert open_array(tmp_path / "a.zarr")[:].sum() == 6
    again = open_array(tmp_path / "a.zarr", mode="r+")
    again[:2] = 0
    assert open_array(tmp_path / "a.zarr")[:].sum() == 0
    (tmp_path / "a.zarr" / "c" / "2" / "0").unlink()
    with pytest.raises(FileNotFoundError, match="a.zarr/c/2/0 is missing, and zeros would be read"):
        open_array(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("shape", "rows"), [((7, 3), 2), ((5,), 1), ((9, 2, 1, 3), 4), ((2, 3), 8)]
)
def test_chunks_share_files_as_zarr_itself_writes_them(tmp_path, monkeypatch, shape, rows):
    monkeypatch.setattr(storage, "PACKED", 3)
    values = np.random.default_rng(0).integers(0, 9, shape).astype(np.int16)
    level = {"compressors": ZstdCodec(level=1)}
    growing(tmp_path / "ours", shape, np.int16, rows, **level)[:] = values
    ours = grown(tmp_path / "ours")
    theirs = new_array(tmp_path / "theirs", shape, np.int16, rows, shards=ours.shards, **level)
    theirs[:] = values
    np.testing.assert_array_equal(ours[:], values)
    np.testing.assert_array_equal(ours[-1], values[-1])
    texts = [(tmp_path / name / "zarr.json").read_text() for name in ("ours", "theirs")]
    assert texts[0] == texts[1]
    files = [
        sorted(p.stat().st_size for p in (tmp_path / n).rglob("*")) for n in ("ours", "theirs")
    ]
    assert files[0] == files[1]


def test_what_a_killed_run_of_zarr_has_left_is_no_part_of_a_sealed_folder(tmp_path):
    new_array(tmp_path / "a.zarr", (1, 3), np.float32)[:] = 1
    (tmp_path / "a.zarr" / "c" / "0" / "0.12ab.partial").write_text("half")
    seal(tmp_path, of="test")
    assert not list(tmp_path.rglob("*.partial")) and changed(tmp_path, every=True) == []


def spoil(path):
    path.write_bytes(b"\x00damaged\xff" * 9)


def test_whatever_cannot_be_read_is_named_with_a_remedy(tmp_path):
    new_array(tmp_path / "a.zarr", (2, 3), np.float32)[:] = 1
    write_table(tmp_path / "table.parquet", frame())
    chunk = tmp_path / "a.zarr" / "c" / "1" / "0"
    names_of = ("table.parquet", "facts.json", "arrays.safetensors")
    spoil(chunk)
    array = open_array(tmp_path / "a.zarr")
    assert array[0].sum() == 3
    with pytest.raises(IndexError):
        array[2]
    for rows in (lambda: array[1], lambda: read_rows(array, [1])):
        with pytest.raises(ValueError, match=r"a\.zarr cannot be read .*; get it again"):
            rows()
    with pytest.raises(ValueError, match=r"table\.parquet cannot be read .*label"):
        read_file(tmp_path / "table.parquet", "id", "label")
    for name in names_of:
        spoil(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} cannot be read .*; get it again, or make"):
            read_file(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.json cannot be read"):
        read_file(tmp_path / "none.json")


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_no_hang(tmp_path):
    os.mkfifo(tmp_path / "facts.json")
    with pytest.raises(ValueError, match=r"facts\.json cannot be read .*pipe or a device"):
        read_file(tmp_path / "facts.json")
    new_array(tmp_path / "a.zarr", (1, 3), np.float32)[:] = 1
    (tmp_path / "a.zarr" / "c" / "0" / "0").unlink()
    os.mkfifo(tmp_path / "a.zarr" / "c" / "0" / "0")
    with pytest.raises(FileNotFoundError, match="a.zarr/c/0/0 is missing"):
        open_array(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    os.mkfifo(tmp_path / "a.zarr" / "zarr.json")
    with pytest.raises(ValueError, match="a.zarr cannot be read .*pipe or a device"):
        open_array(tmp_path / "a.zarr")
    (tmp_path / "manifest.json").mkdir()
    assert changed(tmp_path) == [f"{tmp_path / 'manifest.json'} cannot be read"]
    (tmp_path / "manifest.json").rmdir()
    os.mkfifo(tmp_path / "manifest.json")
    assert changed(tmp_path) == [f"{tmp_path / 'manifest.json'} cannot be read"]


def test_an_array_that_says_it_has_chunks_of_nothing_is_named(tmp_path):
    new_array(tmp_path / "a.zarr", (2, 3), np.uint8)[:] = 1
    facts = tmp_path / "a.zarr" / "zarr.json"
    said = json.loads(facts.read_text("utf-8"))
    said["chunk_grid"]["configuration"]["chunk_shape"] = [0, 3]
    facts.write_text(json.dumps(said), "utf-8")
    with pytest.raises(ValueError, match="a.zarr cannot be read"):
        open_array(tmp_path / "a.zarr")
