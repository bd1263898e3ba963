"""The verdict: few false alarms, the known drifts of real data, corrections as scipy has them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import signal, stats

from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError
from airflow_mlops.core.monitoring.drift.checks import Share
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, DriftReport
from airflow_mlops.core.monitoring.drift.verdict import _adjusted, _speaking, calibrate, judge

WEEK = 336


def profiled(frame, like):
    builder = ProfileBuilder(like)
    builder.update(pa.RecordBatch.from_pandas(frame, preserve_index=False))
    return builder.finish()


def windows(frame, rows):
    like = centres(pa.RecordBatch.from_pandas(frame.iloc[:rows], preserve_index=False))
    return [profiled(frame.iloc[i : i + rows], like) for i in range(0, len(frame), rows)]


@pytest.mark.parametrize("seed", range(5))
def test_the_correction_agrees_with_scipys_benjamini_hochberg(seed):
    p = np.random.default_rng(seed).random(40) ** 3
    assert _adjusted(p.tolist()) == pytest.approx(stats.false_discovery_control(p, method="bh"))


def test_no_question_needs_no_correction():
    assert _adjusted([]) == []


@cache
def electricity():
    path = Path(__file__).parents[4] / "include" / "electricity" / "electricity.parquet"
    frame = pd.read_parquet(path).drop(columns=["timestamp", "target"])
    return windows(frame.iloc[: 53 * WEEK], WEEK)


@cache
def reference():
    return calibrate(electricity()[:26])


INPUTS = ("day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")


@pytest.mark.parametrize("week", range(26, 51))
def test_no_alarm_in_the_weeks_before_the_market_opens(week):
    found = judge(reference(), electricity()[week], INPUTS, alpha=0.01)
    assert [c.column for c in found if c.drifted] == []


def test_the_week_in_which_the_market_opens_drifts_in_exactly_three_columns():
    frame = pd.read_parquet(
        Path(__file__).parents[4] / "include" / "electricity" / "electricity.parquet"
    )
    like = next(iter(electricity()))
    opened = frame.iloc[17_424 : 17_424 + WEEK].drop(columns=["timestamp", "target"])
    found = judge(reference(), profiled(opened, like), INPUTS, alpha=0.01)
    assert {c.column for c in found if c.drifted} == {"vicprice", "vicdemand", "transfer"}


@pytest.mark.parametrize(
    ("rho", "rows", "past", "columns", "most"),
    [(0.0, WEEK, 13, 5, 2), (0.4, 100, 26, 10, 1), (0.9, WEEK, 13, 5, 4)],
)
def test_false_alarms_are_rare_even_when_rows_depend_on_each_other(rho, rows, past, columns, most):
    rng, alarms, names = np.random.default_rng(0), 0, list("abcdefghij")[:columns]
    for _ in range(12):
        noise = rng.normal(size=((past + 14) * rows, columns)) * np.sqrt(1 - rho**2)
        noise = signal.lfilter([1], [1, -rho], noise, axis=0)
        every = windows(pd.DataFrame(noise, columns=names), rows)
        known = calibrate(every[:past])
        for now in every[past:]:
            alarms += any(c.warned for c in judge(known, now, names, alpha=0.01))
    assert alarms <= most  # of 168 windows


def test_a_window_larger_than_all_of_the_past_may_scatter_as_they_do():
    rng, alarms, sizes = np.random.default_rng(0), 0, [100] * 13 + [2_000] * 3
    ends = np.cumsum(sizes)
    for _ in range(10):
        level = np.repeat(0.3 * rng.normal(size=(len(sizes), 3)), sizes, axis=0)
        frame = pd.DataFrame(level + rng.normal(size=level.shape), columns=list("abc"))
        like = centres(pa.RecordBatch.from_pandas(frame[:100], preserve_index=False))
        every = [profiled(frame[b - n : b], like) for n, b in zip(sizes, ends, strict=True)]
        known = calibrate(every[:13])
        alarms += sum(any(c.warned for c in judge(known, w, "abc", alpha=0.01)) for w in every[13:])
    assert alarms <= 1  # of 30 windows


def past(p, column="x", position=0, rows=300.0):
    return {(column, "moved", position): [Share(x, 0.05, rows) for x in p]}


EXPECTED = np.linspace(0.05, 0.95, 10)


def test_the_textbook_stands_where_the_past_agrees_with_it():
    assert _speaking(past(EXPECTED)) == {}


def test_a_column_whose_windows_differ_more_than_chance_lets_its_past_speak():
    assert set(_speaking(past(EXPECTED**3))) == {("x", "moved", 0)}


def test_what_no_column_shows_alone_all_of_them_show_together():
    alone = past(EXPECTED**1.4)
    assert _speaking(alone) == {}
    together = {k: v for name in "abcdefghij" for k, v in past(EXPECTED**1.4, name).items()}
    assert set(_speaking(together)) == set(together)


def test_two_seasonal_columns_of_ten_do_not_speak_for_the_others():
    table = {k: v for name in "abcdefgh" for k, v in past(EXPECTED, name).items()}
    seasonal = {k: v for name in "yz" for k, v in past(EXPECTED**9, name).items()}
    assert set(_speaking(table | seasonal)) == set(seasonal)


def test_constants_do_not_keep_the_table_from_speaking():
    together = {k: v for name in "abcdefghij" for k, v in past(EXPECTED**1.4, name).items()}
    constant = {k: v for name in range(12) for k, v in past([1.0] * 10, name).items()}
    assert set(together) <= set(_speaking(together | constant))
    assert _speaking(constant) == {}


def test_a_constant_among_seasonal_columns_may_not_move():
    season = np.sin(np.arange(13 * WEEK) * 2 * np.pi / (5 * WEEK))
    frame = pd.DataFrame({"a": season, "b": -season, "c": np.ones(13 * WEEK)})
    every = windows(frame, WEEK)
    known = calibrate(every[:12])
    assert ("c", "moved", 2) in known.past
    changed = frame.iloc[12 * WEEK :].assign(c=lambda f: 1 + (f.index % 5 == 0))
    found = {c.column: c for c in judge(known, profiled(changed, every[0]), "abc", alpha=0.01)}
    assert found["c"].drifted
    assert not judge(known, every[12], "c", alpha=0.01)[0].warned


def normal(rows=336, n=12, seed=0, **columns):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"x": rng.normal(size=rows * n), "k": rng.choice(["a", "b"], rows * n)})


def alarm(change, column="x", past=12, rows=336):
    """Statistics of the alarming column after ``change`` was made to a window."""
    frame = normal(rows, past + 1)
    now = frame.iloc[past * rows :].reset_index(drop=True)
    like = centres(pa.RecordBatch.from_pandas(frame.iloc[:rows], preserve_index=False))
    before = [profiled(frame.iloc[i * rows : (i + 1) * rows], like) for i in range(past)]
    (found,) = judge(calibrate(before), profiled(change(now), like), [column], alpha=0.01)
    return found


@pytest.mark.parametrize(
    ("change", "column", "says"),
    [
        (lambda f: f.assign(x=f.x + 0.6), "x", "moved"),
        (lambda f: f.assign(x=f.x * 3), "x", "moved"),
        (lambda f: f.assign(x=f.x.where(f.index % 5 > 0)), "x", "missing"),
        (lambda f: f.assign(x=f.x.where(f.index % 20 > 0, 40.0)), "x", "out of range"),
        (lambda f: f.assign(x=0.25), "x", "one value"),
        (lambda f: f.assign(k=np.where(f.index % 10 == 0, "new", f.k)), "k", "new values"),
        (lambda f: f.assign(k=np.where(f.index % 3 == 0, "a", f.k)), "k", "moved"),
        (lambda f: f.assign(x=f.x.astype(str)), "x", ""),
        (lambda f: f.drop(columns="x"), "x", "column is gone"),
    ],
)
def test_a_drift_is_found_and_named(change, column, says):
    found = alarm(change, column)
    assert found.drifted
    assert says in found.reason


def test_rows_in_another_order_do_not_drift():
    assert not alarm(lambda f: f.sample(frac=1, random_state=0)).drifted


def test_a_tiny_effect_is_no_drift_however_sure_it_is():
    found = alarm(lambda f: f.assign(x=f.x + 0.1), rows=20_000, past=3)
    assert found.p_value < 0.01
    assert found.effect < found.threshold
    assert not found.drifted


def test_a_large_effect_on_few_rows_is_no_drift():
    found = alarm(lambda f: f.head(4).assign(x=[-0.1, 0.1, 0.2, 0.3]))
    assert not found.drifted


def test_a_timestamp_never_drifts():
    at = pd.date_range("2024-01-01", periods=700, freq="h", tz="UTC")
    frame = pd.DataFrame({"at": at, "x": np.arange(700) % 7})
    every = windows(frame, 100)
    found = judge(calibrate(every[:6]), every[6], ["at", "x"], alpha=0.01)
    assert [(c.column, c.drifted) for c in found] == [("at", False), ("x", False)]


def test_columns_are_reported_in_the_order_they_were_asked_for():
    found = judge(reference(), electricity()[30], INPUTS[::-1], alpha=0.01)
    assert [c.column for c in found] == list(INPUTS[::-1])


def test_a_reference_without_windows_decides_nothing():
    with pytest.raises(NotEnoughDataError, match="no window to compare with"):
        calibrate([])


def test_a_report_round_trips_through_json():
    columns = judge(reference(), electricity()[51], INPUTS, alpha=0.01)
    report = DriftReport("a@1", "a@2", "profile", 0.01, columns)
    assert DriftReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_half_of_an_effect_warns_and_is_no_drift():
    found = alarm(lambda f: f.assign(x=f.x + 0.2), rows=4_000, past=6)
    assert (found.status, found.drifted, found.warned) == ("warn", False, True)
    assert found.threshold / 2 <= found.effect < found.threshold
    assert found.reason.startswith("moved: ")


def test_a_type_without_a_profile_is_not_judged_and_never_drifts():
    lists = pa.record_batch({"v": [[1], [2]], "x": [1.0, 2.0]})
    builder = ProfileBuilder()
    builder.update(lists)
    found = judge(calibrate([builder.finish()]), builder.finish(), ["v", "x"], alpha=0.01)
    assert [(c.column, c.status) for c in found] == [("v", "ok"), ("x", "ok")]
    assert found[0].statistic == "no profile"


def test_a_report_of_an_earlier_release_is_read():
    old = {"column": "x", "statistic": "moved", "effect": 0.2, "threshold": 0.1, "p_value": 0.0}
    body = {"reference": "a@1", "current": "a@2", "engine": "profile", "alpha": 0.01}
    found = DriftReport.from_dict(body | {"columns": [old | {"drifted": True, "reason": "r"}]})
    assert (found.columns[0].status, found.warned) == ("drifted", ())


def of_columns(drifted, *, judged="abcdef", unjudged=""):
    made = [ColumnDrift(n, "moved", 0.5, 0.1, 0.0, drifted=n in drifted) for n in judged]
    made += [ColumnDrift(n, "timestamp", 0.0, 1.0, 1.0, drifted=False) for n in unjudged]
    return DriftReport("a", "b", "e", 0.01, tuple(made))


@pytest.mark.parametrize(
    ("drifted", "asked", "verdict"),
    [
        ("", {}, False),
        ("a", {}, False),
        ("ab", {}, True),
        ("a", {"important": ("a", "f")}, True),
        ("b", {"important": ("a", "f")}, False),
        ("a", {"weights": {"a": 3, "b": 7}}, True),
        ("a", {"weights": {"a": 2, "b": 8}}, False),
        ("ab", {"share": 0.5}, False),
        ("", {"share": 0.0}, False),
        ("", {"weights": {}}, False),
        ("a", {"weights": {"a": 0.0}}, False),
    ],
)
def test_a_dataset_drifts_by_weight_or_by_an_important_column(drifted, asked, verdict):
    found = of_columns(drifted).verdict(**asked)
    assert found.drifted is verdict, found.reason


def test_columns_that_cannot_drift_weigh_nothing():
    found = of_columns("a", judged="abc", unjudged="xyz").verdict()
    assert (found.drifted, found.weight) == (True, pytest.approx(1 / 3))
    assert found.reason == "1 of 3 columns drifted, with 33% of the weight; 30% is enough"


def test_columns_may_weigh_what_they_are_worth_to_the_model():
    worth = {"a": 0.03, "b": 0.07, "x": 9.0, "gone": 9.0}
    found = of_columns("a", unjudged="x").verdict(weights="importance", importance=worth)
    assert (found.drifted, found.weight) == (True, pytest.approx(0.3))
    assert not of_columns("cdef").verdict(weights="importance", importance=worth).drifted


@pytest.mark.parametrize(
    ("worth", "why"),
    [
        (None, "were not measured in the champion's training"),
        ({}, "were not measured in the champion's training"),
        ({"a": 0.0, "b": 0.0, "x": 1.0}, "of all of them are 0"),
    ],
)
def test_without_importances_all_columns_weigh_the_same_and_that_is_said(worth, why):
    plain = of_columns("ab", unjudged="x").verdict()
    found = of_columns("ab", unjudged="x").verdict(weights="importance", importance=worth)
    assert (found.drifted, found.weight) == (plain.drifted, plain.weight)
    assert found.reason == f"{plain.reason}; all columns weigh the same, for importances {why}"


def test_a_misspelt_column_of_a_verdict_is_named():
    with pytest.raises(ConfigurationError, match="no column 'prize' was compared for drift"):
        of_columns("").verdict(important=("prize",))
    with pytest.raises(ConfigurationError, match="'prize'"):
        of_columns("").verdict(weights={"prize": 1.0})


def test_the_share_of_a_report_is_that_of_its_columns():
    made = [ColumnDrift(n, "moved", 0.5, 0.1, 0.0, drifted=n == "a") for n in "abcd"]
    assert DriftReport("a", "b", "e", 0.01, tuple(made)).share == 0.25
    assert DriftReport("a", "b", "e", 0.01, ()).share == 0.0
