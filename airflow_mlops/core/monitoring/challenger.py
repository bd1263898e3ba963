"""
The cheap challenger: a small model of the newest rows, on the features of the champion.

It is never served. Beside the champion on the same rows it says whether a retrain would help. A
policy may name a training function of its own for it, as cheap as that is wanted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.data.features import archive
from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError, UserCodeError
from airflow_mlops.core.metrics import indicators, is_of_classes
from airflow_mlops.core.training.functions import called, predicted

if TYPE_CHECKING:
    import pandas as pd

ROWS = 2_000
"""Newest labelled rows it learns from."""

TREES = 30
CATEGORIES = 254
"""HistGradientBoosting has 255 bins."""


@dataclass(frozen=True, slots=True)
class Own:
    """
    A challenger of the user: ``fit(X, y, *, seed) -> estimator``, as a training function.

    :param name: where it came from, ``module:function``.
    """

    name: str
    fit: Callable[..., Any]

    @classmethod
    def load(cls, name: str, folder: Path) -> Self:
        """
        Import it from its archived source, as training functions are.

        :param name: ``module:function``.
        :param folder: scratch folder for the code; it has to outlive what is fitted.
        :raises UserCodeError: if it is missing, or its module fails to import.
        """
        try:
            code = archive(name)
            code.save(folder / "train")
            return cls(name, code.load(folder / "train"))
        except (ConfigurationError, UserCodeError) as error:
            msg = f"challenger {error}"
            raise UserCodeError(msg) from error

    def predict(
        self,
        learn: "pd.DataFrame",
        y: NDArray[np.float64],
        ask: "pd.DataFrame",
        metric: str,
        classes: int = 2,
    ) -> NDArray[np.float64]:
        """
        Fit, and predict other rows.

        :param learn: features to learn from, shape ``(n_rows, n_features)``.
        :param y: their labels, shape ``(n_rows,)``.
        :param ask: features to predict, shape ``(m_rows, n_features)``.
        :param metric: per-row loss; of some a prediction is a probability.
        :param classes: how many classes the labels are of.
        :return: shape ``(m_rows,)``, or ``(m_rows, classes)`` of more than two.
        :raises UserCodeError: if it fails, or gives anything but one finite number for each row.
        """
        who = f"challenger {self.name}"
        try:
            estimator = called(who, self.fit, learn, y, seed=0)
            given = called(f"what {who} fitted", predicted, estimator, ask, classes=classes)
        except NotEnoughDataError as error:
            msg = f"{who}: {error}"
            raise UserCodeError(msg) from error
        found = called(f"what {who} predicted", np.asarray, given, dtype=np.float64)
        shape = (len(ask),) if found.ndim == 1 or classes <= 2 else (len(ask), classes)
        if found.shape != shape or not np.isfinite(found).all():
            wrong = int((~np.isfinite(found)).sum())
            msg = (
                f"{who} gave {found.shape} numbers for {len(ask)} rows, {wrong} of them not finite"
            )
            raise UserCodeError(msg)
        if is_of_classes(metric, y) and len(found) and not 0 <= found.min() <= found.max() <= 1:
            msg = f"{who} gave {found.min():g} to {found.max():g}; {metric} is of probabilities"
            raise UserCodeError(msg)
        return np.asarray(found)


def challenge(
    learn: "pd.DataFrame",
    y: NDArray[np.float64],
    ask: "pd.DataFrame",
    *,
    metric: str,
    name: str,
    own: Own | None = None,
    classes: int = 2,
) -> NDArray[np.float64]:
    """
    Fit a small model, and predict other rows.

    :param learn: features to learn from, shape ``(n_rows, n_features)``.
    :param y: their labels, shape ``(n_rows,)``.
    :param ask: features to predict, shape ``(m_rows, n_features)``.
    :param metric: per-row loss; those of probabilities make it a classifier.
    :param name: who built the features; errors name it.
    :param own: the user's challenger; none: 30 small trees.
    :param classes: how many classes the labels are of; of quantities it does not count.
    :return: shape ``(m_rows,)``, or ``(m_rows, classes)`` of more than two.
    :raises UserCodeError: if both frames have other columns, or the user's challenger fails.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    _check_columns(learn, ask, name)
    of_classes = classes > 2 or is_of_classes(metric, y)
    if of_classes and len(np.unique(y)) < 2:
        share = y.mean() if classes <= 2 else indicators(y, classes).mean(axis=0)
        return np.asarray(np.broadcast_to(share, (len(ask), *np.shape(share))))
    if own is not None:
        return own.predict(learn, y, ask, metric, classes)
    learn, ask = _learnable(learn, ask)
    if not of_classes:
        regressor = HistGradientBoostingRegressor(max_iter=TREES, random_state=0)
        return np.asarray(regressor.fit(learn, y).predict(ask), dtype=np.float64)
    classifier = HistGradientBoostingClassifier(max_iter=TREES, random_state=0)
    return np.asarray(predicted(classifier.fit(learn, y), ask, classes=classes))


def _check_columns(learn: "pd.DataFrame", ask: "pd.DataFrame", name: str) -> None:
    if list(learn.columns) != list(ask.columns):
        first, second = (", ".join(map(repr, frame.columns)) for frame in (learn, ask))
        msg = f"{name} gave {second} for later rows and {first} for those before them"
        raise UserCodeError(msg)


def _learnable(learn: "pd.DataFrame", ask: "pd.DataFrame") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Turn features into what HistGradientBoosting learns from: numbers and categories."""
    import pandas as pd

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
