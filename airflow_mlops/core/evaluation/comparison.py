"""Two models, the same rows: how far apart, and how sure."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.data.slicing import Values, cut
from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.metrics import (
    BLOCKS,
    Floats,
    Metric,
    block_means,
    of_one_row,
    rarest,
    resampled,
    standard_error,
)

MIN_ROWS = 100
"""Fewer rows than this decide nothing."""

MIN_SLICE = 8 * 12
"""Fewer rows of a slice than this are shown, and decide nothing."""

MIN_RARE = 30
"""A score of classes needs so many rows of the rarest one."""

LEVELS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
LEVELS = (*LEVELS, *(1 - level for level in reversed(LEVELS[:-1])))
"""Shares of the resamples that are kept of a difference of scores."""

ROWS_MORE = 1.5
"""
Bounds of a score lie so many rows farther out: where few rows differ, resamples vary too little.

McNemar's test is corrected by one such row (Edwards, Psychometrika 13(3), 1948); half a row more,
for the rows in a resample vary in number, too.
"""

_NUMBERS = ("champion", "candidate", "difference", "error")


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    A metric of the candidate minus that of the champion on the same rows.

    :param metric: a per-row loss, a score, or a function of the user.
    :param champion: what the champion reaches; NaN where the metric is not defined.
    :param candidate: what the candidate reaches.
    :param difference: candidate minus champion.
    :param error: standard error of the difference.
    :param blocks: of a loss: number of blocks; the t distribution has one degree of freedom less.
        0: there are too few rows to decide anything.
    :param rows: rows both predicted.
    :param greater_is_better: whether a difference above zero is good.
    :param quantiles: of the difference of scores in resamples, at ``LEVELS``; empty of a loss.
    :param rare: rows of the rarest class, where the metric needs some of each.
    :param by: what cut the rows into slices; empty: all rows.
    :param part: which slice.
    """

    metric: str
    champion: float
    candidate: float
    difference: float
    error: float
    blocks: int
    rows: int
    greater_is_better: bool = False
    quantiles: tuple[float, ...] = ()
    rare: int | None = None
    by: str = ""
    part: str = ""

    @property
    def tested(self) -> bool:
        """Whether there are rows enough to decide anything."""
        return self.blocks > 0

    @property
    def lacking(self) -> int | None:
        """How many more labels it takes to decide anything; ``None``: nobody can tell."""
        more = (MIN_SLICE if self.by else MIN_ROWS) - self.rows
        if self.rare == 0:
            return None
        if self.rare is not None:
            more = max(more, math.ceil(self.rows * MIN_RARE / self.rare) - self.rows)
        return max(0, more)

    def bound(self, alpha: float, *, upper: bool = True) -> float:
        """Return the one-sided confidence bound of the difference at error rate ``alpha``."""
        from scipy.stats import norm, t

        if self.quantiles:
            level = norm.ppf(1 - alpha if upper else alpha)
            return float(np.interp(level, norm.ppf(LEVELS), self.quantiles))
        reach = float(t.ppf(1 - alpha, self.blocks - 1)) * self.error
        return self.difference + reach if upper else self.difference - reach

    def harm(self, alpha: float, *, upper: bool = True) -> float:
        """Return the bound of how much worse the candidate is, in the unit of the metric."""
        if self.greater_is_better:
            return -self.bound(alpha, upper=not upper)
        return self.bound(alpha, upper=upper)

    def p_value(self, harm: float, *, less: bool) -> float:
        """
        Return the p-value of "it is not worse by ``harm``", or of "it is worse".

        :param harm: in the unit of the metric.
        :param less: whether little harm is to be shown.
        """
        from scipy.stats import norm, t

        limit = -harm if self.greater_is_better else harm
        below = less != self.greater_is_better  # a difference below the limit is to be shown
        if self.error == 0:
            shown = self.difference < limit if below else self.difference > limit
            return 0.0 if shown else 1.0
        if self.quantiles:
            sign = -1 if below else 1  # of quantiles that tie the one counts that shows less
            reached, levels = (
                np.sort(sign * np.asarray(x)) for x in (self.quantiles, norm.ppf(LEVELS))
            )
            level = float(norm.cdf(sign * np.interp(sign * limit, reached, levels)))
        else:
            level = float(t.cdf((limit - self.difference) / self.error, self.blocks - 1))
        return 1 - level if below else level

    def rows_needed(self, margin: float, alpha: float, power: float = 0.8) -> int:
        """
        How many more rows would show "not worse by ``margin``", if there is no difference?

        :param margin: accepted harm, in the unit of the metric; above zero.

        Source: Blackwelder, Controlled Clinical Trials 3(4), 1982, with the long-run variance of
        the block means, or of the resamples.
        """
        from scipy.stats import norm, t

        variance = self.rows * self.error**2
        once = norm.ppf(1 - alpha) if self.quantiles else t.ppf(1 - alpha, self.blocks - 1)
        reach = float(once + norm.ppf(power))
        return max(0, math.ceil(variance * reach**2 / margin**2) - self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; what is not defined is ``None``."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return asdict(self) | plain | {"quantiles": list(self.quantiles)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the comparison that :meth:`to_dict` wrote."""
        numbers = {n: math.nan if data[n] is None else data[n] for n in _NUMBERS}
        return cls(**{**data, **numbers, "quantiles": tuple(data.get("quantiles", ()))})

    def __str__(self) -> str:
        where = f"{self.by} {self.part}: " if self.by else ""
        text = f"{where}{self.metric} {self.candidate:.4f} against {self.champion:.4f}"
        if not self.tested:
            return f"{text} on {self.rows} rows"
        low, high = self.bound(0.025, upper=False), self.bound(0.025)
        return f"{text}: {self.difference:+.4f} [{low:+.4f}, {high:+.4f}] on {self.rows} rows"


def compare(
    metric: str, champion: NDArray[np.float64], candidate: NDArray[np.float64]
) -> Comparison:
    """
    Compare per-row losses of the same rows in time order, by the means of contiguous blocks.

    :param champion: losses of the champion, shape ``(n_rows,)``.
    :param candidate: losses of the candidate on the same rows, shape ``(n_rows,)``.
    :raises NotEnoughDataError: if there are fewer than 100 rows.

    Source: batch means: Schmeiser, Operations Research 30(3), 1982; paired loss differences:
    Diebold and Mariano, Journal of Business and Economic Statistics 13(3), 1995.
    """
    if len(champion) < MIN_ROWS or len(champion) != len(candidate):
        msg = (
            f"{len(champion)} and {len(candidate)} losses: a comparison needs the same rows, and "
            f"at least {MIN_ROWS} of them; wait for more labels"
        )
        raise NotEnoughDataError(msg)
    return _by_blocks(metric, champion, candidate)


def _by_blocks(metric: str, champion: Floats, candidate: Floats) -> Comparison:
    difference = candidate - champion
    return Comparison(
        metric,
        float(champion.mean()),
        float(candidate.mean()),
        float(difference.mean()),
        standard_error(block_means(difference)),
        BLOCKS,
        len(difference),
    )


def compare_by(
    metric: Metric, y: Floats, champion: Floats, candidate: Floats, *, seed: int
) -> Comparison:
    """
    Compare two models by any metric: a loss by block means, a score in paired resamples.

    With too few rows both values are there, and nothing is tested.

    :param metric: a loss, a score, or a function of the user.
    :param y: labels in time order, shape ``(n_rows,)``.
    :param champion: its predictions of the same rows, one or one per class for each.
    :param candidate: those of the candidate.
    :param seed: seed of the resamples.

    Source: as :func:`compare`, and :func:`~airflow_mlops.core.metrics.bootstrap.resampled`.
    """
    return _compared(metric.on(y, champion), y, champion, candidate, seed, MIN_ROWS)


def _compared(
    metric: Metric, y: Floats, champion: Floats, candidate: Floats, seed: int, least: int
) -> Comparison:
    rare = rarest(y, champion) if metric.of_classes else None
    enough = len(y) >= least and (rare is None or rare >= MIN_RARE)
    if enough and metric.loss is not None:
        return _by_blocks(metric.name, metric.loss(y, champion), metric.loss(y, candidate))
    asked = enough or metric.number is None  # a user's number may need more rows than there are
    measure = metric.value if least == MIN_ROWS else metric.tried
    one, two = (measure(y, p) if asked else math.nan for p in (champion, candidate))
    found = Comparison(metric.name, one, two, two - one, 0.0, 0, len(y))
    found = replace(found, greater_is_better=metric.greater_is_better, rare=rare)
    if not enough or not math.isfinite(two - one):
        return found
    drawn = resampled(metric, y, [champion, candidate], seed=seed)
    difference = drawn[:, 1] - drawn[:, 0]
    reach = ROWS_MORE * of_one_row(metric, y, champion, candidate)
    exact = np.nanquantile(difference, LEVELS) + reach * np.sign(np.array(LEVELS) - 0.5)
    quantiles = tuple(float(f"{q:.6g}") for q in exact)  # the ledger keeps them, in 64 kB
    error = float(np.nanstd(difference, ddof=1))
    return replace(found, error=error, blocks=BLOCKS, quantiles=quantiles)


def compare_slices(
    metric: Metric,
    y: Floats,
    champion: Floats,
    candidate: Floats,
    *,
    by: tuple[str, Values],
    seed: int,
) -> tuple[Comparison, ...]:
    """
    Compare two models in every slice; those of fewer than 96 rows are shown, and not tested.

    :param metric: a loss, a score, or a function of the user.
    :param y: labels in time order, shape ``(n_rows,)``.
    :param champion: its predictions of the same rows, one or one per class for each.
    :param candidate: those of the candidate.
    :param by: what cuts, and its value in each row.
    :param seed: seed of the resamples.
    """
    known, (name, values), found = metric.on(y, champion), by, []
    for part, rows, _ in cut(values):
        one = _compared(known, y[rows], champion[rows], candidate[rows], seed, MIN_SLICE)
        found.append(replace(one, by=name, part=part))
    return tuple(found)
