"""Which history helps now: one model per span of training rows, on the same later rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.evaluation.comparison import MIN_ROWS, Comparison, compare
from airflow_mlops.core.training.functions import Functions
from airflow_mlops.core.training.own_metrics import load_loss

OWN = "own"
ALPHA = 0.05
"""One-sided error rate, over all the other spans together."""


@dataclass(frozen=True, slots=True)
class SpanChoice:
    """
    The span to learn from.

    :param chosen: its name; ``own`` unless another one is surely better.
    :param compared: name -> comparison with a model of the own span; less is better.
    """

    chosen: str
    compared: Mapping[str, Comparison]

    def __str__(self) -> str:
        if not self.compared:
            return "own span, nothing to compare it with"
        found = "; ".join(f"{name}: {c}" for name, c in self.compared.items())
        return f"span {self.chosen} ({found})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "chosen": self.chosen,
            "compared": {n: c.to_dict() for n, c in self.compared.items()},
        }


def choose_span(
    metric: str, own: NDArray[np.float64], others: Mapping[str, NDArray[np.float64]]
) -> SpanChoice:
    """
    Choose the span whose model does best, if it is surely better than that of the own span.

    :param metric: the per-row loss.
    :param own: losses of the model of the own span on later rows, shape ``(n_rows,)``.
    :param others: name of a span -> losses of its model on the same rows.

    Source: Bonferroni over the other spans; the test is that of
    :func:`~airflow_mlops.core.evaluation.comparison.compare`.
    """
    compared: dict[str, Comparison] = {}
    for name, losses in others.items():
        try:
            compared[name] = compare(metric, own, losses)
        except NotEnoughDataError:
            return SpanChoice(OWN, {})
    alpha = ALPHA / max(len(compared), 1)
    better = {n: c.difference for n, c in compared.items() if c.bound(alpha) < 0}
    return SpanChoice(min(better, key=better.__getitem__) if better else OWN, compared)


def enough(y: NDArray[np.float64]) -> bool:
    """
    Say whether rows are enough to learn from: 100, and not of one class.

    :param y: their labels, shape ``(n_rows,)``.
    """
    return len(y) >= MIN_ROWS and len(np.unique(y)) > 1


def try_spans(
    functions: Functions, spans: Mapping[str, datetime], holdout: Labelled, *, metric: str
) -> SpanChoice:
    """
    Fit a model on each span, and choose by what they lose on the hold-out.

    :param functions: the user's functions, with the rows of the own span.
    :param spans: name -> time at which its rows begin, within the own span; those with too few
        rows, or with one class only, are left out.
    :param holdout: later labelled rows.
    :param metric: the per-row loss.
    """
    loss = load_loss(metric)
    features, rows = functions.built(), functions.rows
    times = rows.rows[rows.time]

    def losses(first: int) -> NDArray[np.float64]:
        estimator = functions.estimator(features.iloc[first:], rows.y[first:])
        return loss(holdout.y, functions.predict(estimator, holdout.rows))

    others = {}
    for name, since in spans.items():
        first = int(pc.sum(pc.less(times, pa.scalar(since, times.type))).as_py())
        if first and enough(rows.y[first:]):
            others[name] = losses(first)
    return choose_span(metric, losses(0), others) if others else SpanChoice(OWN, {})
