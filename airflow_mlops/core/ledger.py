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
from typing import Any, LiteralString, NoReturn, TypeVar

import psycopg

from airflow_mlops.core.asking import SAID, STANDING, WEIGHED
from airflow_mlops.core.chain import Row, Signer, Trust, entries_of, state_of, trust_of
from airflow_mlops.core.entries import MOVES, ZERO, Entry, State
from airflow_mlops.core.errors import (
    ConfigurationError,
    KeyReusedError,
    UnavailableError,
)
from airflow_mlops.core.refs import canonical_digest

__all__ = ["DECISIONS", "MOVES", "ZERO", "Entry", "Ledger", "MemoryLedger", "State", "no_answer"]

DECISIONS = ("retrain", "keep", "wait", "ask")
"""Operations by which a tick of the monitor is answered."""

TAIL = 100
"""Entries after which one says again what all before it add up to."""

ENTRY_BYTES = 65_536
"""What one entry may hold."""

_T = TypeVar("_T")

_RACES = 50
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    The decisions on all models of one database.

    :param dsn: libpq connection string of a login that has role ``mlops_writer``; never logged.
    :param signer: signs what is written; with a key, nothing is believed that is not signed.
    """

    dsn: str = field(repr=False)
    signer: Signer = field(default=Signer(), repr=False)

    def state(self, model: str) -> State:
        """
        Read all entries of a model, check their chain, and add them up.

        :raises LedgerLostError: if an entry was changed, or one is missing.
        :raises ForeignEntryError: if one was not written by this package.
        :raises UnavailableError: if the database does not answer.
        """
        rows, trust = self._read(
            model,
            "select seq, body, hash, prev_hash, signature from mlops.decisions "
            "where model = %s order by seq",
            (model,),
        )
        newest = rows[-1][0] if rows else 0
        return State.of_entries(self._entries(model, rows, trust, written_since=newest - TAIL))

    def standing(self, model: str, key: str = "") -> State:
        """
        Return who is champion and who is on the way, whatever the length of the ledger.

        The chain is checked since the newest entry that says what those before it add up to;
        :meth:`state` checks all of it.

        :param key: idempotency key whose entry is wanted, too.
        :raises LedgerLostError: if an entry was changed, or one is missing.
        :raises ForeignEntryError: if one was not written by this package.
        :raises UnavailableError: if the database does not answer.
        """
        asked = {"model": model, "key": key, "tail": TAIL}
        rows, trust = self._read(model, STANDING, asked)
        if not rows:
            return State()
        base, newest = rows[0][-1], rows[-1][0]
        free = max(0, base - 1 if base else newest - TAIL)
        known, since = [row[:-1] for row in rows], newest - TAIL
        entries = tuple(self._entries(model, known, trust, free=free, written_since=since))
        return state_of(entries, base or 0)

    def weighed(self, model: str, *, ops: Sequence[str] = (), last: int = 0) -> State:
        """
        Return :meth:`standing`, and with it the attempts and open requests that a tick weighs.

        :param ops: operations whose newest entries are wanted, too.
        :param last: how many of them.
        """
        state = self.standing(model)
        asked = {"model": model, "ops": list(ops), "last": last, "epoch": state.epoch}
        rows, trust = self._read(model, WEIGHED, asked)
        rows = [*{row[0]: row for row in sorted(rows, key=lambda row: row[0])}.values()]
        more = self._entries(model, rows, trust, free=rows[-1][0] if rows else 0)
        found = {entry.seq: entry for entry in (*more, *state.entries)}
        return replace(state, entries=tuple(found[seq] for seq in sorted(found)))

    def numbered(self, model: str, seq: int) -> Entry:
        """
        Return one entry.

        :raises ConfigurationError: if there is no such entry, or it was set aside.
        :raises LedgerLostError: if it was changed.
        :raises ForeignEntryError: if it was not written by this package.
        """
        rows, trust = self._read(
            model,
            "select seq, body, hash, prev_hash, signature from mlops.decisions "
            "where model = %s and seq = %s",
            (model, seq),
        )
        if seq in trust.aside:
            msg = f"entry {seq} of {model} was set aside by entry {trust.aside[seq]}"
            raise ConfigurationError(msg)
        found = next(self._entries(model, rows, trust, free=seq), None)
        return found or _missing(self.standing(model), model, seq)

    def hash_of(self, model: str, seq: int) -> str | None:
        """Return the hash that an entry is stored under; nothing if there is none."""
        rows = self._query(
            "select hash from mlops.decisions where model = %s and seq = %s", (model, seq)
        )
        return str(rows[0][0]) if rows else None

    def identity(self, model: str, version: int) -> tuple[str, str] | None:
        """
        Return the MLflow run and the file digest of a version, as the first entry about it says.

        :return: nothing, if no entry says it.
        :raises ForeignEntryError: if the entry was not written by this package.
        """
        rows, trust = self._read(
            model,
            "select seq, body, hash, prev_hash, signature from mlops.decisions "
            "where model = %s and version = %s and run_id is not null order by seq limit 20",
            (model, version),
        )
        for entry in self._entries(model, rows, trust, free=rows[-1][0] if rows else 0):
            return str(entry.evidence["run_id"]), str(entry.evidence["digest"])
        return None

    def handed_over(self, model: str, step: str, about: str) -> Entry | None:
        """
        Return the newest entry by which a step put on record what it found.

        :param about: what it is about, such as ``decision 17``.
        """
        rows, trust = self._read(
            model,
            "select seq, body, hash, prev_hash, signature from mlops.decisions "
            "where model = %s and op = 'handover' and body::jsonb #>> '{evidence,step}' = %s "
            "and body::jsonb #>> '{evidence,about}' = %s order by seq desc limit 20",
            (model, step, about),
        )
        rows.reverse()
        found = tuple(self._entries(model, rows, trust, free=rows[-1][0] if rows else 0))
        return found[-1] if found else None

    def rows(self, model: str) -> Iterator[Row]:
        """Yield all rows of a model, oldest first, in little memory; nothing is checked."""
        with (
            self._talking() as connection,
            connection.transaction(),
            connection.cursor("rows") as cursor,
        ):
            cursor.execute(
                "select seq, body, hash, prev_hash, signature from mlops.decisions "
                "where model = %s order by seq",
                (model,),
            )
            yield from map(Row.of, cursor)

    def trust(self, model: str) -> Trust:
        """Return what people said about the entries of a model."""
        return self._read(model, "select 1 where false", ())[1]

    def _entries(
        self,
        model: str,
        rows: Sequence[Sequence[Any]],
        trust: Trust,
        *,
        free: int = 0,
        written_since: int = 0,
    ) -> Iterator[Entry]:
        """Check rows, and yield their entries."""
        how = {"free": free, "written_since": written_since}
        return entries_of(model, map(Row.of, rows), signer=self.signer, trust=trust, **how)

    def _read(
        self, model: str, statement: LiteralString, values: Sequence[object] | Mapping[str, object]
    ) -> tuple[list[tuple[Any, ...]], Trust]:
        """Read rows, and what people said about entries at that same moment."""

        def ask(connection: "psycopg.Connection[tuple[Any, ...]]") -> Any:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                found = connection.execute(statement, values).fetchall()
                return found, connection.execute(SAID, (model,)).fetchall()

        rows, said = self._again(ask)
        return rows, trust_of(model, map(Row.of, said), self.signer)

    def identifier(self) -> str:
        """Return what tells this ledger from others that share an MLflow server."""
        return str(self._query("select id from mlops.installation", ())[0][0])

    def models(self) -> tuple[str, ...]:
        """Return the names of all models with an entry, in order."""
        rows = self._query(
            "with recursive names as (select min(model) as model from mlops.decisions union all "
            "select (select min(d.model) from mlops.decisions d where d.model > names.model) "
            "from names where names.model is not null) "
            "select model from names where model is not null order by 1",
            (),
        )
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
            draft = replace(build(state), model=model, key=key, ask=digest)
            entry = _next(draft, state)
            if self.append(entry):
                return entry, state.after(entry)
        msg = f"lost {_RACES} races in a row for the next entry of {model}; try again"
        raise UnavailableError(msg)

    def append(self, entry: Entry) -> bool:
        """Insert the entry; ``False``: somebody else decided first."""
        row = Row.made(entry, self.signer)
        size = len((row.body or "").encode())
        if size > ENTRY_BYTES:
            msg = f"a ledger entry holds 64 kB; {entry.op} of {entry.model} has {size} bytes"
            raise ConfigurationError(msg)
        rows = self._query(
            "insert into mlops.decisions (model, seq, prev_hash, hash, body, signature) "
            "values (%s, %s, %s, %s, %s, %s) on conflict do nothing returning seq",
            (entry.model, row.seq, row.prev_hash, row.hash, row.body, row.signature),
        )
        return bool(rows)

    def _query(
        self, statement: LiteralString, values: Sequence[object] | Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """Run one statement as one transaction; a lost reply is harmless, the key finds it."""

        def ask(connection: "psycopg.Connection[tuple[Any, ...]]") -> list[tuple[Any, ...]]:
            return list(connection.execute(statement, values).fetchall())

        return self._again(ask)

    def _again(self, ask: Callable[["psycopg.Connection[tuple[Any, ...]]"], _T]) -> _T:
        """Ask the database, and some times more if it does not answer."""
        for left in reversed(range(_TRIES)):
            try:
                with self._talking() as connection:
                    return ask(connection)
            except UnavailableError:
                if left == 0:
                    raise
                time.sleep(0.25 * (_TRIES - left))
        raise UnavailableError  # not reached: the last try returns or raises

    @contextlib.contextmanager
    def _talking(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """Connect, and give what the database answers its family."""
        try:
            with psycopg.connect(
                self.dsn, autocommit=True, connect_timeout=5, prepare_threshold=None
            ) as connection:
                yield connection
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            what = "in this database" if "relation" in str(error) else "new enough"
            msg = f"schema mlops is not {what}; make it: airflow mlops migrate"
            raise ConfigurationError(msg) from error
        except psycopg.errors.InsufficientPrivilege as error:
            msg = f"the ledger's login lacks a right, grant it role mlops_writer: {error}"
            raise ConfigurationError(msg) from error
        except (psycopg.DataError, psycopg.errors.CheckViolation) as error:
            msg = f"the ledger refuses what has no place in it: {error}"
            raise ConfigurationError(msg) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise no_answer("the ledger's database", error) from error


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

    def handed_over(self, model: str, step: str, about: str) -> Entry | None:
        """Return the newest entry by which a step put on record what it found."""
        known = (e for e in reversed(self.state(model).entries) if e.op == "handover")
        wanted = step, about
        return next((e for e in known if (e.evidence["step"], e.evidence["about"]) == wanted), None)

    def hash_of(self, model: str, seq: int) -> str | None:
        """Return the hash of an entry; nothing if there is none."""
        found = self.state(model).numbered(seq)
        return found.hash if found else None

    def weighed(self, model: str, *, ops: Sequence[str] = (), last: int = 0) -> State:
        """Return the same: nothing has to be read."""
        return self.state(model)

    def identity(self, model: str, version: int) -> None:
        """Return nothing: what is simulated has no files."""

    def append(self, entry: Entry) -> bool:
        """Keep the entry."""
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


def _next(draft: Entry, state: State) -> Entry:
    """Complete an entry; now and then it says what those before it add up to, if there is room."""
    seq, head = state.head
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = replace(draft, at=now, seq=seq + 1, prev_hash=head)
    if seq - state.summed < TAIL or draft.op in ("set_aside", "vouch"):
        return entry
    summed = replace(entry, sum=state.summary())
    return summed if len(summed.body().encode()) <= ENTRY_BYTES else entry
