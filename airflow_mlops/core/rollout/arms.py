"""What the arms of an experiment have shown so far, and how far apart they surely are."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.rollout.sequential import (
    fixed_information,
    information_for,
    planned_information,
    reach,
    squared_error,
)
from airflow_mlops.core.rollout.stages import Begun

COMPARED = 100
"""Units with an outcome that each arm needs before means are compared."""


@dataclass(frozen=True, slots=True)
class Arm:
    """
    One arm. A unit is an entity, whatever the number of its requests.

    :param units: entities that met this arm, and no other.
    :param requests: requests of this arm.
    :param outcomes: units with an outcome.
    :param mean: mean over these units of the mean of their outcomes.
    :param variance: sample variance of these means.
    :param failed: requests that failed.
    :param timed: requests whose latency is known.
    :param slow: those of them that took longer than the limit of the stage.
    :param p95_ms: 95th percentile of the latency, in milliseconds.
    """

    units: int = 0
    requests: int = 0
    outcomes: int = 0
    mean: float | None = None
    variance: float | None = None
    failed: int = 0
    timed: int = 0
    slow: int = 0
    p95_ms: float | None = None

    @property
    def waiting(self) -> int:
        """Units without an outcome yet: they are no zeros, they are not known."""
        return self.units - self.outcomes


@dataclass(frozen=True, slots=True)
class Arms:
    """
    Both arms of an experiment.

    :param crossed: entities that met both arms; they are in neither.
    :param until: newest exposure, ISO 8601; empty: there is none.
    """

    champion: Arm = Arm()
    candidate: Arm = Arm()
    crossed: int = 0
    until: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the arms that :meth:`to_dict` wrote."""
        both = {name: Arm(**data[name]) for name in ("champion", "candidate")}
        return cls(**{**data, **both})


@dataclass(frozen=True, slots=True)
class Difference:
    """
    Mean of the candidate's units minus mean of the champion's, valid at any look.

    :param low: below this the true difference lies with probability alpha at most, over all looks.
    :param high: above this, likewise.
    :param information: 1 over the squared standard error.
    """

    value: float
    low: float
    high: float
    information: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the difference that :meth:`to_dict` wrote."""
        return cls(**data)

    def __str__(self) -> str:
        return f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"


def difference(arms: Arms, *, effect: float, alpha: float) -> Difference | None:
    """
    Compare the means of the arms.

    :param effect: absolute difference the interval is tuned for; fixed before the first look.
    :param alpha: one-sided error rate of each bound, over all looks together.
    :return: nothing, if there are too few units, or all outcomes are the same.
    """
    one, two = arms.candidate, arms.champion
    if min(one.outcomes, two.outcomes) < COMPARED or one.mean is None or two.mean is None:
        return None
    spread = (one.variance or 0.0, two.variance or 0.0)
    squared = float(squared_error((one.outcomes, two.outcomes), spread))
    if squared <= 0:
        return None
    return _interval(one.mean - two.mean, 1 / squared, planned_information(effect, alpha), alpha)


def _interval(value: float, information: float, planned: float, alpha: float) -> Difference:
    width = float(reach(np.array([information]), planned, alpha)[0])
    return Difference(value, value - width, value + width, information)


def outcome_gap(arms: Arms, *, alpha: float) -> Difference | None:
    """
    Compare the shares of units that have an outcome; outcomes that are missing may bias.

    :param alpha: one-sided error rate of each bound, over all looks together.
    """
    champion, candidate = (_known(arm) for arm in (arms.champion, arms.candidate))
    return difference(Arms(champion, candidate), effect=0.05, alpha=alpha)


def _known(arm: Arm) -> Arm:
    """Return an arm whose outcome is whether an outcome is known."""
    share = arm.outcomes / arm.units if arm.units else 0.0
    return Arm(outcomes=arm.units, mean=share, variance=share * (1 - share))


@dataclass(frozen=True, slots=True)
class Expected:
    """
    How long a comparison takes if the planned effect is there.

    :param half: units of both arms together by which half of such experiments are decided.
    :param most: units by which at least 80 % are.
    :param fixed: units that a t test needs which looks once, at the end, with power 80 %.
    :param per_day: units with an outcome that come in a day of the clock of the data.
    """

    effect: float
    half: int
    most: int
    fixed: int
    per_day: float

    def __str__(self) -> str:
        days = [f"{units / self.per_day:.1f}" for units in (self.half, self.most)]
        return (
            f"a difference of {self.effect:.4g} takes about {self.half:,} units ({days[0]} d), "
            f"and 80 % of the time no more than {self.most:,} ({days[1]} d)"
        )


def expected(begun: Begun, *, variance: float, per_day: float) -> Expected:
    """
    Say how long a canary or an A/B test takes, before it begins.

    :param begun: the stage; it need not be on record.
    :param variance: of the champion's outcomes, over units.
    :param per_day: units with an outcome that come in a day; new ones, not requests.
    :raises ConfigurationError: if nothing comes, nothing varies, or it is a shadow.
    """
    if begun.effect is None or not variance > 0 or not per_day > 0:
        msg = (
            f"no length for {type(begun.stage).__name__} with variance {variance!r} and "
            f"{per_day!r} units a day: it needs a split, outcomes that vary, and arrivals"
        )
        raise ConfigurationError(msg)
    alpha, effect = begun.stage.alpha, begun.effect
    unit = variance / (begun.share * (1 - begun.share))
    wanted = (
        planned_information(effect, alpha),
        information_for(effect, alpha, 0.8),
        fixed_information(effect, alpha, 0.8),
    )
    least = math.ceil(begun.stage.least / min(begun.share, 1 - begun.share))
    half, most, fixed = (math.ceil(information * unit) for information in wanted)
    return Expected(effect, max(half, least), max(most, least), fixed, per_day)


def seconds_left(begun: Begun, arms: Arms, found: Difference, elapsed: float) -> float:
    """
    Estimate how long until the planned effect, if it is there, is seen in half of the cases.

    :param begun: an A/B test.
    :param arms: what its arms have shown so far.
    :param found: how they compare by now.
    :param elapsed: seconds since the stage began, by the clock of the data.
    :return: seconds, 0 if it would have been seen.
    """
    wanted = planned_information(begun.effect or 1.0, begun.stage.alpha)
    least = begun.stage.least / min(arms.champion.outcomes, arms.candidate.outcomes)
    return (max(1.0, wanted / found.information, least) - 1) * elapsed
