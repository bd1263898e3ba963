"""
Forget a person: their rows go from every version that is kept, and all versions stay readable.

Files of rows are written again in place, under their old name and size, so that the log of versions
stays true; digests and profiles are made anew from the rows that are left. What is under way is
written down first, and every step can be done again: a call that was killed is finished by the next
one of the same keys, and nothing else may change the dataset until then.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import (
    SIDECARS,
    Sidecar,
    WindowStats,
    sidecar_name,
    total_digest,
)
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.digest import digest_of
from airflow_mlops.core.data.log_files import log_path
from airflow_mlops.core.data.profiling import ProfileBuilder
from airflow_mlops.core.data.readiness import check_whole, shared
from airflow_mlops.core.data.removals import removed_versions
from airflow_mlops.core.data.version_log import (
    META,
    UNDER_WAY,
    Change,
    VersionLog,
    properties_of,
    schema_of,
)
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    from deltalake import DeltaTable


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
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what :meth:`to_dict` wrote."""
        parts: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in data.items()}
        return cls(**parts)


def find_rows(store: DatasetStore, name: str, keys: Iterable[str]) -> Forgotten:
    """
    Look where rows of these keys are; nothing is changed.

    :param keys: values of the key column, as text.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    """
    return _Forgetting.of(store, name, keys).found({})


def forget(
    store: DatasetStore, name: str, keys: Iterable[str], *, author: str = "", run: str = ""
) -> Forgotten:
    """
    Remove the rows of these keys from every version; that it was done is a version of its own.

    Nothing else may change the dataset meanwhile: an append that is under way has to be tried
    again, and is refused until this is done. Correct the source first, else the next append reads
    the rows again. Nobody can open the dataset meanwhile, and whoever opened it before is told that
    rows are, or were, forgotten, and has to open it again.

    :param keys: values of the key column, as text.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    :raises UnavailableError: if rows are being forgotten by another call, or the store is
        read-only.
    :raises RejectedError: if a file cannot be read; nothing is changed then.
    """
    work = _Forgetting.of(store, name, keys)
    with shared(store.log, work.table):
        check_whole(store.log, work.table)
        note = work.begin()
        return work.found({}) if note is None else _forget(work, note, author, run)


def _forget(work: "_Forgetting", note: Mapping[str, Any], author: str, run: str) -> Forgotten:
    """Do what a note says; every step can be done again."""
    log, table = work.log, work.table
    ident, path = note["id"], f"{UNDER_WAY}/{note['id']}.json"
    work.lock(ident, author, run)
    work = replace(
        work, table=log.get(work.name)
    )  # whatever landed before the lock is looked through
    times = work.times(note["files"])
    log.write_file(table, path, json.dumps({**note, "files": times}).encode())
    work.correct_sidecars(ident, times)
    work.rewrite_files(times)
    work.remove_orphans()
    log.remove_file(table, path)
    return work.found(times)


def spellings(store: DatasetStore, name: str, keys: Iterable[str]) -> list[str]:
    """
    Return the texts that stand for these keys elsewhere, such as in the table of predictions.

    :param keys: values of the key column, as text.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    """
    values, given = _Forgetting.of(store, name, keys).keys, set(keys)
    written = {str(value) for value in values.to_pylist()}
    return sorted(given | written | {*values.cast(pa.string()).to_pylist()})


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

    def times(self, known: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """
        Return the files that hold rows to forget -> the times of these.

        :param known: what an earlier call found: such a file may have been written again since.
        """
        found = dict(known)
        columns = [self.newest.key, self.newest.time]
        for path in self.log.list_files(self.table, ""):
            if path.endswith(".parquet") and path not in known:
                with self.log.open_file(self.table, path) as file:
                    rows = pq.ParquetFile(file).read(columns)
                times = rows[columns[1]].filter(self._is_among(rows)).to_pylist()
                if times:
                    found[path] = [time.isoformat() for time in times]
        return found

    @cached_property
    def of_version(self) -> Mapping[int, set[str]]:
        """Version -> its files."""
        return self.log.files_of(self.table)

    def found(self, known: Mapping[str, list[str]]) -> Forgotten:
        """Say where the rows are, or were."""
        times = self.times(known)
        versions = [
            int(entry["version"])
            for entry in self.log.entries(self.table)
            if META in entry and self.of_version[int(entry["version"])] & {*times}
        ]
        moments = sorted({t for found in times.values() for t in found})
        rows = sum(map(len, times.values()))
        return Forgotten(
            self.name, rows, tuple(sorted(versions)), tuple(moments), tuple(sorted(times))
        )

    def begin(self) -> dict[str, Any] | None:
        """
        Write down what is under way, or find it; nothing if there is nothing to forget.

        The note names the keys, and goes in the end. Its id stays in the sidecars.
        """
        asked = [str(key) for key in self.keys.to_pylist()]
        for _, known in self.log.notes(self.table, UNDER_WAY):
            if known is not None and known["keys"] == asked:
                return known
        self.log.refuse_under_way(self.table)
        if not self.times({}):
            return None
        at, ident = datetime.now(UTC).isoformat(timespec="seconds"), secrets.token_hex(8)
        note = {"id": ident, "keys": asked, "at": at, "what": "rows are forgotten", "files": {}}
        path = f"{UNDER_WAY}/{ident}.json"
        self.log.write_file(self.table, path, json.dumps(note).encode())
        try:
            self.log.refuse_under_way(self.table, mine=ident)
        except UnavailableError:
            self.log.remove_file(self.table, path)  # two began at once: neither goes on
            raise
        return note

    def lock(self, ident: str, author: str, run: str) -> None:
        """Commit that rows are forgotten: an append that began before conflicts with it."""
        change = Change(self.name, f"forget:{ident}", "forget", ident)

        def attempt(table: "DeltaTable", before: Sidecar | None) -> bool:
            if before is None:
                return False
            path = sidecar_name(change.app_key)
            commit = replace(
                before.commit,
                ref=str(DatasetRef(self.name, table.version() + 1)),
                added=0,
                windows=(),
                author=author,
                origin="rows were forgotten on request",
                run=run,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            sidecar = replace(before, commit=commit, sequence=before.sequence + 1)
            self.log.write_file(table, path, sidecar.to_json().encode())
            self.log.touch(table, properties_of(change, path, sidecar.sequence))
            return True

        self.log.once(self.table, change, attempt)

    def correct_sidecars(self, ident: str, times: Mapping[str, list[str]]) -> None:
        """Make rows, digests and profiles of every version those of the rows that will be left."""
        gone = removed_versions(self.log, self.table)
        done: dict[tuple[str, int], WindowStats] = {}
        for entry in self.log.entries(self.table):
            version = int(entry["version"])
            if META not in entry or version in gone:
                continue
            sidecar = self.log.sidecar(self.table, entry)
            held = [t for file in self.of_version[version] for t in times.get(file, ())]
            corrected = {
                w.index: self._corrected(w, version, done)
                for w in sidecar.windows
                if any(_holds(w, t) for t in held)
            }
            if corrected:
                sidecar = _with_windows(sidecar, corrected, ident)
                self.log.write_file(self.table, entry[META], sidecar.to_json().encode())

    def _corrected(
        self, window: WindowStats, version: int, done: dict[tuple[str, int], WindowStats]
    ) -> WindowStats:
        """Describe a window without the rows to forget; its profile is stored."""
        place = (window.owner, window.index)
        if place not in done:
            table = self.store.open_anyway(DatasetRef(self.name, version))
            since, until = window.span
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

    def rewrite_files(self, times: Mapping[str, list[str]]) -> None:
        """Write the files again without the rows, and what the log says about them."""
        there = {*self.log.list_files(self.table, "")}
        sizes: dict[str, tuple[int, int]] = {}
        for path in sorted(there & {*times}):
            data = self.log.read_file(self.table, path)
            found, rows = self._without(data)
            self.log.write_file(self.table, path, _padded(found, len(data)))
            sizes[path] = (max(len(data), len(found)), rows)
        for version in range(self.table.version() + 1):
            path = log_path(version)
            text = self.log.read_file(self.table, path).decode()
            # Not splitlines: least and greatest values may hold a line separator of Unicode.
            old = text.split("\n")
            lines = [_relogged(line, sizes) for line in old]
            if lines != old:
                self.log.write_file(self.table, path, "\n".join(lines).encode())
        self.log.renew_checkpoint(self.table)

    def remove_orphans(self) -> None:
        """Remove what attempts that never landed wrote about rows."""
        named: set[str] = set()
        for entry in self.log.entries(self.table):
            if META in entry:
                sidecar = self.log.sidecar(self.table, entry)
                named |= {entry[META], *(w.owner for w in sidecar.windows)}
        for path in self.log.list_files(self.table, SIDECARS):
            if path not in named:
                self.log.remove_file(self.table, path)

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


def _holds(window: WindowStats, moment: str) -> bool:
    start, time, end = map(datetime.fromisoformat, (window.start, moment, window.end))
    return start <= time < end


def _with_windows(sidecar: Sidecar, corrected: Mapping[int, WindowStats], ident: str) -> Sidecar:
    """Put corrected windows into a sidecar."""
    windows = tuple(corrected.get(w.index, w) for w in sidecar.windows)
    commit = replace(
        sidecar.commit,
        rows=sum(w.rows for w in windows),
        digest=str(total_digest(windows)),
        windows=tuple(corrected.get(w.index, w) for w in sidecar.commit.windows),
    )
    forgotten = tuple(dict.fromkeys((*sidecar.forgotten, ident)))
    return replace(sidecar, commit=commit, windows=windows, forgotten=forgotten)


def _padded(data: bytes, size: int) -> bytes:
    """
    Fill a Parquet file up to a size, before its footer.

    The log names the size of each file; offsets in the footer count from the beginning.
    """
    footer = int.from_bytes(data[-8:-4], "little") + 8
    return data[:-footer] + bytes(max(0, size - len(data))) + data[-footer:]


def _relogged(line: str, sizes: Mapping[str, tuple[int, int]]) -> str:
    """Correct what the log says of a file; least and greatest values may be those of the person."""
    if not line.strip():
        return line
    action = json.loads(line)
    path = action.get("add", {}).get("path")
    if path not in sizes:
        return line
    size, rows = sizes[path]
    action["add"] |= {"size": size, "stats": json.dumps({"numRecords": rows})}
    return json.dumps(action, separators=(",", ":"))
