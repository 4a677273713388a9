"""What the stages need of a network, and features of one's own in place of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stce.models.network import Network

__all__ = ["Explainable", "Functions", "Prepared", "is_explainable"]

MEMBERS = ("clip_shape", "n_features", "mean", "to", "eval", "prepare", "features", "logits")


class Explainable(Protocol):
    """What the stages of the method need of a network; `Network` and `Adapted` have it.

    Attributes
    ----------
    clip_shape : tuple of int
        (C, T, H, W) of a clip.
    n_features : int
        Number of features D.
    mean : torch.Tensor
        ``(C,)``, in 0..1: what hidden voxels show.
    """

    clip_shape: tuple[int, int, int, int]
    n_features: int
    mean: Tensor

    def to(self, device): ...  # noqa: D102
    def eval(self): ...  # noqa: D102

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn ``(N, T, H, W, C) uint8`` into the input ``(N, C, T, H, W)``; 0 is the fill."""

    def features(self, x: Tensor) -> Tensor:
        """Return f_l of prepared clips, ``(N, D) float32``."""

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of features ``(N, D)``, differentiable."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of prepared clips."""


def is_explainable(model) -> bool:
    """Tell whether an object has the members of :class:`Explainable`.

    ``isinstance`` cannot tell: since Python 3.12 it overlooks what a module keeps as a buffer.

    Examples
    --------
    >>> is_explainable(torch.nn.Linear(2, 2))
    False
    """
    return callable(model) and all(hasattr(model, name) for name in MEMBERS)


class Prepared:
    """Shape and normalisation of the clips, as in `Network`."""

    name = "the model"
    grid: tuple[int, int, int] | None = None
    prepare = Network.prepare

    def __init__(self, clip_shape, mean, std):
        self.clip_shape = tuple(int(n) for n in clip_shape)
        if len(self.clip_shape) != 4 or min(self.clip_shape) < 1 or clip_shape[0] not in (1, 3):
            raise ValueError(
                f"clip_shape is {tuple(clip_shape)}; give (C, T, H, W) with C = 1 or 3, such as "
                "(3, 16, 112, 112)."
            )
        self.mean, self.std = self._moment("mean", mean), self._moment("std", std)
        if not (self.std > 0).all():
            raise ValueError(f"std is {std}; give values above 0, in units of 0..1.")

    def _moment(self, name: str, value) -> Tensor:
        array = np.asarray(value, np.float32).reshape(-1)
        if array.size not in (1, self.clip_shape[0]) or not np.isfinite(array).all():
            raise ValueError(
                f"{name} is {value}; give one number, or one a channel ({self.clip_shape[0]}), "
                "of pixels in 0..1."
            )
        if name == "mean" and (array.min() < 0 or array.max() > 1):
            raise ValueError(f"mean is {value}; give it for pixels in 0..1: divide it by 255.")
        return torch.from_numpy(np.broadcast_to(array, self.clip_shape[:1]).copy())

    def eval(self):
        """Return itself: it always runs in evaluation mode."""
        return self

    def _check(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or tuple(x.shape[1:]) != self.clip_shape:
            raise ValueError(
                f"{self.name} was adapted to clips (N, {', '.join(map(str, self.clip_shape))}), "
                f"got {tuple(x.shape)}; cut the clips to this size, or adapt it to another "
                "clip_shape."
            )
        return x


class Functions(Prepared):
    """Features of one's own: two functions in place of a network.

    Parameters
    ----------
    features : callable
        Prepared clips ``(N, C, T, H, W) float32`` to ``(N, D) float32``.
    logits : callable
        ``(N, D)`` to logits ``(N, Y)``, written in torch so that it can be differentiated.
    clip_shape : tuple of int
        (C, T, H, W) of a clip.
    mean, std : float or sequence of float, default 0 and 1
        Clips are prepared as ``(pixel / 255 - mean) / std``.

    Examples
    --------
    >>> own = Functions(lambda x: x.mean((2, 3, 4)), lambda z: torch.cat([z, -z], 1), (3, 4, 8, 8))
    >>> own.n_features, own(torch.zeros(1, 3, 4, 8, 8)).shape
    (3, torch.Size([1, 6]))
    """

    def __init__(self, features: Callable, logits: Callable, clip_shape, mean=0.0, std=1.0):
        super().__init__(clip_shape, mean, std)
        self._features, self._logits = features, logits
        self.head = logits if isinstance(logits, nn.Module) else None
        z = self.features(torch.zeros(1, *self.clip_shape))
        if z.ndim != 2 or len(z) != 1:
            raise ValueError(
                f"features gives {tuple(z.shape)} for one clip; let it return (N, D), one row a "
                "clip."
            )
        self.n_features = z.shape[1]

    def to(self, device):
        """Prepare clips on a device; the functions must cope with it. Returns itself."""
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``(N, D) float32`` of prepared clips."""
        return self._features(self._check(x)).float()

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of features ``(N, D)``."""
        return self._logits(z)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of prepared clips."""
        return self.logits(self.features(x))


def check_classes(network, classes) -> None:
    """Refuse clips whose classes are not the network's, as far as it knows them."""
    n_classes = getattr(network, "settings", {}).get("n_classes", len(classes))
    if n_classes != len(classes):
        raise ValueError(
            f"{network.name} has {n_classes} logits for {len(classes)} classes; build it with "
            f"n_classes={len(classes)}."
        )
    known = getattr(network, "classes", None)
    if known and tuple(known) != tuple(classes):
        raise ValueError(
            f"{network.name} was trained for the classes {', '.join(known)}, "
            f"not for {', '.join(classes)}."
        )
