"""Do probabilities come true? The expected calibration error, and how sure it is."""

import numpy as np

from airflow_mlops.core.metrics import Floats, Metric, resampled
from airflow_mlops.core.metrics.scores import Score

BINS = 10


def calibration_error(
    y: Floats, p: Floats, *, alpha: float, seed: int
) -> tuple[float, tuple[float, float]]:
    """
    Return the expected calibration error, without its bias, and one-sided bounds.

    Mean distance between what is said and what comes true, in ten bins of equal counts. Of several
    classes, it is that of the most likely one.

    :param y: labels, shape ``(n_rows,)``.
    :param p: probabilities, shape ``(n_rows,)``, or ``(n_rows, n_classes)``.
    :param alpha: error rate of each bound.
    :param seed: seed of the resamples.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; of the most likely class: Guo et al., ICML
    2017. The plain estimate is too large, and a resample of it as much again: so the bootstrap is
    turned around its estimate (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    section 5.2).
    """
    if p.ndim == 2:
        y, p = (p.argmax(axis=1) == y).astype(float), p.max(axis=1)
    metric = Metric("calibration error", score=Score(_gaps, _error))
    value = metric.value(y, p)
    drawn = resampled(metric, y, [p], seed=seed)[:, 0]
    low, high = 2 * value - np.quantile(drawn, [1 - alpha, alpha])
    middle = max(0.0, 2 * value - float(drawn.mean()))
    return middle, (max(0.0, float(low)), max(0.0, float(high)))


def _gaps(y: Floats, p: Floats) -> Floats:
    """Of each bin, what was said of its rows minus what came true."""
    edges = np.quantile(p, np.linspace(0, 1, BINS + 1)[1:-1])
    found = np.zeros((BINS, len(y)))
    found[np.searchsorted(edges, p), np.arange(len(y))] = p - y
    return found


def _error(sums: Floats, n: int) -> Floats:
    return np.asarray(np.abs(sums).sum(axis=-1) / n)
