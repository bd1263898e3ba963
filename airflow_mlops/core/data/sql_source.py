"""
Features by SQL: rows computed from dataset versions, none of which sees the future.

They become a dataset of their own: versioned, digested and profiled like any other.
"""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
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
"""Rows before each cut that are compared, and all that share the time of the first and last."""

_LAST_DIGITS = 1e-9
"""Relative difference of two numbers that is rounding: a sum depends on the order of its parts."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


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
        Return the columns of the result; reads and computes no rows.

        :raises ConfigurationError: if two inputs have one name.
        :raises UserCodeError: if the SQL does not run, or lacks key or time.
        """
        with _session(self, empty=True) as session:
            found = session.result(None).to_arrow_table().schema
        lost = [name for name in (self.key, self.time) if name not in found.names]
        if lost:
            has, names = ", ".join(found.names), ", ".join(map(repr, lost))
            msg = f"the SQL makes no column {names}; it makes {has}: {_short(self.sql)}"
            raise UserCodeError(msg)
        kind = found.field(self.time).type
        if not pt.is_timestamp(kind):
            msg = f"column {self.time!r} of the SQL is {kind}, it has to be a timestamp"
            raise UserCodeError(msg)
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
        :raises UserCodeError: if the SQL does not run, rows have no key or time or share one key,
            or a row depends on later ones.
        """
        schema = self.schema()
        with _session(self) as session:
            if until is not None or keys is not None:
                some = session.some(since, until, keys).to_arrow_reader(_BATCH)
                yield pa.RecordBatchReader.from_batches(schema, _cast(some, schema))
                return
            session.compute(since)
            session.check_keys()
            for cut in session.cuts():
                session.check_no_future(cut, since)
            rows = session.ordered().to_arrow_reader(_BATCH)
            yield pa.RecordBatchReader.from_batches(schema, _cast(rows, schema))

    def count(self, origin: datetime, window: timedelta, until: datetime) -> None:
        """All rows would have to be computed: what is late is counted at the inputs."""
        return


@dataclass(frozen=True, slots=True)
class _Session:
    """
    An engine that knows the inputs, and may read nothing else.

    :param mark: what the engine's own tables are called by: no input can have that name.
    """

    source: SqlSource
    connection: "duckdb.DuckDBPyConnection"
    mark: str

    def show(self, until: int | None = None) -> None:
        """
        Show the inputs under their names.

        :param until: what is known at that moment, in microseconds since 1970; ``None``: all.
        """
        for number, (name, table) in enumerate(self.source.inputs.items()):
            times = [
                f"make_timestamp(epoch_us({quoted(f.name)})) as {quoted(f.name)}"
                for f in table.schema
                if pt.is_timestamp(f.type)
            ]
            where = ""
            if until is not None:
                delay = self.source.known_after.get(name, timedelta(0)) // _MICROSECOND
                where = f" where epoch_us({quoted(table.time)}) <= {until - delay}"
            self.connection.execute(
                f"create or replace temp view {quoted(name)} as select * replace "  # noqa: S608
                f"({', '.join(times)}) from {self.mark}_{number}{where}"
            )

    def result(self, where: str | None) -> "duckdb.DuckDBPyRelation":
        """Return what the statement makes of the inputs that are shown."""
        text = self.source.sql.strip().rstrip(";")
        with self.running():
            made = f"select * from ({text}\n) as made"  # noqa: S608  (the user's own)
            return self.connection.sql(f"{made} where {where}" if where else made)

    def compute(self, since: datetime | None) -> None:
        """Compute the rows from a moment on, and keep them."""
        with self.running():
            self.result(self._from(since)).create(f"{self.mark}_result")

    def some(
        self, since: datetime | None, until: datetime | None, keys: Sequence[object] | None
    ) -> "duckdb.DuckDBPyRelation":
        """Return some rows only, ordered by time and key; they are not looked through."""
        where = [self._from(since)]
        if until is not None:
            where.append(f"{self._micros} < {(until - _EPOCH) // _MICROSECOND}")
        if keys is not None:
            texts = ", ".join("'" + str(value).replace("'", "''") + "'" for value in keys)
            where.append(f"cast({quoted(self.source.key)} as varchar) in ({texts})")
        order = f"{quoted(self.source.time)}, {quoted(self.source.key)}"
        return self.result(" and ".join(filter(None, where))).order(order)

    def ordered(self) -> "duckdb.DuckDBPyRelation":
        """Return the rows, ordered by time and key."""
        order = f"{quoted(self.source.time)}, {quoted(self.source.key)}"
        return self.connection.sql(f"from {self.mark}_result order by {order}")

    def check_keys(self) -> None:
        """Refuse rows that cannot be told apart."""
        key, time = quoted(self.source.key), quoted(self.source.time)
        ((absent, twice),) = self.connection.sql(
            f"select count(*) filter (where {key} is null or {time} is null), "  # noqa: S608
            f"count({key}) - count(distinct {key}) from {self.mark}_result"
        ).fetchall()
        if absent or twice:
            msg = (
                f"the SQL makes {absent} rows without {self.source.key!r} or "
                f"{self.source.time!r}, and {twice} rows more than there are keys; it has to make "
                f"one row for each: {_short(self.source.sql)}"
            )
            raise UserCodeError(msg)

    def cuts(self) -> list[int]:
        """Return the moments at which it is tried whether rows see the future."""
        ask = f"select unnest(quantile_disc({self._micros}, {list(_CUTS)})) from {self.mark}_result"  # noqa: S608
        return sorted({cut for (cut,) in self.connection.sql(ask).fetchall() if cut is not None})

    def check_no_future(self, cut: int, since: datetime | None) -> None:
        """Take away what is known after a moment: the rows up to it have to stay what they are."""
        differing = self._differing(cut, since)
        if differing:
            moment = (_EPOCH + cut * _MICROSECOND).isoformat()
            msg = (
                f"rows of the SQL see the future: without what is known after {moment} those "
                f"before it differ in {', '.join(map(repr, differing))} (or they depend on "
                "chance). Join with 'asof', leave out what is not known yet, and use preceding "
                f"rows only: {_short(self.source.sql)}"
            )
            raise UserCodeError(msg)

    def _differing(self, cut: int, since: datetime | None) -> list[str]:
        """Return the columns in which the rows before a cut differ from those of the result."""
        key, result, before = quoted(self.source.key), f"{self.mark}_result", f"{self.mark}_before"
        ((low,),) = self.connection.sql(
            f"select min(m) from (select {self._micros} as m from {result} where m <= {cut} "  # noqa: S608
            f"order by m desc limit {_NEAR})"
        ).fetchall()
        near = f"{self._micros} between {low} and {cut}"
        whole = self.connection.sql(f"from {result} limit 0")
        names = dict(zip(whole.columns, map(str, whole.types), strict=True))
        differ = [f"count(*) filter (where {_apart(name, kind)})" for name, kind in names.items()]
        self.show(until=cut)
        with self.running():
            from_since = self._from(since)
            self.connection.execute(f"drop table if exists {before}")
            self.result(f"{near} and {from_since}" if from_since else near).create(before)
            ((*counts,),) = self.connection.sql(
                f"select {', '.join(differ)} from (from {before}) as one full join "  # noqa: S608
                f"(from {result} where {near}) as two on one.{key} = two.{key}"
            ).fetchall()
        self.show()
        return [name for name, count in zip(names, counts, strict=True) if count]

    @property
    def _micros(self) -> str:
        """The time of a row in microseconds since 1970, with or without a zone."""
        return f"epoch_us({quoted(self.source.time)})"

    def _from(self, since: datetime | None) -> str | None:
        return f"{self._micros} >= {(since - _EPOCH) // _MICROSECOND}" if since else None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Say which SQL does not run, and what it may read."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            inputs = self.source.inputs.items()
            tables = "; ".join(f"{name} ({', '.join(t.schema.names)})" for name, t in inputs)
            text = " ".join(str(error).split())
            msg = f"the SQL does not run: {text}. It may read {tables}"
            raise UserCodeError(msg) from error


@contextlib.contextmanager
def _session(source: SqlSource, *, empty: bool = False) -> Iterator[_Session]:
    """
    Open an engine.

    :param empty: whether the inputs have no rows: to learn the columns of a result, none is read.
    """
    import duckdb

    names = [name.casefold() for name in source.inputs]
    if len({*names}) < len(names):
        msg = f"two inputs of the SQL have one name: {', '.join(source.inputs)}; SQL is not exact"
        raise ConfigurationError(msg)
    with duckdb.connect() as connection:
        session = _Session(source, connection, f"t{secrets.token_hex(8)}")
        for number, table in enumerate(source.inputs.values()):
            rows = (
                connection.from_arrow(table.schema.empty_table())
                if empty
                else table.between().to_duckdb(connection)
            )
            rows.create_view(f"{session.mark}_{number}")
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set enable_external_access = false")
        connection.execute("set python_enable_replacements = false")
        session.show()
        try:
            yield session
        finally:  # whatever went wrong, if rows were forgotten meanwhile, that is why
            for table in source.inputs.values():
                table.refuse_forgotten()


def _cast(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        try:
            arrays = [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
        except pa.ArrowInvalid as error:
            msg = f"the SQL makes a value that has no place in a dataset: {error}"
            raise RejectedError(msg) from error
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


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
