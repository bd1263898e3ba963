"""
Append exactly once: the protocol behind :meth:`DatasetStore.append`.

The rows stream through digest and profile into Delta's writer. Their summary, the sidecar, is
written when the last row has passed, which is before Delta commits; the commit names the sidecar.
A kill at any moment leaves either no commit, or the whole one.
"""

import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.contract import schema_breaks
from airflow_mlops.core.data.datasets import (
    META,
    Commit,
    DatasetStore,
    Sidecar,
    WindowStats,
    sidecar_name,
    total_digest,
)
from airflow_mlops.core.data.digest import ContentDigest, digest_of
from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.data.sources import Source
from airflow_mlops.core.errors import (
    ConfigurationError,
    ContractBrokenError,
    MlopsError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

SEQUENCE = "mlops"
"""Delta application id that every commit counts up: two appends at once cannot both land."""

_RACES = 10
_CONFIGURATION = {
    # The log is the list of versions: it must not expire.
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}


@dataclass(frozen=True, slots=True)
class Append:
    """One append, from the question "what is new?" to the commit."""

    store: DatasetStore
    name: str
    source: Source
    app_key: str
    time: str
    key: str
    window: timedelta
    lateness: timedelta
    facts: Mapping[str, str]

    def commit(self) -> Commit:
        """Commit once, or return the commit that is there."""
        table = self.store.delta(self.name) or self._create()
        for _ in range(_RACES):
            if (table.transaction_version(self.app_key) or 0) >= 1:
                return self._own(table)
            before = self.store.newest_sidecar(table)
            self._check(table, before)
            try:
                written = self._write(table, before)
            except CommitFailedError:
                table = self._reopened()  # somebody else committed first: look again
                continue
            except DeltaError as error:
                msg = f"cannot write {self.name} below {self.store.root}: {error}"
                raise UnavailableError(msg) from error
            if written:
                return self._own(self._reopened())
            if before is None:
                msg = f"{self.name}: the source is empty, there is nothing to version yet"
                raise RejectedError(msg)
            return replace(before.commit, added=0, windows=())
        msg = f"{_RACES} other appends to {self.name} came first; try again"
        raise UnavailableError(msg)

    def _create(self) -> DeltaTable:
        """Create the empty table first: two racing first commits would both land."""
        try:
            return DeltaTable.create(
                self.store.uri(self.name),
                self.source.schema(),
                mode="ignore",
                configuration=_CONFIGURATION,
                storage_options=dict(self.store.options) or None,
            )
        except (DeltaError, OSError) as error:
            msg = f"cannot create dataset {self.name} below {self.store.root}: {error}"
            raise UnavailableError(msg) from error

    def _reopened(self) -> DeltaTable:
        table = self.store.delta(self.name)
        if table is None:
            msg = f"dataset {self.name} below {self.store.root} went away"
            raise UnavailableError(msg)
        return table

    def _own(self, table: DeltaTable) -> Commit:
        """Return the commit that carries this append's key."""
        for entry in table.history():
            if entry.get("mlops.app_key") == self.app_key:
                return self.store.sidecar(table, entry).commit
        msg = f"{self.name} knows append {self.app_key!r}, but its commit left the history"
        raise RejectedError(msg)

    def _check(self, table: DeltaTable, before: Sidecar | None) -> None:
        """Compare what the source offers with what the dataset holds."""
        held = pa.schema(table.schema().to_arrow())
        breaks = schema_breaks(held, self.source.schema())
        if breaks:
            msg = (
                f"the contract of {self.name} is broken, nothing was read: "
                f"{'; '.join(map(str, breaks))}. Correct the delivery and clear the task"
            )
            raise ContractBrokenError(msg)
        if before is None:
            return
        asked = (self.window, self.time, self.key)
        fixed = (before.window, before.time, before.key)
        if asked != fixed:
            msg = (
                f"dataset {self.name} has windows of {fixed[0]}, time {fixed[1]!r}, key "
                f"{fixed[2]!r}; asked for {asked[0]}, {asked[1]!r}, {asked[2]!r}. They are fixed "
                "with the first commit; use another dataset name"
            )
            raise ConfigurationError(msg)

    def _write(self, table: DeltaTable, before: Sidecar | None) -> bool:
        """Stream new and changed windows into one commit; ``False`` if there are none."""
        since = self._since(before)
        with self.source.read(since) as reader:
            flow = _Flow(self, table, before)
            rows = flow.rows(iter(reader))
            first = next(rows, None)
            if first is None:
                flow.raise_if_failed()
                return False
            schema = pa.schema(table.schema().to_arrow())
            stream = pa.RecordBatchReader.from_batches(schema, chain([first], rows))
            transactions = [Transaction(self.app_key, 1), Transaction(SEQUENCE, flow.sequence)]
            properties = CommitProperties(
                custom_metadata={META: flow.sidecar, "mlops.app_key": self.app_key},
                app_transactions=transactions,
            )
            predicate = flow.predicate()
            try:
                write_deltalake(
                    table,
                    stream,
                    mode="overwrite" if predicate else "append",
                    predicate=predicate,
                    commit_properties=properties,
                )
            except CommitFailedError:
                raise
            except Exception:
                flow.raise_if_failed()  # an error of ours, raised while Delta was reading
                raise
        return True

    def _since(self, before: Sidecar | None) -> datetime | None:
        if before is None:
            return None
        origin = datetime.fromisoformat(before.origin_time)
        late = datetime.fromisoformat(before.commit.watermark) - self.lateness
        return max(origin, origin + (late - origin) // self.window * self.window)


@dataclass(slots=True)
class _Open:
    """A window that rows are passing through."""

    index: int
    rows: int = 0
    digest: ContentDigest = field(default_factory=ContentDigest)
    keys: list[pa.Array] = field(default_factory=list)
    held: list[pa.RecordBatch] = field(default_factory=list)


class _Flow:
    """The rows on their way into a commit, and what is learnt about them."""

    def __init__(self, append: Append, table: DeltaTable, before: Sidecar | None) -> None:
        self._append, self._table, self._before = append, table, before
        self._known = {w.index: w for w in before.windows} if before else {}
        self._origin = datetime.fromisoformat(before.origin_time) if before else None
        self._like: Profile | None = self._stored_centres()
        self._builder = ProfileBuilder(self._like)
        self._done: dict[int, WindowStats] = {}
        self._profiles: dict[int, Profile] = {}
        self._open: _Open | None = None
        self._writing = False
        self._times: list[datetime] = []
        self._error: MlopsError | None = None
        self.sequence = (before.sequence if before else 0) + 1
        self.sidecar = sidecar_name(append.app_key, secrets.token_hex(4))

    def rows(self, reader: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield what has to be written: every window from the first new or changed one on."""
        schema = pa.schema(self._table.schema().to_arrow())
        try:
            for batch in reader:
                if batch.num_rows:
                    for index, part in self._by_window(_cast(batch, schema)):
                        yield from self._pass(index, part)
            yield from self._close()
            if self._done:
                self._write_sidecar()
        except MlopsError as error:
            self._error = error
            raise

    def raise_if_failed(self) -> None:
        """Raise the error of ours that Delta's writer has wrapped."""
        if self._error is not None:
            raise self._error

    def predicate(self) -> str | None:
        """Return which stored rows the commit replaces; nothing if it only adds."""
        index = self._open.index if self._open and not self._done else min(self._done)
        if not any(known >= index for known in self._known):
            return None
        start = self._moment(index).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")
        column = self._append.time.replace('"', '""')
        return f"\"{column}\" >= arrow_cast('{start}', 'Timestamp(Microsecond, Some(\"UTC\"))')"

    def _by_window(self, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Split a batch, ordered by time, at the borders of windows."""
        time = batch.column(self._append.time)
        if time.null_count:
            keys = batch.column(self._append.key).filter(pc.is_null(time)).slice(0, 3).to_pylist()
            msg = f"{self._append.name}: {time.null_count} rows have no time, such as {keys}"
            raise RejectedError(msg)
        micros = time.cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64()).to_numpy()
        if self._origin is None:
            first = datetime.fromtimestamp(int(micros[0]) / 1e6, UTC)
            self._origin = first.replace(hour=0, minute=0, second=0, microsecond=0)
        if self._like is None:
            self._like = centres(batch)
            self._builder = ProfileBuilder(self._like)
        self._note_times(int(micros[0]), int(micros[-1]))
        origin = int(self._origin.timestamp() * 1e6)
        indices = (micros - origin) // round(self._append.window.total_seconds() * 1e6)
        cuts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
        for start, stop in pairwise(cuts):
            yield int(indices[start]), batch.slice(start, stop - start)

    def _note_times(self, first: int, last: int) -> None:
        """Keep the first and the last moment, exact to the microsecond."""
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        low, high = (epoch + timedelta(microseconds=x) for x in (first, last))
        self._times = [self._times[0] if self._times else low, high]

    def _pass(self, index: int, part: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if self._open is None or self._open.index != index:
            yield from self._close()
            self._open = _Open(index)
        window = self._open
        window.rows += part.num_rows
        window.digest = window.digest + digest_of([part])
        window.keys.append(part.column(self._append.key))
        self._builder.update(part)
        if self._writing or index not in self._known:
            self._writing = True
            yield part
        else:
            window.held.append(part)  # known window: written only if its rows changed

    def _close(self) -> Iterator[pa.RecordBatch]:
        """End the open window: forget it if nothing changed, else write it."""
        window, self._open = self._open, None
        if window is None:
            return
        built, self._builder = self._builder.finish(), ProfileBuilder(self._like)
        known = self._known.get(window.index)
        if window.held and known is not None and known.digest == str(window.digest):
            return
        self._check_keys(window)
        start = self._moment(window.index)
        end = start + self._append.window
        self._done[window.index] = WindowStats(
            window.index,
            start.isoformat(),
            end.isoformat(),
            window.rows,
            str(window.digest),
            f"{self.sidecar}.profiles",
        )
        self._profiles[window.index] = built
        self._writing = True
        yield from window.held

    def _check_keys(self, window: _Open) -> None:
        counts = pa.chunked_array(window.keys).value_counts()
        if len(counts) == window.rows:
            return
        twice = [str(c["values"]) for c in counts.to_pylist() if c["counts"] > 1][:3]
        msg = (
            f"{self._append.name}: key {self._append.key!r} repeats in the window of "
            f"{self._moment(window.index).isoformat()}, such as {', '.join(twice)}"
        )
        raise RejectedError(msg)

    def _write_sidecar(self) -> None:
        """Write profiles and summary; the commit that follows names them."""
        append, before = self._append, self._before
        first = min(self._done)
        kept = {i: w for i, w in self._known.items() if i < first}
        windows = tuple(w for _, w in sorted({**kept, **self._done}.items()))
        rows = sum(w.rows for w in windows)
        since, until = self._span(first)
        commit = Commit(
            str(DatasetRef(append.name, self._table.version() + 1)),
            rows,
            rows - (before.commit.rows if before else 0),
            since,
            until,
            until,
            str(total_digest(windows)),
            tuple(self._done[i] for i in sorted(self._done)),
            **append.facts,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        sidecar = Sidecar(
            commit,
            (self._origin or datetime.now(UTC)).isoformat(),
            append.window.total_seconds(),
            append.time,
            append.key,
            self.sequence,
            windows,
        )
        data = profiles.to_bytes(self._profiles)
        with ThreadPoolExecutor(1) as pool:  # delta-rs is reading us: its own threads may not write
            for path, content in (
                (f"{self.sidecar}.profiles", data),
                (self.sidecar, sidecar.to_json().encode()),
            ):
                pool.submit(append.store.write_file, self._table, path, content).result()

    def _span(self, first: int) -> tuple[str, str]:
        """Return the time from which rows were written, and the newest time."""
        low, high = self._times
        return max(low, self._moment(first)).isoformat(), high.isoformat()

    def _moment(self, index: int) -> datetime:
        """Return the start of a window."""
        origin = self._origin or datetime.now(UTC)
        return origin.astimezone(UTC) + index * self._append.window

    def _stored_centres(self) -> Profile | None:
        """Return the centres of the dataset's profiles: all of them have to add up."""
        if self._before is None:
            return None
        first = self._before.windows[0]
        data = self._append.store.read_file(self._table, first.owner)
        return profiles.from_bytes(data, [first.index])[first.index]


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """
    Bring a batch to the dataset's types and column order.

    :raises RejectedError: if a value does not fit, such as a large integer into a small one.
    """
    try:
        arrays = [batch.column(f.name).cast(f.type) for f in schema]
    except pa.ArrowInvalid as error:
        msg = f"a value does not fit the dataset's type: {error}"
        raise RejectedError(msg) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
