"""Schema mlops of an earlier release: it opens with the new code, and what was in it is there."""

import uuid

import psycopg
import pytest
from alembic import command

from airflow_mlops.core import migrations

pytestmark = pytest.mark.services


@pytest.fixture
def released(services):
    """``released("0004")``: a database as that revision left it; returns its dsn."""

    def make(revision: str) -> str:
        name = f"released_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(services.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {name}")
        dsn = services.dsn(name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create schema mlops")
        command.upgrade(migrations._config(dsn), revision)
        return dsn

    return make


def test_predictions_of_a_release_before_are_served_as_they_were(released):
    dsn = released("0004")
    fill = (
        "insert into mlops.predictions (model, version, key, observed_at, prediction, dataset, run,"
        " scored_at, shadow) select m, v, k::text, timestamptz '2024-01-01Z' + k * interval '1 h', "
        "v + k / 10.0, 'd@1', 'r', timestamptz '2024-02-01Z' + (v * 7 + k) %% 5 * interval '1 h', "
        "(v + k) %% 3 = 0 from unnest(array['a', 'b']) m, generate_series(1, 4) v, "
        "generate_series(1, 40) k"
    )
    asked = "select * from mlops.served order by model, key"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(fill.replace("%%", "%"))
        before = connection.execute(asked)
        columns, rows = [c.name for c in before.description or ()], before.fetchall()
    migrations.upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        now = connection.execute(asked)
        assert [c.name for c in now.description or ()] == columns
        assert now.fetchall() == rows
    assert len(rows) == 80
