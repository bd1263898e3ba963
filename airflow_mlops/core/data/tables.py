"""One version of a dataset, and the rows of it that lie between two times."""

import contextlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from airflow_mlops.core.data.table_files import counted, plain, stored
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
    :param lenient: whether rows may differ from what is on record: some are being forgotten.
    :param refuse_under_way: refuses while rows are being forgotten; ``None``: for whoever forgets.
    """

    ref: DatasetRef
    schema: pa.Schema
    sidecar: Sidecar = field(repr=False)
    delta: "DeltaTable" = field(repr=False)
    read_file: Callable[[str], bytes] = field(repr=False)
    removed: str = ""
    lenient: bool = field(default=False, repr=False)
    refuse_under_way: Callable[[], None] | None = field(default=None, repr=False)

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

    def differs(self) -> str:
        """
        Compare the number of rows in the files with what is on record; reads no rows.

        :return: what is wrong; empty if nothing is.
        """
        found = counted(self.delta)
        return "" if found == self.rows else self._wrong(f"has {found:,} rows in its files")

    def _wrong(self, what: str) -> str:
        return (
            f"{self.ref} {what}, {self.rows:,} are on record: files were changed or lost, or a "
            "commit of another tool was built upon; bring them back from a backup, or "
            "`airflow mlops restore` a version that is whole"
        )

    def refuse_forgotten(self) -> None:
        """
        Refuse what was just read if rows were forgotten since this version was opened.

        A note is written first, then the record is corrected, then the files: without a note, and
        with the record as it was, so was what was read.

        :raises UnavailableError: if rows are being forgotten, or were.
        """
        if self.refuse_under_way is None:
            return
        self.refuse_under_way()
        data = self.read_file(self.sidecar.path)
        with stored(f"{self.sidecar.path} of {self.ref}"):
            marks = tuple(json.loads(data).get("forgotten", ()))
        if marks != self.sidecar.forgotten:
            msg = f"rows of {self.ref} were forgotten on request since it was opened: open it again"
            raise UnavailableError(msg)

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

    Rows honour the edges; windows and profiles are those that lie wholly inside. Whatever is read
    raises UnavailableError if rows are being forgotten, or were since the version was opened.
    """

    table: Table
    since: datetime | None = None
    until: datetime | None = None

    @property
    def rows(self) -> int:
        """Number of rows; reads the time column."""
        with self._reading():
            found = int(self.table.dataset().count_rows(filter=self._filter()))
        self.table.refuse_forgotten()
        return found

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
        rows = 0
        with self._reading():
            for batch in scanner.to_batches():
                rows += batch.num_rows
                yield batch
        self._check(rows)

    def _check(self, rows: int) -> None:
        """
        Compare the number of rows that were read with the windows on record.

        :raises RejectedError: if rows are missing, or too many.
        """
        self.table.refuse_forgotten()
        first, last = self._span(inside=False)
        most = sum(w.rows for w in self.table.windows()[first:last])
        least = sum(w.rows for w in self.windows())
        if not (least <= rows <= most or self.table.lenient):
            say = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            ends = (t.isoformat() if t else "its end" for t in (self.since, self.until))
            msg = self.table._wrong(f"has {rows:,} rows from {' to '.join(ends)} instead of {say}")
            raise RejectedError(msg)

    def check_digest(self, rows: pa.Table) -> None:
        """
        Compare rows that were read with the digests of the windows that lie wholly inside.

        :param rows: all columns of the rows of this slice.
        :raises RejectedError: if they are not those on record.
        """
        whole = [w for w in self.windows() if w.rows]
        found, times = ContentDigest(), rows[self.table.time]
        for contract, windows in groupby(whole, key=attrgetter("contract")):
            for since, until in _spans(windows):
                inside = pc.and_(pc.greater_equal(times, since), pc.less(times, until))
                names = self.table.columns(contract)
                found = found + digest_of(rows.filter(inside).select(names).to_batches())
        said = total_digest(whole)
        if found != said and not self.table.lenient:
            msg = self.table._wrong(f"has rows of digest {found}, the commits say {said}")
            raise RejectedError(msg)

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
        self._check(found.num_rows)
        return found.sort_by([(name, "ascending") for name in order]).select(wanted)

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Read the rows as a frame, ordered by time and key; raises as :meth:`to_arrow`."""
        return self.to_arrow(columns).to_pandas()  # type: ignore[no-any-return]

    def to_duckdb(self, connection: "duckdb.DuckDBPyConnection") -> "duckdb.DuckDBPyRelation":
        """
        Return the rows as a relation: SQL reads the columns and row groups it needs.

        What it reads is not compared with what is on record, unlike that of the other ways: ask
        :meth:`Table.refuse_forgotten` in the end.

        :param connection: the relation lives as long as this connection.
        :raises DatasetNotFoundError: if the rows were removed.
        """
        condition, dataset = self._filter(), self.table.dataset()
        return connection.from_arrow(dataset if condition is None else dataset.filter(condition))

    def windows(self) -> tuple[WindowStats, ...]:
        """Return the windows that lie wholly inside."""
        first, last = self._span(inside=True)
        return self.table.windows()[first:last]

    def _span(self, *, inside: bool) -> tuple[int, int]:
        """Return where the windows begin and end that lie wholly inside, or touch the slice."""
        windows, origin, length = self.table.windows(), self.table.origin, self.table.window
        first, last = 0, len(windows)
        if self.since is not None:
            gone = self.since - origin
            index = -(-gone // length) if inside else gone // length
            first = bisect_left(windows, index, key=attrgetter("index"))
        if self.until is not None:
            left = self.until - origin
            index = left // length if inside else -(-left // length)
            last = bisect_left(windows, index, key=attrgetter("index"))
        return first, max(first, last)

    def profiles(self) -> tuple[Profile, ...]:
        """Return the stored profile of each window inside; reads no rows."""
        found: dict[int, Profile] = {}
        owners: dict[str, list[int]] = {}
        for w in self.windows():
            owners.setdefault(w.owner, []).append(w.index)
        for owner, indices in owners.items():
            data = self.table.read_file(owner)
            self.table.refuse_forgotten()
            with stored(f"{owner} of {self.table.ref}"):
                found |= profiles.from_bytes(data, indices)
                found[indices[0]], found[indices[-1]]
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
            self.table.refuse_forgotten()
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


def _spans(windows: Iterable[WindowStats]) -> Iterator[tuple[pa.Scalar, pa.Scalar]]:
    """Join windows that follow one another: first moment and end of each run of them."""
    first = last = ""
    for window in windows:
        if first and window.start != last:
            yield _moment(first), _moment(last)
            first = ""
        first, last = first or window.start, window.end
    if first:
        yield _moment(first), _moment(last)


def _moment(text: str) -> pa.Scalar:
    return pa.scalar(datetime.fromisoformat(text), pa.timestamp("us", "UTC"))
