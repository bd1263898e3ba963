"""Does one feature give the label away? A model that may look at it learns nothing else."""

from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.metrics import Floats, indicators, measure

if TYPE_CHECKING:
    import pandas as pd

ROWS = 20_000
"""Rows that are looked at, evenly spread."""

FEWEST = 10
"""Texts of fewer rows than this count as one: each would know its own label."""

CATEGORIES = 50
"""A column of more texts than this is not ranked."""


def strongest_feature(features: "pd.DataFrame", y: Floats, *, classes: int) -> tuple[float, str]:
    """
    Return how well the strongest single feature ranks the labels, and its name.

    Of classes it is the area under the ROC curve, of several the best one against the rest; of
    quantities Spearman's correlation. The sign does not count. That a value is missing is a feature
    of its own.

    :param features: shape ``(n_rows, n_features)``.
    :param y: labels, shape ``(n_rows,)``.
    :param classes: how many classes there are; 0: quantities.
    :return: power from 0 to 1, and the column; 0 and an empty name if there is none.
    """
    step = -(-len(y) // ROWS)
    features, y = features.iloc[::step], y[::step]
    targets = indicators(y, classes) if classes > 2 else y[:, None]
    best = (0.0, "")
    for place, name in enumerate(features.columns):
        column = features.iloc[:, place]
        for target in targets.T:
            for values, kind in _numbers(column, target):
                power = _power(values, target, classes=classes)
                best = max(best, (power, f"{name}{kind}"), key=lambda found: found[0])
    return best


def _numbers(column: "pd.Series[Any]", y: Floats) -> list[tuple[Floats, str]]:
    """Write a column as numbers, and whether its values are missing, too."""
    from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype, is_timedelta64_dtype

    missing = column.isna().to_numpy()
    values: Floats
    found = [(missing.astype(np.float64), " (whether it is missing)")] if missing.any() else []
    if is_datetime64_any_dtype(column.dtype) or is_timedelta64_dtype(column.dtype):
        values = column.astype("int64").to_numpy().astype(np.float64)
    elif is_numeric_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = _by_label(column.astype(object).map(str), y)
    return [(np.where(missing, np.nan, values), ""), *found]


def _by_label(texts: "pd.Series[Any]", y: Floats) -> Floats:
    """Write each text as the mean label of its rows."""
    codes, known = texts.factorize()
    codes = np.where(np.bincount(codes)[codes] < FEWEST, len(known), codes)
    counts = np.bincount(codes)
    if (counts > 0).sum() > CATEGORIES:
        return np.full(len(y), np.nan)
    return np.asarray((np.bincount(codes, y) / np.maximum(counts, 1))[codes])


def _power(values: Floats, y: Floats, *, classes: int) -> float:
    there = np.isfinite(values)
    x, y = values[there], y[there]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    if classes:
        area = measure("roc_auc", y, x)
        return max(area, 1 - area)
    from scipy.stats import spearmanr

    return abs(float(spearmanr(x, y).statistic))
