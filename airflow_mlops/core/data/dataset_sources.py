"""Rows of another dataset, as a source."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.data.arrow_source import counted_by_window
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.errors import ConfigurationError

_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """
    The rows of another dataset.

    :param table: the version to read.
    :param columns: columns to read; ``None``: all. Key and time are those of the dataset.
    """

    table: Table
    columns: tuple[str, ...] | None = None

    @property
    def query(self) -> str:
        """The dataset, whatever its version."""
        names = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"dataset {self.table.ref.name}{names}"

    def schema(self) -> pa.Schema:
        """
        Return the columns of the version.

        :raises ConfigurationError: if a column is not there.
        """
        held = self.table.schema
        wanted = (*(self.columns or held.names), self.table.time, self.table.key)
        lost = [name for name in wanted if name not in held.names]
        if lost:
            has, names = ", ".join(held.names), ", ".join(map(repr, lost))
            msg = f"{self.table.ref} has no column {names}; it has {has}"
            raise ConfigurationError(msg)
        return pa.schema([held.field(name) for name in dict.fromkeys(wanted)])

    @contextlib.contextmanager
    def read(
        self,
        since: datetime | None = None,
        *,
        until: datetime | None = None,
        keys: Sequence[object] | None = None,
    ) -> Iterator[pa.RecordBatchReader]:
        """
        Stream the rows from ``since`` on, ordered by time and key, a window at a time.

        :param until: only rows before it; ``None``: all.
        :param keys: only rows of these keys; ``None``: all.
        """
        schema = self.schema()
        wanted = None
        if keys is not None:
            wanted = pa.array(list(keys), schema.field(self.table.key).type)
        found = self._batches(schema, since, until)
        if wanted is not None:
            found = (b.filter(pc.is_in(b.column(self.table.key), wanted)) for b in found)
        yield pa.RecordBatchReader.from_batches(schema, found)

    def count(self, origin: datetime, window: timedelta, until: datetime) -> Mapping[int, int]:
        """Count the rows before ``until`` in each window; reads the time column."""
        part = self.table.between(None, until)
        times = (batch.column(0) for batch in part.batches([self.table.time]))
        return counted_by_window(times, origin, window)

    def _batches(
        self, schema: pa.Schema, since: datetime | None, until: datetime | None
    ) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(1) as pool:  # Delta's writer reads us: its own thread may not read
            for window in self.table.windows():
                start, end = window.span
                if (since is None or end > since) and (until is None or start < until):
                    edges = max(start, since or start), min(end, until or end)
                    part = self.table.between(*edges)
                    yield from pool.submit(part.to_arrow, schema.names).result().to_batches(_BATCH)
