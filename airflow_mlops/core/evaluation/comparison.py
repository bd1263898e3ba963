"""Two models, the same rows: how far apart, and how sure."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.metrics import BLOCKS, block_means, standard_error

MIN_ROWS = 100
"""Fewer rows than this decide nothing."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Loss of the candidate minus loss of the champion on the same rows; negative is better.

    :param metric: the per-row loss.
    :param champion: mean loss of the champion.
    :param candidate: mean loss of the candidate.
    :param difference: candidate minus champion.
    :param error: standard error of the difference, from the block means.
    :param blocks: number of blocks; the t distribution has one degree of freedom less.
    :param rows: rows both predicted.
    """

    metric: str
    champion: float
    candidate: float
    difference: float
    error: float
    blocks: int
    rows: int

    def bound(self, alpha: float, *, upper: bool = True) -> float:
        """Return the one-sided confidence bound of the difference at error rate ``alpha``."""
        from scipy.stats import t

        reach = float(t.ppf(1 - alpha, self.blocks - 1)) * self.error
        return self.difference + reach if upper else self.difference - reach

    def rows_needed(self, margin: float, alpha: float, power: float = 0.8) -> int:
        """
        How many more rows would show "not worse by ``margin``", if there is no difference?

        :param margin: accepted harm, in the unit of the loss; above zero.

        Source: Blackwelder, Controlled Clinical Trials 3(4), 1982, with the long-run variance of
        the block means.
        """
        from scipy.stats import norm, t

        variance = self.rows * self.error**2
        reach = float(t.ppf(1 - alpha, self.blocks - 1) + norm.ppf(power))
        return max(0, math.ceil(variance * reach**2 / margin**2) - self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the comparison that :meth:`to_dict` wrote."""
        return cls(**data)

    def __str__(self) -> str:
        low, high = self.bound(0.025, upper=False), self.bound(0.025)
        return (
            f"{self.metric} {self.candidate:.4f} against {self.champion:.4f}: "
            f"{self.difference:+.4f} [{low:+.4f}, {high:+.4f}] on {self.rows} rows"
        )


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
