"""Work in small pieces: on a CPU each by one thread, as many side by side as PyTorch has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

# Clips at a time, by their voxels: what so few pass from layer to layer stays in a core's cache.
CLIPS, LARGE_CLIPS, LARGE = 4, 2, 2**17


def in_threads(work: Callable, items: Iterable, at_once: bool = True) -> list:
    """Do pieces of work, each by one thread, and as many at a time as PyTorch has threads.

    A piece does not share its sums out to several threads then, so its digits do not depend on
    how many there are: one process on many cores gives what many processes on one core each give.

    `work` is called with one item, and what it returns is listed; it must not change what other
    calls see. Unless `at_once`, one piece is done after the other, by all threads: on a GPU, or
    where `work` is not safe.

    Examples
    --------
    >>> in_threads(lambda n: n * n, range(4))
    [0, 1, 4, 9]
    """
    threads = torch.get_num_threads() if at_once else 1
    if threads == 1:
        return [work(item) for item in items]
    inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own

    def piece(item):
        with torch.inference_mode(inference):
            return work(item)

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(piece, items))
    finally:
        torch.set_num_threads(threads)


def prepared(network, frames, device) -> Tensor:
    """Prepare clips in memory, ``(N, T, H, W, C) uint8``, on the device of the network."""
    return network.prepare(torch.from_numpy(frames).to(device))


def forward(
    network, work: Callable[[slice], Tensor], n: int, device, batch_size: int | None = None
) -> Tensor:
    """Return what `work` gives for n clips, ``(n, ...)``: on a CPU for a few at a time.

    `work` takes a slice of the clips and returns a tensor with a row for each. It runs the network:
    its clips' size says how many are few, and unless it is `threadsafe` there is one call at a
    time. A GPU, where the `device` is one, is given `batch_size` clips together, default all.

    Examples
    --------
    >>> from stce import models
    >>> network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32)).eval()
    >>> x = torch.zeros(9, 1, 8, 32, 32)
    >>> forward(network, lambda few: network(x[few]), len(x), "cpu").shape
    torch.Size([9, 2])
    """
    if batch_size and n > batch_size:

        def batch(start: int) -> Tensor:
            def part(few: slice) -> Tensor:
                return work(slice(start + few.start, start + few.stop))

            return forward(network, part, min(batch_size, n - start), device)

        return torch.cat([batch(start) for start in range(0, n, batch_size)])
    if torch.device(device).type != "cpu":
        return work(slice(0, n))
    voxels = math.prod(network.clip_shape[1:])
    # Parts of like size: a last part of one clip would cost as much as three in a larger one.
    n_parts = -(-n // (CLIPS if voxels < LARGE else LARGE_CLIPS))
    edges = [n * i // n_parts for i in range(n_parts + 1)]
    parts = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    # Who knows what a module of somebody's own keeps between calls?
    return torch.cat(in_threads(work, parts, network.threadsafe))
