"""Estimates without labels: right where probabilities are, and corrected where they were not."""

import json

import numpy as np
import pytest

from airflow_mlops.core.metrics import LOSSES, measure
from airflow_mlops.core.monitoring.unlabelled import BINS, Guess, binned, expected, past_error


def sample(seed, rows=20_000, bend=lambda p: p):
    """Served probabilities, and labels that come true with ``bend(p)``."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, rows)
    return p, (rng.uniform(size=rows) < bend(p)).astype(float)


@pytest.mark.parametrize("metric", ["brier", "log_loss"])
def test_of_calibrated_probabilities_the_estimate_is_the_realised_loss(metric):
    p, y = sample(0)
    value, accuracy = expected(metric, p, [])
    assert value == pytest.approx(LOSSES[metric](y, p).mean(), abs=0.01)
    assert accuracy == pytest.approx(measure("accuracy", y, p), abs=0.01)


def test_labelled_windows_correct_probabilities_that_were_too_sure():
    def bend(p):
        return 0.5 + (p - 0.5) / 2

    p, y = sample(1, bend=bend)
    true = LOSSES["brier"](y, p).mean()
    believed, _ = expected("brier", p, [])
    corrected, _ = expected("brier", p, [binned(*sample(seed, bend=bend)) for seed in (2, 3)])
    assert abs(believed - true) > 0.05
    assert corrected == pytest.approx(true, abs=0.01)


def test_a_few_rows_hardly_correct_anything():
    p, _ = sample(4)
    few = binned(np.array([0.95]), np.array([0.0]))
    assert expected("brier", p, [few])[0] == pytest.approx(expected("brier", p, [])[0], abs=0.005)


def test_a_regression_has_no_estimate():
    assert expected("absolute_error", np.ones(5), []) is None
    assert expected("brier", np.empty(0), []) is None


def test_the_counts_add_up_whatever_the_probability():
    p = np.array([0.0, 0.05, 0.5, 1.0])
    found = binned(p, np.array([0.0, 1.0, 1.0, 1.0]))
    assert len(found) == BINS
    assert np.sum(found, axis=0) == pytest.approx([4, 1.55, 3])
    assert found[-1] == (1.0, 1.0, 1.0)


def test_its_own_past_error_counts_windows_that_have_both():
    def guess(index, value):
        return Guess("m@1", index, "", "", "brier", 100, value, 0.7, 0)

    guesses = {1: guess(1, 0.2), 2: guess(2, 0.3), 9: guess(9, 0.9)}
    assert past_error(guesses, {1: 0.25, 2: 0.28, 5: 1.0}) == pytest.approx(0.035)
    assert past_error(guesses, {}) is None
    body = json.loads(json.dumps(guesses[1].to_dict()))
    assert Guess.from_dict(body) == guesses[1]
    assert body["status"] == "ok"
    assert "brier 0.2000 and accuracy 70.0% are expected" in body["line"]
