"""Two random clips tell what a module's layer gives, and how far its features decide."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from stce.models.borrow import hooked

__all__ = ["probe", "through"]


def through(chain: list[nn.Module], a: Tensor) -> Tensor:
    """Pass a batch through modules one after the other; a linear one sees it flattened."""
    for module in chain:
        a = module(a.flatten(1) if isinstance(module, nn.Linear) else a)
    return a


def _kind(value) -> str:
    """Say what came instead of a tensor."""
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(repr, value))}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")


@torch.no_grad()
def probe(adapted) -> int:
    """Send two clips through the model, note what its layer gives, return the number of logits."""
    name, layer = adapted.name, adapted.layer
    x = torch.randn(2, *adapted.clip_shape, generator=torch.Generator().manual_seed(0))
    x = x.to(adapted.device)
    logits, outputs = _first_pass(adapted, x)
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
    a = outputs[0]
    if not isinstance(a, Tensor) or not a.is_floating_point() or a.ndim < 2 or len(a) % 2:
        got = f"{tuple(a.shape)} {a.dtype}" if isinstance(a, Tensor) else _kind(a)
        raise ValueError(
            f"layer {layer!r} of {name} gives {got} for two clips, not one tensor of floats (N, "
            "...); choose a layer inside it or after it."
        )
    adapted._per_clip, adapted._shape = len(a) // 2, tuple(a.shape[1:])
    z = adapted._vector(a, torch.mean)
    adapted.n_features = z.shape[1]
    if not _close(adapted, adapted.features(x[1:]), z[1:]) or not _close(
        adapted, adapted(x[1:]), logits[1:]
    ):
        raise ValueError(
            f"what {name} gives for a clip depends on the other clips of the batch, at {layer!r} "
            "or in its logits; if it takes frames one by one, let those of a clip follow each "
            "other (x.transpose(1, 2).flatten(0, 1)), and use batch normalisation with running "
            "statistics."
        )
    if (logits >= 0).all() and _close(adapted, logits.sum(1), torch.ones_like(logits[:, 0])):
        warnings.warn(
            f"{name} seems to return probabilities; the method is about logits, so take the last "
            "softmax out of it.",
            stacklevel=4,
        )
    if z.numel() == a.numel():
        _prove(adapted, z, logits)
    return logits.shape[1]


def _first_pass(adapted, x: Tensor) -> tuple[object, list]:
    """Return the logits and what the layer gave, in the fast memory layout if the model can."""
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        adapted._layout = layout
        outputs: list = []

        def keep(output, outputs=outputs):
            # A copy, since the step after the layer may write to it in place.
            outputs.append(output.clone() if isinstance(output, Tensor) else output)

        try:
            with adapted._running(), hooked(adapted._at, keep):
                logits = adapted.model(adapted._input(x))
            return logits.float() if isinstance(logits, Tensor) else logits, outputs
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


def _prove(adapted, z: Tensor, logits: Tensor) -> None:
    """Find out whether the features decide on the logits, and whether a chain of modules does."""
    adapted.splits = "replay"  # the clip shown is blank: the logits must come from z alone
    if not _close(adapted, adapted.logits(z), logits):
        adapted.splits = "no"
        return
    # Other features as well, of both signs: those of clips may hide a ReLU in the forward.
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
    trials = [z, z.std() * noise]
    wanted = [adapted.logits(trial) for trial in trials]
    adapted._head, adapted.splits = _after(adapted.model, adapted.layer), "chain"
    try:
        proved = all(
            _close(adapted, adapted.logits(t), w) for t, w in zip(trials, wanted, strict=True)
        )
    except Exception:  # these modules are no chain: the forward does more than call them in order
        proved = False
    if not proved:
        adapted._head, adapted.splits = [], "replay"


def _after(model: nn.Module, layer: str) -> list[nn.Module]:
    """Return the modules that stand behind the layer, at every level it is nested in."""
    chain: list[nn.Module] = []
    here = model
    for part in layer.split("."):
        names = [name for name, _ in here.named_children()]
        children = list(here.children())
        if part not in names:  # a second name of a shared module
            return []
        position = names.index(part)
        chain = children[position + 1 :] + chain
        here = children[position]
    return [m for c in chain for m in (c if isinstance(c, nn.ModuleList) else [c])]


def _close(adapted, a: Tensor, b: Tensor) -> bool:
    """Tell whether two results are the same but for rounding, which half precision does coarsely.

    A batch of another size may be added up in another order.
    """
    if a.shape != b.shape:
        return False
    tolerance = max(1e-3, torch.finfo(adapted._dtype).eps ** 0.5)
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-12))
