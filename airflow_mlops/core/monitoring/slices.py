"""Which part of the rows got worse: one loss per slice, against the same slice of the hold-out."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.data.slicing import Values, cut, holm
from airflow_mlops.core.metrics import BLOCKS, block_means
from airflow_mlops.policy import Decay

MIN_ROWS = 50
"""Rows a slice needs, in the window and in the hold-out, to be judged."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SliceLoss:
    """
    Loss of one slice of a window.

    :param column: column that cuts.
    :param value: value, or range of values, in words.
    :param loss: mean loss on the ``rows`` of this window.
    :param before: mean loss of the same model on ``before_rows`` rows of its hold-out; ``None``:
        it has none there.
    :param p_value: of "not worse by 5 %", after Holm over all slices; ``None``: too few rows.
    :param decayed: whether it is surely worse.
    """

    column: str
    value: str
    rows: int
    loss: float
    before: float | None = None
    before_rows: int = 0
    p_value: float | None = None
    decayed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the slice that :meth:`to_dict` wrote."""
        return cls(**data)

    def __str__(self) -> str:
        before = f" (was {self.before:.4f})" if self.before is not None else ""
        return f"{self.column} {self.value}: {self.loss:.4f}{before} on {self.rows} rows"


@dataclass(frozen=True, slots=True)
class Part:
    """
    Rows in the order of time.

    :param columns: column -> value of each row; a missing one is ``None`` or NaN.
    :param losses: loss of each row, shape ``(n_rows,)``.
    """

    columns: Mapping[str, Values]
    losses: Floats


def judge_slices(now: Part, before: Part | None) -> tuple[SliceLoss, ...]:
    """
    Measure every slice, and name those that are surely worse than they were in the hold-out.

    Worse by more than 5 % of what it was (as rule ``Decay``), at an error rate of 5 % over all
    slices together.

    :param before: the hold-out of the model that served; ``None``: nothing is judged.

    Source: Welch, Biometrika 34, 1947, on the means of 8 contiguous blocks; Holm, A simple
    sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    measured: list[SliceLoss] = []
    tested: dict[int, float] = {}
    for column, values in now.columns.items():
        for value, here, there in cut(values, before.columns[column] if before else None):
            losses = now.losses[here]
            was = before.losses[there] if before is not None else np.empty(0)
            mean = float(was.mean()) if len(was) else None
            found = SliceLoss(column, value, len(losses), float(losses.mean()), mean, len(was))
            if min(len(losses), len(was)) >= MIN_ROWS:
                tested[len(measured)] = _p_worse(losses, was)
            measured.append(found)
    for place, p in zip(tested, holm([*tested.values()]), strict=True):
        measured[place] = replace(measured[place], p_value=p, decayed=p <= Decay().alpha)
    return tuple(measured)


def _p_worse(losses: Floats, was: Floats) -> float:
    """P-value of "not worse by 5 %", from block means, with the fewest degrees of freedom."""
    from scipy.stats import t

    limit = 1 + Decay().drop
    means = [block_means(x) for x in (losses, was)]
    variance = means[0].var(ddof=1) + limit**2 * means[1].var(ddof=1)
    error = max(math.sqrt(variance / BLOCKS), 1e-12)
    difference = float(losses.mean() - limit * was.mean())
    return float(t.sf(difference / error, BLOCKS - 1))
