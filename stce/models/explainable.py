"""What the stages need of a network, and features of one's own in place of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stce.engine.storage import explain_read

# How supervoxels are seen, but for the names of layers, see `Explainable.hidden_at`.
FEATURES = ("supervoxels", "pooled")


class Explainable:
    """What the stages of the method need of a network; `Network` and `Adapted` are such.

    One of your own derives from it, sets `n_features`, and gives `features` and `logits`; all else
    has a default. Where all features are there already, as for :func:`stce.tcav.score`, `logits`
    alone will do. A module may be one itself: it derives from ``torch.nn.Module`` first, sets
    `clip_shape`, `mean` and `std`, and has no child with the name of an attribute below.

    Parameters
    ----------
    clip_shape : tuple of int
        (C, T, H, W) of a clip, C = 1 or 3.
    mean, std : float or sequence of float, default 0 and 1
        Clips are prepared as ``(pixel / 255 - mean) / std``.

    Attributes
    ----------
    n_features : int
        Number of features D.
    mean, std : torch.Tensor
        ``(C,) float32``, of pixels in 0..1. Hidden voxels show the mean.
    name : str
        What messages call it.
    layer, layers, classes : str or None, tuple of str, and tuple of str or None
        The layer l at which it is seen, those at which a chain of blocks can be cut, and the names
        of the logits, where it knows them.
    splits : str
        ``"no"`` if the features alone do not decide on the logits. Then `gradient` is asked for, as
        of :class:`stce.models.adapt.Adapted`, not `logits`.
    grid : tuple of int or None
        (t, h, w) of the map from which supervoxels are pooled: then `maps` gives it, as of
        :class:`stce.models.network.Pooled`. None, the default: they are shown to it one by one.
    inside : Explainable or None
        The network pooled at an earlier layer, on whose map supervoxels are hidden; None, the
        default, if they are hidden in the clip.
    finer : str or None
        An earlier layer with smaller cells than the `grid` has, where one is known.
    threadsafe : bool
        True if to run it changes nothing in it, so that several threads may at once.
    local : sequence of stce.engine.windows.Local
        Its first layers by how far they look, where it is a chain of layers.

    Examples
    --------
    >>> class Brightness(Explainable):
    ...     n_features = 1
    ...     def features(self, x):
    ...         return x.mean((2, 3, 4))
    ...     def logits(self, z):
    ...         return torch.cat([z, -z], 1)
    >>> own = Brightness((1, 4, 8, 8), mean=0.5)
    >>> own(own.prepare(torch.full((1, 4, 8, 8, 1), 255, dtype=torch.uint8)))
    tensor([[ 0.5000, -0.5000]])
    """

    clip_shape: tuple[int, ...] = ()
    n_features: int
    mean: Tensor
    std: Tensor
    name = "the model"
    layer: str | None = None
    layers: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    splits = "chain"
    grid: tuple[int, int, int] | None = None
    inside: Explainable | None = None
    finer: str | None = None
    threadsafe = False
    local: Sequence = ()
    training = False

    def __init__(self, clip_shape, mean=0.0, std=1.0):
        self.clip_shape = tuple(int(n) for n in clip_shape)
        if len(self.clip_shape) != 4 or min(self.clip_shape) < 1 or clip_shape[0] not in (1, 3):
            raise ValueError(
                f"clip_shape is {tuple(clip_shape)}; give (C, T, H, W) with C = 1 or 3, such as "
                "(3, 16, 112, 112)."
            )
        self.mean, self.std = self._moment("mean", mean), self._moment("std", std)
        if not ((self.std > 0) & (self.std < 10)).all():
            raise ValueError(f"std is {std}; give values above 0, in units of 0..1.")

    def _moment(self, name: str, value) -> Tensor:
        with explain_read(f"{name} {value!r:.99}", "give one or one a channel", "is no number"):
            array = np.asarray(value, np.float32).reshape(-1)
        if array.size not in (1, self.clip_shape[0]) or not np.isfinite(array).all():
            raise ValueError(
                f"{name} is {value}; give one number, or one a channel ({self.clip_shape[0]}), "
                "of pixels in 0..1."
            )
        if name == "mean" and (array.min() < 0 or array.max() > 1):
            raise ValueError(f"mean is {value}; give it for pixels in 0..1: divide it by 255.")
        return torch.from_numpy(np.broadcast_to(array, self.clip_shape[:1]).copy())

    @property
    def device(self) -> torch.device:
        """Where it is now."""
        return self.mean.device

    @property
    def blank(self) -> int:
        """The grey value of what is hidden, from 0 to 255."""
        return int(255 * float(self.mean.mean()))

    @property
    def behind(self) -> nn.Module | None:
        """The module whose weights decide on the logits of given features."""
        return self if isinstance(self, nn.Module) else None

    def to(self, device):
        """Prepare clips on a device from now on; returns itself."""
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def eval(self):
        """Return itself: it always runs in evaluation mode."""
        return self

    def prepare(self, frames: Tensor) -> Tensor:
        """Normalise clips ``(N, T, H, W, C) uint8``, on the network's device.

        They become ``(N, C, T, H, W) float32`` in channels_last_3d, the layout in which 3D
        convolutions are fast; 0 is the mean.
        """
        frames = torch.as_tensor(frames)
        channels = self.clip_shape[0]
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != channels:
            raise ValueError(
                f"{self.name} prepares frames (N, T, H, W, {channels}) uint8, got "
                f"{tuple(frames.shape)} {str(frames.dtype).removeprefix('torch.')}."
            )
        x = frames.to(self.mean.device).float()
        # One multiplication and one addition in place: this runs on every training batch.
        x = x.mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
        return x.permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)

    def features(self, x: Tensor) -> Tensor:
        """Return f_l of prepared clips ``(N, C, T, H, W)``: ``(N, D) float32``."""
        raise TypeError(f"{type(self).__name__} gives no features; define features(x) in it.")

    def features_at(self, views: Sequence[Explainable], x: Tensor) -> list[Tensor]:
        """Return the features of prepared clips in several `views` of this network."""
        return [view.features(x) for view in views]

    def at_layer(self, x: Tensor) -> Tensor:
        """Return all that `logits` takes, one row a clip: the features, unless they are pooled."""
        return self.features(x)

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of what `at_layer` gives, differentiable."""
        raise TypeError(f"{type(self).__name__} gives no logits; define logits(z) in it.")

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of prepared clips."""
        return self.logits(self.at_layer(x))

    def derivative(self, logits: Tensor, by: Tensor, class_index: int, target: str) -> Tensor:
        """Return the gradient of a class output by what logits ``(N, Y)`` were computed from."""
        output = logits.log_softmax(dim=1) if target == "log_prob" else logits
        chosen = output[:, class_index].sum()
        if not chosen.requires_grad:
            raise ValueError(
                f"the logits of {self.name} have no gradient at {self.layer!r}; choose a layer "
                "that they depend on, and take torch.no_grad and argmax out of its forward."
            )
        return torch.autograd.grad(chosen, by)[0]

    def gradient(self, x: Tensor, class_index: int, target: str = "logit") -> Tensor:
        """Return the gradient of a class output by the features at these very clips, ``(N, D)``.

        Of features that are pooled it is summed over positions; see :func:`stce.tcav.slopes`.
        """
        with torch.inference_mode(False), torch.enable_grad():
            z = self.at_layer(x).detach().clone().requires_grad_()
            slope = self.derivative(self.logits(z), z, class_index, target)
        return slope.unflatten(1, (self.n_features, -1)).sum(2) if self.grid else slope

    def blocks(self) -> dict[str, nn.Module]:
        """Return what holds its weights by name, first to last; nothing where none are known."""
        return {} if self.behind is None else {"logits": self.behind}

    def split(self, layer: str) -> Explainable:
        """Return it as it is seen at another layer, of which it has none by default."""
        raise ValueError(
            f"layer is {layer!r}, but the features of model are fixed; give layer=None."
        )

    def pooled(self) -> Explainable:
        """Return a view with supervoxels pooled from the layer's map, one pass a clip."""
        raise ValueError(
            "features is 'pooled', but model is features of your own, without a map to pool from; "
            "leave features='supervoxels'."
        )

    def seeing(self, features: str) -> Explainable:
        """Return the view that sees supervoxels in this way: itself if it is "supervoxels"."""
        if features == "supervoxels":
            return self
        return self.pooled() if features == "pooled" else self.hidden_at(features)

    def hidden_at(self, layer: str) -> Explainable:
        """Return a view whose supervoxels are hidden on the map of an earlier layer.

        A clip is run up to there once, and what comes after it (`beyond`) for each supervoxel, with
        the map of a blank clip around it. A cell that it fills in part is mixed from both maps.
        """
        try:
            return self.hiding(self.split(layer).pooled())
        except ValueError as error:
            ways = ", ".join(FEATURES)
            raise ValueError(
                f"features is {layer!r}; choose one of {ways}, or an earlier layer with a map: "
                f"{str(error).rstrip('.')}."
            ) from error

    def hiding(self, start: Explainable) -> Explainable:
        """Return this view with supervoxels hidden on the map of `start`, which is pooled."""
        raise ValueError(f"{self.name} has none")

    def beyond(self, maps: Tensor) -> Tensor:
        """Return the features that follow from maps of the layer `inside`, ``(N, D) float32``."""
        raise TypeError(f"{type(self).__name__} has no layer at which supervoxels are hidden.")

    @property
    def shown(self) -> str:
        """The way it sees supervoxels, in the words of the parameter ``features``."""
        way = "pooled" if self.grid else "supervoxels"
        return way if self.inside is None else self.inside.layer

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse clips whose classes are not the network's, as far as it knows them."""
        if self.classes and tuple(self.classes) != tuple(classes):
            raise ValueError(
                f"{self.name} was trained for the classes {', '.join(self.classes)}, "
                f"not for {', '.join(classes)}."
            )

    def _check(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or tuple(x.shape[1:]) != self.clip_shape:
            size = ", ".join(map(str, self.clip_shape))
            raise ValueError(
                f"{self.name} takes clips (N, {size}), got {tuple(x.shape)}; cut the clips to this "
                "size, or build the network, or adapt it, with another clip_shape (in_channels and "
                "input_size)."
            )
        return x

    def _check_features(self, z: Tensor, size: int) -> None:
        if z.ndim != 2 or z.shape[1] != size:
            raise ValueError(
                f"the features of {self.name} at {self.layer!r} are (N, {size}), got "
                f"{tuple(z.shape)}; were they computed at another layer?"
            )


class Functions(Explainable):
    """Features of one's own: two functions in place of a network.

    Parameters
    ----------
    features : callable
        Prepared clips ``(N, C, T, H, W) float32`` to ``(N, D) float32``.
    logits : callable
        ``(N, D)`` to logits ``(N, Y)``, written in torch so that it can be differentiated.
    clip_shape, mean, std
        See :class:`Explainable`. On another device (`to`) the functions must cope with it.

    Examples
    --------
    >>> own = Functions(lambda x: x.mean((2, 3, 4)), lambda z: torch.cat([z, -z], 1), (3, 4, 8, 8))
    >>> own.n_features, own(torch.zeros(1, 3, 4, 8, 8)).shape
    (3, torch.Size([1, 6]))
    """

    def __init__(self, features: Callable, logits: Callable, clip_shape, mean=0.0, std=1.0):
        super().__init__(clip_shape, mean, std)
        self._features, self._logits = features, logits
        z = self.features(torch.zeros(1, *self.clip_shape))
        if z.ndim != 2 or len(z) != 1:
            raise ValueError(
                f"features gives {tuple(z.shape)} for one clip; let it return (N, D), one row a "
                "clip."
            )
        self.n_features = z.shape[1]

    @property
    def behind(self) -> nn.Module | None:
        """The second function, if it is a module."""
        return self._logits if isinstance(self._logits, nn.Module) else None

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``(N, D) float32`` of prepared clips."""
        return self._features(self._check(x)).float()

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of features ``(N, D)``."""
        return self._logits(z)
