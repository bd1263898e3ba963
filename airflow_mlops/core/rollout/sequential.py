"""
Tests that stay honest however often somebody looks.

Sources: Robbins, Statistical methods related to the law of the iterated logarithm, Annals of
Mathematical Statistics 41(5), 1970 (mixtures); Howard, Ramdas, McAuliffe and Sekhon, Time-uniform,
nonparametric, nonasymptotic confidence sequences, Annals of Statistics 49(2), 2021 (one-sided
closed form); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and
asymptotic confidence sequences, Annals of Statistics 52(6), 2024; Lindon and Malek, Anytime-valid
inference for multinomial count data, NeurIPS 2022.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RATIO_ALPHA = 0.001
"""Error rate of the ratio test. Source: Fabijan et al., KDD 2019."""

FEWEST = 3
"""Events below which no share is called too large: the first request may fail by chance."""

CONCENTRATION = 1_000.0
"""Weight, in units, of the plan in the ratio test: most power for shares off by 1 to 2 points."""


def reach(information: Floats, planned: float, alpha: float) -> Floats:
    """
    Return how far a mean may lie from its estimate on one side, at any look.

    A mixture of normals, with the information of the data as its clock: an estimate that gets more
    precise by more units, or by more rows of the same units, is the same to it.

    :param information: 1 over the squared standard error of the estimate.
    :param planned: information at which the bound is tightest; fixed before the first look.
    :param alpha: one-sided error rate over all looks together.
    """
    ratio = _tuning(alpha) * information / planned
    surprise = np.log1p(np.sqrt(ratio + 1) / (2 * alpha))
    found: Floats = np.sqrt(2 * (ratio + 1) / (ratio * information) * surprise)
    return found


def _tuning(alpha: float) -> float:
    """Return the squared scale of the mixture that is tightest at information 1."""
    x = -2 * math.log(2 * alpha)
    return x + math.log(x) + 1


def planned_information(effect: float, alpha: float) -> float:
    """
    Return the information at which an effect as large as planned is seen in half of the cases.

    :param effect: absolute difference of the means, above 0.
    :param alpha: one-sided error rate over all looks together.
    """
    return (float(reach(np.float64(1.0), 1.0, alpha)) / effect) ** 2  # type: ignore[arg-type]


def information_for(effect: float, alpha: float, power: float) -> float:
    """
    Return the information at which a planned effect has been seen with at least this probability.

    :param effect: absolute difference of the means, above 0.
    :param alpha: one-sided error rate over all looks together.
    :param power: 0.5 or more, below 1.
    """
    planned, z = planned_information(effect, alpha), NormalDist().inv_cdf(power)
    low, high = planned, planned * 100
    for _ in range(60):
        middle = (low + high) / 2
        bound = float(reach(np.float64(middle), planned, alpha))  # type: ignore[arg-type]
        enough = bound + z / math.sqrt(middle) <= effect
        low, high = (low, middle) if enough else (middle, high)
    return high


def fixed_information(effect: float, alpha: float, power: float) -> float:
    """
    Return the information that a test with one look at the end needs.

    :param effect: absolute difference of the means, above 0.
    :param alpha: one-sided error rate of that look.
    :param power: probability to see the effect, 0 to 1.
    """
    normal = NormalDist()
    return ((normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) / effect) ** 2


def squared_error(n: tuple[Any, Any], variance: tuple[Any, Any]) -> Any:
    """
    Return the squared standard error of a difference of two means.

    The larger of the separate and the pooled estimate: a few units of a small arm that happen to be
    alike, such as 100 without a single rare event, would claim a certainty they do not have.

    :param n: units of the two arms, each above 1.
    :param variance: sample variances of the two arms.
    """
    (a, b), (va, vb) = n, variance
    pooled = ((a - 1) * va + (b - 1) * vb) / (a + b - 2)
    return np.maximum(va / a + vb / b, pooled * (1 / a + 1 / b))


def ratio_evidence(candidate: Any, champion: Any, share: float) -> Any:
    """
    Return the logarithm of the evidence that two counts are not split as planned.

    Evidence above 1 / alpha occurs with probability alpha at most, over all looks together, if
    units are split as planned.

    :param candidate: units of the candidate's arm.
    :param champion: units of the champion's arm.
    :param share: planned share of the candidate, above 0 and below 1.
    """
    from scipy.special import betaln

    a, b = CONCENTRATION * share, CONCENTRATION * (1 - share)
    mixed = betaln(a + candidate, b + champion) - betaln(a, b)
    return mixed - candidate * math.log(share) - champion * math.log1p(-share)


def surely_above(count: int, n: int, limit: float, alpha: float) -> bool:
    """
    Say whether a share is surely above its limit; at most ``alpha`` of all looks together err.

    :param count: how many had the property.
    :param n: how many were looked at.
    :param limit: largest share that is fine, above 0 and below 1.
    :param alpha: error rate.
    """
    from scipy.special import betaincc, betaln

    above = float(betaincc(count + 1, n - count + 1, limit))  # all alternatives lie above the limit
    if count < FEWEST or count <= limit * n or above <= 0:
        return False
    mixed = float(betaln(count + 1, n - count + 1)) + math.log(above) - math.log1p(-limit)
    null = count * math.log(limit) + (n - count) * math.log1p(-limit)
    return mixed - null > -math.log(alpha)
