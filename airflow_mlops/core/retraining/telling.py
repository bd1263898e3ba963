"""
What people are told about decisions: one message for each that matters, a digest of the rest.

A decision that asks a person fails its task, which is told as a failure; it is not told twice.
"""

from dataclasses import dataclass
from datetime import timedelta

from airflow_mlops.core.ledger import Entry, State
from airflow_mlops.core.retraining.evidence import moment

QUIET = ("keep", "wait")


@dataclass(frozen=True, slots=True)
class Message:
    """
    One message.

    :param subject: what it is about; the same message has the same one.
    :param line: what it says.
    :param digest: whether it sums up what was declined.
    """

    subject: str
    line: str
    digest: bool = False


def message_of(state: State, entry: Entry, told: str, every: timedelta) -> Message | None:
    """
    Return what is to be told after a decision, if anything.

    :param state: the ledger, with the decision in it.
    :param told: moment of the last digest by the clock of the data, ISO 8601; empty: none yet.
    :param every: time between two digests.
    """
    model, trigger = entry.model, entry.evidence["trigger"]
    held = str(entry.evidence.get("held", ""))
    if entry.op == "retrain" or held.startswith("budget"):
        subject = f"decision {entry.seq}" if entry.op == "retrain" else held
        return Message(subject, f"{model}: {entry.op} ({trigger}): {entry.reason}")
    if entry.op not in QUIET:
        return None
    declined = [
        e
        for e in state.entries
        if e.op in QUIET and "now" in e.evidence and (not told or _at(e) > told)
    ]
    if not declined or moment(_at(entry)) - moment(told or _at(declined[0])) < every:
        return None
    line = (
        f"{model}: {len(declined)} times no retrain since {_at(declined[0])}, the last time: "
        f"{entry.reason}"
    )
    return Message(f"digest {_at(entry)}", line, digest=True)


def _at(entry: Entry) -> str:
    return str(entry.evidence["now"])
