"""Two random clips tell what a module's layer gives, and how far its features decide."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stce.models.borrow import hooked, running

__all__ = ["Findings", "probe"]


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
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{name} returns {_kind(logits)}, not a tensor of logits; wrap it in a module whose "
            "forward returns the logits (N, Y) out of it."
        )
    if logits.ndim != 2 or len(logits) != 2 or not logits.isfinite().all():
        raise ValueError(
            f"{name} gives {tuple(logits.shape)} for two clips, or values that are not finite; "
            "wrap it in a module whose forward returns logits (N, Y)."
        )
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
    found = Findings(logits.shape[1], tuple(a.shape[1:]), len(a) // 2, layout)
    seen = adapted.believing(found)
    z = seen.vectors(a)
    if not _close(seen, seen.features(x[1:]), z[1:]) or not _close(seen, seen(x[1:]), logits[1:]):
        raise ValueError(
            f"what {name} gives for a clip depends on the other clips of the batch, at {layer!r} "
            "or in its logits; if it takes frames one by one, let those of a clip follow each "
            "other (x.transpose(1, 2).flatten(0, 1)), and use batch normalisation with running "
            "statistics."
        )
    if (logits >= 0).all() and _close(seen, logits.sum(1), torch.ones_like(logits[:, 0])):
        warnings.warn(
            f"{name} seems to return probabilities; the method is about logits, so take the last "
            "softmax out of it.",
            stacklevel=4,
        )
    return found if z.numel() < a.numel() else _with_way(seen, found, z, logits)


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
