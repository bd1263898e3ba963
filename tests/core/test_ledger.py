"""The ledger: exactly once, chained, append-only, and never silently another one."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from airflow_mlops.core import migrations
from airflow_mlops.core.chain import Row, Signer, entries_of
from airflow_mlops.core.errors import (
    ConfigurationError,
    KeyReusedError,
    LedgerLostError,
    UnavailableError,
)
from airflow_mlops.core.ledger import MOVES, ZERO, Entry, Ledger, MemoryLedger, State

AT = "2026-01-01T00:00:00.000+00:00"


def entry(model, op="keep", version=None, **more):
    return Entry(model, op, "", "tests", "why", version, **more)


def record(ledger, model, key, op="keep", version=None, ask=None, **more):
    found, _ = ledger.record(
        model, key, ask or {"op": op}, lambda state: entry(model, op, version, **more)
    )
    return found


def states(*ops):
    """Fold ``(op, version, order)`` into a state, without a database."""
    state = State()
    for op, version, order in ops:
        seq, head = state.head
        made = Entry(
            "m", op, f"k{seq}", "t", "r", version, order=order, seq=seq + 1, prev_hash=head
        )
        state = state.after(made)
    return state


# what entries add up to


def test_an_entry_round_trips_through_its_body():
    made = Entry("m", "keep", "k", "t", "größe 🙂", 3, 1, 2, {"a": [1, None, 0.1]}, "x", AT, 4)
    assert Entry.from_body(made.body(), made.prev_hash) == made
    assert json.loads(json.dumps(made.to_dict()))["evidence"] == {"a": [1, None, 0.1]}


def test_the_hash_of_an_entry_depends_on_everything_in_it():
    made = Entry("m", "keep", "k", "t", "r")
    for change in (
        {"reason": "R"},
        {"version": 1},
        {"evidence": {"a": 1}},
        {"prev_hash": "1" * 64},
    ):
        assert Entry(**{**made.to_dict(), **change}).hash != made.hash


def test_nothing_recorded_means_no_champion():
    assert State().champion is None
    assert State().head == (0, ZERO)


def test_promotions_stack_up_and_a_rollback_walks_back():
    up = [("promote", v, None) for v in (1, 2, 3)]
    assert states(*up).stack == (1, 2, 3)
    assert states(*up).previous == 2
    back = states(*up, ("rollback", 2, None))
    assert (back.champion, back.previous, back.stack) == (2, 1, (1, 2))
    assert states(*up, ("rollback", 2, None), ("rollback", 1, None)).previous is None


def test_a_rollback_to_any_earlier_champion_cuts_the_stack_there():
    up = [("promote", v, None) for v in (1, 2, 3)]
    assert states(*up, ("rollback", 1, None)).stack == (1,)
    gone = states(*up, ("rollback", 2, None), ("rollback", 3, None))
    assert (gone.champion, gone.ever) == (3, frozenset({1, 2, 3}))


def test_the_mark_is_the_newest_order_and_survives_a_rollback():
    state = states(("promote", 1, 5), ("promote", 2, 9), ("rollback", 1, None))
    assert state.mark == 9


def test_only_promotion_and_rollback_start_an_epoch():
    state = states(("keep", None, None), ("promote", 1, None), ("ask", None, None))
    assert state.epoch == 2


@pytest.mark.parametrize("op", ["promote", "refuse", "reject"])
def test_a_challenger_waits_until_it_is_answered(op):
    assert states(("propose", 4, None)).challenger == 4
    assert states(("propose", 4, None), (op, 4, None)).challenger is None
    assert states(("propose", 4, None), (op, 3, None)).challenger == 4


def test_who_was_champion_at_a_moment_may_have_been_adopted():
    state = State()
    for seq, (op, version) in enumerate([("promote", 1), ("adopt", 2), ("keep", None)], 1):
        at = f"2026-01-0{seq}T00:00:00+00:00"
        made = Entry("m", op, f"k{seq}", "t", "r", version, at=at, seq=seq)
        state = state.after(made)
    when = {day: datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 2, 3)}
    assert [state.changed_at(when[day]).version for day in (1, 2, 3)] == [1, 2, 2]
    assert (state.champion, state.previous, state.ever) == (2, 1, frozenset({1, 2}))


def test_an_order_of_zero_is_an_order():
    assert states(("promote", 1, 0)).mark == 0


# on a real database

services = pytest.mark.services


@services
def test_the_same_key_gets_the_same_answer_for_ever(ledger, model):
    first = record(ledger, model, "k")
    record(ledger, model, "other")
    assert record(ledger, model, "k", op="keep") == first
    assert len(ledger.state(model).entries) == 2


@services
def test_a_key_that_was_used_for_another_request_is_refused(ledger, model):
    record(ledger, model, "k", ask={"version": 1})
    with pytest.raises(KeyReusedError, match=rf"'k' of {model} was used for another .*entry 1"):
        record(ledger, model, "k", ask={"version": 2})


@services
def test_entries_are_numbered_and_chained(ledger, model):
    made = [record(ledger, model, f"k{i}") for i in range(4)]
    assert [e.seq for e in made] == [1, 2, 3, 4]
    assert [e.prev_hash for e in made] == [ZERO, *(e.hash for e in made[:-1])]
    assert ledger.state(model).entries == tuple(made)


@services
def test_what_is_read_back_is_what_was_written(ledger, model):
    made = record(
        ledger,
        model,
        "k'; drop table mlops.decisions; --",
        "ask",
        7,
        evidence={"é🙂": [1, 0.1, None]},
    )
    assert ledger.state(model).of("k'; drop table mlops.decisions; --") == made
    assert ledger.state(model).entries[0].evidence == {"é🙂": [1, 0.1, None]}


MOVED = ("stack", "ever", "mark", "proposed", "epoch", "challenger", "champion", "head")


@services
@pytest.mark.parametrize("seed", range(3))
def test_who_stands_where_is_the_same_by_the_newest_entries_alone(ledger, model, monkeypatch, seed):
    monkeypatch.setattr("airflow_mlops.core.ledger.TAIL", 4)
    rng, state = random.Random(seed), State()
    ops = ["keep", "retrain", "propose", "refuse", "promote", "adopt", "stage", "vote", "rollback"]
    for seq in range(40):
        op, version = rng.choice(ops), rng.randint(1, 6)
        if op == "rollback" and version not in state.ever:
            continue
        facts = {"run_id": f"r{seq}", "digest": f"d{seq}"} if rng.random() < 0.5 else {}
        about = {"version": version, "order": rng.randint(1, 50), "evidence": facts}
        record(ledger, model, f"k{seq}", op, **(about if op not in ("keep", "retrain") else {}))
        state, brief = ledger.state(model), ledger.standing(model, "k1")
        assert [getattr(brief, part) for part in MOVED] == [getattr(state, p) for p in MOVED]
        assert brief.of("k1") == state.of("k1")
        since = {e.seq for e in state.entries if e.op in MOVES and e.seq >= state.epoch}
        assert since <= {e.seq for e in brief.entries}
        assert all(state.entries[e.seq - 1] == e for e in brief.entries)
        named = [e for e in state.entries if e.version == 3 and "run_id" in e.evidence]
        first = (named[0].evidence["run_id"], named[0].evidence["digest"]) if named else None
        assert ledger.identity(model, 3) == first
    assert len(ledger.state(model).entries) > 30
    assert sum(e.sum is not None for e in ledger.state(model).entries) > 5


@services
def test_one_entry_is_found_by_its_number(ledger, model):
    made = [record(ledger, model, f"k{i}") for i in range(3)]
    assert [ledger.numbered(model, e.seq) for e in made] == made
    memory = MemoryLedger()
    for i in range(3):
        record(memory, model, f"k{i}")
    assert (memory.numbered(model, 2).key, memory.models()) == ("k1", (model,))
    for one in (ledger, memory):
        with pytest.raises(ConfigurationError, match=f"of {model} has 3 entries, none is numb"):
            one.numbered(model, 4)


@services
def test_models_do_not_share_entries(ledger, model):
    record(ledger, model, "k")
    record(ledger, f"{model}_2", "k")
    assert {model, f"{model}_2"} <= set(ledger.models())
    assert len(ledger.state(model).entries) == 1


@services
def test_racing_writers_each_get_one_number_and_none_is_lost(ledger, model):
    barrier = threading.Barrier(6)

    def write(i):
        barrier.wait()
        return [record(ledger, model, f"{i}:{n}").seq for n in range(5)]

    with ThreadPoolExecutor(6) as pool:
        seqs = [seq for found in pool.map(write, range(6)) for seq in found]
    assert sorted(seqs) == list(range(1, 31))
    assert len(ledger.state(model).entries) == 30


@services
def test_racing_writers_of_one_key_get_one_entry(ledger, model):
    barrier = threading.Barrier(6)

    def write(_):
        barrier.wait()
        return record(ledger, model, "one").hash

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(write, range(6)))) == 1
    assert len(ledger.state(model).entries) == 1


@services
def test_a_lost_race_is_decided_again_on_the_new_state(ledger, model):
    seen = []

    def build(state):
        seen.append(len(state.entries))
        if len(seen) == 1:
            record(ledger, model, "faster")
        return entry(model)

    assert ledger.record(model, "mine", {}, build)[0].seq == 2
    assert seen == [0, 1]


@services
@pytest.mark.parametrize(
    "statement",
    [
        "update mlops.decisions set body = body",
        "delete from mlops.decisions",
        "truncate mlops.decisions",
        "drop table mlops.decisions",
        "alter table mlops.decisions disable trigger all",
        "insert into mlops.decisions (model, seq, prev_hash, hash, body, recorded_by) "
        "values ('x', 1, '', '', '{}', 'somebody else')",
    ],
)
def test_a_task_can_only_append(services, ledger, model, statement):
    record(ledger, model, "k")
    with (
        psycopg.connect(services.dsn("mlops", user="mlops_task")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)
    assert len(ledger.state(model).entries) == 1


@services
@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize(
    "statement",
    [
        "update mlops.decisions set body = body",
        "delete from mlops.decisions",
        "truncate mlops.decisions",
    ],
)
def test_even_a_superuser_does_not_rewrite_by_accident(services, ledger, model, role, statement):
    record(ledger, model, "k")
    with psycopg.connect(services.dsn("mlops")) as connection:
        connection.execute(f"set session_replication_role = {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute(statement)
    assert len(ledger.state(model).entries) == 1


def tamper(services, *statements):
    """What a superuser can do who switches the triggers and checks off; undone afterwards."""
    with psycopg.connect(services.dsn("mlops")) as connection:
        shape = "alter table mlops.decisions drop constraint decisions_shape"
        definition = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = 'decisions_shape'"
        ).fetchone()[0]
        connection.execute(shape)
        connection.execute("alter table mlops.decisions disable trigger all")
        for statement in statements:
            connection.execute(statement)
        connection.execute(
            f"alter table mlops.decisions add constraint decisions_shape {definition}"
        )
        connection.execute("alter table mlops.decisions enable trigger all")
        connection.execute("alter table mlops.decisions enable always trigger no_rewrite")
        connection.execute("alter table mlops.decisions enable always trigger no_truncate")


REHASH = "encode(sha256(convert_to(prev_hash || E'\\n' || {body}, 'UTF8')), 'hex')"


@services
@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("delete from mlops.decisions where model = '{m}' and seq = 1", 1),
        ("delete from mlops.decisions where model = '{m}' and seq = 2", 2),
        (
            "update mlops.decisions set body = replace(body, 'why', 'who'), hash = "
            + REHASH.format(body="replace(body, 'why', 'who')")
            + " where model = '{m}' and seq = 2",
            3,
        ),
    ],
    ids=["first lost", "middle lost", "middle rewritten"],
)
def test_a_changed_or_lost_entry_stops_every_decision(
    services, ledger, model, monkeypatch, statement, number
):
    for i in range(3):
        record(ledger, model, f"k{i}")
    tamper(services, statement.format(m=model))
    with pytest.raises(
        LedgerLostError, match=f"the ledger of {model} breaks at entry {number}"
    ) as caught:
        ledger.state(model)
    assert "airflow mlops doctor" in str(caught.value)
    with pytest.raises(LedgerLostError):
        record(ledger, model, "next")
    monkeypatch.setattr("airflow_mlops.core.ledger.TAIL", 0)  # as if it were long ago
    with pytest.raises(LedgerLostError, match=f"breaks at entry {number}"):
        ledger.state(model)
    with psycopg.connect(services.dsn("mlops")) as connection:  # nothing was appended
        count = "select count(*) from mlops.decisions where model = %s"
        left = 2 if statement.startswith("delete") else 3
        assert connection.execute(count, (model,)).fetchone() == (left,)


@services
@pytest.mark.parametrize("body", ["' ' || body", "replace(body, 'why', 'who')"])
def test_an_old_entry_that_was_written_anew_breaks_the_chain_after_it(
    services, ledger, model, monkeypatch, body
):
    monkeypatch.setattr("airflow_mlops.core.ledger.TAIL", 2)
    for i in range(6):
        record(ledger, model, f"k{i}")
    hashed = f"update mlops.decisions set body = {body}, hash = {REHASH.format(body=body)}"
    tamper(services, f"{hashed} where model = '{model}' and seq = 2")
    with pytest.raises(LedgerLostError, match="breaks at entry 3"):
        ledger.state(model)


CHANGES = {
    "body": lambda rows, i: replaced(rows, i, body=rows[i].body.replace("why", "who")),
    "spaces": lambda rows, i: replaced(rows, i, body=f" {rows[i].body}"),
    "hash": lambda rows, i: replaced(rows, i, hash="1" * 64),
    "prev_hash": lambda rows, i: replaced(rows, i, prev_hash="1" * 64),
    "number": lambda rows, i: replaced(rows, i, seq=99),
    "lost": lambda rows, i: rows.pop(i),
    "twice": lambda rows, i: rows.insert(i, rows[i]),
    "of another model": lambda rows, i: replaced(rows, i, body=rows[i].body.replace("m1", "m2")),
}


def replaced(rows, i, **parts):
    rows[i] = replace(rows[i], **parts)


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("since", [0, 5, 100])
def test_any_change_of_any_entry_is_found(change, since):
    memory = MemoryLedger()
    made = [record(memory, "m1", f"k{i}") for i in range(8)]
    for number in range(7 if change == "lost" else 8):  # that the last one is lost, the anchor sees
        rows, signer = [Row.made(e, Signer()) for e in made], Signer()
        assert len(list(entries_of("m1", rows, signer=signer, written_since=since))) == 8
        CHANGES[change](rows, number)
        with pytest.raises(LedgerLostError):
            list(entries_of("m1", rows, signer=signer, written_since=since))


@services
@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"op": "invent"}, "invent"),
        ({"reason": "a\0b"}, "refuses"),
        ({"reason": "\ud800"}, "refuses"),
        ({"evidence": {"x": float("nan")}}, "not plain JSON"),
        ({"evidence": {"x": "y" * 70_000}}, "holds 64 kB"),
    ],
    ids=["unknown op", "NUL", "half a letter", "NaN", "too long"],
)
def test_an_entry_that_the_ledger_cannot_hold_is_a_configuration_error(ledger, model, made, says):
    facts = {"model": model, "op": "keep", "key": "", "by": "t", "reason": "r", **made}
    with pytest.raises(ConfigurationError, match=says):
        ledger.record(model, "k", {}, lambda state: Entry(**facts))
    assert ledger.state(model).entries == ()


@services
@pytest.mark.parametrize("name", ["a'b", 'a"b', "x; drop table mlops.decisions", "🙂", "a" * 64])
def test_a_hostile_model_name_is_only_a_name(ledger, model, name):
    record(ledger, f"{model}{name}", "k")
    assert len(ledger.state(f"{model}{name}").entries) == 1


@services
@pytest.mark.parametrize("name", ["a\0b", "x" * 257], ids=["NUL", "257 bytes"])
def test_a_model_name_that_has_no_place_is_a_configuration_error(ledger, name):
    with pytest.raises(ConfigurationError):
        record(ledger, name, "k")


@services
def test_a_database_without_the_schema_says_how_to_make_it(services):
    with pytest.raises(ConfigurationError, match="make it: airflow mlops migrate"):
        Ledger(services.dsn("warehouse")).state("m")


@services
def test_a_login_without_the_role_says_which_one(services, model):
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute(f"create role {model} login")
        try:
            with pytest.raises(
                ConfigurationError, match="lacks a right, grant it role mlops_writer"
            ):
                Ledger(services.dsn("mlops", user=model)).state("m")
        finally:
            connection.execute(f"drop role {model}")


@services
def test_a_wrong_password_is_a_configuration_error_and_is_not_shown(password_login):
    Ledger(password_login("mlops", "right")).state("m")
    with pytest.raises(
        ConfigurationError, match=r"cannot log in to the ledger.*check the conn"
    ) as e:
        Ledger(password_login("mlops", "wrong-secret")).state("m")
    assert "wrong-secret" not in str(e.value)


@services
def test_a_database_that_does_not_exist_is_a_configuration_error(services):
    with pytest.raises(ConfigurationError, match='database "nope" does not exist; check'):
        Ledger(services.dsn("nope")).state("m")


def test_a_server_that_is_down_is_unavailable():
    ledger = Ledger("host=127.0.0.1 port=9 user=u password=hidden dbname=d")
    with pytest.raises(UnavailableError, match="the ledger's database does not answer") as caught:
        ledger.state("m")
    assert "hidden" not in str(caught.value)
    assert "hidden" not in repr(ledger)


@services
def test_migrating_again_changes_nothing(services, ledger, model):
    record(ledger, model, "k")
    migrations.upgrade(services.dsn("mlops"))
    assert migrations.pending(services.dsn("mlops")) is None
    assert len(ledger.state(model).entries) == 1


@services
def test_a_database_that_was_never_migrated_says_what_is_newest(services):
    versions = Path(migrations.__file__).parent / "versions"
    newest = max(path.name.partition("_")[0] for path in versions.glob("0*.py"))
    assert migrations.pending(services.dsn("warehouse")) == ("none", newest)


def test_a_migration_of_a_server_that_is_down_is_unavailable():
    with pytest.raises(UnavailableError, match="cannot reach the database of schema mlops"):
        migrations.upgrade("host=127.0.0.1 port=9 dbname=d")
