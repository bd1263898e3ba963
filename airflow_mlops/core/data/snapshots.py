"""
Rows on their way into a commit: cut into windows, digested, profiled, summed up in a sidecar.

Rows arrive ordered by time, so one window is open at a time. A window that is stored already is
held back until its digest tells whether anything in it changed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import Commit, Sidecar, WindowStats, total_digest
from airflow_mlops.core.data.digest import ContentDigest, digest_of, digests_of
from airflow_mlops.core.data.keys import has_repeats
from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.errors import MlopsError, RejectedError
from airflow_mlops.core.refs import DatasetRef

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MOMENT, _LAST_MOMENT = (
    (year - _EPOCH) // timedelta(microseconds=1)
    for year in (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))
)
"""Microseconds between which a moment is one; PostgreSQL's infinities lie outside."""

_REMEMBERED_KEYS = 64 << 20
"""Bytes of whole numbers as keys that are looked through for repeats, the newest of a long read."""

_REMEMBERED_TEXTS = 16 << 20
"""The same for other keys, which take more memory to compare."""


@dataclass(frozen=True, slots=True)
class Request:
    """
    What :meth:`DatasetStore.append` was asked for.

    :param ahead: how far beyond now a time may lie; rows beyond wait until it has come.
    :param windows_from: where windows are counted from, if this is the first commit.
    :param adopt: columns that may join the dataset, when the source begins to offer them.
    :param facts: author, origin and run of the commit.
    """

    name: str
    app_key: str
    time: str
    key: str
    window: timedelta
    lateness: timedelta
    ahead: timedelta
    windows_from: datetime | None
    adopt: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where the rows go.

    :param version: version the commit will have, unless another one lands first.
    :param schema: columns and types of the dataset.
    :param sidecar: path of the sidecar, below the table.
    :param write_file: writes a file below the table.
    :param like: profile whose centres the dataset's profiles share; new columns are not in it.
    :param adopted: columns that came later -> contract version since which they are there.
    """

    version: int
    schema: pa.Schema
    sidecar: str
    write_file: Callable[[str, bytes], None]
    like: Profile
    adopted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mend:
    """
    A stored window that loses or gains rows, because their time was corrected.

    :param rows: reads the rows that it has from now on, ordered by time and key.
    """

    index: int
    rows: Callable[[], list[pa.RecordBatch]]


@dataclass(slots=True)
class _Open:
    """A window that rows are passing through."""

    index: int
    rows: int = 0
    digest: ContentDigest = field(default_factory=ContentDigest)
    held: list[pa.RecordBatch] = field(default_factory=list)


class Flow:
    """
    The rows on their way into one commit, and what is learnt about them.

    :param before: what the newest version says; ``None`` for the first commit.
    :param mends: windows before those that are read, which change for a correction.
    :param corrected: rows that have another time now.
    """

    def __init__(
        self,
        request: Request,
        target: Target,
        before: Sidecar | None,
        mends: Sequence[Mend] = (),
        corrected: int = 0,
    ) -> None:
        self.mends, self._corrected = mends, corrected
        self._mended: dict[int, WindowStats] = {}
        self._request, self.target, self._before = request, target, before
        self._known = {w.index: w for w in before.windows} if before else {}
        self._origin = datetime.fromisoformat(before.origin_time) if before else None
        self._watermark = before.commit.watermark if before else ""
        self._like = target.like
        self._builder = ProfileBuilder(self._like)
        self._done: dict[int, WindowStats] = {}
        self._profiles: dict[int, Profile] = {}
        self._open: _Open | None = None
        self._writing = False
        self._extended: int | None = None
        self._keys: deque[pa.Array] = deque()
        self._key_bytes = 0
        self._first = self._last = _EPOCH
        self._error: MlopsError | None = None
        self.sequence = (before.sequence if before else 0) + 1

    def rows(self, reader: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """
        Yield what has to be written: every window from the first new or changed one on.

        The sidecar is written after the last row, which is before Delta commits.
        """
        try:
            for batch in reader:
                if batch.num_rows:
                    for found in self._by_window(cast_to(batch, self.target.schema)):
                        yield from self._pass(*found)
            yield from self._close()
            with ThreadPoolExecutor(1) as pool:  # delta-rs is reading us: its threads may not read
                for mend in self.mends:
                    yield from self._mend(mend.index, pool.submit(mend.rows).result())
            if self._done or self.mends:
                self._check_keys()
                self._write_sidecar()
        except MlopsError as error:
            self._error = error
            raise

    def raise_if_failed(self) -> None:
        """Raise the error of ours that Delta's writer has wrapped."""
        if self._error is not None:
            raise self._error

    def replaced(self) -> list[tuple[datetime, datetime | None]]:
        """
        Return the spans of time whose stored rows are replaced; none if the commit only adds.

        Known with the first row that :meth:`rows` yields.
        """
        spans: list[tuple[datetime, datetime | None]] = [
            (self._moment(mend.index), self._moment(mend.index + 1)) for mend in self.mends
        ]
        if self._open is None and not self._done:
            return spans
        index = self._open.index if self._open and not self._done else min(self._done)
        if index != self._extended and any(known >= index for known in self._known):
            return [*spans, (self._moment(index), None)]
        if spans:  # what is written has to lie in what is replaced, also where nothing is stored
            after = datetime.fromisoformat(self._watermark) + timedelta(microseconds=1)
            spans.append((after, None))
        return spans

    def _by_window(
        self, batch: pa.RecordBatch
    ) -> Iterator[tuple[int, pa.RecordBatch, ContentDigest]]:
        """Split a batch, ordered by time, at the borders of windows; digest each part."""
        micros = self._moments(batch)
        first, last = (_EPOCH + timedelta(microseconds=int(m)) for m in (micros[0], micros[-1]))
        if self._origin is None:
            self._origin = self._request.windows_from or first.replace(
                hour=0, minute=0, second=0, microsecond=0
            )
        if self._first is _EPOCH:
            self._first = first
            new = batch.select([n for n in batch.schema.names if n not in self._like.columns])
            self._like = Profile({**self._like.columns, **centres(new).columns})
            self._builder = ProfileBuilder(self._like)
        self._last = last
        microsecond = timedelta(microseconds=1)
        origin = (self._origin - _EPOCH) // microsecond
        indices = (micros - origin) // (self._request.window // microsecond)
        cuts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
        for (start, stop), digest in zip(pairwise(cuts), digests_of(batch, cuts), strict=True):
            yield int(indices[start]), batch.slice(start, stop - start), digest

    def _moments(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """Return the time of each row in microseconds since 1970, shape ``(n_rows,)``."""
        time, keys = batch.column(self._request.time), batch.column(self._request.key)
        self._refuse(time.is_null(), keys, "have no time")
        self._refuse(keys.is_null(), time, "have no key")
        whole = time.cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
        micros = np.from_dlpack(whole).astype(np.int64, copy=False)
        if micros.min() < _FIRST_MOMENT or micros.max() > _LAST_MOMENT:
            wrong = pa.array((micros < _FIRST_MOMENT) | (micros > _LAST_MOMENT))
            self._refuse(wrong, keys, "have a time outside the years 1 to 9999, or infinity")
        if (np.diff(micros) < 0).any():
            msg = f"{self._request.name}: the source did not order its rows by time"
            raise RejectedError(msg)
        return micros

    def _refuse(self, wrong: pa.BooleanArray, named_by: pa.Array, what: str) -> None:
        count = pc.sum(wrong).as_py()
        if count:
            some = [str(value) for value in named_by.filter(wrong).slice(0, 3).to_pylist()]
            msg = f"{self._request.name}: {count} rows {what}, such as {', '.join(some)}"
            raise RejectedError(msg)

    def _pass(
        self, index: int, part: pa.RecordBatch, digest: ContentDigest
    ) -> Iterator[pa.RecordBatch]:
        if self._open is None or self._open.index != index:
            yield from self._close()
            self._open = _Open(index)
        window = self._open
        window.rows += part.num_rows
        window.digest = window.digest + digest
        self._remember(part.column(self._request.key))
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
        self._done[window.index] = self._stats(window.index, window.digest)
        self._profiles[window.index] = built
        held = window.held if self._writing or known is None else self._beyond(window, known)
        self._writing = True
        yield from held

    def _mend(self, index: int, rows: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write a window that a correction changed; one that has no row left goes."""
        if not rows:
            return
        builder = ProfileBuilder(self._like)
        for batch in rows:
            builder.update(batch)
        self._mended[index] = self._stats(index, digest_of(rows))
        self._profiles[index] = builder.finish()
        yield from rows

    def _stats(self, index: int, digest: ContentDigest) -> WindowStats:
        return WindowStats(
            index,
            self._moment(index).isoformat(),
            self._moment(index + 1).isoformat(),
            digest.rows,
            str(digest),
            f"{self.target.sidecar}.profiles",
            max(self.target.adopted.values(), default=1),
        )

    def _beyond(self, window: _Open, known: WindowStats) -> list[pa.RecordBatch]:
        """
        Return what has to be written of a window that changed: the new rows, if it only grew.

        The file of the others may be large, and stays as it is.
        """
        watermark = pa.scalar(datetime.fromisoformat(self._watermark))
        late = [pc.greater(part.column(self._request.time), watermark) for part in window.held]
        parts = list(zip(window.held, late, strict=True))
        stored = digest_of(part.filter(pc.invert(mask)) for part, mask in parts)
        if str(stored) != known.digest:
            return window.held
        self._extended = window.index
        return [new for part, mask in parts if (new := part.filter(mask)).num_rows]

    def _remember(self, keys: pa.Array) -> None:
        self._keys.append(keys.take(np.arange(len(keys))))  # a slice would hold its whole batch
        self._key_bytes += self._keys[-1].nbytes
        room = _REMEMBERED_KEYS if pt.is_integer(keys.type) else _REMEMBERED_TEXTS
        while len(self._keys) > 1 and self._key_bytes > room:
            self._key_bytes -= self._keys.popleft().nbytes

    def _check_keys(self) -> None:
        if not self._keys:
            return
        keys = pa.chunked_array(list(self._keys))
        if not has_repeats(keys):
            return
        counts = keys.value_counts().to_pylist()
        twice = [str(c["values"]) for c in counts if c["counts"] > 1]
        msg = (
            f"{self._request.name}: {len(twice)} values of key {self._request.key!r} repeat, such "
            f"as {', '.join(twice[:3])}; name a column that is different in every row"
        )
        raise RejectedError(msg)

    def _write_sidecar(self) -> None:
        """Write profiles and summary; the commit that follows names them."""
        request, target, before = self._request, self.target, self._before
        windows = self._windows()
        commit = self._commit(windows)
        sidecar = Sidecar(
            commit=commit,
            origin_time=self._moment(0).isoformat(),
            window_seconds=request.window.total_seconds(),
            time=request.time,
            key=request.key,
            sequence=self.sequence,
            windows=windows,
            adopted=target.adopted,
            centres=self._like.centres(),
            base=before.base_of(windows) if before else None,
        )
        data = profiles.to_bytes(self._profiles)
        with ThreadPoolExecutor(1) as pool:  # delta-rs is reading us: its own threads may not write
            for path, content in (
                (f"{target.sidecar}.profiles", data),
                (target.sidecar, sidecar.to_json().encode()),
            ):
                pool.submit(target.write_file, path, content).result()

    def _windows(self) -> tuple[WindowStats, ...]:
        """Return every window of the version: those written, and those that stay."""
        first = min(self._done, default=None)
        mended = {mend.index for mend in self.mends}
        kept = {
            i: w for i, w in self._known.items() if i not in mended and (first is None or i < first)
        }
        return tuple(w for _, w in sorted({**kept, **self._mended, **self._done}.items()))

    def _commit(self, windows: tuple[WindowStats, ...]) -> Commit:
        first, before = min(self._done, default=None), self._before
        made, said = {**self._mended, **self._done}, before.commit if before else None
        newest = said.watermark if said and self._last is _EPOCH else self._last.isoformat()
        since = newest if first is None else max(self._first, self._moment(first)).isoformat()
        rows = sum(w.rows for w in windows)
        return Commit(
            ref=str(DatasetRef(self._request.name, self.target.version)),
            rows=rows,
            added=rows - (said.rows if said else 0),
            since=since,
            until=newest,
            watermark=newest,
            digest=str(total_digest(windows)),
            windows=tuple(made[i] for i in sorted(made)),
            corrected=self._corrected,
            **self._request.facts,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _moment(self, index: int) -> datetime:
        """Return the start of a window."""
        return (self._origin or _EPOCH) + index * self._request.window


def cast_to(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """
    Bring a batch to the dataset's types and column order.

    :raises RejectedError: if a value does not fit, such as a large integer into a small one.
    """
    arrays = []
    for wanted in schema:
        try:
            arrays.append(batch.column(wanted.name).cast(wanted.type))
        except pa.ArrowInvalid as error:
            msg = f"a value of column {wanted.name!r} does not fit {wanted.type}: {error}"
            raise RejectedError(msg) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
