"""
Tails of the laws that the verdict asks, from numpy alone.

``scipy.special`` says the same, and the tests compare; its import costs more CPU than a verdict.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TERMS = np.arange(1, 60)


def chi_squared_tail(statistic: float, df: int) -> float:
    """
    Chance that a chi-squared variable of ``df`` degrees of freedom exceeds ``statistic``.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5, 1964.
    """
    half = statistic / 2
    odd = df % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    term = math.exp(-half) * (2 * math.sqrt(half / math.pi) if odd else 1.0)
    for j in range(df // 2):
        tail += term
        term *= half / (j + 1 + odd / 2)
    return min(1.0, tail)


def kolmogorov_tail(gap: ArrayLike) -> NDArray[np.float64]:
    """
    Limit law of the scaled Kolmogorov-Smirnov gap, for each of shape ``(n,)``.

    Source: Kolmogorov, Giornale dell'Istituto Italiano degli Attuari 4, 1933.
    """
    t = np.atleast_1d(np.asarray(gap, float))[:, None]
    sign = np.where(_TERMS % 2, 2.0, -2.0)
    tail = (sign * np.exp(-2 * _TERMS**2 * t**2)).sum(axis=1)
    return np.where(t[:, 0] < 0.2, 1.0, np.clip(tail, 0.0, 1.0))


def two_sided_tail(z: float) -> float:
    """Chance that a standard normal variable lies farther from 0 than ``z``."""
    return math.erfc(abs(z) / math.sqrt(2))


def student_tail(t: float, df: int) -> float:
    """
    Chance that Student's t of ``df`` degrees of freedom exceeds ``t``.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4, 1964.
    """
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term, series = (cosine, 0.0) if odd else (1.0, 0.0)
    for j in range((df - odd) // 2):
        series += term
        term *= cosine**2 * (2 * j + 1 + odd) / (2 * j + 2 + odd)
    inside = (angle + sine * series) * 2 / math.pi if odd else sine * series
    return min(1.0, max(0.0, (1 - inside) / 2))


def hypergeometric_tail(before: int, reference: int, now: int, current: int) -> float:
    """
    Chance of so many marked rows among the current ones, if marks fell at random.

    :param before: marked rows among ``reference`` ones.
    :param now: marked rows among ``current`` ones.

    Source: Fisher, The Design of Experiments, 1935.
    """
    if not now:
        return 1.0
    marked, total = before + now, reference + current
    start = _ways(marked, now) + _ways(total - marked, current - now) - _ways(total, current)
    hits = np.arange(now, min(marked, current), dtype=float)
    with np.errstate(divide="ignore"):
        steps = np.log((marked - hits) * (current - hits))
        steps -= np.log((hits + 1) * (total - marked - current + hits + 1))
    return min(1.0, float(np.exp(start + np.append(0.0, np.cumsum(steps))).sum()))


def _ways(of: int, some: int) -> float:
    """Logarithm of the binomial coefficient."""
    return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)
