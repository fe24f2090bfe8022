import numpy as np
import pytest

from wnrl.study.stats import bootstrap_interval, iqm, probability_of_improvement


def test_iqm_leaves_out_a_quarter_at_each_end():
    assert iqm([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0]) == pytest.approx(3.5)


def test_iqm_of_three_runs_is_their_mean():
    assert iqm([1.0, 2.0, 9.0]) == pytest.approx(4.0)


def test_iqm_equals_scipys_trimmed_mean():
    from scipy.stats import trim_mean

    scores = np.random.default_rng(0).normal(size=(3, 13))
    np.testing.assert_allclose(iqm(scores), trim_mean(scores, 0.25, axis=-1))


def test_interval_of_equal_runs_has_no_width():
    low, high = bootstrap_interval([5.0, 5.0, 5.0])
    assert (float(low), float(high)) == (5.0, 5.0)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for repeat in range(200):
        low, high = bootstrap_interval(rng.normal(size=30), np.mean, resamples=500, seed=repeat)
        covered += low <= 0.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_is_the_same_each_time():
    scores = np.random.default_rng(2).normal(size=10)
    assert bootstrap_interval(scores) == bootstrap_interval(scores)


def test_interval_of_a_curve_has_one_interval_a_point():
    low, high = bootstrap_interval(np.arange(12.0).reshape(4, 3))
    assert low.shape == high.shape == (4,)
    assert (low < high).all()


def test_interval_without_a_run_is_an_error():
    with pytest.raises(ValueError, match="at least one run"):
        bootstrap_interval([])


def test_probability_of_improvement_counts_pairs_and_halves_ties():
    assert probability_of_improvement([2.0, 3.0], [1.0, 2.0]) == pytest.approx(3.5 / 4)
    assert probability_of_improvement([1.0], [1.0]) == 0.5
