"""What a source has that a dataset has not: late rows that stay unread, and rows ahead of now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.data.sources import Source
from airflow_mlops.core.data.tables import Table

_EXAMPLES = 3
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Arrears:
    """
    What a source has that a dataset has not, after an append.

    :param unread: late rows that no later snapshot reads; ``None``: they cannot be counted.
    :param late: keys of some of them.
    :param behind: how far the oldest of them may lie behind the newest row read, in seconds; as
        ``lateness`` it lets them in.
    :param ahead: rows whose time is still to come; the snapshot after it reads them.
    :param early: keys of some of them.
    :param until: newest time among them, ISO 8601.
    """

    dataset: str
    unread: int | None
    late: tuple[str, ...] = ()
    behind: float = 0.0
    ahead: int = 0
    early: tuple[str, ...] = ()
    until: str = ""

    @property
    def lateness(self) -> str:
        """The least ``lateness``, in whole days, that lets all late rows in."""
        return f"{-(-timedelta(seconds=self.behind) // _DAY)}d"

    @property
    def line(self) -> str:
        """All of it in one line."""
        parts = []
        if self.unread:
            some = f", such as {', '.join(self.late)}" if self.late else ""
            parts.append(
                f"{self.unread:,} late rows of the source stay unread{some}: up to {self.lateness} "
                f"behind the newest row; lateness={self.lateness!r} lets them in"
            )
        if self.ahead:
            some = f", up to {self.until}, such as {', '.join(self.early)}" if self.early else ""
            parts.append(
                f"{self.ahead:,} rows are ahead of now{some}: they wait until their time has come"
            )
        return f"{self.dataset}: {'; '.join(parts) or 'nothing is unread'}"

    def to_dict(self) -> dict[str, Any]:
        """Return a finding; plain JSON types. What names rows can be replaced by ``plain``."""
        unnamed = replace(self, late=(), early=(), until="")
        return {
            "status": "warn" if self.unread or self.ahead else "ok",
            "line": self.line,
            "dataset": self.dataset,
            "unread": self.unread,
            "late": list(self.late),
            "behind": self.behind,
            "lateness": self.lateness if self.unread else None,
            "ahead": self.ahead,
            "early": list(self.early),
            "until": self.until,
            "plain": {"line": unnamed.line, "late": [], "early": [], "until": ""},
        }


def find_arrears(source: Source, table: Table, *, lateness: timedelta, ahead: timedelta) -> Arrears:
    """
    Count what a source has that the newest version of a dataset has not.

    Rows are counted by window, and only windows that the next append does not read: a window that
    lost a row at the source and gained a late one does not show.

    :param table: the newest version.
    :param lateness: that of the appends.
    :param ahead: that of the appends.
    """
    early, keys, until = _early(source, table, datetime.now(UTC) + ahead)
    since = table.sidecar.reread_from(lateness)
    counts = source.count(table.origin, table.window, since)
    missing = _missing(counts or {}, table)
    late: tuple[str, ...] = ()
    behind = 0.0
    if missing:
        newest = datetime.fromisoformat(table.sidecar.commit.watermark)
        behind = (newest - table.origin - (min(missing) + 1) * table.window).total_seconds()
        late = _late(source, table, max(missing))
    return Arrears(
        dataset=str(table.ref),
        unread=None if counts is None else sum(missing.values()),
        late=late,
        behind=max(behind, 0.0) + 1.0 if missing else 0.0,  # the last moment of that window
        ahead=early,
        early=keys,
        until=until,
    )


def _missing(counts: Mapping[int, int], table: Table) -> dict[int, int]:
    """Return the windows of which the source has more rows, with how many more."""
    held = {w.index: w.rows for w in table.windows()}
    return {i: n - held.get(i, 0) for i, n in counts.items() if n > held.get(i, 0)}


def _late(source: Source, table: Table, index: int) -> tuple[str, ...]:
    """Return keys of some late rows of one window."""
    start = table.origin + index * table.window
    end = start + table.window
    held = table.between(start, end).to_arrow([table.key])[table.key].combine_chunks()
    found: list[str] = []
    with source.read(start, until=end) as reader:
        for batch in reader:
            keys = batch.column(batch.schema.names.index(table.key))
            new = keys.filter(pc.invert(pc.is_in(keys.cast(held.type), value_set=held)))
            found += map(str, new.slice(0, _EXAMPLES).to_pylist())
            if len(found) >= _EXAMPLES:
                break
    return tuple(found[:_EXAMPLES])


def _early(source: Source, table: Table, now: datetime) -> tuple[int, tuple[str, ...], str]:
    """Return how many rows are ahead of now, keys of some, and the newest time among them."""
    rows, until = 0, ""
    keys: list[str] = []
    with source.read(now + timedelta(microseconds=1)) as reader:
        for batch in reader:
            times = batch.column(batch.schema.names.index(table.time))
            rows += batch.num_rows
            if len(keys) < _EXAMPLES:
                named = batch.column(batch.schema.names.index(table.key))
                keys += [str(k) for k in named.slice(0, _EXAMPLES - len(keys)).to_pylist()]
            if batch.num_rows:
                until = _written(times[-1])
    return rows, tuple(keys), until


def _written(time: pa.Scalar) -> str:
    """Write a time as ISO 8601; one outside the years that Python knows as text of Arrow."""
    try:
        return str(time.as_py().isoformat())
    except (ValueError, OverflowError):
        return str(time.cast(pa.string()))
