"""Use somebody's module for a while and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["borrowed", "evaluating", "hooked", "running"]


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

    Restored are the mode of every submodule, ``requires_grad``, the values of the buffers, and the
    tensors themselves if it was moved to a device. ``.grad`` is never written to.

    Examples
    --------
    >>> layer = nn.BatchNorm1d(2)
    >>> with borrowed(layer):
    ...     layer.training, layer.weight.requires_grad
    (False, False)
    >>> layer.training, layer.weight.requires_grad
    (True, True)
    """
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    places = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
    ]
    weights = [(parameter, parameter.data) for parameter, _ in flags]
    weights += [(p.grad, p.grad.data) for p, _ in flags if p.grad is not None]
    buffers = [
        (part, name, value, value.detach().clone())
        for part in module.modules()
        for name, value in part.named_buffers(recurse=False)
    ]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with evaluating(module):
            yield module if device is None else module.to(device)
    finally:
        if device is not None:
            # Moving gives a parameter other data, or puts another parameter in its place.
            for part, name, parameter in places:
                part._parameters[name] = parameter
            for tensor, data in weights:
                tensor.data = data
        for part, name, value, kept in buffers:
            part._buffers[name] = value
            # Written to only if changed: a graph of the owner's may still refer to the buffer.
            if not torch.equal(value, kept):
                with torch.no_grad():
                    value.copy_(kept)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


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
