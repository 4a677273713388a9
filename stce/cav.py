"""Concept activation vectors: many small linear classifiers, solved exactly and together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stce.pieces import side_by_side

__all__ = ["against", "classifiers", "held_out_accuracy", "moments", "standardise", "unit"]

# Columns standardised at a time, and problems solved at a time: 64 of 80 samples are 3 MB, and both
# stay in a core's cache; a GPU is filled by more.
COLUMNS, PROBLEMS, PROBLEMS_GPU = 256, 64, 1024
# A feature whose spread is so many last digits of its mean tells samples apart by rounding alone.
ROUNDING = 32
# The share of its first slope at which a line search ends.
FLAT = 0.1


def moments(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, over samples that come block by block.

    Parameters
    ----------
    blocks : iterable of numpy.ndarray
        ``(n, D)`` each; one at a time is held.

    Returns
    -------
    mean, scale : numpy.ndarray
        ``(D,) float64``; the scale of a feature that is constant but for rounding is 1.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983,
    :doi:`10.1080/00031305.1983.10483115`.

    Examples
    --------
    >>> mean, scale = moments([np.array([[1.0], [2.0]]), np.array([[6.0]])])
    >>> mean.tolist(), scale.round(3).tolist()
    ([3.0], [2.16])
    """
    count, mean, spread, rounding = 0, 0.0, 0.0, 0.0
    for block in blocks:
        if np.issubdtype(block.dtype, np.floating):
            rounding = max(rounding, ROUNDING * float(np.finfo(block.dtype).eps))
        n, width = block.shape
        centre, inner = np.empty(width), np.empty(width)
        # A few columns at a time stay in the cache while they are read three times.
        for start in range(0, width, COLUMNS):
            part = slice(start, start + COLUMNS)
            columns = block[:, part].astype(np.float64)
            centre[part] = columns.mean(0)
            columns -= centre[part]
            inner[part] = np.einsum("nd,nd->d", columns, columns)
        away = centre - mean
        spread = spread + inner + away**2 * (count * n / (count + n))
        mean = mean + away * (n / (count + n))
        count += n
    scale = np.sqrt(spread / count)
    scale[scale <= np.maximum(rounding * np.abs(mean), 1e-12 * scale.max())] = 1.0
    return mean, scale


def standardise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring each feature to mean 0 and standard deviation 1.

    Parameters
    ----------
    features : numpy.ndarray
        ``(n, D)``.

    Returns
    -------
    standard : numpy.ndarray
        ``(n, D) float64``.
    mean, scale : numpy.ndarray
        ``(D,)``; the scale of a constant feature is 1.
    """
    features = np.asarray(features)
    mean, scale = moments([features])
    standard = features - mean
    standard /= scale
    return standard, mean, scale


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors along the last axis to length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _newton(gram: Tensor, sign: Tensor, strength: float, tolerance: float, max_steps: int):
    """Minimise the penalised logistic loss of B problems in their dual coefficients.

    The weights of the classifier are ``w = sum_i alpha_i x_i``, so a problem with m samples has
    m + 1 unknowns however many features there are. One Newton step is the weighted least squares
    of Rasmussen & Williams (2006, algorithm 3.1), which stays well-conditioned when the classes
    separate, with the unpenalised bias solved for in closed form.
    """
    target = (sign > 0).to(gram.dtype)
    alpha = torch.zeros_like(gram[..., 0])
    product = torch.zeros_like(alpha)  # gram @ alpha, kept up to date along each step
    bias = torch.zeros_like(alpha[:, 0])
    system = torch.empty_like(gram)
    for _ in range(max_steps):
        logit = product + bias[:, None]
        chance = torch.sigmoid(logit).clamp(1e-12, 1 - 1e-12)
        gradient = strength * (chance - target)
        residual = torch.maximum((alpha + gradient).abs().amax(1), gradient.sum(1).abs())
        if bool((residual <= tolerance * strength).all()):
            break
        root = (strength * chance * (1 - chance)).sqrt()
        torch.mul(gram, root[:, :, None], out=system)
        system.mul_(root[:, None, :]).diagonal(dim1=1, dim2=2).add_(1)
        right = torch.stack([root * logit - gradient / root, root], dim=-1)
        # The eigenvalues are 1 or more, so the factor exists; _ex spares a wait for a GPU.
        factor = torch.linalg.cholesky_ex(system).L
        solved = torch.cholesky_solve(right, factor) * root[..., None]
        new_bias = solved[..., 0].sum(1) / solved[..., 1].sum(1)
        step = solved[..., 0] - new_bias[:, None] * solved[..., 1] - alpha
        step_product, step_bias = (gram @ step[..., None])[..., 0], new_bias - bias
        rise = step_product + step_bias[:, None]
        inner = torch.stack([(step * product).sum(1), (step * step_product).sum(1)])
        slope = partial(_slope, logit, rise, target, inner, strength)
        far = _far(slope, torch.ones_like(bias))
        alpha, product = alpha + far[:, None] * step, product + far[:, None] * step_product
        bias = bias + far * step_bias
    return alpha, bias


def _slope(logit, rise, target, inner, strength: float, far: Tensor) -> Tensor:
    """Return the derivative of the objective along the step of each problem, at `far` of it."""
    chance = torch.sigmoid(logit + far[:, None] * rise)
    return strength * ((chance - target) * rise).sum(1) + inner[0] + far * inner[1]


def _far(slope, one: Tensor) -> Tensor:
    """Return how far to go along a step: the whole of it, or to where the slope is nearly flat.

    Where classes separate, Newton's step falls short, by a factor of two to four at first, and
    going on halves the number of steps; where it goes too far, it is cut. The objective is convex:
    the slope rises all along, from below zero.
    """
    first, low, high = slope(0 * one).abs(), 0 * one, one
    for _ in range(30):
        short = slope(high) < -FLAT * first
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    best = high
    for _ in range(60):
        here = slope(best)
        done = here.abs() <= FLAT * first
        if bool(done.all()):
            break
        low, high = torch.where(here < 0, best, low), torch.where(here < 0, high, best)
        best = torch.where(done, best, (low + high) / 2)
    return best


def classifiers(
    standard: np.ndarray,
    gram: np.ndarray,
    problems: np.ndarray,
    sign: np.ndarray,
    *,
    strength: float = 1.0,
    tolerance: float = 1e-8,
    max_steps: int = 100,
    device="cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Fit L2-penalised logistic regressions that share one pool of samples.

    Parameters
    ----------
    standard : numpy.ndarray
        ``(n, D) float64``, the pool of samples, standardised.
    gram : numpy.ndarray
        ``(n, n) float64``, ``standard @ standard.T``: computed once for all problems.
    problems : numpy.ndarray
        ``(B, m) int64``, the samples of each problem.
    sign : numpy.ndarray
        ``(m,)``, +1 for a positive sample and -1 for a negative one.
    strength : float, default 1
        Inverse regularisation, scikit-learn's ``C``. Log scale: 0.01, 0.1, 1, 10.
    tolerance : float, default 1e-8
        Bound on the gradient at which a problem counts as solved.
    max_steps : int, default 100
        Bound on Newton steps; about ten suffice.
    device : torch.device, default "cpu"
        Where the problems are solved, in double precision.

    Returns
    -------
    weights : numpy.ndarray
        ``(B, D) float64``, in standardised units.
    bias : numpy.ndarray
        ``(B,) float64``.

    Examples
    --------
    >>> x = np.array([[1.0, 0], [2, 0], [-1, 0], [-2, 0]])
    >>> w, b = classifiers(x, x @ x.T, np.array([[0, 1, 2, 3]]), np.array([1, 1, -1, -1]))
    >>> bool(w[0, 0] > 0), abs(round(float(b[0]), 6))
    (True, 0.0)
    """
    sign = np.asarray(sign)
    index = np.asarray(problems, np.int64)
    how = {"strength": strength, "tolerance": tolerance, "max_steps": max_steps, "device": device}
    alpha, bias = _solve(partial(_blocks, gram, index), len(index), sign, **how)
    return _weights(standard, problems, sign, alpha), bias


def _solve(
    gram, n: int, sign, strength: float = 1.0, tolerance=1e-8, max_steps=100, device="cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the dual coefficients ``(n, m)`` and biases ``(n,)`` of n problems.

    `gram` gives the ``(b, m, m)`` inner products of a slice of them. The problems are small, so
    that on a CPU as many are solved side by side as PyTorch has threads, each on one.
    """
    on_cpu = torch.device(device).type == "cpu"
    direction = torch.from_numpy(np.asarray(sign, np.float64)).to(device)
    size = PROBLEMS if on_cpu else PROBLEMS_GPU
    alpha, bias = np.empty((n, len(sign))), np.empty(n)

    def solve(start: int) -> None:
        part = slice(start, start + size)
        block = torch.as_tensor(gram(part), dtype=torch.float64, device=device)
        solved = _newton(block, direction, strength, tolerance, max_steps)
        alpha[part], bias[part] = (x.cpu().numpy() for x in solved)

    side_by_side(solve, range(0, n, size), on_cpu)
    return alpha, bias


def _weights(standard, problems, sign, alpha) -> np.ndarray:
    """Return ``sum_i alpha_i x_i`` of each problem, ``(B, D)``.

    Many problems have all positive or all negative samples in common: one concept against many
    groups. The sum over such a set is one matrix product for all of them.
    """
    weights = np.zeros((len(problems), standard.shape[1]))
    for side in (sign > 0, sign <= 0):
        sets, which = np.unique(problems[:, side], axis=0, return_inverse=True)
        for i, samples in enumerate(sets):
            mine = np.flatnonzero(which == i)
            weights[mine] += alpha[np.ix_(mine, side)] @ standard[samples]
    return weights


def _held_out(gram, n: int, sign: np.ndarray, **options) -> np.ndarray:
    """Return the accuracy of n problems on the half that they were not fitted to, ``(n,)``."""
    half = np.zeros(len(sign), int)
    for side in (1, -1):
        half[sign == side] = np.arange((sign == side).sum()) % 2
    if min((sign[half == h] == side).sum() for h in (0, 1) for side in (1, -1)) == 0:
        return np.full(n, np.nan)
    right = np.zeros(n)
    for fit, test in ((half != 0, half == 0), (half != 1, half == 1)):
        inner = np.ix_(fit, fit)
        alpha, bias = _solve(
            lambda part, inner=inner: gram(part)[:, inner[0], inner[1]], n, sign[fit], **options
        )
        for start in range(0, n, PROBLEMS):
            part = slice(start, start + PROBLEMS)
            between = np.asarray(torch.as_tensor(gram(part)).cpu())[:, test][:, :, fit]
            logits = (between @ alpha[part, :, None])[..., 0] + bias[part, None]
            right[part] += (np.sign(logits) == sign[test]).sum(1)
    return right / len(sign)


def held_out_accuracy(
    gram: np.ndarray, problems: np.ndarray, sign: np.ndarray, **options
) -> np.ndarray:
    """Return each classifier's accuracy on samples it was not fitted to, ``(B,) float64``.

    Every second sample is held out, then the other half; the two accuracies are averaged.
    Parameters are those of :func:`classifiers`; NaN where a half would have one side only.
    """
    index = np.asarray(problems, np.int64)
    blocks = partial(_blocks, gram, index)
    return _held_out(blocks, len(index), np.asarray(sign), **options)


def _blocks(gram: np.ndarray, index: np.ndarray, part: slice) -> np.ndarray:
    return gram[index[part, :, None], index[part, None, :]]


def against(
    own: np.ndarray,
    concepts: Sequence[np.ndarray],
    groups: np.ndarray,
    *,
    held_out: bool = True,
    **options,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit each concept against each random group, and see how well they are told apart.

    Of all inner products only those are computed that some problem needs: within a concept, within
    a group, and between the two.

    Parameters
    ----------
    own : numpy.ndarray
        ``(n, D) float64``, samples of all concepts, standardised.
    concepts : sequence of numpy.ndarray
        For each of the K concepts its samples, rows of `own`; of one with fewer samples than a
        group has, as many of each group are taken.
    groups : numpy.ndarray
        ``(R, m, D) float64``, standardised.
    held_out : bool, default True
        Whether to fit each half too; without it the accuracies are NaN.
    **options
        ``strength``, ``tolerance``, ``max_steps`` and ``device`` of :func:`classifiers`.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray)
        For each concept the weights ``(R, D) float64``, in standardised units, and the held-out
        accuracies ``(R,)`` of :func:`held_out_accuracy`.

    Examples
    --------
    >>> own = np.array([[2.0, 0], [3, 0], [2, 1], [3, 1]])
    >>> (weights, accuracy), = against(own, [np.arange(4)], -own[None])
    >>> weights.shape, bool(weights[0, 0] > 0), accuracy.tolist()
    ((1, 2), True, [1.0])
    """
    device = torch.device(options.get("device", "cpu"))
    own, groups = torch.from_numpy(own).to(device), torch.from_numpy(groups).to(device)
    n_groups, size, _ = groups.shape
    columns, within = groups.flatten(0, 1).T, own.new_empty(n_groups, size, size)
    found = [None] * len(concepts)

    def multiply(r: int) -> None:
        within[r] = groups[r] @ groups[r].T

    def fit(k: int) -> None:
        samples = own[torch.tensor(concepts[k][:size])]
        n = len(samples)
        blocks = own.new_empty(n_groups, 2 * n, 2 * n)
        blocks[:, :n, :n], blocks[:, n:, n:] = samples @ samples.T, within[:, :n, :n]
        between = (samples @ columns).unflatten(1, (n_groups, size))[..., :n].transpose(0, 1)
        blocks[:, :n, n:], blocks[:, n:, :n] = between, between.mT
        given = blocks.__getitem__, n_groups, np.repeat([1, -1], n)
        alpha = torch.from_numpy(_solve(*given, **options)[0]).to(device)
        weights = alpha[:, :n] @ samples + (alpha[:, None, n:] @ groups[:, :n])[:, 0]
        accuracy = _held_out(*given, **options) if held_out else np.full(n_groups, np.nan)
        found[k] = weights.cpu().numpy(), accuracy

    side_by_side(multiply, range(n_groups), device.type == "cpu")
    side_by_side(fit, range(len(concepts)), device.type == "cpu")
    return found
