"""Profile rows as they pass: dense counters while counting, a sparse profile at the end."""

import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from airflow_mlops.core.data.profile import (
    CATEGORIES,
    CELLS,
    LONGEST,
    CategoryProfile,
    Cells,
    ColumnProfile,
    Counts,
    NumericProfile,
    Profile,
)

_BLOCK = 1 << 16
_NAMES = 1_000
_NEGATIVE_ZERO = 0x8000


class ProfileBuilder:
    """
    Profiles rows as they pass.

    :param like: profile whose centres have to be used, so that the result adds up with it.
    """

    def __init__(self, like: Profile | None = None) -> None:
        self._like = dict(like.columns) if like else {}
        self._columns: dict[str, _NumericBuilder | _CategoryBuilder] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Count the rows of one batch; batches of 10,000 rows and more are cheapest."""
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            builder = self._columns.get(name)
            if builder is None:
                builder = _builder(values, self._like.get(name))
                if builder is None:
                    continue
                self._columns[name] = builder
            builder.update(values)

    def finish(self) -> Profile:
        """Return the profile of all rows so far."""
        return Profile({name: builder.finish() for name, builder in self._columns.items()})


class _NumericBuilder:
    """
    Counters of one numeric column; between two counts only the occupied ones are kept.

    Cells wait until there are enough of them: walking 65,536 counters costs as much as counting
    as many rows. A window of a few hundred rows never needs the counters.
    """

    def __init__(self, start: NumericProfile) -> None:
        self._start = start
        self._cells: Cells = np.empty(0, np.uint16)
        self._counts: Counts = np.empty(0, np.int64)
        self._waiting: list[Cells] = []
        self._rows = self._missing = 0
        self._total = self._squares = 0.0
        self._low, self._high = math.inf, -math.inf

    def update(self, values: pa.Array) -> None:
        self._rows += len(values)
        self._missing += values.null_count
        numbers = _numbers(values.drop_null() if values.null_count else values)
        for start in range(0, len(numbers), _BLOCK):  # blocks stay in the L2 cache
            with np.errstate(over="ignore", invalid="ignore"):  # infinities, and both at once
                self._count(numbers[start : start + _BLOCK])

    def _count(self, numbers: NDArray[Any]) -> None:
        moved = numbers - self._start.centre
        if self._start.scale != 1.0:
            moved *= self._start.scale
        halves = moved.astype("<f4").view("<u2")
        self._waiting.append(halves[1::2].copy())  # a view would hold the lower halves, too
        if sum(map(len, self._waiting)) >= _BLOCK // 2:
            self._drain()
        total = float(moved.sum())
        if not math.isfinite(total):
            finite = np.isfinite(moved)
            numbers, moved = numbers[finite], moved[finite]
            total = float(moved.sum())
        if len(numbers):  # of the values themselves: moving there and back would round them
            self._low = min(self._low, float(numbers.min()))
            self._high = max(self._high, float(numbers.max()))
        self._total += total
        self._squares += float(np.einsum("i,i->", moved, moved))  # @ would wake BLAS threads

    def _drain(self) -> None:
        found = np.bincount(np.concatenate(self._waiting), minlength=CELLS)
        found[self._cells] += self._counts
        found[0] += found[_NEGATIVE_ZERO]
        found[_NEGATIVE_ZERO] = 0
        self._cells = np.flatnonzero(found != 0).astype(np.uint16)
        self._counts, self._waiting = found[self._cells], []

    def finish(self) -> NumericProfile:
        cells, counts = self._counted()
        is_nan = ((cells > 0x7F80) & (cells < _NEGATIVE_ZERO)) | (cells > 0xFF80)
        start = self._start
        return replace(
            start,
            rows=self._rows,
            missing=self._missing + int(counts[is_nan].sum()),
            total=self._total,
            squares=self._squares,
            low=self._low,
            high=self._high,
            cells=cells[~is_nan],
            counts=counts[~is_nan],
        )

    def _counted(self) -> tuple[Cells, Counts]:
        """Return occupied cells and their counts; the cell of -0.0 is that of 0.0."""
        if len(self._cells):
            if self._waiting:
                self._drain()
            return self._cells, self._counts
        waiting = np.concatenate([*self._waiting, np.empty(0, np.uint16)])
        waiting[waiting == _NEGATIVE_ZERO] = 0
        return np.unique(waiting, return_counts=True)


class _CategoryBuilder:
    """Rows per value of one column; of millions of values the first 10,000 are told apart."""

    def __init__(self) -> None:
        self._rows = self._missing = self._other = 0
        self._values: dict[str, int] = {}

    def update(self, values: pa.Array) -> None:
        if pt.is_boolean(values.type):
            values = values.cast(pa.string())
        encoded = values if pt.is_dictionary(values.type) else values.dictionary_encode()
        self._rows += len(values)
        self._missing += encoded.null_count
        indices = np.from_dlpack(encoded.indices.drop_null().cast(pa.int64()))
        counts = np.bincount(indices, minlength=len(encoded.dictionary)).tolist()
        for start in range(0, len(counts), _NAMES):
            names = encoded.dictionary.slice(start, _NAMES).to_pylist()
            for name, rows in zip(names, counts[start : start + _NAMES], strict=True):
                self._count(_short(str(name)), rows)

    def _count(self, name: str, rows: int) -> None:
        if name in self._values or (rows and len(self._values) < CATEGORIES):
            self._values[name] = self._values.get(name, 0) + rows
        else:
            self._other += rows

    def finish(self) -> CategoryProfile:
        return CategoryProfile(self._rows, self._missing, self._other, self._values)


def _short(name: str) -> str:
    """Cut a long value, so that a profile of documents does not hold them; still told apart."""
    if len(name) < LONGEST:
        return name
    return f"{name[: LONGEST - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _builder(
    values: pa.Array, like: ColumnProfile | None
) -> "_NumericBuilder | _CategoryBuilder | None":
    kind = values.type
    if isinstance(like, NumericProfile) and _is_numeric(kind):
        return _NumericBuilder(like.without_rows())
    if _is_numeric(kind):
        sample = _numbers(values.drop_null()).astype(np.float64)
        start = _centred(sample[:: max(1, len(sample) // 50_000)])
        return _NumericBuilder(replace(start, times=pt.is_temporal(kind)))
    return _CategoryBuilder() if _is_category(kind) else None


def _centred(sample: NDArray[np.float64]) -> NumericProfile:
    """
    Choose a centre: the median, after values that alone make 5 % are set aside.

    A sentinel such as -999 that holds many rows would blur all the others.
    """
    finite = sample[np.isfinite(sample)]
    if not len(finite):
        return NumericProfile()
    _, inverse, counts = np.unique(finite, return_inverse=True, return_counts=True)
    bulk = finite[counts[inverse] < 0.05 * len(finite)]
    if len(bulk) >= 0.05 * len(finite):
        finite = bulk
    centre = float(np.partition(finite, len(finite) // 2)[len(finite) // 2])
    spread = float(np.median(np.abs(finite - centre))) or 1.0
    fits = 1e-25 < spread < 1e25
    return NumericProfile(centre, 1.0 if fits else 2.0 ** -round(math.log2(spread)))


def _numbers(values: pa.Array) -> NDArray[Any]:
    """Return an array without nulls as numbers; decimals are cast, times become seconds."""
    kind = values.type
    if pt.is_decimal(kind):
        values = values.cast(pa.float64())
    elif pt.is_date(kind) or pt.is_timestamp(kind):
        micros = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        seconds: NDArray[np.float64] = np.from_dlpack(micros).astype(np.float64) / 1e6
        return seconds
    elif pt.is_time(kind) or pt.is_duration(kind):
        values = values.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    return np.from_dlpack(values)  # to_numpy() would import pandas


def _is_numeric(kind: pa.DataType) -> bool:
    checks = (pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_temporal)
    return any(is_kind(kind) for is_kind in checks)


def _is_category(kind: pa.DataType) -> bool:
    checks = (pt.is_boolean, pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_dictionary)
    return any(is_kind(kind) for is_kind in checks)


def centres(batch: pa.RecordBatch) -> Profile:
    """Return an empty profile around the centres of these rows, for others to be made like it."""
    builder = ProfileBuilder()
    builder.update(batch.slice(0, 0) if not batch.num_rows else batch)
    return Profile({name: c.without_rows() for name, c in builder.finish().columns.items()})
