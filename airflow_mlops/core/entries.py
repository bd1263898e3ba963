"""What is on record about a model: its decisions, and who stands where after them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from airflow_mlops.core.errors import ForeignEntryError
from airflow_mlops.core.refs import canonical_json

ZERO = "0" * 64
"""Hash before the first entry."""

MOVES = ("propose", "refuse", "reject", "promote", "rollback", "adopt", "stage", "vote")
"""Operations that move a champion, or a candidate on its way."""

CHAMPIONS = ("promote", "rollback", "adopt")
"""Operations after which somebody else is champion."""

CHAMPIONS_KEPT = 2_000
"""Champions that a sum names, the newest ones: a rollback leads no further back."""

_ANSWERS = ("promote", "refuse", "reject", "adopt")


def text_hash(prev_hash: str, body: str) -> str:
    """
    Return the SHA-256 that an entry is stored under.

    :param prev_hash: of the entry before it.
    :param body: as it is stored.
    """
    return hashlib.sha256(f"{prev_hash}\n{body}".encode()).hexdigest()


class Evidence(dict[str, Any]):
    """What an entry says that it rests on; asked for what it lacks, it says so by name."""

    def __missing__(self, name: str) -> Any:
        known = ", ".join(map(str, self)) or "nothing"
        msg = (
            f"an entry of the ledger lacks {name!r} in its evidence, it has {known}: it was not "
            "written by this package. See which: airflow mlops doctor"
        )
        raise ForeignEntryError(msg)


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
    :param sum: what the entries before it add up to; only some entries say so.
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
    sum: Mapping[str, Any] | None = None

    def body(self) -> str:
        """Return the canonical JSON that is stored and hashed."""
        beside = ("prev_hash",) if self.sum is not None else ("prev_hash", "sum")
        return canonical_json({k: v for k, v in self.to_dict().items() if k not in beside})

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the previous hash, a line feed and the body."""
        return text_hash(self.prev_hash, self.body())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        names = (*Entry.__dataclass_fields__,)
        return {n: getattr(self, n) for n in names} | {"evidence": dict(self.evidence)}

    @classmethod
    def from_body(cls, body: str, prev_hash: str) -> "Entry":
        """
        Rebuild the entry whose :meth:`body` was stored.

        :raises ValueError: if it is no entry; the field that is wrong is named.
        """
        data = json.loads(body)
        wrong = _wrong(data)
        if wrong:
            raise ValueError(wrong)
        return cls(**{**data, "evidence": Evidence(data["evidence"])}, prev_hash=prev_hash)


_WHOLE = frozenset(("epoch", "seq"))
_MAYBE_WHOLE = frozenset(("version", "order"))


def _wrong(data: Any) -> str:
    """Say what keeps a body from being an entry; empty if nothing does."""
    if not isinstance(data, dict):
        return "it is no object"
    fields = {*Entry.__dataclass_fields__} - {"prev_hash"}
    unknown, missing = {*data} - fields, fields - {*data} - {"sum"}
    if unknown or missing:
        unknown_text = f"it has {', '.join(map(repr, sorted(unknown)))}" if unknown else ""
        lacks = f"it lacks {', '.join(map(repr, sorted(missing)))}" if missing else ""
        return "; ".join(filter(None, (unknown_text, lacks)))
    for name, value in data.items():
        if not _fits(name, value):
            return f"its {name} is {str(value)[:60]!r}"
    return ""


def _sums(value: Any) -> bool:
    """Say whether a value is what :meth:`State.summary` returns."""
    if not isinstance(value, dict) or value.keys() != State().summary().keys():
        return False
    lists = all(
        isinstance(value[name], list) and all(type(v) is int for v in value[name])
        for name in ("stack", "ever")
    )
    others = (value[name] for name in ("mark", "proposed", "challenger"))
    return (
        lists and type(value["epoch"]) is int and all(v is None or type(v) is int for v in others)
    )


def _fits(name: str, value: Any) -> bool:
    if name == "sum":
        return value is None or _sums(value)
    if name == "evidence":
        return isinstance(value, dict)
    if name in _WHOLE or name in _MAYBE_WHOLE:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (value is None and name in _MAYBE_WHOLE)
    if name == "at" and isinstance(value, str):
        try:
            return datetime.fromisoformat(value).tzinfo is not None
        except ValueError:
            return False
    return isinstance(value, str)


@dataclass(frozen=True, slots=True)
class State:
    """
    What the entries of one model add up to.

    :param entries: oldest first; of :meth:`Ledger.standing` the newest only.
    :param stack: champions in the order a plain rollback walks back along, newest last.
    :param ever: every version that ever was champion.
    :param mark: newest order that was ever promoted; an older candidate is stale.
    :param proposed: newest order that was ever proposed.
    :param epoch: ``seq`` of the last change of champion.
    :param challenger: version that waits for its rollout.
    :param summed: ``seq`` of the newest entry that says what those before it add up to.
    """

    entries: tuple[Entry, ...] = ()
    stack: tuple[int, ...] = ()
    ever: frozenset[int] = frozenset()
    mark: int | None = None
    proposed: int | None = None
    epoch: int = 0
    challenger: int | None = None
    summed: int = 0

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

    def numbered(self, seq: int) -> Entry | None:
        """Return the entry of a number."""
        return next((e for e in reversed(self.entries) if e.seq == seq), None)

    def since(self, seq: int) -> tuple[Entry, ...]:
        """Return the entries after a number."""
        return tuple(e for e in self.entries if e.seq > seq)

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
            if entry.op in CHAMPIONS:
                found = entry if datetime.fromisoformat(now or entry.at) <= when else found
        return found

    @classmethod
    def of_entries(cls, entries: Iterable[Entry]) -> "State":
        """Add up entries, oldest first; those without a key are counted, and not kept."""
        kept = tuple(entries)
        return _added(cls(), kept, tuple(entry for entry in kept if entry.key))

    @classmethod
    def since_sum(cls, entries: Sequence[Entry], base: int) -> "State":
        """
        Add up entries, oldest first, beginning with what one of them says of those before it.

        :param base: number of the entry that says it; earlier ones are kept, and count no more.
        """
        later = [entry for entry in entries if entry.seq >= base]
        said = later[0].sum or {}
        begun = cls(
            stack=tuple(map(int, said["stack"])),
            ever=frozenset(map(int, said["ever"])),
            mark=said["mark"],
            proposed=said["proposed"],
            epoch=int(said["epoch"]),
            challenger=said["challenger"],
        )
        return _added(begun, later, tuple(entries))

    def summary(self) -> dict[str, Any]:
        """Return what the entries add up to, without them: plain JSON types."""
        return {
            "stack": list(self.stack[-CHAMPIONS_KEPT:]),
            "ever": sorted(self.ever)[-CHAMPIONS_KEPT:],
            "mark": self.mark,
            "proposed": self.proposed,
            "epoch": self.epoch,
            "challenger": self.challenger,
        }

    def counting(self, entries: Iterable[Entry]) -> "State":
        """Return what it adds up to with more entries, without keeping any."""
        return _added(self, entries, ())

    def after(self, entry: Entry) -> "State":
        """Return the state with one more entry."""
        return _added(self, (entry,), (*self.entries, entry))


def _added(state: State, more: Iterable[Entry], entries: tuple[Entry, ...]) -> State:
    """Add entries to a state in one go: a ledger may hold many."""
    stack, ever = dict.fromkeys(state.stack), set(state.ever)
    mark, proposed, epoch, challenger = state.mark, state.proposed, state.epoch, state.challenger
    summed = state.summed
    for entry in more:
        version = entry.version
        if entry.sum is not None:
            summed = entry.seq
        if version is None or entry.op not in MOVES:
            continue
        if entry.op in CHAMPIONS:
            stack, epoch = _stacked(stack, entry.op, version), entry.seq
        if entry.op in ("promote", "adopt"):
            ever.add(version)
            mark = _newest(mark, entry.order)
        if entry.op == "propose":
            challenger, proposed = version, _newest(proposed, entry.order)
        elif entry.op in _ANSWERS and version == challenger:
            challenger = None
    return State(
        entries=entries,
        stack=tuple(stack),
        ever=frozenset(ever),
        mark=mark,
        proposed=proposed,
        epoch=epoch,
        challenger=challenger,
        summed=summed,
    )


def _stacked(stack: dict[int, None], op: str, version: int) -> dict[int, None]:
    """Return the champions that a plain rollback walks back along; a dict finds one at once."""
    if op != "rollback":
        stack.pop(version, None)
        stack[version] = None
        return stack
    kept = list(stack)
    left = kept[: kept.index(version) + 1] if version in stack else [*kept[:-1], version]
    return dict.fromkeys(left)


def _newest(*orders: int | None) -> int | None:
    return max((order for order in orders if order is not None), default=None)
