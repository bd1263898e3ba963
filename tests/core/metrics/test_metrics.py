"""Metrics agree with scikit-learn; intervals cover what they promise."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.preprocessing import label_binarize

from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError
from airflow_mlops.core.metrics import (
    LOSSES,
    SCORES,
    Estimate,
    estimate,
    loss_function,
    measure,
    named,
)


def sample(seed, n=400, ties=False):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < rng.uniform(0.1, 0.9)).astype(float)
    p = np.clip(rng.normal(0.3 + 0.4 * y, 0.25), 0, 1)
    return y, np.round(p, 1) if ties else p


REFERENCES = {
    "brier": reference.brier_score_loss,
    "log_loss": lambda y, p: reference.log_loss(y, np.clip(p, 1e-15, 1 - 1e-15)),
    "absolute_error": reference.mean_absolute_error,
    "squared_error": reference.mean_squared_error,
    "roc_auc": reference.roc_auc_score,
    "accuracy": lambda y, p: reference.accuracy_score(y, p >= 0.5),
    "recall": lambda y, p: reference.recall_score(y, p >= 0.5),
    "precision": lambda y, p: reference.precision_score(y, p >= 0.5),
    "f1": lambda y, p: reference.f1_score(y, p >= 0.5),
    "average_precision": reference.average_precision_score,
    "r2": reference.r2_score,
}
SEVERAL = {
    "brier": lambda y, p: reference.brier_score_loss(y, p, scale_by_half=True),
    "log_loss": reference.log_loss,
    "roc_auc": lambda y, p: reference.roc_auc_score(y, p, multi_class="ovr", average="macro"),
    "accuracy": lambda y, p: reference.accuracy_score(y, p.argmax(axis=1)),
    "recall": lambda y, p: reference.recall_score(y, p.argmax(axis=1), average="macro"),
    "precision": lambda y, p: reference.precision_score(y, p.argmax(axis=1), average="macro"),
    "f1": lambda y, p: reference.f1_score(y, p.argmax(axis=1), average="macro"),
    "average_precision": lambda y, p: reference.average_precision_score(
        label_binarize(y, classes=range(p.shape[1])), p, average="macro"
    ),
}


def several(seed, n=500, classes=4, ties=False):
    """Labels of several classes, and a column of probabilities for each."""
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, 8.0)))
    score = np.exp(rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y])
    score = np.round(score + 0.5) if ties else score
    return y.astype(float), score / score.sum(axis=1, keepdims=True)


def test_every_metric_has_an_independent_reference():
    assert set(REFERENCES) == {*LOSSES, *SCORES}


@pytest.mark.parametrize("name", list(REFERENCES))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_metric_agrees_with_scikit_learn(name, seed, ties):
    y, p = sample(seed, ties=ties)
    assert measure(name, y, p) == pytest.approx(REFERENCES[name](y, p), rel=1e-9)


@pytest.mark.parametrize("name", list(SEVERAL))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_metric_of_several_classes_agrees_with_scikit_learn(name, seed, ties):
    y, p = several(seed, ties=ties)
    assert measure(name, y, p) == pytest.approx(SEVERAL[name](y, p), rel=1e-9)


@pytest.mark.parametrize("name", list(SEVERAL))
def test_two_classes_in_two_columns_are_measured_as_such(name):
    y, p = sample(4)
    both = np.stack([1 - p, p], axis=1)
    if name in ("recall", "precision", "f1", "average_precision"):  # of both classes, not of ones
        one = [measure(name, y, p), measure(name, 1 - y, 1 - p)]
        assert measure(name, y, both) == pytest.approx(np.mean(one))
    else:
        assert measure(name, y, both) == pytest.approx(measure(name, y, p))


def test_a_loss_with_more_columns_is_that_of_each_row():
    y, p = several(1)
    for name in ("brier", "log_loss"):
        assert loss_function(name)(y, p).shape == y.shape
        assert loss_function(name)(y, np.eye(4)[y.astype(int)]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_gives_one_number_per_row_and_none_for_the_truth(name):
    y, p = sample(0)
    assert loss_function(name)(y, p).shape == y.shape
    assert loss_function(name)(y, y) == pytest.approx(0, abs=1e-12)


def test_a_value_computed_by_hand():
    y, p = np.array([1.0, 0.0]), np.array([0.8, 0.4])
    assert measure("brier", y, p) == pytest.approx((0.2**2 + 0.4**2) / 2)
    assert measure("log_loss", y, p) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_a_sure_and_wrong_probability_has_a_finite_log_loss():
    assert measure("log_loss", np.array([1.0]), np.array([0.0])) == pytest.approx(34.54, abs=0.01)


def test_roc_auc_does_not_change_under_a_monotone_map_and_flips_with_the_sign():
    y, p = sample(3)
    assert measure("roc_auc", y, p**3) == measure("roc_auc", y, p)
    assert measure("roc_auc", y, -p) == pytest.approx(1 - measure("roc_auc", y, p))


@pytest.mark.parametrize("name", list(REFERENCES))
def test_the_interval_holds_the_value(name):
    found = estimate(name, *sample(1), seed=0, draws=199)
    assert found.low <= found.value <= found.high
    assert found.rows == 400


@pytest.mark.parametrize("name", ["brier", "roc_auc"])
def test_the_same_seed_gives_the_same_interval(name):
    y, p = sample(2)
    assert estimate(name, y, p, seed=5, draws=50) == estimate(name, y, p, seed=5, draws=50)
    assert estimate(name, y, p, seed=5, draws=50) != estimate(name, y, p, seed=6, draws=50)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        p = rng.random(300)
        y = (rng.random(300) < p).astype(float)  # E (p - y)^2 = E p (1 - p) = 1/6
        found = estimate("brier", y, p, seed=1, draws=99)
        hits += found.low <= 1 / 6 <= found.high
    assert 178 <= hits <= 199


def test_the_interval_is_wider_when_rows_come_in_runs():
    rng = np.random.default_rng(0)
    error = np.repeat(rng.normal(size=40), 10)
    mixed = rng.permutation(error)
    y = np.zeros(400)
    runs, alone = (estimate("squared_error", y, e, seed=0) for e in (error, mixed))
    assert runs.high - runs.low > 1.5 * (alone.high - alone.low)


def test_an_estimate_round_trips_through_json():
    found = estimate("brier", *sample(1), seed=0, draws=20)
    assert Estimate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_score_is_no_loss_of_rows():
    with pytest.raises(ConfigurationError, match=r"roc_auc gives one number for 400.*in a gate"):
        named("roc_auc")(*sample(0))


def test_one_row_can_be_estimated():
    found = estimate("brier", np.array([1.0]), np.array([0.5]), seed=0)
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("name", ["", "auc", "Brier", "brier; drop table x"])
def test_an_unknown_metric_is_named_with_those_that_are_known(name):
    with pytest.raises(
        ConfigurationError,
        match=r"known: absolute_error, accuracy, av.*your own as",
    ) as caught:
        measure(name, np.zeros(1), np.zeros(1))
    assert repr(name) in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"known: absolute_error, brier, log_loss"):
        loss_function(name)


def test_no_rows_are_not_enough():
    with pytest.raises(NotEnoughDataError, match="no rows to measure brier on"):
        measure("brier", np.empty(0), np.empty(0))


@pytest.mark.parametrize(
    ("name", "y", "p"),
    [
        ("roc_auc", [1, 1], [0.2, 0.7]),
        ("recall", [0, 0], [0.2, 0.7]),
        ("precision", [0, 1], [0.2, 0.3]),
        ("brier", [0, 1], [0.2, math.nan]),
        ("log_loss", [0, 1], [math.nan, 0.5]),
    ],
)
def test_a_metric_that_is_not_defined_is_no_number(name, y, p):
    with pytest.raises(NotEnoughDataError, match=f"{name} is not defined on these 2 rows"):
        measure(name, np.array(y, float), np.array(p, float))
