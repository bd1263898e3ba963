"""
The cheap challenger: a small model of the newest rows, on the features of the champion.

It is never served. Beside the champion on the same rows it says whether a retrain would help.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.policy import PROBABILITIES

if TYPE_CHECKING:
    import pandas as pd

ROWS = 2_000
"""Newest labelled rows it learns from."""

TREES = 30
CATEGORIES = 254
"""HistGradientBoosting has 255 bins."""


def challenge(
    learn: "pd.DataFrame",
    y: NDArray[np.float64],
    ask: "pd.DataFrame",
    *,
    metric: str,
    name: str,
) -> NDArray[np.float64]:
    """
    Fit a small model, and predict other rows.

    :param learn: features to learn from, shape ``(n_rows, n_features)``.
    :param y: their labels, shape ``(n_rows,)``.
    :param ask: features to predict, shape ``(m_rows, n_features)``.
    :param metric: per-row loss; those of probabilities make it a classifier.
    :param name: who built the features; errors name it.
    :return: shape ``(m_rows,)``.
    :raises UserCodeError: if both frames have other columns.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    learn, ask = _learnable(learn, ask, name)
    if metric not in PROBABILITIES:
        regressor = HistGradientBoostingRegressor(max_iter=TREES, random_state=0)
        return np.asarray(regressor.fit(learn, y).predict(ask), dtype=np.float64)
    if len(np.unique(y)) < 2:
        return np.full(len(ask), y.mean())
    classifier = HistGradientBoostingClassifier(max_iter=TREES, random_state=0)
    return np.asarray(classifier.fit(learn, y).predict_proba(ask)[:, 1])


def _learnable(
    learn: "pd.DataFrame", ask: "pd.DataFrame", name: str
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Turn features into what HistGradientBoosting learns from: numbers and categories."""
    import pandas as pd

    if list(learn.columns) != list(ask.columns):
        first, second = (", ".join(map(repr, frame.columns)) for frame in (learn, ask))
        msg = f"{name} gave {second} for later rows and {first} for those before them"
        raise UserCodeError(msg)
    pairs = [_pair(learn.iloc[:, i], ask.iloc[:, i]) for i in range(learn.shape[1])]
    pairs = [p for p in pairs if not pd.isna(p[0]).all()]  # scikit-learn cannot bin such a column
    pairs = pairs or [(np.zeros(len(learn)), np.zeros(len(ask)))]
    one, two = (pd.DataFrame({f"{i}": pair[k] for i, pair in enumerate(pairs)}) for k in (0, 1))
    return one, two


def _pair(learn: "pd.Series[Any]", ask: "pd.Series[Any]") -> tuple[Any, Any]:
    """A column as numbers if it is, else as its most frequent values; others are missing."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    both = (learn, ask)
    if all(is_numeric_dtype(part.dtype) for part in both):
        numbers = [part.to_numpy(dtype=np.float64, na_value=np.nan) for part in both]
        return numbers[0], numbers[1]
    texts = [part.astype(object).map(str, na_action="ignore") for part in both]
    kept = texts[0].value_counts().index[:CATEGORIES]
    known = [pd.Categorical(part.where(part.isin(kept)), categories=kept) for part in texts]
    return known[0], known[1]
