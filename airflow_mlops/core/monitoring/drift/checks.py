"""
What is looked at in one column: effects in share of rows, and how surprising they are.

Every number comes from two profiles; no row is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from airflow_mlops.core.monitoring.drift.laws import (
    chi_squared_tail,
    kolmogorov_tail,
    two_sided_tail,
)

_EDGES = np.arange(11) / 10
RARE = 0.01
"""Categories below this share of the reference are pooled."""

_AT_ONCE = 30_000
"""Counters that are looked at together: what lies in the cache costs a third less CPU."""

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
class Lift(Share):
    """
    How much more often a current value exceeds one of the reference than the other way round.

    Between windows it scatters around 0, as a mean does; ``value`` is without its sign.
    """


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
    yield _missing(reference, current)
    if not reference.present or not current.present:
        return
    if isinstance(reference, NumericProfile) and isinstance(current, NumericProfile):
        if (reference.centre, reference.scale) != (current.centre, current.scale):
            msg = (
                f"profiles around {reference.centre:g} and {current.centre:g} cannot be compared; "
                "compare versions of one dataset"
            )
            raise ConfigurationError(msg)
        used, (before, now) = _by_value((reference, current))
        yield from _numeric(used, before + now, now[None])[0]
    elif isinstance(reference, CategoryProfile) and isinstance(current, CategoryProfile):
        yield from _category(reference, current)


def checks_of_each(
    whole: ColumnProfile, windows: Sequence[ColumnProfile]
) -> Iterator[tuple[Check, ...]]:
    """
    Compare each window with the sum of the others.

    :param whole: sum of the windows.
    """
    if not isinstance(whole, NumericProfile):
        for window in windows:
            yield tuple(checks(whole.merge(window, -1), window))  # type: ignore[arg-type]
        return
    numeric = [w for w in windows if isinstance(w, NumericProfile)]
    used, rows = _by_value((whole, *numeric))
    step = max(1, _AT_ONCE // max(len(used), 1))
    found: list[tuple[Check, ...]] = []
    for start in range(1, len(rows), step):
        found += _numeric(used, rows[0], rows[start : start + step])
    for window, asked in zip(numeric, found, strict=True):
        others = (whole.rows - window.rows, whole.missing - window.missing)
        both = window.present and others[0] > others[1]
        rest = replace(whole.without_rows(), rows=others[0], missing=others[1])
        yield (_missing(rest, window), *(asked if both else ()))


def _missing(reference: ColumnProfile, current: ColumnProfile) -> Check:
    rise = current.missing / max(current.rows, 1) - reference.missing / max(reference.rows, 1)
    marked = Marked(reference.missing, reference.rows, current.missing, current.rows)
    return Check("missing", rise, (marked,))


def _by_value(profiles: Sequence[NumericProfile]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return occupied ranks, ascending, and the rows in them, shape ``(profiles, ranks)``."""
    seen = np.zeros(CELLS, bool)
    ranks = [_RANK[profile.cells] for profile in profiles]
    for found in ranks:
        seen[found] = True
    used = np.flatnonzero(seen)
    place = np.empty(CELLS, np.int64)
    place[used] = np.arange(len(used))
    rows = np.zeros((len(profiles), len(used)))
    for row, found, profile in zip(rows, ranks, profiles, strict=True):
        row[place[found]] = profile.counts
    return used, rows


def _numeric(
    used: NDArray[Any], both: NDArray[np.float64], now: NDArray[np.float64]
) -> list[tuple[Check, ...]]:
    """
    Ask what numbers allow, for each row of ``now``; one without values gives nonsense.

    :param used: ranks of the cells, shape ``(cells,)``.
    :param both: rows of reference and window in them, shape ``(cells,)``.
    :param now: rows of each window, shape ``(n, cells)``; the rest of ``both`` is its reference.
    """
    if not len(used):
        return [()] * len(now)
    below_both, below_now = _below(both), _below(now)
    m = below_now[:, -1:]
    n = below_both[-1] - m
    out = _beyond(_MIDDLE[used], now < both, below_now)
    with np.errstate(invalid="ignore", divide="ignore"):  # a row without values
        moved = _moved_numeric(below_both, below_now, _lifts(both, now, below_both))
        rises = now * (1 / n + 1 / m)
        rises -= both / n
    most = rises.argmax(axis=1)
    found: list[tuple[Check, ...]] = []
    for i, (a, b, o, top) in enumerate(zip(n[:, 0], m[:, 0], out, most, strict=True)):
        beyond = Marked(0, int(a), int(o), int(b))
        one = Marked(int(both[top] - now[i, top]), int(a), int(now[i, top]), int(b))
        found.append(
            (
                moved[i],
                Check("out of range", float(o / max(b, 1)), (beyond,)),
                Check("one value", float(rises[i, top]), (one,)),
            )
        )
    return found


def _below(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows in cells before each cell and in all of them, one more than cells."""
    found = np.zeros((*rows.shape[:-1], rows.shape[-1] + 1))
    np.cumsum(rows, axis=-1, out=found[..., 1:])
    return found


def _beyond(
    middle: NDArray[np.float64], seen: NDArray[np.bool_], below_now: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Count the rows beyond the reference's range, widened by half of it; cells are in order."""
    low = middle[seen.argmax(axis=1)]
    high = middle[len(middle) - 1 - seen[:, ::-1].argmax(axis=1)]
    with np.errstate(invalid="ignore"):
        grace = (high - low) / 2
        first = np.searchsorted(middle, low - grace, "left")
    first[np.isnan(grace)] = 0  # only infinite values: there is no range to leave
    last = np.searchsorted(middle, high + grace, "right")
    row = np.arange(len(seen))
    found: NDArray[np.float64] = below_now[row, first] + below_now[:, -1] - below_now[row, last]
    return found


def _moved_numeric(
    below_both: NDArray[np.float64], below_now: NDArray[np.float64], lifts: Sequence[Lift]
) -> list[Check]:
    """
    Compare numeric columns: Kolmogorov-Smirnov gap, the reference's deciles, and ranks.

    Source: Kolmogorov, Giornale dell'Istituto Italiano degli Attuari 4, 1933, with the small-sample
    correction of Stephens, JRSS B 32(1), 1970; chi-squared: Pearson, Philosophical Magazine, 1900.
    """
    below = below_both - below_now
    n, m = below[:, -1], below_now[:, -1]
    gaps = np.abs(below / n[:, None] - below_now / m[:, None]).max(axis=1)
    rows = n * m / (n + m)
    root = np.sqrt(rows)
    p_gaps = kolmogorov_tail((root + 0.12 + 0.11 / root) * gaps)
    # a cell is never split, so that a value many rows share keeps its bin
    twice_middle = below[:, :-1] + below[:, 1:]
    limits = 2 * n[:, None] * _EDGES
    edges = np.array([row.searchsorted(at) for row, at in zip(twice_middle, limits, strict=True)])
    edges[:, -1] = twice_middle.shape[1]
    bins = (np.diff(np.take_along_axis(part, edges, axis=1)) for part in (below, below_now))
    numbers = (gaps, p_gaps, *_homogeneity(*bins), rows)
    return [
        Check("moved", max(gap, moved), (Share(p, moved, size), Share(p_gap, gap, size), lift))
        for gap, p_gap, moved, p, size, lift in zip(
            *(x.tolist() for x in numbers), lifts, strict=True
        )
    ]


def _lifts(
    both: NDArray[np.float64], now: NDArray[np.float64], below_both: NDArray[np.float64]
) -> list[Lift]:
    """
    Compare ranks, which see a small shift of everything sooner than the gap does.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18(1), 1947; ties as in Lehmann,
    Nonparametrics, 1975.
    """
    m = now.sum(axis=1)
    total = below_both[-1]
    n = total - m
    rank = (below_both[:-1] + below_both[1:]) / 2
    lift = (2 * (now @ rank) - m * m) / (n * m) - 1
    ties = 1 - float((both**3 - both).sum()) / (total**3 - total)
    error = np.sqrt(ties * (total + 1) / (3 * n * m))
    shares = zip(np.abs(lift).tolist(), error.tolist(), (n * m / total).tolist(), strict=True)
    return [Lift(two_sided_tail(x / e) if e > 0 else 1.0, x, rows) for x, e, rows in shares]


def _category(reference: CategoryProfile, current: CategoryProfile) -> Iterator[Check]:
    n, m = reference.present, current.present
    big = [v for v, rows in reference.values.items() if rows >= RARE * n]
    big = big or list(reference.values)[:1]
    parts = []
    for profile, rows in ((reference, n), (current, m)):
        kept = np.array([profile.values.get(v, 0) for v in big], float)
        parts.append(np.append(kept, rows - kept.sum()))
    (moved,), (p,) = (found.tolist() for found in _homogeneity(*parts))
    yield Check("moved", moved, (Share(p, moved, n * m / (n + m)),))
    unknown = sum(rows for v, rows in current.values.items() if v not in reference.values)
    new = 0 if reference.other else unknown
    # Good-Turing: values seen once in the reference tell how often a new one is to be expected
    once = sum(rows == 1 for rows in reference.values.values())
    yield Check("new values", new / m, (Marked(once, n, new, m),))


def _homogeneity(
    before: NDArray[np.float64], now: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return total variation and the p-value of the chi-squared test, for each row of a table."""
    a, b = np.atleast_2d(before), np.atleast_2d(now)
    n, m = a.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)
    expected = (a + b) / (n + m)
    used = expected > 0
    squares = (a - n * expected) ** 2 / np.where(used, n * expected, 1)
    squares += (b - m * expected) ** 2 / np.where(used, m * expected, 1)
    pairs = zip(squares.sum(axis=1).tolist(), used.sum(axis=1).tolist(), strict=True)
    p = [chi_squared_tail(x, kinds - 1) if kinds > 1 else 1.0 for x, kinds in pairs]
    return np.abs(a / n - b / m).sum(axis=1) / 2, np.array(p)
