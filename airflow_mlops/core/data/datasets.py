"""
Versioned datasets: Delta tables under one root, appended exactly once, read at any version.

The unit of everything is the *window*: a fixed span of time counted from the first midnight of the
dataset. Late rows replace their window, and the newest commit that holds a window owns it: its
rows, its digest and its profile. So totals are sums over windows, and drift over any span is a sum
of small stored profiles.

A commit names its sidecar, which was written before it: a kill at any moment leaves either no
commit, or the whole one.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import Commit, Sidecar, WindowStats, sidecar_name
from airflow_mlops.core.data.contract import schema_breaks
from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.data.snapshots import Flow, Request, Target
from airflow_mlops.core.data.sources import Source, quoted
from airflow_mlops.core.data.tables import Slice, Table
from airflow_mlops.core.errors import (
    ConfigurationError,
    ContractBrokenError,
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

__all__ = ["Commit", "DatasetStore", "Slice", "Table", "WindowStats"]

_log = logging.getLogger(__name__)

META = "mlops"
"""Key of a commit's metadata that names its sidecar."""

APP_KEY = "mlops.app_key"
"""Key of a commit's metadata that names the append it answers."""

SEQUENCE = "mlops"
"""Delta application id that every commit counts up: two appends at once cannot both land."""

_ROW_GROUP = 65_536
"""Rows that the writer holds in memory."""

_RACES = 10
_RECENT = 16
"""Commits that are looked at first; the whole history is read only if none of them will do."""

_CONFIGURATION = {
    # The log is the list of versions: it must not expire.
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}


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
        source: Source,
        *,
        app_key: str,
        time: str,
        key: str,
        window: timedelta,
        lateness: timedelta = timedelta(0),
        windows_from: datetime | None = None,
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
        :param windows_from: where windows are counted from; fixed with the first commit, ``None``:
            the first midnight.
        :param lateness: how far behind the newest row a late one may still arrive.
        :raises ConfigurationError: if ``name`` may not name a dataset.
        :raises ContractBrokenError: if a column is missing, unexpected or of another type.
        :raises RejectedError: if there are no rows at all, a time is null, or a key repeats.
        :raises UnavailableError: if the store or the source does not answer.
        """
        DatasetRef.parse(f"{name}@0")  # before anything is written under that name
        facts = {"author": author, "origin": origin, "run": run}
        request = Request(name, app_key, time, key, window, lateness, windows_from, facts)
        return _Append(self, source, request).commit()

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
        return Table(ref, _schema(table), sidecar, table, partial(self.read_file, table))

    def commits(self, name: str) -> tuple[Commit, ...]:
        """Return the commits of a dataset, newest first."""
        table = self.delta(name)
        if table is None:
            return ()
        return tuple(self.sidecar(table, h).commit for h in _history(table) if META in h)

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
        for entry in _history(table):
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
class _Append:
    """One append, from the question "what is new?" to the commit."""

    store: DatasetStore
    source: Source
    request: Request

    def commit(self) -> Commit:
        """Commit once, or return the commit that is there."""
        name = self.request.name
        table = self.store.delta(name) or self._create()
        for _ in range(_RACES):
            # Asked of the handle that is written through: delta-rs compares newer commits only.
            if (table.transaction_version(self.request.app_key) or 0) >= 1:
                return self._own(table)
            before = self.store.newest_sidecar(table)
            offered = self.source.schema()
            self._check(table, before, offered)
            try:
                written = self._write(table, before, offered)
            except CommitFailedError:
                table = self._reopened()  # somebody else committed first: look again
                continue
            if written:
                return self._own(self._reopened())
            if before is None:
                msg = f"{name}: the source is empty, there is nothing to version yet"
                raise RejectedError(msg)
            return replace(before.commit, added=0, windows=())
        msg = f"{_RACES} other appends to {name} came first; try again"
        raise UnavailableError(msg)

    def _create(self) -> DeltaTable:
        """Create the empty table first: two racing first commits would both land."""
        schema = self.source.schema()
        try:
            return DeltaTable.create(
                self.store.uri(self.request.name),
                schema,
                mode="ignore",
                configuration=_CONFIGURATION,
                storage_options=dict(self.store.options) or None,
            )
        except (DeltaError, OSError) as error:
            msg = f"cannot create dataset {self.request.name} below {self.store.root}: {error}"
            raise UnavailableError(msg) from error

    def _reopened(self) -> DeltaTable:
        table = self.store.delta(self.request.name)
        if table is None:
            msg = f"dataset {self.request.name} below {self.store.root} went away"
            raise UnavailableError(msg)
        return table

    def _own(self, table: DeltaTable) -> Commit:
        """Return the commit that carries this append's key."""
        for entry in _history(table):
            if entry.get(APP_KEY) == self.request.app_key:
                return self.store.sidecar(table, entry).commit
        msg = f"{self.request.name} knows append {self.request.app_key!r}, its commit is gone"
        raise RejectedError(msg)

    def _check(self, table: DeltaTable, before: Sidecar | None, offered: pa.Schema) -> None:
        """Compare what the source offers with what the dataset holds."""
        asked = self.request
        if before is None:
            _check_first(asked, offered)
            return
        breaks = schema_breaks(_schema(table), offered)
        if any(b.kind != "unexpected" for b in breaks):
            msg = (
                f"the contract of {asked.name} is broken, nothing was read: "
                f"{'; '.join(map(str, breaks))}. Correct the delivery and clear the task"
            )
            raise ContractBrokenError(msg)
        for extra in breaks:
            _log.warning("%s: column %r is new at the source; left out", asked.name, extra.column)
        fixed = (before.window, before.time, before.key)
        if (asked.window, asked.time, asked.key) != fixed:
            msg = (
                f"dataset {asked.name} has windows of {fixed[0]}, time {fixed[1]!r}, key "
                f"{fixed[2]!r}; asked for {asked.window}, {asked.time!r}, {asked.key!r}. They are "
                "fixed with the first commit; use another dataset name"
            )
            raise ConfigurationError(msg)

    def _write(self, table: DeltaTable, before: Sidecar | None, offered: pa.Schema) -> bool:
        """Stream new and changed windows into one commit; ``False`` if there are none."""
        schema = offered if before is None else _schema(table)
        target = Target(
            table.version() + 1,
            schema,
            sidecar_name(self.request.app_key, secrets.token_hex(4)),
            partial(self.store.write_file, table),
            self._centres(table, before),
        )
        with self.source.read(
            before.reread_from(self.request.lateness) if before else None
        ) as reader:
            flow = Flow(self.request, target, before)
            rows = flow.rows(iter(reader))
            first = next(rows, None)
            if first is None:
                return False
            stream = pa.RecordBatchReader.from_batches(schema, chain([first], rows))
            try:
                self._commit(table, stream, flow, target.sidecar, is_first=before is None)
            except CommitFailedError:
                raise
            except (DeltaError, OSError) as error:
                flow.raise_if_failed()  # an error of ours, raised while Delta was reading
                msg = f"cannot write {self.request.name} below {self.store.root}: {error}"
                raise UnavailableError(msg) from error
        return True

    def _commit(
        self,
        table: DeltaTable,
        stream: pa.RecordBatchReader,
        flow: Flow,
        sidecar: str,
        *,
        is_first: bool,
    ) -> None:
        transactions = [Transaction(self.request.app_key, 1), Transaction(SEQUENCE, flow.sequence)]
        properties = CommitProperties(
            custom_metadata={META: sidecar, APP_KEY: self.request.app_key},
            app_transactions=transactions,
        )
        replaced_from = flow.replaced_from()
        how: dict[str, Any] = {"mode": "append"}
        if is_first:  # the table is empty; an attempt that was refused may have made it otherwise
            how = {"mode": "overwrite", "schema_mode": "overwrite"}
        elif replaced_from is not None:
            how = {"mode": "overwrite", "predicate": _from(self.request.time, replaced_from)}
        write_deltalake(
            table,
            stream,
            commit_properties=properties,
            writer_properties=WriterProperties(max_row_group_size=_ROW_GROUP),
            **how,
        )

    def _centres(self, table: DeltaTable, before: Sidecar | None) -> Profile | None:
        """Return the centres of the dataset's profiles: all of them have to add up."""
        if before is None:
            return None
        first = before.windows[0]
        data = self.store.read_file(table, first.owner)
        return profiles.from_bytes(data, [first.index])[first.index]


def _check_first(asked: Request, offered: pa.Schema) -> None:
    """What a dataset is made with has to fit: window, time and key stay for ever."""
    missing = [name for name in (asked.time, asked.key) if name not in offered.names]
    if missing:
        has = ", ".join(offered.names)
        msg = f"{asked.name}: no column {', '.join(map(repr, missing))} in the source; it has {has}"
        raise ConfigurationError(msg)
    kind = offered.field(asked.time).type
    if kind != pa.timestamp("us", "UTC"):
        msg = (
            f"{asked.name}: time column {asked.time!r} is {kind}, it has to be a timestamp; "
            "offer it as one, for instance through a view"
        )
        raise ConfigurationError(msg)
    if asked.window < timedelta(seconds=1):
        msg = f"{asked.name}: a window of {asked.window} is too short; it lasts a second or more"
        raise ConfigurationError(msg)


def _from(column: str, moment: datetime) -> str:
    """Write ``column >= moment`` in the words of delta-rs."""
    text = moment.isoformat(timespec="microseconds")
    return f"{quoted(column)} >= arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"


def _history(table: DeltaTable) -> Iterator[dict[str, Any]]:
    """Yield the entries of the log, newest first; the recent ones without reading the others."""
    recent = table.history(_RECENT)
    yield from recent
    if len(recent) == _RECENT:
        yield from table.history()[_RECENT:]


def _schema(table: DeltaTable) -> pa.Schema:
    return pa.schema(table.schema().to_arrow())
