"""
How many rows came, and how late: what the values of the rows do not say.

Rows per window are counts that scatter more than by chance, as the windows before them show: a
window is named if it lies beyond their t prediction interval *and* differs by 10 % of the usual.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Literal, Self

import numpy as np

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.drift.laws import student_tail
from airflow_mlops.core.monitoring.drift.verdict import CALIBRATE_FROM

LOOKED = 26
"""Windows before the judged one that say what is usual; older ones may be of another time."""

VOLUME = 0.10
"""Difference from the usual number of rows from which it matters."""

LATE = 1.5
"""Times the usual lag from which a delivery may be late."""

AHEAD = 60.0
"""Seconds by which two clocks may differ."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    Something about the delivery of rows that is not as usual.

    :param kind: ``volume``, or ``freshness``.
    :param text: what, in words and numbers.
    """

    kind: Literal["volume", "freshness"]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Rebuild what :meth:`to_dict` wrote."""
        return cls(data["kind"], data["text"])


def judge_volume(past: Sequence[int], rows: int, *, alpha: float = 0.01) -> tuple[Arrival, ...]:
    """
    Compare the rows of a window with those of the windows before it.

    :param past: rows of each earlier window, oldest first; a window without any counts as 0.
    :param alpha: rate of false alarms, 0 to 1.
    """
    seen = np.array(past[-LOOKED:], float)
    if len(seen) < CALIBRATE_FROM:
        return ()
    usual, size = float(seen.mean()), len(seen)
    variance = max(float(seen.var(ddof=1)), usual, 1.0)  # counts scatter by chance at least
    distance = (rows - usual) / math.sqrt(variance * (1 + 1 / size))
    p = 2 * student_tail(abs(distance), size - 1)
    if p > alpha or abs(rows - usual) < VOLUME * usual:
        return ()
    return (Arrival("volume", f"{rows:,} rows, usually {usual:,.0f} (p {p:.1g})"),)


def judge_freshness(
    newest: datetime,
    now: datetime,
    past: Sequence[float] = (),
    *,
    limit: timedelta | None = None,
    alpha: float = 0.01,
) -> tuple[Arrival, ...]:
    """
    Say whether the newest row is older than it usually is when it is looked at.

    :param newest: time of the newest row.
    :param now: what the clock of the data says.
    :param past: how old the newest row was at earlier looks, in seconds.
    :param limit: age that is too old whatever was usual.
    :param alpha: rate of false alarms of the comparison with the past, 0 to 1.
    """
    lag = (now - newest).total_seconds()
    if lag < -AHEAD:
        return (Arrival("freshness", f"the newest row is {_span(-lag)} ahead of the clock"),)
    if limit is not None and lag > limit.total_seconds():
        text = f"the newest row is {_span(lag)} old, allowed are {_span(limit.total_seconds())}"
        return (Arrival("freshness", text),)
    seen = np.array([x for x in past[-LOOKED:] if x > 0], float)
    if len(seen) < CALIBRATE_FROM or lag < LATE * (usual := median(seen)):
        return ()
    logs, size = np.log(seen), len(seen)
    spread = max(float(logs.std(ddof=1)), 0.1)
    distance = (math.log(lag) - float(logs.mean())) / (spread * math.sqrt(1 + 1 / size))
    if student_tail(distance, size - 1) > alpha:
        return ()
    return (Arrival("freshness", f"the newest row is {_span(lag)} old, usually {_span(usual)}"),)


def clock(text: str) -> datetime:
    """
    Read what a clock says.

    :raises ConfigurationError: if it is no moment with a time zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        msg = f"now is {text!r}; it has to be a time with a zone, such as 2026-05-01T12:00:00+00:00"
        raise ConfigurationError(msg)
    return moment


def _span(seconds: float) -> str:
    """Write a length of time in the largest unit that fits."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
