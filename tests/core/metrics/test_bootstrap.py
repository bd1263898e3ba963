"""Resamples: paired, in blocks, and as wide as rows that are drawn one by one would be."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from airflow_mlops.core.metrics import Metric, block_length, named, resampled
from airflow_mlops.core.metrics.bootstrap import automatic_length


def binary(seed, n=600, share=0.3, skill=1.5):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(float)
    score = rng.normal(size=(2, n)) + skill * y
    return y, [1 / (1 + np.exp(-s)) for s in score]


def drawn_anew(function, y, predictions, seed, draws=299):
    """The slow way: the rows of each draw, and the metric of scikit-learn on them."""
    n, length = len(y), block_length(len(y))
    blocks = -(-n // length)
    starts = np.random.default_rng(seed).integers(
        0, n - length + 1, size=(draws, blocks), dtype=np.int32
    )
    found = np.empty((draws, len(predictions)))
    for draw, (short, *others) in enumerate(starts):
        whole = (np.array(others)[:, None] + np.arange(length)).ravel()
        rows = np.concatenate([short + np.arange(n - len(whole)), whole])
        found[draw] = [function(y[rows], p[rows]) for p in predictions]
    return found


SLOW = {
    "roc_auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "f1": lambda y, p: reference.f1_score(y, p >= 0.5, zero_division=np.nan),
    "recall": lambda y, p: reference.recall_score(y, p >= 0.5),
    "precision": lambda y, p: reference.precision_score(y, p >= 0.5, zero_division=np.nan),
    "accuracy": lambda y, p: reference.accuracy_score(y, p >= 0.5),
    "brier": reference.brier_score_loss,
}


RANKS = ("roc_auc", "average_precision")
"""Of these the first-order terms are drawn."""


@pytest.mark.parametrize("name", list(SLOW))
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_sums_of_blocks_give_what_the_rows_of_the_draw_would(name, share):
    y, predictions = binary(1, 400, share)
    quick = resampled(named(name), y, predictions, seed=0, draws=299)
    slow = drawn_anew(SLOW[name], y, predictions, seed=0)
    if name not in RANKS:
        assert quick == pytest.approx(slow, rel=1e-9)
        return
    for one, two in ((quick[:, 0], slow[:, 0]), (np.diff(quick)[:, 0], np.diff(slow)[:, 0])):
        assert np.corrcoef(one, two)[0, 1] > 0.97
        assert np.std(one) == pytest.approx(np.std(two), rel=0.1)
        assert abs(np.mean(one) - np.mean(two)) < 0.3 * np.std(two)


def test_resamples_of_r2_are_those_of_its_rows():
    rng = np.random.default_rng(0)
    y = rng.normal(size=399)
    p = y + rng.normal(size=399)
    quick = resampled(named("r2"), y, [p], seed=0, draws=299)
    assert quick == pytest.approx(drawn_anew(reference.r2_score, y, [p], 0), rel=1e-9)


def test_the_variance_of_the_area_is_that_of_delong():
    y, (p, _) = binary(3, 4_000)
    ones, zeros = p[y == 1], p[y == 0]
    above = [(zeros < one).mean() for one in ones]
    below = [(ones > zero).mean() for zero in zeros]
    error = np.sqrt(np.var(above, ddof=1) / len(ones) + np.var(below, ddof=1) / len(zeros))
    found = resampled(named("roc_auc"), y, [p], seed=0)[:, 0]
    assert np.std(found) == pytest.approx(error, rel=0.08)


def test_both_models_are_drawn_together():
    y, (p, _) = binary(2)
    found = resampled(named("roc_auc"), y, [p, p], seed=0)
    assert (found[:, 0] == found[:, 1]).all()
    assert np.std(found[:, 0]) > 0


def test_a_function_of_the_user_is_drawn_as_a_score_of_ours_is():
    y, predictions = binary(4, 300)
    own = Metric("own", number=lambda y, p: np.array(((p >= 0.5) == (y > 0.5)).mean()))
    found = [resampled(m, y, predictions, seed=0) for m in (own, named("accuracy"))]
    assert np.std(found[0]) == pytest.approx(np.std(found[1]), rel=0.1)


def ar1(rho, n, seed=0):
    rng = np.random.default_rng(seed)
    noise, found = rng.normal(size=n), np.empty(n)
    found[0] = noise[0]
    for i in range(1, n):
        found[i] = rho * found[i - 1] + noise[i]
    return found


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_the_automatic_length_is_the_best_one_of_an_autoregression(rho):
    """In closed form: (6 rho^2 / (1 - rho^2)^2 n)^(1/3)."""
    n = 20_000
    best = (6 * rho**2 / (1 - rho**2) ** 2 * n) ** (1 / 3)
    found = [automatic_length(ar1(rho, n, seed)) for seed in range(5)]
    assert np.median(found) == pytest.approx(best, rel=0.2)


@pytest.mark.parametrize("n", [20, 499, 500, 3_000])
def test_the_automatic_length_agrees_with_a_plain_sum_over_lags(n):
    """The definition, lag by lag, without a Fourier transform."""
    x = ar1(0.6, n)
    x = x - x.mean()
    run, most = max(5, int(np.ceil(np.log10(n)))), 0
    most = min(int(np.ceil(np.sqrt(n))) + run, n - 1)
    cov = np.array([x[: n - k] @ x[k:] / n for k in range(most + 1)])
    small = abs(cov[1:] / cov[0]) < 2 * np.sqrt(np.log10(n) / n)
    starts = [m for m in range(most - run + 1) if small[m : m + run].all()]
    last = max(starts[0], 1) if starts else int(np.flatnonzero(~small)[-1]) + 1
    lags = range(1, min(2 * last, most) + 1)
    flat = [1.0 if k <= last else 2 * (1 - k / (2 * last)) for k in lags]
    g0 = cov[0] + 2 * sum(w * cov[k] for w, k in zip(flat, lags, strict=True))
    bias = 2 * sum(w * k * cov[k] for w, k in zip(flat, lags, strict=True))
    best = min((1.5 * bias**2 / g0**2 * n) ** (1 / 3), np.ceil(min(3 * np.sqrt(n), n / 3)))
    assert automatic_length(x) == pytest.approx(best)


def test_blocks_grow_with_the_dependence_and_only_where_rows_can_show_it():
    independent, dependent = (ar1(rho, 2_000) for rho in (0.0, 0.95))
    assert block_length(2_000, [independent]) == 13
    assert block_length(2_000, [independent, dependent]) > 40
    assert block_length(400, [dependent[:400]]) == 8
    assert block_length(1_000) == 10
    assert block_length(1_000, [np.zeros(1_000)]) == 10


def test_the_interval_of_dependent_rows_covers_the_truth_far_more_often_than_one_of_single_rows():
    hits = np.zeros(2)
    for seed in range(60):
        error = ar1(0.9, 1_500, seed)
        found = resampled(named("absolute_error"), np.zeros(1_500), [error], seed=1)[:, 0]
        low, high = np.quantile(found, [0.025, 0.975])
        truth = np.sqrt(2 / np.pi / (1 - 0.9**2))
        naive = stats.sem(np.abs(error)) * 1.96
        hits += [low <= truth <= high, abs(np.abs(error).mean() - truth) <= naive]
    assert hits[0] >= 50
    assert hits[1] <= 35
