"""
What is looked at in one column: effects in share of rows, and how surprising they are.

Every number comes from two profiles; no row is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.data.profile import (
    CELLS,
    INFINITE,
    CategoryProfile,
    ColumnProfile,
    NumericProfile,
)
from airflow_mlops.core.errors import ConfigurationError

DECILES = 10
RARE = 0.01
"""Categories below this share of the reference are pooled."""

_KEYS = np.arange(CELLS)
_ORDER = np.argsort(np.where(_KEYS >= 0x8000, 0xFFFF - _KEYS, _KEYS + 0x8000))
_RANK = np.argsort(_ORDER)
"""Place of a cell among all cells by the value it stands for, minus to plus infinity."""


def _middles() -> NDArray[np.float64]:
    """Return the middle of each cell relative to the centre, by rank."""
    low, high = (_KEYS << 16).astype("<u4").view("<f4"), ((_KEYS << 16) | 0xFFFF).astype("<u4")
    with np.errstate(invalid="ignore"):
        middle = low.astype(float) / 2 + high.view("<f4").astype(float) / 2
    middle[list(INFINITE)] = np.inf, -np.inf
    return middle[_ORDER]


_MIDDLE = _middles()


@dataclass(frozen=True, slots=True)
class Share:
    """
    A share of rows that moved, with the p-value that independent rows would give it.

    :param p: textbook p-value.
    :param value: share of rows, 0 to 1.
    :param rows: effective rows of the comparison, ``n * m / (n + m)``.
    """

    p: float
    value: float
    rows: float


@dataclass(frozen=True, slots=True)
class Marked:
    """Marked rows: ``before`` of ``reference`` rows, ``now`` of ``current`` rows."""

    before: int
    reference: int
    now: int
    current: int


@dataclass(frozen=True, slots=True)
class Check:
    """
    One question about one column.

    :param statistic: which question.
    :param effect: share of rows concerned.
    :param tests: ways to ask how surprising that is; the smallest p counts, times their number.
    """

    statistic: str
    effect: float
    tests: tuple[Share | Marked, ...]


def checks(reference: ColumnProfile, current: ColumnProfile) -> Iterator[Check]:
    """
    Ask every question that a column of this kind allows.

    :raises ConfigurationError: if the two were made around different centres.
    """
    rise = current.missing / max(current.rows, 1) - reference.missing / max(reference.rows, 1)
    missing = Marked(reference.missing, reference.rows, current.missing, current.rows)
    yield Check("missing", rise, (missing,))
    if not reference.present or not current.present:
        return
    if isinstance(reference, NumericProfile) and isinstance(current, NumericProfile):
        yield from _numeric(reference, current)
    elif isinstance(reference, CategoryProfile) and isinstance(current, CategoryProfile):
        yield from _category(reference, current)


def _numeric(reference: NumericProfile, current: NumericProfile) -> Iterator[Check]:
    if (reference.centre, reference.scale) != (current.centre, current.scale):
        msg = (
            f"profiles around {reference.centre:g} and {current.centre:g} cannot be compared; "
            "compare versions of one dataset"
        )
        raise ConfigurationError(msg)
    ranks = [_RANK[profile.cells] for profile in (reference, current)]
    dense = np.zeros((2, CELLS))
    dense[0, ranks[0]], dense[1, ranks[1]] = reference.counts, current.counts
    used = np.flatnonzero(dense.any(axis=0))
    before, now = dense[:, used]
    yield _moved_numeric(before, now)
    n, m = reference.present, current.present
    middle = _MIDDLE[used]
    low, high = middle[before > 0][[0, -1]]
    with np.errstate(invalid="ignore"):  # nothing lies beyond a range that is infinite
        grace = (high - low) / 2
        out = int(now[(middle < low - grace) | (middle > high + grace)].sum())
    yield Check("out of range", out / m, (Marked(0, n, out, m),))
    shares = now / m - before / n
    most = int(np.argmax(shares))
    marked = Marked(int(before[most]), n, int(now[most]), m)
    yield Check("one value", float(shares[most]), (marked,))


def _moved_numeric(before: NDArray[np.float64], now: NDArray[np.float64]) -> Check:
    """
    Compare two numeric columns: Kolmogorov-Smirnov gap, and the reference's deciles.

    Source: Kolmogorov, Giornale dell'Istituto Italiano degli Attuari 4, 1933, with the small-sample
    correction of Stephens, JRSS B 32(1), 1970; chi-squared: Pearson, Philosophical Magazine, 1900.
    """
    from scipy.special import kolmogorov

    n, m = before.sum(), now.sum()
    below_before, below_now = np.cumsum(before) / n, np.cumsum(now) / m
    gap = float(np.abs(below_before - below_now).max())
    # a cell is never split, so that a value many rows share keeps its bin
    bins = np.minimum((below_before - before / n / 2) * DECILES, DECILES - 1).astype(int)
    moved, p = _homogeneity(
        np.bincount(bins, before, DECILES).astype(float),
        np.bincount(bins, now, DECILES).astype(float),
    )
    rows = float(n * m / (n + m))
    root = math.sqrt(rows)
    p_gap = float(kolmogorov((root + 0.12 + 0.11 / root) * gap))
    return Check("moved", max(gap, moved), (Share(p, moved, rows), Share(p_gap, gap, rows)))


def _category(reference: CategoryProfile, current: CategoryProfile) -> Iterator[Check]:
    n, m = reference.present, current.present
    big = [v for v, rows in reference.values.items() if rows >= RARE * n]
    big = big or list(reference.values)[:1]
    parts = []
    for profile, rows in ((reference, n), (current, m)):
        kept = np.array([profile.values.get(v, 0) for v in big], float)
        parts.append(np.append(kept, rows - kept.sum()))
    moved, p = _homogeneity(*parts)
    yield Check("moved", moved, (Share(p, moved, n * m / (n + m)),))
    unknown = sum(rows for v, rows in current.values.items() if v not in reference.values)
    new = 0 if reference.other else unknown
    # Good-Turing: values seen once in the reference tell how often a new one is to be expected
    once = sum(rows == 1 for rows in reference.values.values())
    yield Check("new values", new / m, (Marked(once, n, new, m),))


def _homogeneity(before: NDArray[np.float64], now: NDArray[np.float64]) -> tuple[float, float]:
    """Return total variation and the p-value of the chi-squared test of homogeneity."""
    from scipy.special import chdtrc

    used = before + now > 0
    a, b = before[used], now[used]
    n, m = a.sum(), b.sum()
    expected = (a + b) / (n + m)
    statistic = ((a - n * expected) ** 2 / (n * expected)).sum()
    statistic += ((b - m * expected) ** 2 / (m * expected)).sum()
    p = float(chdtrc(max(len(a) - 1, 1), statistic)) if len(a) > 1 else 1.0
    return float(np.abs(a / n - b / m).sum() / 2), p
