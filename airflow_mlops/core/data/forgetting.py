"""
Forget a person: their rows go from every version that is kept, and all versions stay readable.

Files of rows are written again in place, under their old name and size, so that the log of versions
stays true; digests and profiles are made anew from the rows that are left. First what is stored
about the rows, then the rows: a call that was killed is finished by the next one.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import SIDECARS, Sidecar, WindowStats, total_digest
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.digest import digest_of
from airflow_mlops.core.data.profiling import ProfileBuilder
from airflow_mlops.core.data.removals import removed_versions
from airflow_mlops.core.data.version_log import META, VersionLog, log_path, schema_of
from airflow_mlops.core.errors import ConfigurationError, DatasetNotFoundError
from airflow_mlops.core.refs import DatasetRef, canonical_digest

if TYPE_CHECKING:
    from deltalake import DeltaTable

FOLDER = f"{SIDECARS}/forgetting"
"""Where a call that is under way is written down; nothing stays there."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """
    What was, or would be, forgotten.

    :param rows: rows that go, over all files: a row counts in each file that holds a copy.
    :param versions: versions that had any of them.
    :param times: times of these rows, ISO 8601, sorted.
    :param files: files that are written again.
    """

    dataset: str
    rows: int
    versions: tuple[int, ...]
    times: tuple[str, ...]
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def find_rows(store: DatasetStore, name: str, keys: Iterable[str]) -> Forgotten:
    """
    Look where rows of these keys are; nothing is changed.

    :param keys: values of the key column, as text.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    """
    return _Forgetting.of(store, name, keys).found


def forget(store: DatasetStore, name: str, keys: Iterable[str]) -> Forgotten:
    """
    Remove the rows of these keys from every version.

    Correct the source first: the next append would read them again. A reader that is under way may
    fail and has to be run again.

    :param keys: values of the key column, as text.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    """
    work = _Forgetting.of(store, name, keys)
    found, log, table = work.found, store.log, work.table
    ident, path = work.begin()
    if found.files:
        work.correct_sidecars(ident)
        work.rewrite_files()
    log.remove_file(table, path)
    return found


@dataclass(frozen=True)
class _Forgetting:
    """
    One call.

    :param table: the newest state.
    :param newest: what its commit says.
    :param keys: values to forget, in the type of the key column.
    """

    store: DatasetStore
    table: "DeltaTable"
    newest: Sidecar
    keys: pa.Array

    @classmethod
    def of(cls, store: DatasetStore, name: str, keys: Iterable[str]) -> "_Forgetting":
        table = store.log.find(name)
        newest = table and store.log.newest(table)
        if table is None or newest is None:
            msg = f"no dataset {name} below {store.root}: no such dataset"
            raise DatasetNotFoundError(msg)
        kind, texts = schema_of(table).field(newest.key).type, sorted(set(keys))
        try:
            values = pa.array(texts, pa.string()).cast(kind)
        except pa.ArrowInvalid as error:
            msg = f"key {newest.key!r} of {name} is {kind}, {texts} cannot be among it: {error}"
            raise ConfigurationError(msg) from error
        return cls(store, table, newest, values)

    @property
    def log(self) -> VersionLog:
        return self.store.log

    @property
    def name(self) -> str:
        return DatasetRef.parse(self.newest.commit.ref).name

    @cached_property
    def times(self) -> Mapping[str, list[datetime]]:
        """File that has rows to forget -> their times."""
        found = {}
        columns = [self.newest.key, self.newest.time]
        for path in self.log.list_files(self.table, ""):
            if path.endswith(".parquet"):
                with self.log.open_file(self.table, path) as file:
                    rows = pq.ParquetFile(file).read(columns)
                times = rows[columns[1]].filter(self._is_among(rows)).to_pylist()
                if times:
                    found[path] = times
        return found

    @cached_property
    def of_version(self) -> Mapping[int, set[str]]:
        """Version -> its files."""
        return self.log.files_of(self.table)

    @cached_property
    def found(self) -> Forgotten:
        """Where the rows are."""
        versions = [
            int(entry["version"])
            for entry in self.log.entries(self.table)
            if META in entry and self.of_version[int(entry["version"])] & {*self.times}
        ]
        moments = sorted({t for times in self.times.values() for t in times})
        return Forgotten(
            self.name,
            sum(map(len, self.times.values())),
            tuple(sorted(versions)),
            tuple(t.isoformat() for t in moments),
            tuple(sorted(self.times)),
        )

    def begin(self) -> tuple[str, str]:
        """
        Write down what is under way, or find it; return its id and the note's path.

        The id stays in the sidecars, and says nothing about the person.
        """
        asked = canonical_digest([str(key) for key in self.keys.to_pylist()])
        for path in self.log.list_files(self.table, FOLDER):
            note = json.loads(self.log.read_file(self.table, path))
            if note["asked"] == asked:
                return str(note["id"]), path
        ident = secrets.token_hex(8)
        path = f"{FOLDER}/{ident}.json"
        note = {"id": ident, "asked": asked}
        self.log.write_file(self.table, path, json.dumps(note).encode())
        return ident, path

    def correct_sidecars(self, ident: str) -> None:
        """Make rows, digests and profiles of every version those of the rows that will be left."""
        gone = removed_versions(self.log, self.table)
        done: dict[tuple[str, int], WindowStats] = {}
        for entry in self.log.entries(self.table):
            version = int(entry["version"])
            if META not in entry or version in gone:
                continue
            sidecar = self.log.sidecar(self.table, entry)
            if ident in sidecar.forgotten:
                continue  # by a call that was killed later
            times = [t for f in self.of_version[version] for t in self.times.get(f, ())]
            corrected = {
                w.index: self._corrected(w, version, done)
                for w in sidecar.windows
                if any(_holds(w, t) for t in times)
            }
            sidecar = _with_windows(sidecar, corrected, ident)
            self.log.write_file(self.table, entry[META], sidecar.to_json().encode())

    def _corrected(
        self, window: WindowStats, version: int, done: dict[tuple[str, int], WindowStats]
    ) -> WindowStats:
        """Describe a window without the rows to forget; its profile is stored."""
        place = (window.owner, window.index)
        if place not in done:
            table = self.store.open(DatasetRef(self.name, version))
            since, until = (datetime.fromisoformat(t) for t in (window.start, window.end))
            rows = table.between(since, until).to_arrow(table.columns(window.contract))
            left = rows.filter(pc.invert(self._is_among(rows))).combine_chunks()
            stored = profiles.from_bytes(self.log.read_file(self.table, window.owner))
            builder = ProfileBuilder(stored[window.index])
            for batch in left.to_batches() or [pa.RecordBatch.from_pylist([], left.schema)]:
                builder.update(batch)
            data = profiles.to_bytes({**stored, window.index: builder.finish()})
            self.log.write_file(self.table, window.owner, data)
            digest = str(digest_of(left.to_batches()))
            done[place] = replace(window, rows=left.num_rows, digest=digest)
        return done[place]

    def rewrite_files(self) -> None:
        """Write the files again without the rows, and what the log says about them."""
        sizes: dict[str, tuple[int, int]] = {}
        for path in self.found.files:
            data = self.log.read_file(self.table, path)
            found, rows = self._without(data)
            self.log.write_file(self.table, path, _padded(found, len(data)))
            sizes[path] = (max(len(data), len(found)), rows)
        for version in range(self.table.version() + 1):
            path = log_path(version)
            text = self.log.read_file(self.table, path).decode()
            lines = [_relogged(line, sizes) for line in text.splitlines()]
            if lines != text.splitlines():
                self.log.write_file(self.table, path, "\n".join(lines).encode())
        self.log.renew_checkpoint(self.table)

    def _without(self, data: bytes) -> tuple[bytes, int]:
        """Return a Parquet file without the rows to forget, and how many are left."""
        file, sink, rows = pq.ParquetFile(pa.BufferReader(data)), pa.BufferOutputStream(), 0
        with pq.ParquetWriter(
            sink, file.schema_arrow, compression="zstd", compression_level=9, store_schema=False
        ) as writer:
            for number in range(file.num_row_groups):
                group = file.read_row_group(number)
                left = group.filter(pc.invert(self._is_among(group)))
                rows += left.num_rows
                writer.write_table(left)
        return bytes(sink.getvalue().to_pybytes()), rows

    def _is_among(self, rows: pa.Table) -> pa.ChunkedArray:
        return pc.is_in(rows[self.newest.key], value_set=self.keys)


def _holds(window: WindowStats, moment: datetime) -> bool:
    start, end = (datetime.fromisoformat(t) for t in (window.start, window.end))
    return start <= moment < end


def _with_windows(sidecar: Sidecar, corrected: Mapping[int, WindowStats], ident: str) -> Sidecar:
    """Put corrected windows into a sidecar."""
    windows = tuple(corrected.get(w.index, w) for w in sidecar.windows)
    commit = replace(
        sidecar.commit,
        rows=sum(w.rows for w in windows),
        digest=str(total_digest(windows)),
        windows=tuple(corrected.get(w.index, w) for w in sidecar.commit.windows),
    )
    return replace(sidecar, commit=commit, windows=windows, forgotten=(*sidecar.forgotten, ident))


def _padded(data: bytes, size: int) -> bytes:
    """
    Fill a Parquet file up to a size, before its footer.

    The log names the size of each file; offsets in the footer count from the beginning.
    """
    footer = int.from_bytes(data[-8:-4], "little") + 8
    return data[:-footer] + bytes(max(0, size - len(data))) + data[-footer:]


def _relogged(line: str, sizes: Mapping[str, tuple[int, int]]) -> str:
    """Correct what the log says of a file; least and greatest values may be those of the person."""
    action = json.loads(line)
    path = action.get("add", {}).get("path")
    if path not in sizes:
        return line
    size, rows = sizes[path]
    action["add"] |= {"size": size, "stats": json.dumps({"numRecords": rows})}
    return json.dumps(action, separators=(",", ":"))
