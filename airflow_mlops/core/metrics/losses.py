"""Per-row losses, less is better, and the blocks whose means say how sure their mean is."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.errors import UserCodeError

Floats = NDArray[np.float64]

BLOCKS = 8
"""Contiguous blocks of rows, whose means are nearly independent where rows are not."""


def block_means(values: Floats) -> Floats:
    """
    Return the mean of each contiguous block, shape ``(8,)``.

    :param values: in the order of time, shape ``(n_rows,)``.

    Source: Schmeiser, Batch size effects in the analysis of simulation output, Operations Research
    30(3), 1982.
    """
    return np.array([part.mean() for part in np.array_split(values, BLOCKS)])


def standard_error(means: Floats) -> float:
    """
    Return the standard error of the mean of all rows.

    :param means: of their blocks.
    """
    return float(means.std(ddof=1) / math.sqrt(len(means)))


def read_only(values: Floats) -> Floats:
    """
    Return the same numbers for somebody who must not change them.

    :param values: labels or predictions, of any shape.
    """
    view = values.view()
    view.flags.writeable = False
    return view


def indicators(y: Floats, classes: int) -> Floats:
    """
    Return 1 in the column of each row's class, 0 elsewhere; shape ``(n_rows, n_classes)``.

    :param y: classes, whole numbers from 0 on, shape ``(n_rows,)``.
    :param classes: how many there are.
    """
    return np.asarray(y[:, None] == np.arange(classes), dtype=np.float64)


def per_class(p: Floats, classes: int) -> Floats:
    """
    Return probabilities with a column for each class; one that a model does not know has none.

    :param p: probabilities, shape ``(n_rows,)`` of two classes, or ``(n_rows, n_known)``.
    :param classes: how many there are.
    """
    columns = p if p.ndim == 2 else np.stack([1 - p, p], axis=1)
    return np.pad(columns, ((0, 0), (0, classes - columns.shape[1])))


def rarest(y: Floats, p: Floats) -> int:
    """
    Return how many rows the rarest class has.

    :param y: classes, shape ``(n_rows,)``.
    :param p: predictions: a column for each class, or one number for each row of two classes.
    """
    classes = p.shape[1] if p.ndim == 2 else 2
    return int(np.bincount(y.astype(np.int64), minlength=classes)[:classes].min())


def _brier(y: Floats, p: Floats) -> Floats:
    """
    Squared error of a probability; of several classes, half the sum over them.

    Halved, so that two classes written as two columns have the loss of one column, 0 to 1.
    Source: Brier, Monthly Weather Review 78(1), 1950 (who does not halve).
    """
    p = _known(y, p)
    if p.ndim == 2:
        return np.asarray(((p - indicators(y, p.shape[1])) ** 2).sum(axis=1) / 2)
    return (p - y) ** 2


def _known(y: Floats, p: Floats) -> Floats:
    """See that there is a probability for each class; one that is not known has none."""
    classes = int(y.max(initial=0.0)) + 1
    if p.ndim == 1 and classes > 2:
        msg = (
            f"labels of {classes} classes, and one number for each row: a model of more than two "
            "classes answers a probability for each; return an estimator with predict_proba"
        )
        raise UserCodeError(msg)
    if p.ndim == 2 and classes > p.shape[1]:
        return np.pad(p, ((0, 0), (0, classes - p.shape[1])))
    return p


def _log_loss(y: Floats, p: Floats) -> Floats:
    """Negative log likelihood in nats; probabilities are kept 1e-15 away from 0 and 1."""
    p = _known(y, p)
    if p.ndim == 2:
        chosen = p[np.arange(len(y)), y.astype(np.int64)]
        return np.asarray(-np.log(np.clip(chosen, 1e-15, 1.0)))
    q = np.clip(p, 1e-15, 1 - 1e-15)
    return -(y * np.log(q) + (1 - y) * np.log(1 - q))


def _absolute_error(y: Floats, p: Floats) -> Floats:
    return np.abs(p - y)


def _squared_error(y: Floats, p: Floats) -> Floats:
    return (p - y) ** 2


LOSSES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "brier": _brier,
    "log_loss": _log_loss,
    "absolute_error": _absolute_error,
    "squared_error": _squared_error,
}
"""
Labels ``(n_rows,)`` and predictions give ``(n_rows,)``.

Those of probabilities take ``(n_rows,)`` of two classes, or ``(n_rows, n_classes)`` of more.
"""
