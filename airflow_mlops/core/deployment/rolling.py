"""A candidate's turn in one stage of its rollout: begun once, looked at often, ended once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pyarrow as pa

from airflow_mlops.core.deployment.registry import Ask, ModelRegistry
from airflow_mlops.core.entries import Entry
from airflow_mlops.core.errors import ConcurrentPromotionError, ConfigurationError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout.arms import COMPARED, expected
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.core.rollout.looks import Look
from airflow_mlops.core.rollout.stages import Begun, begin, end
from airflow_mlops.core.training.models import BASE_LOSS
from airflow_mlops.core.training.own_metrics import load_loss
from airflow_mlops.policy import AB, Canary, Shadow

LOOK_BACK = timedelta(weeks=4)
"""Past of the champion from which the length of an A/B test is estimated."""

Labels = Callable[[Begun], pa.Table]
"""Given a stage, the labels known since it began: columns ``key`` (text) and ``label``."""


@dataclass(frozen=True, slots=True)
class Turn:
    """
    One stage of one candidate.

    :param proposal: entry that submitted the candidate.
    :param stage: the word of the policy.
    :param place: its number in the plan, from 0.
    :param metric: per-row loss, if the stage names no metric of its own.
    :param by: the task that asks.
    :param baseline: mean of the metric of the champion before; ``None``: loss of its backtest.
    :param lateness: seconds by which outcomes may come after their exposure.
    """

    proposal: Entry
    stage: Shadow | Canary | AB
    place: int
    metric: str
    by: str
    baseline: float | None = None
    lateness: float = 0.0

    @property
    def key(self) -> str:
        """Idempotency key of its beginning."""
        return f"stage:{self.proposal.seq}:{self.place}"

    @property
    def ref(self) -> ModelRef:
        """The candidate."""
        return ModelRef(self.proposal.model, self.proposal.version or 0)


def advance(
    registry: ModelRegistry, exposures: Exposures, turn: Turn, *, now: datetime, labels: Labels
) -> Look:
    """
    Begin a stage if it has not begun, look at it, and put its end on record when it is over.

    Asked again after the end, it gives the same answer; a candidate that was stopped is refused.

    :param now: time by the clock of the data.
    :param labels: reads the labels known since a stage began.
    :raises ConcurrentPromotionError: if the champion is another one meanwhile, or another stage
        runs.
    :raises ConfigurationError: if there is no champion to compare with.
    """
    ledger, key = registry.ledger, f"{turn.key}:end"
    ended = ledger.standing(turn.ref.name, key).of(key)
    if ended is None:
        begun = _begun(registry, exposures, turn, now, labels)
        look = _looked_at(exposures, turn, begun, labels(begun), now)
        if look.status == "running":
            return look
        cited = exposures.cited(begun)
        ended = end(ledger, begun, look, key=key, by=turn.by, cited=cited)
    look = Look.from_dict(ended.evidence["look"])
    if look.status != "passed":
        _refuse(registry, turn, ended.reason)
    return look


def give_up(registry: ModelRegistry, turn: Turn, why: str) -> None:
    """
    Refuse a candidate whose stage nobody can look at any more: it serves nobody unwatched.

    :param why: what cannot be mended by waiting.
    """
    state = registry.ledger.standing(turn.ref.name)
    if state.challenger == turn.ref.version:
        reason = f"{type(turn.stage).__name__} of {turn.ref} cannot be looked at: {why}"
        _refuse(registry, turn, reason)


def _refuse(registry: ModelRegistry, turn: Turn, reason: str) -> None:
    evidence = {"proposal": turn.proposal.seq, "stage": turn.stage.to_dict()}
    registry.refuse(turn.ref, Ask(f"{turn.key}:refuse", turn.by, reason, evidence))


def _begun(
    registry: ModelRegistry, exposures: Exposures, turn: Turn, now: datetime, labels: Labels
) -> Begun:
    """Return the stage as it is on record; it begins if it has not begun."""
    state = registry.ledger.standing(turn.ref.name, turn.key)
    running, before = Begun.of(state), state.of(turn.key)
    if running is not None and before is not None:
        return running
    if before is not None:
        name = type(turn.stage).__name__
        msg = f"{name} of {turn.ref} began by entry {before.seq}, and something else ended it"
        raise ConcurrentPromotionError(msg)
    if state.champion is None:
        name = type(turn.stage).__name__
        msg = (
            f"{name} of {turn.ref}: {turn.ref.name} has no champion to compare with; the first "
            "model goes to everybody: promote it, and roll out the next one in stages"
        )
        raise ConfigurationError(msg)
    metric, champion = turn.stage.metric or turn.metric, ModelRef(turn.ref.name, state.champion)
    begun = Begun(
        turn.ref.name,
        turn.stage,
        champion.version,
        turn.ref.version,
        now.isoformat(),
        metric,
        _baseline(registry, turn, champion, metric),
        turn.lateness,
    )
    if metric == turn.metric:
        load_loss(metric)  # what cannot be computed begins no stage
    outlook = _outlook(exposures, turn, begun, labels) if isinstance(turn.stage, AB) else ""
    return begin(registry.ledger, begun, key=turn.key, by=turn.by, outlook=outlook)


def _outlook(exposures: Exposures, turn: Turn, begun: Begun, labels: Labels) -> str:
    """Say how long an A/B test takes, by what the champion's last weeks were like."""
    if begun.metric != turn.metric:
        return ""
    since = datetime.fromisoformat(begun.since) - LOOK_BACK
    past = replace(begun, since=since.isoformat())
    losses = exposures.losses(past, labels(past), until=datetime.fromisoformat(begun.since))
    if len(losses) < COMPARED or not losses.var():
        return "how long it takes is not known yet"
    per_day = len(losses) / (LOOK_BACK / timedelta(days=1))
    return str(expected(begun, variance=float(losses.var(ddof=1)), per_day=per_day))


def _baseline(registry: ModelRegistry, turn: Turn, champion: ModelRef, metric: str) -> float:
    if turn.baseline is not None:
        return turn.baseline
    if metric != turn.metric:
        msg = (
            f"{type(turn.stage).__name__} of {turn.ref} compares {metric!r}: say what it is on "
            "average now, baseline=...; its smallest effect worth seeing is a share of that"
        )
        raise ConfigurationError(msg)
    return float(registry.models.get(champion).fact(BASE_LOSS))


def _looked_at(
    exposures: Exposures, turn: Turn, begun: Begun, labels: pa.Table, now: datetime
) -> Look:
    if isinstance(begun.stage, Shadow):
        return exposures.look_at_shadow(begun, labels, now=now)
    if labels.num_rows and begun.metric == turn.metric:  # else whoever serves records outcomes
        exposures.settle(begun, labels)
    return exposures.look(begun, now=now)
