"""The statistics behind a verdict, beside scipy and statsmodels. Run: python -m pytest
tests/verdict/test_stats.py"""

import math

import numpy as np
import pytest
from scipy import stats as reference
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from verdict import stats

SEEDS = (2, 3, 5, 8)
DRAWS = 20_000

def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)

# ---- differences

@pytest.mark.parametrize('n_a, n_b, spread', [(2, 2, 1.0), (3, 5, 1.0), (5, 3, 4.0), (8, 2, 0.2)])
def test_welch_equals_scipy(n_a, n_b, spread):
    a, b = draws(50, n_a), spread * draws(50, n_b, seed=1) + 0.5
    ours = stats.welch(a, b)
    theirs = reference.ttest_ind(a, b, axis=-1, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-9)
    np.testing.assert_allclose(ours.df, theirs.df, rtol=1e-9)
    np.testing.assert_allclose(ours.low, interval.low, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.high, interval.high, rtol=1e-7, atol=1e-9)

def test_one_value_on_a_side_gives_a_difference_and_nothing_else():
    one = stats.welch([3.0], [2.0, 2.5])
    assert one.value == 0.75
    assert all(math.isnan(number) for number in (one.se, one.df, one.low, one.high, one.p))

def test_a_known_deviation_makes_it_a_z_test_that_one_seed_can_pass():
    one = stats.welch([3.0], [2.9, 2.9], sigma=0.04)
    se = 0.04 * math.sqrt(1 + 1 / 2)
    assert one.se == pytest.approx(se)
    assert one.df == math.inf
    assert one.p == pytest.approx(2 * reference.norm.sf(0.1 / se))
    assert one.high - one.value == pytest.approx(reference.norm.ppf(0.975) * se)

def test_seeds_without_any_spread_are_the_limit_of_a_small_one():
    assert stats.welch([1.0, 1.0], [1.0, 1.0]).p == 1
    assert stats.welch([1.0, 1.0], [2.0, 2.0]).p == 0
    assert stats.welch([1.0, 1.0], [2.0, 2.0]).low == -1

@pytest.mark.parametrize('seeds', SEEDS)
def test_equal_schedules_are_called_different_in_at_most_6_of_100_cases(seeds):
    p = stats.welch(draws(DRAWS, seeds), draws(DRAWS, seeds, seed=1)).p
    false_alarms = np.mean(p < stats.SIGNIFICANT)
    # as simulated elsewhere: 2.3, 3.5, 4.5% at 2, 3, 5 seeds
    assert {2: 0.015, 3: 0.027, 5: 0.035, 8: 0.04}[seeds] < false_alarms < 0.06

# ---- families and pairs

def test_holm_equals_statsmodels_and_passes_over_what_is_no_test():
    p = np.random.default_rng(0).random((12, 7))**3
    ours = stats.holm(p)
    for row, corrected in zip(p, ours):
        np.testing.assert_allclose(corrected, multipletests(row, method='holm')[1])
    with_gap = stats.holm([0.01, math.nan, 0.04, 0.03])
    np.testing.assert_allclose(with_gap, [0.03, math.nan, 0.06, 0.06])
    assert np.isnan(stats.holm([math.nan])).all()
    # A family of which two have no p by now: they count as if they were 1.
    np.testing.assert_allclose(stats.holm([0.01, 0.02], tests=4), stats.holm([0.01, 0.02, 1, 1])[:2])

def test_paired_equals_scipy():
    a, b = draws(400), draws(400, seed=1) + 0.1
    ours = stats.paired(a, b)
    theirs = reference.ttest_rel(a, b)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.se == pytest.approx(np.std(a - b, ddof=1) / 20)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))

@pytest.mark.parametrize('share', (0.3, 0.5, 0.52))
def test_mcnemar_equals_statsmodels(share):
    rng = np.random.default_rng(3)
    a, b = rng.random(500) < 0.4, rng.random(500) < share
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    only_a, only_b, p = stats.mcnemar(a, b)
    assert (only_a, only_b) == (table[0][1], table[1][0])
    assert p == pytest.approx(reference_mcnemar(table, exact=True).pvalue)
    assert stats.mcnemar(a, a) == (0, 0, 1.0)

# ---- a weighted fit

def test_a_weighted_fit_is_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(8), rng.standard_normal((8, 2))])
    error = rng.uniform(0.5, 2, 8)
    y = x @ [0.3, -1.0, 2.0] + error * rng.standard_normal(8)
    fit = stats.weighted_fit(x, y, error)
    reference = sm.WLS(y, x, weights=error**-2.0).fit()
    assert fit.slopes == pytest.approx(reference.params)
    assert fit.covariance == pytest.approx(reference.cov_params())
    for k, (low, high) in enumerate(reference.conf_int()):
        assert [fit.term(k).low, fit.term(k).high] == pytest.approx([low, high])
    place = np.array([1.0, 0.5, -0.5])
    frame = reference.get_prediction(place[None], weights=np.mean(error**-2.0)).summary_frame()
    expected = frame[['mean', 'obs_ci_lower', 'obs_ci_upper']].iloc[0]
    guess = fit.predict(place)
    assert [guess.value, guess.low, guess.high] == pytest.approx(list(expected))
