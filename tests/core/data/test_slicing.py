"""Slices: every row is in one of them, by a column or by an expression."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import false_discovery_control

from airflow_mlops.core.data.slicing import cut, holm, values_of
from airflow_mlops.core.errors import ConfigurationError

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pa.table(
    {
        "at": pa.array([START + timedelta(hours=i) for i in range(48)]),
        "price": [None, float("nan"), *(float(i) for i in range(46))],
        "town": ["Rome", "Oslo"] * 24,
        "sunny": [True, False, None] * 16,
        "tags": [["a"]] * 48,
    }
)


@pytest.mark.parametrize("by", ["price", "town", "sunny", "at", 'hour("at") >= 18', "length(town)"])
def test_every_row_is_in_exactly_one_slice(by):
    masks = np.array([here for _, here, _ in cut(values_of(ROWS, by))])
    assert (masks.sum(axis=0) == 1).all()


def test_an_expression_gives_the_value_of_each_row_in_its_place():
    found = values_of(ROWS, 'hour("at") >= 18').to_pylist()
    assert found == [i % 24 >= 18 for i in range(48)]
    assert {
        name: int(here.sum()) for name, here, _ in cut(values_of(ROWS, 'hour("at") >= 18'))
    } == {
        "False": 36,
        "True": 12,
    }


@pytest.mark.parametrize("by", ["ntile(2) over (order by price)", "rank() over (order by price)"])
def test_a_window_function_gives_each_row_its_own_value(by):
    price = np.random.default_rng(0).permutation(5_000)
    found = values_of(pa.table({"price": price}), by).to_numpy()
    expected = {"ntile": 1 + (price >= 2_500), "rank(": 1 + price}[by[:5]]
    assert (found == expected).all()


def test_a_comment_in_an_expression_hides_nothing():
    assert values_of(ROWS, "length(town) -- letters").to_pylist() == [4] * 48


def test_infinite_numbers_are_in_the_outermost_slices():
    numbers = np.arange(100.0)
    values = pa.chunked_array([[*numbers, np.inf, np.inf, -np.inf, None]])
    found = {name: int(here.sum()) for name, here, _ in cut(values)}
    low, high = np.quantile(numbers, [0.25, 0.75])
    assert found[f"up to {low:g}"] == 26
    assert found[f"above {high:g}"] == 27
    assert (sum(found.values()), found["missing"]) == (104, 1)
    few = cut(pa.chunked_array([[np.inf, -np.inf, 1.0]]))
    assert [name for name, *_ in few] == ["-inf", "1.0", "inf"]


def test_nan_and_null_are_missing():
    found = {name: int(here.sum()) for name, here, _ in cut(ROWS["price"])}
    assert found["missing"] == 2
    assert sorted(n for name, n in found.items() if name != "missing") == [11, 11, 12, 12]


def test_lists_are_cut_as_columns_are():
    for name in ("price", "town", "sunny"):
        one, two = cut(ROWS[name]), cut(ROWS[name].to_pylist())
        assert [(n, here.tolist()) for n, here, _ in one] == [(n, h.tolist()) for n, h, _ in two]


def test_a_million_numbers_are_cut_at_their_quartiles():
    values = np.random.default_rng(0).normal(size=1_000_000)
    found = cut(pa.chunked_array([values]))
    assert [int(here.sum()) for _, here, _ in found] == [250_000] * 4


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ("hour", "no column 'hour' to slice by; there are at, price, town, sunny, tags"),
        ("hour >= 18", "cannot slice by 'hour >= 18': .*; the columns are at, price"),
        ("hour(", "cannot slice by 'hour\\('"),
        ("price, town", "gives 48 rows of 2 values for 48 rows; write an expression"),
        ("max(price)", "cannot slice by 'max\\(price\\)'"),
        ("tags", "it is list<.*single values"),
        ("(select 1 from read_csv('/etc/passwd'))", "cannot slice by"),
        ("unnest([1, 2])", "gives 96 rows of 1 values"),
    ],
)
def test_what_gives_no_single_value_is_named_with_the_columns_there_are(by, says):
    with pytest.raises(ConfigurationError, match=says):
        values_of(ROWS, by)


def test_holm_agrees_with_a_value_computed_by_hand_and_is_stricter_than_benjamini_hochberg():
    p = [0.01, 0.04, 0.03]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, 0.001, 0.5, 0.02]) == pytest.approx([0.06, 0.004, 0.5, 0.06])
    assert all(
        found >= q - 1e-12 for found, q in zip(holm(p), false_discovery_control(p), strict=True)
    )
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
