"""Sequential tests: against the formulas of others, and against what simulation says."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import betaln

from airflow_mlops.core.rollout.arms import COMPARED
from airflow_mlops.core.rollout.sequential import (
    RATIO_ALPHA,
    fixed_information,
    information_for,
    planned_information,
    ratio_evidence,
    reach,
    squared_error,
    surely_above,
)

LOOKS = 336


def published(n, deviation, planned_n, alpha):
    """
    The one-sided bound as the paper writes it, by units instead of by information.

    Waudby-Smith et al. 2024, appendix, with its tuning for a planned sample.
    """
    x = -2 * math.log(2 * alpha)
    rho2 = (x + math.log(x) + 1) / planned_n
    inside = 2 * (n * rho2 + 1) / (n**2 * rho2)
    return deviation * math.sqrt(inside * math.log(1 + math.sqrt(n * rho2 + 1) / (2 * alpha)))


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("n", [10, 500, 1_000, 200_000])
def test_the_bound_is_the_published_one(n, alpha):
    deviation, planned = 3.0, 1_000
    ours = reach(np.array([n / deviation**2]), planned / deviation**2, alpha)[0]
    assert ours == pytest.approx(published(n, deviation, planned, alpha), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 20.0, 2_000.0])
def test_the_closed_form_is_never_below_the_exact_mixture_and_hardly_above(ratio, alpha):
    x = -2 * math.log(2 * alpha)
    scale = (x + math.log(x) + 1) * ratio  # squared scale of the prior, at information 1

    def surprise(z):  # a normal prior on effects above 0: its evidence, minus what is wanted
        spread = math.sqrt(scale + 1)
        mixed = math.log(2 / spread) + z * z * scale / (2 * (scale + 1))
        return mixed + stats.norm.logcdf(z * math.sqrt(scale) / spread) + math.log(alpha)

    exact = optimize.brentq(surprise, 0, 50)
    ours = reach(np.array([1.0]), 1 / ratio, alpha)[0]
    assert exact <= ours <= exact * 1.02


def test_the_bound_is_tightest_for_its_information_where_it_was_planned():
    def width(planned):
        return reach(np.array([100.0]), planned, 0.05)[0]

    best = optimize.minimize_scalar(width, bounds=(10, 1_000), method="bounded")
    assert width(100.0) == pytest.approx(best.fun, rel=0.005)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001])
def test_the_planned_effect_meets_the_bound_at_the_planned_information(alpha):
    planned = planned_information(0.03, alpha)
    assert reach(np.array([planned]), planned, alpha)[0] == pytest.approx(0.03, rel=1e-12)
    most = information_for(0.03, alpha, 0.8)
    bound = reach(np.array([most]), planned, alpha)[0]
    assert bound + stats.norm.ppf(0.8) / math.sqrt(most) == pytest.approx(0.03, rel=1e-9)
    assert information_for(0.03, alpha, 0.5) == pytest.approx(planned, rel=1e-9)


def test_a_single_look_needs_what_a_textbook_says():
    n = 2 * (stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) ** 2 / 0.1**2  # units of each arm, sd 1
    assert fixed_information(0.1, 0.05, 0.8) == pytest.approx(n / 2, rel=1e-12)


def test_the_error_of_arms_alike_is_that_of_students_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(size=400) * 1.5
    n, variance = (40, 400), (a.var(ddof=1), b.var(ddof=1))
    pooled = stats.ttest_ind(a, b)
    welch = stats.ttest_ind(a, b, equal_var=False)
    errors = [(a.mean() - b.mean()) / found.statistic for found in (pooled, welch)]
    assert math.sqrt(squared_error(n, variance)) == pytest.approx(max(map(abs, errors)))


def test_the_evidence_for_a_wrong_ratio_is_that_of_a_beta_mixture():
    grid = (np.arange(200_000) + 0.5) / 200_000
    prior = stats.beta(1_000 * 0.1, 1_000 * 0.9).pdf(grid)
    likelihood = np.exp(stats.binom.logpmf(130, 1_000, grid) - stats.binom.logpmf(130, 1_000, 0.1))
    assert ratio_evidence(130, 870, 0.1) == pytest.approx(
        math.log(np.mean(prior * likelihood)), rel=1e-5
    )


def test_a_ratio_that_is_as_planned_is_hardly_ever_called_wrong():
    rng = np.random.default_rng(1)
    units = 50 * np.arange(1, LOOKS + 1)
    for share in (0.5, 0.1):
        one = rng.binomial(50, share, (5_000, LOOKS)).cumsum(axis=1)
        found = (ratio_evidence(one, units - one, share) > -math.log(RATIO_ALPHA)).any(axis=1)
        assert found.sum() <= stats.binom.ppf(0.999, 5_000, RATIO_ALPHA)


def test_a_ratio_that_is_off_by_half_is_found_within_2000_entities():
    assert ratio_evidence(850, 1_150, 0.5) > -math.log(RATIO_ALPHA)
    assert ratio_evidence(100, 1_900, 0.1) > -math.log(RATIO_ALPHA)


def test_the_evidence_for_too_large_a_share_is_that_of_a_uniform_mixture():
    grid = (np.arange(20_000) + 0.5) / 20_000

    def slow(count, n, limit):
        above = limit + grid * (1 - limit)
        ratio = stats.binom.logpmf(count, n, above) - stats.binom.logpmf(count, n, limit)
        return bool(np.mean(np.exp(ratio)) > 20)

    for n, limit in ((10, 0.05), (60, 0.01), (400, 0.01), (400, 0.2)):
        counts = range(max(3, math.ceil(limit * n) + 1), min(n, math.ceil(limit * n) + 40))
        ours = [surely_above(count, n, limit, 0.05) for count in counts]
        assert ours == [slow(count, n, limit) for count in counts]
        assert ours == sorted(ours)
        assert True in ours


def test_a_share_at_its_limit_is_rarely_called_too_large():
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(600):
        hits = np.flatnonzero(rng.random(2_000) < 0.02)
        wrong += any(surely_above(k, int(at) + 1, 0.02, 0.05) for k, at in enumerate(hits, start=1))
    assert wrong <= stats.binom.ppf(0.99, 600, 0.05)


@pytest.mark.parametrize(("count", "n"), [(0, 0), (0, 10**7), (2, 2), (100, 10**6), (10**5, 10**8)])
def test_what_may_be_chance_is_not_too_large(count, n):
    assert not surely_above(count, n, 0.01, 0.05)


def test_a_candidate_that_always_fails_is_stopped_at_the_third_request():
    assert surely_above(3, 3, 0.01, 0.05)
    assert betaln(4, 1) < 0  # the evidence stays finite where the tail of the mixture is all of it
    assert surely_above(10**6, 10**6, 0.01, 0.05)


def experiments(draw, runs, per_look, shift=0.0):
    """Units, means and variances of one arm at each look, each ``(runs, looks)``."""
    found = draw((runs, LOOKS, per_look)) + shift
    n = np.broadcast_to(per_look * np.arange(1.0, LOOKS + 1), (runs, LOOKS))
    mean = found.sum(axis=2).cumsum(axis=1) / n
    variance = ((found**2).sum(axis=2).cumsum(axis=1) - n * mean**2) / (n - 1)
    return n, mean, variance


def gaps(candidate, champion, effect, alpha=0.05):
    """Difference, and reach, at each look; NaN where there are too few units."""
    squared = squared_error((candidate[0], champion[0]), (candidate[2], champion[2]))
    squared = np.where(squared > 0, squared, 1e12)
    width = reach(1 / squared, planned_information(effect, alpha), alpha)
    few = np.minimum(candidate[0], champion[0]) < COMPARED
    return np.where(few, np.nan, candidate[1] - champion[1]), width


DRAWS = {
    "normal": lambda rng: lambda shape: rng.normal(size=shape),
    "skewed": lambda rng: lambda shape: rng.lognormal(0, 1.5, shape),
    "rare": lambda rng: lambda shape: (rng.random(shape) < 0.02).astype(float),
}


@pytest.mark.parametrize(("one", "two"), [(6, 6), (2, 18)], ids=["half", "tenth"])
@pytest.mark.parametrize("kind", DRAWS)
def test_without_a_difference_hourly_looks_find_one_in_5_percent_at_most(kind, one, two):
    runs, draw = 400, DRAWS[kind](np.random.default_rng(3))
    arms = experiments(draw, runs, one), experiments(draw, runs, two)
    gap, width = gaps(*arms, effect=0.02 if kind == "rare" else 0.3)
    most = stats.binom.ppf(0.99, runs, 0.05)
    assert (gap > width).any(axis=1).sum() <= most
    assert (gap < -width).any(axis=1).sum() <= most
    few = np.isnan(gap)
    error = np.sqrt(sum(v / n for n, _, v in arms))
    naive = ((np.abs(gap) > 1.96 * error) & ~few).any(axis=1).mean()
    assert naive > 0.2  # what the same looks do to a t test


def test_without_the_pooled_variance_a_small_arm_would_lie():
    runs, draw = 300, DRAWS["rare"](np.random.default_rng(4))
    arms = experiments(draw, runs, 2), experiments(draw, runs, 18)
    separate = sum(v / n for n, _, v in arms)
    separate = np.where(separate > 0, separate, 1e12)  # certain by 100 zeros: left out here
    width = reach(1 / separate, planned_information(0.02, 0.05), 0.05)
    low = (arms[0][1] - arms[1][1] < -width) & (arms[0][0] >= COMPARED)
    assert low.any(axis=1).mean() > 0.05


def test_the_interval_covers_the_truth_at_all_looks_at_once():
    runs, draw = 600, DRAWS["normal"](np.random.default_rng(5))
    gap, width = gaps(experiments(draw, runs, 6, 0.2), experiments(draw, runs, 6), effect=0.2)
    for missed in (gap - 0.2 > width, gap - 0.2 < -width):
        assert missed.any(axis=1).sum() <= stats.binom.ppf(0.99, runs, 0.05)


def test_planted_harm_is_seen_as_soon_as_predicted():
    runs, effect, draw = 400, 0.2, DRAWS["normal"](np.random.default_rng(6))
    gap, width = gaps(experiments(draw, runs, 3, effect), experiments(draw, runs, 3), effect)
    seen = gap > width
    units = np.where(seen.any(axis=1), 6 * (seen.argmax(axis=1) + 1), np.inf)
    unit = 1 / 0.25  # variance over share times rest
    half, most = (information_for(effect, 0.05, power) * unit for power in (0.5, 0.8))
    assert (units <= half).mean() >= 0.5
    assert (units <= most).mean() >= 0.8
    assert np.median(units) < 1.3 * fixed_information(effect, 0.05, 0.8) * unit
