"""Looks: what stops a stage, what lets it pass, and what is said meanwhile."""

import json
import math
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.rollout import Begun
from airflow_mlops.core.rollout.arms import Arm, Arms, difference, expected
from airflow_mlops.core.rollout.looks import Look, in_words, look
from airflow_mlops.core.rollout.sequential import planned_information
from airflow_mlops.policy import AB, Canary, Shadow

SINCE = datetime(2024, 1, 1, tzinfo=UTC)
TEST = AB(percent=50.0, min_effect=0.1, within="14d")
CANARY = Canary(percent=10.0, hold="1d", p95_ms=100.0)


def begun(stage=TEST, **changed):
    found = Begun("m", stage, 1, 2, SINCE.isoformat(), "brier", 0.2, experiment="m@2/5")
    return replace(found, **changed)


def arm(units=2_000, mean=0.2, sd=0.1, **changed):
    variance = None if mean is None else sd**2
    outcomes = units if mean is not None else 0
    found = Arm(units, 3 * units, outcomes, mean, variance, 0, 3 * units, 0, 20.0)
    return replace(found, **changed)


def arms(candidate=None, champion=None, **changed):
    found = Arms(champion or arm(), candidate or arm(), 0, (SINCE + timedelta(days=3)).isoformat())
    return replace(found, **changed)


def canary_arms(candidate=None, **changed):
    return arms(candidate or arm(200), arm(1_800), **changed)


def test_the_same_on_both_sides_goes_on_and_says_how_long():
    found = look(begun(), arms())
    assert (found.status, found.answer, found.warnings) == ("running", "continue", ())
    assert "brier 0.2 against 0.2, difference +0 [-0.0" in found.reasons[0]
    assert str(found).startswith("running: brier")
    assert found.now == "2024-01-04T00:00:00+00:00"


def test_a_sure_winner_is_promoted_and_a_sure_loser_stopped():
    won = look(begun(), arms(arm(mean=0.18)))
    assert (won.status, won.answer, won.left) == ("passed", "proof", None)
    assert won.reasons[0].startswith("m@2 is surely better: brier 0.18 against 0.2")
    lost = look(begun(), arms(arm(mean=0.22)))
    assert (lost.status, lost.answer) == ("stopped", "harm")
    assert lost.reasons[0].startswith("m@2 is surely worse")


@pytest.mark.parametrize("mean", [0.15, 0.18, 0.199, 0.2, 0.21, 0.25])
def test_of_what_more_is_better_the_answers_are_mirrored(mean):
    more = AB(percent=50.0, min_effect=0.1, better="more", metric="conversion")
    less = look(begun(), arms(arm(mean=mean)))
    mirrored = look(begun(more), arms(arm(mean=0.4 - mean)))
    assert (less.status, less.answer) == (mirrored.status, mirrored.answer)


def test_no_winner_is_named_before_there_are_enough_but_harm_is_seen():
    few = {"units": 400, "sd": 0.05}
    young = arms(arm(mean=0.15, **few), arm(**few))
    assert look(begun(), young).status == "running"
    assert "600 more entities have to meet m@2" in look(begun(), young).reasons[0]
    assert look(begun(), arms(arm(mean=0.25, **few), arm(**few))).answer == "harm"
    assert look(begun(replace(TEST, least=400)), young).answer == "proof"


@pytest.mark.parametrize("units", [0, 1, 2, 99])
def test_too_few_are_not_compared(units):
    found = look(begun(), arms(arm(units, mean=0.9), arm(units)))
    assert (found.status, found.difference) == ("running", None)
    assert f"{units} and {units} entities have an outcome, 100 of each arm" in found.reasons[-1]


def test_outcomes_that_are_all_the_same_prove_nothing():
    found = look(begun(), arms(arm(mean=0.0, sd=0.0), arm(mean=0.0, sd=0.0)))
    assert (found.status, found.difference) == ("running", None)


@pytest.mark.parametrize(
    ("otherwise", "status", "follows"),
    [("keep", "stopped", "the champion stays"), ("promote", "passed", "the candidate goes on")],
)
def test_no_proof_in_time_is_futile_and_the_policy_says_what_follows(otherwise, status, follows):
    stage = replace(TEST, otherwise=otherwise)
    found = look(begun(stage), arms(), now=SINCE + timedelta(days=14))
    assert (found.status, found.answer) == (status, "futile")
    assert f"no proof within 14d, {follows}" in found.reasons[0]


def test_late_outcomes_are_waited_for_before_a_test_is_given_up():
    waiting = begun(lateness=2 * 86_400.0)
    assert look(waiting, arms(), now=SINCE + timedelta(days=15)).status == "running"
    assert look(waiting, arms(), now=SINCE + timedelta(days=16)).answer == "futile"


def test_nothing_known_is_never_promoted():
    stage = replace(TEST, otherwise="promote")
    unknown = arms(arm(mean=None), arm(mean=None))
    found = look(begun(stage), unknown, now=SINCE + timedelta(days=14))
    assert (found.status, found.answer) == ("stopped", "futile")


def test_a_canary_holds_and_passes():
    stage = begun(CANARY)
    before = look(stage, canary_arms(), now=SINCE + timedelta(hours=20))
    assert (before.status, before.left) == ("running", 4 * 3_600)
    after = look(stage, canary_arms(), now=SINCE + timedelta(hours=24))
    assert (after.status, after.answer) == ("passed", "held")
    assert "held 1d, 200 entities met it, no harm seen" in after.reasons[0]


def test_a_canary_that_few_have_met_waits_and_says_how_many_more():
    found = look(begun(CANARY), arms(arm(40), arm(360)), now=SINCE + timedelta(days=5))
    assert (found.status, found.left) == ("running", None)
    assert found.reasons[0] == "60 more entities have to meet m@2"


def test_a_canary_passes_without_outcomes_only_if_it_may_and_says_so():
    unknown = canary_arms(arm(200, mean=None))
    later = SINCE + timedelta(days=2)
    found = look(begun(replace(CANARY, labelled=0)), unknown, now=later)
    assert (found.status, "harm could not be looked at yet" in found.reasons[0]) == ("passed", True)
    strict = look(begun(replace(CANARY, labelled=50)), unknown, now=later)
    assert strict.reasons[0] == "50 more entities of an arm need an outcome"


def test_a_canary_is_stopped_by_harm():
    found = look(begun(CANARY), canary_arms(arm(200, mean=0.26)))
    assert (found.status, found.answer) == ("stopped", "harm")
    better = look(begun(CANARY), canary_arms(arm(200, mean=0.14)))
    assert better.status == "passed"  # three days are over; a canary needs no proof


@pytest.mark.parametrize("stage", [CANARY, replace(TEST, percent=10.0, p95_ms=100.0)])
def test_answers_that_fail_or_are_slow_stop_any_stage(stage):
    fails = look(begun(stage), canary_arms(arm(200, failed=30)))
    assert (fails.status, fails.answer) == ("stopped", "failures")
    assert fails.reasons[0] == "30 of 600 requests to m@2 failed, surely more than 1.00%"
    slow = look(begun(stage), canary_arms(arm(200, slow=80)))
    assert (slow.status, slow.answer) == ("stopped", "latency")
    assert (
        slow.reasons[0] == "80 of 600 answers of m@2 took longer than 100 ms, surely more than 5%"
    )


def test_a_champion_that_fails_is_said():
    found = look(begun(TEST), arms(champion=arm(failed=500)))
    assert (found.status, found.warnings) == (
        "running",
        ("500 of 6,000 requests to the champion failed",),
    )


def test_entities_split_otherwise_than_planned_make_it_invalid_whatever_it_shows():
    found = look(begun(), arms(arm(1_500, mean=0.1, failed=4_000), arm(2_000)))
    assert (found.status, found.answer) == ("invalid", "ratio")
    assert "42.86% of 3,500 entities met the candidate, 50.00% were planned" in found.reasons[0]


def test_entities_in_both_arms_are_said_and_many_make_it_invalid():
    assert look(begun(), arms(crossed=5)).warnings == (
        "5 entities met both versions and are left out",
    )
    found = look(begun(), arms(crossed=50))
    assert (found.status, found.answer) == ("invalid", "ratio")


def test_what_is_missing_is_no_zero_and_an_unequal_share_is_said():
    even = look(begun(), arms(arm(outcomes=1_500), arm(outcomes=1_480)))
    assert even.warnings == (
        "500 of 2,000 entities of the candidate and 520 of 2,000 of the champion have no outcome"
        " yet",
    )
    biased = look(begun(), arms(arm(outcomes=1_500), arm(outcomes=1_900)))
    assert "75.0% against 95.0% of the entities" in biased.warnings[1]
    assert even.difference.value == biased.difference.value == 0


def test_the_interval_is_the_one_computed_by_hand():
    both = arms(arm(400, mean=0.25, sd=0.12), arm(900, mean=0.2, sd=0.1))
    found = difference(both, effect=0.02, alpha=0.05)
    separate = 0.12**2 / 400 + 0.1**2 / 900
    pooled = (399 * 0.12**2 + 899 * 0.1**2) / 1_298 * (1 / 400 + 1 / 900)
    x = -2 * math.log(0.1)
    k = x + math.log(x) + 1
    planned = 2 * (k + 1) / k * math.log(1 + math.sqrt(k + 1) / 0.1) / 0.02**2
    v = 1 / max(separate, pooled)
    r = k * v / planned
    width = math.sqrt(2 * (r + 1) / (r * v) * math.log(1 + math.sqrt(r + 1) / 0.1))
    assert (found.low, found.high) == pytest.approx((0.05 - width, 0.05 + width), rel=1e-12)


def test_time_left_is_what_the_rate_so_far_gives():
    rare = arms(arm(1_200, sd=0.3), arm(1_200, sd=0.3))
    found = look(begun(), rare)
    wanted = planned_information(0.02, 0.05) / found.difference.information
    assert wanted > 1
    assert found.left == pytest.approx((wanted - 1) * 3 * 86_400)
    assert str(found).endswith(f"; about {in_words(found.left)} more")
    few = arms(arm(400), arm(410))  # what is lacking is the least number, not precision
    assert look(begun(), few).left == pytest.approx((1_000 / 400 - 1) * 3 * 86_400)
    assert look(begun(replace(TEST, within="4d")), few).left == 86_400


def test_what_would_have_been_seen_by_now_goes_on_to_the_end():
    found = look(begun(), arms(arm(60_000, mean=0.1999), arm(60_000)))
    assert (found.status, found.left) == ("running", 11 * 86_400)


def test_the_expected_length_is_that_of_the_formula():
    found = expected(begun(), variance=0.16, per_day=500)
    unit = 0.16 / 0.25
    assert found.half == math.ceil(planned_information(0.02, 0.05) * unit)
    assert found.fixed == math.ceil((1.6448536 + 0.8416212) ** 2 / 0.02**2 * unit)
    assert found.half < found.most < 3 * found.fixed
    assert f"takes about {found.half:,} units ({found.half / 500:.1f} d)" in str(found)
    slower = expected(begun(replace(TEST, percent=10.0)), variance=0.16, per_day=500)
    assert slower.most == pytest.approx(found.most * 0.25 / 0.09, rel=0.001)


def test_the_expected_length_is_never_below_what_a_winner_needs():
    found = expected(begun(replace(TEST, min_effect=10.0)), variance=0.01, per_day=500)
    assert found.half == found.most == 2_000


@pytest.mark.parametrize(
    ("stage", "variance", "per_day"), [(Shadow(), 1, 1), (TEST, 0, 1), (TEST, 1, 0)]
)
def test_a_length_that_cannot_be_told_is_refused(stage, variance, per_day):
    with pytest.raises(ConfigurationError, match="no length for"):
        expected(begun(stage), variance=variance, per_day=per_day)


@pytest.mark.parametrize(
    "both", [arms(), arms(arm(mean=0.1)), arms(arm(40, mean=None)), Arms(), arms(crossed=70)]
)
def test_a_look_round_trips_through_json(both):
    found = look(begun(), both)
    assert Look.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert Arms.from_dict(json.loads(json.dumps(both.to_dict()))) == both


def test_before_anything_came_it_goes_on():
    for stage in (TEST, CANARY):
        found = look(begun(stage), Arms())
        assert (found.status, found.warnings) == ("running", ())


def test_a_shadow_has_no_arms_to_look_at():
    with pytest.raises(ConfigurationError, match="m@2/5 is a Shadow: look_at_pairs looks at it"):
        look(begun(Shadow()), arms())


def test_a_clock_that_is_behind_the_beginning_changes_nothing():
    found = look(begun(), arms(), now=SINCE - timedelta(hours=1))
    assert (found.status, found.left) == ("running", 14 * 86_400 + 3_600)


def test_looks_are_fast():
    start = time.process_time()
    for _ in range(200):
        look(begun(), arms(arm(mean=0.21)))
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("seconds", "words"), [(3 * 86_400, "3 d"), (90_000, "25 h"), (600, "10 min"), (5, "5 s")]
)
def test_a_length_of_time_is_said_in_the_unit_people_use(seconds, words):
    assert in_words(seconds) == words
