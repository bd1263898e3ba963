"""Training of the bicycle rental model."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor


def fit(
    X: pd.DataFrame,  # noqa: N803  (scikit-learn's word)
    y: np.ndarray[Any, Any],
    *,
    seed: int,
    max_iter: int = 100,
) -> HistGradientBoostingRegressor:
    """
    Fit gradient-boosted trees.

    :param X: features, shape ``(n_rows, n_features)``.
    :param y: rentals in the hour, shape ``(n_rows,)``.
    :param max_iter: number of trees.
    """
    return HistGradientBoostingRegressor(max_iter=max_iter, random_state=seed).fit(X, y)
