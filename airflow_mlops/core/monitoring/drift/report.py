"""What a drift comparison found, column by column and of the dataset as a whole."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.policy.retraining import Weights

Status = Literal["ok", "warn", "drifted"]

UNJUDGED = ("timestamp", "no profile")
"""Statistics of columns that can never drift: they carry no weight."""

_LEAST_P = 1e-300


def p_text(p: float) -> str:
    """Write a p-value with one digit; none is 0, it is only too small to be computed."""
    return f"{p:.1g}" if p >= _LEAST_P else f"< {_LEAST_P:g}"


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
    :param warned: whether an effect reaches half of its threshold, and its p-value passes.
    """

    column: str
    statistic: str
    effect: float
    threshold: float
    p_value: float
    drifted: bool
    reason: str = ""
    warned: bool = False

    @property
    def status(self) -> Status:
        """What follows: nothing, a warning, or drift."""
        return "drifted" if self.drifted else "warn" if self.warned else "ok"


@dataclass(frozen=True, slots=True)
class DatasetDrift:
    """
    Whether a dataset drifted as a whole.

    :param weight: weight of the drifted columns over that of all that are judged, 0 to 1.
    :param reason: why, or why not, in words.
    """

    drifted: bool
    weight: float
    reason: str


@dataclass(frozen=True, slots=True)
class DriftReport:
    """
    All compared columns of one dataset version against another.

    :param alpha: rate of false alarms over all columns, if nothing drifted; of warnings too.
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

    @property
    def warned(self) -> tuple[str, ...]:
        """Names of the columns that moved, but not enough to count as drifted."""
        return tuple(c.column for c in self.columns if c.status == "warn")

    @property
    def share(self) -> float:
        """Drifted columns over compared columns, from 0 to 1."""
        return len(self.drifted) / len(self.columns) if self.columns else 0.0

    def verdict(
        self,
        *,
        share: float = 0.3,
        important: Collection[str] = (),
        weights: Weights = None,
        importance: Mapping[str, float] | None = None,
    ) -> DatasetDrift:
        """
        Judge the dataset: it drifted if an important column did, or columns of enough weight.

        :param share: weight from which the dataset counts as drifted, 0 to 1.
        :param important: columns of which one is enough.
        :param weights: column -> weight; columns without one weigh nothing. ``"importance"``: those
            of ``importance``. ``None``: all the same.
        :param importance: column -> what it is worth to the model; unknown, or all 0: the columns
            weigh the same, and the reason says so.
        :raises ConfigurationError: if a column that is named was not compared.
        """
        names, note = [c.column for c in self.columns], ""
        if weights == "importance":
            weights, note = self._important(importance or {})
        for name in (*important, *(weights or ())):
            if name not in names:
                msg = f"no column {name!r} was compared for drift; there are {', '.join(names)}"
                raise ConfigurationError(msg)
        judged = [c.column for c in self.columns if c.statistic not in UNJUDGED]
        weigh = {n: float(weights.get(n, 0.0)) if weights else 1.0 for n in judged}
        total = sum(weigh.values())
        weight = sum(weigh.get(n, 0.0) for n in self.drifted) / total if total else 0.0
        decisive = [n for n in self.drifted if n in important]
        if decisive:
            reason = f"{', '.join(decisive)} drifted, and is important{note}"
            return DatasetDrift(True, weight, reason)
        drifted = bool(self.drifted) and weight >= share
        reason = (
            f"{len(self.drifted)} of {len(judged)} columns drifted, with {weight:.0%} of the "
            f"weight; {share:.0%} is enough{note}"
        )
        return DatasetDrift(drifted, weight, reason)

    def _important(self, known: Mapping[str, float]) -> tuple[Mapping[str, float] | None, str]:
        """Return the importances of the judged columns, or why there are none."""
        judged = (c.column for c in self.columns if c.statistic not in UNJUDGED)
        found = {name: known[name] for name in judged if name in known}
        if any(found.values()):
            return found, ""
        why = "of all of them are 0" if found else "were not measured in the champion's training"
        return None, f"; all columns weigh the same, for importances {why}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as XCom and the observations store them."""
        columns = [asdict(c) | {"status": c.status} for c in self.columns]
        lists = {"columns": columns, "drifted": list(self.drifted), "warned": list(self.warned)}
        return asdict(self) | lists | {"share": self.share}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the report that :meth:`to_dict` wrote, or an earlier release."""
        known = {f.name for f in fields(ColumnDrift)}
        columns = tuple(
            ColumnDrift(**{k: v for k, v in column.items() if k in known})
            for column in data["columns"]
        )
        return cls(data["reference"], data["current"], data["engine"], data["alpha"], columns)
