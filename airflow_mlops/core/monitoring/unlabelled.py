"""
How the champion probably does, before its labels arrive: what its own probabilities promise.

If a probability is right, it says how often it will be wrong. So the expected loss of a window is a
mean over the served probabilities, corrected by what came true in labelled windows before. What the
correction does not know, such as a new relation between features and label, the estimate does not
see either: it is shown with its own past error, and triggers nothing.

Source: confidence-based performance estimation, as in NannyML; the idea goes back to Guillory et
al., Predicting with Confidence on Unseen Distributions, ICCV 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.metrics import LOSSES
from airflow_mlops.policy import PROBABILITIES

MONITOR = "estimate"
BINS = 10
PRIOR = 25
"""Rows by which a bin trusts the probability as it was served."""

Floats = NDArray[np.float64]
Bins = tuple[tuple[float, float, float], ...]
"""Of each tenth of the scale: rows, sum of their probabilities, sum of their labels."""


@dataclass(frozen=True, slots=True)
class Guess:
    """
    What was expected of a window before its labels came.

    :param value: expected mean loss.
    :param accuracy: expected accuracy.
    :param windows: labelled windows the probabilities were corrected by.
    """

    model: str
    index: int
    since: str
    until: str
    metric: str
    rows: int
    value: float
    accuracy: float
    windows: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with ``status`` and ``line``."""
        return asdict(self) | {"status": "ok", "line": str(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the guess that :meth:`to_dict` wrote."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        return (
            f"{self.model} in window {self.index}: {self.metric} {self.value:.4f} and accuracy "
            f"{self.accuracy:.1%} are expected of {self.rows} rows without labels, after "
            f"{self.windows} labelled windows"
        )


def binned(p: Floats, y: Floats) -> Bins:
    """
    Count what came true, by tenths of the probability.

    :param p: served probabilities, shape ``(n_rows,)``.
    :param y: labels, shape ``(n_rows,)``.
    """
    place = _place(p)
    sums = [np.bincount(place, weights, BINS) for weights in (np.ones(len(p)), p, y)]
    return tuple((float(n), float(said), float(came)) for n, said, came in zip(*sums, strict=True))


def expected(metric: str, p: Floats, past: Sequence[Bins]) -> tuple[float, float] | None:
    """
    Return the expected loss and accuracy of served probabilities; nothing for other predictions.

    :param metric: per-row loss.
    :param p: served probabilities, shape ``(n_rows,)``.
    :param past: what came true in labelled windows; none: probabilities are believed as they are.
    """
    if metric not in PROBABILITIES or not len(p):
        return None
    chance = np.clip(p, 0.0, 1.0)
    if past:
        rows, said, came = np.sum(np.array(past), axis=0).T
        chance = np.clip(p + ((came - said) / (rows + PRIOR))[_place(p)], 0.0, 1.0)
    one, zero = (LOSSES[metric](np.full(len(p), label), p) for label in (1.0, 0.0))
    right = np.where(p >= 0.5, chance, 1 - chance)
    return float((chance * one + (1 - chance) * zero).mean()), float(right.mean())


def past_error(guesses: Mapping[int, Guess], realised: Mapping[int, float]) -> float | None:
    """
    Return the mean distance of earlier estimates from what came true; nothing if there are none.

    :param guesses: window -> estimate.
    :param realised: window -> loss once its labels were there.
    """
    both = [abs(guesses[index].value - realised[index]) for index in guesses.keys() & realised]
    return float(np.mean(both)) if both else None


def _place(p: Floats) -> NDArray[np.int64]:
    return np.clip((p * BINS).astype(np.int64), 0, BINS - 1)
