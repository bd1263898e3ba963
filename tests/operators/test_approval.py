"""Approval: who is asked, what counts as an answer, and what voids it."""

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk import DAG

from airflow_mlops.core.deployment.approval import Answer, Bound, vote
from airflow_mlops.core.deployment.registry import Ask
from airflow_mlops.core.errors import (
    ConfigurationError,
    ModelChangedError,
    UnavailableError,
)
from airflow_mlops.core.handovers import put
from airflow_mlops.core.ledger import Entry, Ledger
from airflow_mlops.operators.approval import ApproveModelOperator
from airflow_mlops.operators.candidates import PromoteModelOperator
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Notes(list):
    """A notifier that keeps what it was told."""

    def __call__(self, context):
        self.append(context["mlops"])

    @property
    def lines(self):
        return [mlops["line"].partition(": ")[2] for mlops in self]


@pytest.fixture
def proposed(connections, registry, make_version, model):
    """``proposed(by=None)``: a candidate that a person, or else a rule, asked for."""

    def make(by=None):
        number = 0
        if by:
            draft = Entry(model, "request", "", by, "more trees")
            number = registry.ledger.record(model, f"r:{by}", {}, lambda _: draft)[0].seq
        draft = Entry(model, "retrain", "", "rule", "grew", evidence={"request": number or None})
        decision, _ = registry.ledger.record(model, f"d:{by}:{number}", {}, lambda _: draft)
        ref = make_version()
        evidence = {"decision": decision.seq, "verdict": {"status": "passed"}}
        state = registry.ledger.state(model)
        ask = Ask(f"propose:{ref}", "train", "passed", evidence)
        return registry.propose(ref, ask, epoch=state.epoch, order=decision.seq)

    return make


@pytest.fixture
def asked(model, ledger):
    """``asked(entry, **arguments)``: a Dag that asks people, and does what they say."""

    def make(entry, *, accepts=None, policy=None, now=None, **arguments):
        smoke = {
            "proposal": entry.seq,
            "model": f"{model}@{entry.version}",
            "card": "**the card**",
            "bound": Bound.of(entry, policy or {}).to_dict(),
            "accepts": accepts,
        }
        put(ledger, model, "smoke", f"proposal {entry.seq}", smoke, by="tests")
        usual = {"by": ["ann", "bob"], "within": "1h", "model": model, "smoke": smoke}
        again = {"retry_delay": timedelta(0)}
        with DAG(model, schedule=None, default_args=again) as dag:
            approve = ApproveModelOperator(task_id="approve", **usual | arguments)
            PromoteModelOperator(
                task_id="promote", model=model, smoke=smoke, answer=approve.output, policy=now
            )
        return dag

    return make


def turns(*answers):
    """What people do, one after the other; ``None``: the scheduler looks."""
    left = list(answers)

    def choose(request):
        said = left.pop(0)
        if said is None:
            return None
        by, choice, *given = said
        form = {"note": "", "window": "", "params": {}} | (given[0] if given else {})
        return choice, form, by

    return choose


def test_people_are_told_once_with_the_link_and_no_answer_is_reject(proposed, asked, ledger, model):
    notes = Notes()
    dag = asked(proposed(), notifiers=[notes], within="2s")
    done = run(dag, answer=lambda _: time.sleep(2.1))
    assert [mlops["model"] for mlops in notes] == [model]
    (line,) = notes.lines
    assert re.fullmatch(r"waits for a yes or no until \d{4}-\d\d-\d\d \d\d:\d\d UTC", line)
    assert notes[0]["link"].startswith(f"http://airflow.example.com/dags/{model}/runs/")
    assert "/tasks/approve/required_actions" in notes[0]["link"]
    answer = done.value("approve")
    assert (answer["choice"], answer["by"], answer["note"]) == (
        "reject",
        "nobody",
        "no answer in time",
    )
    assert done.states["promote"] == "failed"  # nobody answered: people are told
    assert ledger.state(model).last("reject").by == "nobody"


def test_a_look_changes_nothing_and_half_the_time_brings_one_reminder(proposed, asked):
    notes, looks = Notes(), []

    def choose(request):
        looks.append(time.sleep(0.3))
        return None if len(notes) < 2 or len(looks) < 9 else turns(("ann", "reject"))(request)

    done = run(asked(proposed(), notifiers=[notes], within="16s", look="1s"), answer=choose)
    assert done.value("approve")["by"] == "ann"
    kinds = [line.partition(",")[0] for line in notes.lines]
    assert kinds[0].startswith("waits for a yes or no until")
    assert kinds[1:] == ["still waits for a yes or no"]


def test_a_newer_candidate_closes_the_form_of_the_older_one(proposed, asked, model):
    entry = proposed()

    def choose(_):
        proposed("carl")

    done = run(asked(entry), answer=choose)
    assert set(done.states.values()) == {"skipped"}


def test_a_champion_that_changed_meanwhile_closes_the_form(
    proposed, asked, registry, make_version, ask
):
    entry = proposed()

    def choose(_):
        registry.promote(make_version(), ask("by hand"), epoch=None, order=None)

    assert set(run(asked(entry), answer=choose).states.values()) == {"skipped"}


def test_a_quorum_is_that_many_different_people(proposed, asked, ledger, model):
    notes = Notes()
    entry = proposed()
    dag = asked(entry, quorum=2, notifiers=[notes])
    people, bodies = (
        turns(*[("ann", "promote", {"note": "fine"})] * 2, None, ("bob", "promote")),
        [],
    )

    def choose(request):
        bodies.append(request.body)
        return people(request)

    done = run(dag, answer=choose)
    answer = done.value("approve")
    assert (answer["by"], [v["id"] for v in answer["votes"]]) == ("ann, bob", ["ann", "bob"])
    votes = [(e.by, e.reason) for e in ledger.state(model).entries if e.op == "vote"]
    assert votes == [("ann", "fine"), ("bob", "says yes")]
    again = "ann answered promote, not counted: ann has said yes already, or may not answer"
    assert notes.lines[1:] == ["1 of 2 said yes: ann", again]
    card = "**the card**\n\n2 different people of ann, bob have to say yes."
    assert set(bodies) == {card}


def test_one_no_is_enough_and_who_voted_is_not_asked_again(proposed, asked, ledger, model):
    dag = asked(proposed(), quorum=2)
    done = run(dag, answer=turns(("ann", "promote"), ("bob", "reject", {"note": "smells"})))
    assert (done.value("approve")["choice"], done.states["promote"]) == ("reject", "skipped")
    assert ledger.state(model).last("reject").reason == "smells"


@pytest.mark.parametrize("name", ["ann", "Ann"])
def test_whoever_asked_for_a_retrain_is_not_asked_for_the_yes(proposed, asked, name):
    seen = []

    def choose(request):
        seen.extend(user["id"] for user in request.assigned_users)
        return turns(("bob", "reject"))(request)

    run(asked(proposed(name)), answer=choose)
    assert seen == ["bob"]


def test_nobody_left_to_ask_says_so_and_how_to_go_on(proposed, asked):
    done = run(asked(proposed("ann"), by=["ann"]))
    assert isinstance(done.error, ConfigurationError)
    assert "'ann' asked for this candidate and may not approve it, so nobody can" in str(done.error)
    assert "Approval(separate=False)" in str(done.error)
    again = run(asked(proposed("ann"), by=["ann"], separate=False), answer=turns(("ann", "reject")))
    assert again.value("approve")["choice"] == "reject"


def test_somebody_that_the_auth_manager_does_not_know_is_named(proposed, asked):
    done = run(asked(proposed(), by=["ann", "anne"]))
    assert isinstance(done.error, ConfigurationError)
    assert "'anne' is no user of Airflow's auth manager; known: ann, bob, ml-lead" in str(
        done.error
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"window": "soon"}, "not a duration: 'soon'"),
        ({"params": {"trees": 5}}, "takes no parameter trees; it has C, bad"),
        ({"params": "C=0.1"}, "params are 'C=0.1'; write an object such as"),
    ],
)
def test_an_answer_that_cannot_be_used_is_asked_for_again(proposed, asked, given, says):
    notes = Notes()
    dag = asked(proposed(), accepts=["C", "bad"], notifiers=[notes])
    good = ("bob", "retrain", {"window": "14d", "params": {"C": 0.1}})
    done = run(dag, answer=turns(("ann", "retrain", given), good))
    assert says in notes.lines[1]
    assert notes.lines[1].startswith("ann answered retrain, not counted: ")
    assert done.value("approve")["window"] == "14d"


def test_a_retrain_with_changes_is_a_request_that_the_next_decision_answers(
    proposed, asked, ledger, model
):
    changes = {"window": "14d", "params": {"C": 0.1}, "note": "only the newest"}
    done = run(asked(proposed()), answer=turns(("ann", "retrain", changes)))
    assert done.states == {"approve": "success", "promote": "skipped"}
    rejected, request = ledger.state(model).entries[-2:]
    assert (rejected.op, request.op, request.by) == ("reject", "request", "ann")
    assert request.reason == "only the newest"
    assert request.evidence == {
        "params": {"C": 0.1},
        "pins": {"window": "14d"},
        "proposal": rejected.evidence["proposal"],
    }


def test_files_that_changed_after_the_yes_are_refused_on_record(
    proposed, asked, registry, model_store, model, tmp_path
):
    entry = proposed()

    def choose(request):
        run_id = entry.evidence["run_id"]
        model_store.log_document(run_id, "model/weights.txt", "others")
        return turns(("ann", "promote"))(request)

    done = run(asked(entry), answer=choose)
    assert isinstance(done.error, ModelChangedError)
    state = registry.ledger.state(model)
    assert (state.champion, state.challenger) == (None, None)
    last = state.entries[-1]
    assert (last.op, last.version) == ("refuse", entry.version)
    assert "are not those that were evaluated" in last.reason


def test_a_policy_that_changed_after_the_form_was_shown_voids_the_yes(
    proposed, asked, ledger, model
):
    dag = asked(proposed(), policy={"gates": [1]}, now={"gates": [2]})
    done = run(dag, answer=turns(("ann", "promote")))
    assert isinstance(done.error, ModelChangedError)
    assert "is not what ann said yes to: policy " in ledger.state(model).entries[-1].reason


def test_what_was_refused_is_not_promoted_when_the_policy_is_put_back(
    proposed, asked, ledger, model
):
    entry = proposed()
    dag = asked(entry, policy={"gates": [1]}, now={"gates": [2]})
    run(dag, at=NOON, answer=turns(("ann", "promote")))
    dag.get_task("promote").policy = {"gates": [1]}
    again = run(dag, at=NOON, answer=turns(("ann", "promote")))
    assert set(again.states.values()) == {"skipped"}  # it is no candidate any more
    assert ledger.state(model).champion is None


def test_votes_for_another_policy_do_not_add_up(proposed, asked, ledger, model):
    entry = proposed()
    before = Bound.of(entry, {"rollout": ["Shadow"]})
    vote(ledger, entry, Answer("promote", by="ann", id="ann"), before)
    dag = asked(entry, policy={"rollout": []}, quorum=2)
    done = run(dag, answer=turns(("bob", "promote"), ("ann", "reject")))
    assert done.value("approve")["choice"] == "reject"


def test_a_cleared_task_does_not_ask_by_the_form_of_another_try(proposed, asked, model):
    entry = proposed()
    run(asked(entry), at=NOON, answer=turns(("ann", "reject")))
    again = run(asked(entry, by=["bob"]), at=NOON, answer=turns(("ann", "promote")))
    assert again.states["approve"] in ("failed", "skipped")
    if again.states["approve"] == "failed":
        assert f"airflow dags trigger {model}" in str(again.error)


def test_who_was_taken_off_the_list_does_not_count(proposed, asked, monkeypatch):
    notes = Notes()
    dag = asked(proposed(), notifiers=[notes])
    task = dag.get_task("approve")

    def choose(request):
        if len(notes) == 1:
            task.by = ["bob"]
            return turns(("ann", "promote"))(request)
        return turns(("bob", "reject"))(request)

    done = run(dag, answer=choose)
    assert done.value("approve")["by"] == "bob"
    assert notes.lines[1].startswith("ann answered promote, not counted: ann has said yes already")


def test_an_answer_outlives_a_server_that_is_down(proposed, asked, ledger, model, monkeypatch):
    record, tries = Ledger.record, []

    def down_once(self, name, key, *rest):
        if key.startswith("vote:") and not tries:
            tries.append(key)
            message = "the ledger's database does not answer"
            raise UnavailableError(message)
        return record(self, name, key, *rest)

    monkeypatch.setattr(Ledger, "record", down_once)
    dag = asked(proposed(), quorum=2, retries=1)
    done = run(dag, answer=turns(("ann", "promote", {"note": "fine"}), ("bob", "reject")))
    assert len(tries) == 1
    assert done.value("approve")["by"] == "bob"
    assert [e.by for e in ledger.state(model).entries if e.op == "vote"] == ["ann"]
