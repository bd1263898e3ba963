"""Repeated keys are found, whatever their type."""

import pyarrow as pa
import pytest

from airflow_mlops.core.data.keys import has_repeats


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, 1, 2], pa.int64()),
        pa.array([3, 1, 2], pa.int16()),
        pa.array([2**64 - 1, 2**64 - 2, 0], pa.uint64()),
        pa.array(["a", "b", ""]),
        pa.array([1.5, 2.5, float("nan")]),
        pa.array([1, None, 2]),
        pa.array([], pa.int64()),
    ],
    ids=lambda v: str(v.type),
)
def test_a_value_twice_is_found_and_once_is_not(values):
    assert not has_repeats(pa.chunked_array([values]))
    assert not has_repeats(pa.chunked_array([values.slice(0, 1), values.slice(1)]))
    if len(values):
        assert has_repeats(pa.chunked_array([values, values.slice(1, 1)]))
