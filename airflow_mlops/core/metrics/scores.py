"""
Scores of a whole sample, each as a function of sums over its rows.

What is a function of sums can be drawn a thousand times without being computed anew: block sums are
enough. Of a score by ranks the sums are those of its first-order terms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.metrics.losses import Floats, indicators

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Score:
    """
    A score of a sample.

    :param parts: labels and predictions -> numbers of each row, shape ``(n_parts, n_rows)``.
    :param value: sums of the parts over ``n`` rows, shape ``(..., n_parts)``, and ``n`` -> score.
    """

    parts: Callable[[Floats, Floats], Floats]
    value: Callable[[Floats, int], Floats]


def _rows_of(y: Floats, p: Floats) -> tuple[Floats, Floats]:
    """Write classes as 0 and 1, and what is said of them: one row of two classes, k of more."""
    if p.ndim == 2:
        return indicators(y, p.shape[1]).T, p.T
    return (y > 0.5).astype(np.float64)[None], p[None]


def _said(p: Floats) -> Floats:
    """Return what is said of each class: the most likely one, or the second one from 0.5 on."""
    if p.ndim == 2:
        return indicators(p.argmax(axis=1).astype(np.float64), p.shape[1]).T
    return (p >= 0.5).astype(np.float64)[None]


def _ratio(one: Floats, two: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(one / two)


def _mean(values: Floats) -> Floats:
    """Mean over the classes for which the score is defined; NaN if it is for none."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))


def _right(y: Floats, p: Floats) -> Floats:
    right = p.argmax(axis=1) == y if p.ndim == 2 else (p >= 0.5) == (y > 0.5)
    return np.asarray(right, dtype=np.float64)[None]


def _counts(y: Floats, p: Floats) -> Floats:
    """Of each class: said and true, said, true."""
    there, said = _rows_of(y, p)[0], _said(p)
    return np.concatenate([there * said, said, there])


def _thirds(sums: Floats) -> list[Floats]:
    return np.split(sums, 3, axis=-1)


def _precision(sums: Floats, _n: int) -> Floats:
    both, said, _ = _thirds(sums)
    return _mean(_ratio(both, said))


def _recall(sums: Floats, _n: int) -> Floats:
    both, _, there = _thirds(sums)
    return _mean(_ratio(both, there))


def _f1(sums: Floats, _n: int) -> Floats:
    both, said, there = _thirds(sums)
    return _mean(_ratio(2 * both, said + there))


def _placements(y: Floats, p: Floats) -> Floats:
    """
    Placement values: what share of the other class a row stands above, or below.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988; by ranks: Sun and Xu, IEEE
    Signal Processing Letters 21(11), 2014. Half the area is taken off both, so that the sum of the
    two means is the area, and so is its first-order term in a resample.
    """
    return np.concatenate([_placed(t, c) for t, c in zip(*_rows_of(y, p), strict=True)])


def _placed(y: Floats, p: Floats) -> Floats:
    n1 = y.sum()
    n0 = len(y) - n1
    if not n1 or not n0:
        return np.zeros((3, len(y)))
    order, first, last = _ties(p)
    ranked = y[order]
    ones = np.concatenate([[0.0], np.cumsum(ranked)])
    ones_below = (ones[first] + ones[last]) / 2  # those that tie counted half
    zeros_below = (first + last) / 2 - ones_below
    place = np.empty(len(y))
    place[order] = np.where(ranked > 0, zeros_below / n0, 1 - ones_below / n1)
    place -= float(y @ place) / n1 / 2
    above = y * place
    return np.stack([above, place - above, y])


def _ties(p: Floats) -> tuple[Places, Places, Places]:
    """Return the ascending order, and for each place the bounds of those that tie with it."""
    order = np.argsort(p)
    ranked = p[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    lengths = np.diff(np.append(starts, len(p)))
    return order, np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)


def _roc_auc(sums: Floats, n: int) -> Floats:
    """
    Area under the ROC curve; of several classes, the mean of each against the rest.

    Source: Hanley and McNeil, Radiology 143(1), 1982.
    """
    parts = sums.reshape(*sums.shape[:-1], -1, 3)
    above, below, ones = (parts[..., place] for place in range(3))
    return _mean(_ratio(above, ones) + _ratio(below, n - ones))


def _precisions(y: Floats, p: Floats) -> Floats:
    """What each row adds to the average precision, to first order in a resample."""
    return np.stack([_precision_terms(t, c) for t, c in zip(*_rows_of(y, p), strict=True)])


def _precision_terms(y: Floats, p: Floats) -> Floats:
    n, n1 = len(y), y.sum()
    if not n1:
        return np.full(n, np.nan)
    order, first, end = _ties(p)
    ranked = y[order]
    above = n - first  # rows at this threshold or above
    hits = n1 - np.concatenate([[0.0], np.cumsum(ranked)])[first]
    precision = hits / above
    average = (ranked @ precision) / n1
    # a further row changes the precision at every threshold at or below its own
    last = np.concatenate([[0.0], np.cumsum(ranked / above)])
    weighted = np.concatenate([[0.0], np.cumsum(ranked * precision / above)])
    terms = ranked * (precision - average + last[end]) - weighted[end]
    found = np.empty(n)
    found[order] = terms / n1 + average / n
    return found


def _average_precision(sums: Floats, _n: int) -> Floats:
    return _mean(sums)


def _squares(y: Floats, p: Floats) -> Floats:
    centred = y - y.mean()
    return np.stack([(y - p) ** 2, centred**2, centred])


def _r2(sums: Floats, n: int) -> Floats:
    """Share of the variance that is explained."""
    return 1 - _ratio(sums[..., 0], sums[..., 1] - sums[..., 2] ** 2 / n)


SCORES: Mapping[str, Score] = {
    "roc_auc": Score(_placements, _roc_auc),
    "accuracy": Score(_right, lambda sums, n: sums[..., 0] / n),
    "recall": Score(_counts, _recall),
    "precision": Score(_counts, _precision),
    "f1": Score(_counts, _f1),
    "average_precision": Score(_precisions, _average_precision),
    "r2": Score(_squares, _r2),
}
"""More is better; of several classes, the mean over them, each against the rest."""
