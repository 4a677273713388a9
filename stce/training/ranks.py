"""Which of the processes started by ``torchrun`` is this one; alone it is number 0 of 1."""

from __future__ import annotations

import torch
from torch import distributed


def rank() -> int:
    """Return the number of this process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def summed(values: list[float], device) -> list[float]:
    """Add numbers up over all processes."""
    if size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.tolist()


def parallel(network, device):
    """Return what to call in training: the network, its gradients averaged over all processes.

    All start from the weights and moments of process 0.
    """
    if size() == 1:
        return network
    devices = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
