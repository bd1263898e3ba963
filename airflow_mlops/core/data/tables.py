"""One version of a dataset, and the rows of it that lie between two times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import Sidecar, WindowStats, total_digest
from airflow_mlops.core.data.digest import digest_of
from airflow_mlops.core.data.profile import Profile, merge_all
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
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
    """

    ref: DatasetRef
    schema: pa.Schema
    sidecar: Sidecar = field(repr=False)
    delta: "DeltaTable" = field(repr=False)
    read_file: Callable[[str], bytes] = field(repr=False)

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
        try:
            found = str(digest_of(self.between().batches()))
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            msg = f"rows of {self.ref} cannot be read back: {error}; restore the files"
            raise RejectedError(msg) from error
        if found != self.digest:
            msg = f"rows of {self.ref} have digest {found}, the commit says {self.digest}"
            raise RejectedError(msg)


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
        found = self.table.delta.to_pyarrow_dataset().count_rows(filter=self._filter())
        return int(found)

    def batches(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Stream the rows in storage order, in bounded memory."""
        dataset = self.table.delta.to_pyarrow_dataset()
        wanted = list(columns) if columns is not None else self.table.schema.names
        return dataset.scanner(columns=wanted, filter=self._filter()).to_reader()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows, ordered by time and key."""
        order = (self.table.time, self.table.key)
        wanted = list(columns) if columns is not None else self.table.schema.names
        dataset = self.table.delta.to_pyarrow_dataset()
        read = list(dict.fromkeys([*wanted, *order]))
        found = dataset.to_table(columns=read, filter=self._filter())
        return found.sort_by([(name, "ascending") for name in order]).select(wanted)

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
        return tuple(found[index] for index in sorted(found))

    def profile(self) -> Profile:
        """Return the sum of :meth:`profiles`."""
        return merge_all(self.profiles())

    @property
    def digest(self) -> str:
        """Content digest of the windows inside."""
        return str(total_digest(self.windows()))

    def _filter(self) -> pc.Expression | None:
        time, found = pc.field(self.table.time), None
        if self.since is not None:
            found = time >= pa.scalar(self.since)
        if self.until is not None:
            before = time < pa.scalar(self.until)
            found = before if found is None else found & before
        return found
