"""
Decisions: append-only, hash-chained, one line of entries per model, in PostgreSQL.

The commit point is one ``INSERT`` of ``seq = last + 1``: the primary key makes it a compare-and-set
on "nobody decided since I looked". Whoever loses reads again and decides again; there is no lock.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, LiteralString, NoReturn

import psycopg

from airflow_mlops.core.entries import MOVES, ZERO, Entry, State, text_hash
from airflow_mlops.core.errors import (
    ConfigurationError,
    KeyReusedError,
    LedgerLostError,
    UnavailableError,
)
from airflow_mlops.core.refs import canonical_digest

__all__ = ["DECISIONS", "MOVES", "ZERO", "Entry", "Ledger", "MemoryLedger", "State", "no_answer"]

DECISIONS = ("retrain", "keep", "wait", "ask")
"""Operations by which a tick of the monitor is answered."""

TAIL = 100
"""Newest entries whose chain every decision checks; a tick of the monitor checks all of them."""

# Of what moved somebody before the champion of now, only the generated columns are read. The list
# of operations is written out, for the index knows it.
_STANDING: LiteralString = """
with mine as not materialized (select * from mlops.decisions where model = %(model)s),
moves as not materialized (select * from mine where op in (
  'propose', 'refuse', 'reject', 'promote', 'rollback', 'adopt', 'stage', 'vote')),
since as (select
  (select coalesce(max(seq), 0) - %(tail)s from mine) as newest,
  (select max(seq) from moves where op in ('promote', 'rollback', 'adopt')) as epoch)
select seq, body, hash, prev_hash, op, version, claim, run_id, digest from mine
  where seq > (select newest from since)
union all
select seq, case when seq >= coalesce((select epoch from since), 0) then body end,
  hash, prev_hash, op, version, claim, run_id, digest from moves
  where seq <= (select newest from since) and key <> %(key)s
union all
select seq, body, hash, prev_hash, op, version, claim, run_id, digest from mine
  where key = %(key)s and seq <= (select newest from since)
order by seq
"""

_RACES = 50
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    The decisions on all models of one database.

    :param dsn: libpq connection string of a login that has role ``mlops_writer``; never logged.
    """

    dsn: str = field(repr=False)

    def state(self, model: str) -> State:
        """
        Read all entries of a model, check their chain, and add them up.

        :raises LedgerLostError: if an entry was changed, or one is missing.
        :raises UnavailableError: if the database does not answer.
        """
        rows = self._query(
            "select seq, body, hash, prev_hash from mlops.decisions where model = %s order by seq",
            (model,),
        )
        return State.of_entries(_checked(model, rows))

    def standing(self, model: str, key: str = "") -> State:
        """
        Return who is champion and who is on the way, whatever the length of the ledger.

        The chain of the newest entries is checked here; :meth:`state` checks all of it.

        :param key: idempotency key whose entry is wanted, too.
        :raises LedgerLostError: if an entry was changed, or one is missing.
        :raises UnavailableError: if the database does not answer.
        """
        rows = self._query(_STANDING, {"model": model, "key": key, "tail": TAIL})
        gaps = max(0, rows[-1][0] - TAIL) if rows else 0
        return State.of_entries(_checked(model, rows, gaps))

    def numbered(self, model: str, seq: int) -> Entry:
        """
        Return one entry.

        :raises ConfigurationError: if there is no such entry.
        :raises LedgerLostError: if it was changed.
        """
        rows = self._query(
            "select seq, body, hash, prev_hash from mlops.decisions where model = %s and seq = %s",
            (model, seq),
        )
        found = next(_checked(model, rows, gaps=seq), None)
        return found or _missing(self.standing(model), model, seq)

    def models(self) -> tuple[str, ...]:
        """Return the names of all models with an entry, in order."""
        rows = self._query("select distinct model from mlops.decisions order by 1", ())
        return tuple(row[0] for row in rows)

    def record(
        self, model: str, key: str, ask: Mapping[str, Any], build: Callable[[State], Entry]
    ) -> tuple[Entry, State]:
        """
        Append one entry exactly once, and return it with the state that holds it.

        :param key: idempotency key; if it is on record already, that entry is the answer.
        :param ask: the request in plain JSON types; another request under the same key is refused.
        :param build: makes the entry from :meth:`standing`; called again after a lost race.
        :raises KeyReusedError: if the key belongs to another request.
        :raises UnavailableError: if the database does not answer, or 50 races in a row were lost.
        """
        digest = canonical_digest(dict(ask))[:16]
        for _ in range(_RACES):
            state = self.standing(model, key)
            mine = state.of(key)
            if mine is not None:
                if mine.ask != digest:
                    msg = f"key {key!r} of {model} was used for another request (entry {mine.seq})"
                    raise KeyReusedError(msg)
                return mine, state
            seq, head = state.head
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            draft = build(state)
            entry = replace(
                draft, model=model, key=key, ask=digest, at=now, seq=seq + 1, prev_hash=head
            )
            if self._append(entry):
                return entry, state.after(entry)
        msg = f"lost {_RACES} races in a row for the next entry of {model}; try again"
        raise UnavailableError(msg)

    def _append(self, entry: Entry) -> bool:
        """Insert the entry; ``False``: somebody else decided first."""
        body = entry.body()
        if len(body.encode()) > 65536:
            msg = f"a ledger entry holds 64 kB; {entry.op} of {entry.model} has {len(body)} letters"
            raise ConfigurationError(msg)
        rows = self._query(
            "insert into mlops.decisions (model, seq, prev_hash, hash, body) "
            "values (%s, %s, %s, %s, %s) on conflict do nothing returning seq",
            (entry.model, entry.seq, entry.prev_hash, entry.hash, body),
        )
        return bool(rows)

    def _query(
        self, statement: LiteralString, values: Sequence[object] | Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """Run one statement as one transaction; a lost reply is harmless, the key finds it."""
        for left in reversed(range(_TRIES)):
            try:
                with self._connect() as connection:
                    cursor = connection.execute(statement, values)
                    return list(cursor.fetchall())
            except psycopg.errors.UndefinedTable as error:
                msg = "schema mlops is not in this database; make it: airflow mlops migrate"
                raise ConfigurationError(msg) from error
            except psycopg.errors.InsufficientPrivilege as error:
                msg = f"the ledger's login lacks a right, grant it role mlops_writer: {error}"
                raise ConfigurationError(msg) from error
            except (psycopg.DataError, psycopg.errors.CheckViolation) as error:
                msg = f"the ledger refuses what has no place in it: {error}"
                raise ConfigurationError(msg) from error
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                answer = no_answer("the ledger's database", error)
                if left == 0 or isinstance(answer, ConfigurationError):
                    raise answer from error
                time.sleep(0.25 * (_TRIES - left))
        raise UnavailableError  # not reached: the last try returns or raises

    @contextlib.contextmanager
    def _connect(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        with psycopg.connect(
            self.dsn, autocommit=True, connect_timeout=5, prepare_threshold=None
        ) as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class MemoryLedger(Ledger):
    """The same rules without a database: what a simulation decides is gone when it ends."""

    dsn: str = field(default="", repr=False)
    states: dict[str, State] = field(default_factory=dict, repr=False)

    def state(self, model: str) -> State:
        """Return what the entries add up to."""
        return self.states.get(model, State())

    def standing(self, model: str, key: str = "") -> State:
        """Return the same: nothing has to be read."""
        return self.state(model)

    def numbered(self, model: str, seq: int) -> Entry:
        """Return one entry."""
        state = self.state(model)
        return state.numbered(seq) or _missing(state, model, seq)

    def models(self) -> tuple[str, ...]:
        """Return the names of all models with an entry, in order."""
        return tuple(sorted(self.states))

    def _append(self, entry: Entry) -> bool:
        self.states[entry.model] = self.state(entry.model).after(entry)
        return True


def _missing(state: State, model: str, seq: int) -> NoReturn:
    msg = f"the ledger of {model} has {state.head[0]} entries, none is number {seq}"
    raise ConfigurationError(msg)


def no_answer(what: str, error: psycopg.Error) -> ConfigurationError | UnavailableError:
    """Give a failed connection its family: a wrong login stays wrong, a server may come back."""
    text = str(error).strip()
    if any(sign in text for sign in ("authentication failed", "does not exist", "no password")):
        return ConfigurationError(f"cannot log in to {what}: {text}; check the connection")
    return UnavailableError(f"{what} does not answer: {text}")


def _checked(model: str, rows: Sequence[tuple[Any, ...]], gaps: int = 0) -> Iterator[Entry]:
    """
    Yield the entries of rows, after looking whether each is what was written, and follows.

    :param rows: ``seq, body, hash, prev_hash``; without a body also what is generated from it.
    :param gaps: number up to which entries may be left out.
    """
    before, newest = (0, ZERO), (rows[-1][0] if rows else 0) - TAIL
    for seq, body, digest, prev_hash, *generated in rows:
        alone = seq <= gaps + 1 if gaps else False
        follows = alone or (seq, prev_hash) == (before[0] + 1, before[1])
        stored = (model, seq, digest)
        if body is None:
            entry: Entry | None = _brief(model, seq, *generated)
        else:
            entry = _read(body, prev_hash, stored, anew=seq > newest)
        if entry is None or not follows:
            msg = (
                f"the ledger of {model} breaks at entry {seq if alone else before[0] + 1}: it was "
                "changed or lost. Nothing is decided until somebody has looked: airflow mlops "
                "doctor"
            )
            raise LedgerLostError(msg)
        before = (seq, digest)
        yield entry


def _brief(
    model: str,
    seq: int,
    op: str,
    version: int | None,
    order: int | None,
    run_id: str | None,
    digest: str | None,
) -> Entry:
    """Return what is left of an entry that happened before the champion of now."""
    evidence = {"run_id": run_id, "digest": digest or ""}
    return Entry(model, op, "", "", "", version, order=order, evidence=evidence, seq=seq)


def _read(body: str, prev_hash: str, stored: tuple[str, int, str], *, anew: bool) -> Entry | None:
    """
    Rebuild an entry; nothing if somebody else wrote or changed it.

    :param stored: model, number and hash beside it.
    :param anew: see, too, that it is written as only this package writes it. Of an older entry
        that would find nothing more: whoever rewrites it has to rewrite its successors as well.
    """
    try:
        entry = Entry.from_body(body, prev_hash)
    except TypeError:  # it has other fields
        return None
    known = (entry.model, entry.seq, text_hash(prev_hash, body)) == stored
    return entry if known and not (anew and entry.body() != body) else None
