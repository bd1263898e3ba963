"""Metrics of the user: loaded from their source, and named when they go wrong."""

import numpy as np
import pytest

from airflow_mlops.core.errors import ConfigurationError, UserCodeError
from airflow_mlops.core.metrics import estimate, estimates, measure, named
from airflow_mlops.core.training.own_metrics import load_loss, load_metric

Y = np.array([0.0, 1.0, 1.0, 0.0] * 50)
P = np.random.default_rng(0).random(200)

METRICS = """
    import numpy as np

    def cost(y, p):
        "Missing a one costs ten times what a false alarm does."
        return np.where(y > 0.5, 10 * (p < 0.5), p >= 0.5)

    def hits(y, p):
        return float(((p >= 0.5) == (y > 0.5)).mean())

    hits.greater_is_better = True

    def odd(y, p):
        return p

    odd.greater_is_better = True

    def unclear(y, p):
        return 1.0

    unclear.greater_is_better = "yes"

    def nothing(y, p):
        return None

    def gap(y, p):
        return np.where(p > 2, np.nan, p)[:-1]

    def missing(y, p):
        return np.where(y > 0.5, np.nan, p)

    def infinite(y, p):
        return float("inf")

    def fails(y, p):
        raise ValueError("no such cost")
"""


@pytest.fixture
def own(user_module):
    name = user_module(METRICS)
    return lambda function: f"{name}:{function}"


def test_losses_of_the_user_are_measured_as_those_of_ours(own):
    metric = load_loss(own("cost"))
    assert metric(Y, P).shape == Y.shape
    expected = np.where(Y > 0.5, 10 * (P < 0.5), P >= 0.5)
    assert measure(metric, Y, P) == pytest.approx(expected.mean())
    assert not metric.greater_is_better
    found = estimate(metric, Y, P, seed=0)
    assert (found.metric, found.rows) == (own("cost"), 200)
    assert found.low < found.value < found.high


def test_a_number_of_the_user_says_which_way_is_better(own):
    metric = load_metric(own("hits"))
    assert metric.greater_is_better
    assert measure(metric, Y, P) == pytest.approx(measure("accuracy", Y, P))
    with pytest.raises(ConfigurationError, match=r"hits gives one number for 200 rows"):
        load_loss(own("hits"))(Y, P)


def test_labels_of_two_classes_bring_the_scores_of_classes(own):
    names = [m.metric for m in estimates(load_loss(own("cost")), Y, P, seed=0)]
    assert names[0] == own("cost")
    assert "roc_auc" in names
    quantities = estimates(load_loss(own("odd").replace("odd", "cost")), Y + 0.5, P, seed=0)
    assert [m.metric for m in quantities] == [own("cost")]


def test_a_function_may_use_a_module_beside_it_when_it_is_called(user_module):
    beside = user_module("def half(x):\n    return x / 2\n")
    name = user_module(f"def mean(y, p):\n    from .{beside} import half\n    return half(y)\n")
    assert load_loss(f"{name}:mean")(Y, P) == pytest.approx(Y / 2)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("absent", "defines no function 'absent'"),
        ("odd", "says greater_is_better: of losses less is better"),
        ("nothing", "what metric .*:nothing gave|:nothing: its number .*not finite"),
        ("gap", r"gave an array of shape \(199,\) for 200 rows; give one loss for each row"),
        ("missing", r"100 of 200 losses for 200 rows is not finite \(nan\); give a finite number"),
        ("infinite", r"its number for 200 rows is not finite \(inf\)"),
        ("fails", "raised ValueError: no such cost"),
    ],
)
def test_a_metric_that_goes_wrong_is_named_with_the_value_and_the_way_out(own, function, says):
    with pytest.raises(UserCodeError, match=says) as caught:
        load_metric(own(function)).on(Y, P)
    assert function in str(caught.value)


def test_a_metric_that_is_not_there_is_named():
    with pytest.raises(UserCodeError, match="metric no_such_module:f: cannot find module"):
        load_metric("no_such_module:f")
    with pytest.raises(ConfigurationError, match="unknown metric 'auc'"):
        load_metric("auc")
    with pytest.raises(ConfigurationError, match="unknown per-row loss 'roc_auc'"):
        load_loss("roc_auc")
    assert load_metric("roc_auc") == named("roc_auc")


def test_a_direction_that_is_none_is_refused(own):
    with pytest.raises(ConfigurationError, match="greater_is_better is 'yes'; write True or False"):
        load_metric(own("unclear"))
