"""The three networks of the paper (4.1), built from scratch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from stce.engine.device import typed
from stce.models.architectures import c3d, i3d, r3d
from stce.models.network import Network

NETWORKS = {"c3d": c3d, "r3d18": r3d, "i3d": i3d}


@torch.inference_mode(False)  # or its weights could never be trained
@typed
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
    """Return a network with fresh weights, on the CPU in channels_last_3d, in training mode.

    Parameters
    ----------
    name : {"c3d", "r3d18", "i3d"}
        At width 1 exactly the network of its paper.
    n_classes, in_channels : int, and {3, 1}
        Number of logits Y, at least 2; RGB or grey.
    width : float, default 1.0
        Factor on every number of channels, rounded to multiples of 8; also on the 4096 units of
        C3D's fc6 and fc7. Log scale: 0.125, 0.25, 0.5, 1. Time falls about with its square.
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
    settings = complete({
        "name": name, "n_classes": n_classes, "width": width, "in_channels": in_channels,
        "input_size": input_size, "layer": layer, "dropout": dropout, "seed": seed,
    })  # fmt: skip
    try:
        network = assemble(settings).to_empty(device="cpu")
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise ValueError(
            f"width is {width} and input_size {tuple(input_size)}: a {name} of this size does not "
            "fit into memory; lower one of them."
        ) from error
    _initialise(network, settings["seed"])
    return network.to(memory_format=torch.channels_last_3d)


def complete(settings: Mapping) -> dict:
    """Return the settings with their defaults filled in."""
    values = dict(settings)
    if values["name"] not in NETWORKS:
        raise ValueError(
            f"there is no network {values['name']!r}; the networks are {', '.join(NETWORKS)}."
        )
    module = NETWORKS[values["name"]]
    defaults = {"dropout": module.DROPOUT, "layer": module.LAYER}
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    size = values["input_size"] = [int(n) for n in values["input_size"]]
    for ok, text in (
        (int(values["n_classes"]) >= 2, "n_classes must be at least 2"),
        (0 < values["width"] < 1e4, "width must be above 0 (0.125, 0.25, 0.5 or 1)"),
        (values["in_channels"] in (1, 3), "in_channels must be 1 (grey) or 3 (RGB)"),
        (len(size) == 3 and min(size) > 0, "input_size must be frames, height and width above 0"),
        (0 <= values["dropout"] < 1, "dropout must lie in [0, 1)"),
    ):
        if not ok:
            raise ValueError(f"{text}, got {values[text.split()[0]]!r}.")
    values["n_classes"], values["seed"] = int(values["n_classes"]), int(values.get("seed", 0))
    values["width"], values["dropout"] = float(values["width"]), float(values["dropout"])
    return values


def assemble(settings: dict, classes=None) -> Network:
    """Return the network without memory for its weights: they are filled in by the caller."""
    keys = ("n_classes", "width", "in_channels", "input_size", "dropout")
    with torch.device("meta"):
        blocks = NETWORKS[settings["name"]].blocks(**{key: settings[key] for key in keys})
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
                nn.init.kaiming_normal_(module.weight, 0, mode, "relu", generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.zeros_(network.mean)
    nn.init.ones_(network.std)
