"""
Features in a few numbers for each column: enough to see whether they are the same, and where not.

They travel with a model in place of the features themselves, since rows stay where they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from airflow_mlops.core.data.digest import ContentDigest, digest_of

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 100
"""How many times the precision of its type a value may differ by, for the largest one is 1."""

Column = str | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """
    What tells one frame of features from another.

    :param digest: content digest of the frame; the same to the last bit, or another.
    :param columns: column -> digest of its values; of floats, four numbers: precision, largest
        absolute value, sum of all values (weighted by their place, for the largest is 1), sum of
        the places without a finite value.
    """

    digest: str
    columns: Mapping[str, Column]

    @classmethod
    def of(cls, frame: "pd.DataFrame") -> Self:
        """Look at a frame of features; the order of its rows counts for floats."""
        names = enumerate(map(str, frame.columns))
        return cls(frame_digest(frame), {n: _column(frame.iloc[:, [i]]) for i, n in names})

    def differs(self, now: Self) -> tuple[str, ...]:
        """
        Return the columns that differ by more than rounding.

        Another processor may round a sine or a product otherwise: such a difference in the last
        digits is none, as when training compares rows built alone and among others.

        :param now: of the same rows, built later.
        """
        if self.digest == now.digest:
            return ()
        rows = ContentDigest.parse(self.digest).rows
        names = sorted({*self.columns, *now.columns})
        return tuple(n for n in names if not _same(self.columns.get(n), now.columns.get(n), rows))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        lists = {n: c if isinstance(c, str) else list(c) for n, c in self.columns.items()}
        return {"digest": self.digest, "columns": lists}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the fingerprint that :meth:`to_dict` wrote."""
        columns = data["columns"].items()
        return cls(data["digest"], {n: c if isinstance(c, str) else tuple(c) for n, c in columns})


def frame_digest(frame: "pd.DataFrame") -> str:
    """Return the content digest of a frame of features; a column of mixed values counts as text."""
    columns = {}
    for position, name in enumerate(frame.columns):
        values = frame.iloc[:, position]
        try:
            columns[str(name)] = pa.Array.from_pandas(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[str(name)] = pa.array(values.astype(str), pa.string())
    table = pa.table(
        {k: v.combine_chunks() if isinstance(v, pa.ChunkedArray) else v for k, v in columns.items()}
    )
    return str(digest_of(table.to_batches()))


def precision(series: "pd.Series[Any]") -> float:
    """Return the relative distance of two neighbouring floats of a column's type."""
    return float(np.finfo(getattr(series.dtype, "numpy_dtype", series.dtype)).eps)


def _column(frame: "pd.DataFrame") -> Column:
    from pandas.api.types import is_float_dtype

    series = frame.iloc[:, 0]
    if not is_float_dtype(series.dtype):
        return frame_digest(frame)
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.isfinite(values)
    size = float(np.max(np.abs(values), initial=0.0, where=finite))
    places = np.arange(len(values), 2 * len(values)) / max(1, 2 * len(values))  # 0.5 to 1
    scaled = np.where(finite, values, 0.0) / (size or 1.0)
    kinds = np.select([np.isnan(values), values > 0], [1.0, 2.0], 3.0)  # NaN, infinity, its minus
    absent = np.where(finite, 0.0, places * kinds)
    return precision(series), size, float((places * scaled).sum()), float(absent.sum())


def _same(then: Column | None, now: Column | None, rows: int) -> bool:
    """Compare one column; the sum of floats may have moved as far as rounding moves one."""
    if then is None or now is None or isinstance(then, str) or isinstance(now, str):
        return then == now
    (one, size, total, absent), (two, other, new, missing) = then, now
    near = ROUNDING * max(one, two)
    return bool(
        abs(size - other) <= near * max(size, other)
        and max(abs(total - new), abs(absent - missing)) <= near * math.sqrt(rows)
    )
