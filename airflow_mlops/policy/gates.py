"""Words about candidates: the conditions they have to meet."""

from dataclasses import dataclass

from airflow_mlops.policy.words import Word

LOSSES = ("absolute_error", "brier", "log_loss", "squared_error")
"""Metrics of which less is better."""

PROBABILITIES = ("brier", "log_loss")
"""Those of a probability: the labels are 0 and 1."""


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
