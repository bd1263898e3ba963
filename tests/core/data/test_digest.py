"""The content digest: free of order and layout, additive, and different when a value is."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.digest import ContentDigest, digest_of, digests_of
from airflow_mlops.core.errors import ConfigurationError


def table(n=500, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(n),
            "x": rng.normal(size=n),
            "kind": rng.choice(["a", "b", "ü"], n),
            "flag": rng.random(n) < 0.5,
            "at": pa.array(np.arange(n) * 1_000_000, pa.timestamp("us", "UTC")),
            "gaps": pa.array([None if i % 7 == 0 else i / 3 for i in range(n)]),
            "list": pa.array([[i, i + 1] for i in range(n)]),
        }
    )


def of(rows):
    return digest_of(rows.to_batches())


def test_the_order_of_rows_does_not_matter():
    rows = table()
    assert of(rows.take(np.random.default_rng(1).permutation(len(rows)))) == of(rows)


def test_the_order_of_columns_does_not_matter():
    rows = table()
    assert of(rows.select(rows.schema.names[::-1])) == of(rows)


@pytest.mark.parametrize("size", [1, 7, 499, 500])
def test_the_borders_of_batches_do_not_matter(size):
    rows = table()
    assert digest_of(rows.to_batches(max_chunksize=size)) == of(rows)


@pytest.mark.parametrize("cut", [0, 1, 250, 500])
def test_the_digest_of_a_concatenation_is_the_sum(cut):
    rows = table()
    assert of(rows.slice(0, cut)) + of(rows.slice(cut)) == of(rows)


def test_subtraction_inverts_addition():
    a, b = of(table(seed=1)), of(table(seed=2))
    assert (a + b) - b == a
    assert a - a == ContentDigest()


def test_nothing_is_the_neutral_element():
    assert of(table().slice(0, 0)) == ContentDigest()


@pytest.mark.parametrize("digest", [ContentDigest(), of(table()), of(table()) + of(table(seed=3))])
def test_a_digest_round_trips_through_its_written_form(digest):
    assert ContentDigest.parse(str(digest)) == digest


@pytest.mark.parametrize("text", ["", "ctd1", "ctd2-1-" + "0" * 32, "ctd1-1-00", "a-b-c-d"])
def test_a_text_that_is_no_digest_is_refused_with_the_form(text):
    with pytest.raises(ConfigurationError, match="expected ctd1-<rows>-<32 hex digits>") as caught:
        ContentDigest.parse(text)
    assert repr(text) in str(caught.value)


def test_encoding_and_width_of_text_do_not_matter():
    plain = pa.table({"s": ["a", "b", None, "a"]})
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert of(plain.cast(pa.schema([("s", kind)]))) == of(plain)


def test_all_nan_are_one_value_and_so_are_the_two_zeros():
    payload = np.array([0x7FF8000000000001, 0], np.uint64).view(np.float64)
    assert of(pa.table({"x": payload})) == of(pa.table({"x": [float("nan"), -0.0]}))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("id", pa.array([-1])),
        ("x", pa.array([1e-300])),
        ("x", pa.array([None], pa.float64())),
        ("x", pa.array([float("nan")])),
        ("kind", pa.array(["A"])),
        ("kind", pa.array([None], pa.string())),
        ("gaps", pa.array([0.0])),
        ("at", pa.array([-1], pa.timestamp("us", "UTC"))),
        ("list", pa.array([[1, 0]])),
    ],
)
def test_one_changed_value_changes_the_digest(name, changed):
    rows = table()
    values = pa.chunked_array([changed, *rows[name].slice(1).chunks])
    other = rows.set_column(rows.schema.get_field_index(name), name, values)
    assert of(other) != of(rows)


def test_swapping_two_values_of_one_column_changes_the_digest():
    assert of(pa.table({"a": [1, 2], "b": [1, 2]})) != of(pa.table({"a": [1, 2], "b": [2, 1]}))


def test_a_renamed_or_retyped_column_changes_the_digest():
    plain = of(pa.table({"a": [1, 2]}))
    assert of(pa.table({"b": [1, 2]})) != plain
    assert of(pa.table({"a": [1.0, 2.0]})) != plain
    assert of(pa.table({"a": ["1", "2"]})) != plain


def test_a_repeated_row_counts():
    one = pa.table({"a": [1]})
    assert of(pa.concat_tables([one, one, one])) != of(one)
    assert of(pa.table({"a": [1, 1]})).rows == 2


def test_parts_of_a_batch_are_digested_as_if_they_came_alone():
    rng = np.random.default_rng(0)
    batch = pa.record_batch({"x": rng.normal(size=100), "c": rng.choice(["a", "b"], 100)})
    cuts = [0, 1, 7, 64, 100]
    alone = [digest_of([batch.slice(a, b - a)]) for a, b in itertools.pairwise(cuts)]
    assert digests_of(batch, cuts) == alone
    assert sum(alone, ContentDigest()) == digest_of([batch])
