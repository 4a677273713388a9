"""What the user gave to `stce.explanation`, brought into the form that the stages take."""

from __future__ import annotations

import numpy as np
import torch

from stce.clips import Clips
from stce.models import FEATURES
from stce.models.adapt import Adapted, Explainable
from stce.models.network import Network, Pooled
from stce.study.parameters import PARAMETERS

__all__ = ["as_clips", "as_network", "check_numbers", "names", "of_class", "one_name", "view"]


def check_numbers(**given) -> None:
    """Refuse what the notebooks' parameters of the same names refuse."""
    known = {name: entry for stage in PARAMETERS.values() for name, entry in stage.items()}
    for name, value in given.items():
        plain = np.asarray(value).tolist()
        if not known[name].accepts(plain):
            raise ValueError(f"{name} is {value!r}; it takes {known[name].allowed()}.")


def as_clips(value, argument: str, shape=None) -> Clips:
    """Return clips, of class "" where no label came with them; `shape` is (C, T, H, W)."""
    if not isinstance(value, Clips):
        value = _from_array(value, argument)
    if len(value) < 2:
        raise ValueError(f"{argument} has {len(value)} clips; give two or more.")
    got = (value.frames.shape[-1], *value.frames.shape[1:4])
    if shape is not None and got != shape:
        raise ValueError(
            f"{argument} has clips (C, T, H, W) = {got}, but clips has {shape}; bring them to one "
            "size."
        )
    return value


def _from_array(value, argument: str) -> Clips:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # numpy lacks bfloat16
    array = np.asarray(value)
    shape = array.shape
    if len(shape) != 5 or (shape[1] in (1, 3)) == (shape[-1] in (1, 3)):
        raise ValueError(
            f"{argument} is of shape {shape}; give (N, C, T, H, W) or (N, T, H, W, C) with C = 1 "
            "or 3 on one side only, or Clips."
        )
    if shape[1] in (1, 3):
        array = np.moveaxis(array, 1, -1)
    if array.dtype != np.uint8:
        if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"{argument} is {array.dtype} from {array.min():.3g} to {array.max():.3g}; give "
                "uint8, or floats in 0..1 that are not normalised yet (mean and std do that)."
            )
        array = np.round(255 * array).astype(np.uint8)
    ids = [f"clip {i}" for i in range(len(array))]
    return Clips(np.ascontiguousarray(array), [0] * len(array), ids, ids, ("",))


def as_network(network: Explainable, layer, shape) -> Explainable:
    """Return what has features and logits already, cut at the layer."""
    if isinstance(network, Network) and layer not in (None, network.layer):
        network = network.split(layer)
    elif layer not in (None, getattr(network, "layer", None)):
        raise ValueError(
            f"layer is {layer!r}, but the features of model are fixed; give layer=None."
        )
    if tuple(network.clip_shape) != shape:
        raise ValueError(
            f"clips have (C, T, H, W) = {shape}, but the model takes {network.clip_shape}; bring "
            "them to this size."
        )
    return network


def view(network: Explainable, features: str) -> Explainable:
    """Return the network as `features` asks: one supervoxel a pass, or one clip."""
    if features not in FEATURES:
        raise ValueError(f"features is {features!r}; choose one of {', '.join(FEATURES)}.")
    if features == "supervoxels":
        return network
    if isinstance(network, Network):
        return Pooled.of(network)
    if not isinstance(network, Adapted):
        raise ValueError(
            "features is 'pooled', but model is features of your own, without a map to pool from; "
            "leave features='supervoxels'."
        )
    return network.pooled()


def names(network: Explainable, classes, clips: Clips) -> tuple[str, ...]:
    """Return the names of the logits: as given, the network's own, the clips', or numbers."""
    with torch.no_grad():
        first = torch.from_numpy(np.asarray(clips.frames[:1])).to(network.mean.device)
        count = network(network.prepare(first)).shape[1]
    numbers = tuple(map(str, range(count)))
    named = classes if classes is not None else getattr(network, "classes", None)
    if named is None or tuple(named) == numbers:
        named = clips.classes if len(clips.classes) == count and clips.classes[0] else numbers
    if len(named) != count:
        raise ValueError(
            f"classes has {len(named)} names, but the model has {count} logits; name every one, "
            "in their order."
        )
    return tuple(str(name) for name in named)


def one_name(target_class: str | int, names: tuple[str, ...]) -> str:
    """Return the name of the class to explain."""
    if isinstance(target_class, (int, np.integer)) and 0 <= target_class < len(names):
        return names[target_class]
    if target_class not in names:
        raise ValueError(
            f"target_class is {target_class!r}; give one of {', '.join(names[:10])}"
            f"{', ...' if len(names) > 10 else ''}, or an index below {len(names)}."
        )
    return target_class


def of_class(clips: Clips, name: str, names: tuple[str, ...], argument: str) -> Clips:
    """Return the clips of one class, labelled by the logits."""
    present = sorted({clips.classes[y] for y in clips.labels})
    if name in present:
        clips = clips.select(clips.indices_of(name))
    elif len(present) > 1 or present[0] in names:
        raise ValueError(
            f"{argument} has no clip of {name!r} but of {', '.join(present)}; give clips of the "
            "target_class, or name the logits with classes."
        )
    labels = [names.index(name)] * len(clips)
    clips = Clips(clips.frames, labels, clips.ids, clips.groups, names, clips.parts)
    return as_clips(clips, argument)
