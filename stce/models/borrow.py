"""Use somebody's module for a while and give it back as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def evaluating(module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part of it back into its own."""
    # Features of one's own are no module, and always in that mode.
    parts = module.modules() if isinstance(module, nn.Module) else ()
    modes = [(part, part.training) for part in parts]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def borrowed(module: nn.Module, device=None) -> Iterator[nn.Module]:
    """Put a module into evaluation mode without gradients, and undo that whatever happens.

    Until then other tensors stand in for its own, so that these stay as they are: of parameters
    with the same memory, of buffers copies, and on another device copies of all.

    Examples
    --------
    >>> layer = nn.BatchNorm1d(2)
    >>> with borrowed(layer):
    ...     layer.training, layer.weight.requires_grad
    (False, False)
    >>> layer.training, layer.weight.requires_grad
    (True, True)
    """
    weights = [(m, *pair) for m in module.modules() for pair in m.named_parameters(recurse=False)]
    buffers = [(m, *pair) for m in module.modules() for pair in m.named_buffers(recurse=False)]
    for part, name, tensor in [*weights, *buffers]:
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"{name} of a {type(part).__name__} in {type(module).__name__} has no values yet: "
                "it is lazy, or on the device 'meta'; run the model once, or load its weights "
                "with load_state_dict(..., assign=True)."
            )
    try:
        with torch.inference_mode(False), torch.no_grad():
            # No gradient goes through a tensor that was made in inference mode.
            stand_in = {p: p.clone() if p.is_inference() else p.detach() for _, _, p in weights}
            stand_in = {p: nn.Parameter(t, requires_grad=False) for p, t in stand_in.items()}
            stand_in |= {value: value.clone() for _, _, value in buffers}
            for part, name, tensor in [*weights, *buffers]:
                setattr(part, name, stand_in[tensor])  # a recurrent layer has a list of them, too
        # What was compiled runs as it was written: it may not call a hook that comes later.
        compiled = "torch._dynamo" in sys.modules
        eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
        with eager, evaluating(module):
            yield module if device is None else module.to(device)
    finally:
        for part, name, tensor in [*weights, *buffers]:
            setattr(part, name, tensor)


@contextmanager
def hooked(layer: nn.Module, hook) -> Iterator[None]:
    """Call ``hook(output)`` each time a layer has run, for as long as the block lasts.

    What it returns replaces the output, unless it is None.
    """
    handle = layer.register_forward_hook(lambda _, args, output: hook(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def running(module: nn.Module) -> Iterator[nn.Module]:
    """Borrow a module for forward passes without gradients."""
    # Not in inference mode: what the module may keep of a forward pass stays usable to it.
    with borrowed(module), torch.inference_mode(False), torch.no_grad():
        yield module
