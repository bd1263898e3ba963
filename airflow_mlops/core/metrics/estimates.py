"""A metric of a sample, with the interval that its rows support."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.metrics.bootstrap import DRAWS, resampled
from airflow_mlops.core.metrics.losses import Floats, rarest
from airflow_mlops.core.metrics.metric import Metric, measure, named
from airflow_mlops.policy import CLASS_SCORES, PROBABILITIES, QUANTITIES


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    A metric of a sample, with the interval its rows support.

    :param low: lower end of the 95 % interval, in the unit of the metric.
    :param high: upper end.
    :param rows: rows of the sample.
    :param rare: rows of the rarest class, where the metric needs some of each.
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int
    rare: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the estimate that :meth:`to_dict` wrote."""
        return cls(**data)

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(
    metric: str | Metric,
    y: Floats,
    p: Floats,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Estimate:
    """
    Measure a metric with a moving-block bootstrap interval, honest for rows in time order.

    :param metric: a metric, or the name of a built-in one.
    :param y: labels in time order, shape ``(n_rows,)``.
    :param p: predictions, shape ``(n_rows,)``, or ``(n_rows, n_classes)``.
    :param seed: seed of the bootstrap.
    :param draws: bootstrap samples.
    :param level: coverage, 0 to 1.
    :raises NotEnoughDataError: if the metric is not defined on the sample.

    Source: see :mod:`~airflow_mlops.core.metrics.bootstrap`.
    """
    metric = named(metric) if isinstance(metric, str) else metric
    value = measure(metric, y, p)
    found = resampled(metric.on(y, p), y, [p], seed=seed, draws=draws)[:, 0]
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    rare = rarest(y, p) if metric.of_classes else None
    return Estimate(metric.name, value, float(low), float(high), len(y), rare)


def estimates(
    loss: str | Metric, y: Floats, p: Floats, *, seed: int, more: Sequence[Metric] = ()
) -> tuple[Estimate, ...]:
    """
    Estimate the loss, and the scores that mean anything on these rows.

    :param loss: the per-row loss, or the name of a built-in one.
    :param y: labels in time order, shape ``(n_rows,)``.
    :param p: predictions, shape ``(n_rows,)``, or ``(n_rows, n_classes)``.
    :param seed: seed of the bootstrap.
    :param more: further metrics that somebody asks for; those that are not defined are left out.
    :raises NotEnoughDataError: if the loss is not defined on the sample.
    """
    first = named(loss) if isinstance(loss, str) else loss
    found = [estimate(first, y, p, seed=seed)]
    usual = scores_of(first.name, y, p) if len(np.unique(y)) > 1 else ()
    others = {m.name: m for m in (*map(named, usual), *more) if m.name != first.name}
    for metric in others.values():
        try:
            found.append(estimate(metric, y, p, seed=seed))
        except NotEnoughDataError:  # no precision without a row that was called a one
            continue
    return tuple(found)


def scores_of(loss: str, y: Floats, p: Floats) -> tuple[str, ...]:
    """
    Name the scores that go with a loss.

    :param loss: name of the per-row loss.
    :param y: labels, shape ``(n_rows,)``.
    :param p: predictions, shape ``(n_rows,)``, or ``(n_rows, n_classes)``.
    """
    if is_of_classes(loss, y, p):
        return CLASS_SCORES
    return ("r2",) if loss in QUANTITIES else ()


def is_of_classes(loss: str, y: Floats, p: Floats | None = None) -> bool:
    """
    Say whether predictions are probabilities of classes.

    By the loss; with one of the user, if there is a column for each class, or all labels are 0 or
    1.

    :param loss: name of the per-row loss.
    :param y: labels, shape ``(n_rows,)``.
    :param p: predictions, if there are any yet.
    """
    if loss in PROBABILITIES or (p is not None and p.ndim == 2):
        return True
    return loss not in QUANTITIES and bool(np.isin(y, (0.0, 1.0)).all())
