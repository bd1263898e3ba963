"""What a decision looks at, and what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, Self

from airflow_mlops.core.ledger import State
from airflow_mlops.core.monitoring.served import ServedWindow

Op = Literal["keep", "wait", "ask", "retrain"]
Burden = Literal["absolute", "better", "not worse"]


@dataclass(frozen=True, slots=True)
class Champion:
    """
    What ``decide`` has to know about the champion.

    :param base_loss: loss on the last quarter of its training span, fitted on the rest.
    :param training_rows: labelled rows it was fitted on.
    :param trained_until: end of these rows, ISO 8601; empty if unknown.
    """

    version: int
    base_loss: float
    training_rows: int
    trained_until: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """
    A person asks for a retrain.

    :param seq: entry of the ledger that holds it.
    :param params: parameters for the training function; they replace the policy's.
    :param pins: versions to train with instead of the newest: ``features``, ``data``.
    """

    seq: int
    by: str
    note: str
    params: Mapping[str, Any] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Everything ``decide`` looks at.

    :param data: version of the rows.
    :param labels: version of the labels.
    :param now: newest time in the data: the clock of cooldown and budget, ISO 8601.
    :param windows: labelled windows the champion served since the last attempt, oldest first.
    :param drift: whether each of the last windows drifted, oldest first; ``None``: not tested.
    :param drifted: columns that drifted in the newest window.
    :param labelled_rows: labelled rows now.
    :param labelled_at_last_attempt: labelled rows at the last attempt; 0 if there was none.
    :param attempts: times of past attempts by the clock of the data, oldest first, ISO 8601.
    :param broken: breaks of the champion's contract, in words.
    :param waiting: version that was proposed and that nobody has answered yet.
    :param added: columns of the rows that the champion does not know.
    :param dependencies: changes of packages that the champion uses, unless an attempt was made with
        these very changes already.
    :param packages: all of these changes, tried or not.
    :param labelled_until: end of the newest labelled window, ISO 8601; empty if there is none.
    :param cited: findings that all this was read from, as an entry names them.
    """

    model: str
    data: str
    labels: str
    now: str
    champion: Champion | None
    windows: tuple[ServedWindow, ...]
    drift: tuple[bool | None, ...]
    drifted: tuple[str, ...]
    labelled_rows: int
    labelled_at_last_attempt: int
    attempts: tuple[str, ...]
    request: Request | None = None
    broken: tuple[str, ...] = ()
    waiting: int | None = None
    added: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    labelled_until: str = ""
    packages: tuple[str, ...] = ()
    cited: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"windows": [w.to_dict() for w in self.windows]}


@dataclass(frozen=True, slots=True)
class Decision:
    """
    The answer of one tick.

    :param op: ``retrain``; or ``keep``: nothing asks for it; ``wait``: something does, but a
        cooldown or a budget holds it back; ``ask``: a person has to look.
    :param trigger: what asked for it.
    :param reason: why, in one sentence with the numbers.
    :param burden: what the candidate will have to prove.
    :param facts: the numbers behind the reason.
    :param held: what holds a retrain back: ``cooldown``, or ``budget until`` a moment; else empty.
    """

    op: Op
    trigger: str
    reason: str
    burden: Burden = "not worse"
    params: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    held: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the decision that :meth:`to_dict` wrote."""
        return cls(**data)


def gather(
    state: State,
    *,
    model: str,
    data: str,
    labels: str,
    now: str,
    champion: Champion | None,
    windows: Sequence[ServedWindow],
    drift: Sequence[tuple[bool | None, tuple[str, ...]]],
    labelled_rows: int,
    broken: Sequence[str] = (),
    added: Sequence[str] = (),
    dependencies: Sequence[str] = (),
    labelled_until: str = "",
    cited: Mapping[str, Any] | None = None,
) -> Evidence:
    """
    Put the evidence together from the ledger and from what the monitors found.

    :param windows: every labelled window that the champion served.
    :param drift: flag and drifted columns of the last windows, oldest first.
    :param cited: findings that all this was read from, as an entry names them.
    """
    tried = [e for e in state.entries if e.op == "retrain" and e.evidence.get("round", 1) == 1]
    last = tried[-1].evidence if tried else {}
    since = str(last.get("labelled_until", ""))
    seen = [e.evidence.get("dependencies") for e in tried if e.seq > state.epoch]
    seen += [last.get("dependencies")]
    fresh = tuple(w for w in windows if not since or moment(w.until) > moment(since))
    return Evidence(
        model,
        data,
        labels,
        now,
        champion,
        fresh,
        tuple(flag for flag, _ in drift),
        drift[-1][1] if drift else (),
        labelled_rows,
        int(last.get("labelled_rows", 0)),
        tuple(str(e.evidence["now"]) for e in tried),
        open_request(state),
        tuple(broken),
        state.challenger,
        tuple(added),
        () if list(dependencies) in seen else tuple(dependencies),
        labelled_until,
        tuple(dependencies),
        cited or {},
    )


def open_request(state: State) -> Request | None:
    """
    Return the oldest request of a person that no decision has answered yet.

    A decision that says nothing about it, such as "the contract is broken", is no answer.
    """
    answered = {
        e.evidence.get("request")
        for e in state.entries
        if e.op == "retrain" or (e.op == "keep" and e.evidence.get("trigger") == "request")
    }
    waiting = (e for e in state.entries if e.op == "request" and e.seq not in answered)
    asked = next(waiting, None)
    if asked is None:
        return None
    params, pins = (asked.evidence.get(part, {}) for part in ("params", "pins"))
    return Request(asked.seq, asked.by, asked.reason, params, pins)


def moment(text: str) -> datetime:
    """Read a time that evidence holds, ISO 8601."""
    return datetime.fromisoformat(text)
