"""
The words of a policy: frozen data that a Dag file can hold and a ledger can hash.

Nothing here does anything. A word checks its own values when it is made, so that a bad policy is
an import error of the Dag file and not a failed task at night.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from typing import Any, ClassVar, Self, TypeVar

LOSSES = ("absolute_error", "brier", "log_loss", "squared_error")
"""Metrics of which less is better."""

_DURATION = re.compile(r"(?P<number>[0-9]+)\s*(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SUSTAINED = re.compile(r"(?P<n>[0-9]+) of (?P<m>[0-9]+)")
_BUDGET = re.compile(r"(?P<count>[0-9]+) per (?P<span>.+)")


def duration(text: str) -> timedelta:
    """
    Read a length of time such as ``"7d"``; units are s, m, h, d and w.

    :raises ValueError: if ``text`` is not a whole number and a unit.

    >>> duration("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    match = _DURATION.fullmatch(str(text))
    if match is None:
        msg = f"not a duration: {text!r} (a whole number and one of s, m, h, d, w, such as '7d')"
        raise ValueError(msg)
    return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        msg = f"{name} must lie between {low:g} and {high:g}, not {value!r}"
        raise ValueError(msg)


class Word:
    """What every word of a policy can do: become plain JSON types and come back."""

    __slots__ = ()
    known: ClassVar[dict[str, type["Word"]]] = {}

    def __init_subclass__(cls) -> None:
        Word.known[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the word itself under ``word``."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {"word": type(self).__name__} | values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """
        Rebuild the word that :meth:`to_dict` wrote.

        :raises ValueError: if the word is not known, or is not a ``cls``.
        """
        found = Word.known.get(str(data.get("word")))
        if found is None or not issubclass(found, cls):
            known = ", ".join(sorted(n for n, k in Word.known.items() if issubclass(k, cls)))
            msg = f"unknown word of a policy: {data.get('word')!r}; known: {known}"
            raise ValueError(msg)
        values = {f.name: data[f.name] for f in fields(found) if f.name in data}  # type: ignore[arg-type]
        for name, value in values.items():
            if isinstance(value, list | tuple):
                parts = (Word.from_dict(v) if isinstance(v, Mapping) else v for v in value)
                values[name] = tuple(parts)
        return found(**values)


@dataclass(frozen=True, slots=True)
class Table(Word):
    """
    Where new rows and their labels come from.

    :param conn_id: Airflow connection to the PostgreSQL server.
    :param table: table or view of the rows, ``schema.table``, or a query in parentheses.
    :param key: column that names a row; unique.
    :param time: timestamp column by which rows arrive.
    :param label: column that holds the label.
    :param labels: table of the labels, with the columns ``key``, ``time`` (of the row) and
        ``label``; labels usually arrive later than their rows.
    :param lateness: how late a row, or a label, may arrive behind newer ones and still be read;
        what is later stays unread.
    :param columns: columns to read from ``table``; none: all.
    :param adopt: columns that may join the rows when ``table`` begins to offer them; others are
        left out, with a warning. If ``columns`` are named, name it there as well.
    """

    conn_id: str
    table: str
    key: str
    time: str
    label: str
    labels: str
    lateness: str = "0d"
    columns: tuple[str, ...] | None = None
    adopt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        duration(self.lateness)
        for name in ("conn_id", "table", "key", "time", "label", "labels"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                msg = f"Table {name} is {value!r}; it has to be a name"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Sql(Word):
    """
    Features by SQL, with what was known at the time of each row; computed once, as a dataset.

    :param select: one ``select`` of DuckDB over ``rows``, ``labels`` and ``inputs``, which makes
        key and time of the rows, too. If a row sees the future, it is refused.
    :param inputs: further names in it -> dataset.
    :param known_after: name in it -> how long after its own time a row of it is known, such as
        ``{"labels": "7d"}``.
    """

    select: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    known_after: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in self.known_after.items():
            duration(text)
            if name not in (names := ("rows", "labels", *self.inputs)):
                msg = f"Sql known_after {name!r} is no input; there are {', '.join(names)}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Window(Word):
    """
    Which rows to learn from.

    :param span: how much history to train on, counted back from the newest labelled row.
    :param step: length of one window: the unit of monitoring, of labels and of the hold-out.
    """

    span: str
    step: str = "7d"

    def __post_init__(self) -> None:
        if duration(self.span) < 2 * duration(self.step):
            msg = f"span {self.span!r} must hold two windows of {self.step!r} or more"
            raise ValueError(msg)


class Trigger(Word):
    """A reason to retrain."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Probe(Trigger):
    """
    Retrain when a cheap challenger, fitted on recent rows, beats the champion.

    :param metric: a per-row loss: ``brier``, ``log_loss``, ``absolute_error``, ``squared_error``.
    :param margin: by how much it has to be better, as a share of the champion's loss in its own
        backtest.
    :param alpha: one-sided error rate of the test.
    :param min_rows: labelled rows a window needs to be tested.
    """

    metric: str = "brier"
    margin: float = 0.05
    alpha: float = 0.05
    min_rows: int = 50

    def __post_init__(self) -> None:
        _between("Probe alpha", self.alpha, 1e-6, 0.5)
        _between("Probe margin", self.margin, 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class Regret(Trigger):
    """
    Retrain when waiting has cost too much.

    :param limit: loss of the champion beyond the challenger's, summed over the served windows, in
        windows of the champion's loss in its own backtest.
    """

    limit: float = 0.5

    def __post_init__(self) -> None:
        _between("Regret limit", self.limit, 1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class Growth(Trigger):
    """
    Retrain when the labelled rows have grown by this factor since the last attempt.

    :param factor: rows now over rows then.
    """

    factor: float = 1.5

    def __post_init__(self) -> None:
        _between("Growth factor", self.factor, 1.01, 1e6)


@dataclass(frozen=True, slots=True)
class Drift(Trigger):
    """
    Retrain when the data moved and stayed moved, and there are fresh labels to learn from.

    :param sustained: in how many of the last windows, such as ``"2 of 3"``.
    :param fresh: labelled rows since the last attempt, as a share of the champion's training rows.
    """

    sustained: str = "2 of 3"
    fresh: float = 0.10

    def __post_init__(self) -> None:
        n, m = self.counts
        if not 1 <= n <= m:
            msg = f"Drift sustained must be 'n of m' with 1 <= n <= m, not {self.sustained!r}"
            raise ValueError(msg)

    @property
    def counts(self) -> tuple[int, int]:
        """The two numbers of ``sustained``."""
        match = _SUSTAINED.fullmatch(self.sustained)
        if match is None:
            msg = f"Drift sustained must be written '2 of 3', not {self.sustained!r}"
            raise ValueError(msg)
        return int(match["n"]), int(match["m"])


@dataclass(frozen=True, slots=True)
class OnRequest(Trigger):
    """Retrain when a person asks for it, with a reason."""


_Trigger = TypeVar("_Trigger", bound=Trigger)


class Gate(Word):
    """A condition a candidate has to meet."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Loads(Gate):
    """
    The candidate loads from its stored files, builds the features of its training, and answers.

    :param p95_ms: 95th percentile of the time one small batch takes, in milliseconds.
    """

    p95_ms: float = 500.0


@dataclass(frozen=True, slots=True)
class AtLeast(Gate):
    """
    An absolute standard: the metric on the hold-out reaches ``value``.

    :param metric: a score for which more is better, such as ``roc_auc`` or ``accuracy``.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        if self.metric in LOSSES:
            msg = f"of {self.metric} less is better: write AtMost({self.metric!r}, {self.value})"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class AtMost(Gate):
    """
    An absolute standard: the loss on the hold-out stays at or below ``value``.

    :param metric: a loss for which less is better, such as ``brier``.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        if self.metric not in LOSSES:
            msg = f"of {self.metric} more is better: write AtLeast({self.metric!r}, {self.value})"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Better(Gate):
    """
    The candidate is surely better than the champion on the same rows.

    :param metric: a per-row loss.
    :param alpha: one-sided error rate.
    """

    metric: str = "brier"
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class NotWorse(Gate):
    """
    The candidate is surely not worse than the champion by more than a margin.

    :param metric: a per-row loss.
    :param margin: harm accepted for a fresher model, as a share of the champion's loss.
    :param alpha: one-sided error rate.
    """

    metric: str = "brier"
    margin: float = 0.02
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class Approval(Word):
    """
    Who may say yes.

    :param by: ids of the users who may answer, as Airflow's auth manager knows them: for its simple
        one the user names, for FAB the numbers of the users.
    :param within: how long to wait; no answer in time rejects the candidate.
    """

    by: Sequence[str]
    within: str = "2d"

    def __post_init__(self) -> None:
        duration(self.within)
        if isinstance(self.by, str):
            msg = f"Approval by {self.by!r}: write a list, by=[{self.by!r}]"
            raise ValueError(msg)
        object.__setattr__(self, "by", tuple(self.by))
        if not self.by:
            msg = "Approval needs at least one user in 'by'"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Retrain(Word):
    """
    When to retrain: the triggers, and what holds them back.

    :param triggers: reasons to retrain, in the order in which they are tried.
    :param cooldown: shortest time between two attempts, by the clock of the data.
    :param budget: most attempts in a span, such as ``"4 per 30d"``, by the clock of the data.
    """

    triggers: tuple[Trigger, ...] = (Probe(), Regret(), Growth(), Drift(), OnRequest())
    cooldown: str = "7d"
    budget: str = "4 per 30d"

    def __post_init__(self) -> None:
        duration(self.cooldown)
        self.limit()

    def limit(self) -> tuple[int, timedelta]:
        """Return the budget as a count and a span."""
        match = _BUDGET.fullmatch(self.budget)
        if match is None:
            msg = f"a budget is written '4 per 30d', not {self.budget!r}"
            raise ValueError(msg)
        return int(match["count"]), duration(match["span"])

    def trigger(self, kind: type[_Trigger]) -> "_Trigger | None":
        """Return the trigger of this kind, if the policy has one."""
        return next((t for t in self.triggers if isinstance(t, kind)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        triggers = [t.to_dict() for t in self.triggers]
        return {
            "word": "Retrain",
            "triggers": triggers,
            "cooldown": self.cooldown,
            "budget": self.budget,
        }
