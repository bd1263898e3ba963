"""What a column may hold: the verdict stays an answer, in bounded memory."""

import decimal
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.contract import infer_contract, row_breaks
from airflow_mlops.core.data.profile import LONGEST, from_bytes, to_bytes
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.monitoring.drift.verdict import calibrate, judge

ROWS = 200


def profiled(windows):
    """Profile arrays of one column ``v`` around the centre of the first."""
    batches = [pa.record_batch({"v": values}) for values in windows]
    like = centres(batches[0])
    found = []
    for batch in batches:
        builder = ProfileBuilder(like)
        builder.update(batch)
        found.append(builder.finish())
    return found


def verdict(windows, now):
    *past, current = profiled([*windows, now])
    (found,) = judge(calibrate(past), current, ["v"], alpha=0.01)
    return found


def numbers(seed=0, rows=ROWS):
    return np.random.default_rng(seed).normal(size=rows)


def usual(make=lambda x: pa.array(x), windows=8):
    return [make(numbers(seed)) for seed in range(windows)]


def spoilt(share, value):
    x = numbers(99)
    x[: int(share * len(x))] = value
    return pa.array(x)


@pytest.mark.parametrize(
    ("past", "now", "status"),
    [
        (usual(), pa.array([], pa.float64()), "ok"),
        (usual(), pa.array([0.1]), "ok"),
        (usual(), pa.array([5e9]), "drifted"),
        (usual(), pa.array([None] * ROWS, pa.float64()), "drifted"),
        (usual(), pa.array([7.0] * ROWS), "drifted"),
        (usual(), spoilt(0.3, np.nan), "drifted"),
        (usual(), spoilt(0.3, np.inf), "drifted"),
        (usual(), spoilt(0.3, -np.inf), "drifted"),
        ([pa.array([3.0] * ROWS)] * 8, pa.array([3.0] * ROWS), "ok"),
        ([pa.array([3.0] * ROWS)] * 8, pa.array([4.0] * ROWS), "drifted"),
        ([pa.array([None] * ROWS, pa.float64())] * 8, pa.array([1.0] * ROWS), "ok"),
        ([pa.array([None] * ROWS, pa.float64())] * 8, pa.array([None] * 9, pa.float64()), "ok"),
        ([pa.array([], pa.float64())] * 8, pa.array([1.0] * 9), "ok"),
        ([pa.array([np.inf] * ROWS)] * 8, pa.array([np.inf] * ROWS), "ok"),
        (usual(), pa.array(["a"] * ROWS), "drifted"),
        ([pa.array(["a", "b"] * 99)] * 8, pa.array([1.5] * ROWS), "drifted"),
        ([pa.array(["a", "b"] * 99)] * 8, pa.array([None] * 9, pa.string()), "drifted"),
        ([pa.array([None] * 9, pa.string())] * 8, pa.array([None] * 9, pa.string()), "ok"),
        ([pa.array([[1]] * 9)] * 8, pa.array([[2]] * 9), "ok"),
        ([pa.nulls(9)] * 8, pa.nulls(9), "ok"),
    ],
)
def test_whatever_a_column_holds_there_is_an_answer(past, now, status):
    found = verdict(past, now)
    assert found.status == status, found
    assert np.isfinite([found.effect, found.p_value]).all()


def test_decimals_are_numbers():
    def exact(x):
        return pa.array([decimal.Decimal(f"{v:.4f}") for v in x], pa.decimal128(20, 4))

    assert verdict(usual(exact), exact(numbers(99))).status == "ok"
    assert verdict(usual(exact), exact(numbers(99) + 1)).status == "drifted"


@pytest.mark.parametrize("kind", [pa.uint64(), pa.int8(), pa.float16(), pa.float32(), pa.bool_()])
def test_the_width_of_a_number_does_not_matter(kind):
    def small(x):
        whole = np.abs(x * 2).astype(int)
        return pa.array([np.float16(v) for v in whole] if kind == pa.float16() else whole % 2, kind)

    assert verdict(usual(small), small(numbers(99))).status == "ok"


def test_a_clock_that_goes_back_is_no_drift():
    at = [pa.array(np.arange(ROWS) - i * 10**9, pa.timestamp("us", "UTC")) for i in range(9)]
    assert verdict(at[:8], at[8]).statistic == "timestamp"


def test_a_text_of_a_megabyte_is_one_category_and_not_stored():
    long, other = "x" * 2**20, "x" * 2**20 + "y"
    past = [pa.array([long] * 99 + ["short"] * 101)] * 8
    assert verdict(past, pa.array([long] * 99 + ["short"] * 101)).status == "ok"
    found = verdict(past, pa.array([other] * 99 + ["short"] * 101))
    assert found.status == "drifted"
    assert "new values: 49.5% of rows" in found.reason
    (profile,) = profiled(past[:1])
    assert max(map(len, profile.columns["v"].values)) <= LONGEST
    assert len(to_bytes({0: profile})) < 5_000
    rows = pa.table({"id": range(200), "v": past[0]})
    contract = infer_contract(rows.schema, profile, exclude=["id"])
    assert row_breaks(contract, rows, "id")[1] == ()


def test_categories_by_the_million_are_counted_and_bounded():
    names = pa.array([f"user {i}" for i in range(1_000_000)])
    (profile,) = profiled([names])
    column = profile.columns["v"]
    assert (column.rows, column.other, len(column.values)) == (1_000_000, 990_000, 10_000)
    one, two = (names.slice(i * 500_000, 20_000) for i in range(2))
    assert verdict([one] * 5, two).statistic != ""


def test_a_thousand_columns_stay_within_memory():
    rows = 40_000
    batch = pa.record_batch({f"c{i}": numbers(i, rows) for i in range(1_000)})
    tracemalloc.start()
    builder = ProfileBuilder(centres(batch.slice(0, 1_000)))
    for start in range(0, rows, 10_000):
        builder.update(batch.slice(start, 10_000))
    profile = builder.finish()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert profile.rows == rows
    assert peak < 120  # dense counters would be 512 MB
    assert from_bytes(to_bytes({0: profile}))[0].columns.keys() == profile.columns.keys()
