"""What was measured, what was predicted, and which rows were set aside: tables of PostgreSQL."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.types.json import Jsonb

from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.ledger import no_answer
from airflow_mlops.core.refs import ModelRef


class Finding(dict[str, Any]):
    """
    The body of a finding; asked for what it does not have, it says whose it is.

    :param of: monitor and subject, in words.
    """

    def __init__(self, body: Any, of: str = "a monitor") -> None:
        super().__init__(body if isinstance(body, dict) else {})
        self._of = of

    def __missing__(self, name: str) -> Any:
        """
        Name the finding.

        :raises RejectedError: always.
        """
        has = ", ".join(map(repr, sorted(self))) or "nothing"
        msg = (
            f"the finding of {self._of} does not say {name!r}, it has {has}: another tool or "
            "another release wrote it; let the monitor look again, or remove the finding"
        )
        raise RejectedError(msg)


@dataclass(frozen=True)
class Observation:
    """
    One thing that a monitor measured.

    :param monitor: ``contract``, ``drift``, ``performance`` and so on.
    :param subject: what it was measured on, such as a dataset version.
    :param body: the finding; plain JSON types, whatever another tool wrote.
    """

    monitor: str
    subject: str
    body: Mapping[str, Any]
    recorded_at: str

    def __post_init__(self) -> None:
        of = f"monitor {self.monitor!r} on {self.subject!r}"
        object.__setattr__(self, "body", Finding(self.body, of))


@dataclass(frozen=True, slots=True)
class Served:
    """
    The predictions one version made.

    :param since: first time it predicted for, ISO 8601; empty if it never did.
    :param until: last time.
    """

    predictions: int
    since: str
    until: str

    def __str__(self) -> str:
        if not self.predictions:
            return "none"
        return f"{self.predictions:,} for {self.since} to {self.until}"


@dataclass(frozen=True, slots=True)
class Observations:
    """
    Findings, predictions and quarantined rows of one database.

    :param dsn: libpq connection string of a login that has role ``mlops_writer``; never logged.
    :param timeout: seconds that a connection may take.
    """

    dsn: str = field(repr=False)
    timeout: int = 5

    def record(self, model: str, monitor: str, subject: str, body: Mapping[str, Any]) -> None:
        """Store a finding; the same monitor and subject is written over, and the old one kept."""
        self.record_all([(model, monitor, subject, body)])

    def record_all(self, findings: Iterable[tuple[str, str, str, Mapping[str, Any]]]) -> None:
        """
        Store findings: all of them, or none.

        One that says what is on record keeps its time, for nothing is new; but it becomes the
        newest again if another one about the same version came in between.

        :param findings: model, monitor, subject and body of each.
        """
        rows = [
            (model, monitor, subject, Jsonb(dict(b))) for model, monitor, subject, b in findings
        ]
        with self.connected() as connection, connection.transaction():
            connection.cursor().executemany(
                "insert into mlops.observations as kept (model, monitor, subject, body) "
                "values (%s, %s, %s, %s) on conflict (model, monitor, subject) do update "
                "set body = excluded.body "  # the time is the database's to say
                "where kept.body is distinct from excluded.body or exists ("
                "select from mlops.observations later where later.model = kept.model "
                "and later.monitor = kept.monitor and later.recorded_at > kept.recorded_at "
                "and split_part(later.subject, ':', 1) = split_part(kept.subject, ':', 1))",
                rows,
            )

    def read(
        self, model: str, monitor: str, *, of: ModelRef | None = None, last: int | None = None
    ) -> tuple[Observation, ...]:
        """
        Return the findings of one monitor, oldest first.

        :param of: only those about one version of the model.
        :param last: only that many of the newest; ``None``: all.
        """
        subject = "" if of is None else f"{of}:"
        with self.connected() as connection:
            rows = connection.execute(
                "select monitor, subject, body, recorded_at from mlops.observations "
                "where model = %s and monitor = %s and starts_with(subject, %s) "
                "order by recorded_at desc limit %s",
                (model, monitor, subject, last),
            ).fetchall()
        return tuple(Observation(m, s, b, at.isoformat()) for m, s, b, at in reversed(rows))

    def next_after(
        self, model: str, monitor: str, after: datetime | None, statuses: Sequence[str]
    ) -> Observation | None:
        """
        Return the oldest finding of a monitor that was recorded after a moment.

        :param after: none: since ever.
        :param statuses: which ones count, such as ``["broken"]``.
        """
        with self.connected() as connection:
            row = connection.execute(
                "select monitor, subject, body, recorded_at from mlops.observations "
                "where model = %s and monitor = %s and body ->> 'status' = any(%s) "
                "and recorded_at > coalesce(%s, '-infinity'::timestamptz) "
                "order by recorded_at limit 1",
                (model, monitor, list(statuses), after),
            ).fetchone()
        return Observation(row[0], row[1], row[2], row[3].isoformat()) if row else None

    def write_predictions(
        self,
        model: ModelRef,
        rows: pa.Table,
        *,
        dataset: str,
        run: str,
        shadow: bool = False,
    ) -> int:
        """
        Store predictions, one per model version and key; those that are there stay as they are.

        :param rows: columns ``key``, ``observed_at`` and ``prediction``; of more than two classes
            also ``scores``, a list with the probability of each.
        :param dataset: dataset version that was scored.
        :param run: Dag run that scored it.
        :param shadow: whether another version's prediction of these rows is the one that counts.
        :return: number of new predictions.
        """
        columns = ["key", "observed_at", "prediction"]
        if "scores" in rows.schema.names:
            texts = ["{" + ",".join(map(repr, s)) + "}" for s in rows["scores"].to_pylist()]
            rows = rows.set_column(rows.schema.get_field_index("scores"), "scores", [texts])
            columns.append("scores")
        with self.connected() as connection, connection.transaction():
            connection.execute(
                "create temporary table scored (key text, observed_at timestamptz, "
                "prediction double precision, scores double precision[]) on commit drop"
            )
            copy = f"copy scored ({', '.join(columns)}) from stdin (format csv)"
            copy_rows(connection, copy, rows.select(columns))
            done = connection.execute(
                "insert into mlops.predictions "
                "(model, version, key, observed_at, prediction, scores, dataset, run, shadow) "
                "select %s, %s, key, observed_at, prediction, scores, %s, %s, %s from scored "
                "on conflict (model, version, key) do nothing",
                (model.name, model.version, dataset, run, shadow),
            )
            return done.rowcount

    def predictions(self, model: ModelRef, since: datetime, until: datetime) -> pa.Table:
        """
        Return the predictions of one version for a span of time, by time and key.

        :return: columns ``key``, ``p`` and, of more than two classes, ``scores``.
        """
        with self.connected() as connection:
            rows = connection.execute(
                "select key, prediction, scores from mlops.predictions "
                "where model = %s and version = %s "
                "and observed_at >= %s and observed_at < %s order by observed_at, key",
                (model.name, model.version, since, until),
            ).fetchall()
        keys, values, scores = zip(*rows, strict=True) if rows else ((), (), ())
        found = pa.table({"key": pa.array(keys, pa.string()), "p": pa.array(values, pa.float64())})
        if not scores or None in scores:
            return found
        return found.append_column("scores", pa.array(scores, pa.list_(pa.float64())))

    def served_span(self, model: ModelRef) -> tuple[datetime, datetime]:
        """Return the first and last time one version predicted for; the last is earlier if none."""
        with self.connected() as connection:
            row = connection.execute(
                "select min(observed_at), max(observed_at) from mlops.predictions "
                "where model = %s and version = %s",
                (model.name, model.version),
            ).fetchone()
        never = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
        return (row[0], row[1]) if row and row[0] is not None else never

    def served_by(self, model: ModelRef) -> Served:
        """Count the predictions of one version."""
        with self.connected() as connection:
            row = connection.execute(
                "select count(*), min(observed_at), max(observed_at) from mlops.predictions "
                "where model = %s and version = %s",
                (model.name, model.version),
            ).fetchone()
        number, *span = row or (0, None, None)
        return Served(int(number), *(t.isoformat() if t else "" for t in span))

    def served(self, model: str) -> tuple[tuple[str, int, float], ...]:
        """Return key, version and value of what was served: one for each key."""
        with self.connected() as connection:
            rows = connection.execute(
                # All of them in one pass: view mlops.served looks up row by row.
                "select distinct on (key) key, version, prediction from mlops.predictions "
                "where model = %s and not shadow order by key, scored_at, version",
                (model,),
            ).fetchall()
        return tuple((str(key), int(version), float(p)) for key, version, p in rows)

    def quarantine(
        self, model: str, dataset: str, rows: Sequence[Mapping[str, Any]], *, run: str
    ) -> None:
        """
        Set rows aside with the reason; idempotent.

        :param rows: mappings with ``key``, ``observed_at``, ``reason`` and ``row``.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "insert into mlops.quarantine "
                "(model, dataset, key, observed_at, reason, row, run) "
                "values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
                [
                    (model, dataset, r["key"], r["observed_at"], r["reason"], Jsonb(r["row"]), run)
                    for r in rows
                ],
            )

    def forget(self, model: str, keys: Sequence[str]) -> int:
        """
        Delete what was predicted for, set aside of, or shown to these keys or entities.

        What findings show of rows goes too, of everybody: a value among it may be theirs.

        :return: number of rows that were deleted.
        """
        known = list(keys)
        statement = "delete from mlops.{} where model = %s and key = any(%s)"
        with self.connected() as connection, connection.transaction():
            shown = connection.execute(
                "delete from mlops.exposures where model = %s "
                "and (key = any(%s) or entity = any(%s)) returning key",
                (model, known, known),
            ).fetchall()
            outcomes = [*known, *(key for (key,) in shown)]
            parts = {"outcomes": outcomes, "predictions": known, "quarantine": known}
            gone = (
                connection.execute(
                    sql.SQL(statement).format(sql.Identifier(table)), (model, values)
                ).rowcount
                for table, values in parts.items()
            )
            number = len(shown) + sum(gone)
            connection.execute("select mlops.forget_examples(%s)", (model,))
            return number

    @contextlib.contextmanager
    def connected(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """
        Connect for the time of a ``with`` block; every statement is a transaction of its own.

        :raises ConfigurationError: if the schema, a right or a login is missing, or a value has no
            place in it.
        :raises UnavailableError: if the database does not answer.
        """
        try:
            with psycopg.connect(
                self.dsn, autocommit=True, connect_timeout=self.timeout
            ) as connection:
                yield connection
        except psycopg.errors.UndefinedTable as error:
            msg = "schema mlops is not in this database; make it: airflow mlops migrate"
            raise ConfigurationError(msg) from error
        except psycopg.errors.InsufficientPrivilege as error:
            msg = f"the login of schema mlops lacks a right, grant it role mlops_writer: {error}"
            raise ConfigurationError(msg) from error
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            msg = f"schema mlops refuses what has no place in it: {error}"
            raise ConfigurationError(msg) from error
        except psycopg.OperationalError as error:
            raise no_answer("the database of schema mlops", error) from error


def copy_rows(
    connection: "psycopg.Connection[tuple[Any, ...]]", statement: str, rows: pa.Table
) -> None:
    """
    Stream a table into COPY, batch by batch.

    :param connection: from :meth:`Observations.connected`.
    :param statement: ``copy ... from stdin (format csv)``.
    :param rows: its columns in the order of the statement.
    """
    from pyarrow import csv

    options = csv.WriteOptions(include_header=False)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for batch in rows.to_batches(max_chunksize=100_000):
            sink = io.BytesIO()
            csv.write_csv(batch, sink, options)
            copy.write(sink.getvalue())
