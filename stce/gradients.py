"""Gradients of a class output at clips, by what layer l gives for them (equation 1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stce.engine.threads import forward

__all__ = ["at_clips", "by_class"]

TARGETS = ("logit", "log_prob")


def at_clips(
    network, features: np.ndarray, class_index: int, target: str = "logit", *, device="cpu"
) -> np.ndarray:
    """Return the gradient of a class output with respect to layer l (equation 1).

    Parameters
    ----------
    network : stce.models.network.Network
        Its head is differentiated, in evaluation mode.
    features : numpy.ndarray
        ``(N, D) float32``, clips at layer l, of :func:`stce.features.extract_layer`.
    class_index : int
        The class y.
    target : {"logit", "log_prob"}, default "logit"
        The class output. Where the head is one linear map, the gradient of the logit is the
        same for every clip; that of the log-probability is not.
    device : torch.device, default "cpu"
        Where the head runs.

    Returns
    -------
    numpy.ndarray
        ``(N, D) float32``.

    Raises
    ------
    ValueError
        If `target` is not one of the two.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; choose one of {', '.join(TARGETS)}.")
    network = network.to(device).eval()

    def slope(part: slice) -> Tensor:
        z = some[part].requires_grad_()
        output = network.logits(z)
        if target == "log_prob":
            output = output.log_softmax(dim=1)
        (gradient,) = torch.autograd.grad(output[:, class_index].sum(), z)
        if network.grid:  # a pooled feature stands for all positions
            gradient = gradient.unflatten(1, (network.n_features, -1)).sum(2)
        return gradient

    found = []
    for start in range(0, len(features), 256):
        some = torch.from_numpy(features[start : start + 256]).to(device)
        found.append(forward(network, slope, len(some), device).cpu().numpy())
    return np.concatenate(found)


def by_class(
    network, clips: dict[str, np.ndarray], classes, target: str, gradient=None, device="cpu"
) -> Iterator[tuple[str, np.ndarray]]:
    """Give the gradients of each class at its clips, computed unless they are given.

    Parameters
    ----------
    network, clips, classes, target, gradient, device
        See :func:`stce.tcav.score`.

    Yields
    ------
    name : str
        The class.
    slope : numpy.ndarray
        ``(K, D) float32``, see :func:`at_clips`.

    Raises
    ------
    ValueError
        If they are not finite.
    """
    for name, z in clips.items():
        if gradient is None:
            slope = at_clips(network, z, classes.index(name), target, device=device)
        else:
            slope = gradient[name]
        if not np.isfinite(slope).all():
            raise ValueError(
                f"The gradients of class {name!r} hold NaN or infinite values, so no score means "
                "anything; look for a logarithm, a root or a division in the head, or clips that "
                "are not finite."
            )
        yield name, slope
