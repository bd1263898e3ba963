"""
Rows from other datasets: one as it is, or several joined by SQL that cannot see the future.

SQL features are computed from versions only, and become a dataset of their own: versioned, digested
and profiled like any other.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.types as pt

from airflow_mlops.core.data.sources import quoted, stored_type
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.errors import ConfigurationError, RejectedError, UserCodeError

if TYPE_CHECKING:
    import duckdb

_BATCH = 65_536
_CUTS = (0.25, 0.5, 0.75)
"""Where among the new rows it is tried whether a row sees later ones."""

_NEAR = 500
"""Rows before each cut that are compared."""

_LAST_DIGITS = 1e-9
"""Relative difference of two numbers that is rounding: a sum depends on the order of its parts."""


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
                start, end = (datetime.fromisoformat(t) for t in (window.start, window.end))
                if since is None or end > since:
                    part = self.table.between(max(start, since or start), end)
                    yield from pool.submit(part.to_arrow, schema.names).result().to_batches(_BATCH)


@dataclass(frozen=True, slots=True)
class SqlSource:
    """
    Rows computed by SQL of DuckDB from dataset versions: features with point-in-time joins.

    A row may look at what was known at its own time, as an ``asof join`` or a window over
    *preceding* rows does. Whether it does is tried: with everything after a moment taken away, the
    rows up to that moment have to come out the same. Times are UTC, without a zone.

    :param sql: one ``select``; it reads ``inputs`` by their names and nothing else, no file either.
    :param inputs: name in the SQL -> the version it stands for.
    :param key: column of the result that names a row.
    :param time: timestamp column of the result by which rows arrive.
    :param known_after: input -> how long after its own time a row of it is known; zero if it is not
        named. Of what becomes known later, such as labels, a join has to leave out that much.
    """

    sql: str
    inputs: Mapping[str, Table]
    key: str
    time: str
    known_after: Mapping[str, timedelta] = field(default_factory=dict)

    @property
    def query(self) -> str:
        """
        The statement as the engine understands it: comments and formatting do not count.

        :raises UserCodeError: if it is not one ``select``.
        """
        import duckdb

        with duckdb.connect() as connection:
            parsed = "select json_serialize_sql(?)"
            ((tree,),) = connection.execute(parsed, [self.sql]).fetchall()
            found = json.loads(tree)
            if found["error"] or len(found["statements"]) != 1:
                what = found.get("error_message", "there is more than one statement")
                msg = f"not one select of SQL: {what}: {_short(self.sql)}"
                raise UserCodeError(msg)
            again = "select json_deserialize_sql(json_serialize_sql(?))"
            return str(connection.execute(again, [self.sql]).fetchall()[0][0])

    def schema(self) -> pa.Schema:
        """
        Return the columns of the result; computes no rows.

        :raises UserCodeError: if the SQL does not run, or lacks key or time.
        """
        with self._connected() as connection:
            return self._schema(connection)

    @contextlib.contextmanager
    def read(self, since: datetime | None = None) -> Iterator[pa.RecordBatchReader]:
        """
        Stream the rows from ``since`` on, ordered by time and key.

        :raises UserCodeError: if the SQL does not run, or a row depends on later ones.
        """
        with self._connected() as connection:
            schema = self._schema(connection)
            with self._running():
                connection.execute(f"create temp table _result as {self._since(since)}")
            self._check_no_future(connection, since)
            order = f"{quoted(self.time)}, {quoted(self.key)}"
            rows = connection.sql(f"from _result order by {order}").to_arrow_reader(_BATCH)
            yield pa.RecordBatchReader.from_batches(schema, self._cast(rows, schema))

    def _since(self, since: datetime | None) -> str:
        later = "" if since is None else f" where {quoted(self.time)} >= {_moment(since)}"
        return f"select * from ({self.sql}\n) as _found{later}"  # noqa: S608

    def _schema(self, connection: "duckdb.DuckDBPyConnection") -> pa.Schema:
        with self._running():
            found = connection.sql(f"{self._since(None)} limit 0").to_arrow_table().schema
        lost = [name for name in (self.key, self.time) if name not in found.names]
        if lost:
            has, names = ", ".join(found.names), ", ".join(map(repr, lost))
            msg = f"the SQL makes no column {names}; it makes {has}: {_short(self.sql)}"
            raise UserCodeError(msg)
        return pa.schema([(f.name, stored_type(f.type)) for f in found])

    def _cast(self, reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for batch in reader:
            try:
                arrays = [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
            except pa.ArrowInvalid as error:
                msg = f"the SQL makes a value that has no place in a dataset: {error}"
                raise RejectedError(msg) from error
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _check_no_future(
        self, connection: "duckdb.DuckDBPyConnection", since: datetime | None
    ) -> None:
        """Take away what is known after a moment: the rows up to it have to stay what they are."""
        time = quoted(self.time)
        ask = f"select unnest(quantile_disc({time}, {list(_CUTS)})) from _result"  # noqa: S608
        cuts = {cut for (cut,) in connection.sql(ask).fetchall() if cut is not None}
        for cut in sorted(cuts):
            moment = cut.replace(tzinfo=UTC)
            self._show(connection, until=moment)
            differing = self._differing(connection, moment, since)
            if differing:
                msg = (
                    f"rows of the SQL see the future: without what is known after "
                    f"{moment.isoformat()} those before it differ in "
                    f"{', '.join(map(repr, differing))} (or they depend on chance). Join with "
                    f"'asof', leave out what is not known yet, and use preceding rows only: "
                    f"{_short(self.sql)}"
                )
                raise UserCodeError(msg)
        self._show(connection)

    def _differing(
        self, connection: "duckdb.DuckDBPyConnection", cut: datetime, since: datetime | None
    ) -> list[str]:
        """Return the columns in which the rows before a cut differ from those of the result."""
        time, key = quoted(self.time), quoted(self.key)
        near = f"where {time} <= {_moment(cut)} order by {time} desc, {key} limit {_NEAR}"
        types = dict(zip(*_columns(connection), strict=True))
        differ = [f"count(*) filter (where {_apart(name, types[name])})" for name in types]
        with self._running():
            rows = f"from ({self._since(since)}) {near}"
            connection.execute(f"create or replace temp table _before as {rows}")
            counts = connection.sql(
                f"select {', '.join(differ)} from (from _before) as one full join "  # noqa: S608
                f"(from _result {near}) as two on one.{key} = two.{key}"
            ).fetchall()[0]
        return [name for name, count in zip(types, counts, strict=True) if count]

    @contextlib.contextmanager
    def _connected(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """Open an engine that knows the inputs, and may read nothing else."""
        import duckdb

        with duckdb.connect() as connection:
            for name, table in self.inputs.items():
                table.between().to_duckdb(connection).create_view(f"_{name}")
            self._show(connection)
            connection.execute("set enable_external_access = false")
            connection.execute("set python_enable_replacements = false")
            yield connection

    def _show(self, connection: "duckdb.DuckDBPyConnection", until: datetime | None = None) -> None:
        """Show the inputs under their names: all rows, or those up to a moment."""
        for name, table in self.inputs.items():
            times = [
                f"make_timestamp(epoch_us({quoted(f.name)})) as {quoted(f.name)}"
                for f in table.schema
                if pt.is_timestamp(f.type)
            ]
            upto = ""
            if until is not None:
                known = until - self.known_after.get(name, timedelta(0))
                micros = (known - _EPOCH) // timedelta(microseconds=1)
                upto = f" where epoch_us({quoted(table.time)}) <= {micros}"
            connection.execute(
                f"create or replace temp view {quoted(name)} as select * replace "  # noqa: S608
                f"({', '.join(times)}) from {quoted('_' + name)}{upto}"
            )

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Say which SQL does not run, and what it may read."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            tables = "; ".join(
                f"{name} ({', '.join(table.schema.names)})" for name, table in self.inputs.items()
            )
            text = " ".join(str(error).split())
            msg = f"the SQL does not run: {text}. It may read {tables}"
            raise UserCodeError(msg) from error


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(moment: datetime) -> str:
    return f"make_timestamp({(moment - _EPOCH) // timedelta(microseconds=1)})"


def _columns(connection: "duckdb.DuckDBPyConnection") -> tuple[list[str], list[str]]:
    result = connection.sql("from _result limit 0")
    return result.columns, [str(kind) for kind in result.types]


def _apart(name: str, kind: str) -> str:
    """Write the condition that two values differ by more than rounding."""
    one, two = f"one.{quoted(name)}", f"two.{quoted(name)}"
    apart = f"{one} is distinct from {two}"
    if kind not in ("DOUBLE", "FLOAT"):
        return apart
    close = f"abs({one} - {two}) <= {_LAST_DIGITS} * greatest(abs({one}), abs({two}))"
    return f"{apart} and not coalesce({close}, false)"


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) < 120 else f"{text[:117]}..."
