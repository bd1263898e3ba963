"""The gate: every condition is judged, and what cannot be decided never passes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.evaluation.comparison import Comparison, compare
from airflow_mlops.core.evaluation.evaluation import Evaluation, Finding
from airflow_mlops.core.evaluation.gate import Check, Verdict, judge
from airflow_mlops.core.metrics import Estimate
from airflow_mlops.core.training.agreement import ServingCheck
from airflow_mlops.policy import (
    AtLeast,
    AtMost,
    Better,
    Fair,
    Loads,
    NoLeak,
    NotWorse,
    Output,
)


def found(difference=0.0, error=0.001, *, champion="m@1", auc=0.8, load_ms=5.0, **more):
    compared = Comparison("brier", 0.2, 0.2 + difference, difference, error, 8, 336)
    return Evaluation(
        "m@2",
        champion,
        3,
        "2024-01-01T00:00:00+00:00",
        "2024-01-08T00:00:00+00:00",
        (
            Estimate("roc_auc", auc, auc - 0.1, auc + 0.1, 336),
            Estimate("brier", 0.2, 0.1, 0.3, 336),
        ),
        more.pop("comparisons", (compared,) if champion else ()),
        load_ms,
        **more,
    )


def status(gate, evaluation):
    return judge([gate], evaluation).status


# half a standard error is 1.895 * 0.001 = 0.0019; the margin is 2 % of 0.2 = 0.004
@pytest.mark.parametrize(
    ("difference", "error", "expected"),
    [
        (-0.01, 0.001, "passed"),
        (0.0, 0.001, "passed"),
        (0.002, 0.001, "passed"),
        (0.003, 0.001, "failed"),
        (0.01, 0.001, "failed"),
        (0.0, 0.01, "uncertain"),
        (0.01, 0.01, "uncertain"),
        (-0.05, 0.01, "passed"),
    ],
)
def test_not_worse_looks_at_the_bound_and_not_at_the_difference(difference, error, expected):
    if difference == 0.003:  # surely worse than zero, yet its upper bound is beyond the margin
        assert 0.003 + 1.895 * 0.001 > 0.004
    assert status(NotWorse(), found(difference, error)) == expected


@pytest.mark.parametrize(
    ("difference", "expected"), [(-0.01, "passed"), (-0.001, "uncertain"), (0.01, "failed")]
)
def test_better_wants_the_whole_interval_below_zero(difference, expected):
    assert status(Better(), found(difference)) == expected


def test_what_a_probe_asked_for_has_to_be_shown_all_the_same():
    unsure = found(-0.001, 0.1, burden="better")
    assert status(NotWorse(), unsure) == "uncertain"
    assert status(NotWorse(point=True), unsure) == "passed"
    assert status(NotWorse(point=True), found(-0.001, 0.1)) == "uncertain"
    assert status(NotWorse(point=True), found(0.001, 0.1, burden="better")) == "uncertain"


@pytest.mark.parametrize("worse", [0.02, 0.05])
def test_a_candidate_that_is_worse_by_the_margin_passes_in_five_of_a_hundred_gates(worse):
    rng, passed = np.random.default_rng(1), 0
    for _ in range(400):
        champion = rng.exponential(0.2, 168)
        candidate = champion * (1 + worse) + rng.normal(0, 0.05, 168)
        compared = compare("brier", champion, candidate)
        evaluation = replace(found(burden="better"), comparisons=(compared,))
        passed += status(NotWorse(margin=0.02), evaluation) == "passed"
    assert passed <= 400 * 0.05 + 2 * (400 * 0.05 * 0.95) ** 0.5


def test_loads_wants_the_features_and_answers_of_training():
    fine, bad, open_ = (
        ServingCheck(*c)
        for c in (
            ("answers", "ok", "200 answers are what they were"),
            ("features", "failed", "'wave' differ"),
            ("features", "uncertain", "rows are gone"),
        )
    )
    assert status(Loads(), found(checks=(fine,))) == "passed"
    assert status(Loads(), found(checks=(fine, open_))) == "uncertain"
    verdict = judge([Loads()], found(checks=(fine, bad, open_)))
    assert verdict.status == "failed"
    assert "m@2: features: 'wave' differ" in verdict.reason
    assert status(Loads(), found(load_ms=501.0, checks=(fine, open_))) == "failed"


def test_an_uncertain_verdict_says_how_many_labels_would_settle_it():
    reason = judge([NotWorse()], found(0.0, 0.01)).reason
    more = found(0.0, 0.01).comparisons[0].rows_needed(0.004, 0.05)
    assert f"about {more:,} more labels would settle it" in reason


@pytest.mark.parametrize(
    ("gate", "evaluation", "expected"),
    [
        (AtLeast("roc_auc", 0.8), found(), "passed"),
        (AtLeast("roc_auc", 0.81), found(), "failed"),
        (AtMost("brier", 0.2), found(), "passed"),
        (AtMost("brier", 0.19), found(), "failed"),
        (Loads(5.0), found(), "passed"),
        (Loads(4.9), found(), "failed"),
    ],
)
def test_an_absolute_standard_includes_its_limit(gate, evaluation, expected):
    assert status(gate, evaluation) == expected


def test_a_first_candidate_is_not_compared():
    assert status(NotWorse(), found(champion=None)) == "passed"
    assert status(Better(), found(champion=None)) == "passed"


@pytest.mark.parametrize("gate", [NotWorse(), Better(), NotWorse("log_loss")])
def test_a_missing_comparison_never_passes(gate):
    verdict = judge([gate], found(comparisons=(), note="champion saw these rows"))
    assert verdict.status == "uncertain"
    assert verdict.reason == "champion saw these rows"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("passed", "passed"), "passed"),
        (("passed", "uncertain"), "uncertain"),
        (("uncertain", "failed"), "failed"),
        (("failed", "passed"), "failed"),
    ],
)
def test_the_verdict_is_the_worst_of_its_checks(statuses, expected):
    verdict = Verdict(tuple(Check("g", s, f"is {s}") for s in statuses))
    assert verdict.status == expected
    assert verdict.reason == "; ".join(f"is {s}" for s in statuses if s == expected)


@pytest.mark.parametrize(
    ("fail_on", "expected"), [("error", "uncertain"), ("warn", "failed"), ("never", "passed")]
)
def test_what_is_uncertain_counts_as_the_policy_says(fail_on, expected):
    verdict = judge([NotWorse(fail_on=fail_on), Loads()], found(0.0, 0.01))
    assert verdict.status == expected
    assert verdict.checks[0].status == "uncertain"  # it is shown as what it is


@pytest.mark.parametrize(
    ("fail_on", "expected"), [("error", "failed"), ("warn", "failed"), ("never", "passed")]
)
def test_what_failed_counts_unless_it_never_does(fail_on, expected):
    verdict = judge([NotWorse(fail_on=fail_on), Loads()], found(0.1, 0.001))
    assert verdict.status == expected
    assert ("surely worse" in verdict.reason) == (expected == "failed")
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_gates_that_never_count_are_no_standard():
    with pytest.raises(ConfigurationError, match="no gate for m@2 counts"):
        judge([Loads(fail_on="never"), NotWorse(fail_on="never")], found())


def test_memory_has_a_limit_if_the_policy_has_one():
    assert status(Loads(memory_mb=200), found(memory_mb=150.0)) == "passed"
    assert status(Loads(memory_mb=200), found(memory_mb=250.0)) == "failed"
    assert status(Loads(memory_mb=200), found()) == "uncertain"
    assert status(Loads(), found(memory_mb=9999.0)) == "passed"


@pytest.mark.parametrize(
    "gate", [Loads(), Output(), NoLeak(), Fair("f1", "town", 0.1), NotWorse(by="town")]
)
def test_what_nobody_measured_is_no_verdict(gate):
    with pytest.raises(ConfigurationError, match="nobody measured that of m@2; give Evaluate"):
        judge([gate], found(load_ms=None))


def test_a_retrain_that_was_shown_to_help_says_that_the_holdout_does_not_show_it():
    reason = judge([NotWorse(point=True)], found(-0.001, 0.1, burden="better")).reason
    assert reason.startswith("no worse on these rows, though not surely: up to half of those that")
    sure = judge([NotWorse()], found(-0.05, 0.001, burden="better")).reason
    assert sure.startswith("surely not worse by 2%")


def test_slices_are_judged_together_by_holm():
    """Each p-value computed by hand from scipy's t; the second slice is not settled."""
    slices = tuple(
        Comparison("brier", 0.2, 0.2 + d, d, 0.004, 8, 120, by="town", part=part)
        for part, d in (("Oslo", -0.002), ("Rome", 0.0), ("Bonn", -0.02))
    )
    gate = NotWorse(by="town", margin=0.05)
    p = sorted(stats.t.cdf((s.difference - 0.01) / 0.004, 7) for s in slices)
    assert max(q * k for q, k in zip(p, (3, 2, 1), strict=True)) <= 0.05
    assert status(gate, found(comparisons=slices)) == "passed"
    stricter = replace(gate, alpha=0.02)
    verdict = judge([stricter], found(comparisons=slices))
    assert verdict.status == "uncertain"
    assert "in 1 of 3 slices: town Rome: brier" in verdict.reason
    bad = (*slices[:2], replace(slices[2], difference=0.02))
    worse = 3 * stats.t.sf(0.02 / 0.004, 7)
    assert worse < 0.05
    verdict = judge([gate], found(comparisons=bad))
    assert verdict.status == "failed"
    assert verdict.reason.startswith("surely worse in 1 slices: town Bonn")


def test_every_condition_is_judged_even_after_one_failed():
    verdict = judge([AtLeast("roc_auc", 0.99), Loads(1.0), NotWorse()], found())
    assert [c.status for c in verdict.checks] == ["failed", "failed", "passed"]
    assert "roc_auc 0.8000" in verdict.reason
    assert "limit 1" in verdict.reason


def test_a_candidate_without_a_standard_is_never_promoted():
    with pytest.raises(ConfigurationError, match="no gate for m@2"):
        judge([], found())


def test_a_gate_on_an_unknown_metric_says_which_are_known():
    with pytest.raises(ValueError, match=r"'auc'; known: absolute_error, .*roc_auc.*your own"):
        AtLeast("auc", 0.5)


def test_a_metric_that_the_holdout_leaves_undefined_is_uncertain():
    verdict = judge([AtLeast("recall", 0.5)], found())
    assert (verdict.status, verdict.reason) == (
        "uncertain",
        "recall is not defined on the rows of the hold-out",
    )


def test_too_few_rows_are_uncertain_never_passed():
    few = replace(found(), metrics=(Estimate("roc_auc", 0.99, 0.9, 1.0, 40),))
    verdict = judge([AtLeast("roc_auc", 0.5)], few)
    assert verdict.status == "uncertain"
    assert "on 40 rows; 100 can decide" in verdict.reason


def test_a_standard_is_not_met_by_a_handful_of_rows_of_one_class():
    few = replace(found(), metrics=(Estimate("recall", 0.99, 0.9, 1.0, 400, 12),))
    verdict = judge([AtLeast("recall", 0.5)], few)
    assert verdict.status == "uncertain"
    assert "on 12 rows of the rarest class; 30 can decide: about 600 more" in verdict.reason
    enough = replace(few, metrics=(replace(few.metrics[0], rare=30),))
    assert judge([AtLeast("recall", 0.5)], enough).status == "passed"


def test_evaluation_and_verdict_round_trip_through_json():
    seen = (Finding("Output()", None, 0.0, 1.0, 336, "why"),)
    evaluation = found(note="n", burden="better", findings=seen, same="answers", memory_mb=1.5)
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation
    verdict = judge([NotWorse(), Loads()], evaluation)
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
