"""
The log of versions: a Delta table for each dataset, with a sidecar beside each of its commits.

A sidecar is written before the commit that names it: a kill at any moment leaves either no commit,
or the whole one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
from deltalake import (
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from airflow_mlops.core.data.commits import (
    SIDECARS,
    Commit,
    Full,
    Sidecar,
    base_path,
    commit_of,
)
from airflow_mlops.core.data.foreign import (
    ForeignCommit,
    foreign_commit,
    foreign_error,
    same_rows,
)
from airflow_mlops.core.data.log_files import LogFiles
from airflow_mlops.core.data.predicates import within
from airflow_mlops.core.data.table_files import stored
from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

META = "mlops"
"""Key of a commit's metadata that names its sidecar."""

APP_KEY = "mlops.app_key"
"""Key of a commit's metadata that names the change it answers."""

FOREIGN = "mlops.foreign"
"""Key of a commit's metadata that says which commits of other tools it answers."""

UNDER_WAY = f"{SIDECARS}/under_way"
"""Folder of notes about what is under way and must not be overlapped."""

SEQUENCE = "mlops"
"""Delta application id that every commit counts up: two changes at once cannot both land."""

_ROW_GROUP = 65_536
"""Rows that the writer holds in memory."""

_RACES = 10

_CONFIGURATION = {
    # The log is the list of versions: it must not expire.
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change of a dataset, and what it is remembered by.

    :param name: name of the dataset.
    :param app_key: names this change; a retry uses the same one.
    :param what: what it is called in an error, such as ``append``.
    :param note: its own note in ``UNDER_WAY``; empty if it has none.
    :param answers: whether it is the answer to commits of other tools; else they are refused.
    """

    name: str
    app_key: str
    what: str
    note: str = ""
    answers: bool = False


@dataclass(frozen=True, slots=True)
class VersionLog(LogFiles):
    """The tables below one root."""

    def find(self, name: str, version: int | None = None) -> DeltaTable | None:
        """
        Open a table, if there is one.

        :param version: the state to open; ``None``: the newest.
        :raises UnavailableError: if the store does not answer.
        :raises ConfigurationError: if it refuses, or an option is none.
        """
        with self._talking(f"does not answer about {name}"):
            try:
                return DeltaTable(self.uri(name), version, self._options())
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
            self.refuse_under_way(table, mine=change.note)
            before = self.last_own(table)[0] if change.answers else self.newest(table)
            try:
                written = attempt(table, before)
            except CommitFailedError:
                table = self.get(change.name)  # somebody else committed first: look again
                continue
            if written:
                return self._own(self.get(change.name), change)
            return replace(before.commit, added=0, windows=(), corrected=0) if before else None
        msg = f"{_RACES} other changes of {change.name} came first; try the {change.what} again"
        raise UnavailableError(msg)

    def refuse_under_way(self, table: DeltaTable, *, mine: str = "") -> None:
        """
        Refuse to change a dataset while something is under way that nothing may overlap.

        :param mine: id of the caller's own note.
        :raises UnavailableError: if there is a note of somebody else.
        """
        for path, note in self.notes(table, UNDER_WAY):
            if note is None:
                msg = f"{table.table_uri}: something that was under way has just ended; try again"
                raise UnavailableError(msg)
            with stored(f"{path} of {table.table_uri}"):
                ident, what, at = note["id"], note["what"], note["at"]
            if ident != mine:
                msg = (
                    f"{table.table_uri}: {what} since {at}, and nobody else may "
                    "read or change it meanwhile; try again later. If that call was killed, run it "
                    "once more with the same keys: airflow mlops forget"
                )
                raise UnavailableError(msg)

    def touch(self, table: DeltaTable, properties: CommitProperties) -> None:
        """
        Commit that something happened; no row changes.

        :raises deltalake.exceptions.CommitFailedError: if somebody else committed first.
        """
        with self._talking("cannot be written"):
            table.create_write_transaction(
                [], "append", table.schema(), commit_properties=properties
            )

    def _own(self, table: DeltaTable, change: Change) -> Commit:
        """Return the commit that carries this change's key."""
        for entry in self.entries(table):
            if entry.get(APP_KEY) == change.app_key:
                return self.commit(table, entry)
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
        replaced: Sequence[tuple[datetime, datetime | None]],
        time: str,
        schema_mode: Literal["merge", "overwrite"] | None,
    ) -> None:
        """
        Commit rows.

        :param replaced: spans of time whose stored rows are replaced: first moment (inclusive) and
            end (exclusive; ``None``: all later ones); empty: the commit only adds.
        :param time: time column.
        :param schema_mode: ``"merge"`` adds columns, ``"overwrite"`` replaces all rows as well.
        :raises deltalake.exceptions.CommitFailedError: if somebody else committed first.
        """
        how: dict[str, Any] = {"mode": "append", "schema_mode": schema_mode}
        if schema_mode == "overwrite":
            how["mode"] = "overwrite"
        elif replaced:
            how |= {"mode": "overwrite", "predicate": within(time, replaced)}
        with self._talking(f"cannot write {_name(table)}"):
            write_deltalake(
                table,
                rows,
                commit_properties=properties,
                writer_properties=WriterProperties(
                    compression="SNAPPY", max_row_group_size=_ROW_GROUP
                ),
                **how,
            )

    def newest(self, table: DeltaTable) -> Sidecar | None:
        """
        Return what the newest commit up to the state of a table says.

        :raises ForeignCommitError: if another tool has changed rows since.
        """
        found, foreign = self.last_own(table)
        if found is not None and foreign and not same_rows(self, table, foreign, found):
            raise foreign_error(self, found, foreign)
        return found

    def last_own(self, table: DeltaTable) -> tuple[Sidecar | None, tuple[ForeignCommit, ...]]:
        """Return what our newest commit says, and those of others since that touch rows."""
        foreign: list[ForeignCommit] = []
        for entry in self.entries(table):
            if META in entry:
                kept = self._without_columns(table, int(entry["version"]), foreign)
                return self.sidecar(table, entry), kept
            found = foreign_commit(int(entry["version"]), self.actions(table, entry["version"]))
            if found is not None:
                foreign.append(found)
        return None, ()

    def _without_columns(
        self, table: DeltaTable, version: int, foreign: list[ForeignCommit]
    ) -> tuple[ForeignCommit, ...]:
        """Leave out commits that wrote metadata only, and left the columns as they were."""
        if any(commit.columns for commit in foreign):
            before = self.find(_name(table), version)
            if before and _types(before) == _types(table):
                foreign = [replace(commit, columns=False) for commit in foreign]
        touching = (c for c in foreign if c.added or c.removed or c.columns)
        return tuple(sorted(touching, key=lambda commit: commit.version))

    def sidecar(self, table: DeltaTable, entry: Mapping[str, Any]) -> Sidecar:
        """
        Return what one entry of a table's history says; the version is the entry's own.

        :raises RejectedError: if it is gone, cut or garbled.
        """
        path = str(entry[META])
        found = self._sidecar(table, path)
        return replace(found, commit=_numbered(found.commit, entry))

    def commit(self, table: DeltaTable, entry: Mapping[str, Any]) -> Commit:
        """Return the commit of one entry; reads no other file than its own."""
        data = self.read_file(table, entry[META])
        with stored(f"{entry[META]} of {table.table_uri}"):
            return _numbered(commit_of(data), entry)

    def _sidecar(self, table: DeltaTable, path: str) -> Sidecar:
        data = self.read_file(table, path)
        with stored(f"{path} of {table.table_uri}"):
            base = base_path(data)
        full = Full(base, self._sidecar(table, base).windows) if base else None
        with stored(f"{path} of {table.table_uri}"):
            return Sidecar.from_json(data, path, full)

    def renew_checkpoint(self, table: DeltaTable) -> None:
        """Write the table's checkpoint anew, if it has any: files of its log were corrected."""
        name = str(table.table_uri).rstrip("/").rpartition("/")[2]
        found = self.list_files(table, "_delta_log")
        old = [p for p in found if "checkpoint" in p]
        for path in sorted(old, reverse=True):  # the pointer to the newest one first
            self.remove_file(table, path)
        if old:
            with self._talking("cannot write a checkpoint"):
                self.get(name).create_checkpoint()

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

    def vacuum(
        self, table: DeltaTable, keep: Iterable[int], older: timedelta, *, apply: bool
    ) -> list[str]:
        """
        Find, or remove, the files of rows that no version needs.

        :param keep: versions whose files stay; those of the newest version always do.
        :param older: how long ago a file has to be replaced, or written and never committed;
            full hours count
        :raises deltalake.exceptions.CommitFailedError: if somebody else committed meanwhile.
        :return: paths below the table, sorted.
        """
        hours = math.ceil(older / timedelta(hours=1))
        with self._talking("cannot be cleaned up"):
            found = table.vacuum(
                hours,
                dry_run=not apply,
                enforce_retention_duration=False,
                full=True,
                keep_versions=sorted(keep),
            )
        return sorted(unquote(path) for path in found)

    def vacuumed(self, name: str, keep: Iterable[int], older: timedelta) -> bool:
        """
        Remove what :meth:`vacuum` finds in the newest state; ``False`` if somebody else was faster.

        :param keep: versions whose files stay.
        :param older: as for :meth:`vacuum`.
        """
        try:
            self.vacuum(self.get(name), keep, older, apply=True)
        except CommitFailedError:
            return False
        return True


def _numbered(commit: Commit, entry: Mapping[str, Any]) -> Commit:
    name = DatasetRef.parse(commit.ref).name
    return replace(commit, ref=str(DatasetRef(name, int(entry["version"]))))


def properties_of(
    change: Change, sidecar: str, sequence: int, foreign: str = ""
) -> CommitProperties:
    """
    Return what a commit carries.

    :param sidecar: path of its sidecar.
    :param sequence: its number; of two commits with one number only the first lands.
    :param foreign: what it says about commits of other tools.
    """
    said = {FOREIGN: foreign} if foreign else {}
    return CommitProperties(
        custom_metadata={META: sidecar, APP_KEY: change.app_key, **said},
        max_commit_retries=0,  # whatever landed meanwhile, of whichever tool, is looked at first
        app_transactions=[Transaction(change.app_key, 1), Transaction(SEQUENCE, sequence)],
    )


def _name(table: DeltaTable) -> str:
    return str(table.table_uri).rstrip("/").rpartition("/")[2]


def _types(table: DeltaTable) -> dict[str, str]:
    return {f.name: str(f.type) for f in schema_of(table)}


def schema_of(table: DeltaTable) -> pa.Schema:
    """Return columns and their types."""
    return pa.schema(table.schema().to_arrow())
