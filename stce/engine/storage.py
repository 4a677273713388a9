"""How clips and arrays get onto the disk, complete or not at all, and are read as written."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import psutil
import zarr
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

MARKS = {"manifest.json", "inputs.json"}  # what says of a folder what it is, and no part of it


@contextmanager
def explain_write(folder, remedy="free some space or choose another folder, and run again"):
    """Re-raise an OSError with the folder, the reason and the remedy in one paragraph."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))  # as safetensors has it
        number = int(told[1]) if told else getattr(error, "errno", None) or errno.EIO
        reason = os.strerror(number) if told else getattr(error, "strerror", None) or str(error)
        raise OSError(number, f"Cannot write into {folder}: {reason}; {remedy}.") from error


@contextmanager
def explain_read(path):
    """Name the file that cannot be read, and what to do, where its reader does not."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is not as it was written ({reason}); delete it and make it again: in a run by "
            "the same command with `--from` its stage and `--force`."
        ) from error


def read_json(path):
    """Read a small JSON file, or name the one that is damaged."""
    with explain_read(path):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def read_table(path):
    """Read a table of a parquet file, or name the one that is damaged."""
    with explain_read(path):
        return pd.read_parquet(path)


@contextmanager
def locked(path, patience=0.2):
    """Hold a lock file, which names its owner, for as long as the block runs.

    That of a dead process of this machine is taken over. On any other one `patience` seconds are
    waited, and then it is a RuntimeError; so it is if another thread, or this one, has the lock.

    Examples
    --------
    >>> import tempfile
    >>> lock = Path(tempfile.mkdtemp(), ".lock")
    >>> with locked(lock):
    ...     lock.exists()
    True
    >>> lock.exists()
    False
    """
    # Soft: made by a call that network file systems know, too, and not by flock, which some lack.
    lock = filelock.SoftFileLock(path, timeout=patience)
    for last in (False, True):
        try:
            lock.acquire()
            break
        except filelock.Timeout:
            if said := _held(Path(path)) or last:
                raise RuntimeError(said) from None
    try:
        yield
    finally:
        lock.release()


def owner(path):
    """Return the process that a lock file names, its host and its command; Nones for no lock."""
    with suppress(OSError, ValueError):
        number, host = Path(path).read_text().split()[:2]
        command = "a command of that machine"
        if host == socket.gethostname():
            with suppress(psutil.Error):
                command = " ".join(psutil.Process(int(number)).cmdline())
        return int(number), host, command
    return None, None, None


def _held(path):
    """Say in a sentence who holds a lock; remove that of a process that nobody buries."""
    number, host, command = owner(path)
    with suppress(psutil.Error):
        if host == socket.gethostname() and psutil.Process(number).status() == "zombie":
            path.unlink(missing_ok=True)
            return ""
    return (
        f"{path.parent} is being written by process {number} on {host} ({command}); wait for it or "
        f"stop it, and if it is not running there any more, delete {path}."
    )


@contextmanager
def replacing(path, folder=False, flush=True):
    """Yield a hidden path beside this one, and move what is written there to its place.

    A file or folder that is there already stays until the block ends well. If the block fails,
    nothing of the new one stays. With `folder` the hidden path is made, and all above it. Without
    `flush` a crash of the machine, not of the process, may leave less of the file than was written.
    Two that write a file at once do so one after the other; of a folder the second is refused.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "note.txt") as partial:
    ...     _ = partial.write_text("kept")
    >>> [path.name for path in folder.iterdir()]
    ['note.txt']
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.tmp")
    with contextlib.ExitStack() as stack:
        with explain_write(path.parent):
            if folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            stack.enter_context(locked(lock, 0.2 if folder else 60.0))
        try:
            _remove(partial)  # left by a killed run
            if folder:
                with explain_write(path.parent):
                    partial.mkdir()
            yield partial
            with explain_write(path.parent):
                if flush and not folder:
                    _flush(partial)
                swap(partial, path)
        finally:
            _remove(partial)


def swap(new, place):
    """Put a complete file or folder in the place of another, which until then is there or aside.

    See :func:`present`. What was there is removed once the new one is.
    """
    old = place.with_name(f".{place.name}.old")
    if not new.is_dir() or not os.path.lexists(place):
        os.replace(new, place)
    else:  # no call that Python has puts a folder in the place of another
        _remove(old)
        place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            old.rename(place)
            raise
    _flush(place.parent)
    _remove(old)


def present(place):
    """Return where a folder lies: in its place, or aside, if its replacement was cut short."""
    old = place.with_name(f".{place.name}.old")
    return place if place.exists() or not old.exists() else old


def _remove(path):
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _flush(path):
    """Have what was written to a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems flush no folders
        if error.errno not in (errno.EINVAL, errno.EBADF) or not Path(path).is_dir():
            raise
    finally:
        os.close(handle)


def _files(folder):
    """Return the files below a folder by their names, but for what is hidden, and the marks."""
    found = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name not in MARKS:
                path = Path(place, name)
                found[path.relative_to(folder).as_posix()] = path
    return found


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


@functools.cache
def _digest_once(path, size, at):
    """Return the digest of a file of this size and time, read once a process."""
    return _digest(path)


def _total(digests):
    """Return one digest of the names and digests of files."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(digests, key=Path):
        total.update(name.encode() + digests[name])
    return total.hexdigest()


def _of_itself(manifest):
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def flush(folder):
    """Have all files of a folder on the disk, and return their names, sizes, times and digests."""

    def one(path):
        _flush(path)
        status = path.stat()
        return status.st_size, status.st_mtime_ns, _digest(path)

    for left in Path(folder).rglob("*.partial"):  # of zarr, where a run was killed
        left.unlink()
    found = _files(folder)
    with ThreadPoolExecutor(16) as pool:  # many at once take a disk hardly longer than one
        told = dict(zip(found, pool.map(one, found.values()), strict=True))
        list(pool.map(_flush, {folder, *(path.parent for path in found.values())}))
    return told


def seal(folder, **facts):
    """Have a complete folder on the disk, and write ``manifest.json`` last.

    It holds the facts; ``outputs``, a digest of all files; ``files``, the size, time and digest of
    each; and ``seal``, a digest of itself. Files that are hidden are no part of the folder.
    """
    told = flush(folder)
    files = {n: f"{size} {at} {d.hex()[:32]}" for n, (size, at, d) in sorted(told.items())}
    outputs = _total({name: digest for name, (*_, digest) in told.items()})
    manifest = {**facts, "outputs": outputs, "files": files}
    manifest["seal"] = _of_itself(json.loads(json.dumps(manifest)))
    write_text(Path(folder) / "manifest.json", json.dumps(manifest, indent=1))


def changed(folder, manifest, every=False) -> Iterator[tuple[str, str]]:
    """Yield each file of a sealed folder that is not as it was written, and a word about it.

    Those whose size and time are as they were are only read if `every` one is to be. Of a folder
    that is older than seals nothing is known without reading it.
    """
    folder, wanted = Path(folder), manifest.get("files")
    if manifest.get("seal", "") not in ("", _of_itself(manifest)):
        yield "manifest.json", "has been edited"
    there = _files(folder)
    if wanted is None:
        if every and manifest["outputs"] != _total({n: _digest(there[n]) for n in there}):
            yield "one of its files", "has changed"
        return
    for name, known in wanted.items():
        size, at, digest = known.split()
        if name not in there or not there[name].exists():
            yield name, "is missing"
            continue
        status = there[name].stat()
        if status.st_size != int(size):
            yield name, f"has {status.st_size} bytes of {size}"
        elif every or status.st_mtime_ns != int(at):
            asked = there[name], status.st_size, status.st_mtime_ns
            if (_digest(there[name]) if every else _digest_once(*asked)).hex()[:32] != digest:
                yield name, "holds something else"
    yield from ((name, "was added") for name in there.keys() - wanted.keys())


def check_sealed(folder, remedy):
    """Refuse a sealed folder of which a file has changed; one that is older than seals is taken."""
    path = Path(folder) / "manifest.json"
    for name, what in changed(folder, read_json(path)) if path.is_file() else ():
        raise ValueError(f"{Path(folder) / name} {what} since it was written; {remedy}.")


def write_npy(path, array):
    """Write an array, so that the file is complete or not there."""
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    # Not np.save: it writes past Python's file, and on a full disk loses the end silently.
    with replacing(path, flush=False) as partial, explain_write(path.parent):
        with open(partial, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(array.data)


def write_text(path, text):
    """Write a small text file likewise."""
    with replacing(path) as partial, explain_write(path.parent):
        partial.write_text(text, encoding="utf-8")


def write_table(path, table, index=None):
    """Write a table to a parquet file likewise; `index` as pandas takes it."""
    with replacing(path, flush=False) as partial, explain_write(path.parent):
        table.to_parquet(partial, index=index)


def write_parts(folder, **parts):
    """Write tables as ``NAME.parquet`` and dicts of arrays as ``NAME.safetensors``."""
    for name, part in parts.items():
        if isinstance(part, dict):
            with replacing(Path(folder) / f"{name}.safetensors", flush=False) as partial:
                with explain_write(folder):
                    save_file(part, partial)
        else:
            write_table(Path(folder) / f"{name}.parquet", part)


def read_parts(folder, *names):
    """Yield what :func:`write_parts` wrote."""
    for name in names:
        table = Path(folder) / f"{name}.parquet"
        other = table.with_suffix(".safetensors")
        with explain_read(other if other.exists() else table):
            part = load_file(other) if other.exists() else pd.read_parquet(table)
        yield part


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


FULL = {"write_empty_chunks": True}  # so that a chunk that is not there is one that was lost


def new_array(path, shape, dtype, rows=1, **options):
    """Create a zarr array (format 3) on the disk, with some rows a chunk."""
    how = {"shape": shape, "chunks": (rows, *shape[1:]), "dtype": dtype, "zarr_format": 3}
    return zarr.create_array(Path(path).absolute(), config=FULL, **how, **options)


def open_array(path, mode="r"):
    """Open a zarr array under a path that is the same from every working directory.

    A worker of a cluster stands in a directory of its own, and for zarr a chunk that is not there
    is one of zeros: to read an array with one is refused, in the mode "r".
    """
    root = Path(path).absolute()
    with explain_read(root):
        array = zarr.open_array(root, mode=mode, config=FULL)
    there = {part.relative_to(root).as_posix() for part in root.glob("c/**/*")}
    for place in np.ndindex(array.cdata_shape) if mode == "r" else ():
        if (name := "/".join(map(str, ("c", *place)))) not in there:
            raise FileNotFoundError(
                f"{root / name} is missing, and zeros would be read in its place; make the array "
                "again: in a run by the same command with `--from` its stage and `--force` (older "
                "versions also left out what truly is zero)."
            )
    return array


def check_there(array):
    """Refuse an array on a disk that this process does not see, instead of reading zeros."""
    root = getattr(getattr(array, "store", None), "root", None)
    if root is not None and not (Path(root) / "zarr.json").is_file():
        raise FileNotFoundError(
            f"{root} is not there on this worker; give every worker of the cluster the run's "
            "folder under the same path."
        )
