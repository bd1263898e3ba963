"""The comparison by block means: its bound is scipy's t, its size is honest."""

import json

import numpy as np
import pytest
from scipy import stats

from airflow_mlops.core.data.slicing import holm
from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.evaluation.comparison import (
    BLOCKS,
    LEVELS,
    Comparison,
    compare,
    compare_slices,
)
from airflow_mlops.core.metrics import Metric, named


def losses(seed, n=336, gap=0.0, rho=0.0, size=None):
    """Losses of two models whose difference is an AR(1) around ``gap``."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size or 1, n)) * np.sqrt(1 - rho**2)
    for i in range(1, n):
        noise[:, i] += rho * noise[:, i - 1]
    champion = rng.random((size or 1, n))
    both = champion, champion + gap + noise
    return both if size else tuple(x[0] for x in both)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_the_bound_is_that_of_a_t_test_of_the_block_means(seed, alpha):
    champion, candidate = losses(seed)
    found = compare("brier", champion, candidate)
    means = [part.mean() for part in np.array_split(candidate - champion, BLOCKS)]
    low, high = stats.t.interval(
        1 - 2 * alpha, BLOCKS - 1, loc=np.mean(means), scale=stats.sem(means)
    )
    assert found.bound(alpha) == pytest.approx(high)
    assert found.bound(alpha, upper=False) == pytest.approx(low)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_excludes_zero_exactly_when_the_t_test_rejects(seed):
    champion, candidate = losses(seed, gap=-0.1)
    found = compare("brier", champion, candidate)
    means = [part.mean() for part in np.array_split(candidate - champion, BLOCKS)]
    p = stats.ttest_1samp(means, 0, alternative="less").pvalue
    assert found.bound(p * 1.001) < 0 < found.bound(p * 0.999)


def test_swapping_the_models_turns_the_sign():
    champion, candidate = losses(1)
    one, two = compare("x", champion, candidate), compare("x", candidate, champion)
    assert one.difference == pytest.approx(-two.difference)
    assert one.error == pytest.approx(two.error)
    assert one.bound(0.05) == pytest.approx(-two.bound(0.05, upper=False))


def test_a_model_compared_with_itself_does_not_differ():
    champion, _ = losses(1)
    found = compare("x", champion, champion)
    assert (found.difference, found.error, found.bound(0.05)) == (0, 0, 0)


def test_the_difference_is_that_of_the_means():
    champion, candidate = losses(2, n=335)
    found = compare("x", champion, candidate)
    assert found.difference == pytest.approx(found.candidate - found.champion)
    assert (found.rows, found.blocks) == (335, 8)


@pytest.mark.parametrize(("rho", "most"), [(0.0, 0.065), (0.8, 0.08)])
def test_the_size_of_the_test_is_near_alpha_even_under_autocorrelation(rho, most):
    champion, candidate = losses(0, n=336, rho=rho, size=2000)
    wrong = [compare("x", a, b).bound(0.05) < 0 for a, b in zip(champion, candidate, strict=True)]
    assert 0.03 <= np.mean(wrong) <= most


def test_rows_needed_fall_with_the_margin_and_are_none_when_there_are_enough():
    found = compare("x", *losses(3))
    needed = [found.rows_needed(margin, 0.05) for margin in (0.01, 0.02, 0.1, 10.0)]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] == 0


def test_rows_needed_give_the_promised_power():
    known = Comparison("x", 0.5, 0.5, 0.0, 1 / np.sqrt(400), BLOCKS, 400)  # variance 1 a row
    needed = 400 + known.rows_needed(0.1, 0.05, power=0.8)
    champion, candidate = losses(5, n=needed, size=1000)
    shown = [compare("x", a, b).bound(0.05) < 0.1 for a, b in zip(champion, candidate, strict=True)]
    assert 0.76 <= np.mean(shown) <= 0.84


def test_a_comparison_round_trips_through_json():
    found = compare("x", *losses(1))
    assert Comparison.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_comparison_says_both_losses_and_the_interval():
    assert str(Comparison("brier", 0.2, 0.18, -0.02, 0.0, 8, 336)) == (
        "brier 0.1800 against 0.2000: -0.0200 [-0.0200, -0.0200] on 336 rows"
    )


@pytest.mark.parametrize(("n", "m"), [(99, 99), (0, 0), (200, 199)])
def test_too_few_rows_or_other_rows_decide_nothing(n, m):
    with pytest.raises(
        NotEnoughDataError, match=f"{n} and {m} losses.*at least 100.*wait for more"
    ):
        compare("x", np.zeros(n), np.zeros(m))


def tied(values, *, greater=True):
    """A comparison whose resamples take few values, each often."""
    quantiles = tuple(np.quantile(values, LEVELS, method="inverted_cdf"))
    return Comparison("x", 0.5, 0.5, 0.0, 0.01, BLOCKS, 500, greater, quantiles)


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_p_value_below_alpha_is_a_bound_beyond_the_limit_also_where_resamples_tie(seed, greater):
    found = tied(np.random.default_rng(seed).poisson(2, 999) / 100 - 0.02, greater=greater)
    for harm in (-0.02, 0.0, 0.01, 0.013):
        for alpha in (0.003, 0.01, 0.05, 0.07, 0.3, 0.5):
            assert (found.p_value(harm, less=True) < alpha) == (found.harm(alpha) < harm)
            worse = found.harm(alpha, upper=False) > harm
            assert (found.p_value(harm, less=False) < alpha) == worse


def test_resamples_without_a_difference_speak_against_every_claim():
    found = tied([-0.01] * 200 + [0.0] * 700 + [0.01] * 99)
    assert found.p_value(0.0, less=False) == pytest.approx(0.8, abs=0.06)  # 20 % lie below
    assert found.p_value(0.0, less=True) == pytest.approx(0.9, abs=0.01)  # 10 % lie above


@pytest.mark.parametrize("metric", ["accuracy", "recall", "own"])
@pytest.mark.parametrize("share", [0.003, 0.01, 0.03, 0.1])
def test_models_that_decide_few_rows_otherwise_are_seldom_called_worse(share, metric):
    """Equally good models, ten slices of 200 rows: at alpha 5 % in one of twenty at the most."""
    own = Metric("own", greater_is_better=True, number=lambda y, p: ((p > 0.5) == y).mean())
    runs, wrong = 8 if metric == "own" else 60, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        y = (rng.random(2_000) < 0.4).astype(float)
        right = np.where(rng.random(2_000) < 0.85, y, 1 - y)
        pair = (np.where(rng.random(2_000) < share / 2, 1 - right, right) for _ in range(2))
        cuts = "town", (np.arange(2_000) % 10).tolist()
        known = own if metric == "own" else named(metric)
        slices = compare_slices(known, y, *pair, by=cuts, seed=0)
        tested = [one.p_value(0.0, less=False) for one in slices if one.tested]
        wrong += min(holm(tested)) < 0.05
    assert wrong <= 0.05 * runs + 2 * np.sqrt(0.05 * runs)
