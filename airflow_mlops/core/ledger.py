"""
Decisions: append-only, hash-chained, one line of entries per model, in PostgreSQL.

The commit point is one ``INSERT`` of ``seq = last + 1``: the primary key makes it a compare-and-set
on "nobody decided since I looked". Whoever loses reads again and decides again; there is no lock.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import psycopg

from airflow_mlops.core.errors import (
    ConfigurationError,
    KeyReusedError,
    LedgerLostError,
    UnavailableError,
)
from airflow_mlops.core.refs import canonical_digest, canonical_json

ZERO = "0" * 64
"""Hash before the first entry."""

DECISIONS = ("retrain", "keep", "wait", "ask")
"""Operations by which a tick of the monitor is answered."""

_RACES = 50
_TRIES = 4


@dataclass(frozen=True)
class Entry:
    """
    One decision on record.

    :param seq: its number, from 1.
    :param op: what was decided: ``retrain``, ``keep``, ``promote``, ``refuse`` and so on.
    :param key: idempotency key: the same key gets the same answer for ever.
    :param by: who decided: a task, or a person.
    :param at: when it was decided, ISO 8601 in UTC.
    :param reason: why, in one sentence.
    :param version: version of the model it is about, if it is about one.
    :param epoch: ``seq`` of the last change of champion it was decided against.
    :param evidence: what was looked at, thresholds included; plain JSON types.
    :param ask: digest of the request, to tell a retry from another request with the same key.
    """

    model: str
    op: str
    key: str
    by: str
    reason: str
    version: int | None = None
    epoch: int = 0
    order: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    ask: str = ""
    at: str = ""
    seq: int = 0
    prev_hash: str = ZERO

    def body(self) -> str:
        """Return the canonical JSON that is stored and hashed."""
        data = {k: v for k, v in self.to_dict().items() if k not in ("hash", "prev_hash")}
        return canonical_json(data)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the previous hash, a line feed and the body."""
        return hashlib.sha256(f"{self.prev_hash}\n{self.body()}".encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        names = (*Entry.__dataclass_fields__,)
        return {n: getattr(self, n) for n in names} | {"evidence": dict(self.evidence)}

    @classmethod
    def from_body(cls, body: str, prev_hash: str) -> "Entry":
        """Rebuild the entry whose :meth:`body` was stored."""
        return cls(**json.loads(body), prev_hash=prev_hash)


@dataclass(frozen=True, slots=True)
class State:
    """
    What the entries of one model add up to.

    :param stack: champions in the order a plain rollback walks back along, newest last.
    :param ever: every version that ever was champion.
    :param mark: newest order that was ever promoted; an older candidate is stale.
    :param epoch: ``seq`` of the last change of champion.
    :param challenger: version that waits for its rollout.
    :param identity: MLflow run and file digest of each version that an entry names.
    """

    entries: tuple[Entry, ...] = ()
    stack: tuple[int, ...] = ()
    ever: frozenset[int] = frozenset()
    mark: int | None = None
    epoch: int = 0
    challenger: int | None = None
    identity: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def champion(self) -> int | None:
        """Version that predicts now."""
        return self.stack[-1] if self.stack else None

    @property
    def previous(self) -> int | None:
        """Version that a plain rollback returns to."""
        return self.stack[-2] if len(self.stack) > 1 else None

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last entry."""
        last = self.entries[-1] if self.entries else None
        return (last.seq, last.hash) if last else (0, ZERO)

    def last(self, *ops: str) -> Entry | None:
        """Return the newest entry with one of these operations."""
        return next((e for e in reversed(self.entries) if e.op in ops), None)

    def of(self, key: str) -> Entry | None:
        """Return the entry of an idempotency key."""
        return next((e for e in self.entries if e.key == key), None)

    def changed_at(self, when: datetime) -> Entry | None:
        """
        Return the entry that had made the champion of a moment, by the clock of the data.

        An entry happened when the newest row that any decision before it had seen was observed;
        before the first decision, when it was written.

        :param when: a moment with a time zone.
        """
        found, now = None, ""
        for entry in self.entries:
            now = entry.evidence.get("now") or now
            if entry.op in ("promote", "rollback"):
                found = entry if datetime.fromisoformat(now or entry.at) <= when else found
        return found

    def after(self, entry: Entry) -> "State":
        """Return the state with one more entry."""
        state = replace(self, entries=(*self.entries, entry))
        version = entry.version
        if version is not None and (run := entry.evidence.get("run_id")):
            files = (run, entry.evidence.get("digest", ""))
            state = replace(state, identity={version: files, **state.identity})
        if entry.op == "promote" and version is not None:
            orders = [order for order in (self.mark, entry.order) if order is not None]
            mark = max(orders, default=None)
            kept = tuple(v for v in self.stack if v != version)
            state = replace(state, stack=(*kept, version), ever=self.ever | {version}, mark=mark)
        if entry.op == "rollback" and version is not None:
            cut = self.stack.index(version) + 1 if version in self.stack else -1
            stack = self.stack[:cut] if cut > 0 else (*self.stack[:-1], version)
            state = replace(state, stack=stack)
        if entry.op in ("promote", "rollback"):
            state = replace(state, epoch=entry.seq)
        if entry.op == "propose":
            state = replace(state, challenger=version)
        elif entry.op in ("promote", "refuse", "reject") and version == self.challenger:
            state = replace(state, challenger=None)
        return state


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
        state = State()
        for number, (seq, body, digest, prev_hash) in enumerate(rows, start=1):
            entry = _read(body, prev_hash)
            known = (number, state.head[1], entry.hash, entry.model) if entry else ()
            if entry is None or (seq, prev_hash, digest, model) != known:
                msg = (
                    f"the ledger of {model} breaks at entry {number}: it was changed or lost. "
                    "Nothing is decided until somebody has looked: airflow mlops doctor"
                )
                raise LedgerLostError(msg)
            state = state.after(entry)
        return state

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
        :param build: makes the entry from the current state; called again after a lost race.
        :raises KeyReusedError: if the key belongs to another request.
        :raises UnavailableError: if the database does not answer, or 50 races in a row were lost.
        """
        digest = canonical_digest(dict(ask))[:16]
        for _ in range(_RACES):
            state = self.state(model)
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

    def _query(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
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

    def _append(self, entry: Entry) -> bool:
        self.states[entry.model] = self.state(entry.model).after(entry)
        return True


def no_answer(what: str, error: psycopg.Error) -> ConfigurationError | UnavailableError:
    """Give a failed connection its family: a wrong login stays wrong, a server may come back."""
    text = str(error).strip()
    if any(sign in text for sign in ("authentication failed", "does not exist", "no password")):
        return ConfigurationError(f"cannot log in to {what}: {text}; check the connection")
    return UnavailableError(f"{what} does not answer: {text}")


def _read(body: str, prev_hash: str) -> Entry | None:
    """Rebuild an entry; nothing if somebody else wrote it: it has other fields."""
    try:
        return Entry.from_body(body, prev_hash)
    except TypeError:
        return None
