"""Words about retraining: what may ask for it, and what holds it back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from airflow_mlops.policy.words import Word, between, duration, function_name

_SUSTAINED = re.compile(r"(?P<n>[0-9]+) of (?P<m>[0-9]+)")
_BUDGET = re.compile(r"(?P<count>[0-9]+) per (?P<span>.+)")


def counts(word: str, sustained: str) -> tuple[int, int]:
    """
    Read ``"2 of 3"``.

    :param word: whose it is; the error names it.
    :raises ValueError: if it is written otherwise, or asks for more windows than it looks at.
    """
    match = _SUSTAINED.fullmatch(str(sustained))
    if match is None:
        msg = f"{word} sustained must be written '2 of 3', not {sustained!r}"
        raise ValueError(msg)
    n, m = int(match["n"]), int(match["m"])
    if not 1 <= n <= m:
        msg = f"{word} sustained must be 'n of m' with 1 <= n <= m, not {sustained!r}"
        raise ValueError(msg)
    return n, m


Weights = Mapping[str, float] | Literal["importance"] | None
"""Weight of each column; or what the champion's training measured; or all the same."""


def _listed(name: str, columns: object) -> tuple[str, ...]:
    if not isinstance(columns, list | tuple):
        msg = f"{name} is {columns!r}; write a list of columns, such as ['price']"
        raise ValueError(msg)
    return tuple(columns)


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
    :param challenger: ``module:function`` of ``fit(X, y, *, seed) -> estimator``, a cheap one, in
        place of 30 small trees; ``X`` are the champion's features, ``seed`` is 0.
    """

    metric: str = "brier"
    margin: float = 0.05
    alpha: float = 0.05
    min_rows: int = 50
    challenger: str | None = None

    def __post_init__(self) -> None:
        if self.challenger is not None:
            function_name("Probe challenger", self.challenger)
        between("Probe alpha", self.alpha, 1e-6, 0.5)
        between("Probe margin", self.margin, 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class Regret(Trigger):
    """
    Retrain when waiting has cost too much.

    :param limit: loss of the champion beyond the challenger's, summed over the served windows, in
        windows of the champion's loss in its own backtest.
    :param challenger: as in :class:`Probe`; both have the same one, named in either.
    """

    limit: float = 0.5
    challenger: str | None = None

    def __post_init__(self) -> None:
        if self.challenger is not None:
            function_name("Regret challenger", self.challenger)
        between("Regret limit", self.limit, 1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class Growth(Trigger):
    """
    Retrain when the labelled rows have grown by this factor since the last attempt.

    :param factor: rows now over rows then.
    """

    factor: float = 1.5

    def __post_init__(self) -> None:
        between("Growth factor", self.factor, 1.01, 1e6)


@dataclass(frozen=True, slots=True)
class Drift(Trigger):
    """
    Retrain when the data moved and stayed moved, and there are fresh labels to learn from.

    :param sustained: in how many of the last windows, such as ``"2 of 3"``.
    :param fresh: labelled rows since the last attempt, as a share of the champion's training rows.
    :param share: a window drifted if the columns that did carry this much of the weight, 0 to 1.
    :param important: columns of which one is enough.
    :param weights: column -> weight; ``"importance"``: how much the champion's loss rises when that
        column is permuted, which its training then measures; ``None``: all weigh the same.
    :param ignore: columns that are not judged, such as those of the calendar: a month that training
        has not seen always drifts.
    """

    sustained: str = "2 of 3"
    fresh: float = 0.10
    share: float = 0.3
    important: tuple[str, ...] = ()
    weights: Weights = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts("Drift", self.sustained)
        between("Drift share", self.share, 0.0, 1.0)
        if self.weights not in (None, "importance") and not isinstance(self.weights, Mapping):
            msg = f"Drift weights is {self.weights!r}; known: 'importance', or a weight by column"
            raise ValueError(msg)
        named = self.weights if isinstance(self.weights, Mapping) else {}
        for name, weight in named.items():
            between(f"Drift weight of {name!r}", weight, 0.0, 1e9)
        for name in ("important", "ignore"):
            object.__setattr__(self, name, _listed(f"Drift {name}", getattr(self, name)))
        for name in (*self.important, *named):
            if name in self.ignore:
                msg = f"Drift ignore names {name!r}, which is important or has a weight"
                raise ValueError(msg)

    @property
    def counts(self) -> tuple[int, int]:
        """The two numbers of ``sustained``."""
        return counts("Drift", self.sustained)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: what is read back from the ledger is equal."""
        return Word.to_dict(self) | {
            "important": list(self.important),
            "ignore": list(self.ignore),
        }


@dataclass(frozen=True, slots=True)
class NewRows(Trigger):
    """
    Retrain when so many labelled rows have come since the last attempt.

    :param rows: number of rows.
    """

    rows: int

    def __post_init__(self) -> None:
        between("NewRows rows", self.rows, 1, 1e15)


@dataclass(frozen=True, slots=True)
class Decay(Trigger):
    """
    Retrain when what is served is surely worse than the champion's own backtest.

    A hard season and a stale model look alike to this rule; ``Probe`` and ``Regret`` tell them
    apart. The candidate has to be better than the champion on the same rows.

    :param metric: a per-row loss.
    :param drop: by how much it has to be worse, as a share of the loss of the backtest.
    :param alpha: one-sided error rate of the test of one window.
    :param sustained: in how many of the last labelled windows, such as ``"2 of 3"``.
    """

    metric: str = "brier"
    drop: float = 0.05
    alpha: float = 0.05
    sustained: str = "2 of 3"

    def __post_init__(self) -> None:
        between("Decay drop", self.drop, 0.0, 10.0)
        between("Decay alpha", self.alpha, 1e-6, 0.5)
        counts("Decay", self.sustained)

    @property
    def counts(self) -> tuple[int, int]:
        """The two numbers of ``sustained``."""
        return counts("Decay", self.sustained)


@dataclass(frozen=True, slots=True)
class SchemaChange(Trigger):
    """
    Retrain when the rows have gained a column that the champion does not know.

    A column that is gone or of another type is no reason to retrain, it asks a person.

    :param fresh: labelled rows since the last attempt, as a share of the champion's training rows.
    """

    fresh: float = 0.10

    def __post_init__(self) -> None:
        between("SchemaChange fresh", self.fresh, 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class DependencyChange(Trigger):
    """Retrain when packages the champion uses have changed, or its answers moved with them."""


@dataclass(frozen=True, slots=True)
class MaxAge(Trigger):
    """
    Retrain when the champion's newest training row is too old, by the clock of the data.

    :param age: such as ``"90d"``.
    :param fresh: labelled rows since the last attempt, as a share of the champion's training rows.
    """

    age: str
    fresh: float = 0.10

    def __post_init__(self) -> None:
        duration(self.age)
        between("MaxAge fresh", self.fresh, 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class Schedule(Trigger):
    """
    Retrain at regular intervals, whatever else is known; only with labels newer than the last time.

    :param every: time between two attempts, by the clock of the data, such as ``"28d"``.
    """

    every: str

    def __post_init__(self) -> None:
        duration(self.every)


@dataclass(frozen=True, slots=True)
class OnRequest(Trigger):
    """Retrain when a person asks for it, with a reason."""


_Trigger = TypeVar("_Trigger", bound=Trigger)


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
        if len(named := self._challengers()) > 1:
            msg = f"a policy has one challenger, not {' and '.join(map(repr, named))}; name one"
            raise ValueError(msg)

    def limit(self) -> tuple[int, timedelta]:
        """Return the budget as a count and a span."""
        match = _BUDGET.fullmatch(self.budget)
        if match is None:
            msg = f"a budget is written '4 per 30d', not {self.budget!r}"
            raise ValueError(msg)
        count = int(match["count"])
        if count < 1:
            msg = f"a budget of {self.budget!r} allows nothing; leave the triggers out instead"
            raise ValueError(msg)
        return count, duration(match["span"])

    @property
    def challenger(self) -> str | None:
        """The user's own challenger, ``module:function``, if there is one."""
        return next(iter(self._challengers()), None)

    def _challengers(self) -> list[str]:
        words = (t for t in self.triggers if isinstance(t, Probe | Regret))
        return sorted({word.challenger for word in words if word.challenger is not None})

    @property
    def drift(self) -> Drift:
        """What counts as drift: windows are judged whether or not it asks for a retrain."""
        return self.trigger(Drift) or Drift()

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
