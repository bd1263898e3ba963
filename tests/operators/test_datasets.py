"""Operators of datasets: queries, columns by consent, features by SQL, restore, garbage."""

import json
from datetime import UTC, datetime

import pytest

from airflow_mlops.core.errors import ConfigurationError, ContractBrokenError, UserCodeError
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.operators.data import (
    MaterializeFeaturesOperator,
    RestoreDatasetOperator,
    SnapshotTableOperator,
)
from airflow_mlops.operators.deployment import CollectGarbageOperator
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def snapshot(name, **given):
    return {"dataset": name, "table": f"public.{name}", "key": "id", "time": "at", **given}


def test_a_query_is_versioned_like_a_table(connections, alone, table):
    query = f"(select id, at, x * 2 as twice from {table} where x < 2)"
    given = {"dataset": table, "key": "id", "time": "at"}
    done = run(alone(SnapshotTableOperator, table=query, **given)).value("t")
    assert (done["rows"], done["origin"]) == (1, "warehouse:query")
    assert done["query"] == f"select * from {query} as source"
    wrong = run(alone(SnapshotTableOperator, table="(selec 1)", **given))
    assert isinstance(wrong.error, ConfigurationError)
    assert "does not understand '(selec 1)'" in str(wrong.error)


def test_late_and_early_rows_are_a_finding_until_they_are_read(
    connections, alone, table, warehouse, observations
):
    usual = snapshot(table, window="1d", lateness="0d")
    run(alone(SnapshotTableOperator, **usual))
    warehouse(
        f"insert into {table} values (7, '2024-01-01 12:00', 0), (8, now() + interval '6 d', 0)"
    )
    done = run(alone(SnapshotTableOperator, **usual)).value("t")
    assert (done["rows"], done["unread"], done["ahead"]) == (2, 1, 1)
    (first, newest) = observations.read(table, "late")[-2:]
    assert first.body["status"] == "ok"
    assert newest.subject.endswith(f"/{table}")
    assert (newest.body["status"], newest.body["late"], newest.body["early"]) == (
        "warn",
        ["7"],
        ["8"],
    )
    assert newest.body["lateness"] == "1d"
    done = run(alone(SnapshotTableOperator, **{**usual, "lateness": "1d"})).value("t")
    assert (done["rows"], done["unread"], done["ahead"]) == (3, 0, 1)


def test_what_a_snapshot_returns_does_not_grow_with_its_windows(
    connections, alone, table, warehouse
):
    usual = snapshot(table, window="1h")
    few = run(alone(SnapshotTableOperator, **usual)).value("t")
    warehouse(
        f"insert into {table} select i, '2024-01-03'::timestamptz + i * interval '1 h', 0 "
        "from generate_series(100, 800) i"
    )
    many = run(alone(SnapshotTableOperator, **usual)).value("t")
    assert many["wrote"] == 701
    assert len(json.dumps(many)) < len(json.dumps(few)) + 20


def test_a_break_of_one_snapshot_hides_no_finding_of_another(
    connections, alone, table, warehouse, observations
):
    run(alone(SnapshotTableOperator, **snapshot(table)))
    warehouse(f"alter table {table} rename column x to y")
    broken = run(alone(SnapshotTableOperator, **snapshot(table)))
    assert isinstance(broken.error, ContractBrokenError)
    newest = observations.read(table, "contract", last=1)[0]
    assert newest.subject.endswith(f"/{table}")
    assert newest.body["fatal"] == newest.body["breaks"]


def test_a_column_joins_by_consent(connections, alone, table, warehouse, dataset_store):
    run(alone(SnapshotTableOperator, **snapshot(table)))
    warehouse(
        f"alter table {table} add column rain float8",
        f"insert into {table} values (3, '2024-01-03', 3.5, 0.1)",
    )
    left_out = run(alone(SnapshotTableOperator, **snapshot(table))).value("t")
    assert "rain" not in dataset_store.open(DatasetRef.parse(left_out["ref"])).schema.names
    warehouse(f"insert into {table} values (4, '2024-01-04', 4.5, 0.2)")
    taken = run(alone(SnapshotTableOperator, **snapshot(table, adopt=["rain"]))).value("t")
    rain = dataset_store.open(DatasetRef.parse(taken["ref"])).between().to_arrow(["rain"])["rain"]
    assert rain.to_pylist() == [None, None, 0.1, 0.2]


def test_a_version_is_restored_once_per_run(connections, alone, table, warehouse):
    run(alone(SnapshotTableOperator, **snapshot(table)))
    warehouse(f"update {table} set x = 0")
    run(alone(SnapshotTableOperator, **snapshot(table)))
    dag = alone(RestoreDatasetOperator, version=f"{table}@1")
    first = run(dag, at=NOON).value("t")
    assert (first["ref"], first["origin"]) == (f"{table}@3", f"restored from {table}@1")
    assert run(dag, at=NOON).value("t") == first
    gone = run(alone(RestoreDatasetOperator, version=f"{table}@paper"))
    assert isinstance(gone.error, ConfigurationError)
    assert "no tag 'paper'" in str(gone.error)


def test_features_by_sql_become_a_dataset(connections, alone, table, dataset_store):
    run(alone(SnapshotTableOperator, **snapshot(table)))
    sql = 'select id, "at", x, lag(x) over (order by "at") as before from rows'
    given = {"inputs": {"rows": table}, "dataset": f"{table}.features", "key": "id"}
    done = run(alone(MaterializeFeaturesOperator, sql=sql, time="at", **given)).value("t")
    assert (done["rows"], done["origin"]) == (2, f"sql:rows={table}@1")
    found = dataset_store.open(DatasetRef.parse(done["ref"])).between().to_arrow(["before"])
    assert found["before"].to_pylist() == [None, 1.5]
    leaks = sql.replace("lag", "lead")
    done = run(alone(MaterializeFeaturesOperator, sql=leaks, time="at", **given))
    assert isinstance(done.error, UserCodeError)
    assert "differ in 'before'" in str(done.error)
    assert done.tries["t"] == 1


def test_it_is_looked_at_and_then_removed(connections, alone, trained_champions, model):
    (ref,) = trained_champions(1)
    done = run(alone(CollectGarbageOperator)).value("t")
    assert (done["applied"], done["models"]) == (False, {})
    assert done["pinned_models"][str(ref)] == "champion"
    done = run(alone(CollectGarbageOperator, apply=True, older="30d")).value("t")
    assert done["applied"] is True


def test_what_is_too_young_is_refused(connections, alone, trained_champions):
    trained_champions(1)
    done = run(alone(CollectGarbageOperator, older="1h"))
    assert isinstance(done.error, ConfigurationError)
    assert "always stays" in str(done.error)
