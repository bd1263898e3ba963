"""One version of a dataset, and the rows of it that lie between two times."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import Sidecar, WindowStats, total_digest
from airflow_mlops.core.data.digest import ContentDigest, digest_of
from airflow_mlops.core.data.profile import Profile, aligned, merge_all
from airflow_mlops.core.data.table_files import plain
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

COMPLETE = 0.95
"""Share of the usual rows, or of the labels of a window, from which it counts as complete."""

_USUAL = 8


@dataclass(frozen=True, slots=True)
class Table:
    """
    One dataset version, opened but not read.

    :param schema: columns and their types.
    :param read_file: reads a file below the table, such as stored profiles.
    :param removed: when and why its rows were removed; empty: they are there. What is stored about
        them, such as profiles, stays.
    """

    ref: DatasetRef
    schema: pa.Schema
    sidecar: Sidecar = field(repr=False)
    delta: "DeltaTable" = field(repr=False)
    read_file: Callable[[str], bytes] = field(repr=False)
    removed: str = ""

    @property
    def time(self) -> str:
        """Column by which rows arrive."""
        return self.sidecar.time

    @property
    def key(self) -> str:
        """Column that names a row."""
        return self.sidecar.key

    @property
    def window(self) -> timedelta:
        """Length of a window."""
        return self.sidecar.window

    @property
    def origin(self) -> datetime:
        """Where windows are counted from."""
        return datetime.fromisoformat(self.sidecar.origin_time)

    @property
    def watermark(self) -> datetime | None:
        """Newest time among the rows."""
        return datetime.fromisoformat(self.sidecar.commit.watermark)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(w.rows for w in self.sidecar.windows)

    @property
    def digest(self) -> str:
        """Content digest of all rows."""
        return str(total_digest(self.sidecar.windows))

    def windows(self) -> tuple[WindowStats, ...]:
        """Return all windows, in the order of time."""
        return self.sidecar.windows

    def closed(self) -> tuple[WindowStats, ...]:
        """
        Return the windows that are complete: what is judged must not change from day to day.

        All but the newest one, which is complete once it holds as many rows as is usual: 95 % of
        the median of the eight before it. No clock is asked, so a version always answers the same.
        """
        windows = self.windows()
        before = windows[:-1]
        if not before:
            return ()
        usual = median(w.rows for w in before[-_USUAL:])
        return windows if windows[-1].rows >= COMPLETE * usual else before

    def between(self, since: datetime | None = None, until: datetime | None = None) -> "Slice":
        """
        Return the rows from ``since`` (inclusive) to ``until`` (exclusive).

        :raises ConfigurationError: if a time has no time zone.
        """
        for moment in (since, until):
            if moment is not None and moment.tzinfo is None:
                msg = f"{moment} has no time zone; say datetime(..., tzinfo=UTC)"
                raise ConfigurationError(msg)
        return Slice(self, since, until)

    def verify(self) -> None:
        """
        Read all rows, and compare them with the digest of the commit.

        :raises RejectedError: if a file was changed or lost.
        """
        found = ContentDigest()
        for contract, windows in groupby(self.windows(), key=attrgetter("contract")):
            first, *_, last = (*windows,) * 2
            since, until = (datetime.fromisoformat(t) for t in (first.start, last.end))
            names = self.columns(contract)
            found = found + digest_of(self.between(since, until).batches(names))
        if str(found) != self.digest:
            msg = f"rows of {self.ref} have digest {found}, the commit says {self.digest}"
            raise RejectedError(msg)

    def columns(self, contract: int) -> list[str]:
        """Return the columns that rows of a contract version have; later ones hold no value."""
        adopted = self.sidecar.adopted
        return [name for name in self.schema.names if adopted.get(name, 1) <= contract]

    def dataset(self) -> "ds.Dataset":
        """
        Return the rows as a dataset of Arrow, which reads only what is asked for.

        :raises DatasetNotFoundError: if the rows were removed.
        """
        self.refuse_removed(self.ref, self.removed)
        return self.delta.to_pyarrow_dataset()

    @staticmethod
    def refuse_removed(ref: DatasetRef, removed: str) -> None:
        """
        Refuse a version whose rows are gone.

        :param removed: when and why; empty: they are there.
        :raises DatasetNotFoundError: if they are gone.
        """
        if removed:
            msg = (
                f"the rows of {ref} are gone, {removed}; what was stored about them is still "
                "there. A version that is to stay needs a tag"
            )
            raise DatasetNotFoundError(msg)


@dataclass(frozen=True, slots=True)
class Slice:
    """
    Rows of one dataset version between two times.

    Rows honour the edges; windows and profiles are those that lie wholly inside.
    """

    table: Table
    since: datetime | None = None
    until: datetime | None = None

    @property
    def rows(self) -> int:
        """Number of rows; reads the time column."""
        with self._reading():
            return int(self.table.dataset().count_rows(filter=self._filter()))

    def batches(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """
        Stream the rows in storage order, in bounded memory.

        :raises DatasetNotFoundError: if the rows were removed.
        :raises RejectedError: while it streams, if a file was changed or lost.
        """
        wanted = list(columns) if columns is not None else self.table.schema.names
        with self._reading():
            scanner = self.table.dataset().scanner(wanted, filter=self._filter())
        schema = scanner.projected_schema
        return pa.RecordBatchReader.from_batches(schema, self._read(scanner))

    def _read(self, scanner: "ds.Scanner") -> Iterator[pa.RecordBatch]:
        with self._reading():
            yield from scanner.to_batches()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """
        Read the rows, ordered by time and key.

        :raises DatasetNotFoundError: if the rows were removed.
        :raises RejectedError: if a file was changed or lost.
        """
        order = (self.table.time, self.table.key)
        wanted = list(columns) if columns is not None else self.table.schema.names
        read = list(dict.fromkeys([*wanted, *order]))
        with self._reading():
            found = self.table.dataset().to_table(columns=read, filter=self._filter())
        return found.sort_by([(name, "ascending") for name in order]).select(wanted)

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Read the rows as a frame, ordered by time and key; raises as :meth:`to_arrow`."""
        return self.to_arrow(columns).to_pandas()  # type: ignore[no-any-return]

    def to_duckdb(self, connection: "duckdb.DuckDBPyConnection") -> "duckdb.DuckDBPyRelation":
        """
        Return the rows as a relation: SQL reads the columns and row groups it needs.

        :param connection: the relation lives as long as this connection.
        :raises DatasetNotFoundError: if the rows were removed.
        """
        condition, dataset = self._filter(), self.table.dataset()
        return connection.from_arrow(dataset if condition is None else dataset.filter(condition))

    def windows(self) -> tuple[WindowStats, ...]:
        """Return the windows that lie wholly inside."""
        return tuple(
            w
            for w in self.table.windows()
            if (self.since is None or datetime.fromisoformat(w.start) >= self.since)
            and (self.until is None or datetime.fromisoformat(w.end) <= self.until)
        )

    def profiles(self) -> tuple[Profile, ...]:
        """Return the stored profile of each window inside; reads no rows."""
        found: dict[int, Profile] = {}
        owners: dict[str, list[int]] = {}
        for w in self.windows():
            owners.setdefault(w.owner, []).append(w.index)
        for owner, indices in owners.items():
            data = self.table.read_file(owner)
            found |= profiles.from_bytes(data, indices)
        return aligned(tuple(found[index] for index in sorted(found)))

    def profile(self) -> Profile:
        """Return the sum of :meth:`profiles`."""
        return merge_all(self.profiles())

    @property
    def digest(self) -> str:
        """Content digest of the windows inside."""
        return str(total_digest(self.windows()))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Say which version cannot be read, and why."""
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            msg = (
                f"rows of {self.table.ref} cannot be read back: {plain(error)}; bring the file "
                "back from a backup, or `airflow mlops restore` a version that is whole"
            )
            away = not isinstance(error, pa.ArrowInvalid | FileNotFoundError)
            raise (UnavailableError if away else RejectedError)(msg) from error

    def _filter(self) -> pc.Expression | None:
        time, found = pc.field(self.table.time), None
        if self.since is not None:
            found = time >= pa.scalar(self.since)
        if self.until is not None:
            before = time < pa.scalar(self.until)
            found = before if found is None else found & before
        return found
