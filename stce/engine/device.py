"""What calls are given: a device, the CPU or one GPU; numbers and sizes."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# How long sizes are, if it is not checked later; what stands for a default where there is none;
# what others have to have.
LENGTHS = {"size": 2, "crop": 2, "input_size": 3, "clip_shape": None, "spacing": 3}
LENGTHS["frame_size"] = 2
LIKE = {"fps": 1.0, "dropout": 1.0, "max_frames": 1, "n_classes": 1, "name": ""}
LIKE |= dict.fromkeys(("layer", "concept_layer"), "")
LIKE |= dict.fromkeys(("device", "mean", "std"))  # which have checks of their own
HOLDS = {"clips": ("frames", "Clips"), "frames": ("dtype", "an array"), "videos": ("fit", "Videos")}


def typed(function: Callable, but: tuple[str, ...] = ()) -> Callable:
    """Refuse numbers, sizes and text that are not what their defaults are, before anything starts.

    Other arguments, those in `but`, and what is left out, are the function's own business.

    Examples
    --------
    >>> typed(lambda size, n=1: n)((8, 8), n="3")
    Traceback (most recent call last):
    ValueError: n must be a whole number, at least 0, not '3' (str).
    """
    signature = inspect.signature(function)
    defaults = {name: one.default for name, one in signature.parameters.items()}

    @functools.wraps(function)
    def call(*given, **named):
        for name, value in signature.bind(*given, **named).arguments.items():
            skip = name in but or value is defaults[name]
            if not skip and (wanted := _wanted(name, value, LIKE.get(name, defaults[name]))):
                told = " ".join(f"{value!r:.99}".split())
                said = f"{name} must be {wanted}, not {told} ({type(value).__name__})."
                raise ValueError(said)
        return function(*given, **named)

    return call


def _wanted(name: str, value: object, like: object) -> str:
    """Say what an argument must be; "" if it is that, or may be anything."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if name in LENGTHS:
        size, one = getattr(value, "tolist", lambda: value)(), 1.0 if name == "spacing" else 1
        fits = isinstance(size, list | tuple) and LENGTHS[name] in (None, len(size))
        fits = fits and not any(_wanted("", n, one) for n in size)
        fits = fits or name == "crop" and size is None
        wanted = {"input_size": "frames, height and width", "spacing": "3 numbers"}
        wanted = wanted.get(name, "a positive (height, width)")
    elif name in HOLDS and like is not None:
        fits, wanted = hasattr(value, HOLDS[name][0]), HOLDS[name][1]
    elif isinstance(like, bool):
        fits, wanted = str(value) in ("True", "False", "0", "1"), "True or False"
    elif isinstance(like, str):
        fits, wanted = (isinstance(value, str) or name == "layer" and value is None), "text"
    elif isinstance(like, float):
        fits, wanted = number and math.isfinite(value), "a number"
    elif isinstance(like, int):
        low = {"n_jobs": -1, "batch_size": 1, "n_frames": 1, "stride": 1}.get(name, 0)
        fits = number and isinstance(value, Integral) and low <= value < 2**63
        wanted = f"a whole number, at least {low}"
    elif isinstance(like, tuple) and not like:
        fits = isinstance(value, list | tuple | set) and all(isinstance(v, str) for v in value)
        wanted = "a list of text"
    else:
        return ""
    return "" if fits else wanted


def named(name: str | torch.device) -> str:
    """Return the name of a device, or refuse what is none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text := str(name)):
        raise ValueError(f"device is {name!r}; give 'auto', 'cpu', 'cuda' or 'cuda:1'.")
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
    import torch  # only here: who cuts clips or decodes films need not wait for it

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
