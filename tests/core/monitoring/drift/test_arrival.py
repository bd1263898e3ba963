"""Rows per window and the age of the newest row, held against what is usual."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.drift.arrival import (
    Arrival,
    clock,
    judge_freshness,
    judge_volume,
)
from airflow_mlops.core.monitoring.drift.record import body_of, with_arrivals
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, DriftReport

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("scatter", [0.0, 0.1, 0.4])
def test_volume_keeps_its_rate_whatever_the_scatter(scatter):
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(2_000):
        mean = 300 * rng.gamma(1 / scatter**2, scatter**2, 13) if scatter else np.full(13, 300)
        *past, now = rng.poisson(mean).tolist()
        alarms += bool(judge_volume(past, now))
    assert alarms <= 40  # 1 % of 2,000, twice as many: a gamma is no normal


@pytest.mark.parametrize("rows", [150, 0, 600])
def test_half_the_rows_or_twice_as_many_are_named(rows):
    (found,) = judge_volume([336] * 20, rows)
    assert found.kind == "volume"
    assert found.text.startswith(f"{rows:,} rows, usually 336 (p ")


@pytest.mark.parametrize(
    ("past", "rows"), [([336] * 4, 0), ([336] * 9, 336), ([10**6] * 9, 951_000)]
)
def test_few_windows_the_usual_and_small_differences_say_nothing(past, rows):
    assert judge_volume(past, rows) == ()


def test_a_row_older_than_usual_or_than_allowed_is_named():
    usual = [3_600.0, 4_000.0, 3_000.0, 3_500.0, 3_700.0]
    assert judge_freshness(NOON - HOUR, NOON, usual) == ()
    assert judge_freshness(NOON - 9 * HOUR, NOON) == ()
    (late,) = judge_freshness(NOON - 9 * HOUR, NOON, usual)
    assert late.text == "the newest row is 9.0 hours old, usually 60.0 minutes"
    (stale,) = judge_freshness(NOON - 9 * HOUR, NOON, limit=2 * HOUR)
    assert stale.text == "the newest row is 9.0 hours old, allowed are 2.0 hours"


def test_a_clock_that_went_back_is_named():
    (found,) = judge_freshness(NOON + 3 * HOUR, NOON, [60.0] * 9)
    assert found.text == "the newest row is 3.0 hours ahead of the clock"
    assert judge_freshness(NOON + HOUR / 90, NOON, [60.0] * 9) == ()  # clocks of two machines


@pytest.mark.parametrize("text", ["yesterday", "2026-03-02T12:00:00"])
def test_a_clock_without_a_zone_is_refused(text):
    with pytest.raises(ConfigurationError, match=f"now is '{text}'; it has to be a time with a"):
        clock(text)


def report(**drifted):
    columns = [
        ColumnDrift(n, "moved", 0.4 if d else 0.07, 0.1, 0.001, d is True, "r", d is not None)
        for n, d in drifted.items()
    ]
    return DriftReport("d@1", "d@2", "profile", 0.01, tuple(columns))


@pytest.mark.parametrize(
    ("columns", "late", "status"),
    [
        ({"a": None, "b": None}, (), "ok"),
        ({"a": None, "b": False}, (), "warn"),
        ({"a": None, "b": None}, (Arrival("volume", "3 rows, usually 9"),), "warn"),
        ({"a": True, "b": None}, (), "broken"),
    ],
)
def test_a_body_has_a_status_and_a_line(columns, late, status):
    found = report(**{n: d for n, d in columns.items() if d is not None}, z=None)
    body = body_of(found, found.verdict(), late, model="m@1", window=7)
    assert body["status"] == status
    assert body["line"].startswith("window 7: ")
    assert [f["text"] for f in body["findings"]] == [a.text for a in late]
    assert all(a.text in body["line"] for a in late)


def test_the_line_names_columns_numbers_and_reason():
    found = report(a=True, b=False, c=None)
    line = body_of(found, found.verdict(), (), model="m@1", window=7)["line"]
    assert line == (
        "window 7: a (moved 40%) drifted and b (moved 7%) moved a little against what m@1 saw; "
        "the dataset drifted: 1 of 3 columns drifted, with 33% of the weight; 30% is enough"
    )


def test_a_body_of_an_earlier_release_takes_findings_too():
    old = {"drifted": [], "columns": [], "window": 1, "model": "m@1"}
    found = with_arrivals(old, [Arrival("freshness", "late")])
    assert (found["status"], found["line"]) == (
        "warn",
        "window 1: no column drifted against what m@1 saw; late",
    )
