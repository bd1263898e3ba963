"""One look at a running stage: go on, stop, or done; legal at any time and as often as you like."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.rollout.arms import (
    COMPARED,
    Arm,
    Arms,
    Difference,
    difference,
    outcome_gap,
    seconds_left,
)
from airflow_mlops.core.rollout.sequential import RATIO_ALPHA, ratio_evidence, surely_above
from airflow_mlops.core.rollout.stages import Begun
from airflow_mlops.policy import AB, Canary

Status = Literal["running", "passed", "stopped", "invalid"]
Answer = Literal["continue", "held", "proof", "harm", "futile", "failures", "latency", "ratio"]

LATE = 0.05
"""Share of the answers that may be slower than ``p95_ms``: that is what a 95th percentile is."""

CROSSED = 0.01
"""Share of entities in both arms above which the assignment does not hold."""


@dataclass(frozen=True, slots=True)
class Look:
    """
    What a look at a stage has seen.

    :param status: ``running``; ``passed``: on to the next stage; ``stopped``: the champion stays;
        ``invalid``: the experiment says nothing, people have to look.
    :param answer: why, in one word.
    :param reasons: why, in sentences.
    :param warnings: what a reader has to know besides.
    :param now: time of the look by the clock of the data, ISO 8601.
    :param difference: candidate minus champion, if there is enough to compare.
    :param arms: what it was seen in.
    :param left: seconds that it will take still, estimated; none: unknown, or over.
    """

    experiment: str
    status: Status
    answer: Answer
    reasons: tuple[str, ...]
    now: str
    warnings: tuple[str, ...] = ()
    difference: Difference | None = None
    arms: Arms | None = None
    left: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        lists = {name: list(getattr(self, name)) for name in ("reasons", "warnings")}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the look that :meth:`to_dict` wrote."""
        found, arms = data["difference"], data["arms"]
        parts = {
            "difference": None if found is None else Difference.from_dict(found),
            "arms": None if arms is None else Arms.from_dict(arms),
            **{name: tuple(data[name]) for name in ("reasons", "warnings")},
        }
        return cls(**{**data, **parts})

    def __str__(self) -> str:
        more = "" if self.left is None else f"; about {in_words(self.left)} more"
        return f"{self.status}: {'; '.join(self.reasons)}{more}"


def look(begun: Begun, arms: Arms, *, now: datetime | None = None) -> Look:
    """
    Look at a canary or an A/B test.

    :param begun: the stage, as it is on record.
    :param arms: what its arms have shown so far.
    :param now: time by the clock of the data; none: that of the newest exposure.
    :raises ConfigurationError: if the stage is a shadow, which has pairs instead of arms.
    """
    if not isinstance(begun.stage, Canary | AB):
        msg = f"{begun.experiment} is a {type(begun.stage).__name__}: look_at_pairs looks at it"
        raise ConfigurationError(msg)
    moment = now or datetime.fromisoformat(arms.until or begun.since)
    found = _Evidence(begun, arms, moment)
    for question in (_not_as_planned, _not_answering, _harmed, _proven, _over):
        answer = question(found)
        if answer is not None:
            break
    else:
        answer = _goes_on(found)
    return replace(answer, warnings=_warnings(found))


@dataclass(frozen=True)
class _Evidence:
    """
    What the questions of a look are asked of.

    :param now: time of the look by the clock of the data.
    """

    begun: Begun
    arms: Arms
    now: datetime

    @property
    def compared(self) -> Difference | None:
        effect = self.begun.effect or 1.0
        return difference(self.arms, effect=effect, alpha=self.begun.stage.alpha)

    @property
    def elapsed(self) -> float:
        since = datetime.fromisoformat(self.begun.since)
        return max(0.0, (self.now - since).total_seconds())

    def says(
        self, status: Status, answer: Answer, *reasons: str, left: float | None = None
    ) -> Look:
        return Look(
            self.begun.experiment,
            status,
            answer,
            reasons,
            self.now.isoformat(),
            difference=self.compared,
            arms=self.arms,
            left=left,
        )

    def better(self, found: Difference) -> Difference:
        """Turn a difference so that above zero the candidate is better."""
        if isinstance(self.begun.stage, Canary | AB) and self.begun.stage.better == "more":
            return found
        return Difference(-found.value, -found.high, -found.low, found.information)


def _not_as_planned(found: _Evidence) -> Look | None:
    """See whether entities are split as planned; if not, whatever is measured means nothing."""
    begun, arms = found.begun, found.arms
    one, two = arms.candidate.units, arms.champion.units
    share, all_of_them = begun.share, one + two + arms.crossed
    if arms.crossed > CROSSED * all_of_them and all_of_them >= begun.stage.least:
        return found.says(
            "invalid",
            "ratio",
            f"{arms.crossed:,} of {all_of_them:,} entities met both versions: endpoints do not "
            "assign by the same split, or an entity has several keys",
        )
    if one + two and ratio_evidence(one, two, share) > -math.log(RATIO_ALPHA):
        return found.says(
            "invalid",
            "ratio",
            f"{one / (one + two):.2%} of {one + two:,} entities met the candidate, {share:.2%} "
            "were planned: exposures get lost, or are not assigned by the split",
        )
    return None


def _not_answering(found: _Evidence) -> Look | None:
    wrong = answering(found.begun, found.arms.candidate)
    return found.says("stopped", *wrong) if wrong else None


def answering(begun: Begun, arm: Arm) -> tuple[Answer, str] | None:
    """
    Say what is wrong with the candidate's answers: too many fail, or too many are slow.

    :param begun: the stage, with its limits.
    :param arm: the candidate's arm.
    """
    stage, who = begun.stage, f"{begun.model}@{begun.candidate}"
    if surely_above(arm.failed, arm.requests, stage.failures, stage.alpha):
        text = f"{arm.failed:,} of {arm.requests:,} requests to {who} failed"
        return "failures", f"{text}, surely more than {stage.failures:.2%}"
    if stage.p95_ms is not None and surely_above(arm.slow, arm.timed, LATE, stage.alpha):
        text = (
            f"{arm.slow:,} of {arm.timed:,} answers of {who} took longer than {stage.p95_ms:g} ms"
        )
        return "latency", f"{text}, surely more than {LATE:.0%}"
    return None


def _harmed(found: _Evidence) -> Look | None:
    compared = found.compared
    if compared is None or found.better(compared).high >= 0:
        return None
    return found.says("stopped", "harm", f"{_who(found)} is surely worse: {_compared(found)}")


def _proven(found: _Evidence) -> Look | None:
    compared = found.compared
    if not isinstance(found.begun.stage, AB) or compared is None or _missing(found):
        return None
    if found.better(compared).low <= 0:
        return None
    return found.says("passed", "proof", f"{_who(found)} is surely better: {_compared(found)}")


def _over(found: _Evidence) -> Look | None:
    """See whether the time is over, and what follows."""
    stage, begun = found.begun.stage, found.begun
    if isinstance(stage, AB):
        if found.now < begun.end + timedelta(seconds=begun.lateness):
            return None
        passed = stage.otherwise == "promote" and found.compared is not None
        follows = "the candidate goes on" if passed else "the champion stays"
        text = f"no proof within {stage.within}, {follows}: {_compared(found)}"
        return found.says("passed" if passed else "stopped", "futile", text)
    if found.now < begun.end or _missing(found):
        return None
    seen = f"{found.arms.candidate.units:,} entities met it"
    harm = "no harm seen" if found.compared else "harm could not be looked at yet"
    return found.says("passed", "held", f"held {begun.lasts}, {seen}, {harm}: {_compared(found)}")


def _missing(found: _Evidence) -> str:
    """Say what a stage needs still before it can pass; empty if nothing."""
    stage, arms = found.begun.stage, found.arms
    more = stage.least - arms.candidate.units
    if more > 0:
        return f"{more:,} more entities have to meet {_who(found)}"
    wanted = {Canary: "labelled", AB: "least"}[type(stage)]
    lacking = getattr(stage, wanted) - min(arms.candidate.outcomes, arms.champion.outcomes)
    return f"{lacking:,} more entities of an arm need an outcome" if lacking > 0 else ""


def _goes_on(found: _Evidence) -> Look:
    """Say what is known by now, and how long it takes."""
    begun, missing = found.begun, _missing(found)
    said = [missing, _compared(found)]
    left: float | None = (begun.end - found.now).total_seconds()
    if isinstance(begun.stage, AB):
        rest, wait = (left or 0.0) + begun.lateness, 0.0
        if found.compared is not None:
            wait = seconds_left(begun, found.arms, found.compared, found.elapsed)
        if wait > rest:
            text = "at this rate the smallest effect worth seeing takes"
            said.append(f"{text} {in_words(wait)} more, {in_words(rest)} are left")
        left = min(wait or rest, rest)  # 0: the planned effect would have been seen by now
    elif missing:
        left = None
    return found.says("running", "continue", *filter(None, said), left=left)


def _compared(found: _Evidence) -> str:
    """Say how the arms compare."""
    begun, arms = found.begun, found.arms
    one, two = arms.candidate, arms.champion
    if found.compared is None or one.mean is None or two.mean is None:
        return (
            f"{one.outcomes:,} and {two.outcomes:,} entities have an outcome, {COMPARED} of each "
            "arm can be compared, if not all are the same"
        )
    return (
        f"{begun.metric} {one.mean:.4g} against {two.mean:.4g}, difference {found.compared} on "
        f"{one.outcomes:,} and {two.outcomes:,} entities"
    )


def _warnings(found: _Evidence) -> tuple[str, ...]:
    """Say what does not stop a stage, but may mislead."""
    begun, arms = found.begun, found.arms
    said = []
    one, two = arms.candidate, arms.champion
    if one.waiting or two.waiting:
        text = f"{one.waiting:,} of {one.units:,} entities of the candidate and {two.waiting:,} of "
        said.append(f"{text}{two.units:,} of the champion have no outcome yet")
    gap = outcome_gap(arms, alpha=RATIO_ALPHA)
    if gap is not None and (gap.low > 0 or gap.high < 0):
        shares = f"{one.outcomes / one.units:.1%} against {two.outcomes / two.units:.1%}"
        said.append(f"outcomes are known of {shares} of the entities: the difference may be biased")
    if arms.crossed:
        said.append(f"{arms.crossed:,} entities met both versions and are left out")
    if surely_above(two.failed, two.requests, begun.stage.failures, begun.stage.alpha):
        said.append(f"{two.failed:,} of {two.requests:,} requests to the champion failed")
    return tuple(said)


def _who(found: _Evidence) -> str:
    return f"{found.begun.model}@{found.begun.candidate}"


def in_words(seconds: float) -> str:
    """Write a length of time in the unit that people would use."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
