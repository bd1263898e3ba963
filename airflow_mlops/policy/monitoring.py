"""Words about monitors: what they look at, and what fails a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from airflow_mlops.policy.words import Word, between, duration

FailOn = Literal["error", "warn", "never"]
"""What fails a monitor's task: what is broken; what is uncertain as well; nothing."""

FAILS: Mapping[FailOn, tuple[str, ...]] = {
    "error": ("broken",),
    "warn": ("broken", "warn"),
    "never": (),
}
"""Statuses of a finding that fail the task, by ``fail_on``."""

BreakKind = Literal["missing", "retyped", "null", "out of range", "new category"]
"""Ways in which rows do not fit what a model was trained on."""


def known_fail_on(word: str, fail_on: str) -> None:
    """
    See that ``fail_on`` is one of the known ones.

    :param word: whose it is; the error names it.
    :raises ValueError: if it is not.
    """
    if fail_on not in get_args(FailOn):
        known = ", ".join(map(repr, get_args(FailOn)))
        msg = f"{word} fail_on is {fail_on!r}; known: {known}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Contract(Word):
    """
    New rows have to look like those that the champion was trained on.

    :param fail_on: what fails the task, so that nothing is scored: ``"error"``: a column that is
        missing or of another type; ``"warn"``: also nulls, values out of range and new categories;
        ``"never"``: nothing, and scoring still refuses what it cannot score.
    :param fail_kinds: kinds of break that fail it in any case, such as ``["new category"]``.
    """

    fail_on: FailOn = "error"
    fail_kinds: Sequence[BreakKind] = ()

    def __post_init__(self) -> None:
        known_fail_on("Contract", self.fail_on)
        if isinstance(self.fail_kinds, str):
            msg = f"Contract fail_kinds is {self.fail_kinds!r}; write a list, [{self.fail_kinds!r}]"
            raise ValueError(msg)
        object.__setattr__(self, "fail_kinds", tuple(self.fail_kinds))
        for kind in self.fail_kinds:
            if kind not in get_args(BreakKind):
                known = ", ".join(map(repr, get_args(BreakKind)))
                msg = f"Contract fail_kinds has {kind!r}; known: {known}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Dependencies(Word):
    """
    The champion serves only where it gives the answers of its training.

    :param fail_on: ``"error"`` lets nothing be scored where its answers moved or it does not load;
        ``"warn"`` neither where that is uncertain, or a change is known to go wrong; ``"never"``
        scores all the same.
    :param constraints: file of pins, on the workers, that is going to be installed: what it would
        change is said beforehand.
    """

    fail_on: FailOn = "error"
    constraints: str | None = None

    def __post_init__(self) -> None:
        known_fail_on("Dependencies", self.fail_on)


YOUNG = "7d"
"""What is younger always stays."""


@dataclass(frozen=True, slots=True)
class Keep(Word):
    """
    For how long what was measured is kept, by the wall clock; what a decision names stays for ever.

    Exposures and outcomes stay, too, for the ends of stages rest on them.

    :param findings: findings of the monitors, those about the champion excepted; what was written
        over goes with them; ``None``: for ever.
    :param usages: what the tries of tasks used, and what the health monitor saw.
    :param predictions: predictions, from the moment at which they were made; longer than labels
        may come late.
    :param quarantine: rows that were set aside.
    """

    findings: str | None = None
    usages: str | None = None
    predictions: str | None = None
    quarantine: str | None = None

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            age = getattr(self, name)
            if age is not None and duration(age) < duration(YOUNG):
                msg = f"Keep {name} is {age!r}; what is younger than {YOUNG} always stays"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Health(Word):
    """
    What the tasks of a model may use, and what has to be up.

    Whatever the limits, a task is also compared with its own earlier runs of about as many rows.

    :param rss_mb: most memory of a task, children included, in MB; none: no limit.
    :param rows_per_s: fewest rows per second of a task that handles 1,000 rows or more.
    :param duration: longest a task may take, such as ``"30m"``; waiting for a person is not in it.
    :param disk_free_gb: least free space of temporary folders and of local datasets, in GB.
    :param delay: longest the scheduler may let a run wait, such as ``"10m"``.
    :param factor: by how much a task has to be worse than its own runs to be named.
    :param silent: so many usual gaps without a run of the monitor, or without a decision, are said.
    :param fail_on: when the task ``system`` fails: ``"error"`` at what is broken, ``"warn"`` at any
        finding, ``"never"``.
    """

    rss_mb: float | None = None
    rows_per_s: float | None = None
    duration: str | None = None
    disk_free_gb: float = 1.0
    delay: str = "10m"
    factor: float = 1.5
    silent: float = 3.0
    fail_on: FailOn = "never"

    def __post_init__(self) -> None:
        for name in ("rss_mb", "rows_per_s"):
            value = getattr(self, name)
            if value is not None:
                between(f"Health {name}", value, 1e-6, 1e12)
        between("Health disk_free_gb", self.disk_free_gb, 0.0, 1e6)
        between("Health factor", self.factor, 1.1, 100.0)
        between("Health silent", self.silent, 1.0, 1e3)
        for text in (self.delay, *([] if self.duration is None else [self.duration])):
            duration(text)
        known_fail_on("Health", self.fail_on)
