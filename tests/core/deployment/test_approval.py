"""An approval: who may give it, that everybody counts once, and what makes an answer void."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_mlops.core.deployment.approval import (
    Answer,
    Bound,
    approvers,
    requester,
    send_back,
    void,
    vote,
    votes,
)
from airflow_mlops.core.entries import Entry
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.ledger import Ledger, MemoryLedger
from tests.faults.truth import truth

FACTS = {"digest": "d", "recipe": "r", "run_id": "x"}


def say(ledger, model, op, version=None, *, by="tests", **evidence):
    number = len(ledger.state(model).entries)
    draft = Entry(model, op, "", by, "because", version, 0, None, evidence)
    return ledger.record(model, f"{op} {version} {number}", {}, lambda _: draft)[0]


@pytest.fixture
def propose() -> Callable[..., Entry]:
    """``propose(ledger, model, by="")``: a candidate that a person, or else a rule, asked for."""

    def make(ledger: Ledger, model: str = "m", by: str = "") -> Entry:
        request = say(ledger, model, "request", by=by).seq if by else None
        decision = say(ledger, model, "retrain", request=request)
        return say(ledger, model, "propose", 2, decision=decision.seq, **FACTS)

    return make


def yes(who):
    return Answer("promote", "", who.title(), who)


@pytest.mark.services
def test_eight_people_who_say_yes_at_once_are_eight_votes(services, ledger, model, propose):
    proposal, barrier = propose(ledger, model), threading.Barrier(8)

    def answer(number):
        barrier.wait()
        return vote(ledger, proposal, yes(f"p{number}"), Bound.of(proposal, {}))

    with ThreadPoolExecutor(8) as pool:
        seen = sorted(len(found) for found in pool.map(answer, range(8)))
    assert seen == list(range(1, 9))  # a quorum is reached by exactly one of them
    assert {v.id for v in votes(ledger.state(model), Bound.of(proposal, {}))} == {
        f"p{n}" for n in range(8)
    }
    assert truth(ledger.dsn, model).ops.count("vote") == 8


@pytest.mark.services
def test_one_person_who_says_yes_eight_times_at_once_is_one_vote(services, ledger, model, propose):
    proposal, barrier = propose(ledger, model), threading.Barrier(8)

    def answer(_):
        barrier.wait()
        return vote(ledger, proposal, yes("ann"), Bound.of(proposal, {}))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, range(8)))
    assert {tuple(v.id for v in one) for one in found} == {("ann",)}
    assert truth(ledger.dsn, model).ops.count("vote") == 1


def test_a_vote_is_for_one_proposal_and_somebodys(propose):
    ledger = MemoryLedger()
    first = propose(ledger)
    second = propose(ledger)
    vote(ledger, first, yes("ann"), Bound.of(first, {}))
    assert votes(ledger.state("m"), Bound.of(second, {})) == ()
    assert [v.id for v in vote(ledger, second, yes("ann"), Bound.of(second, {}))] == ["ann"]
    with pytest.raises(ConfigurationError, match="has to be somebody's"):
        vote(ledger, first, Answer("promote"), Bound.of(first, {}))


@pytest.mark.parametrize(("by", "left"), [("ann", ["bob"]), ("ANN", ["bob"]), ("", ["ann", "bob"])])
def test_whoever_asked_for_a_candidate_may_not_approve_it(propose, by, left):
    ledger = MemoryLedger()
    proposal = propose(ledger, by=by)
    people = [{"id": "ann", "name": "Ann"}, {"id": "bob", "name": "Bob"}]
    asked = requester(ledger, proposal)
    assert asked == by
    assert [u["id"] for u in approvers(people, asked, (), quorum=1)] == left
    if by:
        with pytest.raises(ConfigurationError, match=f"'{by}' asked for this candidate and may no"):
            approvers(people, asked, (), quorum=2)


def test_an_approver_who_sent_the_candidate_back_may_approve_the_next(propose):
    ledger = MemoryLedger()
    request = send_back(ledger, propose(ledger), Answer("retrain", "", "Ann", "ann"), key="k")
    decision = say(ledger, "m", "retrain", request=request.seq)
    assert requester(ledger, say(ledger, "m", "propose", 3, decision=decision.seq, **FACTS)) == ""


@pytest.mark.parametrize(
    ("op", "version", "why"),
    [
        ("reject", 2, "m@2 was settled meanwhile"),
        ("refuse", 2, "m@2 was settled meanwhile"),
        ("promote", 2, "m@2 was settled meanwhile"),
        ("propose", 3, "m@2 was superseded by m@3"),
        ("promote", 7, "changed it to 7; evaluate it again"),
        ("adopt", 7, "changed it to 7; evaluate it again"),
        ("keep", None, ""),
        ("vote", 2, ""),
        ("stage", 2, ""),
    ],
)
def test_an_answer_is_void_once_something_else_has_settled_the_question(propose, op, version, why):
    ledger = MemoryLedger()
    proposal = propose(ledger)
    assert void(ledger.state("m"), proposal) == ""
    say(ledger, "m", op, version)
    found = void(ledger.state("m"), proposal)
    assert found == why or (why and why in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"digest": "other"}, "digest d is other now"),
        ({"recipe": "other"}, "recipe r is other now"),
    ],
)
def test_what_an_answer_is_bound_to_names_what_moved(propose, change, says):
    proposal = propose(MemoryLedger())
    asked = Bound.of(proposal, {"gates": [1]})
    assert asked.moved(Bound.of(proposal, {"gates": [1]})) == ""
    assert asked.moved(Bound.of(proposal, {"gates": [2]})).startswith("policy ")
    moved = Entry(**proposal.to_dict() | {"evidence": {**proposal.evidence, **change}})
    assert asked.moved(Bound.of(moved, {"gates": [1]})) == says
