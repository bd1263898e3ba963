"""A shadow: both models answer the same rows, so their losses are compared pair by pair."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.evaluation.comparison import MIN_ROWS, Comparison, compare
from airflow_mlops.core.rollout.arms import Arm
from airflow_mlops.core.rollout.looks import Look, answering
from airflow_mlops.core.rollout.stages import Begun

LOOKS = 4
"""Looks for harm: after each quarter of the hold, with a quarter of the error rate each."""

Floats = NDArray[np.float64]


def look_at_pairs(
    begun: Begun,
    times: NDArray[np.datetime64],
    losses: tuple[Floats, Floats],
    *,
    now: datetime,
    candidate: Arm | None = None,
) -> Look:
    """
    Look at a shadow, as often as you like: what is compared changes only when a quarter is over.

    Rows of a series depend on each other, so the means of eight blocks are compared. The error rate
    holds if no label comes later than the stage's ``lateness``.

    :param begun: the stage, as it is on record.
    :param times: of the rows with a label, ascending, in UTC, shape ``(n_rows,)``.
    :param losses: of champion and candidate on these rows, each of shape ``(n_rows,)``.
    :param now: time by the clock of the data.
    :param candidate: how the candidate answered; none: nobody recorded its answers.
    """
    said = Look(begun.experiment, "running", "continue", (), now.isoformat())
    wrong = answering(begun, candidate) if candidate else None
    if wrong:
        return replace(said, status="stopped", answer=wrong[0], reasons=(wrong[1],))
    quarters = _quarters_over(begun, now)
    newest = None
    for quarter in range(1, quarters + 1):
        found = _compared(begun, times, losses, quarter)
        newest = found or newest
        if found and found.bound(begun.stage.alpha / LOOKS, upper=False) > 0:
            who = f"{begun.model}@{begun.candidate}"
            text = f"{who} is surely worse after {quarter} of {LOOKS} quarters: {found}"
            return replace(said, status="stopped", answer="harm", reasons=(text,))
    if quarters == LOOKS and newest is not None:
        text = f"held {begun.lasts}, not surely worse: {newest}"
        return replace(said, status="passed", answer="held", reasons=(text,))
    return _goes_on(begun, said, newest, now, len(times))


def _quarters_over(begun: Begun, now: datetime) -> int:
    """Count the quarters of the hold whose labels have come."""
    elapsed = now - datetime.fromisoformat(begun.since) - timedelta(seconds=begun.lateness)
    length = begun.end - datetime.fromisoformat(begun.since)
    return max(0, min(LOOKS, int(LOOKS * elapsed / length)))


def _compared(
    begun: Begun, times: NDArray[np.datetime64], losses: tuple[Floats, Floats], quarter: int
) -> Comparison | None:
    """Compare the rows of the quarters so far; after the last one the first that are enough."""
    since = datetime.fromisoformat(begun.since)
    until = (since + (begun.end - since) * quarter / LOOKS).astimezone(UTC).replace(tzinfo=None)
    rows = int(np.searchsorted(times, np.datetime64(until)))
    least = max(MIN_ROWS, begun.stage.least)
    if quarter == LOOKS and len(times) >= least:
        rows = max(rows, least)
    if rows < least:
        return None
    return compare(begun.metric, *(part[:rows] for part in losses))


def _goes_on(begun: Begun, said: Look, newest: Comparison | None, now: datetime, rows: int) -> Look:
    """Say what is known by now, and what is waited for."""
    left = (begun.end - now).total_seconds() + begun.lateness
    more = max(MIN_ROWS, begun.stage.least) - rows
    known = str(newest) if newest else f"{rows:,} rows have a label"
    if more > 0:
        known = f"{known}, {more:,} more are needed"
    return replace(said, reasons=(known,), left=left if left > 0 else None)
