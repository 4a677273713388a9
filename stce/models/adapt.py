"""Anybody's network, seen at one of its layers."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from stce.engine.device import resolve, typed
from stce.models.borrow import borrowed, hooked, running
from stce.models.explainable import Explainable, Functions
from stce.models.probe import Findings, Misplaced, each_named, in_place_of, probe, tensor_of
from stce.models.store import load

__all__ = ["Adapted", "Explainable", "Functions", "adapt", "lent", "seen"]


@typed
def adapt(
    model: nn.Module,
    layer: str,
    *,
    clip_shape: tuple[int, int, int, int],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    classes: Sequence[str] | None = None,
    pool: bool = True,
    channel_axis: int | None = None,
    grid: tuple[int, int, int] | None = None,
    class_token: bool | int | None = None,
) -> Adapted:
    """Look at any module at one of its layers, without changing it.

    Two random clips are sent through it to find out what the layer gives, and whether the features
    alone decide on the logits. What is returned can be given to every stage in place of a
    `Network`.

    Parameters
    ----------
    model : torch.nn.Module
        Takes ``(N, C, T, H, W)`` and returns logits ``(N, Y)``, of two classes or more.
    layer : str
        A name in ``dict(model.named_modules())``, run once in a forward pass. The prefixes that
        DataParallel and torch.compile put in front may be left out.
    clip_shape, mean, std
        See :class:`Explainable`; the normalisation is the model's own.
    classes : sequence of str, optional
        Names of the logits, in order; default "0", "1", ...
    pool : bool, default True
        Average a layer's output over its positions (frames, height, width), so that D is its
        number of channels. A concept then means the same wherever it is seen, and features stay
        small: `layer1` of a ResNet-18 has 64 channels, but 1.6 million values a clip. False
        flattens the output, as the original TCAV did.
    channel_axis : int, optional
        Where the layer's output has its channels. By default it is found out: torch's own layers
        say so (1 for convolutions, -1 for `Linear` and `LayerNorm`), and elsewhere it is the axis
        that stays as it is for clips of another size, or that of such layers around it.
    grid : tuple of int, optional
        Of a layer that gives tokens ``(N, L, D)``, as video transformers do: how many lie behind,
        below and beside each other, (t, h, w), in this order. It makes a map of them, which
        supervoxels can be pooled from. By default it is that of a layer that gives it with its
        tokens (MViT), or of the 3D convolution that cuts a clip into tokens, where one fits.
    class_token : bool or int, optional
        How many tokens come before those of the grid: they have no place in a clip, and are no part
        of its features. By default told from `grid`: none or one.

    Raises
    ------
    ValueError
        If there is no such layer, it runs more than once or not at all, it or the model does not
        give one tensor, nothing tells its channels, `grid` does not fit its tokens or the logits
        read none of these, the model does not take such clips, has one logit or no weights, or
        clips of a batch are mixed. A TypeError if `model` is not a module.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
    ...                       nn.Linear(8, 2))
    >>> seen = adapt(model, "1", clip_shape=(3, 4, 16, 16), mean=0.5, std=0.25)
    >>> seen.n_features, seen.splits, seen.features(torch.zeros(5, 3, 4, 16, 16)).shape
    (8, 'chain', torch.Size([5, 8]))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}; give a torch.nn.Module, or for features of your "
            "own stce.models.adapt.Functions."
        )
    given = [*([] if grid is None else np.ravel(grid)), class_token or 0]
    whole = all(isinstance(n, (int, np.integer)) and n >= 0 for n in given)
    if not whole or len(given) not in (1, 4):
        raise ValueError(
            f"grid is {grid!r} and class_token {class_token!r}; give the frames, rows and columns "
            "of the tokens, such as (8, 14, 14), and how many come before them."
        )
    asked = {"grid": tuple(map(int, given[:-1])) or None, "class_token": class_token}
    adapted = Adapted(model, layer, clip_shape, mean, std, pool, channel_axis, asked)
    findings = probe(adapted)
    names = range(findings.n_classes) if classes is None else classes
    adapted = adapted.believing(findings)
    adapted.classes = each_named(names, findings.n_classes, adapted.name)
    return adapted


def seen(network: Explainable, layer: str | None, features: str) -> Explainable:
    """Return a network at a layer, or its own, its supervoxels seen in one way."""
    network = network if layer in (None, network.layer) else network.split(layer)
    return network if features == "pooled" and network.grid else network.seeing(features)


@contextmanager
def lent(
    model: nn.Module | Explainable | str, layer: str | None, features: str, device=None, **how
) -> Iterator[Explainable]:
    """See a model at a layer for a while, on a device; a module comes back as it was.

    Gradients can be taken meanwhile, whatever the caller has switched off.
    The arguments are those of :func:`stce.explanation.explain` and of :func:`adapt` (`how`): of
    what is explainable as it is, only ``clip_shape`` is compared; a name or a file is loaded for
    it. The default device is where the model is.
    """
    device = None if device is None else resolve(device)
    if isinstance(model, str):
        model = load(model, input_size=how["clip_shape"][1:])
    network = module = model
    if isinstance(model, Explainable):
        network = seen(model, layer, "supervoxels")
        module = network if isinstance(network, nn.Module) else network.behind
        module = network.model if isinstance(network, Adapted) else module
        if tuple(network.clip_shape) != how["clip_shape"]:
            raise ValueError(
                f"clips have (C, T, H, W) = {how['clip_shape']}, but the model takes "
                f"{network.clip_shape}; bring them to this size."
            )
    own = borrowed(module, device) if isinstance(module, nn.Module) else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), own:
        network = network if isinstance(network, Explainable) else adapt(model, layer, **how)
        network = seen(network, None, features)
        network.to(network.device if device is None else device)
        yield network
    network.to(network.device)  # where its module is back now


class _Reached(BaseException):
    """Ends a forward pass at the layer; no model's own ``except Exception`` can hold it up."""


class Adapted(Explainable):
    """A module seen at one layer; made by :func:`adapt`.

    The module is run with a temporary hook at the layer and is between calls as its owner left
    it: mode, gradients, hooks, dtype and buffers.

    Attributes
    ----------
    model, module : torch.nn.Module
        The network itself, not a copy, and the layer in it.
    findings, layout : stce.models.probe.Findings and torch.memory_format
        What was found out about the layer; the clips', fast for 3D convolutions if it can be.
    splits : str
        How `logits` gets from the features to the logits: ``"chain"`` (through the modules after
        the layer), ``"replay"`` (through the whole module, with the layer's output replaced), or
        ``"no"`` (the features alone do not decide on the logits; `gradient` is used).
    """

    findings: Findings
    layout = torch.channels_last_3d

    def __init__(self, model, layer, clip_shape, mean, std, pool, channel_axis, asked):
        super().__init__(clip_shape, mean, std)
        self.model, self.layer, self.name = model, layer, type(model).__name__
        self.module = _find(model, layer)
        self.pool, self.channel_axis, self.asked = pool, channel_axis, asked
        tensors = [*model.parameters(), *model.buffers()]
        self.dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        self.to(self.device)

    def believing(self, findings: Findings) -> Adapted:
        """Return this view with something found out about the layer."""
        other = copy.copy(self)
        other.findings, other.splits = findings, findings.splits
        other.n_features = other.vectors(other._blank()).shape[1]
        return other

    def _blank(self) -> Tensor:
        """Return a layer's output for one clip, without memory."""
        return torch.empty(self.findings.per_clip, *self.findings.shape, device="meta")

    @property
    def device(self) -> torch.device:
        """Where the module is now."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def behind(self) -> nn.Module:
        """The modules after the layer; the whole module where they are not all that follows it."""
        return nn.ModuleList(self.findings.chain) if self.splits == "chain" else self.model

    def blocks(self) -> dict[str, nn.Module]:
        """Return its modules with weights of their own, as they are registered."""
        found = {}
        for name, module in self.model.named_modules():
            if weights := [*module.parameters(recurse=False)]:
                # Of a module with others in it, its own weights alone: a class token, a bias.
                alone = not [*module.children()]
                found[name or self.name] = module if alone else nn.ParameterList(weights)
        return found

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse clips whose classes are not its own; of numbers only how many is known."""
        if self.classes != tuple(map(str, range(len(classes)))):
            super().check_classes(classes)

    def split(self, layer: str) -> Adapted:
        """Return the module seen at another layer, its tokens as those of this one if they fit."""
        moments = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        how = moments | {k: getattr(self, k) for k in ("clip_shape", "classes", "pool")}
        with suppress(Misplaced):  # of a layer without tokens, or with others
            return adapt(self.model, layer, **how, **self.asked)
        return adapt(self.model, layer, **how)

    def pooled(self) -> Adapted:
        """Return this view with supervoxels pooled from the layer's map, one pass a clip."""
        seen = self._map(self._blank())
        if not self.pool or seen.ndim != 5:
            raise ValueError(
                f"supervoxels cannot be pooled from {self.layer!r} of {self.name}: its output for "
                f"a clip is {tuple(self._blank().shape)}; take a layer with channels, frames, "
                "height and width, or tell adapt the grid of its tokens, and leave pool=True."
            )
        other = copy.copy(self)
        other.grid = tuple(seen.shape[2:])
        return other

    def hiding(self, start: Adapted) -> Adapted:
        """Hide supervoxels on the map of `start`; what lies between must be modules in a row."""
        other, blank = copy.copy(self), start._blank()
        whole = adapt(self.model, start.layer, clip_shape=self.clip_shape, pool=False)
        other.inside, other._go_on = start, whole.go_on
        with suppress(IndexError):  # where the row does not lead here
            if whole.splits == "chain" and start._map(blank).shape == blank.shape:
                other.beyond(start.maps(torch.zeros(1, *self.clip_shape, device=self.device)))
                return other
        raise ValueError(f"it does not lead through modules in a row to {self.layer!r}")

    def beyond(self, maps: Tensor) -> Tensor:
        """Return the features that follow from maps of the layer `inside`, ``(N, D) float32``."""
        with running(self.model):
            return self.vectors(self.output(maps.to(self.dtype), self._go_on))

    def go_on(self, a: Tensor) -> Tensor:
        """Run what comes after the layer, where that is a chain."""
        for module in self.findings.chain:
            a = module(a.flatten(1) if isinstance(module, nn.Linear) else a)
        return a

    def to(self, device):
        """Prepare clips on the module's device, which must be this one. Returns itself."""
        device, here = torch.device(device), self.device
        if device.type != here.type or device.index not in (None, here.index):
            raise ValueError(
                f"{self.name} is on {here}, but device is {device}; pass device={str(here)!r}, or "
                f"move the module with model.to({str(device)!r})."
            )
        self.mean, self.std = self.mean.to(here), self.std.to(here)
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return f_l of prepared clips ``(N, C, T, H, W)``: ``(N, D) float32``."""
        with running(self.model):
            return self.vectors(self.output(self.given(self._check(x))))

    def features_at(self, views: Sequence[Adapted], x: Tensor) -> list[Tensor]:
        """Return the features of prepared clips in several `views`, from one pass."""
        found = {}
        with running(self.model), ExitStack() as hooks:
            for view in views:
                hooks.enter_context(hooked(view.module, partial(_keep, found, view)))
            self.model(self.given(self._check(x)))
        return [found[view.layer] for view in views]

    def maps(self, x: Tensor) -> Tensor:
        """Return the layer's map of prepared clips, ``(N, C, t, h, w) float32``."""
        with running(self.model):
            return self._map(self.output(self.given(self._check(x))))

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits ``(N, Y) float32`` of features ``(N, D)``, unless `splits` is "no"."""
        if self.splits == "no":
            raise ValueError(
                f"the features of {self.name} at {self.layer!r} do not decide on its logits by "
                "themselves (averaged over positions, or passed by on another way); use gradient, "
                "or a layer that all of the network's signal goes through."
            )
        self._check_features(z, self.n_features)
        # A copy, since the step after the layer may write to it in place.
        rows = len(z) * self.findings.per_clip
        a = z.reshape(rows, *self.findings.shape).to(self.dtype).clone()
        with borrowed(self.model):
            if self.splits == "chain":
                return self.go_on(a).float()
            blank = self.given(torch.zeros(len(z), *self.clip_shape))
            with hooked(self.module, lambda output: in_place_of(output, a)):
                return self.model(blank).float()

    def gradient(self, x: Tensor, class_index: int, target: str = "logit") -> Tensor:
        """Return the gradient of a class output by the features at these very clips.

        It is ``(N, D) float32``, of prepared clips; for the rest see :func:`stce.tcav.slopes`.
        Where features are averages over positions, it is summed over these, see
        :class:`stce.models.network.Pooled`.
        """
        reached = []

        def replace(output):
            reached.append(tensor_of(output).detach().clone().requires_grad_())
            return in_place_of(output, reached[0].clone())  # a later step may write to it in place

        with borrowed(self.model), torch.inference_mode(False), torch.enable_grad():
            with hooked(self.module, replace):
                output = self.model(self.given(self._check(x))).float()
            slope = self.derivative(output, reached[0], class_index, target)
        slopes = self.vectors(slope, torch.sum).detach()
        if self.findings.n_before and slope.any() and not slopes.any():
            raise ValueError(
                f"the logits of {self.name} read no token of the grid at {self.layer!r}, but those "
                "before it; choose a layer before the last attention, or one that gives (N, D)."
            )
        return slopes

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, Y) float32`` of prepared clips, differentiable if these are."""
        with borrowed(self.model), torch.inference_mode(False):
            with torch.set_grad_enabled(x.requires_grad):
                return self.model(self.given(self._check(x))).float()

    def given(self, x: Tensor) -> Tensor:
        """Return clips of any size as the module is given them."""
        # A copy: the model may write to its input, and the caller's may be an inference tensor.
        return x.to(self.device, self.dtype, copy=True).contiguous(memory_format=self.layout)

    def output(self, x: Tensor, run: Callable | None = None) -> Tensor:
        """Return what the layer gives for an input of the module, or of what else is `run`."""
        reached = []

        def stop(output):
            reached.append(tensor_of(output))
            raise _Reached

        with suppress(_Reached), hooked(self.module, stop):
            (run or self.model)(x)
        return reached[0]

    def vectors(self, a: Tensor, reduce=torch.mean) -> Tensor:
        """Turn a layer's output, or a gradient by it, into one row a clip."""
        if not self.pool:
            return a.float().unflatten(0, (-1, self.findings.per_clip)).flatten(1)
        return reduce(self._placed(a).flatten(2), dim=2)

    def _placed(self, a: Tensor) -> Tensor:
        """Return a layer's output with one row a clip, its channels, then its positions."""
        found = self.findings
        a = a.float().unflatten(0, (-1, found.per_clip)).movedim(found.channel_axis + 1, 1)
        return a[:, :, 0, found.n_before :].unflatten(2, found.grid) if found.grid else a

    def _map(self, a: Tensor) -> Tensor:
        """Return a layer's output as ``(N, C, t, h, w)``, if it has these axes."""
        a = self._placed(a)
        return a.squeeze(2) if a.ndim == 6 and self.findings.per_clip == 1 else a


def _keep(found: dict, view: Adapted, output) -> None:
    """Keep a view's features; a copy, since a later step may write to the output in place."""
    found[view.layer] = view.vectors(tensor_of(output)).clone()


def _find(model: nn.Module, layer: str) -> nn.Module:
    known = {name: m for name, m in model.named_modules(remove_duplicate=False) if name}
    known = {re.sub(r"\b(module|_orig_mod)\.", "", name): m for name, m in known.items()} | known
    if not isinstance(layer, str) or layer not in known:
        close = difflib.get_close_matches(str(layer), known, n=5, cutoff=0.5) or list(known)[-5:]
        raise ValueError(
            f"{type(model).__name__} has no layer {layer!r}; near to it are {', '.join(close)}. "
            "All names: print(*dict(model.named_modules()), sep='\\n')."
        )
    above = [model, *(m for name, m in known.items() if layer.startswith(f"{name}."))]
    scripted = any(isinstance(m, torch.jit.ScriptModule) for m in above)
    if scripted or type(known[layer]) is torch.jit.RecursiveScriptModule:
        raise ValueError(
            f"layer {layer!r} of {type(model).__name__} is in a scripted or traced module, which "
            "nobody can look into; give the module that it was made from, with the same state_dict."
        )
    return known[layer]
