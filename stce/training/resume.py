"""What a training that was stopped needs to go on exactly where it was."""

from __future__ import annotations

import json

import torch

from stce.models.store import read_tensors, write_tensors


def keep_state(path, network, optimizer, settings, history) -> None:
    """Write what the next epoch needs; one file, so that it can never disagree with itself."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    for name, weight in network.named_parameters():
        buffer = optimizer.state[weight].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    write_tensors(path, tensors, {"stce": json.dumps({"settings": settings, "history": history})})


def restore_state(path, network, optimizer, settings) -> list[dict]:
    """Put the kept state back, and return the history so far."""
    tensors, header = read_tensors(path)
    for key, value in settings.items():
        if (there := header["settings"].get(key)) != value:
            raise ValueError(
                f"{path} is the state of a training with {key}={there!r}, not {value!r}; give the "
                "same arguments to go on with it, another folder to train beside it, or delete the "
                "file to start again."
            )
    front = "network."
    state = {k.removeprefix(front): v for k, v in tensors.items() if k.startswith(front)}
    network.load_state_dict(state)
    for name, weight in network.named_parameters():
        if f"momentum.{name}" in tensors:
            # in the layout of the weight, so that the optimiser's loops run over both alike
            buffer = torch.empty_like(weight).copy_(tensors[f"momentum.{name}"])
            optimizer.state[weight]["momentum_buffer"] = buffer
    return header["history"]
