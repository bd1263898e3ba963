"""Rows of another dataset, as a source."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

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
    def read(self, since: datetime | None = None) -> Iterator[pa.RecordBatchReader]:
        """Stream the rows from ``since`` on, ordered by time and key, a window at a time."""
        schema = self.schema()
        yield pa.RecordBatchReader.from_batches(schema, self._batches(schema, since))

    def _batches(self, schema: pa.Schema, since: datetime | None) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(1) as pool:  # Delta's writer reads us: its own thread may not read
            for window in self.table.windows():
                start, end = window.span
                if since is None or end > since:
                    part = self.table.between(max(start, since or start), end)
                    yield from pool.submit(part.to_arrow, schema.names).result().to_batches(_BATCH)
