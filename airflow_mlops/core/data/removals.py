"""
Which versions of a dataset can no longer be read, because their rows were removed on purpose.

A mark is written before the first file goes: a version that is half removed is marked, too.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_mlops.core.data.commits import SIDECARS
from airflow_mlops.core.data.table_files import stored
from airflow_mlops.core.data.version_log import VersionLog
from airflow_mlops.core.refs import DatasetRef, canonical_digest

if TYPE_CHECKING:
    from deltalake import DeltaTable

FOLDER = f"{SIDECARS}/removed"


def removal_of(log: VersionLog, table: "DeltaTable", ref: DatasetRef) -> str:
    """Return when and why the rows of a version were removed; empty if they were not."""
    for path in log.list_files(table, FOLDER):
        mark = log.read_json(table, path)
        with stored(f"{path} of {table.table_uri}"):
            if ref.version in mark["versions"]:
                return f"removed on {mark['at']} ({mark['why']})"
    return ""


def removed_versions(log: VersionLog, table: "DeltaTable") -> set[int]:
    """Return all versions whose rows were removed."""
    found: set[int] = set()
    for path in log.list_files(table, FOLDER):
        mark = log.read_json(table, path)
        with stored(f"{path} of {table.table_uri}"):
            found.update(map(int, mark["versions"]))
    return found


def mark_removed(log: VersionLog, table: "DeltaTable", versions: Iterable[int], why: str) -> str:
    """Mark versions whose rows are about to go; return the path of the mark."""
    found = sorted(versions)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    path = f"{FOLDER}/{canonical_digest(found)[:24]}.json"
    if found:
        data = json.dumps({"versions": found, "at": at, "why": why})
        log.write_file(table, path, data.encode())
    return path
