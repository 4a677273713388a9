"""The two ways of solving small classifiers, against each other and on their hard cases."""

import pytest
import torch

from stce.engine import logistic
from stce.engine.logistic import Blocks


def _blocks(seed, n_sets, each, n, m, width, shift=0.5):
    """Problems whose positive samples are shared by `each` of them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, width, generator=generator, dtype=torch.float64)  # noqa: E731
    positive, negative = draw(n_sets, n) + shift, draw(n_sets * each, m)
    repeated = positive.repeat_interleave(each, 0)
    blocks = Blocks(positive @ positive.mT, repeated @ negative.mT, negative @ negative.mT)
    return blocks, torch.cat([repeated, negative], 1)


def _objective(samples, sign, alpha, bias, strength):
    weights = (alpha[:, None] @ samples)[:, 0]
    logits = (samples @ weights[..., None])[..., 0] + bias[:, None]
    loss = torch.nn.functional.softplus(-sign * logits).sum(1)
    return strength * loss + (weights**2).sum(1) / 2


def _slopes(samples, sign, alpha, bias, strength):
    """Return the gradient of the objective by the weights and by the bias."""
    weights = (alpha[:, None] @ samples)[:, 0].requires_grad_()
    bias = bias.clone().requires_grad_()
    logits = (samples @ weights[..., None])[..., 0] + bias[:, None]
    loss = torch.nn.functional.softplus(-sign * logits).sum()
    return torch.autograd.grad(strength * loss + (weights**2).sum() / 2, [weights, bias])


def test_the_gram_matrix_and_its_parts_are_inner_products():
    blocks, samples = _blocks(0, 2, 3, 4, 5, 7)
    torch.testing.assert_close(blocks.gram(slice(None)), samples @ samples.mT)
    torch.testing.assert_close(blocks.gram([4, 0]), (samples @ samples.mT)[[4, 0]])
    half = slice(1, None, 2)
    chosen = samples[:, [1, 3, 5, 7]]
    torch.testing.assert_close(blocks.part(half, half).gram(slice(None)), chosen @ chosen.mT)
    assert blocks.sign().tolist() == [1] * 4 + [-1] * 5


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    ("n", "m", "width", "shift"),
    [
        (40, 40, 800, 0.3),  # many features: one factor serves
        (40, 40, 12, 0.2),  # few: not separable
        (40, 40, 12, 5.0),  # few, and far apart
        (30, 8, 200, 0.0),  # unlike numbers of samples, and nothing to tell them apart
        (1, 1, 3, 1.0),
    ],
)
def test_both_ways_end_at_the_optimum(n, m, width, shift, strength):
    blocks, samples = _blocks(1, 2, 3, n, m, width, shift)
    sign = blocks.sign()
    alpha, bias = logistic.solve(blocks, strength)
    zero = torch.zeros_like(alpha), torch.zeros_like(bias)
    newton = logistic._newton(blocks.gram(slice(None)), sign, *zero, strength, 1e-10)
    for slope in _slopes(samples, sign, alpha.clone(), bias.clone(), strength):
        assert slope.abs().max() < 1e-5 * strength * max(1, samples.abs().max())
    ours = _objective(samples, sign, alpha, bias, strength)
    torch.testing.assert_close(
        ours, _objective(samples, sign, *newton, strength), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(alpha, newton[0], rtol=1e-4, atol=1e-7 * strength)


def test_many_features_need_no_newton_step_and_few_do(monkeypatch):
    asked = []
    real = logistic._newton
    monkeypatch.setattr(
        logistic, "_newton", lambda gram, *a: asked.append(len(gram)) or real(gram, *a)
    )
    logistic.solve(_blocks(0, 3, 4, 40, 40, 2000, 0.1)[0])
    assert asked == []
    logistic.solve(_blocks(0, 3, 4, 40, 40, 6)[0], strength=100.0)
    assert asked == [12]


def test_what_is_hard_does_not_spoil_what_is_easy():
    easy, hard = _blocks(0, 1, 2, 20, 20, 900)[0], _blocks(0, 1, 1, 20, 20, 4, 0.0)[0]
    first = torch.cat([easy.positive, easy.positive, hard.positive])
    rest = ((easy.between, hard.between), (easy.negative, hard.negative))
    alpha, bias = logistic.solve(Blocks(first, *map(torch.cat, rest)), 10.0)
    for k, one in ((slice(0, 2), easy), (slice(2, 3), hard)):
        alone = logistic.solve(one, 10.0)
        torch.testing.assert_close(alpha[k], alone[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(bias[k], alone[1], rtol=1e-6, atol=1e-6)


def test_samples_that_are_all_the_same():
    ones = torch.ones(1, 3, 3, dtype=torch.float64)
    alpha, bias = logistic.solve(Blocks(ones, ones, ones))
    torch.testing.assert_close(alpha[0], 0.5 * Blocks(ones, ones, ones).sign())
    assert abs(float(bias[0])) < 1e-9
