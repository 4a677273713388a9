"""What `train` and `evaluate` refuse before anything starts."""

from __future__ import annotations

import numpy as np

SCHEDULES = ("step", "onecycle")


def check_training(network, videos, test, settings, evaluate_every) -> None:
    """Refuse arguments out of range, and videos that do not belong to network and test clips."""
    given = {**settings, "evaluate_every": evaluate_every}
    for name, ok, allowed in (
        ("epochs", settings["epochs"] >= 1, "at least 1"),
        ("batch_size", settings["batch_size"] >= 1, "at least 1"),
        ("lr", settings["lr"] > 0, "above 0"),
        ("momentum", 0 <= settings["momentum"] < 1, "in [0, 1)"),
        ("weight_decay", settings["weight_decay"] >= 0, "at least 0"),
        ("schedule", settings["schedule"] in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
        ("lr_step", settings["lr_step"] >= 1, "at least 1"),
        ("lr_gamma", 0 < settings["lr_gamma"] <= 1, "in (0, 1]"),
        ("label_smoothing", 0 <= settings["label_smoothing"] < 1, "in [0, 1)"),
        ("max_norm", settings["max_norm"] >= 0, "at least 0 (no limit)"),
        ("seed", settings["seed"] >= 0, "at least 0"),
        ("evaluate_every", evaluate_every >= 1, "at least 1"),
    ):
        if not ok:
            raise ValueError(f"{name} must be {allowed}, got {given[name]!r}.")
    drawn, size = [settings["n_frames"], *settings["crop"]], list(network.clip_shape[1:])
    if drawn != size:
        raise ValueError(
            f"clips of n_frames and crop {drawn} do not fit the network's input_size {size}; "
            "give both the same."
        )
    network.check_classes(videos.classes)
    counts = np.bincount(videos.table["label"], minlength=len(videos.classes))
    empty = [name for name, n in zip(videos.classes, counts, strict=True) if not n]
    if empty:
        raise ValueError(
            f"{len(videos)} training videos leave these classes empty: {', '.join(empty)}; every "
            "class needs at least one. Add videos, or leave the class out."
        )
    if test is not None:
        network.check_classes(test.classes)
        if tuple(test.classes) != tuple(videos.classes):
            raise ValueError(
                f"the test clips' classes {test.classes} are not the training videos' "
                f"{videos.classes}; take both from the same data set."
            )
