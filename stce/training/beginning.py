"""A network that others have trained, as the beginning of one for the classes of other clips."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from stce import models
from stce.models.weights import near


def logits_of(network, classes, class_map) -> list[int]:
    """Return which logits are those of some classes, by their names or as a mapping says.

    Neither case nor underscores count. A class that the network does not know is refused, and so
    are two that are one to it, and a mapping of what is no class.
    """
    for name in class_map:
        if name not in classes:
            raise ValueError(f"class_map names {name!r}, no class of yours; {near(name, classes)}")
    known = {n.replace("_", " ").casefold(): row for row, n in enumerate(network.classes or ())}
    theirs = [str(class_map.get(n, n)).replace("_", " ").casefold() for n in classes]
    rows = [known.get(name, -1) for name in theirs]
    for mine, name, row in zip(classes, theirs, rows, strict=True):
        if row < 0 or rows.count(row) > 1:
            wrong = "does not know" if row < 0 else "cannot tell from another of yours"
            raise ValueError(
                f"your class {mine!r} is {name!r}, which the network {wrong}; "
                f"{near(name, known, 3)} Say it by class_map, or fit trainable='head'."
            )
    return rows


def begin(network, classes, rows=None, dropout=0.0, seed=0) -> models.Network:
    """Copy a network for other classes: with rows of its last layer, or by default a new one."""
    made = {"n_classes": len(classes), "dropout": dropout, "seed": seed}
    other = models.build(**{**network.settings, **made})
    state, blocks = nn.ModuleDict(network.blocks()).state_dict(), nn.ModuleDict(other.blocks())
    for key in list(state)[-2:]:
        state[key] = blocks.state_dict()[key] if rows is None else state[key][rows]
    blocks.load_state_dict(state)
    other.set_moments(network.mean.tolist(), network.std.tolist())
    other.classes = tuple(classes)
    return other


def fit_head(network, features: np.ndarray, labels, strength: float = 0.01) -> None:
    """Fit the last layer to its optimum: a multinomial logistic regression, folded into it.

    Features ``(V, N, D)`` are V views of N clips, each class among them, which are standardised;
    ``sum of losses + |W|^2 / (2 strength)`` is minimised, where the views of a clip count as one.
    """
    last, n_views = list(network.blocks().values())[-1], len(features)
    z = np.concatenate(features).astype(float)
    mean, scale = z.mean(0), z.std(0)
    scale[scale == 0] = 1
    # Of two classes scikit-learn fits the difference: half of it each, at twice the strength.
    two = last.out_features == 2
    solver = LogisticRegression(C=strength * (1 + two), tol=1e-8, max_iter=10_000)
    solver.fit((z - mean) / scale, np.tile(labels, n_views), np.full(len(z), 1 / n_views))
    sides = np.array([[-0.5], [0.5]]) if two else np.eye(last.out_features)
    weight = sides @ solver.coef_ / scale
    found = {"weight": weight, "bias": sides @ solver.intercept_ - weight @ mean}
    last.load_state_dict({name: torch.from_numpy(value) for name, value in found.items()})
