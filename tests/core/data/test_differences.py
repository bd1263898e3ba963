"""What changed between two versions: counted by key, named by column."""

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.differences import compare_datasets
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import DatasetRef
from tests.conftest import WEEK


@pytest.fixture
def versions(dataset_store, append):
    """Append one source after another, and compare the first version with the last."""

    def run(*sources, **asked):
        refs = [
            append(dataset_store, "d", source, f"k{i}", lateness=8 * WEEK, **asked).ref
            for i, source in enumerate(sources)
        ]
        one, two = (dataset_store.open(DatasetRef.parse(r)) for r in (refs[0], refs[-1]))
        return compare_datasets(one, two)

    return run


def changed(weeks, **columns):
    """Two weeks, some values replaced: ``x={3: 7.5}``."""
    part = weeks.part(weeks.rows, 0, 2)
    for name, values in columns.items():
        column = part[name].to_pylist()
        for row, value in values.items():
            column[row] = value
        place = part.schema.get_field_index(name)
        part = part.set_column(place, name, pa.array(column, part.schema.field(name).type))
    return ArrowSource(part, "id", "at")


def test_a_version_is_the_same_as_itself(versions, labelled_weeks):
    weeks = labelled_weeks(2)
    found = versions(weeks.source())
    assert found.same
    assert str(found) == "d@1 and d@1 hold the same 336 rows"


def test_appended_rows_are_counted_and_nothing_else(versions, labelled_weeks):
    weeks = labelled_weeks(3)
    found = versions(weeks.source(0, 1), weeks.source())
    assert (found.rows, found.added, found.removed, found.changed) == ((168, 504), 336, 0, 0)
    assert found.windows == (2, 3)
    assert found.columns == {}


def test_changed_values_are_counted_by_column_and_named_by_key(versions, labelled_weeks):
    weeks = labelled_weeks(2)
    late = changed(weeks, x={3: 7.5, 200: None}, kind={3: "z"}, y={4: float("nan")})
    found = versions(weeks.source(), late)
    assert (found.added, found.removed, found.changed) == (0, 0, 3)
    assert found.columns == {"x": 2, "kind": 1, "y": 1}
    assert found.examples["changed"] == ("3", "4", "200")
    assert "column 'x': 2 values changed" in str(found)
    assert not found.same


def test_rows_that_came_and_went_within_a_window(versions, labelled_weeks):
    weeks = labelled_weeks(2)
    rows = weeks.part(weeks.rows, 0, 2)
    without = pa.concat_tables([rows.slice(0, 5), rows.slice(8)])
    found = versions(weeks.source(0, 2), ArrowSource(without, "id", "at"))
    assert (found.added, found.removed, found.changed) == (0, 3, 0)
    assert found.examples["removed"] == ("5", "6", "7")


def test_nan_and_null_equal_themselves(versions, labelled_weeks):
    weeks = labelled_weeks(2)
    one = changed(weeks, x={1: float("nan"), 2: None})
    two = changed(weeks, x={1: float("nan"), 2: None, 3: 0.25})
    assert versions(one, two).columns == {"x": 1}


def test_columns_of_two_datasets_are_compared_too(dataset_store, append, labelled_weeks):
    weeks = labelled_weeks(1)
    rows = weeks.rows.drop_columns(["kind"])
    place = rows.schema.get_field_index("x")
    other = rows.set_column(place, "x", rows["x"].cast(pa.string())).append_column(
        'a "b"; drop', pa.array(np.arange(168))
    )
    append(dataset_store, "d", weeks.source())
    append(dataset_store, "e", ArrowSource(other, "id", "at"))
    one, two = (dataset_store.open(DatasetRef(n, 1)) for n in "de")
    found = compare_datasets(one, two)
    assert found.new_columns == {'a "b"; drop': "integer"}
    assert found.lost_columns == {"kind": "string"}
    assert found.retyped == {"x": ("number", "string")}
    assert "column 'x': number -> string" in str(found)


def test_a_hostile_column_is_only_a_name(versions, labelled_weeks):
    name = 'x"); drop table one; --'
    weeks = labelled_weeks(1)
    names = [name if n == "x" else n for n in weeks.rows.schema.names]
    one = weeks.rows.rename_columns(names)
    two = one.set_column(names.index(name), name, pa.array(np.zeros(168)))
    assert versions(*(ArrowSource(t, "id", "at") for t in (one, two))).columns == {name: 168}


def test_rows_named_by_different_columns_cannot_be_compared(dataset_store, append, labelled_weeks):
    weeks = labelled_weeks(1)
    append(dataset_store, "d", weeks.source())
    append(dataset_store, "e", ArrowSource(weeks.rows, "x", "at"), key="x")
    one, two = (dataset_store.open(DatasetRef(n, 1)) for n in "de")
    with pytest.raises(ConfigurationError, match=r"d@1 has key 'id'.*e@1 has 'x'"):
        compare_datasets(one, two)
