"""
The contract: what a model was trained on, column by column, and where new rows break it.

A break of the schema (a column missing or of another type) stops scoring. A null where training
saw none disqualifies the row. A value outside the range, or a new category, is a finding only.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from airflow_mlops.core.data.profile import LONGEST, CategoryProfile, NumericProfile, Profile
from airflow_mlops.policy.monitoring import BreakKind

Kind = Literal[BreakKind, "unexpected"]
"""Kinds of break; ``unexpected`` is one of datasets only: a model leaves other columns alone."""

SCHEMA: tuple[Kind, ...] = ("missing", "retyped")
"""Kinds of break after which nothing can be scored."""

SMALL = 50
"""A column with at most this many distinct values is checked for new ones."""

EXAMPLES = 3

_LOGICAL = (
    ("boolean", pt.is_boolean),
    ("integer", pt.is_integer),
    ("number", pt.is_floating),
    ("number", pt.is_decimal),
    ("timestamp", pt.is_temporal),
    ("string", pt.is_string),
    ("string", pt.is_large_string),
    ("string", pt.is_string_view),
    ("string", pt.is_dictionary),
)


@dataclass(frozen=True, slots=True)
class Break:
    """
    One way in which rows do not fit.

    :param kind: what kind of break.
    :param count: rows it concerns; 0 for a break of the schema.
    :param examples: keys of a few of these rows.
    """

    column: str
    kind: Kind
    expected: str
    found: str
    count: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"column {self.column!r} {self.kind}: expected {self.expected}, found {self.found}"
        if self.count:
            text += f" in {self.count} rows, such as {', '.join(self.examples)}"
        return text

    @property
    def counted(self) -> str:
        """The same without a key or a value of a row, for what is kept for ever."""
        return (
            f"column {self.column!r} {self.kind} in {self.count} rows" if self.count else str(self)
        )


@dataclass(frozen=True, slots=True)
class ColumnContract:
    """
    What one column is.

    :param type: logical type: integer, number, boolean, string, timestamp or other.
    :param nullable: whether training saw a null, NaN or an infinity.
    :param minimum: least finite value seen; ``None`` for text.
    :param categories: distinct values seen, if there are few; ``None`` if there are many.
    """

    name: str
    type: str
    nullable: bool
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """All columns a model was trained on, key and time left out."""

    columns: tuple[ColumnContract, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the contract that :meth:`to_dict` wrote."""
        columns = (
            {**c, "categories": None if c["categories"] is None else tuple(c["categories"])}
            for c in data["columns"]
        )
        return cls(tuple(ColumnContract(**c) for c in columns))


def logical_type(kind: pa.DataType) -> str:
    """Return the logical type of an Arrow type: the width does not matter."""
    return next((name for name, is_kind in _LOGICAL if is_kind(kind)), "other")


def logical_types(schema: pa.Schema) -> dict[str, str]:
    """Return column -> logical type."""
    return {f.name: logical_type(f.type) for f in schema}


def infer_contract(
    schema: pa.Schema, profile: Profile, *, exclude: Collection[str] = ()
) -> Contract:
    """
    Write down what these rows look like.

    :param schema: columns and types.
    :param profile: profile of the training rows.
    :param exclude: columns that are no input of the model, such as the key.
    """
    columns = []
    for name, kind in logical_types(schema).items():
        if name in exclude:
            continue
        seen = profile.columns.get(name)
        if isinstance(seen, NumericProfile):
            low, high = (x if math.isfinite(x) else None for x in (seen.low, seen.high))
            absent = seen.missing + seen.infinite
            columns.append(ColumnContract(name, kind, absent > 0, low, high))
        elif isinstance(seen, CategoryProfile):
            few = len(seen.values) <= SMALL and not seen.other
            few = few and all(len(value) < LONGEST for value in seen.values)
            values = tuple(sorted(seen.values)) if few else None
            columns.append(ColumnContract(name, kind, seen.missing > 0, categories=values))
        else:
            columns.append(ColumnContract(name, kind, nullable=True))
    return Contract(tuple(columns))


def schema_breaks(expected: Contract | pa.Schema, found: pa.Schema) -> tuple[Break, ...]:
    """
    Compare columns and logical types.

    A column that is missing beside an unexpected one of the same type is shown as a likely rename.
    """
    wanted = _types(expected)
    have = logical_types(found)
    missing = [name for name in wanted if name not in have]
    extra = [name for name in have if name not in wanted]
    breaks = []
    for name in missing:
        twin = next((other for other in extra if have[other] == wanted[name]), None)
        note = f"nothing (renamed to {twin!r}?)" if twin else "nothing"
        breaks.append(Break(name, "missing", wanted[name], note))
    breaks += [
        Break(name, "retyped", wanted[name], have[name])
        for name in wanted
        if name in have and have[name] != wanted[name]
    ]
    if not isinstance(expected, Contract):
        breaks += [Break(name, "unexpected", "nothing", have[name]) for name in extra]
    return tuple(breaks)


def row_breaks(
    contract: Contract, rows: pa.Table, key: str
) -> tuple[pa.BooleanArray, tuple[Break, ...]]:
    """
    Check values row by row.

    :param rows: rows that passed :func:`schema_breaks`.
    :param key: column that names a row.
    :return: which rows may be scored, shape ``(n_rows,)``, and every break with its count.
    """
    good = pa.array([True] * rows.num_rows, pa.bool_())
    breaks: list[Break] = []
    for column in contract.columns:
        values = rows[column.name].combine_chunks()
        absent = _absent(values)
        if not column.nullable and pc.any(absent).as_py():
            breaks.append(_break(column.name, "null", "a value", "null or NaN", absent, rows[key]))
            good = pc.and_(good, pc.invert(absent))
        breaks += _findings(column, values, rows[key])
    return good, tuple(breaks)


def failing(breaks: Sequence[Break], fail_on: str, also: Collection[str] = ()) -> tuple[Break, ...]:
    """
    Return the breaks that fail a check.

    :param fail_on: ``"error"``: a broken schema; ``"warn"``: whatever was found; ``"never"``:
        nothing.
    :param also: kinds of break that fail it in any case.
    """
    kinds = {"error": SCHEMA, "warn": get_args(Kind), "never": ()}[fail_on]
    return tuple(b for b in breaks if b.kind in kinds or b.kind in also)


def contract_changes(before: Contract, now: Contract, *, named: bool = True) -> tuple[str, ...]:
    """
    Say in words how a contract differs from another; ranges move with every training.

    :param named: whether values are named; else they are counted, for what is kept for ever.
    """
    old, new = ({c.name: c for c in part.columns} for part in (before, now))
    said = [f"column {n!r} ({c.type}) is new" for n, c in new.items() if n not in old]
    said += [f"column {n!r} ({c.type}) is gone" for n, c in old.items() if n not in new]
    for name in old.keys() & new.keys():
        said += [f"column {name!r} {what}" for what in _changes(old[name], new[name], named)]
    return tuple(sorted(said))


def _changes(before: ColumnContract, now: ColumnContract, named: bool) -> Iterator[str]:
    if before.type != now.type:
        yield f"is {now.type}, was {before.type}"
    if before.nullable != now.nullable:
        yield "may be empty now" if now.nullable else "may be empty no more"
    if before.categories is not None and now.categories is not None:
        old, new = set(before.categories), set(now.categories)
        for word, names in (("has the new values", new - old), ("lost the values", old - new)):
            if names:
                some = ", ".join(map(repr, sorted(names)[:EXAMPLES]))
                yield f"{word} {some}" if named else f"{word}: {len(names)}"


def _types(expected: Contract | pa.Schema) -> dict[str, str]:
    if isinstance(expected, Contract):
        return {c.name: c.type for c in expected.columns}
    return logical_types(expected)


def _absent(values: pa.Array) -> pa.BooleanArray:
    """Null, NaN or infinite."""
    if not pt.is_floating(values.type):
        return pc.is_null(values)
    return pc.invert(pc.fill_null(pc.is_finite(values), False))


def _findings(column: ColumnContract, values: pa.Array, keys: pa.ChunkedArray) -> list[Break]:
    if column.type in ("integer", "number") and column.minimum is not None:
        numbers = values.cast(pa.float64(), safe=False)
        below = pc.less(numbers, column.minimum)
        outside = pc.fill_null(pc.or_(below, pc.greater(numbers, column.maximum)), False)
        if pc.any(outside).as_py():
            span = f"{column.minimum:g} to {column.maximum:g}"
            bad = pc.filter(numbers, outside)
            found = f"{pc.min(bad).as_py():g} to {pc.max(bad).as_py():g}"
            return [_break(column.name, "out of range", span, found, outside, keys)]
    if column.categories is not None:
        texts = values.cast(pa.string())
        known = pc.is_in(texts, value_set=pa.array(column.categories, pa.string()))
        new = pc.and_(pc.invert(known), pc.is_valid(texts))
        if pc.any(new).as_py():
            names = sorted(set(pc.filter(texts, new).to_pylist()))
            found = ", ".join(map(repr, names[:EXAMPLES]))
            expected = f"one of {len(column.categories)} known values"
            return [_break(column.name, "new category", expected, found, new, keys)]
    return []


def _break(
    column: str, kind: Kind, expected: str, found: str, mask: pa.Array, keys: pa.ChunkedArray
) -> Break:
    some = tuple(str(k) for k in keys.filter(mask).slice(0, EXAMPLES).to_pylist())
    return Break(column, kind, expected, found, int(pc.sum(mask).as_py()), some)
