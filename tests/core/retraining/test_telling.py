"""Who is told what: one message for a decision that matters, a digest of the others."""

from datetime import UTC, datetime, timedelta

from airflow_mlops.core.ledger import Entry, MemoryLedger
from airflow_mlops.core.retraining.telling import message_of

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def lived(*ops, reason="nothing asks", held=""):
    """A ledger with one decision a day."""
    ledger = MemoryLedger()
    for day, op in enumerate(ops):
        now = (START + timedelta(days=day)).isoformat()
        evidence = {"trigger": "probe", "now": now, "held": held}
        entry = Entry("m", op, "", "t", reason, evidence=evidence)
        last, state = ledger.record("m", f"k{day}", {}, lambda _, entry=entry: entry)
    return state, last


def told(*ops, since="", **given):
    state, last = lived(*ops, **given)
    return message_of(state, last, since, WEEK)


def test_a_retrain_is_told_at_once():
    message = told("keep", "retrain", reason="a small model is better")
    assert message.line == "m: retrain (probe): a small model is better"
    assert (message.subject, message.digest) == ("decision 2", False)


def test_a_spent_budget_is_told_once_and_a_cooldown_is_not():
    spent = [told(*["wait"] * n, reason="it is spent", held="budget until May") for n in (1, 2)]
    assert [message.subject for message in spent] == ["budget until May"] * 2
    assert told("wait", reason="budget_eur moved; cooldown: wait 7d", held="cooldown") is None


def test_what_was_declined_is_told_once_a_week():
    assert told(*["keep"] * 7) is None
    message = told(*["keep"] * 8)
    assert message.digest
    assert message.line.startswith("m: 8 times no retrain since 2024-01-01")
    at = (START + timedelta(days=7)).isoformat()
    assert told(*["keep"] * 14, since=at) is None
    assert told(*["keep"] * 15, since=at).line.startswith("m: 7 times no retrain since 2024-01-09")


def test_a_question_fails_its_task_and_is_not_told_here():
    assert told("ask") is None
