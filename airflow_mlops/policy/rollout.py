"""Words about a rollout: through which stages a candidate goes, and what stops one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from airflow_mlops.policy.gates import LOSSES, is_own
from airflow_mlops.policy.words import Word, between, duration

Better = Literal["less", "more"]
"""Whether less of a metric is better, as of a loss, or more."""

Otherwise = Literal["keep", "promote"]
"""What follows when nothing was proven in time: the champion stays, or the candidate goes on."""


class Stage(Word):
    """One stage of a rollout."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded(Stage):
    """
    What stops any stage: harm in a metric, slow answers, answers that fail.

    :param metric: what is compared between the arms; none: the loss of the lifecycle.
    :param baseline: mean of that metric of the champion now, of which effects are shares; none:
        the loss of its backtest, for the loss of the lifecycle.
    :param alpha: one-sided error rate of each answer, however often somebody looks.
    :param p95_ms: milliseconds within which 95 % of the candidate's answers have to come; none:
        latency is not looked at.
    :param failures: share of the candidate's requests that may fail, 0 to 1.
    :param least: units of each arm, or pairs of a shadow, without which it does not pass.
    """

    metric: str | None = None
    baseline: float | None = None
    alpha: float = 0.05
    p95_ms: float | None = None
    failures: float = 0.01
    least: int = 100


@dataclass(frozen=True, slots=True)
class Shadow(Guarded):
    """
    The candidate answers beside the champion, the same rows; nobody is served its answers.

    :param hold: how long, by the clock of the data, such as ``"1d"``.
    """

    hold: str = "1d"

    def __post_init__(self) -> None:
        _check_guards(self)
        _positive("Shadow hold", self.hold)
        own = self.metric is not None and is_own(self.metric)
        if self.metric is not None and not own and self.metric not in LOSSES:
            msg = f"Shadow metric is {self.metric!r}; it needs a per-row loss: {', '.join(LOSSES)}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Canary(Guarded):
    """
    A small share of the entities is served by the candidate; harm stops it.

    :param percent: share of the entities, above 0 and below 100, in steps of 0.01.
    :param hold: how long, by the clock of the data.
    :param better: ``"less"`` of the metric, or ``"more"``.
    :param min_effect: difference that the test is tuned to see, as a share of the champion's mean.
    :param labelled: units of each arm that need an outcome before it passes; 0: it does not wait
        for outcomes, so that only failures and latency can stop it.
    """

    percent: float = 10.0
    hold: str = "1d"
    better: Better = "less"
    min_effect: float = 0.1
    labelled: int = 100

    def __post_init__(self) -> None:
        _check_guards(self)
        _check_split(self)
        _positive("Canary hold", self.hold)
        between("Canary labelled", self.labelled, 0, 1e12)


@dataclass(frozen=True, slots=True)
class AB(Guarded):
    """
    Champion and candidate serve beside each other until one of them is surely better.

    :param percent: share of the entities that the candidate serves, above 0 and below 100, in steps
        of 0.01; 50 decides soonest.
    :param within: longest it may take, by the clock of the data.
    :param better: ``"less"`` of the metric, or ``"more"``.
    :param min_effect: smallest difference worth seeing, as a share of the champion's mean; half of
        it takes four times as long.
    :param otherwise: what follows without a proof in time: ``"keep"`` the champion, or
        ``"promote"`` the candidate all the same, for no harm was seen.
    :param least: units of each arm before anybody is called the winner: a candidate that is rarely
        wrong, but then very, looks better than it is until then.
    """

    percent: float = 50.0
    within: str = "14d"
    better: Better = "less"
    min_effect: float = 0.05
    otherwise: Otherwise = "keep"
    least: int = field(default=1_000, kw_only=True)

    def __post_init__(self) -> None:
        _check_guards(self)
        _check_split(self)
        _positive("AB within", self.within)
        if self.otherwise not in get_args(Otherwise):
            known = ", ".join(map(repr, get_args(Otherwise)))
            msg = f"AB otherwise is {self.otherwise!r}; known: {known}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Full(Stage):
    """The candidate becomes champion: everybody is served by it."""


def rollout_plan(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """
    Return the stages of a rollout if they make a plan.

    :param stages: in their order, such as ``[Shadow("1d"), Canary(percent=10), Full()]``.
    :raises ValueError: unless ``Full()`` comes last and once, shares do not fall from stage to
        stage (who has met the candidate keeps it), and there is one ``AB`` at the most.
    """
    given: Sequence[object] = stages
    names = [type(one).__name__ if isinstance(one, Stage) else repr(one) for one in given]
    if not all(isinstance(stage, Stage) for stage in stages):
        msg = f"a rollout is a list of stages, such as Canary(percent=10) and Full(), not {names}"
        raise ValueError(msg)
    if names.count("Full") != 1 or names[-1] != "Full":
        msg = f"a rollout ends with Full(), once; this one is {', '.join(names) or 'empty'}"
        raise ValueError(msg)
    if names.count("AB") > 1:
        msg = f"a rollout has one AB at the most; this one is {', '.join(names)}"
        raise ValueError(msg)
    shares = [share_of(stage) for stage in stages]
    if shares != sorted(shares):
        said = ", ".join(f"{n} {s:g} %" for n, s in zip(names, shares, strict=True))
        msg = f"the candidate's share may not fall from stage to stage: {said}"
        raise ValueError(msg)
    return tuple(stages)


def share_of(stage: Stage) -> float:
    """Return the percentage of entities that the candidate serves in a stage."""
    if isinstance(stage, Canary | AB):
        return stage.percent
    return 100.0 if isinstance(stage, Full) else 0.0


def _check_guards(stage: Guarded) -> None:
    name = type(stage).__name__
    between(f"{name} alpha", stage.alpha, 1e-6, 0.25)
    between(f"{name} failures", stage.failures, 1e-6, 0.5)
    between(f"{name} least", stage.least, 100, 1e12)
    if stage.p95_ms is not None:
        between(f"{name} p95_ms", stage.p95_ms, 1e-3, 1e9)


def _check_split(stage: Canary | AB) -> None:
    name = type(stage).__name__
    between(f"{name} percent", stage.percent, 0.01, 99.99)
    if abs(stage.percent * 100 - round(stage.percent * 100)) > 1e-9:
        msg = f"{name} percent is {stage.percent!r}; it goes in steps of 0.01"
        raise ValueError(msg)
    between(f"{name} min_effect", stage.min_effect, 1e-6, 100.0)
    if stage.better not in get_args(Better):
        known = ", ".join(map(repr, get_args(Better)))
        msg = f"{name} better is {stage.better!r}; known: {known}"
        raise ValueError(msg)
    if stage.better == "more" and (stage.metric is None or stage.metric in LOSSES):
        msg = f"{name} better is 'more', but of {stage.metric or 'a loss'} less is better"
        raise ValueError(msg)


def _positive(name: str, text: str) -> None:
    if not duration(text):
        msg = f"{name} is {text!r}; it has to be longer than nothing"
        raise ValueError(msg)
