"""Where the maps of the stages run, here or on a Dask cluster; and which process may write."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import joblib
import psutil


def spread(value):
    """Return what tasks are given for something that all of them need, such as a network.

    That is the value itself, which can be anything that can be pickled; with a Dask cluster its
    future, in whose place each task finds the value. All workers are sent a copy at once, and the
    scheduler keeps one: workers that are lost take nothing with them.

    Examples
    --------
    >>> spread([1, 2])
    [1, 2]
    """
    backend, _ = joblib.parallel.get_active_backend()
    client = getattr(backend, "client", None)
    if client is None:
        return value
    future = client.submit(lambda: value, pure=False)  # scattered, it could not be made again
    with contextlib.suppress(OSError, KeyError):  # of a worker that is lost meanwhile
        client.replicate([future])
    return future


def check_there(array):
    """Refuse an array on a disk that this process does not see, instead of reading zeros."""
    root = getattr(getattr(array, "store", None), "root", None)
    if root is not None and not (Path(root) / "zarr.json").is_file():
        raise FileNotFoundError(
            f"{root} is not there on this worker; give every worker of the cluster the run's "
            "folder under the same path."
        )


def _whole(client):
    """Return joblib's backend, but that it sends tasks with their arrays, also to a single worker.

    It would lay arrays on one worker first, with which they are lost, and run here instead of on
    one worker, where nobody puts a value in the place of its future.
    """
    from joblib._dask import Batch, DaskDistributedBackend

    class Whole(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs):
            return max(2, super().effective_n_jobs(n_jobs))

        async def _to_func_args(self, func):
            return Batch(func.items), func.items

    return Whole(client=client, wait_for_workers_timeout=60)


def connect(scheduler: str = "") -> contextlib.ExitStack:
    """Spread what stages map over clips, chunks and classes over a Dask cluster, from now on.

    What is returned ends the connection, as a context manager or by its ``close``.

    The workers must see the run's folder under the same path: clips are read there, and what
    comes back is written by this process. With one worker for each GPU
    (``CUDA_VISIBLE_DEVICES=0 dask worker ADDRESS --nthreads 1``) the device "cuda" is each
    worker's own. A task whose worker was lost is given to another one.

    The address is that of the Dask scheduler, such as ``tcp://host:8786``, or empty for no cluster.
    It is a ModuleNotFoundError if Dask is not installed, and a ConnectionError if there is no
    scheduler, or it has no workers.

    Examples
    --------
    >>> with connect():
    ...     joblib.Parallel()(joblib.delayed(abs)(x) for x in (-1, 2))
    [1, 2]
    """
    connection = contextlib.ExitStack()
    if not scheduler:
        return connection
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scheduler is {scheduler!r}, but Dask is not installed; install it on all machines "
            "with: pip install stce[cluster]"
        ) from error
    try:
        client = connection.enter_context(distributed.Client(scheduler, timeout="10s"))
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"scheduler is {scheduler!r}, where no Dask scheduler answers; start one with "
            "`dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`."
        ) from error
    if not client.ncores():
        connection.close()
        raise ConnectionError(
            f"scheduler is {scheduler!r}, which has no workers; start some with "
            f"`dask worker {scheduler} --nthreads 1`."
        )
    large = {"distributed.admin.large-graph-warning-threshold": "1 GB"}  # networks are
    connection.enter_context(importlib.import_module("dask").config.set(large))
    connection.enter_context(joblib.parallel_config(backend=_whole(client)))
    return connection


@contextlib.contextmanager
def stoppable(threads: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; if one waits for them in vain (Ctrl-C), their processes end, too."""
    known = set(psutil.Process().children())
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            for name in ("asyncio", "papermill"):  # what they say of a stopped kernel is no news
                logging.getLogger(name).setLevel(logging.CRITICAL)
            pool.shutdown(wait=False, cancel_futures=True)
            (waiter := threading.Thread(target=pool.shutdown)).start()
            while waiter.is_alive():  # one may only be starting
                for child in set(psutil.Process().children()) - known:
                    known.add(child)
                    with contextlib.suppress(psutil.Error):
                        child.terminate()
                waiter.join(0.1)
            raise


@contextlib.contextmanager
def locked(path, patience=0.2):
    """Hold a lock file, which names its owner, for as long as the block runs.

    That of a dead process of this machine is taken over. On any other one `patience` seconds are
    waited, and then it is a RuntimeError; so it is if another thread, or this one, has the lock.
    """
    # Soft: made by a call that network file systems know, too, and not by flock, which some lack.
    lock = filelock.SoftFileLock(path, timeout=patience)
    _drop_abandoned(path)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        number, host = owner(path) or ("unknown", "unknown")
        command = "a command there"
        with contextlib.suppress(psutil.Error, ValueError):
            if host == socket.gethostname():
                command = " ".join(psutil.Process(number).cmdline())
        raise RuntimeError(
            f"{Path(path).parent} is being written by process {number} on {host} ({command}); wait "
            f"for it or stop it, and if it is not running any more, delete {path}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _drop_abandoned(path):
    """Remove the lock of a process that is dead but a zombie, or that died before it signed it."""
    with contextlib.suppress(OSError, psutil.Error):
        os.stat(path)
        with filelock.SoftFileLock(f"{path}.gone", timeout=1):  # one at a time looks and removes
            process, host = owner(path) or (0, socket.gethostname())
            unsigned = not process and time.time() - os.stat(path).st_mtime > 2
            zombie = process and psutil.Process(process).status() == psutil.STATUS_ZOMBIE
            if host == socket.gethostname() and (unsigned or zombie):
                os.unlink(path)


def owner(path):
    """Return the process that a lock file names, and its host; None without one."""
    with contextlib.suppress(OSError, ValueError):
        number, host = Path(path).read_text("utf-8").split()[:2]
        return int(number), host
