"""One name for what is measured: a mean of per-row losses, a score, or what a user wrote."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError, UserCodeError
from airflow_mlops.core.metrics.losses import LOSSES, Floats
from airflow_mlops.core.metrics.scores import SCORES, Score
from airflow_mlops.policy import CLASS_SCORES


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric; called with labels and predictions, it gives the loss of each row.

    :param loss: labels and predictions -> loss of each row, shape ``(n_rows,)``.
    :param score: a score as sums over rows.
    :param number: a score of the user, computed anew for each sample.
    :param own: function of the user of which the first call shows which of the two it is.
    """

    name: str
    greater_is_better: bool = False
    loss: Callable[[Floats, Floats], Floats] | None = None
    score: Score | None = None
    number: Callable[[Floats, Floats], Floats] | None = None
    own: Callable[[Floats, Floats], Floats] | None = None

    @property
    def of_classes(self) -> bool:
        """Whether it needs rows of each class."""
        return self.name in CLASS_SCORES

    def on(self, y: Floats, p: Floats) -> Self:
        """
        Return the metric with its kind known: a function of the user is called once.

        :param y: labels, shape ``(n_rows,)``.
        :param p: predictions, one or one per class for each row.
        :raises UserCodeError: if it gives per-row losses of which more is said to be better.
        """
        if self.own is None:
            return self
        if self.own(y, p).ndim == 0:
            return replace(self, number=self.own, own=None)
        if self.greater_is_better:
            msg = (
                f"metric {self.name} gives a number for each row and says greater_is_better: of "
                "losses less is better; give their negative, or one score for all rows"
            )
            raise UserCodeError(msg)
        return replace(self, loss=self.own, own=None)

    def __call__(self, y: Floats, p: Floats) -> Floats:
        """
        Return the loss of each row, shape ``(n_rows,)``.

        :param y: labels, shape ``(n_rows,)``.
        :param p: predictions, one or one per class for each row.
        :raises ConfigurationError: if it is a score.
        """
        known = self.on(y, p)
        if known.loss is None:
            msg = (
                f"metric {self.name} gives one number for {len(y)} rows; here a loss of each row "
                "is needed: name it in a gate, and choose a per-row loss as metric"
            )
            raise ConfigurationError(msg)
        return known.loss(y, p)

    def parts(self, y: Floats, p: Floats) -> Floats:
        """
        Return the numbers of each row whose sums say the metric, shape ``(n_parts, n_rows)``.

        :param y: labels, shape ``(n_rows,)``.
        :param p: predictions, one or one per class for each row.
        """
        return self(y, p)[None] if self.score is None else self.score.parts(y, p)

    def of_sums(self, sums: Floats, n: int) -> Floats:
        """
        Return the metric from sums of its parts.

        :param sums: shape ``(..., n_parts)``.
        :param n: rows that were summed.
        """
        return sums[..., 0] / n if self.score is None else self.score.value(sums, n)

    def value(self, y: Floats, p: Floats) -> float:
        """
        Measure a sample; NaN where the metric is not defined.

        :param y: labels, shape ``(n_rows,)``.
        :param p: predictions, one or one per class for each row.
        """
        if self.number is not None:
            return float(self.number(y, p))
        return float(self.of_sums(self.parts(y, p).sum(axis=1), len(y)))

    def tried(self, y: Floats, p: Floats) -> float:
        """
        Measure a part or a resample of the rows; NaN also where a function of the user fails.

        :param y: labels, shape ``(n_rows,)``.
        :param p: predictions, one or one per class for each row.
        """
        try:
            return self.value(y, p)
        except UserCodeError:
            return np.nan


def named(name: str) -> Metric:
    """
    Return a built-in metric.

    :param name: a key of ``LOSSES`` or ``SCORES``.
    :raises ConfigurationError: if no metric has that name.
    """
    if name in LOSSES:
        return Metric(name, loss=LOSSES[name])
    if name in SCORES:
        return Metric(name, greater_is_better=True, score=SCORES[name])
    msg = (
        f"unknown metric {name!r}; known: {', '.join(sorted([*LOSSES, *SCORES]))}, and your own as "
        "'module:function'"
    )
    raise ConfigurationError(msg)


def loss_function(name: str) -> Metric:
    """
    Return a built-in per-row loss by name.

    :raises ConfigurationError: if no loss has that name.
    """
    if name not in LOSSES:
        msg = f"unknown per-row loss {name!r}; known: {', '.join(sorted(LOSSES))}"
        raise ConfigurationError(msg)
    return named(name)


def measure(metric: str | Metric, y: Floats, p: Floats) -> float:
    """
    Return one metric of a sample: the mean of a loss, or a score.

    :param metric: a metric, or the name of a built-in one.
    :param y: labels, shape ``(n_rows,)``.
    :param p: predictions, shape ``(n_rows,)``, or ``(n_rows, n_classes)``.
    :raises ConfigurationError: if no metric has that name.
    :raises NotEnoughDataError: if the sample is empty, or leaves the metric undefined.
    """
    metric = named(metric) if isinstance(metric, str) else metric
    if not len(y):
        msg = f"no rows to measure {metric.name} on"
        raise NotEnoughDataError(msg)
    value = metric.on(y, p).value(y, p)
    if not np.isfinite(value):
        why = "one class only, or NaN predicted"
        msg = f"{metric.name} is not defined on these {len(y)} rows ({why})"
        raise NotEnoughDataError(msg)
    return value
