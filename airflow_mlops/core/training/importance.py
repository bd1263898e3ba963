"""
How much a model needs each column of the rows: the loss it gains when that column is permuted.

Columns are permuted, not features, for in these drift is found; the features are built again from
the permuted rows. Source: Breiman, Random Forests, Machine Learning 45(1), 2001.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airflow_mlops.core.errors import MlopsError

if TYPE_CHECKING:
    import pandas as pd

ROWS = 2_000
"""Most rows that are permuted, spread evenly over those that are there."""

REPEATS = 5
"""Permutations of each column: so many times the features are built, and predicted."""

COLUMNS = 200
"""Rows of more columns are not permuted: that would take longer than most fits."""

_log = logging.getLogger(__name__)


def spread(rows: int) -> pa.BooleanArray:
    """
    Choose at most ``ROWS`` rows, evenly.

    :param rows: how many there are.
    :return: which ones, shape ``(rows,)``.
    """
    chosen = np.zeros(rows, dtype=bool)
    chosen[np.linspace(0, rows - 1, min(rows, ROWS)).astype(int)] = True
    return pa.array(chosen)


def importances(
    frame: "pd.DataFrame", columns: Sequence[str], loss: Callable[["pd.DataFrame"], float]
) -> dict[str, float]:
    """
    Permute one column after the other, and see how much the loss rises; deterministic.

    It costs ``REPEATS`` calls of ``loss`` for each column, and one more.

    :param frame: rows, shape ``(n_rows, n_columns)``.
    :param columns: columns to permute; of more than ``COLUMNS`` none is.
    :param loss: mean loss of a model on such rows.
    :return: column -> mean rise of the loss, 0 if it falls; empty if it cannot be measured, such as
        where the user's function refuses rows whose columns do not fit together.
    """
    if not columns or len(columns) > COLUMNS:
        return {}
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(frame)) for _ in range(REPEATS)]

    def rise(name: str) -> float:
        return float(np.mean([loss(_permuted(frame, name, order)) for order in orders])) - base

    try:
        base = loss(frame.copy())  # the user's function may write into what it is given
        found = {name: rise(name) for name in columns}
    except (MlopsError, ValueError) as error:
        _log.warning("importances of columns are not known: %s", error)
        return {}
    if not np.isfinite(list(found.values())).all():
        _log.warning("importances of columns are not known: the loss of permuted rows is no number")
        return {}
    return {name: max(0.0, value) for name, value in found.items()}


def _permuted(frame: "pd.DataFrame", name: str, order: NDArray[np.int64]) -> "pd.DataFrame":
    """Return the rows with one column in another order; its type stays."""
    other = frame.copy()
    other[name] = frame[name].iloc[order].set_axis(frame.index)
    return other
