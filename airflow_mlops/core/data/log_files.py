"""The files of a table's log, read one by one: what each commit did, and which files it left."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_mlops.core.data.table_files import TableFiles, stored
from airflow_mlops.core.errors import RejectedError

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True, slots=True)
class LogFiles(TableFiles):
    """The logs of the tables below one root."""

    def entries(self, table: "DeltaTable") -> Iterator[dict[str, Any]]:
        """
        Yield what each commit says of itself, newest first, beginning with the state of a table.

        Read file by file: delta-rs reads its whole history, and numbers that of an older state
        wrongly.
        """
        for version in range(table.version(), -1, -1):
            found = (a["commitInfo"] for a in self.actions(table, version) if "commitInfo" in a)
            yield {**next(found, {}), "version": version}

    def actions(self, table: "DeltaTable", version: int) -> list[dict[str, Any]]:
        """
        Return what one commit did.

        :raises RejectedError: if its file is gone, empty, cut or garbled: it would be another
            version.
        """
        path = log_path(version)
        text = self.read_file(table, path)
        with stored(f"{path} of {table.table_uri}"):
            found = [dict(json.loads(line)) for line in text.splitlines() if line]
        if not all(found) or not found:
            msg = f"{path} of {table.table_uri} says nothing: bring it back from a backup"
            raise RejectedError(msg)
        return found

    def changes(self, table: "DeltaTable") -> Iterator[tuple[int, set[str], set[str]]]:
        """
        Yield each version with the files that it added and removed, oldest first.

        Read from the log: opening a thousand versions one after the other costs much more.
        """
        for version in range(table.version() + 1):
            actions = self.actions(table, version)
            with stored(f"{log_path(version)} of {table.table_uri}"):
                added = {unquote(a["add"]["path"]) for a in actions if "add" in a}
                removed = {unquote(a["remove"]["path"]) for a in actions if "remove" in a}
            yield version, added, removed

    def files_of(self, table: "DeltaTable") -> dict[int, set[str]]:
        """Return the files of rows of each version, paths below the table."""
        now: set[str] = set()
        found: dict[int, set[str]] = {}
        for version, added, removed in self.changes(table):
            if added or removed:
                now = (now - removed) | added
            found[version] = now
        return found


def log_path(version: int) -> str:
    """Return the path of the file that says what a commit did."""
    return f"_delta_log/{version:020}.json"
