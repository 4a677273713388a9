"""Concept activation vectors: many small linear classifiers, solved exactly and together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from stce.engine import logistic
from stce.engine.logistic import Blocks
from stce.engine.threads import in_threads

# Columns standardised at a time, and problems solved at a time: 64 of 80 samples are 3 MB, and both
# stay in a core's cache; a GPU is filled by more.
_COLUMNS, _PROBLEMS, _PROBLEMS_GPU = 256, 64, 1024
# Rows standardised at a time, and concepts multiplied by all groups: while one thread does that,
# another one can solve.
_ROWS, _CONCEPTS = 32, 4
# A feature whose spread is so many last digits of its mean tells samples apart by rounding alone.
_ROUNDING = 32


def scaling(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, each ``(D,) float64``.

    Samples come in blocks of ``(n, D)``, of which one at a time is held. The scale of a feature
    that is constant but for rounding is 1.

    References
    ----------
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983,
    :doi:`10.1080/00031305.1983.10483115`.

    Examples
    --------
    >>> mean, scale = scaling([np.array([[1.0], [2.0]]), np.array([[6.0]])])
    >>> mean.tolist(), scale.round(3).tolist()
    ([3.0], [2.16])
    """
    count, mean, spread, rounding = 0, 0.0, 0.0, 0.0
    for block in blocks:
        if np.issubdtype(block.dtype, np.floating):
            rounding = max(rounding, _ROUNDING * float(np.finfo(block.dtype).eps))
        n, width = block.shape
        centre, inner = np.empty(width), np.empty(width)

        def measure(start: int, block=block, centre=centre, inner=inner) -> None:
            # A few columns at a time stay in the cache while they are read three times.
            part = slice(start, start + _COLUMNS)
            columns = block[:, part].astype(np.float64)
            centre[part] = columns.mean(0)
            columns -= centre[part]
            inner[part] = np.einsum("nd,nd->d", columns, columns)

        in_threads(measure, range(0, width, _COLUMNS))
        away = centre - mean
        spread = spread + inner + away**2 * (count * n / (count + n))
        mean = mean + away * (n / (count + n))
        count += n
    scale = np.sqrt(spread / count)
    scale[scale <= np.maximum(rounding * np.abs(mean), 1e-12 * scale.max())] = 1.0
    return mean, scale


def standard(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standardise by the mean and scale of :func:`scaling`, in double precision.

    Returns what single precision holds of it, of the shape of `features`, ``(..., D) float32``.

    Examples
    --------
    >>> standard(np.array([[1.0], [5.0]]), np.array([3.0]), np.array([2.0])).ravel().tolist()
    [-1.0, 1.0]
    """
    rows, factor = features.reshape(-1, features.shape[-1]), 1 / scale
    found = np.empty(rows.shape, np.float32)

    def some(start: int) -> None:  # few enough to stay in a core's cache
        part = slice(start, start + _ROWS)
        np.multiply(rows[part] - mean, factor, out=found[part], casting="same_kind")

    in_threads(some, range(0, len(rows), _ROWS))
    return found.reshape(features.shape)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors along the last axis to length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def classifiers(
    standard: np.ndarray,
    gram: np.ndarray,
    problems: np.ndarray,
    sign: np.ndarray,
    *,
    strength: float = 1.0,
    device="cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Fit L2-penalised logistic regressions that share one pool of samples.

    Parameters
    ----------
    standard, gram : numpy.ndarray
        ``(n, D) float64``, the pool of samples, standardised, and ``standard @ standard.T``.
    problems, sign : numpy.ndarray
        ``(B, m) int64``, the samples of each problem, and ``(m,)``, +1 for a positive one and -1
        for a negative one.
    strength : float, default 1
        Inverse regularisation, scikit-learn's ``C``. Log scale: 0.01, 0.1, 1, 10.
    device : torch.device, default "cpu"
        Where the problems are solved, in double precision.

    Returns
    -------
    weights, bias : numpy.ndarray
        ``(B, D) float64``, in standardised units, and ``(B,) float64``.

    Examples
    --------
    >>> x = np.array([[1.0, 0], [2, 0], [-1, 0], [-2, 0]])
    >>> w, b = classifiers(x, x @ x.T, np.array([[0, 1, 2, 3]]), np.array([1, 1, -1, -1]))
    >>> bool(w[0, 0] > 0), abs(round(float(b[0]), 6))
    (True, 0.0)
    """
    index, n = _positive_first(problems, sign)

    def solve(blocks: Blocks) -> list[np.ndarray]:
        return [x.cpu().numpy() for x in logistic.solve(blocks, strength)]

    found = _by_parts(solve, gram, index, n, device)
    alpha, bias = (np.concatenate(x) for x in zip(*found, strict=True))
    return _weights(standard, index, n, alpha), bias


def held_out_accuracy(
    gram: np.ndarray, problems: np.ndarray, sign: np.ndarray, *, strength=1.0, device="cpu"
) -> np.ndarray:
    """Return each classifier's accuracy on samples it was not fitted to, ``(B,) float64``.

    Every second sample is held out, then the other half; the two accuracies are averaged.
    Parameters are those of :func:`classifiers`; NaN where a half would have one side only.
    """
    index, n = _positive_first(problems, sign)
    found = _by_parts(lambda blocks: _held_out(blocks, strength), gram, index, n, device)
    return np.concatenate(found)


def _symmetric(gram: torch.Tensor) -> torch.Tensor:
    """Return inner products in double precision, without what rounding did to one half only."""
    gram = gram.double()
    return (gram + gram.mT) / 2


def _on_cpu(device) -> bool:
    return torch.device(device).type == "cpu"


def _positive_first(problems: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the samples of each problem, its positive ones first, and how many these are."""
    index, above = np.asarray(problems, np.int64), np.asarray(sign) > 0
    return np.hstack([index[:, above], index[:, ~above]]), int(above.sum())


def _by_parts(solve, gram: np.ndarray, index: np.ndarray, n: int, device) -> list:
    """Return what `solve` gives for the blocks of some problems at a time."""

    def some(start: int):
        rows = index[start : start + size]
        given = torch.from_numpy(gram[rows[:, :, None], rows[:, None, :]])
        given = given.to(device, torch.float64)
        parts = given[:, :n, :n], given[:, :n, n:], given[:, n:, n:]
        return solve(Blocks(*(part.contiguous() for part in parts)))

    size = _PROBLEMS if _on_cpu(device) else _PROBLEMS_GPU
    return in_threads(some, range(0, len(index), size), _on_cpu(device))


def _weights(standard, index, n: int, alpha) -> np.ndarray:
    """Return ``sum_i alpha_i x_i`` of each problem, ``(B, D)``.

    Many problems have all positive or all negative samples in common. The sum over such a set is
    one matrix product for all of them.
    """
    weights = np.zeros((len(index), standard.shape[1]))
    for side in (slice(None, n), slice(n, None)):
        sets, which = np.unique(index[:, side], axis=0, return_inverse=True)
        for i, samples in enumerate(sets):
            mine = np.flatnonzero(which == i)
            weights[mine] += alpha[mine, side] @ standard[samples]
    return weights


def _held_out(blocks: Blocks, strength: float) -> np.ndarray:
    """Return the accuracy of B problems on the half that they were not fitted to, ``(B,)``."""
    _, n, m = blocks.between.shape
    if min(n, m) < 2:
        return np.full(len(blocks.between), np.nan)
    gram, sign, right = blocks.gram(slice(None)), blocks.sign(), 0
    for odd in (1, 0):
        fit, test = (
            torch.cat([torch.arange(start, n, 2), n + torch.arange(start, m, 2)]).to(gram.device)
            for start in (odd, 1 - odd)
        )
        alpha, bias = logistic.solve(blocks.part(*(slice(odd, None, 2),) * 2), strength)
        logits = (gram[:, test][..., fit] @ alpha[..., None])[..., 0] + bias[:, None]
        right = right + (logits.sign() == sign[test]).sum(1)
    return (right / len(sign)).cpu().numpy().astype(np.float64)


def against(
    own: np.ndarray,
    concepts: Sequence[np.ndarray],
    groups: np.ndarray,
    *,
    held_out: bool = True,
    strength: float = 1.0,
    device="cpu",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit each concept against each random group, and see how well they are told apart.

    Of all inner products only those are computed that some problem needs: within a concept, within
    a group, and between the two. They are computed in the precision of the features.

    Parameters
    ----------
    own, groups : numpy.ndarray
        ``(n, D)`` samples of all concepts, and ``(R, m, D)`` of the groups, standardised, both
        ``float32`` or both ``float64``.
    concepts : sequence of numpy.ndarray
        For each of the K concepts its samples, rows of `own`; of one with fewer samples than a
        group has, as many of each group are taken.
    held_out : bool, default True
        Whether to fit each half too; without it the accuracies are NaN.
    strength, device
        See :func:`classifiers`.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray)
        For each concept the weights ``(R, D)``, in standardised units and the features' type, and
        the accuracies ``(R,) float64`` of :func:`held_out_accuracy`.

    Examples
    --------
    >>> own = np.array([[2.0, 0], [3, 0], [2, 1], [3, 1]])
    >>> (weights, accuracy), = against(own, [np.arange(4)], -own[None])
    >>> weights.shape, bool(weights[0, 0] > 0), accuracy.tolist()
    ((1, 2), True, [1.0])
    """
    own, groups = torch.from_numpy(own).to(device), torch.from_numpy(groups).to(device)
    n_groups, size, width = groups.shape
    members = [torch.tensor(rows[:size], device=device) for rows in concepts]
    within = groups.new_empty(n_groups, size, size, dtype=torch.float64)
    alpha = groups.new_zeros(n_groups, len(concepts), size)
    weights = groups.new_empty(len(concepts), n_groups, width)
    accuracy = np.full((len(concepts), n_groups), np.nan)

    def multiply(r: int) -> None:
        within[r] = _symmetric(groups[r] @ groups[r].T)

    def fit(start: int) -> None:
        some = range(start, min(start + _CONCEPTS, len(concepts)))
        samples = own[torch.cat([members[k] for k in some])]
        between = (samples @ groups.flatten(0, 1).T).unflatten(1, (n_groups, size))
        sizes = [len(members[k]) for k in some]
        for k, mine, across in zip(some, samples.split(sizes), between.split(sizes), strict=True):
            n = len(mine)
            across = across[..., :n].transpose(0, 1).double()
            blocks = Blocks(_symmetric(mine @ mine.T)[None], across, within[:, :n, :n])
            found = logistic.solve(blocks, strength)[0].to(own.dtype)
            alpha[:, k, :n], weights[k] = found[:, n:], found[:, :n] @ mine
            if held_out:
                accuracy[k] = _held_out(blocks, strength)

    def weigh(r: int) -> None:
        weights[:, r] += alpha[r] @ groups[r]

    at_once = _on_cpu(device)
    in_threads(multiply, range(n_groups), at_once)
    in_threads(fit, range(0, len(concepts), _CONCEPTS), at_once)
    in_threads(weigh, range(n_groups), at_once)
    return list(zip(weights.cpu().numpy(), accuracy, strict=True))
