"""Two random clips tell what a module's layer gives, and how far its features decide."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from stce.models.borrow import hooked, running
from stce.models.weights import near

# torch's own modules by where they have the channels.
FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
FIRST += (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
FIRST += (nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd)
LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.TransformerEncoder, nn.TransformerEncoderLayer)


@dataclass(frozen=True)
class Findings:
    """What is known of a module, seen at one of its layers.

    It has `n_classes` logits Y. A row of the layer's output has a `shape`, and a clip `per_clip`
    rows (frames, where the layer sees them one by one); axis `channel_axis` of the output, 1 or
    more, has the channels. Where they are tokens of a `grid` (t, h, w), `n_before` of them, such as
    a class token, come before those of the grid and have no position. `splits` is as in
    :class:`stce.models.adapt.Adapted`, and `chain` the modules after the layer, where they alone
    lead to the logits.
    """

    n_classes: int
    shape: tuple[int, ...]
    per_clip: int
    channel_axis: int
    grid: tuple[int, int, int] | None = None
    n_before: int = 0
    splits: str = "no"
    chain: tuple[nn.Module, ...] = ()


class Sigmoids(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps what the last sigmoid has given: logits, too, may lie in 0..1."""

    given = torch.empty(0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        squashes = func.name() in ("aten::sigmoid", "aten::sigmoid_", "aten::hardsigmoid")
        self.given = output if squashes else self.given
        return output


class Misplaced(ValueError):
    """A grid of tokens that is not of this layer."""


@torch.no_grad()
def probe(adapted) -> Findings:
    """Send two clips through an adapted module and find out what its layer gives.

    The first memory layout that will do is kept; views that believe this or that are tried.
    """
    name, layer = adapted.name, adapted.layer
    x = torch.randn(2, *adapted.clip_shape, generator=torch.Generator().manual_seed(0))
    with Sigmoids() as last:
        logits, outputs, said, grids = _first_pass(adapted, x)
    check_logits(name, logits, last.given, max(1e-3, torch.finfo(adapted.dtype).eps ** 0.5))
    if len(outputs) != 1:
        how = f"runs {len(outputs)} times in" if outputs else "is not run by"
        raise ValueError(
            f"layer {layer!r} of {name} {how} a forward pass; choose one that runs once, such as "
            "the block around it or a layer inside it."
        )
    (a,) = outputs
    if not isinstance(a, Tensor) or not a.is_floating_point() or a.ndim < 2 or len(a) % 2:
        got = f"{tuple(a.shape)} {a.dtype}" if isinstance(a, Tensor) else _kind(a)
        raise ValueError(
            f"layer {layer!r} of {name} gives {got} for two clips, not one tensor of floats (N, "
            "...); choose a layer inside it or after it."
        )
    axis = _channel_axis(adapted, a, said) if adapted.pool else 1
    grid = _grid(adapted, a, axis, grids) if adapted.pool else (None, 0)
    found = Findings(logits.shape[1], tuple(a.shape[1:]), len(a) // 2, axis, *grid)
    seen = adapted.believing(found)
    z = seen.vectors(a)
    if not _close(seen, seen.features(x[1:]), z[1:]) or not _close(seen, seen(x[1:]), logits[1:]):
        raise ValueError(
            f"what {name} gives for a clip depends on the other clips of the batch, at {layer!r} "
            "or in its logits; if it takes frames one by one, let those of a clip follow each "
            "other (x.transpose(1, 2).flatten(0, 1)), and use batch normalisation with running "
            "statistics."
        )
    if found.n_before:
        seen.gradient(x[:1], 0)  # refuses tokens that the logits do not read
    return found if z.numel() < a.numel() else _with_way(seen, found, z, logits)


def check_logits(name: str, logits, sigmoid: Tensor, tolerance: float = 1e-3) -> None:
    """Refuse what is not the logits ``(2, Y)`` of two classes or more; probabilities get a warning.

    They and their logarithms are told by their sums, which are 1, or are what a `sigmoid` gave.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{name} returns {_kind(logits)}, not a tensor of logits; wrap it in a module whose "
            "forward returns the logits (N, Y) out of it."
        )
    shape = tuple(logits.shape)
    if logits.ndim != 2 or shape[0] != 2 or shape[1] < 2:
        raise ValueError(
            f"{name} gives {shape} for two clips; wrap it in a module whose forward returns logits "
            "(N, Y) of two classes or more: of a single logit z (N, 1) torch.cat([-z, z], 1), in "
            "which class 1 is what z > 0 stands for."
        )
    if not logits.isfinite().all():
        raise ValueError(f"{name} gives logits that are not finite; look for NaN in its weights.")
    for kind, step, p in (("", "softmax", logits), ("log-", "log_softmax", logits.exp())):
        given = torch.equal(sigmoid.flatten().float(), p.flatten().float())
        if given or ((p >= 0).all() and ((p.sum(1) - 1).abs() <= tolerance).all()):
            warnings.warn(
                f"{name} seems to return {kind}probabilities; the method is about logits, so take "
                f"the last {'sigmoid' if given else step} out of it.",
                stacklevel=5,
            )


def each_named(names: Sequence, count: int, model: str) -> tuple[str, ...]:
    """Return names of the logits, if there is one for each."""
    names = getattr(names, "tolist", lambda: names)()  # of an array that holds one number, that
    names = tuple(map(str, names)) if isinstance(names, Iterable) else (str(names),)
    if len(names) != count:
        raise ValueError(
            f"classes has {len(names)} names, but {model} has {count} logits; name every one, in "
            "their order."
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"classes has {twice[0]!r} twice; give each logit a name of its own.")
    return names


def logit_names(network, clips, classes=None) -> tuple[str, ...]:
    """Return the names of the logits: as given, the network's own, the clips', or numbers."""
    with torch.no_grad(), Sigmoids() as last:
        logits = network(network.prepare(torch.from_numpy(clips.frames[:2])))
    check_logits(network.name, logits, last.given)
    count = logits.shape[1]
    numbers = tuple(map(str, range(count)))
    named = network.classes if classes is None else classes
    named = each_named(numbers if named is None else named, count, "the model")
    ours = named == numbers and len(clips.classes) == count and clips.classes[0]
    return each_named(clips.classes, count, "the model") if ours else named


def logit_name(target_class: str | int, names: tuple[str, ...]) -> str:
    """Return the name of one of the logits, which may be given by its index."""
    if isinstance(target_class, (int, np.integer)) and 0 <= target_class < len(names):
        return names[target_class]
    if not isinstance(target_class, str) or target_class not in names:
        raise ValueError(
            f"target_class is {target_class!r}; {near(str(target_class), names, 3)} An index "
            f"below {len(names)} will do as well."
        )
    return target_class


def _channel_axis(adapted, a: Tensor, said: list) -> int:
    """Return the axis of a layer's output ``(2, ...)`` with its channels, as `adapt` tells it.

    `said` is what torch's own modules say of their outputs: it counts for one of this very shape,
    where clips cannot have another length and size, or more axes longer than 1 stay as they are.
    """
    who = f"layer {adapted.layer!r} of {adapted.name}, which gives {tuple(a.shape)} for two clips"
    asked, own = adapted.channel_axis, _says(adapted.module)
    axes = {*range(1, a.ndim), *range(1 - a.ndim, 0)}
    if asked is not None and not (isinstance(asked, Integral) and asked in axes):
        raise ValueError(
            f"channel_axis is {asked!r} for {who}; give an axis from 1 on, or -1 for the last."
        )
    if asked or own or a.ndim == 2:
        return (asked or own or 1) % a.ndim
    still = {axis for axis in range(1, a.ndim) if a.shape[axis] > 1} or {1}
    channels, *size = adapted.clip_shape
    for other in [n // 2 for n in size], [2 * n for n in size]:
        with suppress(Exception), running(adapted.model):
            shape = adapted.output(adapted.given(torch.zeros(1, channels, *other))).shape
            still -= {axis for axis in still if shape[axis] != a.shape[axis]}
            break
    if len(still) != 1:
        still &= {axis % a.ndim for axis, shape in said if shape == a.shape}
    if len(still) != 1:
        raise ValueError(
            f"nothing tells where the channels are of {who}; say it by channel_axis of adapt (-1 "
            "is the last), whose result explain takes as well, or choose another layer."
        )
    return still.pop()


def tensor_of(output):
    """Return the tensor of a layer that gives its tokens and their grid, such as those of MViT."""
    return output[0] if _grid_in(output) else output


def in_place_of(output, tensor: Tensor):
    """Return a tensor in the form in which a layer gave its own, see :func:`tensor_of`."""
    return type(output)((tensor, output[1])) if _grid_in(output) else tensor


def _grid_in(output) -> tuple[int, ...] | None:
    """Return the grid (t, h, w) that an output ``(tokens, grid)`` holds, if it is one."""
    if not isinstance(output, tuple | list) or len(output) != 2:
        return None
    grid = getattr(output[1], "tolist", lambda: output[1])()
    whole = isinstance(grid, tuple | list) and all(isinstance(n, Integral) for n in grid)
    return tuple(map(int, grid)) if whole and len(grid) == 3 else None


def _grid(adapted, a: Tensor, axis: int, grids: list) -> tuple[tuple[int, int, int] | None, int]:
    """Return the grid of tokens ``(2, L, D)`` and how many come before it, as `adapt` tells it.

    `grids` are those that layers give with their tokens, or of 3D convolutions, with the channels.
    """
    who = f"layer {adapted.layer!r} of {adapted.name}, which gives {tuple(a.shape)} for two clips"
    asked, extra = adapted.asked.values()
    if a.ndim != 3 or len(a) != 2:
        if asked is not None or extra is not None:
            raise Misplaced(f"grid and class_token are of tokens (N, L, D), not for {who}.")
        return None, 0
    length, channels = a.shape[3 - axis], a.shape[axis]
    likely = (0, 1) if extra is None else (int(extra),)
    told = {g for g, c in grids if c in (None, channels) and length - math.prod(g) in likely}
    if asked is None and len(told) != 1:
        if extra is not None:
            raise ValueError(f"nothing tells the grid of {who}; say it by grid=(t, h, w) of adapt.")
        return None, 0
    grid = tuple(asked or told.pop())
    if length - math.prod(grid) not in likely:
        raise Misplaced(
            f"grid is {grid}, {math.prod(grid)} positions, and class_token {extra!r}, which do not "
            f"make the {length} tokens of {who}; give (t, h, w) of the tokens and, where others "
            "come before them, class_token=True, or how many."
        )
    return grid, length - math.prod(grid)


def _says(module: nn.Module) -> int | None:
    """Return where a module of torch's own has the channels, if it is one that says so."""
    normed = module.normalized_shape if isinstance(module, nn.LayerNorm | nn.RMSNorm) else (1,)
    if not type(module).__module__.startswith("torch.nn.") or len(normed) > 1:
        return None
    return 1 if isinstance(module, FIRST) else -1 if isinstance(module, LAST) else None


def _kind(value) -> str:
    """Say what came instead of a tensor."""
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(repr, value))}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")


def _first_pass(adapted, x: Tensor) -> tuple[object, list, list, list]:
    """Return the logits, what the layer gave, and what others tell of channels and of grids."""
    outputs, said, grids = [], [], []

    def keep(output):
        # A copy, since the step after the layer may write to it in place.
        kept = tensor_of(output)
        outputs.append(kept.clone() if isinstance(kept, Tensor) else kept)

    def look(module, output):
        if grid := _grid_in(output):
            grids.append((grid, None))
        elif isinstance(module, nn.Conv3d) and output.ndim == 5 and len(output) == len(x):
            grids.append((tuple(output.shape[2:]), output.shape[1]))
        if axis := _says(module):
            said.append((axis, output.shape))

    with running(adapted.model), hooked(adapted.module, keep), ExitStack() as hooks:
        for module in adapted.model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it takes no hook
            hooks.enter_context(hooked(module, partial(look, module)))
        for adapted.layout in (torch.channels_last_3d, torch.contiguous_format):
            outputs.clear()
            try:
                logits = adapted.model(adapted.given(x))
                logits = logits.float() if isinstance(logits, Tensor) else logits
                return logits, outputs, said, grids
            except Exception as error:
                failure = error
    first = (str(failure).strip() or "no message").splitlines()[0]
    raise ValueError(
        f"{adapted.name} cannot take clips {tuple(x.shape)} ({type(failure).__name__}: {first}). "
        "Give clips of the channels, frames and size that it was built for, or wrap it in a module "
        "that takes (N, C, T, H, W); if it takes (N, T, C, H, W): in one whose forward(x) returns "
        "model(x.transpose(1, 2)), and if it takes a list of pathways: wrap it in one whose "
        "forward(x) returns model([x[:, :, ::4], x])."
    ) from failure


def _with_way(adapted, found: Findings, z: Tensor, logits: Tensor) -> Findings:
    """Find out whether the features decide on the logits, and whether a chain of modules does."""
    # The clip shown in a replay is blank: the logits must come from z alone.
    replay = adapted.believing(replace(found, splits="replay"))
    if not _close(adapted, replay.logits(z), logits):
        return found
    # Other features as well, of both signs: those of clips may hide a ReLU in the forward.
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
    trials = [z, z.std() * noise]
    wanted = [replay.logits(trial) for trial in trials]
    after = tuple(_after(adapted.model, adapted.layer))
    chain = adapted.believing(replace(found, splits="chain", chain=after))
    with suppress(Exception):  # these modules may be no chain: the forward may do more
        if all(_close(adapted, chain.logits(t), w) for t, w in zip(trials, wanted, strict=True)):
            return chain.findings
    return replay.findings


def _after(model: nn.Module, layer: str) -> list[nn.Module]:
    """Return the modules that stand behind the layer, at every level it is nested in."""
    chain, here = [], model
    for part in layer.split("."):
        children = dict(here.named_children())
        if part not in children:  # a second name of a shared module
            return []
        chain = [*children.values()][[*children].index(part) + 1 :] + chain
        here = children[part]
    return [m for c in chain for m in (c if isinstance(c, nn.ModuleList) else [c])]


def _close(adapted, a: Tensor, b: Tensor) -> bool:
    """Tell whether two results are the same but for rounding, which half precision does coarsely.

    A batch of another size may be added up in another order.
    """
    tolerance = max(1e-3, torch.finfo(adapted.dtype).eps ** 0.5) * b.abs().max().clamp(min=1e-12)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance)
