"""Many small penalised logistic regressions at once, solved from inner products of their samples.

The weights of a classifier are ``w = sum_i alpha_i x_i``, so a problem with m samples has m + 1
unknowns, its dual coefficients alpha and its bias, however many features there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

# The bound on the gradient at which a problem counts as solved, and on Newton steps, of which about
# ten suffice.
TOLERANCE, NEWTON_STEPS = 1e-8, 100
# The share of its first slope at which a line search ends.
FLAT = 0.1
# By which factor a step along the chord has to shrink the residual of all problems, and how often.
SHRINK, CHORDS = 0.5, 20


@dataclass(frozen=True)
class Blocks:
    """Inner products of the samples of B problems, n positive and m negative ones each.

    Attributes
    ----------
    positive : torch.Tensor
        ``(S, n, n) float64``: the S sets of positive samples, each of as many problems in a row.
    between, negative : torch.Tensor
        ``(B, n, m)`` and ``(B, m, m) float64``.
    """

    positive: Tensor
    between: Tensor
    negative: Tensor

    def sign(self) -> Tensor:
        """Return +1 for each positive sample and -1 for each negative one, ``(n + m,)``."""
        _, n, m = self.between.shape
        return torch.cat([self.between.new_ones(n), -self.between.new_ones(m)])

    def part(self, positive, negative) -> Blocks:
        """Return the problems with some of their samples, by their indices."""
        return Blocks(
            self.positive[..., positive, :][..., positive],
            self.between[:, positive][..., negative],
            self.negative[:, negative][..., negative],
        )

    def gram(self, which) -> Tensor:
        """Return all inner products of some of the problems, ``(b, n + m, n + m)``."""
        between, negative = self.between[which], self.negative[which]
        positive = self.each(self.positive)[which]
        upper = torch.cat([positive, between], 2)
        return torch.cat([upper, torch.cat([between.mT, negative], 2)], 1)

    def each(self, sets: Tensor) -> Tensor:
        """Repeat what belongs to the sets of positive samples for each problem, ``(B, ...)``."""
        return sets.repeat_interleave(len(self.between) // len(sets), 0)


@torch.inference_mode()
def solve(blocks: Blocks, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Minimise the penalised logistic loss of B problems; return dual coefficients and biases.

    These are ``(B, n + m)`` and ``(B,) float64``. Coefficients are above 0 for positive samples,
    which come first.

    Where features are many, as at fc7 of C3D, inner products outweigh the curvature of the loss,
    and one factor serves every step (`_chords`). What this does not bring to an end is taken
    over, as far as it came, by Newton's method (`_newton`). For `strength` see
    :func:`stce.cav.classifiers`.
    """
    alpha, bias, left = _chords(blocks, strength)
    if len(left):
        given = blocks.gram(left), blocks.sign(), alpha[left], bias[left], strength
        alpha[left], bias[left] = _newton(*given)
    return alpha, bias


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """Return ``x @ matrix`` for rows ``(B, k)`` and matrices ``(S, k, l)`` of as many rows each."""
    return (x.unflatten(0, (len(matrix), -1)) @ matrix).flatten(0, 1)


def _even(blocks: Blocks, strength: float) -> Tensor:
    """Return what share c ``(B,)`` of `strength` equal coefficients should have.

    With c for the positive samples and as much in all for the negative ones, mean logits are
    ``c * gap`` and ``-c * gap`` away from the bias between them, and the best c is
    ``sigmoid(-c * gap)``.
    """
    apart = blocks.each(blocks.positive.mean((1, 2))) + blocks.negative.mean((1, 2))
    apart = apart - 2 * blocks.between.mean((1, 2))
    gap = (strength * blocks.between.shape[1] / 2 * apart).clamp(min=0)
    c = 1 / (2 + gap)
    for _ in range(4):
        c = c + (torch.logit(1 - c) - c * gap) / (1 / (c * (1 - c)) + gap)
    return c


def _chords(blocks: Blocks, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """Go along chords from equal coefficients; return alpha, bias and the problems not solved.

    The size a of a coefficient, as a share of `strength`, is optimal where
    ``logit(a) = -sign * logit of its sample``. In a Newton step for this the samples contribute
    their inner products K, with signs and strength, and the left side the diagonal
    ``D = 1 / (a (1 - a))``. The chord keeps D as it is at the start, so that K + D is factored
    once, and its block of positive samples once for all problems that share them.
    """
    (_, n, m), sign = blocks.between.shape, blocks.sign()
    first, corner = strength * blocks.positive, strength * blocks.negative
    between = -strength * blocks.between
    size = _even(blocks, strength)
    spread = 1 / (size * (1 - size))
    # One value serves all problems of a set: they differ by their random groups alone.
    inverse = first.clone()
    inverse.diagonal(dim1=1, dim2=2).add_(spread.view(len(first), -1).mean(1, keepdim=True))
    inverse = torch.linalg.inv_ex(inverse).inverse
    lower = blocks.each(inverse) @ between
    schur = torch.baddbmm(corner, between.mT, lower, alpha=-1)
    schur.diagonal(dim1=1, dim2=2).add_(spread[:, None])
    schur = torch.linalg.inv_ex(schur).inverse
    upper, across = lower.mT.contiguous(), between.mT.contiguous()

    def divide(x: Tensor) -> Tensor:  # by K + D
        x, y = x[:, :n], x[:, n:]
        y = _times(y - _times(x, lower), schur)
        return torch.cat([_times(x, inverse) - _times(y, upper), y], 1)

    def multiply(x: Tensor) -> Tensor:  # by K
        x, y = x[:, :n], x[:, n:]
        above = _times(x, first) + _times(y, across)
        return torch.cat([above, _times(x, between) + _times(y, corner)], 1)

    size = size[:, None] * torch.where(sign > 0, 1, n / m)
    product = multiply(size)
    bias = (product[:, n:].mean(1) - product[:, :n].mean(1)) / 2
    one = divide(sign.expand_as(size))
    before, here, total = math.inf, (size, bias), one @ sign
    for _ in range(CHORDS):
        margin = torch.addcmul(product, bias[:, None], sign)
        wanted = torch.sigmoid(-margin)
        wrong = torch.maximum((wanted - size).abs().amax(1), (wanted @ sign).abs())
        worst = float(wrong.max())
        if not worst <= SHRINK * before:  # NaN is not better either
            size, bias = here
            break
        before, here, left = worst, (size, bias), wrong > TOLERANCE
        moved = size - divide(torch.logit(size) + margin)
        shift = (moved @ sign) / total
        moved = torch.addcmul(moved, shift[:, None], one, value=-1)
        # A coefficient that would leave its range goes nine tenths of the way to its end.
        low = 0.1 * size
        size, bias = moved.clamp(low, low + 0.9), bias + shift
        if worst <= TOLERANCE:  # solved before this last step
            break
        product = multiply(size)
    return strength * size * sign, bias, left.nonzero()[:, 0]


def _newton(gram: Tensor, sign: Tensor, alpha, bias, strength, tolerance=TOLERANCE):
    """Minimise by Newton steps, from any coefficients and bias.

    One step is the weighted least squares of Rasmussen & Williams (2006, algorithm 3.1), which
    stays well-conditioned when the classes separate, with the unpenalised bias solved for in closed
    form.
    """
    target = (sign > 0).to(gram.dtype)
    product = (gram @ alpha[..., None])[..., 0]  # kept up to date along each step
    system = torch.empty_like(gram)
    for _ in range(NEWTON_STEPS):
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
