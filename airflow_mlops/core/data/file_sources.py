"""Rows from files: Parquet or CSV, one or many, sorted on the way and never held whole."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.core.data.sources import quoted, stored_type
from airflow_mlops.core.errors import ConfigurationError, RejectedError

if TYPE_CHECKING:
    import duckdb

_READERS = {".parquet": "read_parquet", ".csv": "read_csv"}
_BATCH = 65_536
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class FileSource:
    """
    Parquet or CSV files below one path.

    Files that are added later are read with the next snapshot; a time without time zone is UTC.

    :param path: a file, or a pattern such as ``/data/meter/*.parquet``.
    :param key: column that names a row.
    :param time: timestamp column by which rows arrive.
    """

    path: str
    key: str
    time: str

    @property
    def query(self) -> str:
        """The files."""
        return f"files {self.path}"

    def schema(self) -> pa.Schema:
        """
        Look at the files' columns; of CSV files, at the values of the first rows.

        :raises ConfigurationError: if there is no such file, of another kind, or without a column.
        :raises RejectedError: if a file cannot be read.
        """
        with self._relation() as relation:
            found = relation.limit(0).to_arrow_table().schema
        missing = [name for name in dict.fromkeys((self.key, self.time)) if name not in found.names]
        if missing:
            has, lost = ", ".join(found.names), ", ".join(map(repr, missing))
            msg = f"{self.path} has no column {lost}; it has {has}"
            raise ConfigurationError(msg)
        return pa.schema([(f.name, stored_type(f.type)) for f in found])

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
        :raises ConfigurationError: as :meth:`schema`.
        :raises RejectedError: if a file breaks off, or a value has no place in its column.
        """
        schema = self.schema()
        time, key = quoted(self.time), quoted(self.key)
        with self._relation() as relation:
            for sign, moment in ((">=", since), ("<", until)):
                if moment is not None:
                    micros = (moment - _EPOCH) // _MICROSECOND
                    relation = relation.filter(f"epoch_us({time}) {sign} {micros}")
            if keys is not None:
                texts = ", ".join("'" + str(value).replace("'", "''") + "'" for value in keys)
                relation = relation.filter(f"cast({key} as varchar) in ({texts})")
            reader = relation.order(f"{time}, {key}").to_arrow_reader(_BATCH)
            yield pa.RecordBatchReader.from_batches(schema, self._cast(reader, schema))

    def count(self, origin: datetime, window: timedelta, until: datetime) -> Mapping[int, int]:
        """
        Count the rows before ``until`` in each window; reads the time column.

        :raises RejectedError: if a file breaks off.
        """
        import duckdb

        first, last = ((moment - _EPOCH) // _MICROSECOND for moment in (origin, until))
        micros = f"epoch_us({quoted(self.time)})"
        index = f"cast(floor(({micros} - {first}) / {window // _MICROSECOND}) as bigint) as i"
        with self._relation() as relation:
            try:
                found = relation.filter(f"{micros} < {last}").aggregate(f"{index}, count(*)", "i")
                return {int(i): int(n) for i, n in found.fetchall()}
            except duckdb.Error as error:
                msg = f"{self.path} cannot be read: {str(error).strip()}; correct the file"
                raise RejectedError(msg) from error

    def _cast(self, reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import duckdb

        try:
            for batch in reader:
                arrays = [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            msg = f"{self.path} cannot be read: {str(error).strip()}; correct the file"
            raise RejectedError(msg) from error

    @contextlib.contextmanager
    def _relation(self) -> Iterator["duckdb.DuckDBPyRelation"]:
        import duckdb

        kind = Path(re.sub(r"\.(gz|zst)$", "", self.path)).suffix
        if kind not in _READERS:
            msg = f"{self.path!r} is neither *.parquet nor *.csv (nor one of these, *.gz or *.zst)"
            raise ConfigurationError(msg)
        with duckdb.connect() as connection:
            try:
                found = getattr(connection, _READERS[kind])(self.path)
            except duckdb.IOException as error:
                msg = f"no file at {self.path!r}: {str(error).strip()}"
                raise ConfigurationError(msg) from error
            except duckdb.Error as error:
                msg = f"{self.path} cannot be read: {str(error).strip()}; correct the file"
                raise RejectedError(msg) from error
            yield found
