"""
What changed between two versions of a dataset: columns, rows by key, values column by column.

Windows whose digests agree are not read, so a small change in a long history costs little.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from airflow_mlops.core.data.contract import logical_types
from airflow_mlops.core.data.sources import quoted
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.lines import written

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.core.data.commits import WindowStats
    from airflow_mlops.core.data.tables import Table

EXAMPLES = 3
"""Keys that are shown of each kind of change."""


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """
    What changed from one version to another.

    :param rows: rows of both versions.
    :param added: keys that are new.
    :param removed: keys that are gone; a row that moved to another window is one of each.
    :param changed: keys of which a value changed.
    :param columns: column -> in how many rows its value changed, most first.
    :param new_columns: columns that only the second version has, with their logical type.
    :param lost_columns: columns that only the first version has, with their logical type.
    :param retyped: column -> logical type then and now.
    :param windows: how many windows differ, of how many.
    :param examples: a few keys of each kind of change.
    """

    one: str
    two: str
    rows: tuple[int, int]
    added: int
    removed: int
    changed: int
    columns: Mapping[str, int]
    new_columns: Mapping[str, str]
    lost_columns: Mapping[str, str]
    retyped: Mapping[str, tuple[str, str]]
    windows: tuple[int, int]
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether both hold the same rows and columns."""
        columns = (self.new_columns, self.lost_columns, self.retyped)
        return not (any(columns) or self.added or self.removed or self.changed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        if self.same:
            return f"{self.one} and {self.two} hold the same {self.rows[0]:,} rows"
        lines = [
            f"{self.one} -> {self.two}: {self.rows[0]:,} -> {self.rows[1]:,} rows, "
            f"{self.added:,} added, {self.removed:,} removed, {self.changed:,} changed; "
            f"{self.windows[0]} of {self.windows[1]} windows differ"
        ]
        lines += [f"  column {n!r} ({kind}) is new" for n, kind in self.new_columns.items()]
        lines += [f"  column {n!r} ({kind}) is gone" for n, kind in self.lost_columns.items()]
        lines += [f"  column {n!r}: {a} -> {b}" for n, (a, b) in self.retyped.items()]
        lines += [f"  column {n!r}: {c:,} values changed" for n, c in self.columns.items()]
        lines += [f"  {kind}: {', '.join(keys)}" for kind, keys in self.examples.items() if keys]
        return written(lines)


def compare_datasets(one: "Table", two: "Table") -> DatasetDiff:
    """
    Compare two versions of one dataset, or of two with the same key.

    :raises ConfigurationError: if their rows are named by different columns.
    """
    if (one.key, one.time) != (two.key, two.time):
        msg = (
            f"{one.ref} has key {one.key!r} and time {one.time!r}, {two.ref} has {two.key!r} and "
            f"{two.time!r}: rows of the two cannot be told apart in the same way"
        )
        raise ConfigurationError(msg)
    then, now = logical_types(one.schema), logical_types(two.schema)
    common = [name for name in then if name in now]
    found = _Counts({name: 0 for name in common if name != one.key})
    pairs = _pairs(one, two)
    for before, after in pairs:
        if before is not None and after is not None:
            found.compare(_rows(one, before, common), _rows(two, after, common), one.key)
        elif before is not None:
            found.removed += before.rows
        elif after is not None:
            found.added += after.rows
    changed = {name: n for name, n in sorted(found.columns.items(), key=lambda c: -c[1]) if n}
    return DatasetDiff(
        str(one.ref),
        str(two.ref),
        (one.rows, two.rows),
        found.added,
        found.removed,
        found.changed,
        changed,
        {name: kind for name, kind in now.items() if name not in then},
        {name: kind for name, kind in then.items() if name not in now},
        {name: (then[name], now[name]) for name in common if then[name] != now[name]},
        (len(pairs), len({w.start for w in (*one.windows(), *two.windows())})),
        {kind: tuple(keys) for kind, keys in found.examples.items()},
    )


def _pairs(one: "Table", two: "Table") -> "list[tuple[WindowStats | None, WindowStats | None]]":
    """Return the windows that differ, then and now, in the order of time."""
    then, now = ({w.start: w for w in table.windows()} for table in (one, two))
    starts = sorted({*then, *now}, key=datetime.fromisoformat)
    pairs = ((then.get(start), now.get(start)) for start in starts)
    return [(a, b) for a, b in pairs if a is None or b is None or a.digest != b.digest]


def _rows(table: "Table", window: "WindowStats", columns: list[str]) -> "pa.Table":
    since, until = window.span
    return table.between(since, until).to_arrow(columns)


@dataclass(slots=True)
class _Counts:
    """What adds up over the windows."""

    columns: dict[str, int]
    added: int = 0
    removed: int = 0
    changed: int = 0
    examples: dict[str, list[str]] = field(
        default_factory=lambda: {"added": [], "removed": [], "changed": []}
    )

    def compare(self, then: "pa.Table", now: "pa.Table", key: str) -> None:
        """Join one window's rows by key, and count what differs."""
        joined = _joined(then, now, key, list(self.columns))
        for number, name in enumerate(self.columns):
            self.columns[name] += pc.sum(joined[f"d{number}"]).as_py() or 0
        for kind in self.examples:
            keys = joined["k"].filter(pc.equal(joined["kind"], kind))
            setattr(self, kind, getattr(self, kind) + len(keys))
            room = EXAMPLES - len(self.examples[kind])
            self.examples[kind] += [str(k) for k in keys.slice(0, room).to_pylist()]


def _joined(then: "pa.Table", now: "pa.Table", key: str, columns: list[str]) -> "pa.Table":
    """
    Join by key: ``k``, ``kind``, and ``d0``, ``d1`` ... whether a value of a column changed.

    Values of two types are compared as text.
    """
    import duckdb

    k, differ = quoted(key), []
    for name in columns:
        cast = "" if then.schema.field(name).type == now.schema.field(name).type else "::text"
        differ.append(f"one.{quoted(name)}{cast} is distinct from two.{quoted(name)}{cast}")
    both = f"one.{k} is not null and two.{k} is not null"
    marks = "".join(f", {both} and {text} as d{i}" for i, text in enumerate(differ))
    anything = " or ".join(differ) or "false"
    with duckdb.connect() as connection:
        connection.register("one", then)
        connection.register("two", now)
        found = connection.sql(
            f"select coalesce(one.{k}, two.{k}) as k, "  # noqa: S608  (names are quoted)
            f"case when two.{k} is null then 'removed' when one.{k} is null then 'added' "
            f"when {anything} then 'changed' else 'same' end as kind{marks} "
            f"from one full join two on one.{k} = two.{k} order by 1"
        )
        return found.to_arrow_table()
