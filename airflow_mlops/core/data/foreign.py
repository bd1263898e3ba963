"""Commits of other tools: what they changed, and whether the rows are still those on record."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.data.commits import Sidecar
from airflow_mlops.core.data.digest import ContentDigest, digest_of
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.errors import ForeignCommitError, MlopsError, RejectedError
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from airflow_mlops.core.data.table_files import TableFiles

_WHO = ("userName", "userId", "engineInfo", "clientVersion")


@dataclass(frozen=True, slots=True)
class ForeignCommit:
    """
    A commit of another tool that touched files of rows, or the columns.

    :param by: who, or which tool, if its log says so.
    :param at: when, ISO 8601; empty if its log does not say.
    :param added: files of rows it added -> rows in them; ``None``: not said.
    :param removed: files it removed, likewise.
    :param columns: whether it wrote metadata, and so may have changed the columns.
    :param marks: whether it marks rows as deleted inside of a file.
    """

    version: int
    operation: str
    by: str
    at: str
    added: Mapping[str, int | None] = field(default_factory=dict)
    removed: Mapping[str, int | None] = field(default_factory=dict)
    columns: bool = False
    marks: bool = False

    def __str__(self) -> str:
        who = f" by {self.by}" if self.by else ""
        when = f" at {self.at}" if self.at else ""
        parts = [f"{len(self.added)} files added ({_rows(self.added)} rows)"]
        parts += [f"{len(self.removed)} removed ({_rows(self.removed)} rows)"]
        parts += ["columns changed"] if self.columns else []
        return f"version {self.version} {self.operation}{who}{when}: {', '.join(parts)}"


def foreign_commit(version: int, actions: Sequence[Mapping[str, Any]]) -> ForeignCommit | None:
    """
    Read a commit that is not ours; nothing if it touches neither files of rows nor columns.

    Such are the marks of a vacuum, and properties of the table.
    """
    parts: dict[str, dict[str, Any]] = {"add": {}, "remove": {}}
    info: Mapping[str, Any] = {}
    columns = marks = False
    for action in actions:
        info = action.get("commitInfo", info)
        columns = columns or "metaData" in action
        for kind, found in parts.items():
            if kind in action:
                file = action[kind]
                found[unquote(str(file.get("path")))] = _said_rows(file)
                marks = marks or bool(file.get("deletionVector"))
    if not (parts["add"] or parts["remove"] or columns):
        return None
    by = next((str(info[name]) for name in _WHO if info.get(name)), "")
    operation = str(info.get("operation", "of an unknown kind"))
    added, removed = parts["add"], parts["remove"]
    return ForeignCommit(version, operation, by, _moment(info), added, removed, columns, marks)


def same_rows(
    log: "TableFiles", table: "DeltaTable", foreign: Sequence[ForeignCommit], before: Sidecar
) -> bool:
    """
    Say whether the rows are still those of our newest commit, as after a compaction.

    What a tool claims of itself is not asked: the rows in the files that went and in those that
    came are digested and compared. If the former are gone, all rows are digested.

    :param foreign: commits of others since ``before``, oldest first.
    """
    if any(commit.columns or commit.marks for commit in foreign):
        return False
    added: set[str] = set()
    removed: set[str] = set()
    for commit in foreign:
        came, went = {*commit.added} - {*commit.removed}, {*commit.removed} - {*commit.added}
        added, removed = (added - went) | (came - removed), (removed - came) | (went - added)
    schema = pa.schema(table.schema().to_arrow())
    with contextlib.suppress(MlopsError, OSError, pa.ArrowException):
        gone, new = (_digest(log, table, files, schema) for files in (removed, added))
        return gone == new
    ref = DatasetRef.parse(before.commit.ref)
    try:
        Table(ref, schema, before, table, partial(log.read_file, table)).verify()
    except RejectedError:
        return False
    return True


def foreign_error(
    log: "TableFiles", before: Sidecar, foreign: Sequence[ForeignCommit]
) -> ForeignCommitError:
    """Name what other tools did to a dataset, and the ways out."""
    ref = DatasetRef.parse(before.commit.ref)
    return ForeignCommitError(
        f"another tool has changed {ref.name} below {log.root} since {ref}: {described(foreign)}. "
        f"Nothing is built upon that; `airflow mlops restore {ref}` puts the rows of {ref} back, "
        f"`airflow mlops adopt {ref.name}` takes them as they are now, on record "
        "(`[mlops] foreign_commits = adopt` always does so)"
    )


def described(foreign: Iterable[ForeignCommit]) -> str:
    """Write down what other tools did, in one line."""
    return "; ".join(map(str, foreign))


def _digest(
    log: "TableFiles", table: "DeltaTable", files: Iterable[str], schema: pa.Schema
) -> ContentDigest:
    """Digest the rows of files; a column that a file does not have holds no value."""
    total = ContentDigest()
    for path in sorted(files):
        with log.open_file(table, path) as file:
            for batch in pq.ParquetFile(file).iter_batches():
                arrays = [
                    batch.column(f.name).cast(f.type)
                    if f.name in batch.schema.names
                    else pa.nulls(batch.num_rows, f.type)
                    for f in schema
                ]
                total = total + digest_of([pa.RecordBatch.from_arrays(arrays, schema=schema)])
    return total


def _said_rows(file: Mapping[str, Any]) -> int | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return int(json.loads(file["stats"])["numRecords"])
    return None


def _rows(files: Mapping[str, int | None]) -> str:
    known = [rows for rows in files.values() if rows is not None]
    return f"{sum(known):,}" if len(known) == len(files) else "unknown"


def _moment(info: Mapping[str, Any]) -> str:
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        at = datetime.fromtimestamp(int(info["timestamp"]) / 1000, UTC)
        return at.isoformat(timespec="seconds")
    return ""
