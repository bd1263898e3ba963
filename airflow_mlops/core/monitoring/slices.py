"""Which part of the rows got worse: one loss per slice, against the same slice of the hold-out."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.metrics import BLOCKS, block_means
from airflow_mlops.policy import Decay

MIN_ROWS = 50
"""Rows a slice needs, in the window and in the hold-out, to be judged."""

VALUES = 10
"""More distinct values than this: numbers are cut at their quartiles, others are pooled."""

LETTERS = 40
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

    columns: Mapping[str, Sequence[Any]]
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
    tested: list[tuple[int, float]] = []
    for column, values in now.columns.items():
        for value, here, there in _cut(values, before.columns[column] if before else None):
            losses = now.losses[here]
            was = before.losses[there] if before is not None else np.empty(0)
            mean = float(was.mean()) if len(was) else None
            found = SliceLoss(column, value, len(losses), float(losses.mean()), mean, len(was))
            if min(len(losses), len(was)) >= MIN_ROWS:
                tested.append((len(measured), _p_worse(losses, was)))
            measured.append(found)
    for place, p in _holm(tested):
        measured[place] = replace(measured[place], p_value=p, decayed=p <= Decay().alpha)
    return tuple(measured)


def _cut(
    now: Sequence[Any], before: Sequence[Any] | None
) -> list[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Name each slice that has rows now, and say which rows are in it, now and then."""
    number, texts = _groups(now, now if before is None else before)
    names = _distinct(["missing", *texts])
    here, there = (
        np.array([0 if _missing(v) else 1 + number(v) for v in values], np.int64)
        for values in (now, before or ())
    )
    found = sorted(set(here.tolist()), key=lambda group: names[group])
    return [(names[group], here == group, there == group) for group in found]


def _groups(
    now: Sequence[Any], before: Sequence[Any]
) -> tuple[Callable[[Any], int], Sequence[str]]:
    """Return the function that numbers the slice of a value, and a text for each number."""
    known = [v for v in (*now, *before) if not _missing(v)]
    few = len(set(known)) <= VALUES
    if not few and all(isinstance(v, int | float) for v in known):
        return _quartiles([v for v in before if not _missing(v)] or known)
    counts: dict[Any, int] = {}
    for value in known:
        counts[value] = counts.get(value, 0) + 1
    kept = sorted(sorted(counts, key=lambda v: (-counts[v], str(v)))[:VALUES], key=str)
    numbers = {value: number for number, value in enumerate(kept, 1)}
    return lambda value: numbers.get(value, 0), ["other values", *(str(v)[:LETTERS] for v in kept)]


def _quartiles(values: Sequence[float]) -> tuple[Callable[[Any], int], Sequence[str]]:
    cuts = np.quantile(np.array(values, np.float64), [0.25, 0.5, 0.75]).tolist()
    for digits in range(6, 18):  # 17 tell all numbers apart
        low, middle, high = texts = [f"{cut:.{digits}g}" for cut in cuts]
        if len(set(texts)) == len(set(cuts)):
            break
    names = [f"up to {low}", f"{low} to {middle}", f"{middle} to {high}", f"above {high}"]
    return lambda value: int(np.searchsorted(cuts, value)), names


def _distinct(texts: Sequence[str]) -> list[str]:
    """Number those that are there already."""
    names: list[str] = []
    for text in texts:
        tries = itertools.chain([text], (f"{text} ({n})" for n in itertools.count(2)))
        names.append(next(name for name in tries if name not in names))
    return names


def _missing(value: Any) -> bool:
    return value is None or value != value


def _p_worse(losses: Floats, was: Floats) -> float:
    """P-value of "not worse by 5 %", from block means, with the fewest degrees of freedom."""
    from scipy.stats import t

    limit = 1 + Decay().drop
    means = [block_means(x) for x in (losses, was)]
    variance = means[0].var(ddof=1) + limit**2 * means[1].var(ddof=1)
    error = max(math.sqrt(variance / BLOCKS), 1e-12)
    difference = float(losses.mean() - limit * was.mean())
    return float(t.sf(difference / error, BLOCKS - 1))


def _holm(tested: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Correct p-values for the number of questions, the smallest first."""
    found, least = [], 0.0
    for rank, (place, p) in enumerate(sorted(tested, key=lambda pair: pair[1])):
        least = max(least, min(1.0, (len(tested) - rank) * p))
        found.append((place, least))
    return found
