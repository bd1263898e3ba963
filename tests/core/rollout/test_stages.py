"""Stages: a plan that is one, entries that begin and end, who is served meanwhile."""

import json
from dataclasses import replace

import pytest

from airflow_mlops.core.errors import (
    ConcurrentPromotionError,
    ConfigurationError,
    KeyReusedError,
)
from airflow_mlops.core.ledger import Entry, MemoryLedger
from airflow_mlops.core.rollout import Begun, Split, assign_all, begin, end, next_stage
from airflow_mlops.core.rollout.looks import Look
from airflow_mlops.policy import AB, Canary, Full, Shadow, rollout_plan

SINCE = "2024-01-01T00:00:00+00:00"
PLAN = (Shadow("1d"), Canary(percent=10.0), AB(percent=50.0), Full())


@pytest.fixture
def memory():
    """A ledger with champion 1 and candidate 2."""
    found = MemoryLedger()
    say(found, "promote", 1)
    say(found, "propose", 2)
    return found


def say(ledger, op, version, **evidence):
    key = f"{op} {version} {len(ledger.state('m').entries)}"
    draft = Entry("m", op, "", "tests", "because", version, evidence=evidence)
    ledger.record("m", key, {}, lambda _: draft)


def stage(word, candidate=2, champion=1):
    return Begun("m", word, champion, candidate, SINCE, "brier", 0.2)


def seen(begun, status="passed", answer="held"):
    return Look(begun.experiment, status, answer, ("it was so",), "2024-01-02T00:00:00+00:00")


def test_a_plan_goes_stage_by_stage_to_full(memory):
    for number, word in enumerate(PLAN[:-1]):
        assert next_stage(PLAN, memory.state("m"), 2) == word
        begun = begin(memory, stage(word), key=f"b{number}", by="t")
        assert Begun.of(memory.state("m")) == begun
        assert next_stage(PLAN, memory.state("m"), 2) is None
        entry = end(memory, begun, seen(begun), key=f"e{number}", by="t")
        assert (entry.op, entry.evidence["status"]) == ("stage", "passed")
        assert Begun.of(memory.state("m")) is None
    assert next_stage(PLAN, memory.state("m"), 2) == Full()


def test_a_stage_that_was_stopped_has_no_next_one_until_it_is_proposed_again(memory):
    begun = begin(memory, stage(PLAN[0]), key="b", by="t")
    end(memory, begun, seen(begun, "stopped", "harm"), key="e", by="t")
    assert next_stage(PLAN, memory.state("m"), 2) is None
    say(memory, "propose", 2)
    assert next_stage(PLAN, memory.state("m"), 2) == PLAN[0]


def test_an_invalid_experiment_stops_the_stage(memory):
    begun = begin(memory, stage(PLAN[1]), key="b", by="t")
    entry = end(memory, begun, seen(begun, "invalid", "ratio"), key="e", by="t")
    assert entry.evidence["status"] == "stopped"
    assert Look.from_dict(entry.evidence["look"]).status == "invalid"


def test_beginning_and_ending_twice_is_on_record_once(memory):
    one = begin(memory, stage(PLAN[1]), key="b", by="t")
    assert begin(memory, stage(PLAN[1]), key="b", by="t") == one
    first = end(memory, one, seen(one), key="e", by="t")
    assert end(memory, one, seen(one), key="e", by="t") == first
    assert len(memory.state("m").entries) == 4
    with pytest.raises(KeyReusedError):
        begin(memory, stage(PLAN[2]), key="b", by="t")


@pytest.mark.parametrize(
    ("op", "version", "over"),
    [
        ("promote", 2, True),
        ("promote", 3, True),
        ("rollback", 1, True),
        ("refuse", 2, True),
        ("reject", 2, True),
        ("propose", 3, True),
        ("refuse", 3, False),
        ("propose", 2, False),
        ("keep", None, False),
        ("vote", 2, False),
    ],
)
def test_a_stage_ends_with_whatever_takes_its_ground_away(memory, op, version, over):
    begun = begin(memory, stage(PLAN[1]), key="b", by="t")
    say(memory, op, version)
    state = memory.state("m")
    assert (Begun.of(state) is None) == over
    assert Split.of(state).experiment == ("" if over else begun.experiment)
    if over:
        with pytest.raises(ConcurrentPromotionError, match="is over already"):
            end(memory, begun, seen(begun), key="e", by="t")


def test_a_stage_begins_only_against_the_champion_it_was_planned_against(memory):
    with pytest.raises(ConcurrentPromotionError, match="version 7, champion is 1 now"):
        begin(memory, stage(PLAN[1], champion=7), key="a", by="t")
    begin(memory, stage(PLAN[1]), key="b", by="t")
    with pytest.raises(ConcurrentPromotionError, match="m@2/3 is running"):
        begin(memory, stage(PLAN[2]), key="c", by="t")


def test_a_look_that_goes_on_ends_nothing(memory):
    begun = begin(memory, stage(PLAN[1]), key="b", by="t")
    for look in (seen(begun, "running", "continue"), replace(seen(begun), experiment="m@9/1")):
        with pytest.raises(ConfigurationError, match="ends not m@2/3"):
            end(memory, begun, look, key="e", by="t")


def test_what_is_on_record_round_trips_and_says_the_clock_of_the_data(memory):
    begun = begin(memory, stage(PLAN[2]), key="b", by="t")
    entry = memory.state("m").entries[-1]
    assert entry.evidence["now"] == SINCE
    assert json.loads(json.dumps(dict(entry.evidence)))["salt"] == str(begun.salt)
    assert Begun.from_dict(json.loads(json.dumps(begun.to_dict()))) == begun
    assert entry.reason == "AB begins: 50 % to m@2 for 14d by the clock of the data"


@pytest.mark.services
def test_the_schema_takes_stages_and_gives_the_same_split(ledger, model):
    say_to(ledger, model, "promote", 1)
    say_to(ledger, model, "propose", 2)
    begun = begin(ledger, replace(stage(PLAN[1]), model=model), key="b", by="t")
    split = Split.of(ledger.state(model))
    assert (split.experiment, split.candidate, split.shadow) == (f"{model}@2/3", 2, False)
    end(ledger, begun, seen(begun), key="e", by="t")
    assert Split.of(ledger.state(model)) == Split(model, 1)


def say_to(ledger, model, op, version):
    draft = Entry(model, op, "", "tests", "because", version)
    ledger.record(model, f"{op} {version}", {}, lambda _: draft)


def test_without_a_champion_nobody_can_be_served():
    with pytest.raises(ConfigurationError, match="no champion"):
        Split.of(MemoryLedger().state("m"))


def test_without_a_stage_everybody_gets_the_champion(memory):
    split = Split.of(memory.state("m"))
    assert split == Split("m", 1)
    assert not assign_all(list(range(100)), split).any()


def test_a_shadow_serves_nobody_and_says_that_it_is_one(memory):
    begin(memory, stage(PLAN[0]), key="b", by="t")
    split = Split.of(memory.state("m"))
    assert (split.shadow, split.candidate, split.version("candidate")) == (True, 2, 2)
    assert not assign_all(list(range(100)), split).any()


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"since": "2024-01-01T00:00:00"}, "time zone"), ({"baseline": 0.0}, "on average")],
)
def test_a_stage_that_cannot_be_judged_is_refused(changed, says):
    with pytest.raises(ConfigurationError, match=says):
        replace(stage(PLAN[1]), **changed)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ([], "ends with Full"),
        ([Canary()], "ends with Full.., once; this one is Canary"),
        ([Full(), Canary()], "this one is Full, Canary"),
        ([Full(), Full()], "this one is Full, Full"),
        ([AB(), AB(), Full()], "one AB at the most"),
        ([Canary(percent=50), Canary(percent=10), Full()], "may not fall"),
        ([Canary(percent=10), Shadow(), Full()], "Canary 10 %, Shadow 0 %"),
        (["Shadow", Full()], "a list of stages"),
    ],
)
def test_a_plan_that_is_none_is_refused(plan, says):
    with pytest.raises(ValueError, match=says):
        rollout_plan(plan)


def test_a_plan_that_is_one_is_returned():
    assert rollout_plan(list(PLAN)) == PLAN
    assert rollout_plan([Full()]) == (Full(),)
