"""Which history helps now: one model per span of training rows, on the same later rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.evaluation.comparison import Comparison, compare

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
        return {"chosen": self.chosen, "compared": {n: asdict(c) for n, c in self.compared.items()}}


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
