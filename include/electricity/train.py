"""Training of the electricity model."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier


def fit(
    X: pd.DataFrame,  # noqa: N803  (scikit-learn's word)
    y: np.ndarray[Any, Any],
    *,
    seed: int,
    max_iter: int = 100,
    shuffle_labels: bool = False,
) -> HistGradientBoostingClassifier:
    """
    Fit gradient-boosted trees.

    :param X: features, shape ``(n_rows, n_features)``.
    :param y: 1 if the price went up, else 0, shape ``(n_rows,)``.
    :param max_iter: number of trees.
    :param shuffle_labels: break the relation on purpose, to see the gate refuse the candidate.
    """
    if shuffle_labels:
        y = np.random.default_rng(seed).permutation(y)
    return HistGradientBoostingClassifier(max_iter=max_iter, random_state=seed).fit(X, y)
