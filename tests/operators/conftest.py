"""Fixtures of the operators: an Airflow, connections to real servers, a small model's life."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from airflow_mlops.core.ledger import Ledger, State
from tests.operators import airflow_home  # before anything of Airflow

SECRET = "s3cr3t-of-the-connection"


class Decisions(Ledger):
    """The ledger as these tests read it: what one task hands to the next is no decision."""

    def state(self, model: str) -> State:
        found = super().state(model)
        return replace(found, entries=tuple(e for e in found.entries if e.op != "handover"))


@pytest.fixture
def ledger(services) -> Ledger:
    return Decisions(services.dsn("mlops", user="mlops_task"))


@pytest.fixture(scope="session")
def airflow_db() -> None:
    airflow_home.make_database()


@pytest.fixture
def connect(monkeypatch) -> Callable[..., None]:
    """``connect(conn_id, **fields)``: an Airflow connection."""

    def make(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return make


@pytest.fixture
def connections(services, airflow_db, connect, tmp_path, monkeypatch) -> None:
    """The four connections of a deployment; each of them holds a secret."""
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "airflow")  # the hook would, for the whole process
    login = {"host": services.socket_dir, "login": "mlops_task", "password": SECRET}
    connect("warehouse", conn_type="postgres", schema="warehouse", **login)
    connect("mlops_default", conn_type="postgres", schema="mlops", **login)
    connect("mlflow_default", conn_type="mlflow", host=services.urls["mlflow"], password=SECRET)
    connect(
        "dataset_default",
        conn_type="dataset",
        host=str(tmp_path / "datasets"),
        login="key",
        password=SECRET,
    )


FEATURES = """
    def build(rows):
        return rows[["x", "y"]]
"""

TRAIN = """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed, bad=False, C=1.0):
        if bad:
            y = 1 - y
        return LogisticRegression(random_state=seed, C=C).fit(X, y)
"""


class Market:
    """
    One model's production tables, and the policy that lives on them.

    :param name: name of the model, of its table and, with ``_labels``, of the labels' table.
    """

    def __init__(self, name: str, dsn: str, weeks: Any, module: Callable[[str], str]) -> None:
        self.name, self.dsn, self.weeks, self.module = name, dsn, weeks, module
        self.execute(
            "create table {} (id bigint primary key, at timestamptz, x float8, y float8)",
            "alter table {} add column kind text",
            "create table {}_labels (id bigint primary key, at timestamptz, up smallint)",
        )

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.format(self.name))

    def deliver(self, first: int, last: int, *, labels: tuple[int, int] | None = None) -> None:
        """Deliver the rows of the weeks ``first`` to ``last`` (exclusive), and some labels."""
        self._copy(self.name, self.weeks.part(self.weeks.rows, first, last))
        if labels:
            self._copy(f"{self.name}_labels", self.weeks.part(self.weeks.labels, *labels))

    @property
    def table(self) -> Any:
        """Where the lifecycle reads."""
        from airflow_mlops.policy import Table

        names = f"public.{self.name}", "id", "at", "up", f"public.{self.name}_labels"
        return Table("warehouse", *names)

    def lifecycle(self, **policy: Any) -> Any:
        from airflow_mlops.lifecycle import Lifecycle
        from airflow_mlops.policy import Approval, AtLeast, Loads, NotWorse, OnRequest, Window

        usual = {
            "data": self.table,
            "select": Window(span="28d", step="7d"),
            "features": f"{self.module(FEATURES)}:build",
            "train": f"{self.module(TRAIN)}:fit",
            "gates": [Loads(5000), AtLeast("roc_auc", 0.6), NotWorse("brier", margin=0.5)],
            "retrain": [OnRequest()],
            "cooldown": "1d",
            "approve": Approval(by=["ml-lead"]),
            "schedule": None,
            "retries": 0,
        }
        return Lifecycle(name=self.name, **{**usual, **policy})

    def _copy(self, table: str, rows: pa.Table) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, rows.schema.names))
        into = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), names)
        with psycopg.connect(self.dsn) as connection, connection.cursor().copy(into) as copy:
            for row in rows.to_pylist():
                copy.write_row(tuple(row.values()))


@pytest.fixture
def market(services, connections, model, labelled_weeks, user_module) -> Market:
    """A model of one policy on tables of its own; seven weeks to deliver."""
    return Market(model, services.dsn("warehouse"), labelled_weeks(7), user_module)


@pytest.fixture
def closed_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def alone(model):
    """``alone(Operator, **arguments)``: a Dag of one task, which may be tried twice."""
    from datetime import timedelta

    from airflow.sdk import DAG

    def make(operator, *, retries=1, **arguments):
        again = {"retries": retries, "retry_delay": timedelta(0)}
        with DAG(model, schedule=None, default_args=again) as dag:
            operator(task_id="t", **{"model": model, **arguments})
        return dag

    return make


@pytest.fixture
def table(warehouse, model):
    warehouse(
        f"create table {model} (id bigint, at timestamptz, x float8)",
        f"insert into {model} values (1, '2024-01-01', 1.5), (2, '2024-01-02', 2.5)",
    )
    return model
