"""Rows from files: the same dataset as from a table, whatever the order and the number of files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from airflow_mlops.core.data.file_sources import FileSource
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.refs import DatasetRef


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def shuffled(table):
    return table.take(
        pa.array(list(range(1, table.num_rows, 2)) + list(range(0, table.num_rows, 2)))
    )


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_become_the_same_dataset_as_a_table(
    dataset_store, append, labelled_weeks, folder, kind
):
    weeks = labelled_weeks(3)
    for number in range(3):
        part = shuffled(weeks.part(weeks.rows, number, number + 1))
        if kind == "parquet":
            pq.write_table(part, folder / f"{number}.parquet")
        else:
            csv.write_csv(part, folder / f"{number}.csv")
    files = append(dataset_store, "f", FileSource(f"{folder}/*.{kind}", "id", "at"))
    table = append(dataset_store, "t", weeks.source())
    assert (files.rows, files.digest) == (table.rows, table.digest)


def test_a_file_that_is_added_is_read_by_the_next_snapshot(
    dataset_store, append, labelled_weeks, folder
):
    weeks, source = labelled_weeks(3), FileSource(f"{folder}/*.parquet", "id", "at")
    pq.write_table(weeks.part(weeks.rows, 0, 2), folder / "a.parquet")
    first = append(dataset_store, "f", source)
    pq.write_table(weeks.part(weeks.rows, 2, 3), folder / "b.parquet")
    second = append(dataset_store, "f", source, "k2")
    assert (first.rows, second.added, second.rows) == (336, 168, 504)
    dataset_store.open(DatasetRef.parse(second.ref)).verify()


def test_a_time_without_zone_is_utc(folder):
    (folder / "a.csv").write_text("id,at\n2,2024-01-01 02:00:00\n1,2024-01-01 01:00:00\n")
    with FileSource(f"{folder}/a.csv", "id", "at").read() as reader:
        found = reader.read_all()
    assert found["id"].to_pylist() == [1, 2]
    assert found["at"][0].as_py().isoformat() == "2024-01-01T01:00:00+00:00"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none.parquet", "no file at"),
        ("*.parquet", "no file at"),
        ("a.xlsx", "neither"),
        ("a.csv", "has no column 'at'; it has id, when"),
    ],
)
def test_what_is_not_there_is_named(folder, path, says):
    (folder / "a.csv").write_text("id,when\n1,2024-01-01\n")
    (folder / "a.xlsx").write_text("")
    with pytest.raises(ConfigurationError, match=says) as caught:
        FileSource(f"{folder}/{path}", "id", "at").schema()
    assert str(folder) in str(caught.value)


def test_a_broken_file_is_named_and_nothing_is_committed(
    dataset_store, append, labelled_weeks, folder
):
    pq.write_table(labelled_weeks(1).rows, folder / "a.parquet")
    data = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(RejectedError, match=r"a\.parquet"):
        append(dataset_store, "f", FileSource(f"{folder}/a.parquet", "id", "at"))
    assert dataset_store.latest("f") is None


def test_a_hostile_column_is_only_a_name(folder):
    name = 'x" or 1=1 --'
    at = pa.array(["2024-01-01T00:00:00Z"]).cast(pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({name: [1], "at": at}), folder / "a.parquet")
    with FileSource(f"{folder}/a.parquet", name, "at").read(at[0].as_py()) as reader:
        assert reader.read_all()[name].to_pylist() == [1]
