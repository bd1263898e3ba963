"""
Rows of the ledger, and whether they are what was written: hashed, chained, signed, understood.

A chain that breaks says that something was changed or lost. An entry that fits the chain, and that
this package did not write, is another thing: somebody added it, and a person can set it aside.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from airflow_mlops.core.entries import ZERO, Entry, State, text_hash
from airflow_mlops.core.errors import ForeignEntryError, LedgerLostError


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row of the ledger.

    :param body: as it is stored; ``None``: it was not read.
    :param brief: operation, version and order, if the body was not read.
    """

    seq: int
    body: str | None
    hash: str
    prev_hash: str
    signature: str | None = None
    brief: tuple[str, int | None, int | None] = ("", None, None)

    @classmethod
    def of(cls, found: Sequence[Any]) -> "Row":
        """Read the columns of a row: the first five, then those of ``brief`` if there are any."""
        seq, body, digest, prev_hash, signature, *brief = found
        op, version, order = brief or ("", None, None)
        return cls(seq, body, digest, prev_hash, signature, brief=(op, version, order))

    @classmethod
    def made(cls, entry: Entry, signer: "Signer") -> "Row":
        """Return the row that an entry is stored in."""
        signature = signer.sign(entry.model, entry.seq, entry.hash)
        return cls(entry.seq, entry.body(), entry.hash, entry.prev_hash, signature)


@dataclass(frozen=True, slots=True)
class Signer:
    """
    Signs entries, and knows the signatures of its keys; without a key, anything is signed.

    :param keys: secrets, the newest first: it signs, all of them are known.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)

    def sign(self, model: str, seq: int, digest: str) -> str | None:
        """Return the signature of an entry; nothing without a key."""
        return _signature(self.keys[0], model, seq, digest) if self.keys else None

    def knows(self, model: str, row: Row) -> bool:
        """Say whether an entry was signed with one of the keys."""
        given = row.signature or ""
        signs = (_signature(key, model, row.seq, row.hash) for key in self.keys)
        return not self.keys or any(hmac.compare_digest(given, sign) for sign in signs)


@dataclass(frozen=True, slots=True)
class Trust:
    """
    What people said about entries.

    :param aside: entries that were set aside -> the entry that says so.
    :param until: entries up to this one are believed without a signature.
    """

    aside: dict[int, int] = field(default_factory=dict)
    until: int = 0


def trust_of(model: str, rows: Iterable[Row], signer: Signer) -> Trust:
    """Read what people said about entries; what is not signed says nothing."""
    found, until = {}, 0
    for row in rows:
        entry = understood(row)[0] if row.body and signer.knows(model, row) else None
        if entry is None:
            continue
        about, up_to = entry.evidence.get("entry"), entry.evidence.get("until")
        if entry.op == "set_aside" and type(about) is int and 0 < about < entry.seq:
            found[about] = entry.seq
        if entry.op == "vouch" and type(up_to) is int and up_to < entry.seq:
            until = max(until, up_to)
    return Trust(found, until)


def entries_of(
    model: str,
    rows: Iterable[Row],
    *,
    signer: Signer,
    trust: Trust | None = None,
    free: int = 0,
    written_since: int = 0,
) -> Iterator[Entry]:
    """
    Yield the entries of rows, in order, after looking whether each is what was written.

    :param rows: by number; the first one of a ledger is number 1.
    :param trust: what people said; those that were set aside are passed over.
    :param free: number up to which entries may be left out.
    :param written_since: of later entries it is seen, too, that they are written as only this
        package writes them. Of older ones that would find nothing more: whoever rewrites one has to
        rewrite its successors as well.
    :raises LedgerLostError: if an entry was changed, or one is missing.
    :raises ForeignEntryError: if one was not written by this package, and nobody set it aside.
    """
    looked = looked_at(
        model, rows, signer=signer, trust=trust, free=free, written_since=written_since
    )
    for _, entry, wrong in looked:
        if wrong:
            raise ForeignEntryError(wrong)
        if entry is not None:
            yield entry


def looked_at(
    model: str,
    rows: Iterable[Row],
    *,
    signer: Signer,
    trust: Trust | None = None,
    free: int = 0,
    written_since: int = 0,
) -> Iterator[tuple[Row, Entry | None, str]]:
    """
    Do as :func:`entries_of`, and yield each row with its entry, or with what is wrong with it.

    :raises LedgerLostError: if an entry was changed, or one is missing.
    """
    trusted, before = trust or Trust(), Row(0, None, ZERO, ZERO)
    for row in rows:
        linked = (row.seq, row.prev_hash) == (before.seq + 1, before.hash)
        alone = before.seq + 1 < row.seq <= free + 1
        same = row.body is None or text_hash(row.prev_hash, row.body) == row.hash
        if not same or not (linked or alone):
            raise _broken(model, row.seq if alone else before.seq + 1)
        before = row
        if row.seq in trusted.aside:
            yield row, None, ""
        elif row.seq > trusted.until and not signer.knows(model, row):
            wrong = "it is not signed with the key of this installation"
            yield row, None, foreign(model, row.seq, wrong)
        elif row.body is None:
            op, version, order = row.brief
            yield row, Entry(model, op, "", "", "", version, order=order, seq=row.seq), ""
        else:
            entry, wrong = understood(row, anew=row.seq > written_since)
            if entry is not None and (entry.model, entry.seq) != (model, row.seq):
                raise _broken(model, row.seq)
            yield row, entry, foreign(model, row.seq, wrong) if wrong else ""


def understood(row: Row, *, anew: bool = True) -> tuple[Entry | None, str]:
    """
    Read the entry of a row, or say why it is none.

    :param anew: whether it has to be written as only this package writes it.
    """
    try:
        entry = Entry.from_body(row.body or "", row.prev_hash)
    except (ValueError, RecursionError) as error:
        return None, str(error)
    if anew and entry.body() != row.body:
        return None, "it is not written as this package writes"
    return entry, ""


def state_of(entries: Sequence[Entry], base: int) -> State:
    """
    Add up entries.

    :param base: number of the one whose sum counts for what came before it; 0: none, add up all.
    """
    return State.since_sum(entries, base) if base else State.of_entries(entries)


def foreign(model: str, seq: int, wrong: str) -> str:
    """Say that this package did not write an entry, and what to do about it."""
    return (
        f"entry {seq} of the ledger of {model} was not written by this package, or by a newer one: "
        f"{wrong}. Nothing is decided for {model} until a person has looked: airflow mlops doctor "
        f"{model} --set-aside {seq} --reason '...'"
    )


def _broken(model: str, seq: int) -> LedgerLostError:
    return LedgerLostError(
        f"the ledger of {model} breaks at entry {seq}: it was changed or lost. Nothing is decided "
        "until somebody has looked: airflow mlops doctor"
    )


def _signature(key: str, model: str, seq: int, digest: str) -> str:
    return hmac.new(key.encode(), f"{model}\n{seq}\n{digest}".encode(), sha256).hexdigest()
