"""Where rows come from: a PostgreSQL table as a stream of Arrow batches."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import psycopg
import pyarrow as pa
from psycopg import sql

from airflow_mlops.core.data.arrow_source import ArrowSource, quoted, stored_type
from airflow_mlops.core.errors import ConfigurationError, RejectedError, UnavailableError

__all__ = ["ArrowSource", "PostgresSource", "Source", "quoted", "stored_type"]

_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer identifiers silently."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

CONNECT_SECONDS = 10
"""libpq has no limit of its own."""

_FROM_UTC = " at time zone 'UTC'"

_TYPES: dict[int, tuple[pa.DataType, str]] = {
    16: (pa.bool_(), ""),
    21: (pa.int16(), ""),
    23: (pa.int32(), ""),
    20: (pa.int64(), ""),
    700: (pa.float32(), ""),
    701: (pa.float64(), ""),
    1700: (pa.float64(), "::float8"),
    25: (pa.string(), ""),
    1043: (pa.string(), ""),
    1042: (pa.string(), "::text"),
    1082: (pa.date32(), ""),
    1114: (pa.timestamp("us", "UTC"), _FROM_UTC),
    1184: (pa.timestamp("us", "UTC"), ""),
}
"""
Type of PostgreSQL -> Arrow type, and the cast that makes it one.

``numeric`` becomes a double; a timestamp without time zone is read as UTC; types that are not here
(uuid, json, arrays) become text.
"""


_BAD_VALUE = ("division by zero", "invalid input syntax", "out of range")
"""What PostgreSQL says of a value; an error of a stream comes without its SQLSTATE (class 22)."""

_BATCHES = {"adbc.postgresql.batch_size_hint_bytes": str(2 << 20)}
"""The driver's own 16 MB a batch would be held several times on the way to disk."""


class Source(Protocol):
    """Something rows can be read from, in the order of time."""

    @property
    def query(self) -> str:
        """What is read, as SQL or in words; it is stored with each version."""
        ...

    def schema(self) -> pa.Schema:
        """Columns and their types."""
        ...

    def read(
        self,
        since: datetime | None = None,
        *,
        until: datetime | None = None,
        keys: Sequence[object] | None = None,
    ) -> contextlib.AbstractContextManager[pa.RecordBatchReader]:
        """
        Stream the rows from ``since`` on, ordered by time and key.

        :param until: only rows before it; ``None``: all.
        :param keys: only rows of these keys; ``None``: all.
        """
        ...

    def count(
        self, origin: datetime, window: timedelta, until: datetime
    ) -> Mapping[int, int] | None:
        """
        Count the rows before ``until`` in each window; ``None`` if that takes computing them all.

        :param origin: where windows are counted from.
        """
        ...


@dataclass(frozen=True, slots=True)
class PostgresSource:
    """
    One table, view or query of PostgreSQL.

    :param dsn: libpq connection string; never logged.
    :param table: ``schema.table``, a table of the search path, or a query in parentheses:
        ``(select ... from ...)``.
    :param key: column that names a row.
    :param time: timestamp column by which rows arrive.
    :param columns: columns to read, in this order; ``None``: all.
    """

    dsn: str = field(repr=False)
    table: str
    key: str
    time: str
    columns: tuple[str, ...] | None = None

    @property
    def query(self) -> str:
        """The statement, without the moment to begin from."""
        names = sql.SQL(", ").join(map(sql.Identifier, self.columns)) if self.columns else None
        relation, text = self._relation(), self.table.strip()
        if text.startswith("("):
            relation = sql.SQL(f"{text} as source")
        start = sql.SQL("select {} from {}")
        return start.format(names or sql.SQL("*"), relation).as_string(None)

    def schema(self) -> pa.Schema:
        """
        Ask the server for the columns; reads no rows.

        :raises ConfigurationError: if the table or a column does not exist, or the login fails.
        :raises UnavailableError: if the server does not answer.
        """
        return pa.schema([(name, kind) for name, kind, _ in self._columns()])

    @contextlib.contextmanager
    def read(
        self,
        since: datetime | None = None,
        *,
        until: datetime | None = None,
        keys: Sequence[object] | None = None,
    ) -> Iterator[pa.RecordBatchReader]:
        """
        Stream the rows from ``since`` on, in one repeatable-read transaction.

        :param until: only rows before it; ``None``: all.
        :param keys: only rows of these keys; ``None``: all.

        :raises ConfigurationError: as :meth:`schema`.
        :raises RejectedError: if a view fails on a value, such as a division by zero.
        :raises UnavailableError: if the server goes away.
        """
        from adbc_driver_postgresql import dbapi

        columns = self._columns()
        schema = pa.schema([(name, kind) for name, kind, _ in columns])
        with contextlib.ExitStack() as stack:
            with _named(self.table):  # not around the yield: the reader's errors are its own
                connection = stack.enter_context(dbapi.connect(self._dsn()))
                cursor = stack.enter_context(connection.cursor(adbc_stmt_kwargs=_BATCHES))
                cursor.execute("set transaction isolation level repeatable read, read only")
                cursor.execute(self._query(columns, since, until, keys))
                batches = _as_schema(cursor.fetch_record_batch(), schema, self.table)
            yield pa.RecordBatchReader.from_batches(schema, batches)

    def newest(self) -> datetime | None:
        """
        Return the time of the newest row that is not ahead of now; nothing if there is none.

        :raises ConfigurationError: as :meth:`schema`.
        :raises UnavailableError: if the server does not answer.
        """
        time, relation = sql.Identifier(self.time), self._relation()
        query = sql.SQL("select max({}) from {}").format(time, relation)
        with _asked(self.table, self._dsn()) as connection:
            newest = _first_time(connection, query)
            now = datetime.now(UTC)  # after the answer, which may have been stamped just then
            if (
                newest is not None
                and (newest if newest.tzinfo else newest.replace(tzinfo=UTC)) > now
            ):
                edge = now if newest.tzinfo else now.replace(tzinfo=None)
                query += sql.SQL(" where {} <= {}").format(time, sql.Literal(edge))
                newest = _first_time(connection, query)
        return newest if newest is None or newest.tzinfo else newest.replace(tzinfo=UTC)

    def count(self, origin: datetime, window: timedelta, until: datetime) -> Mapping[int, int]:
        """
        Count the rows before ``until`` in each window; the server reads the time column only.

        :raises ConfigurationError: as :meth:`schema`.
        :raises UnavailableError: if the server does not answer.
        """
        columns = {name: cast for name, _, cast in self._columns()}
        local = columns[self.time] == _FROM_UTC
        moment = until.astimezone(UTC).replace(tzinfo=None) if local else until
        query = sql.SQL(
            "select floor((extract(epoch from {time}{cast}) - {origin}) / {window})::bigint, "
            "count(*) from {relation} where {time} < {until} and isfinite({time}) group by 1"
        ).format(
            time=sql.Identifier(self.time),
            cast=sql.SQL(columns[self.time]),
            origin=sql.Literal(Decimal((origin - _EPOCH) // _MICROSECOND) / 1_000_000),
            window=sql.Literal(Decimal(window // _MICROSECOND) / 1_000_000),
            relation=self._relation(),
            until=sql.Literal(moment),
        )
        with _asked(self.table, self._dsn()) as connection:
            return {int(i): int(n) for i, n in connection.execute(query, binary=True)}

    def _dsn(self) -> str:
        """
        Return the connection string; a server that does not answer is given up after a while.

        :raises ConfigurationError: if it is none; libpq would quote its parts, the password too.
        """
        try:
            return psycopg.conninfo.make_conninfo(self.dsn, connect_timeout=CONNECT_SECONDS)
        except psycopg.ProgrammingError:
            msg = f"the connection string for {self.table} is not one that libpq understands"
            raise ConfigurationError(msg) from None

    def _query(
        self,
        columns: Sequence[tuple[str, pa.DataType, str]],
        since: datetime | None,
        until: datetime | None,
        keys: Sequence[object] | None,
    ) -> str:
        parts = [
            sql.SQL("({}{}) as {}").format(
                sql.Identifier(name), sql.SQL(cast), sql.Identifier(name)
            )
            for name, _, cast in columns
        ]
        query = sql.SQL("select {} from {}").format(sql.SQL(", ").join(parts), self._relation())
        time, key = sql.Identifier(self.time), sql.Identifier(self.key)
        local = any(cast == _FROM_UTC for name, _, cast in columns if name == self.time)
        where = []
        for sign, moment in ((">=", since), ("<", until)):
            if moment is not None:
                edge = moment.astimezone(UTC).replace(tzinfo=None) if local else moment
                where.append(sql.SQL(f"{{}} {sign} {{}}").format(time, sql.Literal(edge)))
        if keys is not None:  # as text that has no type yet, it becomes an array of the key's type
            texts = sql.Literal([str(value) for value in keys])
            where.append(sql.SQL("{} = any({})").format(key, texts))
        if where:
            query += sql.SQL(" where ") + sql.SQL(" and ").join(where)
        return (query + sql.SQL(" order by {}, {}").format(time, key)).as_string(None)

    def _relation(self) -> sql.Composable:
        """
        Write the table, or the query, as it stands after ``from``.

        A query stands on lines of its own: a comment at its end does not hide what follows it.
        """
        text = self.table.strip()
        is_query = text.startswith("(") and text.endswith(")")
        if is_query and "\0" in text:
            msg = f"no query of PostgreSQL: {text!r} holds a NUL"
            raise ConfigurationError(msg)
        parts = [] if is_query else text.split(".", 1)
        for part in (*parts, self.key, self.time, *(self.columns or ())):
            if not part or "\0" in part or len(part.encode()) > _IDENTIFIER_BYTES:
                msg = (
                    f"not an identifier of PostgreSQL: {part!r} "
                    f"(1 to {_IDENTIFIER_BYTES} bytes, no NUL)"
                )
                raise ConfigurationError(msg)
        if is_query:
            return sql.SQL(f"(\n{text[1:-1]}\n) as source")
        return sql.Identifier(*parts)

    def _columns(self) -> list[tuple[str, pa.DataType, str]]:
        """Name, Arrow type and cast of each wanted column."""
        query = sql.SQL("select * from {} limit 0").format(self._relation())
        with _asked(self.table, self._dsn()) as connection:
            found = connection.execute(query, binary=True).description or []
        types = {c.name: _TYPES.get(c.type_code, (pa.string(), "::text")) for c in found}
        wanted = self.columns or tuple(types)
        asked = dict.fromkeys((*wanted, self.key, self.time))
        missing = [name for name in asked if name not in types]
        if missing:
            known = ", ".join(types)
            lost = ", ".join(map(repr, missing))
            msg = (
                f"table {self.table} has no column {lost}; it has {known}. "
                "Rows need their key and time, labels the key and time of their row, and the label"
            )
            raise ConfigurationError(msg)
        return [(name, *types[name]) for name in asked]


@contextlib.contextmanager
def _named(table: str) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    from adbc_driver_manager import Error

    try:
        yield
    except (Error, OSError, pa.ArrowException) as error:  # while it streams, ADBC raises OSError
        text = f"reading {table} broke off: {str(error).strip()}"
        state = getattr(error, "sqlstate", None) or ""
        if state.startswith("22") or any(sign in text for sign in _BAD_VALUE):
            msg = f"{text}; correct the rows or the view"
            raise RejectedError(msg) from error
        msg = f"{text}; the next try starts from the beginning"
        raise UnavailableError(msg) from error


def _as_schema(
    batches: pa.RecordBatchReader, schema: pa.Schema, table: str
) -> Iterator[pa.RecordBatch]:
    """Give every batch the declared types; the driver's own differ in detail."""
    with _named(table):
        for batch in batches:
            arrays = [column.cast(f.type) for column, f in zip(batch.columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _first_time(
    connection: "psycopg.Connection[tuple[Any, ...]]", query: sql.Composed
) -> datetime | None:
    row = connection.execute(query, binary=True).fetchone()
    return row[0] if row else None


@contextlib.contextmanager
def _asked(table: str, dsn: str) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    """
    Connect for one question about a table; errors get their family.

    Nothing can be written. Ask with ``binary=True``: then a question is one statement, and text of
    a user cannot end it and begin another.
    """
    try:
        with psycopg.connect(dsn) as connection:
            connection.read_only = True
            yield connection
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        msg = f"no table {table!r} in this database: {error}"
        raise ConfigurationError(msg) from error
    except (psycopg.errors.SyntaxError, psycopg.errors.UndefinedColumn) as error:
        msg = f"PostgreSQL does not understand {table!r}: {error}"
        raise ConfigurationError(msg) from error
    except psycopg.errors.InsufficientPrivilege as error:
        msg = f"this login may not read {table!r}: {error}"
        raise ConfigurationError(msg) from error
    except psycopg.DataError as error:
        msg = f"a value of {table!r} cannot be read: {error}; correct the rows or the view"
        raise RejectedError(msg) from error
    except psycopg.Error as error:
        raise _no_connection(table, error) from error


def _no_connection(table: str, error: psycopg.Error) -> Exception:
    """A wrong password stays wrong; a server that is down may come back."""
    text = str(error).strip()
    if any(sign in text for sign in ("authentication failed", "does not exist", "no password")):
        return ConfigurationError(f"cannot log in to read {table}: {text}; check the connection")
    return UnavailableError(f"the server of {table} does not answer: {text}")
