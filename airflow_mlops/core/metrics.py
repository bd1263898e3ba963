"""How good: per-row losses, scores of a whole sample, and their intervals."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError
from airflow_mlops.policy import PROBABILITIES

Floats = NDArray[np.float64]

BLOCKS = 8
"""Contiguous blocks of rows, whose means are nearly independent where rows are not."""


def block_means(values: Floats) -> Floats:
    """
    Return the mean of each contiguous block, shape ``(8,)``.

    :param values: in the order of time, shape ``(n_rows,)``.

    Source: Schmeiser, Batch size effects in the analysis of simulation output, Operations Research
    30(3), 1982.
    """
    return np.array([part.mean() for part in np.array_split(values, BLOCKS)])


def standard_error(means: Floats) -> float:
    """
    Return the standard error of the mean of all rows.

    :param means: of their blocks.
    """
    return float(means.std(ddof=1) / math.sqrt(len(means)))


def _brier(y: Floats, p: Floats) -> Floats:
    """Squared error of a probability. Source: Brier, Monthly Weather Review 78(1), 1950."""
    return (p - y) ** 2


def _log_loss(y: Floats, p: Floats) -> Floats:
    """Negative log likelihood in nats; probabilities are kept 1e-15 away from 0 and 1."""
    q = np.clip(p, 1e-15, 1 - 1e-15)
    return -(y * np.log(q) + (1 - y) * np.log(1 - q))


def _absolute_error(y: Floats, p: Floats) -> Floats:
    return np.abs(p - y)


def _squared_error(y: Floats, p: Floats) -> Floats:
    return (p - y) ** 2


LOSSES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "brier": _brier,
    "log_loss": _log_loss,
    "absolute_error": _absolute_error,
    "squared_error": _squared_error,
}
"""Per-row losses, less is better: labels and predictions ``(n_rows,)`` give ``(n_rows,)``."""


def _roc_auc(y: Floats, p: Floats) -> float:
    """
    Area under the ROC curve by ranks.

    Source: Hanley and McNeil, Radiology 143(1), 1982.
    """
    from scipy.stats import rankdata

    ones = y > 0.5
    n1, n0 = int(ones.sum()), int((~ones).sum())
    if not n1 or not n0:
        return float("nan")
    return float((rankdata(p)[ones].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def _accuracy(y: Floats, p: Floats) -> float:
    return float(((p >= 0.5) == (y > 0.5)).mean())


def _recall(y: Floats, p: Floats) -> float:
    ones = y > 0.5
    return float((p[ones] >= 0.5).mean()) if ones.any() else float("nan")


def _precision(y: Floats, p: Floats) -> float:
    said = p >= 0.5
    return float((y[said] > 0.5).mean()) if said.any() else float("nan")


SCORES: Mapping[str, Callable[[Floats, Floats], float]] = {
    "roc_auc": _roc_auc,
    "accuracy": _accuracy,
    "recall": _recall,
    "precision": _precision,
}
"""Scores of a whole sample, more is better."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    A metric of a sample, with the interval its rows support.

    :param low: lower end of the 95 % interval, in the unit of the metric.
    :param high: upper end.
    :param rows: rows of the sample.
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the estimate that :meth:`to_dict` wrote."""
        return cls(**data)

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def loss_function(name: str) -> Callable[[Floats, Floats], Floats]:
    """
    Return a per-row loss by name.

    :raises ConfigurationError: if no loss has that name.
    """
    if name not in LOSSES:
        msg = f"unknown per-row loss {name!r}; known: {', '.join(sorted(LOSSES))}"
        raise ConfigurationError(msg)
    return LOSSES[name]


def measure(name: str, y: Floats, p: Floats) -> float:
    """
    Return one metric of a sample: the mean of a loss, or a score.

    :param name: a key of :data:`LOSSES` or :data:`SCORES`.
    :param y: labels, shape ``(n_rows,)``.
    :param p: predictions, shape ``(n_rows,)``.
    :raises ConfigurationError: if no metric has that name.
    :raises NotEnoughDataError: if the sample is empty, or leaves the metric undefined.
    """
    if name not in LOSSES and name not in SCORES:
        msg = f"unknown metric {name!r}; known: {', '.join(sorted([*LOSSES, *SCORES]))}"
        raise ConfigurationError(msg)
    if not len(y):
        msg = f"no rows to measure {name} on"
        raise NotEnoughDataError(msg)
    value = float(LOSSES[name](y, p).mean()) if name in LOSSES else SCORES[name](y, p)
    if not np.isfinite(value):
        msg = f"{name} is not defined on these {len(y)} rows (one class only, or NaN predicted)"
        raise NotEnoughDataError(msg)
    return value


def estimate(
    name: str, y: Floats, p: Floats, *, seed: int, draws: int = 499, level: float = 0.95
) -> Estimate:
    """
    Measure a metric with a moving-block bootstrap interval, honest for rows in time order.

    :param y: labels in time order, shape ``(n_rows,)``.
    :param p: predictions, shape ``(n_rows,)``.
    :param seed: seed of the bootstrap.
    :param draws: bootstrap samples.
    :param level: coverage, 0 to 1.
    :raises NotEnoughDataError: if the metric is not defined on the sample.

    Source: Kunsch, The jackknife and the bootstrap for general stationary observations, Annals of
    Statistics 17(3), 1989; block length ``ceil(n ** (1/3))``.
    """
    value, n = measure(name, y, p), len(y)
    length = int(np.ceil(n ** (1 / 3)))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n - length + 1, size=(draws, -(-n // length)))
    rows = (starts[:, :, None] + np.arange(length)).reshape(draws, -1)[:, :n]
    if name in LOSSES:
        found = LOSSES[name](y, p)[rows].mean(axis=1)
    else:
        found = np.array([SCORES[name](y[r], p[r]) for r in rows])
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return Estimate(name, value, float(low), float(high), n)


def estimates(loss: str, y: Floats, p: Floats, *, seed: int) -> tuple[Estimate, ...]:
    """Estimate the loss and, of a classifier, the scores that mean anything on these rows."""
    names = [loss, *(SCORES if loss in PROBABILITIES else ())]
    if len(np.unique(y)) < 2:
        names = [loss]
    names = [name for name in names if name == loss or _defined(name, y, p)]
    return tuple(estimate(name, y, p, seed=seed) for name in names)


def _defined(name: str, y: Floats, p: Floats) -> bool:
    """Say whether a score means anything here: no precision without a row that was called a one."""
    try:
        measure(name, y, p)
    except NotEnoughDataError:
        return False
    return True
