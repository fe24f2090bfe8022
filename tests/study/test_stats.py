import math

import numpy as np
import pytest
from scipy import stats

from scripts.bench.intervals import CELLS, NULL, coverage, false_verdicts
from wnrl.study.stats import (
    LEAST,
    Estimate,
    Sample,
    clopper_pearson,
    holm,
    mean_interval,
    pairs_needed,
)

NORMAL = np.random.default_rng(0).normal(3.0, 2.0, size=12)
SYMMETRIC = np.concatenate([NORMAL - 3, 3 - NORMAL])
SKEWED = np.exp(np.random.default_rng(0).normal(size=12))


def test_interval_of_symmetric_values_is_students():
    expected = stats.ttest_1samp(SYMMETRIC, 0).confidence_interval(0.95)
    # Without skewness the transformation leaves t as it is.
    np.testing.assert_allclose(mean_interval(SYMMETRIC), expected, rtol=1e-9)


def test_interval_is_nowhere_narrower_than_students():
    for values in (NORMAL, SKEWED, -SKEWED):
        low, high = mean_interval(values)
        student = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert low <= student.low + 1e-12
        assert high >= student.high - 1e-12


def test_end_towards_the_long_tail_solves_halls_equation():
    n, sd = len(SKEWED), SKEWED.std()
    gamma = stats.skew(SKEWED)
    high = float(mean_interval(SKEWED)[1])
    y = (SKEWED.mean() - high) / sd
    transformed = y + gamma * y**2 / 3 + gamma**2 * y**3 / 27 + gamma / (6 * n)
    assert math.sqrt(n - 1) * transformed == pytest.approx(stats.t.ppf(0.025, n - 1))


def test_intervals_of_many_studies_are_those_of_each():
    values = np.random.default_rng(1).normal(size=(3, 4, 9))
    low, high = mean_interval(values)
    assert low.shape == high.shape == (3, 4)
    np.testing.assert_allclose((low[2, 1], high[2, 1]), mean_interval(values[2, 1]))


def test_equal_values_leave_room_for_what_was_not_seen():
    # 0 of 10: up to 30.85 % of the runs may be otherwise, by Clopper and Pearson's table.
    low, high = mean_interval(np.full(10, 500.0), bounds=(0.0, 500.0))
    assert (low, high) == (pytest.approx(500 - 0.3085 * 500, abs=0.05), 500.0)
    assert mean_interval(np.zeros(10)) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    "cell", [name for name in CELLS if ", .7 and .7" in name or "equal" in name]
)
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(cell):
    for n in (8, 10, 12, 20, 24):
        assert 0.93 <= coverage(cell, n, 2000) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_coverage_is_what_the_results_say(cell):
    shares = [coverage(cell, n, 20_000) for n in (8, 10, 12, 20, 24)]
    assert min(shares) >= (0.895 if "five times" in cell else 0.925)
    if cell in ("normal, equal", "lognormal, equal", "0 or 500, .7 and .7", "0 or 500, .5 and .5"):
        assert max(shares) <= 0.977


@pytest.mark.parametrize("kind", NULL)
def test_null_studies_have_false_verdicts_in_at_most_a_twentieth(kind):
    assert false_verdicts(kind, arms=4, n=10, studies=200) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", NULL)
def test_many_null_studies_have_false_verdicts_in_at_most_a_twentieth(kind):
    for arms in (2, 5, 8):
        for n in (8, 10, 20):
            assert false_verdicts(kind, arms, n, studies=2000) <= 0.05


def sample_with_p_value(p, n=10):
    """Pairs of which Student's t test says p, without skewness."""
    values = np.linspace(-1, 1, n)
    scale = values.std(ddof=1) / math.sqrt(n)
    return Sample(values + scale * stats.t.isf(p / 2, n - 1))


def rejected(p_values):
    samples = [sample_with_p_value(p) for p in p_values]
    means = [s.mean(c) for s, c in zip(samples, holm(samples), strict=True)]
    return [not mean.low <= 0 <= mean.high for mean in means]


def test_holm_rejects_what_holms_procedure_rejects():
    # By hand, with 4 comparisons: .05 / 4 = .0125, then / 3 = .0167, / 2 = .025, / 1.
    assert rejected([0.01, 0.015, 0.03, 0.04]) == [True, True, False, False]
    assert rejected([0.04, 0.001, 0.024, 0.016]) == [True] * 4
    assert rejected([0.013, 0.013, 0.013, 0.013]) == [False] * 4
    assert rejected([0.04]) == [True]


def test_holm_of_no_comparison_is_none():
    assert holm([]) == []


def test_a_further_comparison_never_narrows_an_interval():
    alone = holm([Sample(NORMAL)])
    assert holm([Sample(NORMAL), Sample(SYMMETRIC)])[0] >= alone[0] == pytest.approx(0.95)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 3), (5, 5), (7, 10), (1, 24)])
def test_clopper_pearson_equals_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high))


def test_halves_for_ties_lie_between_whole_successes():
    ends = [clopper_pearson(k, 10) for k in (3, 3.5, 4)]
    assert ends == sorted(ends)


def differences(mean, sd, n=10, **more):
    values = np.linspace(-1, 1, n)
    return Sample(mean + sd * values / values.std(ddof=1), **more)


def test_pairs_needed_are_the_fewest_whose_interval_decides():
    pairs = pairs_needed(differences(mean=10.0, sd=30.0), margin=None)

    def half(n):
        return stats.t.ppf(0.975, n - 1) * 30 / math.sqrt(n)

    assert half(pairs) < 10 <= half(pairs - 1)


def test_pairs_needed_for_no_difference_come_from_the_margin():
    assert pairs_needed(differences(0.0, 30.0), None) is None
    at_20 = pairs_needed(differences(20.0, 30.0), None)
    assert pairs_needed(differences(0.0, 30.0), 20.0) == at_20
    at_15 = pairs_needed(differences(15.0, 30.0), None)
    assert pairs_needed(differences(15.0, 30.0), 20.0) == at_15


def test_pairs_needed_count_the_noise_of_choosing_which_no_pair_makes_less():
    sample = differences(10.0, 30.0, choice_sd=4.0)
    pairs = pairs_needed(sample, None)

    def half(n):
        return stats.t.ppf(0.975, n - 1) * math.hypot(30 / math.sqrt(n), 4.0)

    assert half(pairs) < 10 <= half(pairs - 1)
    with_them = differences(10.0, 30.0, n=pairs, choice_sd=4.0)
    assert not with_them.mean().holds_zero
    assert pairs_needed(differences(10.0, 30.0, choice_sd=6.0), None) is None


def test_pairs_needed_where_all_are_equal_come_from_what_was_not_seen():
    # By hand: 1 - .025^(1/n) < 45 / 500 from n = 40 on.
    assert pairs_needed(Sample(np.zeros(10), (-500.0, 500.0)), 45.0) == 40
    assert pairs_needed(Sample(np.zeros(10)), 45.0) is None


def test_few_runs_have_a_range_and_no_interval():
    mean = Sample(np.arange(float(LEAST - 1))).mean()
    assert mean == Estimate(3.0, 0.0, 6.0, None)
    assert Sample(np.arange(float(LEAST))).mean().confidence == 0.95


def test_mean_of_runs_whose_score_is_only_a_limit_has_no_end_on_that_side():
    mean = Sample(NORMAL, open_below=True).mean()
    assert (mean.low, mean.high) == (-math.inf, Sample(NORMAL).mean().high)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(-252.94, -385.9, -166.0), "-253 [-386, -166]"),
        (Estimate(22.7512, 22.7101, 22.7901), "22.751 [22.710, 22.790]"),
        (Estimate(1.0, -math.inf, 2.0), "1.00 [-inf, 2.00]"),
        (Estimate(210.0, 110.0, 310.0, None), "210 (110 to 310)"),
        (Estimate(7.0, 7.0, 7.0, None), "7.00"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_can_tell(estimate, text):
    assert str(estimate) == text


def test_what_is_rounded_to_zero_has_no_sign():
    assert str(Estimate(-26.0, -82.0, -0.0004, None)) == "-26 (-82 to 0)"
