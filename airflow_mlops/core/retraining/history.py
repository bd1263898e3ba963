"""A table in the order of time, cut into windows: what a simulation lives through."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class History:
    """
    Labelled rows in the order of time.

    :param rows: every column but the label, shape ``(n_rows, n_columns)``.
    :param y: labels, shape ``(n_rows,)``.
    :param times: time of each row, aware, in order.
    :param key: column that names a row.
    :param time: column of the time.
    :param label: name that the label had.
    :param bounds: first row of each window, and the end of the last one.
    :param notes: what was assumed about the columns.
    """

    rows: pa.Table
    y: NDArray[np.float64]
    times: tuple[datetime, ...]
    key: str
    time: str
    label: str
    bounds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, path: Path, *, key: str, time: str, label: str, guess: Sequence[str] = ()
    ) -> Self:
        """
        Read a Parquet file; rows without a label are left out.

        :param key: column that names a row; if it is not there, rows are numbered.
        :param time: column of the time; if it is not there, the only timestamp takes its place.
        :param guess: names that are looked for if ``label`` is not there.
        :raises ConfigurationError: if the file cannot be read, lacks a column, is not in the order
            of time, or its labels are no numbers.
        """
        table = _read(path)
        clocks = [f.name for f in table.schema if pt.is_timestamp(f.type) or pt.is_date(f.type)]
        named = [_found(table, path, time, clocks), _found(table, path, label, guess)]
        pairs = zip(named, (time, label), strict=True)
        notes = [f"{found!r} stands for {asked!r}" for found, asked in pairs if found != asked]
        time, label = named
        table = table.filter(pc.is_valid(table[label]))
        if key not in table.schema.names:
            table = table.append_column(key, pa.array(range(table.num_rows)))
        times = _times(table[time], path)
        try:
            y = np.asarray(table[label].cast(pa.float64()).to_numpy())
        except pa.ArrowException as error:
            msg = f"label {label!r} of {path} is no number: {error}"
            raise ConfigurationError(msg) from error
        rows = table.drop_columns([label]).combine_chunks()
        return cls(rows, y, times, key, time, label, notes=tuple(notes))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return max(len(self.bounds) - 1, 0)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are neither key nor time."""
        return tuple(n for n in self.rows.schema.names if n not in (self.key, self.time))

    @property
    def frame(self) -> "pd.DataFrame":
        """Rows as pandas, which is what a user's ``build`` is given."""
        return self.rows.to_pandas()  # type: ignore[no-any-return]

    @property
    def until(self) -> datetime:
        """End of the last row: rows last as long as most of them do."""
        gaps = sorted(b - a for a, b in itertools.pairwise(self.times))
        return self.times[-1] + (gaps[len(gaps) // 2] if gaps else timedelta(0))

    def cut(self, window: int | timedelta) -> Self:
        """
        Cut into windows; a last one that is not whole is left out.

        :param window: rows of a window, or its length.
        :raises NotEnoughDataError: if there are fewer than two windows.
        """
        if isinstance(window, int):
            bounds = list(range(0, len(self) + 1, window))
        else:
            whole = int((self.until - self.times[0]) / window)
            edges = [self.times[0] + i * window for i in range(whole + 1)]
            bounds = sorted(set(np.searchsorted(np.array(self.times), np.array(edges)).tolist()))
        if len(bounds) < 3:
            msg = f"{len(self)} rows make {max(len(bounds) - 1, 0)} windows of {window}: too few"
            raise NotEnoughDataError(msg)
        return replace(self, bounds=tuple(bounds))

    def shuffled(self, seed: int) -> Self:
        """Give every row another time, so that nothing changes over time any more."""
        order = np.random.default_rng(seed).permutation(len(self))
        moved = self.rows.take(pa.array(order))
        place = self.rows.schema.get_field_index(self.time)
        moved = moved.set_column(place, self.time, self.rows[self.time])
        return replace(self, rows=moved, y=self.y[order])

    def span(self, window: int) -> slice:
        """Return the rows of a window."""
        return slice(self.bounds[window], self.bounds[window + 1])

    def part(self, window: int) -> pa.Table:
        """Return the rows of a window, without their labels."""
        rows = self.span(window)
        return self.rows.slice(rows.start, rows.stop - rows.start)

    def start(self, window: int) -> datetime:
        """Return the time at which a window begins; behind the last one, the end of all rows."""
        row = self.bounds[window]
        return self.times[row] if row < len(self) else self.until

    def since(self, end: int, span: timedelta) -> int:
        """Return the first window that begins at most ``span`` before window ``end`` does."""
        first = self.start(end) - span
        return next((w for w in range(end) if self.start(w) >= first), end - 1)


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        msg = f"cannot read {path} as Parquet: {error}"
        raise ConfigurationError(msg) from error


def _found(table: pa.Table, path: Path, name: str, others: Sequence[str]) -> str:
    """Return the column of that name, or the only one of the others."""
    if name in table.schema.names:
        return name
    there = [other for other in others if other in table.schema.names]
    if len(there) != 1:
        known = ", ".join(table.schema.names)
        msg = f"no column {name!r} in {path}; it has {known}: name it with --time or --label"
        raise ConfigurationError(msg)
    return there[0]


def _times(values: pa.ChunkedArray, path: Path) -> tuple[datetime, ...]:
    if not (pt.is_timestamp(values.type) or pt.is_date(values.type)):
        msg = f"the time column of {path} is {values.type}, not a timestamp; name it with --time"
        raise ConfigurationError(msg)
    found: Sequence[datetime | None] = values.cast(
        pa.timestamp("us", getattr(values.type, "tz", None)), safe=False
    ).to_pylist()
    moments = [m if m is None or m.tzinfo else m.replace(tzinfo=UTC) for m in found]
    for row, (one, two) in enumerate(itertools.pairwise(moments), start=1):
        if one is None or two is None or two < one:
            msg = f"{path} is not in the order of time: {two} in row {row} follows {one}; sort it"
            raise ConfigurationError(msg)
    return tuple(m for m in moments if m is not None)
