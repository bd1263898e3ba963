"""A table in memory as a source: order, types, refusals."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data.sources import ArrowSource, PostgresSource
from airflow_mlops.core.errors import ConfigurationError, RejectedError, UnavailableError

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def read(source, since=None):
    with source.read(since) as reader:
        return reader.read_all()


def source(**columns):
    rows = {
        "id": [3, 1, 2],
        "at": [MONDAY, MONDAY + timedelta(1), MONDAY],
        **columns,
    }
    return ArrowSource(pa.table(rows), "id", "at")


def test_rows_come_ordered_by_time_and_key():
    assert read(source())["id"].to_pylist() == [2, 3, 1]


def test_rows_before_since_are_left_out():
    assert read(source(), MONDAY + timedelta(hours=1))["id"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (pa.uint8(), pa.int64()),
        (pa.float16(), pa.float64()),
        (pa.decimal128(10, 2), pa.float64()),
        (pa.large_string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.timestamp("ns"), pa.timestamp("us", "UTC")),
        (pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC")),
        (pa.int8(), pa.int8()),
        (pa.bool_(), pa.bool_()),
    ],
    ids=str,
)
def test_a_column_is_offered_in_a_type_that_a_dataset_keeps(given, stored):
    values = pa.nulls(3, given)
    found = source(c=values)
    assert found.schema().field("c").type == stored
    assert read(found).schema == found.schema()


def test_a_value_that_has_no_place_is_refused():
    with pytest.raises(RejectedError, match="a value has no place in a dataset"):
        read(source(c=pa.array([2**64 - 1, 0, 0], pa.uint64())))


def test_a_time_finer_than_microseconds_is_refused():
    with pytest.raises(RejectedError, match="no place in a dataset"):
        read(source(c=pa.array([1, 2, 3], pa.timestamp("ns"))))


# a closed port and hostile names need no server


def postgres(table="t", key="id", time="at", columns=None, port=9):
    dsn = f"host=127.0.0.1 port={port} user=u password=hidden dbname=d"
    return PostgresSource(dsn, table, key, time, columns)


def test_a_server_that_is_down_is_unavailable_and_the_table_is_named():
    with pytest.raises(UnavailableError, match=r"the server of public.t does not answer") as caught:
        postgres("public.t").schema()
    assert "hidden" not in str(caught.value)


def test_the_password_is_not_in_the_representation():
    assert "hidden" not in repr(postgres())


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 64, "ä" * 32], ids=ascii)
@pytest.mark.parametrize("where", ["table", "key", "time"])
def test_a_name_that_postgresql_would_cut_is_refused(name, where):
    with pytest.raises(
        ConfigurationError, match=r"not an identifier of PostgreSQL.*63 bytes, no NUL"
    ):
        postgres(**{where: name}).schema()


def test_a_connection_string_that_is_none_does_not_show_its_parts():
    with pytest.raises(ConfigurationError, match="for t is not one that libpq") as caught:
        PostgresSource("password=hidden nonsense", "t", "id", "at").schema()
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None
