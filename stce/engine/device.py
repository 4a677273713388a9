"""Where the networks run: the CPU or one GPU."""

from __future__ import annotations

import re

import torch


def named(name: str | torch.device) -> str:
    """Return the name of a device, or refuse what is none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text := str(name)):
        raise ValueError(
            f"device is {name!r}; give auto, cpu, cuda or cuda: and a number "
            "('auto', 'cpu', 'cuda' or 'cuda:1')."
        )
    return text


def resolve(name: str | torch.device = "auto") -> torch.device:
    """Return the device of that name, after checking that it is there; a GPU's has its index.

    The name is ``"auto"`` (the first GPU where there is one, else the CPU), ``"cpu"``, ``"cuda"``
    or ``"cuda:1"``; another one is a ValueError, a GPU that is not there a RuntimeError.

    Denormal floats are flushed to zero from here on: a network with saturated units otherwise
    runs several times slower on a CPU, for digits that no result depends on.

    Examples
    --------
    >>> resolve("cpu")
    device(type='cpu')
    """
    text = named(name)
    torch.set_flush_denormal(True)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "cpu" or (text == "auto" and not count):
        return torch.device("cpu")
    index = int(text.partition(":")[2] or 0)
    if index >= count:
        raise RuntimeError(
            f"device={text!r} is not there: this installation of torch {torch.__version__} sees "
            f"{count} GPU(s). Use device='auto' or 'cpu', or install a build of torch for CUDA."
        )
    return torch.device("cuda", index)
