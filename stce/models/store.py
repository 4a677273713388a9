"""Networks saved and loaded: weights, moments and settings in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from stce.engine.device import resolve
from stce.engine.storage import explain_read, path_of, replacing
from stce.models.network import Network
from stce.models.weights import located
from stce.models.zoo import assemble, complete


def state_of(network: Network) -> dict[str, torch.Tensor]:
    """Return weights and buffers by block, the same wherever the network is cut."""
    moments = {"mean": network.mean, "std": network.std}
    return moments | nn.ModuleDict(network.blocks()).state_dict()


def save(path: str | Path, network: Network, **metadata) -> None:
    """Write weights, moments and settings to one safetensors file, complete or not at all.

    A file already there is replaced. Settings and classes go into its header as JSON, with
    anything else that JSON can hold, such as ``epoch=150``: `load` gives it back as
    ``network.metadata``.
    """
    path = path_of(path)
    while not isinstance(network, Network):  # but in DataParallel, torch.compile and the like
        inside = list(network.children()) if isinstance(network, nn.Module) else []
        if len(inside) != 1:
            raise TypeError(f"save takes a Network, no {type(network).__name__}; use torch.save.")
        (network,) = inside
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist.")
    header = {"settings": network.settings, "classes": network.classes, "metadata": metadata}
    write_tensors(path, state_of(network), {"stce": json.dumps(header)})


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file beside its place, then move it there."""
    with replacing(path) as partial:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, partial, header)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the tensors and the JSON header of a file of ours."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no network file {path}; train writes last.safetensors and "
            "best.safetensors, save writes any other."
        )
    remedy = "a pretrained one is brought by `python -m stce.models fetch NAME`; for other weights "
    how = f"{remedy}build a network and load them into it", "is not a network saved by stce"
    with explain_read(path, *how), safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["stce"])
        header["settings"]  # each of our files has some
        return {key: file.get_tensor(key) for key in file.keys()}, header


@torch.inference_mode(False)
def load(
    path: str | Path, layer=None, device="cpu", *, features="supervoxels", input_size=None
) -> Network:
    """Read a network written by `save`, or one that others have trained, in evaluation mode.

    Parameters
    ----------
    path, device
        The file; or ``"i3d-kinetics400"`` or ``"r3d18-kinetics400"``, if its weights were brought
        by ``python -m stce.models fetch NAME``. And where the weights go.
    layer : str, optional
        Where it is cut; default where it was cut when it was saved.
    features : str, default "supervoxels"
        Whether supervoxels are shown to it one by one, as in the paper; or "pooled" from the
        layer's map of the whole clip, see :class:`stce.models.network.Pooled`; or hidden on the map
        of the earlier layer of this name (``hidden_at`` of the network).
    input_size : tuple of int, optional
        Frames, height and width of its clips; default as saved. Any will do for i3d and r3d18.

    Examples
    --------
    >>> import tempfile
    >>> from stce.models import build
    >>> network = build("c3d", 2, width=0.125, input_size=(8, 16, 16))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/net.safetensors", network, epoch=3)
    ...     other = load(folder + "/net.safetensors", layer="pool5")
    >>> other.layer, other.metadata
    ('pool5', {'epoch': 3})
    """
    path, device = located(path), resolve(device)
    tensors, header = read_tensors(path)
    size = {"input_size": input_size} if input_size else {}
    with explain_read(path):
        settings = complete(header["settings"])
        network = assemble(settings, header["classes"])
    if layer or size:
        settings = complete(settings | size)
        network = assemble({**settings, "layer": layer or settings["layer"]}, header["classes"])
    state = dict(zip(state_of(network), network.state_dict(), strict=True))
    try:
        network.load_state_dict({state.get(k, k): v for k, v in tensors.items()}, assign=True)
    except RuntimeError as error:
        size = f"clips of {list(input_size)}" if input_size else "its settings"
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"the weights in {path} do not fit {size}: {reason}") from error
    network.metadata = header["metadata"]
    network = network.seeing(features)
    return network.to(device).to(memory_format=torch.channels_last_3d).eval()
