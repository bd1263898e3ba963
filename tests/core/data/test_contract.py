"""The contract: what training saw never breaks it, and what differs is named and counted."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.contract import (
    Break,
    ColumnContract,
    Contract,
    contract_changes,
    failing,
    infer_contract,
    logical_type,
    row_breaks,
    schema_breaks,
)
from airflow_mlops.core.data.profiling import ProfileBuilder


def trained(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(n),
            "x": rng.normal(0.3, 1, n),
            "count": rng.integers(0, 9, n),
            "kind": rng.choice(["a", "b"], n),
            "gaps": pa.array([None if i % 10 == 0 else float(i) for i in range(n)]),
            "ok": rng.random(n) < 0.5,
            "name": [f"name {i}" for i in range(n)],
        }
    )


def contract_of(table):
    builder = ProfileBuilder()
    for batch in table.to_batches():
        builder.update(batch)
    return infer_contract(table.schema, builder.finish(), exclude=("id",))


def replaced(table, name, values):
    return table.set_column(table.schema.get_field_index(name), name, values)


@pytest.mark.parametrize("seed", range(20))
def test_the_training_rows_never_break_their_own_contract(seed):
    table = trained(seed=seed)
    good, breaks = row_breaks(contract_of(table), table, "id")
    assert breaks == ()
    assert all(good.to_pylist())
    assert schema_breaks(contract_of(table), table.schema) == ()


def test_a_contract_round_trips_through_json():
    found = contract_of(trained())
    assert Contract.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_key_is_no_part_of_the_contract():
    assert "id" not in {c.name for c in contract_of(trained()).columns}


def test_few_categories_are_listed_and_many_are_not():
    found = {c.name: c for c in contract_of(trained()).columns}
    assert found["kind"].categories == ("a", "b")
    assert found["ok"].categories == ("false", "true")
    assert found["name"].categories is None
    assert found["gaps"].nullable
    assert not found["x"].nullable


def test_a_renamed_column_is_shown_as_a_likely_rename():
    table = trained()
    found = table.rename_columns({"kind": "sort"})
    (one,) = schema_breaks(contract_of(table), found.schema)
    assert (one.column, one.kind) == ("kind", "missing")
    assert "renamed to 'sort'?" in str(one)


def test_a_retyped_column_names_both_types():
    table = trained()
    found = replaced(table, "x", table["x"].cast(pa.string()))
    assert [str(b) for b in schema_breaks(contract_of(table), found.schema)] == [
        "column 'x' retyped: expected number, found string"
    ]


def test_an_extra_column_breaks_a_schema_but_not_a_contract():
    table = trained()
    found = table.append_column("extra", pa.array(range(len(table))))
    assert [b.kind for b in schema_breaks(table.schema, found.schema)] == ["unexpected"]
    assert schema_breaks(contract_of(table), found.schema) == ()


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf], ids=str)
def test_a_value_that_is_absent_where_training_saw_all_disqualifies_its_row(bad):
    table = trained()
    values = table["x"].to_pylist()
    values[3] = values[5] = bad
    good, breaks = row_breaks(contract_of(table), replaced(table, "x", pa.array(values)), "id")
    assert [i for i, ok in enumerate(good.to_pylist()) if not ok] == [3, 5]
    first = breaks[0]
    assert (first.column, first.kind, first.count, first.examples) == ("x", "null", 2, ("3", "5"))


def test_an_absent_value_is_fine_where_training_saw_some():
    table = trained()
    good, breaks = row_breaks(
        contract_of(table), replaced(table, "gaps", pa.nulls(len(table), pa.float64())), "id"
    )
    assert all(good.to_pylist())
    assert breaks == ()


def test_a_value_out_of_range_is_a_finding_and_its_row_stays():
    table = trained()
    values = table["count"].to_numpy().copy()
    values[7] = 1000
    good, (one,) = row_breaks(contract_of(table), replaced(table, "count", pa.array(values)), "id")
    assert all(good.to_pylist())
    assert (one.kind, one.found, one.examples) == ("out of range", "1000 to 1000", ("7",))
    assert one.expected == "0 to 8"


def test_a_new_category_is_a_finding_and_names_it():
    table = trained()
    values = ["</script>", *table["kind"].to_pylist()[1:]]
    good, (one,) = row_breaks(contract_of(table), replaced(table, "kind", pa.array(values)), "id")
    assert all(good.to_pylist())
    assert (one.kind, one.found, one.expected) == (
        "new category",
        "'</script>'",
        "one of 2 known values",
    )


def test_no_rows_break_nothing():
    good, breaks = row_breaks(contract_of(trained()), trained().slice(0, 0), "id")
    assert len(good) == 0
    assert breaks == ()


@pytest.mark.parametrize(
    ("kind", "logical"),
    [
        (pa.int8(), "integer"),
        (pa.uint64(), "integer"),
        (pa.float32(), "number"),
        (pa.decimal128(10, 2), "number"),
        (pa.bool_(), "boolean"),
        (pa.large_string(), "string"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.timestamp("ns"), "timestamp"),
        (pa.date32(), "timestamp"),
        (pa.list_(pa.int8()), "other"),
    ],
    ids=str,
)
def test_the_width_of_a_type_does_not_matter(kind, logical):
    assert logical_type(kind) == logical


def made(name, kind="number", *, nullable=False, categories=None):
    return ColumnContract(name, kind, nullable, None, None, categories)


def test_what_changed_in_a_contract_is_said_in_words():
    before = Contract((made("a"), made("b", "integer"), made("k", "string", categories=("x", "y"))))
    now = Contract(
        (
            made("b", "number", nullable=True),
            made("k", "string", categories=("y", "z")),
            made("rain"),
        )
    )
    assert contract_changes(before, now) == (
        "column 'a' (number) is gone",
        "column 'b' is number, was integer",
        "column 'b' may be empty now",
        "column 'k' has the new values 'z'",
        "column 'k' lost the values 'x'",
        "column 'rain' (number) is new",
    )
    assert contract_changes(now, now) == ()


@pytest.mark.parametrize(
    ("fail_on", "also", "stops"),
    [
        ("error", (), "missing retyped"),
        ("warn", (), "missing retyped null new"),
        ("never", (), ""),
        ("error", ("new category",), "missing retyped new"),
        ("never", ("null",), "null"),
    ],
)
def test_what_fails_a_check_is_a_matter_of_the_word(fail_on, also, stops):
    kinds = ("missing", "retyped", "null", "new category")
    breaks = [Break("c", kind, "", "") for kind in kinds]
    found = failing(breaks, fail_on, also)
    assert [b.kind.split()[0] for b in found] == stops.split()
