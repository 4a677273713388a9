"""How clips and arrays get onto the disk: complete, or not at all."""

import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from safetensors.numpy import load_file, save_file


@contextmanager
def explain_write(folder, remedy="free some space or choose another folder, and run again"):
    """Re-raise an OSError with the folder, the reason and the remedy in one paragraph."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"Cannot write into {folder}: {reason}; {remedy}.") from error


@contextmanager
def replacing(path, folder=False):
    """Yield a hidden path beside this one, and move what is written there to its place.

    A file or folder that is there already stays until the block ends well. If the block fails,
    nothing of the new one stays. With `folder` the hidden path is made, and all above it.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "note.txt") as partial:
    ...     _ = partial.write_text("kept", "utf-8")
    >>> [path.name for path in folder.iterdir()]
    ['note.txt']
    """
    path = Path(path)
    partial, old = (path.with_name(f".{path.name}.{what}") for what in ("tmp", "old"))
    try:
        _remove(partial)  # left by a killed run
        if folder:
            with explain_write(path.parent):
                partial.mkdir(parents=True)
        yield partial
        with explain_write(path.parent):
            if path.is_dir():
                _remove(old)
                path.rename(old)
            os.replace(partial, path)
    finally:
        _remove(partial)
        _remove(old)


def _remove(path):
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def write_npy(path, array):
    """Write an array, so that the file is complete or not there."""
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    # Not np.save: it writes past Python's file, and on a full disk loses the end silently.
    with replacing(path) as partial, explain_write(path.parent), open(partial, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def write_text(path, text):
    """Write a small text file likewise."""
    with replacing(path) as partial, explain_write(path.parent):
        partial.write_text(text, encoding="utf-8")


def write_table(path, table, index=None):
    """Write a table to a parquet file likewise; `index` as pandas takes it."""
    with replacing(path) as partial, explain_write(path.parent):
        table.to_parquet(partial, index=index)


def write_parts(folder, **parts):
    """Write tables as ``NAME.parquet`` and dicts of arrays as ``NAME.safetensors``."""
    for name, part in parts.items():
        if isinstance(part, dict):
            save_file(part, Path(folder) / f"{name}.safetensors")
        else:
            part.to_parquet(Path(folder) / f"{name}.parquet")


def read_parts(folder, *names):
    """Yield what :func:`write_parts` wrote."""
    for name in names:
        table = Path(folder) / f"{name}.parquet"
        other = table.with_suffix(".safetensors")
        yield load_file(other) if other.exists() else pd.read_parquet(table)


def read_rows(array, indices):
    """Read rows of a numpy or zarr array into memory, in the order of `indices`.

    Examples
    --------
    >>> read_rows(zarr.array(np.arange(6).reshape(3, 2), chunks=(2, 2)), [2, 0]).tolist()
    [[4, 5], [0, 1]]
    """
    if isinstance(array, np.ndarray):
        return array[indices]
    if array.chunks[0] > 1:  # each chunk is read once, whatever rows it holds
        return array.oindex[np.asarray(indices, np.intp)]
    rows = np.empty((len(indices), *array.shape[1:]), array.dtype)
    for j, i in enumerate(indices):
        rows[j] = array[int(i)]
    return rows


def write_clips(folder, rows, table, classes, shape):
    """Write clips one by one into a temporary folder, then move it to its place."""
    folder = path_of(folder)
    if folder.exists():
        raise FileExistsError(
            f"The folder {folder} is there already, and clips are only written into a new one; "
            "choose another name, delete it, or read it with Clips.load."
        )
    names = np.asarray(classes, object)
    table = table[["id", "label", "group"]].assign(**{"class": names[table["label"]]})
    with replacing(folder, folder=True) as partial:
        with explain_write(folder.parent):
            frames, parts = new_array(partial / "frames.zarr", shape), None
        for i, (row, row_parts) in enumerate(rows):  # reading may fail too: not explained here
            with explain_write(folder.parent):
                frames[i] = row
                if row_parts is not None:
                    if parts is None:
                        parts = new_array(partial / "parts.zarr", shape[:4])
                    parts[i] = row_parts
        with explain_write(folder.parent):
            table.to_parquet(partial / "table.parquet", index=False)
            (partial / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")


def new_array(path, shape):
    """Create a zarr array (format 3) with one compressed chunk a clip."""
    return zarr.create_array(
        path,
        shape=shape,
        chunks=(1, *shape[1:]),
        dtype=np.uint8,
        compressors=zarr.codecs.ZstdCodec(level=1),
        zarr_format=3,
    )


def open_array(path, mode="r"):
    """Open a zarr array under a path that is the same from every working directory.

    A worker of a cluster stands in a directory of its own, and for zarr a chunk that is not there
    is one of zeros.
    """
    return zarr.open_array(Path(path).absolute(), mode=mode)


def check_there(array):
    """Refuse an array on a disk that this process does not see, instead of reading zeros."""
    root = getattr(getattr(array, "store", None), "root", None)
    if root is not None and not (Path(root) / "zarr.json").is_file():
        raise FileNotFoundError(
            f"{root} is not there on this worker; give every worker of the cluster the run's "
            "folder under the same path."
        )


def path_of(written, base=""):
    """Return the path that somebody has written: ``~`` is their home, a relative one is in `base`.

    The default base is where the process stands. Nothing else is expanded: a ``$`` is a letter.
    Text is UTF-8 on the disk, whatever the locale.

    Examples
    --------
    >>> path_of("runs/$a/", "/data").as_posix()
    '/data/runs/$a'
    """
    written = os.fspath(written).encode("utf-8", "surrogateescape")
    return Path(base, os.path.expanduser(os.fsdecode(written)))
