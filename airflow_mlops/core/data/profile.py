"""
Profiles: the distribution of every column, in one pass, mergeable, in constant memory.

A numeric column becomes counters: the upper 16 bits of ``float32((x - centre) * scale)`` are the
cell, so there are no edges and no sort. Profiles of the same centre add up and subtract.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError

CELLS = 1 << 16
INFINITE = (0x7F80, 0xFF80)
"""Cells of plus and minus infinity."""

CATEGORIES = 10_000
"""Distinct values a category column keeps; further ones are counted together."""

LONGEST = 128
"""Characters from which a value is known by its beginning and a hash, of this length together."""

Counts = NDArray[np.int64]
Cells = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class NumericProfile:
    """
    One numeric column: occupied cells, moments and range.

    :param centre: value around which cells are finest.
    :param scale: power of two that keeps ``float32`` from overflowing.
    :param missing: nulls and NaN.
    :param total: sum of ``(x - centre) * scale`` over finite values.
    :param squares: sum of its square.
    :param cells: occupied cells, ascending.
    :param counts: rows in each of them.
    :param times: whether it is a timestamp: known by range only, never judged for drift.
    """

    centre: float = 0.0
    scale: float = 1.0
    rows: int = 0
    missing: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    times: bool = False
    cells: Cells = field(default_factory=lambda: np.empty(0, np.uint16), repr=False)
    counts: Counts = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    kind: ClassVar[str] = "numeric"

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return self.rows - self.missing

    @property
    def infinite(self) -> int:
        """Rows whose value is infinite."""
        return int(self.counts[np.isin(self.cells, INFINITE)].sum())

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN if there are none."""
        finite = self.present - self.infinite
        return self.centre + self.total / self.scale / finite if finite else math.nan

    def without_rows(self) -> Self:
        """Return the same column, around the same centre, with no rows in it."""
        return type(self)(self.centre, self.scale, times=self.times)

    def merge(self, other: Self, sign: int = 1) -> Self:
        """
        Add another profile of the same column, or take it away.

        :param sign: 1 adds; -1 subtracts, and leaves the range as it is.
        :raises ConfigurationError: if the two were made around different centres, or if the one
            that is taken away is no part of this one.
        """
        if (self.centre, self.scale) != (other.centre, other.scale):
            msg = f"profiles around {self.centre} and {other.centre} do not add up"
            raise ConfigurationError(msg)
        cells, counts = _added((self, other), (1, sign))
        if (counts < 0).any():
            msg = f"a profile of {other.rows} rows is no part of one of {self.rows} rows"
            raise ConfigurationError(msg)
        return replace(
            self,
            rows=self.rows + sign * other.rows,
            missing=self.missing + sign * other.missing,
            total=self.total + sign * other.total,
            squares=self.squares + sign * other.squares,
            low=min(self.low, other.low) if sign > 0 else self.low,
            high=max(self.high, other.high) if sign > 0 else self.high,
            cells=cells,
            counts=counts,
        )


def _added(parts: Sequence[NumericProfile], signs: Sequence[int]) -> tuple[Cells, Counts]:
    """Add the counters of profiles around one centre; empty cells are left out."""
    dense = np.zeros(CELLS, np.int64)
    for part, sign in zip(parts, signs, strict=True):
        dense[part.cells] += sign * part.counts
    cells = np.flatnonzero(dense != 0).astype(np.uint16)  # of booleans it is ten times as fast
    return cells, dense[cells]


@dataclass(frozen=True, slots=True)
class CategoryProfile:
    """
    One column of text or booleans: rows per value.

    :param missing: nulls.
    :param other: rows whose value was not kept, because there are too many distinct ones.
    :param values: value -> rows.
    """

    rows: int = 0
    missing: int = 0
    other: int = 0
    values: Mapping[str, int] = field(default_factory=dict)
    kind: ClassVar[str] = "category"

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return self.rows - self.missing

    def merge(self, other: Self, sign: int = 1) -> Self:
        """Add another profile of the same column (``sign=1``), or take it away (``-1``)."""
        values, left = dict(self.values), self.other + sign * other.other
        for value, rows in other.values.items():
            if value in values or len(values) < CATEGORIES:
                values[value] = values.get(value, 0) + sign * rows
            else:
                left += sign * rows
        return type(self)(
            self.rows + sign * other.rows,
            self.missing + sign * other.missing,
            left,
            {value: rows for value, rows in values.items() if rows > 0},
        )

    def without_rows(self) -> Self:
        """Return the same column with no rows in it."""
        return type(self)()


ColumnProfile = NumericProfile | CategoryProfile


@dataclass(frozen=True, slots=True)
class Profile:
    """
    All columns of some rows; columns of other types (lists, binary) are left out.

    :param columns: column name -> its profile.
    """

    columns: Mapping[str, ColumnProfile] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return next((c.rows for c in self.columns.values()), 0)

    def centres(self) -> dict[str, Any]:
        """Return what profiles have to share to add up, in plain JSON types."""
        return {
            name: [c.centre, c.scale, c.times] if isinstance(c, NumericProfile) else None
            for name, c in self.columns.items()
        }

    @classmethod
    def around(cls, centres: Mapping[str, Any]) -> Self:
        """Return an empty profile around :meth:`centres`, for others to be made like it."""
        columns: dict[str, ColumnProfile] = {}
        for name, found in centres.items():
            if found is None:
                columns[name] = CategoryProfile()
            else:
                centre, scale, times = found
                columns[name] = NumericProfile(centre, scale, times=times)
        return cls(columns)

    def merge(self, other: Self, sign: int = 1) -> Self:
        """Add another profile of the same table (``sign=1``), or take it away (``-1``)."""
        found: dict[str, ColumnProfile] = dict(self.columns)
        for name, column in other.columns.items():
            mine = found.get(name)
            if mine is None:
                found[name] = column
            elif type(mine) is type(column):
                found[name] = mine.merge(column, sign)  # type: ignore[arg-type]
            else:
                msg = (
                    f"column {name!r} is {mine.kind} in one profile and {column.kind} in the other"
                )
                raise ConfigurationError(msg)
        return type(self)(found)

    def subtract(self, other: Self) -> Self:
        """Take a part away."""
        return self.merge(other, -1)


def merge_all(profiles: Iterable[Profile]) -> Profile:
    """Add up profiles of the same table; columns that are numeric everywhere in one go."""
    parts: dict[str, list[ColumnProfile]] = {}
    for profile in profiles:
        for name, column in profile.columns.items():
            parts.setdefault(name, []).append(column)
    return Profile({name: _sum_of(name, columns) for name, columns in parts.items()})


def _sum_of(name: str, columns: Sequence[ColumnProfile]) -> ColumnProfile:
    numeric = [c for c in columns if isinstance(c, NumericProfile)]
    around = {(c.centre, c.scale) for c in numeric}
    if len(numeric) < len(columns) or len(around) > 1:
        total = Profile()
        for column in columns:
            total = total.merge(Profile({name: column}))
        return total.columns[name]
    cells, counts = _added(numeric, [1] * len(numeric))
    return replace(
        numeric[0],
        rows=sum(c.rows for c in numeric),
        missing=sum(c.missing for c in numeric),
        total=sum(c.total for c in numeric),
        squares=sum(c.squares for c in numeric),
        low=min(c.low for c in numeric),
        high=max(c.high for c in numeric),
        cells=cells,
        counts=counts,
    )


def aligned(profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """Give all profiles the columns that any of them has; where one came later, it is missing."""
    blank = {name: c.without_rows() for p in profiles for name, c in p.columns.items()}
    return tuple(
        p
        if len(p.columns) == len(blank)
        else Profile(
            {
                name: p.columns.get(name) or replace(c, rows=p.rows, missing=p.rows)
                for name, c in blank.items()
            }
        )
        for p in profiles
    )


_STORED = pa.schema(
    [
        ("group", pa.int64()),
        ("column", pa.string()),
        ("kind", pa.string()),
        ("facts", pa.string()),
        ("cells", pa.list_(pa.uint16())),
        ("values", pa.list_(pa.string())),
        ("counts", pa.list_(pa.int64())),
    ]
)


def to_bytes(profiles: Mapping[int, Profile]) -> bytes:
    """
    Write profiles as one Arrow IPC file: a row per group and column, occupied cells only.

    :param profiles: number of a window -> its profile.
    """
    rows: list[dict[str, Any]] = []
    for group, profile in profiles.items():
        for name, c in profile.columns.items():
            left_out = ("cells", "counts", "values")
            facts = {f.name: getattr(c, f.name) for f in fields(c) if f.name not in left_out}
            row = {"group": group, "column": name, "kind": c.kind, "facts": json.dumps(facts)}
            if isinstance(c, NumericProfile):
                rows.append({**row, "cells": c.cells, "values": [], "counts": c.counts})
            else:
                counts = list(c.values.values())
                rows.append({**row, "cells": [], "values": list(c.values), "counts": counts})
    table = pa.Table.from_pylist(rows, schema=_STORED)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def from_bytes(data: bytes, groups: Iterable[int] | None = None) -> dict[int, Profile]:
    """
    Read what :func:`to_bytes` wrote.

    :param groups: windows to read; none: all.
    """
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all().combine_chunks()
    group, kind, name = (table[c].to_pylist() for c in ("group", "kind", "column"))
    facts = json.loads(f"[{','.join(table['facts'].to_pylist())}]")
    cells, counts, values = (_parts(table[c]) for c in ("cells", "counts", "values"))
    wanted = set(group) if groups is None else set(groups)
    found: dict[int, dict[str, ColumnProfile]] = {}
    for i, number in enumerate(group):
        if number not in wanted:
            continue
        column: ColumnProfile
        if kind[i] == "numeric":
            column = NumericProfile(**facts[i], cells=_array(cells(i)), counts=_array(counts(i)))
        else:
            rows = dict(zip(values(i).to_pylist(), counts(i).to_pylist(), strict=True))
            column = CategoryProfile(**facts[i], values=rows)
        found.setdefault(number, {})[name[i]] = column
    return {number: Profile(columns) for number, columns in found.items()}


def _parts(column: pa.ChunkedArray) -> Callable[[int], pa.Array]:
    """Return what gives the list in a row, without making a scalar of it."""
    if not len(column):
        return lambda _: pa.array([])
    lists = column.chunk(0)
    offsets, inner = lists.offsets.to_pylist(), lists.values
    return lambda row: inner.slice(offsets[row], offsets[row + 1] - offsets[row])


def _array(values: pa.Array) -> Any:
    return np.from_dlpack(values)  # to_numpy() would import pandas
