"""Profiles add up, subtract and travel; their numbers agree with numpy."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.profile import (
    CategoryProfile,
    NumericProfile,
    Profile,
    merge_all,
)
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.errors import ConfigurationError


def rows(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(5, 2, n)
    x[::50] = np.nan
    return pa.table(
        {
            "x": x,
            "whole": rng.integers(-5, 5, n).astype("int8"),
            "gaps": pa.array([None if i % 9 == 0 else i / 7 for i in range(n)]),
            "kind": rng.choice(["a", "b", "c"], n, p=[0.7, 0.2, 0.1]),
            "flag": pa.array([None if i % 11 == 0 else bool(i % 2) for i in range(n)]),
            "at": pa.array(np.arange(n) * 3_600_000_000, pa.timestamp("us", "UTC")),
            "money": pa.array([None if i % 5 == 0 else i for i in range(n)]).cast(
                pa.decimal128(21, 2)
            ),
        }
    )


def profile(table, like=None, size=65_536):
    builder = ProfileBuilder(like)
    for batch in table.to_batches(max_chunksize=size):
        builder.update(batch)
    return builder.finish()


def assert_same(a: Profile, b: Profile):
    """Equal, with room for the order in which floats are added."""
    assert list(a.columns) == list(b.columns)
    for name, one in a.columns.items():
        two = b.columns[name]
        if isinstance(one, CategoryProfile):
            assert one == two
            continue
        assert np.array_equal(one.cells, two.cells)
        assert np.array_equal(one.counts, two.counts)
        for field in ("centre", "scale", "rows", "missing", "low", "high", "times"):
            assert getattr(one, field) == getattr(two, field), (name, field)
        assert one.total == pytest.approx(two.total, rel=1e-9, abs=1e-6)
        assert one.squares == pytest.approx(two.squares, rel=1e-9, abs=1e-6)


@pytest.fixture(scope="module")
def like():
    return centres(rows().combine_chunks().to_batches()[0])


@pytest.mark.parametrize("cut", [1, 1000, 2999])
def test_the_merge_of_two_profiles_is_the_profile_of_the_concatenation(like, cut):
    table = rows()
    merged = profile(table.slice(0, cut), like).merge(profile(table.slice(cut), like))
    assert_same(merged, profile(table, like))


def test_merging_is_commutative_and_associative(like):
    a, b, c = (profile(rows(700, seed), like) for seed in range(3))
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(merge_all([a, b, c]), a.merge(b).merge(c))


def test_subtraction_inverts_addition_but_for_the_range(like):
    a, b = profile(rows(900, 1), like), profile(rows(800, 2), like)
    back = a.merge(b).subtract(b)
    for name, column in a.columns.items():
        found = back.columns[name]
        if isinstance(column, CategoryProfile):
            assert found == column
            continue
        assert np.array_equal(found.cells, column.cells)
        assert np.array_equal(found.counts, column.counts)
        assert (found.rows, found.missing) == (column.rows, column.missing)
        assert found.total == pytest.approx(column.total, abs=1e-6)


@pytest.mark.parametrize("size", [1, 100, 3000])
def test_the_borders_of_batches_do_not_matter(like, size):
    assert_same(profile(rows(), like, size), profile(rows(), like))


def test_a_profile_round_trips_through_bytes(like):
    stored = {3: profile(rows(), like), 7: profile(rows(50, 4), like), 9: like}
    read = profiles.from_bytes(profiles.to_bytes(stored))
    assert list(read) == [3, 7, 9]
    for index, one in stored.items():
        assert_same(read[index], one)


def test_only_the_wanted_windows_are_read(like):
    data = profiles.to_bytes({1: like, 2: like, 3: like})
    assert list(profiles.from_bytes(data, [2])) == [2]


def test_the_numbers_agree_with_numpy():
    table = rows()
    found = profile(table).columns
    x = table["x"].to_numpy()
    kept = x[np.isfinite(x)]
    assert (found["x"].rows, found["x"].missing) == (3000, 60)
    assert found["x"].mean == pytest.approx(kept.mean())
    assert found["x"].low == kept.min()
    assert found["x"].high == kept.max()
    assert found["gaps"].missing == table["gaps"].null_count
    money = table["money"].cast(pa.float64()).drop_null().to_numpy()
    assert found["money"].mean == pytest.approx(money.mean())
    assert found["kind"].values == {
        v["values"]: v["counts"] for v in table["kind"].value_counts().to_pylist()
    }
    assert set(found["flag"].values) == {"true", "false"}
    assert found["at"].times
    assert found["at"].high == 2999 * 3600


@pytest.mark.parametrize("seed", range(5))
def test_the_range_is_exactly_the_range_of_the_values(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 10.0 ** rng.integers(-6, 6), 1000)
    found = profile(pa.table({"x": x})).columns["x"]
    assert (found.low, found.high) == (x.min(), x.max())


def test_whole_numbers_near_the_centre_have_a_cell_each():
    values = np.arange(-100, 101)
    found = profile(pa.table({"x": np.repeat(values, 3)})).columns["x"]
    assert len(found.cells) == len(values)
    assert set(found.counts.tolist()) == {3}


def test_the_two_zeros_share_a_cell():
    found = profile(pa.table({"x": [0.0, -0.0, 1.0, -1.0, 0.0]})).columns["x"]
    assert sorted(found.counts.tolist()) == [1, 1, 3]


def test_infinities_are_counted_and_do_not_spoil_the_moments():
    found = profile(pa.table({"x": [1.0, math.inf, 3.0, -math.inf, math.nan]})).columns["x"]
    assert (found.missing, found.infinite, found.mean) == (1, 2, 2.0)
    assert (found.low, found.high) == (1.0, 3.0)


@pytest.mark.parametrize("value", [1e200, 1e308, 1e-300, 1e38, -1e39])
def test_magnitudes_beyond_float32_are_profiled(value):
    found = profile(pa.table({"x": [value, value * 0.5, value * 0.25] * 20})).columns["x"]
    assert found.rows == 60
    assert found.infinite == 0
    assert len(found.cells) == 3


def test_one_huge_value_beside_small_ones_is_profiled():
    found = profile(pa.table({"x": [1.0, 2.0, 3.0, 1e200, -1e200, 1e308, 1e308]})).columns["x"]
    assert (found.rows, found.missing) == (7, 0)
    assert (found.low, found.high) == (-1e200, 1e308)


def test_a_column_without_any_value_has_a_profile():
    table = pa.table(
        {"x": pa.array([None, None], pa.float64()), "s": pa.array([None, None], pa.string())}
    )
    found = profile(table).columns
    assert found["x"].missing == found["s"].missing == 2
    assert math.isnan(found["x"].mean)
    again = profiles.from_bytes(profiles.to_bytes({0: profile(table)}))[0].columns["x"]
    assert (again.low, again.high) == (math.inf, -math.inf)


def test_columns_of_other_types_are_left_out():
    table = pa.table({"l": [[1], [2]], "b": [b"x", b"y"], "x": [1, 2]})
    assert list(profile(table).columns) == ["x"]


def test_a_sentinel_that_holds_most_rows_does_not_blur_the_others():
    rng = np.random.default_rng(0)
    x = np.where(rng.random(5000) < 0.7, -1e9, rng.normal(size=5000))
    found = profile(pa.table({"x": x})).columns["x"]
    assert len(found.cells) > 400


def test_profiles_around_different_centres_do_not_add_up():
    one, two = NumericProfile(1.0), NumericProfile(2.0)
    with pytest.raises(ConfigurationError, match=r"around 1.0 and 2.0 do not add up"):
        one.merge(two)


def test_what_is_no_part_cannot_be_taken_away(like):
    with pytest.raises(ConfigurationError, match="of 500 rows is no part of one of 10 rows"):
        profile(rows(10, 1), like).subtract(profile(rows(500, 2), like))


def test_a_column_of_two_kinds_is_named():
    number, text = (Profile({"c": p}) for p in (NumericProfile(), CategoryProfile()))
    with pytest.raises(ConfigurationError, match="'c' is numeric in one profile and category"):
        number.merge(text)


def test_too_many_categories_are_counted_together():
    many = CategoryProfile(values={str(i): 1 for i in range(profiles.CATEGORIES)}, rows=10_000)
    found = many.merge(CategoryProfile(3, 0, 0, {"new": 2, "0": 1}))
    assert (found.other, found.values["0"], found.rows) == (2, 2, 10_003)
    assert "new" not in found.values


def test_the_facts_of_a_stored_profile_are_json(like):
    table = pa.ipc.open_file(profiles.to_bytes({0: profile(rows(), like)})).read_all()
    assert all(isinstance(json.loads(t), dict) for t in table["facts"].to_pylist())


def test_an_empty_profile_has_no_rows():
    assert Profile().rows == 0
    assert merge_all([]) == Profile()
