"""How clips and arrays get onto the disk, complete or not at all, and are read as written."""

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from google_crc32c import value as crc32c
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stce.engine.workers import locked

ANEW = "get it again, or make it anew"
_MARKS = {"manifest.json", "inputs.json"}  # what says of a folder what it is, and no part of it


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
def explain_read(path, remedy=ANEW, problem="cannot be read", but=()):
    """Re-raise what a reader says of a file as one sentence that names it, and the remedy.

    Whatever is in a file, and whoever reads it: it is a ValueError, or the file is not there. The
    errors `but` are left as they are.
    """
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise OSError("it is no file but a pipe or a device")
        yield
    except but:
        raise
    except Exception as error:
        absent = isinstance(error, FileNotFoundError)
        reason = textwrap.shorten(str(error), 300)
        raise (FileNotFoundError if absent else ValueError)(
            f"{path} {problem} ({type(error).__name__}: {reason}); {remedy}."
        ) from error


@contextmanager
def replacing(path, folder=False):
    """Yield a hidden path beside this one, and move what is written there to its place.

    A file or folder that is there already stays until the block ends well. If the block fails,
    nothing of the new one stays. With `folder` the hidden path is made, and all above it. Two that
    write a file at once do so one after the other; of a folder the second is refused.

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
    partial, lock = (path.with_name(f".{path.name}.{what}") for what in ("tmp", "lock"))
    with explain_write(path.parent):
        if folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        os.stat(f"{path.parent}{os.sep}.")  # the lock would make a folder that is not there
    with locked(lock, 0.2 if folder else 60.0):
        try:
            remove(partial)  # left by a killed run
            if folder:
                with explain_write(path.parent):
                    partial.mkdir()
            yield partial
            with explain_write(path.parent):
                if not folder:
                    _flush(partial)
                swap(partial, path)
        finally:
            remove(partial)


def swap(new, place):
    """Put a complete file or folder in the place of another, which is there or aside until then.

    See :func:`present`. What was there is removed once the new one is.
    """
    old = place.with_name(f".{place.name}.old")
    if not new.is_dir() or not os.path.lexists(place):
        os.replace(new, place)
    else:  # no call that Python has puts a folder in the place of another
        remove(old)
        place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            old.rename(place)
            raise
    _flush(place.parent)
    remove(old)


def present(place):
    """Return where a folder lies: in its place, or aside, if its replacement was cut short."""
    old = place.with_name(f".{place.name}.old")
    return place if place.exists() or not old.exists() else old


def remove(path):
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _flush(path):
    """Have a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing for folders
            raise
    finally:
        os.close(handle)


def _files(folder):
    """Return the files below a folder by their names, but for what is hidden, and the marks."""
    found = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name not in _MARKS:
                found[Path(place, name).relative_to(folder).as_posix()] = Path(place, name)
    return found


def _read(path, size=0, at=0):
    """Return the digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


_read_once = functools.cache(_read)  # of this size and time, in a process


def _total(digests):
    """Return one digest of the names and digests of files."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(digests, key=Path):
        total.update(name.encode() + bytes.fromhex(digests[name]))
    return total.hexdigest()


def _of_itself(manifest):
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def seal(folder, **facts):
    """Have a complete folder on the disk, and write ``manifest.json`` last.

    It holds the facts; ``outputs``, a digest of all files; ``files``, the size, time and digest of
    each; and ``seal``, a digest of itself. Files that are hidden are no part of the folder.
    """
    for left in Path(folder).rglob("*.partial"):  # of zarr, where a run was killed
        left.unlink()
    found = _files(folder)
    with ThreadPoolExecutor(16) as pool:  # many at once take a disk hardly longer than one
        list(pool.map(_flush, [*found.values(), *{path.parent for path in found.values()}]))
        digests = dict(zip(found, pool.map(_read, found.values()), strict=True))
    facts["outputs"] = _total(digests)
    stats = {name: found[name].stat() for name in sorted(found)}
    facts["files"] = {n: f"{s.st_size} {s.st_mtime_ns} {digests[n][:32]}" for n, s in stats.items()}
    facts["seal"] = _of_itself(json.loads(json.dumps(facts)))
    write_text(Path(folder) / "manifest.json", json.dumps(facts, indent=1))


def changed(folder, every=False, **facts):
    """List the files of a sealed folder that are not as they were written, in words.

    A manifest with other `facts` is one. Those whose size and time are as they were are only read
    if `every` one is to be; of a folder older than seals nothing is known without reading it.
    """
    folder = Path(folder)
    try:
        manifest = read_file(folder / "manifest.json", kind=dict)
        if manifest.get("seal", "") not in ("", _of_itself(manifest)):
            return [f"{folder / 'manifest.json'} has been edited"]
        if other := [f"{k} {manifest.get(k)!r}" for k, v in facts.items() if manifest.get(k) != v]:
            return [f"{folder / 'manifest.json'} is of {other[0]}"]
        files = {name: known.split() for name, known in manifest.get("files", {}).items()}
        outputs = files or manifest["outputs"]
    except (OSError, ValueError, AttributeError, KeyError, RecursionError):
        return [f"{folder / 'manifest.json'} cannot be read"]
    there, said = _files(folder), []
    if not files:
        whole = not every or outputs == _total({n: _read(there[n]) for n in there})
        return [] if whole else [f"a file in {folder} has changed"]
    for name, (size, at, digest) in files.items():
        path = there.pop(name, folder / name)
        if not path.is_file():
            said.append(f"{path} is missing")
        elif (now := path.stat()).st_size != int(size):
            said.append(f"{path} has {now.st_size} bytes instead of {size}")
        elif every or now.st_mtime_ns != int(at):
            found = (_read if every else _read_once)(path, now.st_size, now.st_mtime_ns)
            said += [f"{path} holds something else"] if found[:32] != digest else []
    return said + [f"{path} was added" for path in there.values()]


def check_sealed(folder, remedy):
    """Refuse a folder that is not as it was sealed; one that is older than seals is taken."""
    if (Path(folder) / "manifest.json").exists() and (said := changed(folder)):
        raise ValueError(f"{said[0]}, which is not what was written; {remedy}.")


def write_npy(path, *arrays, put=replacing):
    """Write arrays, each behind the other, so that the file is complete or not there."""
    header = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(arrays[0]))
    header["shape"] = (sum(map(len, arrays)), *arrays[0].shape[1:])
    # Not np.save: it writes past Python's file, and on a full disk loses the end silently.
    with put(path) as partial, explain_write(path.parent), open(partial, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.writelines(np.ascontiguousarray(array).data for array in arrays)


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
            with explain_write(folder):
                save_file(part, Path(folder) / f"{name}.safetensors")
        else:
            part.to_parquet(Path(folder) / f"{name}.parquet")


def read_parts(folder, *names):
    """Yield what :func:`write_parts` wrote."""
    for name in names:
        other = Path(folder) / f"{name}.safetensors"
        yield read_file(other if other.exists() else other.with_suffix(".parquet"))


def read_file(path, *names, kind=object):
    """Read a parquet, safetensors or JSON file, which must have some columns or keys, or a kind."""
    with explain_read(path):
        how = {".parquet": pd.read_parquet, ".safetensors": load_file}.get(Path(path).suffix)
        found = how(path) if how else json.loads(Path(path).read_text("utf-8"))
        for name in names:
            found[name]
        if not isinstance(found, kind):
            raise TypeError(f"it holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def read_rows(array, indices):
    """Read rows of a numpy or zarr array into memory, in the order of `indices`."""
    if isinstance(array, np.ndarray):
        return array[indices]
    indices = np.asarray(indices, np.intp)
    rows, size = np.empty((len(indices), *array.shape[1:]), array.dtype), array.chunks[0]
    for chunk in np.unique(indices // size):  # each is read once, whatever rows it holds
        mine = np.flatnonzero(indices // size == chunk)
        rows[mine] = array[chunk * size : (chunk + 1) * size][indices[mine] - chunk * size]
    return rows


FULL = {"array.write_empty_chunks": True}  # so that a chunk that is not there was lost
PACKED = 100  # chunks a file of an array that is complete


def new_array(path, shape, dtype, rows=1, **options):
    """Create a zarr array (format 3) on the disk, with some rows a chunk."""
    how = {"shape": shape, "chunks": (rows, *shape[1:]), "dtype": dtype, "zarr_format": 3}
    with zarr.config.set(FULL):
        return zarr.create_array(Path(path).absolute(), **how, **options)


def write_array(path, array, rows=1):
    """Write an array into a new zarr array, with up to a hundred chunks a file."""
    growing(path, array.shape, array.dtype, rows)[:] = array[:]
    grown(path)


def grows(path):
    """Tell whether an array is being written, see :func:`growing`."""
    return (_parts(path) / "zarr.json").exists()  # a killed run may have left the folder alone


def growing(path, shape, dtype, rows=1, **options):
    """Open an array that is written chunk by chunk, beside its place until it is :func:`grown`."""
    if not grows(path):
        new_array(_parts(path), shape, dtype, rows, **options)
    return open_array(_parts(path), mode="r+")


def grown(path):
    """Put an array in its place, packed, once each of its chunks is written, and open it there."""
    with replacing(path, folder=True) as partial:
        _pack(open_array(_parts(path)), partial)
    remove(_parts(path).rename(_parts(path).with_suffix(".old")))  # at once, as `grows` has it
    return open_array(path)


def _pack(loose, path):
    """Copy the chunks of an array into zarr's shards, as they lie on the disk and one by one."""
    n, (rows, *_), (_, *like) = loose.cdata_shape[0], loose.chunks, loose.shape
    how = {"shards": (rows * min(PACKED, n), *like), "compressors": loose.compressors}
    new_array(path, loose.shape, loose.dtype, rows, **how)
    for first in range(0, n, PACKED):
        index = np.full((min(PACKED, n), 2), 2**64 - 1, "<u8")  # for a chunk that there is not
        (place := path / _chunk(loose, first // PACKED)).parent.mkdir(parents=True, exist_ok=True)
        with open(place, "wb") as file:
            for i in range(first, min(first + PACKED, n)):
                encoded = (loose.store.root / _chunk(loose, i)).read_bytes()
                index[i - first] = file.tell(), file.write(encoded)
            file.write(index.tobytes() + crc32c(index.tobytes()).to_bytes(4, "little"))


def _chunk(array, i):
    return "/".join(map(str, ("c", i, *[0] * (array.ndim - 1))))


def _parts(path):
    return path.with_name(f".{path.name}.chunks")


class _Array(zarr.Array):
    """An array on the disk that says which one it is where it cannot be read."""

    def __getitem__(self, selection):
        with explain_read(self.store.root, but=IndexError):
            return super().__getitem__(selection)


def open_array(path, mode="r"):
    """Open a zarr array under a path that is the same from every working directory.

    To zarr a chunk that is not there is one of zeros: in the mode "r" such an array is refused.
    """
    root = Path(path).absolute()
    with zarr.config.set(FULL), explain_read(root), explain_read(root / "zarr.json", but=Exception):
        array = _Array(zarr.open_array(root, mode=mode).async_array)
        there = {p.relative_to(root).as_posix() for p in root.glob("c/**/*") if p.is_file()}
        n = -(-array.shape[0] // (array.shards or array.chunks)[0])
    for i in range(n) if mode == "r" else ():
        if (name := _chunk(array, i)) not in there:
            raise FileNotFoundError(
                f"{root / name} is missing, and zeros would be read in its place; make the array "
                "again, in a run with `--from` its stage and `--force` (older versions left out "
                "what truly is zero)."
            )
    return array


def path_of(written, base=""):
    """Return the path that somebody has written: ``~`` is their home, a relative one is in `base`.

    The default base is where the process stands. Nothing else is expanded: a ``$`` is a letter.
    Text is UTF-8 on the disk, whatever the locale.

    Examples
    --------
    >>> path_of("runs/$a/", "/data").as_posix()
    '/data/runs/$a'
    """
    with explain_read(f"The path {written!r}", "give text or a Path", "is none"):
        written = os.fspath(written).encode("utf-8", "surrogateescape")
        return Path(base, os.path.expanduser(os.fsdecode(written)))
