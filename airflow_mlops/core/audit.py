"""
The whole ledger of a model, looked at entry by entry; and what a person says about single entries.

Memory does not grow with the ledger: it is read as a stream.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from airflow_mlops.core.chain import Row, Signer, Trust, foreign, looked_at, understood
from airflow_mlops.core.entries import ZERO, Entry, State
from airflow_mlops.core.errors import ConfigurationError, UnavailableError
from airflow_mlops.core.ledger import Ledger

_RACES = 50


@dataclass(frozen=True, slots=True)
class Audit:
    """
    What the ledger of one model is like.

    :param head: number and hash of the last entry; 0 if there is none.
    :param foreign: entries that this package did not write and nobody has set aside, in words.
    :param aside: entries that were set aside.
    """

    model: str
    head: tuple[int, str]
    foreign: tuple[str, ...]
    aside: tuple[int, ...]

    def __str__(self) -> str:
        aside = f", {len(self.aside)} set aside" if self.aside else ""
        return f"{self.head[0]} entries verified{aside}"


def verify(ledger: Ledger, model: str) -> Audit:
    """
    Check the chain of all entries, whether each is understood, and what some say all add up to.

    :raises LedgerLostError: if an entry was changed, or one is missing.
    :raises UnavailableError: if the database does not answer.
    """
    trust, wrong, last = ledger.trust(model), [], Row(0, None, ZERO, ZERO)
    state, part = State(), list[Entry]()
    for row, entry, why in looked_at(model, ledger.rows(model), signer=ledger.signer, trust=trust):
        last = row
        if why:
            wrong.append(why)
        if entry is None:
            continue
        if entry.sum is not None:
            state, part = state.counting(part), []
            if not _corrected(entry.seq, trust) and dict(entry.sum) != state.summary():
                text = "what it says that the entries before it add up to is not what they do"
                wrong.append(foreign(model, entry.seq, text))
        part.append(entry)
    return Audit(model, (last.seq, last.hash), tuple(wrong), tuple(sorted(trust.aside)))


def _corrected(seq: int, trust: Trust) -> bool:
    """Say whether an entry was set aside after it had been counted."""
    return any(about <= seq <= by for about, by in trust.aside.items())


def set_aside(ledger: Ledger, model: str, seq: int, *, by: str, reason: str) -> Entry:
    """
    Put on record that an entry counts no more, whoever wrote it; it stays where it is.

    :param seq: its number.
    :raises ConfigurationError: if there is none, or it says such a thing itself.
    """
    there = next((row for row in ledger.rows(model) if row.seq == seq), None)
    if there is None:
        msg = f"the ledger of {model} has no entry {seq} that could be set aside"
        raise ConfigurationError(msg)
    if seq in {*ledger.trust(model).aside.values()}:
        msg = f"entry {seq} of {model} sets another one aside; that cannot be taken back"
        raise ConfigurationError(msg)
    evidence = {"entry": seq, "hash": there.hash}
    return _said(ledger, Entry(model, "set_aside", f"aside:{seq}", by, reason, evidence=evidence))


def vouch(ledger: Ledger, model: str, *, by: str, reason: str) -> Entry:
    """
    Put on record that all entries so far are believed, although they are not signed.

    :raises ConfigurationError: if nothing is signed here, or there is no entry.
    :raises LedgerLostError: if the chain is broken.
    """
    if not ledger.signer.keys:
        msg = "nothing is signed here: give the connection of the ledger a signing_key first"
        raise ConfigurationError(msg)
    found = verify(replace(ledger, signer=Signer()), model)
    if not found.head[0] or found.foreign:
        msg = f"nobody can vouch for the ledger of {model}: {'; '.join(found.foreign) or 'empty'}"
        raise ConfigurationError(msg)
    seq, digest = found.head
    evidence = {"until": seq, "hash": digest}
    return _said(ledger, Entry(model, "vouch", f"vouch:{seq}", by, reason, evidence=evidence))


def _said(ledger: Ledger, draft: Entry) -> Entry:
    """Append what a person says, whatever the entries before it are like."""
    for _ in range(_RACES):
        last = Row(0, None, ZERO, ZERO)
        for last in ledger.rows(draft.model):
            said = understood(last)[0] if ledger.signer.knows(draft.model, last) else None
            if said is not None and (said.op, said.key) == (draft.op, draft.key):
                return said
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = replace(draft, at=now, seq=last.seq + 1, prev_hash=last.hash)
        if ledger.append(entry):
            return entry
    msg = f"lost {_RACES} races in a row for the next entry of {draft.model}; try again"
    raise UnavailableError(msg)
