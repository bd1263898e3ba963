"""
Versioned datasets: Delta tables under one root, appended exactly once, read at any version.

The unit of everything is the *window*: a fixed span of time counted from the first midnight of the
dataset. Late rows replace their window, and the newest commit that holds a window owns it: its
rows, its digest and its profile. So totals are sums over windows, and drift over any span is a sum
of small stored profiles.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.digest import ContentDigest, digest_of
from airflow_mlops.core.data.profile import Profile, merge_all
from airflow_mlops.core.errors import DatasetNotFoundError, RejectedError, UnavailableError
from airflow_mlops.core.refs import DatasetRef

META = "mlops"
"""Key of a commit's metadata that names its sidecar."""

SIDECARS = "_mlops"
"""Folder of the sidecars inside a table; Delta leaves names with an underscore alone."""


@dataclass(frozen=True, slots=True)
class WindowStats:
    """
    One window of a dataset.

    :param index: its number, counted from the first midnight of the dataset.
    :param start: first moment, ISO 8601 (inclusive).
    :param end: end, ISO 8601 (exclusive).
    :param digest: content digest of its rows.
    :param owner: sidecar that holds its profile.
    """

    index: int
    start: str
    end: str
    rows: int
    digest: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """
    One version and how it came to be.

    :param rows: rows of the whole version.
    :param added: rows more than the version before; 0 if this call found nothing new.
    :param since: first time among the rows it wrote, ISO 8601.
    :param until: newest time among them.
    :param watermark: newest time of the whole version.
    :param digest: content digest of the whole version.
    :param windows: the windows it wrote.
    :param origin: where the rows came from.
    """

    ref: str
    rows: int
    added: int
    since: str
    until: str
    watermark: str
    digest: str
    windows: tuple[WindowStats, ...]
    author: str
    origin: str
    run: str
    created_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"windows": [asdict(w) for w in self.windows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the commit that :meth:`to_dict` wrote."""
        return cls(**{**data, "windows": tuple(WindowStats(**w) for w in data["windows"])})


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    What a commit says about its version, beside the rows.

    :param origin_time: first midnight of the dataset, ISO 8601: windows are counted from it.
    :param window_seconds: length of a window.
    :param time: column by which rows arrive.
    :param key: column that names a row.
    :param sequence: number of the commit; two commits of one number conflict.
    :param windows: every window of the version.
    """

    commit: Commit
    origin_time: str
    window_seconds: float
    time: str
    key: str
    sequence: int
    windows: tuple[WindowStats, ...]

    @property
    def window(self) -> timedelta:
        """Length of a window."""
        return timedelta(seconds=self.window_seconds)

    def to_json(self) -> str:
        """Write it as JSON text."""
        windows = [asdict(w) for w in self.windows]
        return json.dumps(asdict(self) | {"commit": self.commit.to_dict(), "windows": windows})

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        commit = Commit.from_dict(data["commit"])
        windows = tuple(WindowStats(**w) for w in data["windows"])
        return cls(**{**data, "commit": commit, "windows": windows})


@dataclass(frozen=True, slots=True)
class DatasetStore:
    """
    All datasets below ``root``, one Delta table per dataset name.

    :param root: local path or object-store URI.
    :param options: credentials and endpoint, as delta-rs names them; never logged.
    """

    root: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def append(
        self,
        name: str,
        source: Any,
        *,
        app_key: str,
        time: str,
        key: str,
        window: timedelta,
        lateness: timedelta = timedelta(0),
        author: str = "",
        origin: str = "",
        run: str = "",
    ) -> Commit:
        """
        Commit what a source has beyond the newest version, exactly once per ``app_key``.

        Reads from the start of the window that holds ``watermark - lateness``; windows whose rows
        did not change are left alone, so an append costs the new rows.

        :param source: a :class:`~airflow_mlops.core.data.sources.Source`.
        :param app_key: names this append; a retry uses the same one.
        :param window: length of a window; fixed with the first commit.
        :param lateness: how far behind the newest row a late one may still arrive.
        :raises ContractBrokenError: if a column is missing, unexpected or of another type.
        :raises RejectedError: if there are no rows at all, a time is null, or a key repeats.
        :raises UnavailableError: if the store or the source does not answer.
        """
        from airflow_mlops.core.data.snapshots import Append

        facts = {"author": author, "origin": origin, "run": run}
        append = Append(self, name, source, app_key, time, key, window, lateness, facts)
        return append.commit()

    def latest(self, name: str) -> DatasetRef | None:
        """Return the newest version, or nothing if there is no such dataset."""
        table = self.delta(name)
        found = table and self.newest_sidecar(table)
        return DatasetRef.parse(found.commit.ref) if found else None

    def open(self, ref: DatasetRef) -> "Table":
        """
        Open one version; reads the table's log, not its rows.

        :raises DatasetNotFoundError: if the dataset or the version does not exist.
        :raises UnavailableError: if the store does not answer.
        """
        table = self.delta(ref.name)
        newest = -1 if table is None else table.version()
        if table is None or ref.version > newest:
            has = "no such dataset" if table is None else f"the latest version is {newest}"
            msg = f"no dataset {ref} below {self.root}: {has}"
            raise DatasetNotFoundError(msg)
        sidecar = self.newest_sidecar(table, until=ref.version)
        try:
            if ref.version != newest:
                table.load_as_version(ref.version)
        except DeltaError as error:
            msg = f"cannot open {ref} below {self.root}: {error}"
            raise UnavailableError(msg) from error
        if sidecar is None:
            msg = f"{ref} below {self.root} was not written by airflow_mlops, or is still empty"
            raise DatasetNotFoundError(msg)
        return Table(ref, _schema(table), sidecar, self, table)

    def commits(self, name: str) -> tuple[Commit, ...]:
        """Return the commits of a dataset, newest first."""
        table = self.delta(name)
        if table is None:
            return ()
        return tuple(self.sidecar(table, h).commit for h in table.history() if META in h)

    def uri(self, name: str) -> str:
        """Return the place of a dataset."""
        return f"{self.root.rstrip('/')}/{name}"

    def delta(self, name: str) -> DeltaTable | None:
        """Open the newest state of a dataset's Delta table, if there is one."""
        try:
            return DeltaTable(self.uri(name), storage_options=dict(self.options) or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            msg = f"the dataset store at {self.root} does not answer about {name}: {error}"
            raise UnavailableError(msg) from error

    def newest_sidecar(self, table: DeltaTable, *, until: int | None = None) -> Sidecar | None:
        """
        Return what the newest commit says.

        :param table: the newest state: on an older one delta-rs numbers its history wrongly.
        :param until: newest version to look at; ``None``: all.
        """
        for entry in table.history():
            if META in entry and (until is None or entry["version"] <= until):
                return self.sidecar(table, entry)
        return None

    def sidecar(self, table: DeltaTable, entry: Mapping[str, Any]) -> Sidecar:
        """Return what one entry of a table's history says; the version is the entry's own."""
        found = Sidecar.from_json(self.read_file(table, entry[META]))
        name = DatasetRef.parse(found.commit.ref).name
        commit = replace(found.commit, ref=str(DatasetRef(name, int(entry["version"]))))
        return replace(found, commit=commit)

    def read_file(self, table: DeltaTable, path: str) -> bytes:
        """Read a file below a table."""
        with self._files(table).open_input_file(path) as file:
            return bytes(file.read())

    def write_file(self, table: DeltaTable, path: str, data: bytes) -> None:
        """Write a file below a table."""
        # pyarrow hands delta-rs a Buffer where it wants bytes: write below pyarrow's wrapper
        file = self._files(table)._handler.open_output_stream(path, {})
        file.write(data)
        file.close()

    def _files(self, table: DeltaTable) -> DeltaStorageHandler:
        return DeltaStorageHandler.from_table(table._table, dict(self.options) or None)


@dataclass(frozen=True, slots=True)
class Table:
    """
    One dataset version, opened but not read.

    :param schema: columns and their types.
    """

    ref: DatasetRef
    schema: pa.Schema
    sidecar: Sidecar = field(repr=False)
    store: DatasetStore = field(repr=False)
    delta: DeltaTable = field(repr=False)

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

    def between(self, since: datetime | None = None, until: datetime | None = None) -> "Slice":
        """Return the rows from ``since`` (inclusive) to ``until`` (exclusive)."""
        return Slice(self, since, until)

    def verify(self) -> None:
        """
        Read all rows, and compare them with the digest of the commit.

        :raises RejectedError: if a file was changed or lost.
        """
        found = str(digest_of(self.between().batches()))
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

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the rows in storage order."""
        dataset = self.table.delta.to_pyarrow_dataset()
        wanted = list(columns) if columns is not None else self.table.schema.names
        for batch in dataset.to_batches(columns=wanted, filter=self._filter()):
            if batch.num_rows:
                yield batch

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
            data = self.table.store.read_file(self.table.delta, owner)
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


def total_digest(windows: Sequence[WindowStats]) -> ContentDigest:
    """Add up the digests of windows."""
    total = ContentDigest()
    for window in windows:
        total = total + ContentDigest.parse(window.digest)
    return total


def sidecar_name(app_key: str, attempt: str) -> str:
    """Return the sidecar's path of one attempt at an append."""
    return f"{SIDECARS}/{hashlib.sha256(app_key.encode()).hexdigest()[:24]}-{attempt}"


def _schema(table: DeltaTable) -> pa.Schema:
    return pa.schema(table.schema().to_arrow())
