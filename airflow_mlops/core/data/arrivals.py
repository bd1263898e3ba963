"""
Rows that arrive at a dataset that is there: which of them are ahead of now, which were corrected.

What arrives is kept in a temporary file, so that it can be looked through before it is written, in
bounded memory.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.data.snapshots import Mend, Request, cast_to
from airflow_mlops.core.data.sources import Source
from airflow_mlops.core.data.tables import Table

_log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_AT_ONCE = 1_000_000
"""Keys that are looked for in one pass over the stored ones."""

_ASKED = 10_000
"""Keys that a source is asked for at once."""

_LAST_YEAR = (datetime(9999, 12, 30, tzinfo=UTC) - _EPOCH) // _MICROSECOND


def without_ahead(batches: Iterable[pa.RecordBatch], request: Request) -> Iterator[pa.RecordBatch]:
    """
    Leave out rows whose time is still to come: they would hide what comes before them.

    Their time will have come in a later snapshot, which reads them. Now is when the first rows are
    there: the source has decided by then what it shows.
    """
    latest: int | None = None
    for batch in batches:
        if latest is None:
            latest = (datetime.now(UTC) + request.ahead - _EPOCH) // _MICROSECOND
        time = batch.column(request.time)
        micros = time.cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
        inside = pc.and_(pc.greater(micros, latest), pc.less_equal(micros, _LAST_YEAR))
        later = pc.fill_null(inside, False)  # no time, and infinity, is refused further on
        yield batch.filter(pc.invert(later)) if pc.any(later).as_py() else batch


@dataclass(slots=True)
class Arrivals:
    """
    What arrives for one append.

    :param stored: the newest version.
    :param since: from where the source is read.
    :param schema: columns and types of the next version.
    :param file: keeps what arrives meanwhile.
    """

    source: Source
    stored: Table
    since: datetime
    request: Request
    schema: pa.Schema
    file: IO[bytes] = field(repr=False)
    _windows: set[int] = field(default_factory=set, init=False, repr=False)
    _missing: list[pa.Table] = field(default_factory=list, init=False, repr=False)

    def take(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Keep what arrives, and note which stored rows of the windows read do not arrive again."""
        known = {w.index for w in self.stored.windows()}
        current: int | None = None
        keys: list[pa.Array] = []
        with pa.ipc.new_stream(self.file, self.schema) as writer:
            for batch in map(partial(cast_to, schema=self.schema), batches):
                writer.write_batch(batch)
                for index, part in self._parts(batch):
                    if index != current:
                        self._compare(current, keys, known)
                        current, keys = index, []
                    keys.append(part.column(self.request.key))
        self._compare(current, keys, known)
        for window in self.stored.between(self.since).windows():
            if window.index not in self._windows:
                self._compare(window.index, [], known)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream what has arrived."""
        self.file.seek(0)
        with pa.ipc.open_stream(self.file) as reader:
            yield from reader

    def corrections(self) -> tuple[list[Mend], int]:
        """
        Find rows whose time was corrected; return the stored windows that change, and their number.

        A row may have gone to the windows that are read, or from them to an earlier one. A key
        whose old row is still at the source names two rows; that is no correction.
        """
        gone = self._gone()
        moved = self._without_repeats(self._moved())
        earlier = self._earlier(gone)
        if not moved.num_rows and not earlier.num_rows:
            return [], 0
        key, time = self.request.key, self.request.time
        back = gone.filter(pc.is_in(gone[key], value_set=earlier[key].combine_chunks()))
        whole = pa.array(np.isin(self._indices(back[time]), sorted(self._windows), invert=True))
        left = back.filter(whole)  # of windows of which no row arrives
        parts = (moved, left, earlier)
        changed = {i for part in parts for i in self._indices(part[time]).tolist()}
        without = pa.concat_tables([moved, back]).column(key).combine_chunks()
        mends = [
            Mend(index, partial(self._mended, index, without, earlier)) for index in sorted(changed)
        ]
        return mends, moved.num_rows + earlier.num_rows

    def _mended(self, index: int, without: pa.Array, earlier: pa.Table) -> list[pa.RecordBatch]:
        """Read a stored window, without the rows that left it, and with those that came."""
        start = self.stored.origin + index * self.stored.window
        held = self.stored.between(start, start + self.stored.window).to_arrow()
        held = held.filter(pc.invert(pc.is_in(held[self.request.key], value_set=without)))
        new = earlier.filter(pa.array(self._indices(earlier[self.request.time]) == index))
        whole = pa.concat_tables([_with_columns(held, self.schema), new])
        order = [(name, "ascending") for name in (self.request.time, self.request.key)]
        return [b for b in whole.sort_by(order).combine_chunks().to_batches() if b.num_rows]

    def _moved(self) -> pa.Table:
        """Return key and old time of stored rows before ``since`` whose key arrives."""
        found = [self._nothing()]
        for keys in self._arrived():
            among = pc.field(self.request.key).isin(keys)
            ends = pc.min_max(keys).as_py()
            if ends["min"] is not None:  # files and row groups that cannot hold one are not read
                name = pc.field(self.request.key)
                among &= (name >= ends["min"]) & (name <= ends["max"])
            before = pc.field(self.request.time) < pa.scalar(self.since)
            names = [self.request.key, self.request.time]
            found.append(self.stored.dataset().to_table(columns=names, filter=before & among))
        return pa.concat_tables(found)

    def _gone(self) -> pa.Table:
        """Return key and old time of stored rows that arrive in no window any more."""
        gone = pa.concat_tables([self._nothing(), *self._missing])
        if gone.num_rows:
            for keys in self._arrived():
                gone = gone.filter(pc.invert(pc.is_in(gone[self.request.key], value_set=keys)))
        return gone

    def _earlier(self, gone: pa.Table) -> pa.Table:
        """Ask the source for rows that are gone from the windows read: they may be earlier now."""
        found = [self.schema.empty_table()]
        for keys in _chunks(gone[self.request.key]):
            with self.source.read(None, until=self.since, keys=keys) as reader:
                found += [pa.Table.from_batches([cast_to(b, self.schema)]) for b in reader]
        return pa.concat_tables(found)

    def _without_repeats(self, moved: pa.Table) -> pa.Table:
        """Leave out keys whose old row is still at the source: they name two rows, none moved."""
        for keys in _chunks(moved[self.request.key]):
            with self.source.read(None, until=self.since, keys=keys) as reader:
                names = [cast_to(b, self.schema).column(self.request.key) for b in reader]
            there = pa.chunked_array(names, self.schema.field(self.request.key).type).unique()
            if len(there):
                some = ", ".join(map(str, there.slice(0, 3).to_pylist()))
                text = "%s: %d values of key %r name two rows at the source each, such as %s"
                _log.warning(text, self.request.name, len(there), self.request.key, some)
                again = pc.is_in(moved[self.request.key], value_set=there)
                moved = moved.filter(pc.invert(again))
        return moved

    def _compare(self, index: int | None, keys: Sequence[pa.Array], known: set[int]) -> None:
        """Note which stored rows of a window do not arrive with it."""
        if index is None:
            return
        self._windows |= {index} if keys else set()
        if index not in known:
            return
        start = self.stored.origin + index * self.stored.window
        names = [self.request.key, self.request.time]
        held = self.stored.between(start, start + self.stored.window).to_arrow(names)
        came = pa.chunked_array(keys, held.schema.field(names[0]).type)
        lost = held.filter(pc.invert(pc.is_in(held[names[0]], value_set=came.combine_chunks())))
        if lost.num_rows:
            self._missing.append(lost)

    def _arrived(self) -> Iterator[pa.Array]:
        """Yield the keys that have arrived, many at once."""
        kept: list[pa.Array] = []
        for batch in self.batches():
            kept.append(batch.column(self.request.key))
            if sum(map(len, kept)) >= _AT_ONCE:
                yield pa.concat_arrays(kept)
                kept = []
        if kept:
            yield pa.concat_arrays(kept)

    def _parts(self, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Split a batch, ordered by time, at the borders of windows."""
        time = batch.column(self.request.time)
        if not batch.num_rows or time.null_count:
            return  # refused further on
        indices = self._indices(time)
        cuts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
        for start, stop in pairwise(cuts):
            yield int(indices[start]), batch.slice(start, stop - start)

    def _indices(self, times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the window of each time, shape ``(n_rows,)``."""
        micros = times.cast(pa.int64()).to_numpy()
        first = (self.stored.origin - _EPOCH) // _MICROSECOND
        found: NDArray[np.int64] = (micros - first) // (self.stored.window // _MICROSECOND)
        return found

    def _nothing(self) -> pa.Table:
        names = [self.request.key, self.request.time]
        return pa.schema([self.stored.schema.field(name) for name in names]).empty_table()


def _chunks(keys: pa.ChunkedArray) -> Iterator[list[object]]:
    for start in range(0, len(keys), _ASKED):
        yield keys.slice(start, _ASKED).to_pylist()


def _with_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give rows the columns that join the dataset now; they hold no value."""
    arrays = [
        rows[f.name] if f.name in rows.schema.names else pa.nulls(rows.num_rows, f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
