"""What scores look like by chance: sets of random clips, and heads with shuffled weights."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from torch import nn

from stce import cav, tcav


def shuffle_weights(module: nn.Module, rng: np.random.Generator) -> None:
    """Shuffle the entries within each parameter and each floating-point buffer, in place.

    Sizes and spread of the weights stay, what they say is gone. If the weights were drawn at
    random to begin with, the shuffled ones are as likely as they were. Pass a copy of the module
    to keep the original.
    """
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                order = torch.from_numpy(rng.permutation(tensor.numel())).to(tensor.device)
                tensor.copy_(tensor.reshape(-1)[order].reshape(tensor.shape))


def _pairs(n: int, n_opponents: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair each of n groups with as many others, each pair once: its neighbours in a circle."""
    if n <= n_opponents + 1:
        return np.triu_indices(n, 1)
    first = np.arange(n).repeat(n_opponents // 2)
    return first, (first + np.tile(np.arange(n_opponents // 2) + 1, n)) % n


def random_sets(
    random: np.ndarray,
    scale: np.ndarray,
    gradients: dict[str, np.ndarray],
    size: int,
    *,
    n_groups: int = 50,
    n_null: int = 400,
    n_opponents: int = 12,
    strength: float = 1.0,
    rng: np.random.Generator,
    device="cpu",
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Score sets of random clips as if they were concepts: the random-against-random CAVs.

    The random clips are dealt into disjoint groups, and each group is scored against others of its
    deal, exactly as a concept is scored against the random groups. A mean over fewer opponents than
    the concept has spreads wider, by a factor of sqrt(1 + 1 / `n_opponents`): p-values err upwards.

    Parameters
    ----------
    random, scale : numpy.ndarray
        Random clips, standardised, ``(M, D) float64``, and by what they were divided, ``(D,)``.
    gradients : dict of str to numpy.ndarray
        For each class ``(N_y, D)``, see :func:`stce.tcav.slopes`.
    size : int
        Members of a set, as many as the concept has.
    n_groups : int, default 50
        Groups a deal; fewer where the clips do not suffice.
    n_null : int, default 400
        At least so many sets are scored. The smallest p-value is 1 / (`n_null` + 1).
    n_opponents : int, default 12
        Groups that each is scored against, an even number; all others of a deal if it has no more.
    rng : numpy.random.Generator
        Deals the groups.
    strength, device
        See :func:`stce.cav.classifiers`.

    Returns
    -------
    by_class : dict of str to pandas.DataFrame
        One row a set: ``score`` and ``derivative``.
    accuracy : numpy.ndarray
        ``(B,)`` held-out accuracy of the sets' CAVs.

    Raises
    ------
    ValueError
        If there are too few random clips for three groups.
    """
    gram, sign = random @ random.T, np.repeat([1, -1], size)
    options = {"strength": strength, "device": device}
    n = min(n_groups, len(random) // size)
    if n < 3:
        raise ValueError(
            f"{len(random)} random clips make {n} disjoint groups of {size}; a test needs 3 or "
            "more. Raise n_random_clips (of other classes' clips: n_discovery) or lower n_keep."
        )
    deals = [tcav.random_groups(len(random), n, size, rng) for _ in range(-(-n_null // n))]
    first, second = _pairs(n, n_opponents)
    together = max(1, 2000 // len(first))
    rows, accuracies = {name: [] for name in gradients}, []
    for start in range(0, len(deals), together):  # bounds the memory, and many fits are faster
        part = deals[start : start + together]
        problems = np.concatenate([np.hstack([deal[first], deal[second]]) for deal in part])
        weights, _ = cav.classifiers(random, gram, problems, sign, **options)
        vectors = cav.unit(weights / scale)
        blocks = np.array_split(problems, -(-len(problems) // 256))
        right = np.concatenate(
            [cav.held_out_accuracy(gram, block, sign, **options) for block in blocks]
        )
        # Swapping the two groups of a problem turns its CAV round, so each is fitted once.
        accuracies.append(_means(n, first, second, right, right))
        for name, gradient in gradients.items():
            derivative = vectors @ gradient.T.astype(np.float64)
            mean, above, below = derivative.mean(1), derivative > 0, derivative < 0
            score = _means(n, first, second, above.mean(1), below.mean(1))
            table = {"score": score, "derivative": _means(n, first, second, mean, -mean)}
            rows[name].append(pd.DataFrame(table))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items()}
    return tables, np.concatenate(accuracies)


def _means(n: int, first, second, forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Average values of pairs of n groups, deal by deal, at both ends of the pairs."""
    sums = np.zeros((len(forward) // len(first), n))
    for end, values in ((first, forward), (second, backward)):
        for deal, part in zip(sums, values.reshape(len(sums), -1), strict=True):
            deal += np.bincount(end, part, n)
    return (sums * n / (2 * len(first))).ravel()


def unit_mean(gradient: np.ndarray) -> np.ndarray:
    """Return the mean over clips of gradients ``(N, D)`` brought to length 1, ``(D,)``."""
    return cav.unit(gradient.astype(np.float64)).mean(0)


def shuffled_gradients(
    network, samples: tcav.Samples, name: str, n: int, rng: np.random.Generator, device="cpu"
) -> np.ndarray:
    """Return the mean directions of a class gradient under n shuffled heads, ``(n, D) float64``.

    The network stays as it is; see :func:`unit_mean` and :func:`shuffle_weights`. Of an adapted
    module all weights are shuffled; the features are given, so only those behind the layer matter.
    """
    network = copy.deepcopy(network)
    head, y = network.behind, samples.classes.index(name)
    found = []
    for _ in range(n):
        shuffle_weights(head, rng)
        slope = tcav.slopes(network, samples.clips[name], y, samples.target, device=device)
        found.append(unit_mean(slope))
    return np.stack(found)
