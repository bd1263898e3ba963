"""Cut rows into slices: by the values of a column, or by what an expression of SQL says of them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError

VALUES = 10
"""More distinct values than this: numbers are cut at their quartiles, others are pooled."""

LETTERS = 40

_ROW = "mlops row"
"""Column that numbers the rows: SQL may give them back in another order."""

Values = Sequence[Any]
"""Value of each row: a list, or a column of Arrow."""

Slice = tuple[str, NDArray[np.bool_], NDArray[np.bool_]]
"""Its name, and which rows are in it, now and before."""

_Groups = tuple[Callable[[pa.ChunkedArray], NDArray[np.int64]], Sequence[str]]


def values_of(rows: pa.Table, by: str) -> pa.ChunkedArray:
    """
    Return a column, or what an expression of DuckDB's SQL gives for each row.

    :param rows: shape ``(n_rows, n_columns)``.
    :param by: name of a column, or an expression such as ``"hour >= 18"``.
    :return: shape ``(n_rows,)``.
    :raises ConfigurationError: if there is no such column, the expression does not run, or it gives
        anything but one single value for each row.
    """
    found = rows[by] if by in rows.schema.names else _computed(rows, by)
    if pa.types.is_nested(found.type):
        msg = f"cannot slice by {by!r}: it is {found.type}, and slices are of single values"
        raise ConfigurationError(msg)
    return found


def _computed(rows: pa.Table, by: str) -> pa.ChunkedArray:
    import duckdb

    known, number = ", ".join(rows.schema.names), rows.num_rows
    if by.isidentifier():
        msg = f"no column {by!r} to slice by; there are {known}"
        raise ConfigurationError(msg)
    try:
        with duckdb.connect() as connection:
            connection.execute("set enable_external_access = false")
            connection.execute("set python_enable_replacements = false")
            connection.execute("set TimeZone = 'UTC'")
            numbered = connection.from_arrow(rows.append_column(_ROW, pa.array(np.arange(number))))
            found = numbered.project(f'{by}\n, "{_ROW}"').to_arrow_table()
    except duckdb.Error as error:
        msg = f"cannot slice by {by!r}: {' '.join(str(error).split())}; the columns are {known}"
        raise ConfigurationError(msg) from error
    if found.shape != (number, 2):
        msg = (
            f"cannot slice by {by!r}: it gives {found.num_rows} rows of {found.num_columns - 1} "
            f"values for {number} rows; write an expression that gives one value for each row"
        )
        raise ConfigurationError(msg)
    return found.column(0).take(np.argsort(found.column(1).to_numpy(), kind="stable"))


def cut(now: Values, before: Values | None = None) -> list[Slice]:
    """
    Name each slice that has rows now, and say which rows are in it.

    :param now: value of each row; a missing one is ``None`` or NaN.
    :param before: values of other rows, which say where numbers are cut; none: ``now``.
    :return: slices in the order of their names; each row now is in one of them.
    """
    here, there = _column(now), _column([] if before is None else before)
    number, texts = _groups(here, there)
    names = distinct(["missing", *texts])
    one, two = (_numbered(part, number) for part in (here, there))
    found = sorted(np.unique(one).tolist(), key=lambda group: names[group])
    return [(names[group], one == group, two == group) for group in found]


def _column(values: Values) -> pa.ChunkedArray:
    column: Any = values
    if not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array([pa.array(list(values), from_pandas=True)])
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def _numbered(
    values: pa.ChunkedArray, number: Callable[[pa.ChunkedArray], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Number the slice of each row; 0 is missing."""
    if not len(values) or pa.types.is_null(values.type):
        return np.zeros(len(values), np.int64)
    return np.where(pc.is_null(values).to_numpy(), 0, 1 + number(values))


def _groups(now: pa.ChunkedArray, before: pa.ChunkedArray) -> _Groups:
    """Return the function that numbers the slice of a value, and a text for each number."""
    both = [pa.table({"value": part}) for part in (now, before)]
    known = pa.concat_tables(both, promote_options="permissive")["value"].drop_null()
    numeric = pa.types.is_integer(known.type) or pa.types.is_floating(known.type)
    if numeric and any(pc.count_distinct(p).as_py() > VALUES for p in (known[:1000], known)):
        then = _finite(before)
        return _quartiles(then if len(then) else _finite(known))
    counted = pc.value_counts(known).to_pylist()
    counts = {pair["values"]: pair["counts"] for pair in counted}
    kept = sorted(sorted(counts, key=lambda v: (-counts[v], str(v)))[:VALUES], key=str)

    def number(values: pa.ChunkedArray) -> NDArray[np.int64]:
        found = pc.index_in(values.cast(known.type), value_set=pa.array(kept, known.type))
        return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64) + 1

    return number, ["other values", *(str(v)[:LETTERS] for v in kept)]


def _finite(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return what quartiles are of; infinities lie beyond them."""
    numbers = _numbers(values.drop_null())
    return numbers[np.isfinite(numbers)]


def _quartiles(numbers: NDArray[np.float64]) -> _Groups:
    cuts = np.quantile(numbers, [0.25, 0.5, 0.75]).tolist()
    for digits in range(6, 18):  # 17 tell all numbers apart
        low, middle, high = texts = [f"{cut:.{digits}g}" for cut in cuts]
        if len(set(texts)) == len(set(cuts)):
            break
    names = [f"up to {low}", f"{low} to {middle}", f"{middle} to {high}", f"above {high}"]
    return lambda asked: np.searchsorted(cuts, _numbers(asked)), names


def _numbers(values: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(values.cast(pa.float64(), safe=False), 0.0).to_numpy())


def distinct(texts: Sequence[str]) -> list[str]:
    """
    Number those that are there already.

    :param texts: names of slices.
    """
    names: list[str] = []
    for text in texts:
        tries = itertools.chain([text], (f"{text} ({n})" for n in itertools.count(2)))
        names.append(next(name for name in tries if name not in names))
    return names


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Correct p-values for the number of questions; in the order in which they came.

    :param p_values: one for each question, 0 to 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, least = [0.0] * len(p_values), 0.0
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(ranked):
        least = max(least, min(1.0, (len(ranked) - rank) * p_values[place]))
        found[place] = least
    return found
