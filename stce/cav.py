"""Concept activation vectors: many small linear classifiers, solved exactly and together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

__all__ = ["classifiers", "held_out_accuracy", "moments", "standardise", "unit"]

COLUMNS = 256


def moments(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, over samples that come block by block.

    Parameters
    ----------
    blocks : iterable of numpy.ndarray
        ``(n, D)`` each; one at a time is held.

    Returns
    -------
    mean, scale : numpy.ndarray
        ``(D,) float64``; the scale of a constant feature is 1.

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
    count, mean, spread = 0, 0.0, 0.0
    for block in blocks:
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
    scale[scale < 1e-12 * max(scale.max(), 1e-300)] = 1.0
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


def _objective(alpha: Tensor, product: Tensor, bias: Tensor, sign: Tensor, strength: float):
    loss = torch.nn.functional.softplus(-sign * (product + bias[:, None])).sum(1)
    return strength * loss + 0.5 * (alpha * product).sum(1)


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
    value = _objective(alpha, product, bias, sign, strength)
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
        step_product = (gram @ step[..., None])[..., 0]
        step_bias = new_bias - bias
        # Halve the step of each problem that overshot; Newton's direction always descends.
        size = torch.ones_like(value)
        for _ in range(30):
            far = size[:, None]
            trial = _objective(
                alpha + far * step,
                product + far * step_product,
                bias + size * step_bias,
                sign,
                strength,
            )
            worse = trial > value + 1e-12 * value.abs()
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        far = size[:, None]
        alpha, product = alpha + far * step, product + far * step_product
        bias, value = bias + size * step_bias, trial
    return alpha, bias


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
    pool = torch.from_numpy(gram).to(device)
    index = torch.from_numpy(np.asarray(problems, np.int64)).to(device)
    direction = torch.from_numpy(np.asarray(sign, np.float64)).to(device)
    alpha = np.empty(problems.shape)
    bias = np.empty(len(problems))
    # 64 problems of 80 samples are 3 MB, which stay in a core's cache; a GPU is filled by more.
    size = 64 if pool.device.type == "cpu" else 1024
    for start in range(0, len(problems), size):
        part = index[start : start + size]
        block = pool[part[:, :, None], part[:, None, :]]
        solved, b = _newton(block, direction, strength, tolerance, max_steps)
        alpha[start : start + size] = solved.cpu().numpy()
        bias[start : start + size] = b.cpu().numpy()
    return _weights(standard, problems, np.asarray(sign), alpha), bias


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


def held_out_accuracy(
    standard: np.ndarray, gram: np.ndarray, problems: np.ndarray, sign: np.ndarray, **options
) -> np.ndarray:
    """Return each classifier's accuracy on samples it was not fitted to, ``(B,) float64``.

    Every second sample is held out, then the other half; the two accuracies are averaged.
    Parameters are those of :func:`classifiers`; NaN where a half would have one side only.
    """
    halves = np.zeros(len(sign), int)
    for side in (1, -1):
        halves[sign == side] = np.arange((sign == side).sum()) % 2
    if min((sign[halves == h] == side).sum() for h in (0, 1) for side in (1, -1)) == 0:
        return np.full(len(problems), np.nan)
    right = np.zeros(len(problems))
    for half in (0, 1):
        fit, test = halves != half, halves == half
        weights, bias = classifiers(standard, gram, problems[:, fit], sign[fit], **options)
        logits = np.einsum("bmd,bd->bm", standard[problems[:, test]], weights) + bias[:, None]
        right += (np.sign(logits) == sign[test]).sum(1)
    return right / len(sign)
