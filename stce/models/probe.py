"""Two random clips tell what a module's layer gives, and how far its features decide."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stce.models.borrow import borrowed, hooked, running

__all__ = ["Findings", "check_logits", "probe"]

# torch's own modules by where they have the channels.
FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
FIRST += (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
FIRST += (nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd)
SHAPING = ("View", "Reshape", "Unsafe", "Squeeze", "Unsqueeze", "ToCopy", "Mean", "Clone")
LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.TransformerEncoder, nn.TransformerEncoderLayer)


@dataclass(frozen=True)
class Findings:
    """What is known of a module, seen at one of its layers.

    Attributes
    ----------
    n_classes : int
        Number of logits Y.
    shape, per_clip : tuple of int, and int
        Shape of a row of the layer's output, and rows a clip: frames, where it sees them one by
        one.
    channel_axis : int
        Which axis of the layer's output has its channels, 1 or more.
    layout : torch.memory_format
        Of the clips: the one that is fast for 3D convolutions, if the module can take it.
    splits : {"chain", "replay", "no"}
        See :class:`stce.models.adapt.Adapted`.
    chain : tuple of torch.nn.Module
        The modules after the layer, where they alone lead to the logits.
    """

    n_classes: int
    shape: tuple[int, ...]
    per_clip: int
    channel_axis: int
    layout: torch.memory_format
    splits: str = "no"
    chain: tuple[nn.Module, ...] = ()


@torch.no_grad()
def probe(adapted) -> Findings:
    """Send two clips through an adapted module and find out what its layer gives.

    It stays as it is; views of it that believe this or that (`believing`) are tried.
    """
    name, layer = adapted.name, adapted.layer
    x = torch.randn(2, *adapted.clip_shape, generator=torch.Generator().manual_seed(0))
    x = x.to(adapted.device)
    logits, outputs, layout = _first_pass(adapted, x)
    check_logits(name, logits, max(1e-3, torch.finfo(adapted.dtype).eps ** 0.5))
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
    found = Findings(logits.shape[1], tuple(a.shape[1:]), len(a) // 2, 1, layout)
    found = replace(found, channel_axis=_channel_axis(adapted, a, found)) if adapted.pool else found
    seen = adapted.believing(found)
    z = seen.vectors(a)
    if not _close(seen, seen.features(x[1:]), z[1:]) or not _close(seen, seen(x[1:]), logits[1:]):
        raise ValueError(
            f"what {name} gives for a clip depends on the other clips of the batch, at {layer!r} "
            "or in its logits; if it takes frames one by one, let those of a clip follow each "
            "other (x.transpose(1, 2).flatten(0, 1)), and use batch normalisation with running "
            "statistics."
        )
    if ((logits >= 0) & (logits <= 1)).all() and _ends_in_sigmoid(seen, x):
        _remark(name, "probabilities", "sigmoid")
    return found if z.numel() < a.numel() else _with_way(seen, found, z, logits)


def check_logits(name: str, logits, tolerance: float = 1e-3) -> None:
    """Refuse what is not the logits ``(2, Y)`` of two classes or more; probabilities get a warning.

    They and their logarithms are told by their sums, which are 1.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{name} returns {_kind(logits)}, not a tensor of logits; wrap it in a module whose "
            "forward returns the logits (N, Y) out of it."
        )
    if logits.numel() == 2:
        raise ValueError(
            f"{name} gives {tuple(logits.shape)} for two clips, one logit each, which has no other "
            "class to be compared with; wrap it in a module whose forward returns "
            "torch.cat([-z, z], 1) of this z (N, 1), so that class 1 is what z > 0 stands for."
        )
    if logits.ndim != 2 or len(logits) != 2 or not logits.isfinite().all():
        raise ValueError(
            f"{name} gives {tuple(logits.shape)} for two clips, or values that are not finite; "
            "wrap it in a module whose forward returns logits (N, Y)."
        )
    if (logits >= 0).all() and ((logits.sum(1) - 1).abs() <= tolerance).all():
        _remark(name, "probabilities", "softmax")
    if (logits.logsumexp(1).abs() <= tolerance).all():
        _remark(name, "log-probabilities", "log_softmax")


def _remark(name: str, what: str, step: str) -> None:
    warnings.warn(
        f"{name} seems to return {what}; the method is about logits, so take the last {step} out "
        "of it.",
        stacklevel=6,
    )


def _ends_in_sigmoid(adapted, x: Tensor) -> bool:
    """Tell whether the last step to the logits, but for changes of shape, is a sigmoid."""
    with suppress(Exception), borrowed(adapted.model), torch.inference_mode(False):
        with torch.enable_grad():
            own = x.clone().requires_grad_().to(adapted.dtype, copy=True)
            step = adapted.model(own.contiguous(memory_format=adapted.findings.layout)).grad_fn
        while step.name().startswith(SHAPING):
            step = step.next_functions[0][0]
        return "Sigmoid" in step.name()
    return False


def _channel_axis(adapted, a: Tensor, found: Findings) -> int:
    """Return the axis of a layer's output ``(2, ...)`` that has its channels.

    It is what was asked for, or what torch's own modules say. Elsewhere it is the one axis longer
    than 1 that stays as it is if clips have other frames, or another size; and where they cannot
    have, or more axes stay, the one that such modules have for an output of this very shape.
    """
    who, axes = f"layer {adapted.layer!r} of {adapted.name}", set(range(1, a.ndim))
    gives, asked = f"gives {tuple(a.shape)} for two clips", adapted.channel_axis
    if asked is not None:
        if asked not in {*axes, *(axis - a.ndim for axis in axes)}:
            raise ValueError(
                f"channel_axis is {asked!r}, but {who} {gives}; give one of its axes from 1 to "
                f"{a.ndim - 1}, or -1 for the last."
            )
        return asked % a.ndim
    own = _says(adapted.module)
    if own is not None or a.ndim == 2:
        return (own or 1) % a.ndim
    still = {axis for axis in axes if a.shape[axis] > 1} or {1}
    c, t, h, w = adapted.clip_shape
    for sizes in ((t // 2, h, w), (2 * t, h, w)), ((t, h // 2, w // 2), (t, 2 * h, 2 * w)):
        for size in sizes:
            x = torch.zeros(1, c, *size, dtype=adapted.dtype, device=adapted.device)
            with suppress(Exception), running(adapted.model):
                other = adapted.output(x.contiguous(memory_format=found.layout)).shape
                still -= {axis for axis in still if other[axis] != a.shape[axis]}
                break
    if len(still) != 1:
        still &= _said_of(adapted, a, found)
    if len(still) != 1:
        raise ValueError(
            f"{who} {gives}, and nothing tells which axis has its channels; say it by channel_axis "
            "(-1 is the last), or choose another layer."
        )
    return still.pop()


def _says(module: nn.Module) -> int | None:
    """Return where a module of torch's own has the channels, if it is one that says so."""
    normed = module.normalized_shape if isinstance(module, nn.LayerNorm | nn.RMSNorm) else (1,)
    if not type(module).__module__.startswith("torch.nn.") or len(normed) > 1:
        return None
    return 1 if isinstance(module, FIRST) else -1 if isinstance(module, LAST) else None


def _said_of(adapted, a: Tensor, found: Findings) -> set[int]:
    """Return where torch's own modules have the channels that give an output of the same shape."""
    axes, x = set(), torch.zeros(2, *adapted.clip_shape, dtype=adapted.dtype, device=a.device)
    with ExitStack() as stack:
        stack.enter_context(running(adapted.model))
        for module in adapted.model.modules():
            if (axis := _says(module)) is not None:

                def note(output, axis=axis):
                    if isinstance(output, Tensor) and output.shape == a.shape:
                        axes.add(axis % a.ndim)

                stack.enter_context(hooked(module, note))
        adapted.model(x.contiguous(memory_format=found.layout))
    return axes


def _kind(value) -> str:
    """Say what came instead of a tensor."""
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(repr, value))}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")


def _first_pass(adapted, x: Tensor) -> tuple[object, list, torch.memory_format]:
    """Return the logits, what the layer gave, and the fast memory layout if the model can."""
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        outputs: list = []

        def keep(output, outputs=outputs):
            # A copy, since the step after the layer may write to it in place.
            outputs.append(output.clone() if isinstance(output, Tensor) else output)

        try:
            with running(adapted.model), hooked(adapted.module, keep):
                own = x.to(adapted.dtype, copy=True).contiguous(memory_format=layout)
                logits = adapted.model(own)
            return logits.float() if isinstance(logits, Tensor) else logits, outputs, layout
        except Exception as error:
            failure = error
    paths = any("MultiPath" in type(m).__name__ for m in adapted.model.modules())
    remedy = (
        "It takes a list of pathways: wrap it in a module whose forward(x) returns "
        "model([x[:, :, ::4], x])."
        if paths or "list" in str(failure)
        else "Give clips of the channels, frames and size that it was built for, or wrap it in a "
        "module that takes (N, C, T, H, W)."
    )
    first = (str(failure).strip() or "no message").splitlines()[0]
    raise ValueError(
        f"{adapted.name} cannot take clips {tuple(x.shape)} ({type(failure).__name__}: {first}). "
        + remedy
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
    try:
        same = all(_close(adapted, chain.logits(t), w) for t, w in zip(trials, wanted, strict=True))
    except Exception:  # these modules are no chain: the forward does more than call them in order
        same = False
    return chain.findings if same else replay.findings


def _after(model: nn.Module, layer: str) -> list[nn.Module]:
    """Return the modules that stand behind the layer, at every level it is nested in."""
    chain: list[nn.Module] = []
    here = model
    for part in layer.split("."):
        children = dict(here.named_children())
        if part not in children:  # a second name of a shared module
            return []
        behind = list(children)[list(children).index(part) + 1 :]
        chain = [children[name] for name in behind] + chain
        here = children[part]
    return [m for c in chain for m in (c if isinstance(c, nn.ModuleList) else [c])]


def _close(adapted, a: Tensor, b: Tensor) -> bool:
    """Tell whether two results are the same but for rounding, which half precision does coarsely.

    A batch of another size may be added up in another order.
    """
    if a.shape != b.shape:
        return False
    tolerance = max(1e-3, torch.finfo(adapted.dtype).eps ** 0.5)
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-12))
