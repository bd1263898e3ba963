"""One suite for every drift engine."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError
from airflow_mlops.core.monitoring.drift import detect_drift
from airflow_mlops.core.monitoring.drift.engine import ENGINES, load_engine
from airflow_mlops.core.refs import DatasetRef

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROWS = 240
"""Rows a window; the last window of a drifted table has twice as many, all of them moved."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # evidently and its parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def no_spark_afterwards():
    """The session stays for the next call, and its Java has to go; a hasty compiler is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        yield
    if "pyspark" in sys.modules:
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

        session = SparkSession.getActiveSession()
        if session is not None:
            session.stop()
            gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
            gateway.shutdown()
            gateway.proc.stdin.close()
            gateway.proc.wait(20)


def rows(*, drifted: bool, windows: int = 7) -> pa.Table:
    rng = np.random.default_rng(0)
    sizes = [ROWS] * (windows - 1) + [2 * ROWS if drifted else ROWS]
    at = [MONDAY + i * DAY + j * (DAY / n) for i, n in enumerate(sizes) for j in range(n)]
    n = len(at)
    x = rng.normal(size=n)
    kind = rng.choice(["a", "b"], n)
    if drifted:
        x[-2 * ROWS :] += 2
        kind[-2 * ROWS :] = "b"
    return pa.table({"id": np.arange(n), "at": pa.array(at), "x": x, "kind": kind})


@pytest.fixture
def opened(dataset_store, append):
    def run(*, drifted: bool, name: str = "d"):
        source = ArrowSource(rows(drifted=drifted), "id", "at")
        commit = append(dataset_store, name, source, window=DAY)
        return dataset_store.open(DatasetRef.parse(commit.ref))

    return run


def parts(table):
    return table.between(MONDAY, MONDAY + 6 * DAY), table.between(MONDAY + 6 * DAY)


def test_an_engine_reports_every_column_in_the_order_asked(opened, engine):
    before, now = parts(opened(drifted=False))
    found = detect_drift(before, now, columns=["kind", "x"], engine=engine)
    assert [c.column for c in found.columns] == ["kind", "x"]
    assert found.engine == engine
    assert found.reference == found.current == "d@1"


def test_an_engine_leaves_key_and_time_out(opened, engine):
    found = detect_drift(*parts(opened(drifted=False)), engine=engine)
    assert [c.column for c in found.columns] == ["x", "kind"]


def test_what_is_ignored_is_not_compared_and_a_misspelt_one_is_named(opened, engine):
    table = opened(drifted=True)
    found = detect_drift(*parts(table), engine=engine, ignore=["x"])
    assert [c.column for c in found.columns] == ["kind"]
    with pytest.raises(ConfigurationError, match="no column 'prize' to compare"):
        detect_drift(*parts(table), engine=engine, ignore=["prize"])


def test_an_engine_is_silent_when_nothing_moved(opened, engine):
    found = detect_drift(*parts(opened(drifted=False)), engine=engine)
    assert found.drifted == ()
    assert all(c.reason == "" for c in found.columns)


def test_an_engine_sees_what_moved_and_says_why(opened, engine):
    found = detect_drift(*parts(opened(drifted=True)), engine=engine)
    assert found.drifted == ("x", "kind")
    assert all(c.reason for c in found.columns)


def test_an_engine_gives_the_same_answer_twice(opened, engine):
    table = opened(drifted=True)
    one, two = (detect_drift(*parts(table), engine=engine) for _ in range(2))
    assert one == two


def test_an_engine_gives_finite_numbers(opened, engine):
    for column in detect_drift(*parts(opened(drifted=True)), engine=engine).columns:
        assert np.isfinite([column.effect, column.threshold, column.p_value]).all()
        assert 0 <= column.p_value <= 1


def test_hostile_column_names_are_only_names(dataset_store, append, engine):
    hostile = "</script><script>alert(1)</script> \"'; drop"
    table = rows(drifted=True).rename_columns(["id", "at", hostile, "kind"])
    commit = append(dataset_store, "d", ArrowSource(table, "id", "at"), window=DAY)
    found = detect_drift(
        *parts(dataset_store.open(DatasetRef.parse(commit.ref))), engine=engine, columns=[hostile]
    )
    assert found.drifted == (hostile,)


def test_evidentlys_page_holds_no_name_and_no_value_as_they_are(dataset_store, append):
    from airflow_mlops.core.monitoring.drift.engines.evidently import report_html

    attack = "</script><script>alert(1)</script>\\\"'`\n"
    table = rows(drifted=True).rename_columns(["id", "at", attack, "kind"])
    values = pa.array([attack if k == "a" else k for k in table["kind"].to_pylist()])
    source = ArrowSource(table.set_column(3, "kind", values), "id", "at")
    commit = append(dataset_store, "d", source, window=DAY)
    page = report_html(*parts(dataset_store.open(DatasetRef.parse(commit.ref))), [attack, "kind"])
    assert "<script>alert" not in page
    assert "alert(1)" in page
    assert "kind" in page
    assert "mlopscolumn" not in page


def test_an_unknown_column_is_named_with_those_there_are(opened, engine):
    before, now = parts(opened(drifted=False))
    with pytest.raises(
        ConfigurationError, match="no column 'nope' to compare in d@1; it has x, kind"
    ):
        detect_drift(before, now, columns=["nope"], engine=engine)


def test_a_span_without_a_whole_window_is_named(opened, engine):
    table = opened(drifted=False)
    later = table.between(MONDAY + 60 * DAY)
    with pytest.raises(NotEnoughDataError, match="no whole window of d@1 between 2024-03-01"):
        detect_drift(parts(table)[0], later, engine=engine)
    with pytest.raises(NotEnoughDataError, match="no whole window"):
        detect_drift(later, parts(table)[1], engine=engine)


def test_a_column_that_was_adopted_since_is_not_compared(dataset_store, append):
    weeks = rows(drifted=False)
    wider = weeks.append_column("rain", pa.array(np.zeros(weeks.num_rows)))
    first = append(
        dataset_store, "d", ArrowSource(weeks.slice(0, 6 * ROWS), "id", "at"), window=DAY
    )
    more = {"app_key": "k2", "window": DAY, "adopt": ["rain"]}
    second = append(dataset_store, "d", ArrowSource(wider, "id", "at"), **more)
    before, now = (dataset_store.open(DatasetRef.parse(c.ref)) for c in (first, second))
    for ignore in ([], ["rain"]):
        found = detect_drift(before.between(), now.between(MONDAY + 6 * DAY), ignore=ignore)
        assert [c.column for c in found.columns] == ["x", "kind"]


def test_an_unknown_engine_is_named_with_those_that_are_known(opened):
    with pytest.raises(ConfigurationError, match="'x'; known: evidently, profile, spark, stub"):
        detect_drift(*parts(opened(drifted=False)), engine="x")


def test_every_engine_has_the_function_of_the_seam():
    assert all(callable(load_engine(name).compare) for name in ENGINES)


def test_a_stored_profile_is_enough_no_row_is_read(opened):
    before, now = parts(opened(drifted=True))
    unread = replace(now.table, delta=None), replace(before.table, delta=None)
    found = detect_drift(replace(before, table=unread[1]), replace(now, table=unread[0]))
    assert found.drifted == ("x", "kind")


@pytest.mark.parametrize("drifted", [True, False])
def test_spark_gives_the_numbers_of_the_stored_profiles(opened, drifted):
    one, two = (
        detect_drift(*parts(opened(drifted=drifted)), engine=engine)
        for engine in ("profile", "spark")
    )
    assert one.columns == two.columns
