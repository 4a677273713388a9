"""Intervals and p-values against what they are by definition."""

import numpy as np

from stce.engine.resampling import interval, mean_interval, p_value, rank_correlation, resamples


def test_the_mean_of_each_resample_is_taken():
    values = np.random.default_rng(0).normal(size=30)
    rows = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), 500)
    means = [values.repeat(row).mean() for row in rows]
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(mean_interval(values, 500, np.random.default_rng(1)), expected)


def test_of_two_axes_the_first_is_drawn_first():
    values = np.random.default_rng(0).normal(size=(6, 9))
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    rows, columns = (resamples(n, 200, again) for n in values.shape)
    means = [values.repeat(r, 0).repeat(c, 1).mean() for r, c in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(mean_interval(values, 200, rng), interval(np.array(means)))


def test_a_share_of_one_has_exactly_one_as_its_ends():
    for shape in ((7,), (50, 33)):
        assert mean_interval(np.ones(shape, bool), 300, np.random.default_rng(0)) == (1.0, 1.0)


def test_what_is_not_known_has_no_interval_and_is_never_significant():
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4)))
    assert p_value(np.full(9, np.nan), np.array([np.nan])).tolist() == [1.0]
