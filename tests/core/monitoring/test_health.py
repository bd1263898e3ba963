"""Limits name who passed them; a task that became slower is named, one that scatters is not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from airflow_mlops.core.monitoring.health import (
    HealthFinding,
    judge_disk,
    judge_health,
    judge_silence,
    judge_usages,
    worst,
)
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.monitoring.resources import Usage
from airflow_mlops.policy import Health

USUAL = Usage(10.0, 8.0, 500.0, rows=10_000)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def lines(usage, history=(), **rules):
    return [f.line for f in judge_health("d.t", usage, history, Health(**rules))]


class TestLimits:
    def test_within_them_there_is_nothing_to_say(self):
        assert lines(USUAL, rss_mb=500, duration="10s", rows_per_s=1_000) == []

    @pytest.mark.parametrize(
        ("rules", "line"),
        [
            ({"rss_mb": 499}, "d.t held 500 MB, the limit is 499"),
            ({"duration": "9s"}, "d.t took 10 s, the limit is 9s"),
            ({"rows_per_s": 1_001}, "d.t handled 1,000 rows/s, at least 1,001 are due"),
        ],
    )
    def test_whoever_passes_one_is_named_with_both_numbers(self, rules, line):
        (found,) = judge_health("d.t", USUAL, (), Health(**rules))
        assert (found.what, found.status, found.line) == ("d.t", "broken", line)

    def test_a_rate_is_none_without_rows_and_means_nothing_with_few(self):
        for rows in (None, 0, 999):
            assert lines(replace(USUAL, rows=rows), rows_per_s=1e6) == []


class TestOwnHistory:
    def test_two_slow_runs_in_a_row_are_named_with_what_was_usual(self):
        slow = replace(USUAL, wall_s=30.0)
        (line,) = lines(slow, [USUAL] * 5 + [slow])
        assert "d.t needed 30.0 s, 3.0 times the 10.0 s of 5 earlier runs" in line

    def test_one_slow_run_is_bad_luck(self):
        slow = replace(USUAL, wall_s=30.0)
        assert lines(slow, [USUAL] * 9) == []
        assert lines(USUAL, [USUAL] * 8 + [slow]) == []

    def test_memory_and_processor_time_count_as_well(self):
        greedy = replace(USUAL, cpu_s=20.0, rss_mb=1_500.0)
        assert [f.status for f in judge_health("t", greedy, [USUAL] * 5 + [greedy], Health())] == [
            "warn",
            "warn",
        ]

    def test_four_earlier_runs_are_too_few(self):
        slow = replace(USUAL, wall_s=30.0)
        assert lines(slow, [USUAL] * 4 + [slow]) == []

    def test_runs_with_other_numbers_of_rows_do_not_count(self):
        more = replace(USUAL, wall_s=100.0, rows=100_000)
        assert lines(more, [USUAL] * 9 + [more]) == []
        assert lines(replace(more, rows=None), [USUAL] * 9 + [replace(more, rows=None)]) == []

    def test_small_differences_are_nobodys_concern(self):
        quick = replace(USUAL, wall_s=0.1)
        slower = replace(USUAL, wall_s=1.0)
        assert lines(slower, [quick] * 9 + [slower]) == []

    def test_a_lasting_change_becomes_usual(self):
        slow = replace(USUAL, wall_s=30.0)
        assert lines(slow, [USUAL] * 20 + [slow] * 22) == []

    def test_a_higher_factor_says_less(self):
        slow = replace(USUAL, wall_s=20.0)
        history = [USUAL] * 5 + [slow]
        assert lines(slow, history)
        assert lines(slow, history, factor=3.0) == []


def alarms(sigma, runs, times=1.0, *, trials=2_000):
    """Share of trials in which a task is named whose times scatter by ``sigma``."""
    rng = np.random.default_rng(20)
    named = 0
    for walls in 100 * np.exp(rng.normal(0, sigma, (trials, runs + 2))):
        *before, last, now = (Usage(w, 1.0, 1.0) for w in walls)
        last, now = (replace(one, wall_s=one.wall_s * times) for one in (last, now))
        named += bool(judge_health("t", now, [*before, last], Health()))
    return named / trials


def test_the_stated_rates_of_false_alarms_hold():
    print({(s, n): alarms(s, n) for s in (0.1, 0.2, 0.3) for n in (5, 20)})
    assert alarms(0.1, 5) == 0
    assert alarms(0.2, 5) < 1 / 400 + 0.003  # three standard errors of 2,000 trials
    assert alarms(0.2, 20) < 1 / 1_400 + 0.002
    assert alarms(0.3, 5) < 1 / 70 + 0.008
    assert alarms(0.2, 20, times=3.0, trials=500) > 0.98


def observed(n, wall_s=10.0, outcome="success", task="t", **more):
    at = (NOW + timedelta(days=n)).isoformat()
    facts = {"dag_id": "d", "task_id": task, "run_id": f"r{n}", "try": 1, "outcome": outcome}
    body = {**replace(USUAL, wall_s=wall_s).to_dict(), **facts, "line": f"line {n}", **more}
    return Observation("usage", f"{n}", body, at)


class TestUsages:
    def test_only_what_is_new_is_judged_by_all_that_was_before(self):
        found = [*map(observed, range(6)), observed(6, 40.0), observed(7, 40.0)]
        (finding,) = judge_usages(found, found[-2].recorded_at, Health())
        assert finding.what == "d.t (try 1 of r7)"
        (silent,) = judge_usages(found, found[-1].recorded_at, Health())
        assert silent.line.startswith("no task has left a usage since 2026-06-08T00:00; see that")
        assert judge_usages([], "", Health()) == ()
        assert len(judge_usages(found, "", Health(rss_mb=1))) == 9

    def test_a_killed_try_is_named_and_is_no_history(self):
        found = [*map(observed, range(6)), observed(6, 1.0, "killed")]
        (finding,) = judge_usages(found, "", Health())
        assert (finding.status, finding.line) == ("warn", "line 6")
        failed = [observed(n, 1.0, "failed") for n in range(9)]
        assert judge_usages([*failed, observed(9, 99.0), observed(10, 99.0)], "", Health()) == ()

    def test_tasks_are_told_apart(self):
        found = [*map(observed, range(6)), *(observed(n, 40.0, task="u") for n in (6, 7, 8))]
        assert judge_usages(found, "", Health()) == ()


class TestSilence:
    @pytest.mark.parametrize(("days", "said"), [(2.9, 0), (3.1, 1)])
    def test_three_usual_gaps_without_one_are_said(self, days, said):
        times = [NOW - timedelta(days=n) for n in range(9, -1, -1)]
        now = NOW + timedelta(days=days)
        found = judge_silence("decision", times, now, Health())
        assert len(found) == said
        if found:
            assert found[0].line == (
                "no decision for 74.4 hours, since 2026-06-01T00:00; "
                "usually there is one every 24.0 hours"
            )

    def test_few_or_hasty_ones_make_no_schedule(self):
        few = [NOW - timedelta(days=n) for n in range(4, -1, -1)]
        hasty = [NOW - timedelta(seconds=n) for n in range(30, -1, -1)]
        assert judge_silence("x", few, NOW + timedelta(days=9), Health()) == ()
        assert judge_silence("x", hasty, NOW + timedelta(hours=2), Health()) == ()
        assert judge_silence("x", [], NOW, Health()) == ()


def test_a_full_disk_is_named_with_its_place():
    assert judge_disk("/data", 1.0, Health()) == ()
    (found,) = judge_disk("/data", 0.25, Health())
    assert found.status == "broken"
    assert "0.25 GB are free at /data, at least 1 are due" in found.line


def test_the_worst_finding_is_the_status():
    warn, broken = (HealthFinding("x", s, "y") for s in ("warn", "broken"))
    assert [worst(f) for f in ((), (warn,), (warn, broken))] == ["ok", "warn", "broken"]
    assert HealthFinding.from_dict(warn.to_dict()) == warn
