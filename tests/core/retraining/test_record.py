"""Decisions on record: once per state of the data, once per refused round."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.monitoring.served import ServedWindow
from airflow_mlops.core.retraining.decide import decide
from airflow_mlops.core.retraining.evidence import Champion, Decision, gather, open_request
from airflow_mlops.core.retraining.record import next_round, record
from airflow_mlops.policy import Retrain, Round, further_rounds

pytestmark = pytest.mark.services

NOW = datetime(2024, 6, 1, tzinfo=UTC)
POLICY = Retrain()


def window(index):
    start = NOW - timedelta(days=7 * (5 - index))
    end = start + timedelta(days=7)
    return ServedWindow(
        "m@1", index, start.isoformat(), end.isoformat(), "brier", 336, (0.3,) * 8, (0.2,) * 8
    )


def gathered(ledger, model, data=1, labelled=1000, windows=(0, 1), champion=True, packages=()):
    return gather(
        ledger.state(model),
        model=model,
        data=f"{model}@{data}",
        labels=f"{model}.labels@{data}",
        now=(NOW + timedelta(days=7 * data)).isoformat(),
        champion=Champion(1, 0.2, 800) if champion else None,
        windows=[window(i) for i in windows],
        drift=[(False, ()), (True, ("x",))],
        labelled_rows=labelled,
        dependencies=packages,
    )


def put(ledger, evidence, decision=None):
    decision = decision or decide(evidence, POLICY)
    until = evidence.windows[-1].until if evidence.windows else evidence.now
    return record(ledger, replace(evidence, labelled_until=until), decision, POLICY, by="t")


def test_the_same_state_of_the_data_is_decided_once(ledger, model):
    evidence = gathered(ledger, model)
    first = put(ledger, evidence)
    assert first.op == "retrain"
    assert put(ledger, gathered(ledger, model)) == first
    assert put(ledger, evidence, Decision("keep", "none", "changed my mind")) == first
    assert len(ledger.state(model).entries) == 1


def test_new_data_is_decided_anew_and_the_attempt_is_remembered(ledger, model):
    put(ledger, gathered(ledger, model))
    evidence = gathered(ledger, model, data=2, labelled=1000, windows=(0, 1))
    assert evidence.labelled_at_last_attempt == 1000
    assert evidence.windows == ()  # they were looked at by the last attempt
    assert evidence.attempts == ((NOW + timedelta(days=7)).isoformat(),)
    assert put(ledger, evidence).op == "keep"


def test_windows_after_the_attempt_count(ledger, model):
    put(ledger, gathered(ledger, model))
    evidence = gathered(ledger, model, data=2, labelled=1100, windows=(0, 1, 2, 3))
    assert [w.index for w in evidence.windows] == [2, 3]


def test_the_record_holds_the_numbers_and_the_thresholds(ledger, model):
    found = put(ledger, gathered(ledger, model, windows=()))
    assert found.evidence["facts"]["probe"] is None  # NaN is no JSON
    assert Retrain.from_dict(found.evidence["thresholds"]) == POLICY
    assert found.evidence["drifted"] == ["x"]


def ask_for(ledger, model, key, params=None):
    return ledger.record(
        model,
        key,
        {"op": "request"},
        lambda s: Entry(
            model, "request", "", "ann", "new tariff", evidence={"params": params or {}}
        ),
    )[0]


def test_a_request_is_answered_once(ledger, model):
    asked = ask_for(ledger, model, "r1", {"max_iter": 5})
    request = open_request(ledger.state(model))
    assert (request.seq, request.by, request.note) == (asked.seq, "ann", "new tariff")
    first = put(ledger, gathered(ledger, model))
    assert (first.op, first.evidence["params"]) == ("retrain", {"max_iter": 5})
    assert open_request(ledger.state(model)) is None
    ask_for(ledger, model, "r2")
    again = put(ledger, gathered(ledger, model))  # same data, another request
    assert again.op == "retrain"
    assert again.seq > first.seq


def refused(ledger, model, number):
    key = f"refuse{number}"
    return ledger.record(
        model, key, {}, lambda s: Entry(model, "refuse", "", "gate", "surely worse", number)
    )[0]


def test_a_refused_round_is_tried_again_on_half_of_what_it_learnt_until_none_is_left(ledger, model):
    first = put(ledger, gathered(ledger, model))
    second = next_round(
        ledger, refused(ledger, model, 1), first, share=0.25, by="t", further=[Round()]
    )
    assert (second.op, second.evidence["round"], second.evidence["share"]) == ("retrain", 2, 0.125)
    again = next_round(
        ledger, refused(ledger, model, 1), first, share=0.25, by="t", further=[Round()]
    )
    assert again == second
    last = next_round(
        ledger, refused(ledger, model, 2), second, share=0.125, by="t", further=[Round()]
    )
    assert last.op == "ask"
    assert "2 of 2 rounds refused, a person has to look: surely worse" in last.reason
    evidence = gathered(ledger, model, data=2)
    assert len(evidence.attempts) == 1  # rounds of one attempt count once


def test_a_first_model_is_decided_without_a_champion(ledger, model):
    found = put(ledger, gathered(ledger, model, champion=False, windows=()))
    assert (found.op, found.version) == ("retrain", None)


def test_packages_that_were_tried_for_whatever_reason_do_not_ask_again(ledger, model):
    packages = ("numpy 2.1 -> 2.2",)
    first = gathered(ledger, model, champion=False, windows=(), packages=packages)
    assert first.dependencies == packages
    assert put(ledger, first).evidence["trigger"] == "first"
    later = gathered(ledger, model, data=2, labelled=2000, packages=packages)
    assert (later.dependencies, later.packages) == ((), packages)


def test_a_further_round_changes_what_the_policy_says(ledger, model):
    first = put(ledger, gathered(ledger, model))
    changes = [Round("91d", {"C": 0.1}), Round(params={"C": 0.2})]
    asked = {"share": 1.0, "by": "t", "further": changes}
    second = next_round(ledger, refused(ledger, model, 1), first, **asked)
    assert "round 2 of 3 with C 0.1, 91d of history, after: surely worse" in second.reason
    assert second.evidence["params"] == {**first.evidence["params"], "C": 0.1}
    assert second.evidence["pins"]["window"] == "91d"
    third = next_round(ledger, refused(ledger, model, 2), second, **asked)
    assert (third.evidence["params"]["C"], third.evidence["pins"]["window"]) == (0.2, "91d")
    last = next_round(ledger, refused(ledger, model, 3), third, **asked)
    assert (last.op, last.evidence["round"]) == ("ask", 3)
    assert "3 of 3 rounds refused, a person has to look" in last.reason


@pytest.mark.parametrize("rounds", [0, -1, True, "2", [2], [{"word": "Nope"}], None, 1.5])
def test_rounds_that_are_none_are_named(rounds):
    with pytest.raises(ValueError, match=r"rounds=|unknown word"):
        further_rounds(rounds)
