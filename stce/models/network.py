"""A 3D ConvNet as a trunk and a head, split at the layer under study."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from stce.engine.windows import Local, local_layers
from stce.models.borrow import evaluating
from stce.models.explainable import Explainable


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times `width`, to the nearest multiple of 8 and at least 8.

    Each network's own numbers are multiples of 8; and 8 floats are what a CPU handles at once.

    Examples
    --------
    >>> scaled(64, 1.0), scaled(64, 0.125), scaled(208, 0.25)
    (64, 8, 56)
    """
    return max(8, 8 * math.floor(channels * width / 8 + 0.5))


class Network(nn.Module, Explainable):
    """A 3D ConvNet f, cut in two at layer l: ``f(x) = head(trunk(x))``.

    The trunk computes f_l of equation 1 (clip to layer l) and the head h_l (layer l to logits),
    so that features, logits and the gradient between them need no hooks.

    Parameters
    ----------
    blocks, layer : mapping of str to torch.nn.Module, and str
        The network as a chain of named blocks, and that after which it is cut: any but the last.
    settings : mapping
        What rebuilds the network; ``in_channels`` (1 or 3) and ``input_size`` (T, H, W) are read.
    classes : sequence of str, optional
        Class names in the order of the logits.

    Attributes
    ----------
    trunk, head : torch.nn.Sequential
        Blocks up to and including `layer`, and the rest.
    layers : tuple of str
        The names at which it can be cut.
    mean, std : torch.Tensor
        ``(C,) float32`` moments of the training set in 0..1; 0 and 1 until it is trained.
    feature_shape : tuple of int
        Shape of the trunk's output for one clip; ``n_features`` is its product D.
    metadata : dict
        What was given to ``save`` beside the network; empty for one that was not loaded.

    Examples
    --------
    >>> from stce import models
    >>> network = models.build("c3d", n_classes=6, width=0.125, input_size=(16, 32, 32))
    >>> network.layer, network.n_features
    ('fc7', 512)
    >>> x = network.prepare(torch.zeros(2, 16, 32, 32, 3, dtype=torch.uint8))
    >>> network.logits(network.features(x)).shape
    torch.Size([2, 6])
    """

    threadsafe = True

    def __init__(self, blocks: Mapping[str, nn.Module], layer: str, settings, classes=None):
        super().__init__()
        names = list(blocks)
        self.layers = tuple(names[:-1])
        if layer not in self.layers:
            raise ValueError(
                f"{settings.get('name', 'the network')} has no layer {layer!r} to be split at; "
                f"its layers are {', '.join(self.layers)}."
            )
        cut = names.index(layer) + 1
        self.trunk = nn.Sequential(OrderedDict((name, blocks[name]) for name in names[:cut]))
        self.head = nn.Sequential(OrderedDict((name, blocks[name]) for name in names[cut:]))
        self.layer = layer
        self.settings = {**settings, "layer": layer}
        self.name = self.settings.get("name", "network")
        self.classes = None if classes is None else tuple(str(c) for c in classes)
        self.metadata: dict = {}
        self.clip_shape = (int(settings["in_channels"]), *map(int, settings["input_size"]))
        self.register_buffer("mean", torch.zeros(self.clip_shape[0]))
        self.register_buffer("std", torch.ones(self.clip_shape[0]))
        self.feature_shape = self._trace()
        self.n_features = math.prod(self.feature_shape)

    def _trace(self) -> tuple[int, ...]:
        # Shapes only: weights and clip are replaced by stand-ins without memory. Two clips in
        # evaluation mode, since the batch axis must not be mistaken for one that can be squeezed.
        state = {**dict(self.trunk.named_parameters()), **dict(self.trunk.named_buffers())}
        state = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        clip = torch.empty(2, *self.clip_shape, device="meta")
        with evaluating(self.trunk), torch.no_grad():
            out = torch.func.functional_call(self.trunk, state, (clip,))
        return tuple(out.shape[1:])

    @cached_property
    def local(self) -> list[Local]:
        """Its first layers, by how far they look, see :func:`stce.engine.windows.local_layers`."""
        with evaluating(self.trunk):
            return local_layers(self.trunk, self.clip_shape, self.mean.device)

    @property
    def behind(self) -> nn.Sequential:
        """The head."""
        return self.head

    @property
    def finer(self) -> str | None:
        """The last layer with a map of twice the height of its own, or of the last one up to it."""
        upto = self.layers[: self.layers.index(self.layer) + 1]
        shapes = ((name, self.split(name).feature_shape) for name in reversed(upto))
        maps = ((name, shape[2]) for name, shape in shapes if len(shape) == 4)
        _, last = next(maps, ("", np.inf))
        return next((name for name, height in maps if height >= 2 * last), None)

    def blocks(self) -> dict[str, nn.Module]:
        """Return all the blocks by name, first to last."""
        return {**dict(self.trunk.named_children()), **dict(self.head.named_children())}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, Y)`` of prepared clips ``(N, C, T, H, W) float32``."""
        return self.head(self.trunk(self._check(x)))

    def features(self, x: Tensor) -> Tensor:
        """Return f_l of prepared clips ``(N, C, T, H, W) float32``, flattened to ``(N, D)``."""
        return self.at_layer(x)

    def features_at(self, views: Sequence[Network], x: Tensor) -> list[Tensor]:
        """Return the features of prepared clips in several `views`, from one pass."""
        found, wanted = {}, {view.layer for view in views}
        for name, block in self.blocks().items():
            x = block(x)
            if name in wanted:  # a copy, since the next block may write to it in place
                found[name] = x.flatten(1).clone()
            if len(found) == len(wanted):
                break
        return [found[view.layer] for view in views]

    def at_layer(self, x: Tensor) -> Tensor:
        """Return all that the head goes on from, which `logits` takes: here the features."""
        return self.trunk(self._check(x)).flatten(1)

    def logits(self, z: Tensor) -> Tensor:
        """Return h_l of what `at_layer` gives: logits ``(N, Y)``, with equation 1's gradient."""
        self._check_features(z, math.prod(self.feature_shape))
        return self.head(z.unflatten(1, self.feature_shape))

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse clips whose classes are not the network's, as far as it knows them."""
        n_classes = self.settings.get("n_classes", len(classes))
        if n_classes != len(classes):
            raise ValueError(
                f"{self.name} has {n_classes} logits for {len(classes)} classes; build it with "
                f"n_classes={len(classes)}."
            )
        super().check_classes(classes)

    def set_moments(self, mean, std) -> None:
        """Set the moments by which clips are normalised, ``(C,)`` each, of pixels in 0..1.

        A deviation below one grey level counts as one.
        """
        moments = np.array([mean, np.maximum(std, 1 / 255)], np.float32).reshape(2, -1)
        if moments.shape[1] != len(self.mean):
            raise ValueError(
                f"{self.name} has in_channels={len(self.mean)}, the data {moments.shape[1]}; "
                "build the network with the channels of the data."
            )
        self.mean.copy_(torch.from_numpy(moments[0]))
        self.std.copy_(torch.from_numpy(moments[1]))

    def split(self, layer: str) -> Network:
        """Return the network, plain, cut at another of its `layers`, with the same weights."""
        return self._as(Network, layer)

    def pooled(self) -> Pooled:
        """Return it with supervoxels pooled from the layer's map, see :class:`Pooled`.

        At "avgpool", whose features are the mean over the map before it, that map is pooled.
        """
        before = self.layers[max(self.layers.index(self.layer) - 1, 0)]
        return Pooled.of(self.split(before) if self.layer == "avgpool" else self)

    def hiding(self, start: Network) -> Network:
        """Return it with supervoxels hidden on the map of `start`, see ``hidden_at``."""
        if self.layers.index(start.layer) >= self.layers.index(self.layer):
            raise ValueError(f"it is not before {self.layer!r}")
        other = self._as(Network, self.layer)
        object.__setattr__(other, "inside", start)  # no part of its weights
        return other

    def beyond(self, maps: Tensor) -> Tensor:
        """Return the features that follow from maps of the layer `inside`, ``(N, D) float32``."""
        done = [*self.trunk._modules].index(self.inside.layer) + 1
        return self.trunk[done:](maps).flatten(1)

    def _as(self, kind: type[Network], layer: str) -> Network:
        other = kind(self.blocks(), layer, self.settings, self.classes)
        other.mean, other.std = self.mean, self.std
        other.metadata = dict(self.metadata)
        other.training = self.training
        other.trunk.training = other.head.training = self.training
        return other


class Pooled(Network):
    """A network whose supervoxels are pooled from the map of a whole clip, in one pass.

    The features of a supervoxel are the mean of the map under its mask
    (:func:`stce.engine.pooling.weights`), those of a clip the mean over all positions, so D
    is the number of channels. To move such features along a vector is to move every position of
    the map along it: the gradient in this space is the sum over positions of the gradient by the
    map. Where all that follows the map is a global average and a linear layer (R3D at ``layer4``,
    I3D at its last mixed layer) that is exactly the gradient by the averaged features; elsewhere
    the head may also tell where in the map a feature is, of which pooled features know nothing.

    Examples
    --------
    >>> from stce import models
    >>> network = models.build("r3d18", 2, 0.125, 1, (8, 24, 24), layer="layer4")
    >>> pooled = Pooled.of(network)
    >>> pooled.grid, pooled.n_features, pooled.features(torch.zeros(3, 1, 8, 24, 24)).shape
    ((1, 2, 2), 64, torch.Size([3, 64]))
    """

    def __init__(self, blocks, layer, settings, classes=None):
        super().__init__(blocks, layer, settings, classes)
        if len(self.feature_shape) != 4:
            cuts = ((name, Network(blocks, name, settings)) for name in self.layers)
            maps = [name for name, cut in cuts if len(cut.feature_shape) == 4]
            raise ValueError(
                f"layer {layer!r} of {self.name} has {self.feature_shape} features and no "
                f"positions to pool over; take a layer before it: {', '.join(maps)}."
            )
        self.n_features, *grid = self.feature_shape
        self.grid = tuple(grid)

    @classmethod
    def of(cls, network: Network) -> Pooled:
        """Return this view of a network, with the same weights (shared, not copied)."""
        return network._as(cls, network.layer)

    def maps(self, x: Tensor) -> Tensor:
        """Return the layer's map of prepared clips: ``(N, C, t, h, w) float32``."""
        return self.trunk(self._check(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the map over positions, ``(N, C)``."""
        return self.maps(x).mean((2, 3, 4))
