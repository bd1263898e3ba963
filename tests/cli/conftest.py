"""Fixtures of the command line: a ledger of its own, and the parser that Airflow uses."""

import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import pytest

from airflow_mlops.core import migrations
from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.ledger import Ledger
from tests.operators import airflow_home  # before anything of Airflow


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def parser(services) -> Any:
    airflow_home.make_database()
    from airflow.cli.cli_parser import get_parser

    return get_parser()


@pytest.fixture
def mlops(parser, capsys) -> Callable[..., Done]:
    """``mlops("status", "churn")``: run one command in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        try:
            args = parser.parse_args(["mlops", *arguments])
            code = args.func(args)
        except SystemExit as end:
            code = end.code
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def connect(monkeypatch) -> Callable[..., None]:
    """``connect(conn_id, **fields)``: an Airflow connection."""

    def make(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return make


@pytest.fixture
def database(services) -> str:
    """A fresh database: what other tests did to their ledgers is not this one's business."""
    name = f"cli_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(services.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return name


@pytest.fixture
def connections(services, database, connect, tmp_path) -> None:
    postgres = {"conn_type": "postgres", "host": services.socket_dir, "login": "postgres"}
    connect("mlops_default", schema=database, **postgres)
    connect("mlflow_default", conn_type="mlflow", host=services.urls["mlflow"])
    connect("dataset_default", conn_type="dataset", host=str(tmp_path / "datasets"))


@pytest.fixture
def ledger(services, database, connections) -> Ledger:
    migrations.upgrade(services.dsn(database))
    return Ledger(services.dsn(database))


@pytest.fixture
def registry(model_store, ledger) -> ModelRegistry:
    return ModelRegistry(model_store, ledger)


@pytest.fixture
def champions(registry, make_version, ask) -> Callable[[int], None]:
    """``champions(2)``: so many versions, each of them promoted."""

    def make(number: int) -> None:
        for _ in range(number):
            ref = make_version()
            registry.promote(ref, ask(f"promote {ref}"), epoch=None, order=None)

    return make


@pytest.fixture
def closed_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    from airflow_mlops.local.settings import free_ports

    return free_ports(1)[0]
