"""Entries that somebody else wrote: told apart from a broken chain, and set aside by a person."""

import json
from dataclasses import replace

import psycopg
import pytest

from airflow_mlops.core.audit import set_aside, verify, vouch
from airflow_mlops.core.chain import Signer
from airflow_mlops.core.entries import Entry, text_hash
from airflow_mlops.core.errors import ConfigurationError, ForeignEntryError, LedgerLostError
from airflow_mlops.core.ledger import Ledger
from tests.core.test_ledger import entry, record, tamper

pytestmark = pytest.mark.services

SHAPE = "alter table mlops.decisions drop constraint decisions_shape"


@pytest.fixture
def insert(services, ledger):
    """``insert(model, {...})``: one correctly chained INSERT by the login of the tasks."""

    def run(model, changed, *, drop=(), shape=True):
        seq, head = 0, "0" * 64
        for row in ledger.rows(model):
            seq, head = row.seq, row.hash
        made = json.loads(replace(entry(model), key=f"x{seq}", at=AT, seq=seq + 1).body())
        fields = {k: v for k, v in {**made, **changed}.items() if k not in drop}
        body = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        values = (model, seq + 1, head, text_hash(head, body), body)
        statement = (
            "insert into mlops.decisions (model, seq, prev_hash, hash, body) "
            "values (%s, %s, %s, %s, %s)"
        )
        if shape:
            with psycopg.connect(services.dsn("mlops", user="mlops_task")) as connection:
                connection.execute(statement, values)
            return seq + 1
        with psycopg.connect(services.dsn("mlops")) as connection:  # as a release before it could
            definition = connection.execute(
                "select pg_get_constraintdef(oid) from pg_constraint "
                "where conname = 'decisions_shape'"
            ).fetchone()[0]
            connection.execute(SHAPE)
            connection.execute(statement, values)
            connection.execute(
                f"alter table mlops.decisions add constraint decisions_shape {definition}"
            )
        return seq + 1

    return run


AT = "2026-01-01T00:00:00.000+00:00"

POISON = {
    "unknown field": {"extra": 1},
    "no evidence": {"evidence": None},
    "evidence is a list": {"evidence": []},
    "version is text": {"version": "seven"},
    "epoch is none": {"epoch": None},
    "reason is a number": {"reason": 7},
    "a time that is none": {"at": "yesterday"},
    "a sum that is none": {"sum": 3},
    "a sum of nothing": {"sum": {}},
    "a sum of texts": {
        "sum": {"stack": ["a"], "ever": [], "mark": 0, "proposed": 0, "epoch": 0, "challenger": 0}
    },
}


FITS_THE_DATABASE = ("a sum of nothing", "a sum of texts")


@pytest.mark.parametrize("name", [n for n in POISON if n not in FITS_THE_DATABASE])
def test_the_database_refuses_an_entry_of_another_shape(ledger, model, insert, name):
    record(ledger, model, "k")
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.DataError)):
        insert(model, POISON[name])
    assert verify(ledger, model).head[0] == 1


@pytest.mark.parametrize("drop", ["evidence", "at", "by", "epoch"])
def test_the_database_refuses_an_entry_that_lacks_a_field(ledger, model, insert, drop):
    record(ledger, model, "k")
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        insert(model, {}, drop=[drop])


@pytest.mark.parametrize("name", [n for n in POISON if n not in ("version is text",)])
def test_what_was_not_written_here_is_told_apart_from_a_broken_chain(ledger, model, insert, name):
    record(ledger, model, "k")
    seq = insert(model, POISON[name], shape=False)
    with pytest.raises(ForeignEntryError, match=f"entry {seq} of the ledger of {model}") as caught:
        ledger.standing(model)
    assert f"doctor {model} --set-aside {seq} --reason" in str(caught.value)
    with pytest.raises(ForeignEntryError):
        record(ledger, model, "next")
    (told,) = verify(ledger, model).foreign
    assert told == str(caught.value)


def test_a_body_that_only_spaces_tell_from_ours_is_foreign_too(services, ledger, model):
    for i in range(3):
        record(ledger, model, f"k{i}")
    body = "' ' || body"
    hashed = f"encode(sha256(convert_to(prev_hash || E'\\n' || {body}, 'UTF8')), 'hex')"
    where = f"where model = '{model}' and seq = 3"
    tamper(services, f"update mlops.decisions set body = {body}, hash = {hashed} {where}")
    with pytest.raises(ForeignEntryError, match=r"entry 3 .* not written as this package writes"):
        ledger.state(model)


def test_a_poisoned_entry_is_set_aside_and_decisions_go_on(ledger, model, insert):
    record(ledger, model, "k", "promote", 1, order=5)
    bad = insert(model, {"extra": 1, "op": "promote", "version": 9}, shape=False)
    said = set_aside(ledger, model, bad, by="ann", reason="nobody of us wrote it")
    assert (said.seq, said.op, said.evidence["entry"]) == (bad + 1, "set_aside", bad)
    assert set_aside(ledger, model, bad, by="ann", reason="nobody of us wrote it") == said
    assert (ledger.standing(model).champion, ledger.state(model).champion) == (1, 1)
    assert record(ledger, model, "next").seq == bad + 2
    found = verify(ledger, model)
    assert (found.foreign, found.aside, found.head[0]) == ((), (bad,), bad + 2)
    assert "1 set aside" in str(found)
    with pytest.raises(ConfigurationError, match=f"entry {bad} of {model} was set aside by entry"):
        ledger.numbered(model, bad)


@pytest.mark.parametrize("op", ["set_aside", "vouch"])
@pytest.mark.parametrize("about", ["abc", None, 99, -1, 1.5, True, [1], 10**30])
def test_nonsense_about_other_entries_says_nothing_and_stops_nobody(
    ledger, model, insert, op, about
):
    record(ledger, model, "k", "promote", 1)
    bad = insert(model, {"op": op, "evidence": {"entry": about, "until": about}})
    assert ledger.standing(model).champion == ledger.state(model).champion == 1
    set_aside(ledger, model, bad, by="ann", reason="nonsense")
    record(ledger, model, "next")
    assert verify(ledger, model).aside == (bad,)


def test_a_promotion_that_somebody_forged_can_be_taken_back(ledger, model, insert, monkeypatch):
    monkeypatch.setattr("airflow_mlops.core.ledger.TAIL", 3)
    record(ledger, model, "first", "promote", 1, order=1)
    bad = insert(model, {"op": "promote", "version": 9, "order": 2})
    for i in range(8):
        record(ledger, model, f"k{i}")
    assert ledger.standing(model).champion == 9  # nothing is signed here
    assert ledger.standing(model).summed > bad
    set_aside(ledger, model, bad, by="ann", reason="forged")
    for i in range(8):
        assert (ledger.standing(model).champion, ledger.standing(model).mark) == (1, 1)
        record(ledger, model, f"more{i}")
    assert ledger.standing(model).summed > bad
    assert verify(ledger, model).foreign == ()


def test_what_sets_an_entry_aside_cannot_be_set_aside(ledger, model):
    record(ledger, model, "k")
    record(ledger, model, "l")
    said = set_aside(ledger, model, 1, by="ann", reason="a mistake")
    with pytest.raises(ConfigurationError, match="cannot be taken back"):
        set_aside(ledger, model, said.seq, by="ann", reason="r")
    with pytest.raises(ConfigurationError, match=f"of {model} has no entry 99"):
        set_aside(ledger, model, 99, by="ann", reason="r")


def test_a_chain_that_is_broken_is_not_mended_by_setting_aside(services, ledger, model):
    for i in range(3):
        record(ledger, model, f"k{i}")
    tamper(services, f"delete from mlops.decisions where model = '{model}' and seq = 2")
    set_aside(ledger, model, 3, by="ann", reason="r")
    with pytest.raises(LedgerLostError, match="breaks at entry 2"):
        verify(ledger, model)


@pytest.fixture
def signed(ledger) -> Ledger:
    return replace(ledger, signer=Signer(("a secret",)))


def test_with_a_key_a_promotion_that_is_not_signed_is_not_believed(signed, model, insert):
    record(signed, model, "k", "promote", 1)
    bad = insert(model, {"op": "promote", "version": 9})
    with pytest.raises(ForeignEntryError, match=rf"entry {bad} .* not signed with the key"):
        signed.standing(model)
    set_aside(signed, model, bad, by="ann", reason="forged")
    assert signed.standing(model).champion == 1
    assert [e.op for e in signed.state(model).entries] == ["promote", "set_aside"]


def test_who_has_no_key_cannot_set_aside_what_is_signed(signed, ledger, model):
    record(signed, model, "k", "promote", 1)
    set_aside(ledger, model, 1, by="mallory", reason="r")
    with pytest.raises(ForeignEntryError, match=r"entry 2 .* not signed"):
        signed.standing(model)
    assert signed.trust(model).aside == {}


def test_a_signature_belongs_to_one_entry_of_one_model(signed, services, model):
    record(signed, model, "k")
    record(signed, model, "l")
    copied = f"(select signature from mlops.decisions where model = '{model}' and seq = 1)"
    where = f"where model = '{model}' and seq = 2"
    tamper(services, f"update mlops.decisions set signature = {copied} {where}")
    with pytest.raises(ForeignEntryError, match=r"entry 2 .* not signed"):
        signed.state(model)


def test_keys_can_be_changed_and_older_ones_are_still_known(signed, model):
    record(signed, model, "k")
    newer = replace(signed, signer=Signer(("another secret", "a secret")))
    record(newer, model, "l")
    assert len(newer.state(model).entries) == 2
    with pytest.raises(ForeignEntryError, match="entry 2 "):
        signed.state(model)


def test_a_person_vouches_for_what_was_there_before_the_key(signed, ledger, model):
    record(ledger, model, "k", "promote", 1)
    with pytest.raises(ForeignEntryError, match=r"entry 1 .* not signed"):
        signed.standing(model)
    said = vouch(signed, model, by="ann", reason="we begin to sign")
    assert said.evidence["until"] == 1
    assert vouch(signed, model, by="ann", reason="we begin to sign").seq == 3
    assert (signed.standing(model).champion, verify(signed, model).foreign) == (1, ())
    record(ledger, model, "later", "promote", 2)
    with pytest.raises(ForeignEntryError, match=r"entry 4 .* not signed"):
        signed.standing(model)


def test_nobody_vouches_without_a_key_or_for_a_ledger_that_is_not_understood(
    ledger, signed, model, insert
):
    record(ledger, model, "k")
    with pytest.raises(ConfigurationError, match="give the connection of the ledger a signing_key"):
        vouch(ledger, model, by="ann", reason="r")
    insert(model, {"extra": 1}, shape=False)
    with pytest.raises(ConfigurationError, match=r"nobody can vouch .* it has 'extra'"):
        vouch(signed, model, by="ann", reason="r")


def test_a_sum_that_is_wrong_is_told(ledger, model, monkeypatch, insert):
    monkeypatch.setattr("airflow_mlops.core.ledger.TAIL", 3)
    record(ledger, model, "first", "promote", 1, order=1)
    forged = ledger.state(model).summary() | {"stack": [9], "ever": [9]}
    bad = insert(model, {"sum": forged})
    assert ledger.standing(model).champion == 9
    (told,) = verify(ledger, model).foreign
    assert f"entry {bad} of the ledger of {model}" in told
    set_aside(ledger, model, bad, by="ann", reason="forged")
    assert ledger.standing(model).champion == 1


def test_evidence_that_is_missing_is_named(ledger, model, insert):
    record(ledger, model, "k")
    insert(model, {"op": "stage", "version": 1})
    last = ledger.standing(model).entries[-1]
    with pytest.raises(ForeignEntryError, match="lacks 'status' in its evidence, it has nothing"):
        last.evidence["status"]
    assert isinstance(last, Entry)
