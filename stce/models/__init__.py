"""The three networks of the paper (4.1), built from scratch, saved and loaded.

Each is a chain of named blocks that can be cut into a trunk and a head at any of the names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from stce.models import c3d, i3d, r3d
from stce.models.network import Network
from stce.models.pooled import Pooled

__all__ = ["FEATURES", "NAMES", "Network", "Pooled", "build", "load", "save"]

_MODULES = {"c3d": c3d, "r3d18": r3d, "i3d": i3d}
NAMES = tuple(_MODULES)
FEATURES = ("supervoxels", "pooled")


def build(
    name: str,
    n_classes: int,
    width: float = 1.0,
    in_channels: int = 3,
    input_size: tuple[int, int, int] = (16, 112, 112),
    layer: str | None = None,
    dropout: float | None = None,
    seed: int = 0,
) -> Network:
    """Return a network with fresh weights.

    Parameters
    ----------
    name : {"c3d", "r3d18", "i3d"}
        At width 1 exactly the network of its paper.
    n_classes : int
        Number of logits Y, at least 2.
    width : float, default 1.0
        Factor on every number of channels, rounded to multiples of 8; also on the 4096 units of
        C3D's fc6 and fc7. Log scale: 0.125, 0.25, 0.5, 1. Time falls about with its square.
    in_channels : {3, 1}
        RGB or grey.
    input_size : tuple of int, default (16, 112, 112)
        Frames, height and width of a clip.
    layer : str, optional
        Where it is cut into trunk and head; default ``"fc7"`` (after its ReLU) for c3d and
        ``"avgpool"``, the global average pool, for r3d18 and i3d, as in the paper.
    dropout : float, optional
        Probability in [0, 1) of the dropout steps; default as in the networks' papers 0.5 for
        c3d and i3d, and 0 for r3d18.
    seed : int, default 0
        Of the weights. The global random state is not touched.

    Returns
    -------
    Network
        On the CPU in channels_last_3d, in training mode.

    Raises
    ------
    ValueError
        If a name does not exist or a number is out of range.

    Notes
    -----
    Convolutions and hidden fully connected layers get Kaiming's normal weights (the small
    constants of C3D's own recipe would let the signal vanish in a narrow network without batch
    normalisation), the last layer N(0, 0.01), biases 0.

    Examples
    --------
    >>> network = build("r3d18", n_classes=6, width=0.125, in_channels=1, input_size=(8, 32, 32))
    >>> network(torch.zeros(2, 1, 8, 32, 32)).shape
    torch.Size([2, 6])
    """
    settings = _check(
        {
            "name": name,
            "n_classes": n_classes,
            "width": width,
            "in_channels": in_channels,
            "input_size": input_size,
            "layer": layer,
            "dropout": dropout,
            "seed": seed,
        }
    )
    network = _assemble(settings).to_empty(device="cpu")
    _initialise(network, settings["seed"])
    return network.to(memory_format=torch.channels_last_3d)


def _check(settings: Mapping) -> dict:
    """Return the settings with their defaults filled in."""
    values = dict(settings)
    if values["name"] not in _MODULES:
        raise ValueError(
            f"there is no network {values['name']!r}; the networks are {', '.join(NAMES)}."
        )
    module = _MODULES[values["name"]]
    if values["dropout"] is None:
        values["dropout"] = module.DROPOUT
    if values["layer"] is None:
        values["layer"] = module.LAYER
    size = values["input_size"] = [int(n) for n in values["input_size"]]
    for ok, text in (
        (int(values["n_classes"]) >= 2, "n_classes must be at least 2"),
        (values["width"] > 0, "width must be above 0 (0.125, 0.25, 0.5 or 1)"),
        (values["in_channels"] in (1, 3), "in_channels must be 1 (grey) or 3 (RGB)"),
        (len(size) == 3 and min(size) > 0, "input_size must be frames, height and width above 0"),
        (0 <= values["dropout"] < 1, "dropout must lie in [0, 1)"),
    ):
        if not ok:
            raise ValueError(f"{text}, got {values[text.split()[0]]!r}.")
    values["n_classes"], values["seed"] = int(values["n_classes"]), int(values.get("seed", 0))
    values["width"], values["dropout"] = float(values["width"]), float(values["dropout"])
    return values


def _assemble(settings: dict, classes=None) -> Network:
    """Return the network without memory for its weights: they are filled in by the caller."""
    keys = ("n_classes", "width", "in_channels", "input_size", "dropout")
    with torch.device("meta"):
        blocks = _MODULES[settings["name"]].blocks(**{key: settings[key] for key in keys})
        return Network(blocks, settings["layer"], settings, classes)


def _initialise(network: Network, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    last = list(network.head.modules())[-1]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.reset_parameters()
        elif isinstance(module, (nn.Conv3d, nn.Linear)):
            if module is last:
                nn.init.normal_(module.weight, 0, 0.01, generator=generator)
            else:
                # fan_out for convolutions under batch normalisation, as torchvision and He do
                mode = "fan_in" if module.bias is not None else "fan_out"
                nn.init.kaiming_normal_(
                    module.weight, mode=mode, nonlinearity="relu", generator=generator
                )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.zeros_(network.mean)
    nn.init.ones_(network.std)


def _state(network: Network) -> dict[str, torch.Tensor]:
    """Return weights and buffers by block, the same wherever the network is cut."""
    return {
        key.removeprefix("trunk.").removeprefix("head."): value.detach()
        for key, value in network.state_dict().items()
    }


def save(path: str | Path, network: Network, **metadata) -> None:
    """Write weights, moments and settings to one safetensors file.

    The file appears complete or not at all.

    Parameters
    ----------
    path : path
        A file, usually ``*.safetensors``; one already there is replaced.
    network : Network
        Its settings and classes go into the file's header as JSON.
    **metadata
        Anything JSON can hold, such as ``epoch=150``; `load` gives it back as
        ``network.metadata``.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist.")
    header = {"settings": network.settings, "classes": network.classes, "metadata": metadata}
    write(path, _state(network), {"stce": json.dumps(header)})


def write(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file beside its place, then move it there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, temporary, header)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the tensors and the JSON header of a file of ours."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no network file {path}; train writes last.safetensors and "
            "best.safetensors, save writes any other."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["stce"])
            header["settings"]  # each of our files has some
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a network saved by stce ({type(error).__name__}: {error}); for weights "
            "from elsewhere build a network and load them into it."
        ) from error
    return tensors, header


def load(
    path: str | Path, layer: str | None = None, device="cpu", *, features: str = "supervoxels"
) -> Network:
    """Read a network written by `save`.

    Parameters
    ----------
    path : path
        The file.
    layer : str, optional
        Where it is cut; default where it was cut when it was saved.
    device : torch.device or str, default "cpu"
        Where the weights go.
    features : {"supervoxels", "pooled"}, default "supervoxels"
        Whether supervoxels are shown to it one by one, as in the paper, or pooled from the
        layer's map of the whole clip, see :class:`stce.models.pooled.Pooled`.

    Returns
    -------
    Network
        In evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not one of ours, or has no such layer, or no map there to pool from.

    Examples
    --------
    >>> import tempfile
    >>> network = build("c3d", 2, width=0.125, input_size=(8, 16, 16))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/net.safetensors", network, epoch=3)
    ...     other = load(folder + "/net.safetensors", layer="pool5")
    >>> other.layer, other.metadata
    ('pool5', {'epoch': 3})
    """
    if features not in FEATURES:
        raise ValueError(f"features is {features!r}; choose one of {', '.join(FEATURES)}.")
    tensors, header = read(Path(path))
    settings = _check(header["settings"])
    network = _assemble({**settings, "layer": layer or settings["layer"]}, header["classes"])
    state = dict(zip(_state(network), network.state_dict(), strict=True))
    try:
        network.load_state_dict({state.get(k, k): v for k, v in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit its settings: {error}") from error
    network.metadata = header["metadata"]
    network = Pooled.of(network) if features == "pooled" else network
    return network.to(device).to(memory_format=torch.channels_last_3d).eval()
