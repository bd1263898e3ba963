"""Conditions on rows in the words of delta-rs."""

from collections.abc import Iterable
from datetime import datetime

from airflow_mlops.core.data.arrow_source import quoted


def within(column: str, spans: Iterable[tuple[datetime, datetime | None]]) -> str:
    """
    Write that a time lies in one of some spans.

    :param spans: first moment (inclusive) and end (exclusive; ``None``: open).
    """
    return " or ".join(f"({_within(column, *span)})" for span in spans)


def _within(column: str, since: datetime, until: datetime | None) -> str:
    found = f"{quoted(column)} >= {_moment(since)}"
    return found if until is None else f"{found} and {quoted(column)} < {_moment(until)}"


def _moment(moment: datetime) -> str:
    text = moment.isoformat(timespec="microseconds")
    return f"arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"
