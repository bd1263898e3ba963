"""A table of a real PostgreSQL as a source."""

import contextlib
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.data.sources import PostgresSource
from airflow_mlops.core.errors import (
    ConfigurationError,
    ContractBrokenError,
    MlopsError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

pytestmark = pytest.mark.services

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def read(source, since=None):
    with source.read(since) as reader:
        return reader.read_all()


@pytest.fixture
def table(warehouse, model):
    """A table with a column of every kind; rows written out of order."""
    dsn = warehouse(
        f"create table {model} (id bigint, at timestamptz, whole int, small smallint, x float8, "
        "single real, money numeric(20, 4), ok boolean, word text, letters varchar(9), "
        "padded char(3), day date, local timestamp, tag uuid, doc jsonb)",
        f"insert into {model} values "
        "(2, '2024-01-02 00:00+00', 7, 1, 1.5, 2.5, 12.3456, true, 'é🙂', 'v', 'c', '2024-01-02', "
        "'2024-01-02 10:00', '00000000-0000-0000-0000-000000000001', '{\"a\": 1}'), "
        "(1, '2024-01-01 01:00+02', null, null, 'NaN', null, 'NaN', null, null, null, null, null, "
        "null, null, null)",
    )
    yield dsn, model
    warehouse(f"drop table if exists {model}")


def test_every_kind_of_column_arrives_in_its_type(table):
    found = read(PostgresSource(*table, "id", "at"))
    assert found.schema == PostgresSource(*table, "id", "at").schema()
    assert found["id"].to_pylist() == [1, 2]
    last = found.slice(1).to_pylist()[0]
    assert last["at"] == datetime(2024, 1, 2, tzinfo=UTC)
    assert last["local"] == datetime(2024, 1, 2, 10, tzinfo=UTC)
    assert (last["whole"], last["small"], last["x"], last["single"]) == (7, 1, 1.5, 2.5)
    assert last["money"] == pytest.approx(12.3456)
    assert (last["ok"], last["word"], last["letters"], last["padded"]) == (True, "é🙂", "v", "c")
    assert last["tag"].endswith("001")
    assert last["doc"] == '{"a": 1}'
    assert found["word"].null_count == 1


def test_rows_before_since_are_left_out_whatever_the_kind_of_time(table):
    for time in ("at", "local"):
        found = read(PostgresSource(*table, "id", time), MONDAY + timedelta(hours=1))
        assert found["id"].to_pylist() == [2]


def test_only_the_wanted_columns_are_read_and_key_and_time_always(table):
    source = PostgresSource(*table, "id", "at", columns=("word", "x"))
    assert read(source).schema.names == ["word", "x", "id", "at"]


def test_a_table_is_appended_once_and_grows(table, warehouse, dataset_store, append):
    source = PostgresSource(*table, "id", "at")
    first = append(dataset_store, "d", source, "a")
    assert append(dataset_store, "d", source, "a") == first
    warehouse(f"insert into {table[1]} (id, at) values (3, '2024-02-01')")
    assert append(dataset_store, "d", source, "b").added == 1
    dataset_store.open(DatasetRef("d", 2)).verify()


def test_a_missing_table_is_named(services):
    source = PostgresSource(services.dsn("warehouse"), "nowhere.nothing", "id", "at")
    with pytest.raises(ConfigurationError, match=r"no table 'nowhere.nothing' in this database"):
        source.schema()


@pytest.mark.parametrize(
    "asked", [{"columns": ("nope",)}, {"key": "nope"}, {"time": "nope"}], ids=str
)
def test_an_unknown_column_is_named_with_those_there_are(table, asked):
    source = PostgresSource(*table, **{"key": "id", "time": "at", **asked})
    with pytest.raises(ConfigurationError, match=r"has no column 'nope'.*; it has id, at, whole"):
        source.schema()


def test_a_wrong_password_is_a_configuration_error_and_is_not_shown(password_login):
    source = PostgresSource(password_login("warehouse", "wrong-secret"), "t", "id", "at")
    with pytest.raises(ConfigurationError, match=r"cannot log in to read t: .*check the conn") as e:
        source.schema()
    assert "wrong-secret" not in str(e.value)


def test_a_login_that_may_not_read_is_told_so(table, password_login):
    source = PostgresSource(password_login("warehouse", "right"), table[1], "id", "at")
    with pytest.raises(ConfigurationError, match=f"may not read {table[1]!r}"):
        source.schema()


@pytest.mark.parametrize(
    "name",
    ['say "hi"', "it's", "x; drop table victim; --", 'x"; drop table victim; --', "🙂", "a" * 63],
)
def test_a_hostile_name_is_only_a_name(services, warehouse, name):
    quoted = '"' + name.replace('"', '""') + '"'
    dsn = warehouse(
        "create table if not exists victim (id int)",
        f'create table {quoted} ({quoted} bigint, "at {name[:50]}" timestamptz)'.replace(
            f'"at {name[:50]}"', '"at ' + name[:50].replace('"', '""') + '"'
        ),
        f"insert into {quoted} values (1, '2024-01-01')",
    )
    try:
        source = PostgresSource(dsn, name, name, f"at {name[:50]}")
        assert read(source, MONDAY).num_rows == 1
    finally:
        warehouse(f"drop table {quoted}", "drop table victim")  # it is still there


def test_a_hostile_name_that_does_not_exist_harms_nobody(services, warehouse):
    dsn = warehouse("create table if not exists victim (id int)")
    for name in ("pg_class; drop table victim; --", 'pg_class"; drop table victim; --'):
        with pytest.raises(ConfigurationError, match="no table"):
            PostgresSource(dsn, name, "id", "at").schema()
    warehouse("drop table victim")


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "294276-12-31", "4713-01-01 BC"])
def test_a_moment_outside_the_calendar_is_refused_by_its_key(
    warehouse, model, dataset_store, append, moment
):
    dsn = warehouse(
        f"create table {model} (id bigint, at timestamptz)",
        f"insert into {model} values (1, '2024-01-01'), (77, '{moment}')",
    )
    source = PostgresSource(dsn, model, "id", "at")
    with pytest.raises(RejectedError, match=r"1 rows have a time outside the years 1 to 9999.* 77"):
        append(dataset_store, "d", source)
    warehouse(f"drop table {model}")


def test_a_null_time_is_refused_by_its_key(warehouse, model, dataset_store, append):
    dsn = warehouse(
        f"create table {model} (id bigint, at timestamptz)",
        f"insert into {model} values (1, '2024-01-01'), (77, null)",
    )
    with pytest.raises(RejectedError, match="1 rows have no time, such as 77"):
        append(dataset_store, "d", PostgresSource(dsn, model, "id", "at"))
    warehouse(f"drop table {model}")


def test_an_empty_table_is_refused(warehouse, model, dataset_store, append):
    dsn = warehouse(f"create table {model} (id bigint, at timestamptz)")
    with pytest.raises(RejectedError, match="the source is empty"):
        append(dataset_store, "d", PostgresSource(dsn, model, "id", "at"))
    warehouse(f"drop table {model}")


def test_a_schema_that_changed_at_the_source_breaks_the_contract(
    table, warehouse, dataset_store, append
):
    dsn, name = table
    source = PostgresSource(dsn, name, "id", "at")
    append(dataset_store, "d", source, "a")
    warehouse(
        f"alter table {name} rename column word to wort",
        f"alter table {name} alter column x type text using x || ' MW'",
    )
    with pytest.raises(ContractBrokenError) as caught:
        append(dataset_store, "d", source, "b")
    assert "renamed to 'wort'?" in str(caught.value)
    assert "'x' retyped: expected number, found string" in str(caught.value)


def test_the_rows_of_one_read_are_one_snapshot(table, warehouse):
    source = PostgresSource(*table, "id", "at")
    with source.read() as reader:
        warehouse(f"insert into {table[1]} (id, at) values (9, '2024-03-01')")
        assert reader.read_all()["id"].to_pylist() == [1, 2]


def test_the_connection_is_closed_after_a_read(services, table):
    dsn = f"{table[0]} application_name={table[1]}"
    read(PostgresSource(dsn, table[1], "id", "at"))
    with psycopg.connect(services.dsn("postgres")) as connection:
        found = connection.execute(
            "select count(*) from pg_stat_activity where application_name = %s", (table[1],)
        ).fetchone()
    assert found == (0,)


def test_an_arrow_table_and_postgres_give_the_same_digest(table, dataset_store, append):
    from airflow_mlops.core.data.sources import ArrowSource

    columns = ("x", "word", "whole")
    source = PostgresSource(*table, "id", "at", columns=columns)
    one = append(dataset_store, "one", source)
    rows = read(source).take(pa.array([1, 0]))
    assert append(dataset_store, "two", ArrowSource(rows, "id", "at")).digest == one.digest


@pytest.fixture
def long(warehouse, model):
    """A table whose read takes many batches; returns its dsn and name."""
    dsn = warehouse(
        f"create table {model} (id bigint, at timestamptz, x int, w text)",
        f"insert into {model} select i, timestamptz '2024-01-01' + i * interval '1 minute', i, "
        "repeat('a', 200) from generate_series(1, 100000) i",
    )
    yield dsn, model
    warehouse(f"drop table {model} cascade")


def test_a_connection_that_is_killed_while_reading_is_unavailable(services, long):
    dsn, name = long
    source = PostgresSource(f"{dsn} application_name={name}", name, "id", "at")
    with source.read() as reader:
        reader.read_next_batch()
        with psycopg.connect(services.dsn("postgres"), autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = %s",
                (name,),
            )
        with pytest.raises(
            UnavailableError, match=rf"(?s)reading {name} broke off: .*the next try"
        ):
            reader.read_all()


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("1 / (x - {last})", "division by zero"),
        ("(w || 'b')::int", "invalid input syntax"),
        ("(x * 1000000)::int", "out of range"),
    ],
    ids=["division", "cast", "range"],
)
@pytest.mark.parametrize("last", [1, 99_000])
def test_a_view_that_fails_on_a_row_is_refused_with_its_name(
    warehouse, long, dataset_store, append, column, says, last
):
    dsn, name = long
    view = f"{name}_v"
    warehouse(
        f"create view {view} as select id, at, case when x >= {last} then "
        f"{column.format(last=last)} else 0 end as r from {name}"
    )
    with pytest.raises(RejectedError, match=rf"(?s)reading {view} broke off: .*{says}.*correct"):
        append(dataset_store, "d", PostgresSource(dsn, view, "id", "at"))


def test_an_error_of_the_reader_is_not_laid_on_the_table(table):
    with (
        pytest.raises(OSError, match="disk is full"),
        PostgresSource(*table, "id", "at").read(),
    ):
        raise OSError("disk is full")


ESCAPES = [
    "(select 1); drop table victim; select * from (select 1)",
    "(select 1); commit; drop table victim; select * from (select 1)",
    "(select 1) as s; set transaction read write; drop table victim; select (1)",
    "(select 1 as id, now() as at) as s; drop table victim; -- )",
    "(select 1 as id, now() as at) to stdout; drop table victim; -- )",
    "(with gone as (delete from victim returning 1) select 1 as id, now() as at from gone)",
    "(select nextval('counting') as id, now() as at)",
]


@pytest.mark.parametrize("query", ESCAPES)
def test_a_query_is_one_statement_that_writes_nothing(warehouse, dataset_store, append, query):
    dsn = warehouse(
        "create table if not exists victim (id int)", "create sequence if not exists counting"
    )
    source = PostgresSource(dsn, query, "id", "at")
    now = datetime.now(UTC)
    for ask in (
        source.schema,
        source.newest,
        lambda: source.count(now, timedelta(days=1), now),
        lambda: append(dataset_store, "d", source),
    ):
        with contextlib.suppress(MlopsError):
            ask()
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "select to_regclass('victim'), is_called from counting"
        ).fetchone()
    assert left == ("victim", False)
    warehouse("drop table victim", "drop sequence counting")


def test_a_comment_at_the_end_of_a_query_hides_nothing(warehouse):
    dsn = warehouse("select 1")
    source = PostgresSource(dsn, "(select 1 as id, now() as at --)\n)", "id", "at")
    assert read(source).num_rows == 1


@pytest.mark.parametrize(
    "named",
    [
        {"table": "a\0b"},
        {"table": "(select 1 as id, now() as at, '\0')"},
        {"key": "i\0d"},
        {"time": "a\0t"},
        {"columns": ("a\0t",)},
    ],
)
def test_a_nul_is_an_error_of_a_family(warehouse, named):
    usual = {"table": "(select 1 as id, now() as at)", "key": "id", "time": "at", "columns": None}
    source = PostgresSource(warehouse("select 1"), **{**usual, **named})
    for ask in (source.schema, source.newest, lambda: source.query, lambda: read(source)):
        with pytest.raises(ConfigurationError, match="NUL"):
            ask()


def test_the_newest_row_is_none_that_is_ahead_of_now(warehouse):
    rows = "(values (1, now() - interval '1 h'), (2, now() + interval '6 d')) as v (id, at)"
    source = PostgresSource(warehouse("select 1"), f"(select id, at from {rows})", "id", "at")
    assert source.newest() < datetime.now(UTC)
