"""Rows of a table in memory as a source, and what all sources share about types and windows."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from airflow_mlops.core.errors import RejectedError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ArrowSource:
    """
    A table in memory, for tests and notebooks.

    :param table: the rows, in any order; a time without time zone is read as UTC.
    :param key: column that names a row.
    :param time: timestamp column by which rows arrive.
    """

    table: pa.Table
    key: str
    time: str

    @property
    def query(self) -> str:
        """Rows in memory have no other name."""
        return f"{self.table.num_rows} rows in memory"

    def schema(self) -> pa.Schema:
        """Columns and their types, as a dataset stores them."""
        return pa.schema([(f.name, stored_type(f.type)) for f in self.table.schema])

    @contextlib.contextmanager
    def read(
        self,
        since: datetime | None = None,
        *,
        until: datetime | None = None,
        keys: Sequence[object] | None = None,
    ) -> Iterator[pa.RecordBatchReader]:
        """
        Stream the rows from ``since`` on, ordered by time and key.

        :param until: only rows before it; ``None``: all.
        :param keys: only rows of these keys; ``None``: all.
        :raises RejectedError: if a value has no place in the type that is stored.
        """
        try:
            found = self.table.cast(self.schema())
        except pa.ArrowInvalid as error:
            msg = f"a value has no place in a dataset: {error}"
            raise RejectedError(msg) from error
        if since is not None:
            found = found.filter(pc.greater_equal(found[self.time], pa.scalar(since)))
        if until is not None:
            found = found.filter(pc.less(found[self.time], pa.scalar(until)))
        if keys is not None:
            wanted = pa.array(list(keys), found.schema.field(self.key).type)
            found = found.filter(pc.is_in(found[self.key], value_set=wanted))
        found = found.sort_by([(self.time, "ascending"), (self.key, "ascending")])
        yield found.to_reader(max_chunksize=65_536)

    def count(self, origin: datetime, window: timedelta, until: datetime) -> Mapping[int, int]:
        """Count the rows before ``until`` in each window."""
        times = self.table[self.time].cast(pa.timestamp("us", "UTC"), safe=False).drop_null()
        return counted_by_window([times.filter(pc.less(times, pa.scalar(until)))], origin, window)


def counted_by_window(
    times: Iterable[pa.Array | pa.ChunkedArray], origin: datetime, window: timedelta
) -> dict[int, int]:
    """
    Count times in each window.

    :param times: timestamps in microseconds, UTC.
    """
    found: Counter[int] = Counter()
    for part in times:
        micros = part.cast(pa.int64()).to_numpy()
        first, length = (origin - _EPOCH) // _MICROSECOND, window // _MICROSECOND
        indices, counts = np.unique((micros - first) // length, return_counts=True)
        found.update(dict(zip(indices.tolist(), counts.tolist(), strict=True)))
    return dict(found)


def quoted(name: str) -> str:
    """Write a column's name for an engine that reads SQL."""
    return '"' + name.replace('"', '""') + '"'


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a dataset keeps a column; Delta knows fewer than Arrow."""
    if pt.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pt.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_decimal(kind) or pt.is_float16(kind):
        return pa.float64()
    return pa.int64() if pt.is_unsigned_integer(kind) else kind
