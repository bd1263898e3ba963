"""``decide``: each rule, what holds it back, and the same answer to the same evidence."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from airflow_mlops.core.monitoring.served import ServedWindow
from airflow_mlops.core.retraining.decide import decide
from airflow_mlops.core.retraining.evidence import Champion, Decision, Evidence, Request
from airflow_mlops.policy import (
    Decay,
    DependencyChange,
    Drift,
    Growth,
    MaxAge,
    NewRows,
    OnRequest,
    Probe,
    Regret,
    Retrain,
    Schedule,
    SchemaChange,
)

NOW = datetime(2024, 6, 1, tzinfo=UTC)
POLICY = Retrain()


def window(gain=0.0, index=0, rows=336, noise=0.002, champion=0.2):
    wobble = noise * np.array([1, -1, 1, -1, 1, -1, 1, -1])
    start = NOW - timedelta(days=7 * (10 - index))
    return ServedWindow(
        "m@1",
        index,
        start.isoformat(),
        (start + timedelta(days=7)).isoformat(),
        "brier",
        rows,
        (champion,) * 8,
        tuple((champion - gain + wobble).tolist()),
    )


def evidence(**changed):
    usual = {
        "model": "m",
        "data": "m@9",
        "labels": "m.labels@8",
        "now": NOW.isoformat(),
        "champion": Champion(1, 0.2, 1000),
        "windows": (window(),),
        "drift": (False, False, False),
        "drifted": (),
        "labelled_rows": 1100,
        "labelled_at_last_attempt": 1000,
        "attempts": (),
    }
    return Evidence(**{**usual, **changed})


def ago(days):
    return (NOW - timedelta(days=days)).isoformat()


def answer(policy=POLICY, **changed):
    found = decide(evidence(**changed), policy)
    return found.op, found.trigger


def test_nothing_asks_for_a_retrain():
    assert answer() == ("keep", "none")


def test_a_broken_contract_asks_a_person_whatever_else_there_is():
    found = decide(
        evidence(broken=("column 'x' missing",), champion=None, request=Request(1, "me", "now")),
        POLICY,
    )
    assert (found.op, found.trigger) == ("ask", "contract")
    assert "column 'x' missing" in found.reason


def test_the_first_model_has_to_meet_an_absolute_standard():
    found = decide(evidence(champion=None, windows=()), POLICY)
    assert (found.op, found.trigger, found.burden) == ("retrain", "first", "absolute")


def test_a_first_model_that_was_refused_waits_for_new_labels():
    assert answer(champion=None, windows=(), labelled_rows=1000) == ("keep", "none")


def test_a_first_model_may_be_asked_for_without_new_labels():
    found = decide(
        evidence(
            champion=None, windows=(), labelled_rows=1000, request=Request(4, "me", "go", {"a": 1})
        ),
        POLICY,
    )
    assert (found.op, found.params) == ("retrain", {"a": 1})


def test_a_request_of_a_person_skips_cooldown_and_budget():
    held = {"attempts": (ago(3), ago(2), ago(1), ago(0))}
    found = decide(
        evidence(request=Request(7, "ann", "new tariff", {"max_iter": 5}), **held), POLICY
    )
    assert (found.op, found.trigger, found.burden) == ("retrain", "request", "better")
    assert found.reason == "asked by ann: new tariff"
    assert found.params == {"max_iter": 5}


def test_a_policy_without_requests_does_not_hear_them():
    policy = Retrain((Probe(),))
    assert answer(policy, request=Request(7, "ann", "x")) == ("keep", "request")


@pytest.mark.parametrize("champion", [None, Champion(1, 0.2, 1000)])
def test_a_candidate_that_waits_for_its_approval_is_not_overtaken(champion):
    found = decide(evidence(waiting=4, champion=champion, windows=(window(0.1),)), POLICY)
    assert (found.op, found.trigger) == ("wait", "candidate")
    assert "m@4 waits for its approval" in found.reason


def test_a_person_may_overtake_a_candidate_that_waits():
    assert answer(waiting=4, request=Request(7, "ann", "x")) == ("retrain", "request")


def test_no_new_labels_keep_the_champion():
    assert answer(labelled_rows=1000, windows=(window(0.1),)) == ("keep", "none")


def test_drift_without_new_labels_asks_a_person():
    found = decide(
        evidence(labelled_rows=1000, drift=(True, False, True), drifted=("vicprice",)), POLICY
    )
    assert (found.op, found.trigger) == ("ask", "drift")
    assert found.reason.startswith("vicprice moved")


def test_the_probe_retrains_when_a_fresh_model_surely_saves_more_than_the_margin():
    found = decide(evidence(windows=(window(0.05),)), POLICY)
    assert (found.op, found.trigger, found.burden) == ("retrain", "probe", "better")
    assert found.facts["probe"] == pytest.approx(0.25)


@pytest.mark.parametrize("gain", [0.0101, 0.012, 0.02, 0.05])
@pytest.mark.parametrize("noise", [0.001, 0.01, 0.1])
def test_the_p_value_of_the_probe_is_that_of_a_t_test_of_the_blocks(gain, noise):
    w = window(gain, noise=noise)
    expected = stats.ttest_1samp(w.gain, 0.05 * 0.2, alternative="greater").pvalue
    found = decide(evidence(windows=(w,)), POLICY)
    assert found.facts["p_value"] == pytest.approx(expected)
    assert (found.trigger == "probe") == (expected <= 0.05)


def test_a_gain_within_the_margin_is_not_worth_a_retrain():
    assert answer(windows=(window(0.0099, noise=1e-6),)) == ("keep", "none")


def test_a_window_of_too_few_rows_does_not_probe():
    assert answer(windows=(window(0.05, rows=49),)) == ("keep", "none")


def test_a_window_without_its_challenger_neither_asks_nor_costs():
    why = "challenger m:f raised ValueError: no"
    mute = replace(window(0.9, 4), probe=(), unprobed=why)
    found = decide(evidence(windows=(mute,)), POLICY)
    assert (found.op, f"window 4: {why}" in found.reason) == ("keep", True)
    assert (math.isnan(found.facts["probe"]), found.facts["regret"]) == (True, 0.0)
    some = tuple(window(0.03, i) for i in range(4))
    assert answer(windows=(*some, mute)) == ("retrain", "regret")


def test_only_the_newest_window_is_probed():
    assert answer(windows=(window(0.05, 0), window(-0.05, 1))) == ("keep", "none")


def test_regret_adds_up_over_windows_of_any_size():
    some = tuple(window(0.03, i, rows=10) for i in range(4))  # .15 of the base loss each
    assert answer(windows=some[:3]) == ("keep", "none")
    found = decide(evidence(windows=some), POLICY)
    assert (found.op, found.trigger, found.burden) == ("retrain", "regret", "better")
    assert found.facts["regret"] == pytest.approx(0.6)


def test_regret_is_never_below_nothing():
    windows = (window(-0.5, 0, rows=10), *(window(0.03, i, rows=10) for i in range(1, 5)))
    assert decide(evidence(windows=windows), POLICY).facts["regret"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("rows", "expected"), [(1499, ("keep", "none")), (1500, ("retrain", "growth"))]
)
def test_growth_retrains_from_its_factor_on(rows, expected):
    assert answer(labelled_rows=rows) == expected


def test_sustained_drift_retrains_when_nothing_served_is_labelled():
    drift = {"drift": (True, False, True), "windows": (), "drifted": ("a", "b")}
    found = decide(evidence(**drift), POLICY)
    assert (found.op, found.trigger) == ("retrain", "drift")
    assert "a, b drifted in 2 of 3 windows" in found.reason


@pytest.mark.parametrize(
    "changed",
    [
        {"drift": (True, False, False)},
        {"drift": (None, None, True)},
        {"drift": (True, True, False, False, True)},
        {"labelled_rows": 1099},
        {"windows": (window(),)},
    ],
    ids=str,
)
def test_drift_alone_does_not_retrain_unless_sustained_fresh_and_unlabelled(changed):
    usual = {"drift": (True, False, True), "windows": ()}
    assert answer(**{**usual, **changed}) == ("keep", "none")


@pytest.mark.parametrize(("days", "op"), [(6, "wait"), (7, "retrain")])
def test_the_cooldown_holds_back_until_it_is_over(days, op):
    found = decide(evidence(windows=(window(0.05),), attempts=(ago(days),)), POLICY)
    assert (found.op, found.trigger, found.burden) == (op, "probe", "better")
    if op == "wait":
        assert f"cooldown: the last attempt was at {ago(6)}, wait 7d" in found.reason


def test_the_budget_holds_back_until_an_attempt_has_aged():
    attempts = tuple(map(ago, (29, 25, 20, 15)))
    found = decide(evidence(windows=(window(0.05),), attempts=attempts), POLICY)
    assert found.op == "wait"
    until = (NOW + timedelta(days=1)).isoformat()
    assert f"budget 4 per 30d is spent until {until}" in found.reason
    lowered = decide(
        evidence(windows=(window(0.05),), attempts=attempts), Retrain(budget="2 per 30d")
    )
    assert lowered.held == f"budget until {(NOW + timedelta(days=10)).isoformat()}"
    older = tuple(map(ago, (30, 25, 20, 15)))
    assert answer(windows=(window(0.05),), attempts=older) == ("retrain", "probe")


@pytest.mark.parametrize("kind", [Probe, Regret, Growth, Drift, OnRequest])
def test_a_trigger_that_the_policy_leaves_out_never_fires(kind):
    policy = Retrain(tuple(t for t in POLICY.triggers if not isinstance(t, kind)))
    loud = evidence(
        windows=tuple(window(0.05, i) for i in range(9)), labelled_rows=9000, drift=(True,) * 3
    )
    assert (
        decide(loud, policy).trigger
        != {
            Probe: "probe",
            Regret: "regret",
            Growth: "growth",
            Drift: "drift",
            OnRequest: "request",
        }[kind]
    )


def test_the_same_evidence_gets_the_same_answer_however_often():
    loud = evidence(windows=tuple(window(0.05, i) for i in range(3)))
    assert decide(loud, POLICY) == decide(loud, POLICY)


def test_an_attempt_on_record_settles_the_same_evidence():
    loud = evidence(windows=(window(0.05),))
    assert decide(loud, POLICY).op == "retrain"
    after = replace(loud, attempts=(NOW.isoformat(),), labelled_at_last_attempt=1100, windows=())
    assert decide(after, POLICY).op == "keep"


def test_no_champion_window_gives_no_number_and_does_not_fire():
    found = decide(evidence(windows=()), POLICY)
    assert math.isnan(found.facts["probe"])
    assert "no labelled window yet" in found.reason


def test_shuffled_gains_rarely_fire_the_probe():
    rng, fired = np.random.default_rng(0), 0
    for i in range(300):
        w = replace(window(), probe=tuple((0.2 + 0.02 * rng.normal(size=8)).tolist()), index=i)
        fired += decide(evidence(windows=(w,)), POLICY).trigger == "probe"
    assert fired <= 15


def test_decision_evidence_and_window_are_json():
    found = decide(evidence(windows=(window(0.05),)), POLICY)
    assert Decision.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    w = window(0.01)
    assert ServedWindow.from_dict(json.loads(json.dumps(w.to_dict()))) == w
    json.dumps(evidence(request=Request(1, "a", "b")).to_dict(), allow_nan=False)


WOBBLE = (1, -1, 1, -1, 1, -1, 1, -1)


def served(loss, index=0, noise=0.002):
    return replace(window(0.0, index, noise=0.0), champion=tuple(loss + noise * w for w in WOBBLE))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.25, 0.25), ("retrain", "decay")),
        ((0.25, 0.2, 0.25), ("retrain", "decay")),
        ((0.25,), ("keep", "none")),
        ((0.25, 0.25, 0.2, 0.2), ("keep", "none")),
        ((0.209, 0.209, 0.209), ("keep", "none")),  # within 5 %
    ],
    ids=str,
)
def test_decay_retrains_when_it_is_sure_and_sustained(losses, expected):
    windows = tuple(served(loss, i) for i, loss in enumerate(losses))
    policy = Retrain((Decay("brier", drop=0.05, sustained="2 of 3"),))
    found = decide(evidence(windows=windows), policy)
    assert (found.op, found.trigger) == expected
    assert "in its backtest" in found.reason
    if found.op == "retrain":
        assert found.burden == "better"


def test_decay_is_not_sure_of_a_noisy_window():
    windows = tuple(served(0.22, i, noise=0.1) for i in range(3))
    assert answer(Retrain((Decay(drop=0.05),)), windows=windows) == ("keep", "none")


@pytest.mark.parametrize(("rows", "op"), [(1099, "keep"), (1100, "retrain")])
def test_new_rows_are_counted_since_the_last_attempt(rows, op):
    assert answer(Retrain((NewRows(100),)), labelled_rows=rows)[0] == op


@pytest.mark.parametrize(
    ("days", "rows", "op"), [(89, 1200, "keep"), (90, 1200, "retrain"), (90, 1099, "keep")]
)
def test_an_old_champion_is_trained_anew_if_there_are_fresh_labels(days, rows, op):
    old = Champion(1, 0.2, 1000, ago(days))
    found = decide(evidence(champion=old, labelled_rows=rows), Retrain((MaxAge("90d"),)))
    assert found.op == op
    assert f"{days} days old" in found.reason


@pytest.mark.parametrize(("days", "op"), [(27, "keep"), (28, "retrain")])
def test_a_schedule_asks_at_its_interval(days, op):
    assert answer(Retrain((Schedule("28d"),)), attempts=(ago(days),))[0] == op


def test_a_schedule_waits_for_new_labels():
    policy = Retrain((Schedule("28d"),))
    assert answer(policy, attempts=(ago(99),), labelled_rows=1000) == ("keep", "none")


@pytest.mark.parametrize(
    ("added", "rows", "expected"),
    [
        ((), 1200, ("keep", "none")),
        (("tariff",), 1200, ("retrain", "schema")),
        (("tariff",), 1050, ("keep", "none")),
    ],
)
def test_a_new_column_is_learnt_once_there_are_enough_labels(added, rows, expected):
    found = decide(evidence(added=added, labelled_rows=rows), Retrain((SchemaChange(),)))
    assert (found.op, found.trigger) == expected
    if added:
        assert "does not know tariff" in found.reason


def test_changed_packages_retrain_without_new_labels_and_only_once():
    policy = Retrain((DependencyChange(),))
    changed = {"dependencies": ("numpy 2.1 -> 2.2",), "labelled_rows": 1000}
    found = decide(evidence(**changed), policy)
    assert (found.op, found.trigger) == ("retrain", "dependencies")
    assert "numpy 2.1 -> 2.2" in found.reason
    assert answer(POLICY, **changed) == ("keep", "none")  # a policy without the word


def test_every_rule_of_the_policy_says_how_far_it_is_from_asking():
    policy = Retrain(
        (
            Probe(),
            Regret(),
            Growth(),
            NewRows(9999),
            Drift(),
            Decay(),
            SchemaChange(),
            DependencyChange(),
            MaxAge("900d"),
            Schedule("900d"),
            OnRequest(),
        )
    )
    champion = Champion(1, 0.2, 1000, ago(30))
    found = decide(evidence(champion=champion, attempts=(ago(9),)), policy)
    assert found.op == "keep"
    said = {c["trigger"]: c["text"] for c in found.facts["conditions"]}
    assert len(said) == 10
    assert not any(c["asks"] for c in found.facts["conditions"])
    assert all(text in found.reason for text in said.values())
    assert found.reason.endswith("9 days since the last attempt (cooldown 7d)")
    json.dumps(found.to_dict())


def test_rules_are_tried_in_the_order_of_the_policy():
    loud = {"windows": (window(0.05),), "labelled_rows": 1500}
    assert answer(Retrain((Probe(), Growth())), **loud) == ("retrain", "probe")
    assert answer(Retrain((Growth(), Probe())), **loud) == ("retrain", "growth")


def test_labels_that_lag_are_dated():
    found = decide(evidence(labelled_rows=1000, labelled_until="2024-05-01T00:00:00+00:00"), POLICY)
    assert "they reach 2024-05-01T00:00:00+00:00, the rows 2024-06-01" in found.reason
