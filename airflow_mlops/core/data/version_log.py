"""
The log of versions: a Delta table for each dataset, with a sidecar beside each of its commits.

The one door to delta-rs. A sidecar is written before the commit that names it: a kill at any moment
leaves either no commit, or the whole one.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

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
from pyarrow.fs import FileSelector

from airflow_mlops.core.data.commits import Commit, Sidecar
from airflow_mlops.core.data.sources import quoted
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

META = "mlops"
"""Key of a commit's metadata that names its sidecar."""

APP_KEY = "mlops.app_key"
"""Key of a commit's metadata that names the change it answers."""

SEQUENCE = "mlops"
"""Delta application id that every commit counts up: two changes at once cannot both land."""

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

_PATIENCE = {"max_retries": "3", "retry_timeout": "30s"}
"""An object store that is away is given up after a while; object_store's own limit is 3 minutes."""

_REFUSED = ("Generic Config error", "NoSuchBucket", "AccessDenied", "InvalidAccessKey", "Forbidden")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change of a dataset, and what it is remembered by.

    :param name: name of the dataset.
    :param app_key: names this change; a retry uses the same one.
    :param what: what it is called in an error, such as ``append``.
    """

    name: str
    app_key: str
    what: str


@dataclass(frozen=True, slots=True)
class VersionLog:
    """
    The tables below one root.

    :param root: local path or object-store URI.
    :param options: credentials and endpoint, as delta-rs names them; never logged.
    """

    root: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def uri(self, name: str) -> str:
        """Return the place of a dataset."""
        return f"{self.root.rstrip('/')}/{name}"

    def find(self, name: str) -> DeltaTable | None:
        """
        Open the newest state of a table, if there is one.

        :raises UnavailableError: if the store does not answer.
        :raises ConfigurationError: if it refuses, or an option is none.
        """
        with self._talking(f"does not answer about {name}"):
            try:
                return DeltaTable(self.uri(name), storage_options=self._options())
            except TableNotFoundError:
                return None

    def get(self, name: str) -> DeltaTable:
        """
        Open the newest state of a table that was there a moment ago.

        :raises UnavailableError: if it is gone, or the store does not answer.
        """
        table = self.find(name)
        if table is None:
            msg = f"dataset {name} below {self.root} went away"
            raise UnavailableError(msg)
        return table

    def create(self, name: str, schema: pa.Schema) -> DeltaTable:
        """Create an empty table, unless somebody was faster."""
        with self._talking(f"cannot create {name}"):
            return DeltaTable.create(
                self.uri(name),
                schema,
                mode="ignore",
                configuration=_CONFIGURATION,
                storage_options=self._options(),
            )

    def once(
        self,
        table: DeltaTable,
        change: Change,
        attempt: Callable[[DeltaTable, Sidecar | None], bool],
    ) -> Commit | None:
        """
        Make a change exactly once, however often it is tried and whoever else writes.

        :param table: the newest state.
        :param attempt: writes one commit after the newest one; ``False`` if there is nothing to do.
        :return: the commit of the change, by whichever try; if there was nothing to do, the newest
            one, with nothing added; ``None`` if there is none at all.
        :raises UnavailableError: if others always came first.
        """
        for _ in range(_RACES):
            # Asked of the handle that is written through: delta-rs compares newer commits only.
            if (table.transaction_version(change.app_key) or 0) >= 1:
                return self._own(table, change)
            before = self.newest(table)
            try:
                written = attempt(table, before)
            except CommitFailedError:
                table = self.get(change.name)  # somebody else committed first: look again
                continue
            if written:
                return self._own(self.get(change.name), change)
            return replace(before.commit, added=0, windows=()) if before else None
        msg = f"{_RACES} other changes of {change.name} came first; try the {change.what} again"
        raise UnavailableError(msg)

    def _own(self, table: DeltaTable, change: Change) -> Commit:
        """Return the commit that carries this change's key."""
        for entry in history(table):
            if entry.get(APP_KEY) == change.app_key:
                return self.sidecar(table, entry).commit
        msg = (
            f"{change.name} knows {change.what} {change.app_key!r}, its commit is gone: files of "
            "the log were removed by hand; bring them back"
        )
        raise RejectedError(msg)

    def write(
        self,
        table: DeltaTable,
        rows: pa.RecordBatchReader,
        properties: CommitProperties,
        *,
        replaced: tuple[str, datetime] | None,
        schema_mode: Literal["merge", "overwrite"] | None,
    ) -> None:
        """
        Commit rows.

        :param replaced: time column, and the moment from which stored rows are replaced.
        :param schema_mode: ``"merge"`` adds columns, ``"overwrite"`` replaces all rows as well.
        :raises deltalake.exceptions.CommitFailedError: if somebody else committed first.
        """
        how: dict[str, Any] = {"mode": "append", "schema_mode": schema_mode}
        if schema_mode == "overwrite":
            how["mode"] = "overwrite"
        elif replaced is not None:
            how |= {"mode": "overwrite", "predicate": _from(*replaced)}
        name = table.table_uri.rstrip("/").rpartition("/")[2]
        with self._talking(f"cannot write {name}"):
            write_deltalake(
                table,
                rows,
                commit_properties=properties,
                writer_properties=WriterProperties(max_row_group_size=_ROW_GROUP),
                **how,
            )

    def newest(self, table: DeltaTable, *, until: int | None = None) -> Sidecar | None:
        """
        Return what the newest commit says.

        :param table: the newest state: on an older one delta-rs numbers its history wrongly.
        :param until: newest version to look at; ``None``: all.
        """
        for entry in history(table):
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
        """
        Read a file below a table.

        :raises RejectedError: if it is gone.
        """
        with self._talking(f"cannot read {path}"):
            try:
                with self._files(table).open_input_file(path) as file:
                    return bytes(file.read())
            except FileNotFoundError as error:
                msg = f"{path} of {table.table_uri} is gone: bring it back from a backup"
                raise RejectedError(msg) from error

    def write_file(self, table: DeltaTable, path: str, data: bytes) -> None:
        """Write a file below a table; readers see the old one or the new one, never a part."""
        with self._talking(f"cannot write {path}"):
            # pyarrow hands delta-rs a Buffer where it wants bytes: write below pyarrow's wrapper
            file = self._files(table)._handler.open_output_stream(path, {})
            file.write(data)
            file.close()

    def restore(self, table: DeltaTable, version: int, properties: CommitProperties) -> None:
        """
        Commit the rows of an earlier version again; no row is copied.

        :raises deltalake.exceptions.CommitFailedError: if somebody else committed first.
        """
        try:
            with self._talking(f"cannot restore version {version}"):
                table.restore(version, commit_properties=properties)
        except UnavailableError as error:
            if "missing file" not in str(error):
                raise
            msg = f"{error}: its rows are gone; choose another version, or bring the file back"
            raise DatasetNotFoundError(msg) from error

    def load(self, table: DeltaTable, version: int) -> None:
        """Turn a table's newest state into an earlier one."""
        with self._talking(f"cannot open version {version}"):
            table.load_as_version(version)

    def remove_file(self, table: DeltaTable, path: str) -> None:
        """Remove a file below a table; one that is gone is fine."""
        with self._talking(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
            self._files(table).delete_file(path)

    def list_files(self, table: DeltaTable, folder: str) -> list[str]:
        """Return the paths of the files right below a folder of a table, sorted."""
        with self._talking(f"cannot list {folder}"):
            selector = FileSelector(folder, allow_not_found=True)
            found = self._files(table).get_file_info_selector(selector)
        return sorted(info.path for info in found if info.is_file)

    def read_json(self, table: DeltaTable, path: str) -> dict[str, Any] | None:
        """Read a JSON file below a table, if there is one."""
        if path not in self.list_files(table, path.rpartition("/")[0]):
            return None
        found: dict[str, Any] = json.loads(self.read_file(table, path))
        return found

    def _options(self) -> dict[str, str] | None:
        patience = _PATIENCE if "://" in self.root else {}
        return {**patience, **self.options} or None

    def _files(self, table: DeltaTable) -> DeltaStorageHandler:
        return DeltaStorageHandler.from_table(table._table, self._options())

    @contextlib.contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        """
        Give delta-rs's errors their family.

        :param what: what cannot be done: the errors name it.
        """
        try:
            yield
        except CommitFailedError:
            raise
        except (DeltaError, OSError) as error:
            text = _COLOURS.sub("", " ".join(str(error).split()))
            msg = f"the dataset store at {self.root} {what}: {text}"
            refused = any(sign in text for sign in _REFUSED)
            raise (ConfigurationError if refused else UnavailableError)(msg) from error


def properties_of(change: Change, sidecar: str, sequence: int) -> CommitProperties:
    """
    Return what a commit carries.

    :param sidecar: path of its sidecar.
    :param sequence: its number; of two commits with one number only the first lands.
    """
    return CommitProperties(
        custom_metadata={META: sidecar, APP_KEY: change.app_key},
        app_transactions=[Transaction(change.app_key, 1), Transaction(SEQUENCE, sequence)],
    )


def history(table: DeltaTable) -> Iterator[dict[str, Any]]:
    """Yield the entries of the log, newest first; the recent ones without reading the others."""
    recent = table.history(_RECENT)
    yield from recent
    if len(recent) == _RECENT:
        yield from table.history()[_RECENT:]


def schema_of(table: DeltaTable) -> pa.Schema:
    """Return columns and their types."""
    return pa.schema(table.schema().to_arrow())


def _from(column: str, moment: datetime) -> str:
    """Write ``column >= moment`` in the words of delta-rs."""
    text = moment.isoformat(timespec="microseconds")
    return f"{quoted(column)} >= arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"
