"""What a drift comparison found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

SHOWN = 10
"""Columns that a line names."""


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """
    One column, reference against current: its most telling check.

    :param statistic: what was looked at, such as ``moved`` or ``missing``.
    :param effect: share of rows concerned, 0 to 1.
    :param threshold: effect from which the column counts as drifted.
    :param p_value: chance of such an effect without drift, corrected for all checks.
    :param drifted: whether effect and p-value both pass.
    :param reason: every check that alarmed, in words.
    """

    column: str
    statistic: str
    effect: float
    threshold: float
    p_value: float
    drifted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DriftReport:
    """
    All compared columns of one dataset version against another.

    :param alpha: rate of false alarms over all columns, if nothing drifted.
    """

    reference: str
    current: str
    engine: str
    alpha: float
    columns: tuple[ColumnDrift, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the drifted columns, in table order."""
        return tuple(c.column for c in self.columns if c.drifted)

    def some_drifted(self) -> str:
        """Name the first drifted columns, as a line has room for; empty if there are none."""
        names = self.drifted
        more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return ", ".join([*names[:SHOWN], *more])

    @property
    def share(self) -> float:
        """Drifted columns over compared columns, from 0 to 1."""
        return len(self.drifted) / len(self.columns) if self.columns else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as XCom and the observations store them."""
        return asdict(self) | {"drifted": list(self.drifted), "share": self.share}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the report that :meth:`to_dict` wrote."""
        columns = tuple(ColumnDrift(**column) for column in data["columns"])
        return cls(data["reference"], data["current"], data["engine"], data["alpha"], columns)
