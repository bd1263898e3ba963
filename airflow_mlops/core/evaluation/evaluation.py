"""What was measured about a candidate: numbers only, so that whoever judges needs no rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from airflow_mlops.core.evaluation.comparison import Comparison
from airflow_mlops.core.metrics import Estimate
from airflow_mlops.core.training.agreement import ServingCheck
from airflow_mlops.policy import Gate


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What one gate wanted to know about the answers of the candidate.

    :param gate: the word of the policy, with its parameters.
    :param value: what was measured, in the unit of the gate; ``None``: it could not be.
    :param low: lower bound at the error rate of the gate.
    :param high: upper bound.
    :param rows: rows it was measured on.
    :param text: where, or why not.
    """

    gate: str
    value: float | None
    low: float
    high: float
    rows: int
    text: str = ""

    @classmethod
    def of(
        cls, gate: Gate, value: float, bounds: tuple[float, float], rows: int, text: str
    ) -> Self:
        """
        Write down what a gate wanted to know.

        :param gate: who asks.
        :param value: what was measured.
        :param bounds: lower and upper bound.
        :param rows: rows it was measured on.
        :param text: where.
        """
        return cls(str(gate), float(value), float(bounds[0]), float(bounds[1]), rows, text)

    @classmethod
    def unknown(cls, gate: Gate, rows: int, why: str) -> Self:
        """
        Write down that it could not be measured.

        :param gate: who asks.
        :param rows: rows there are.
        :param why: why not.
        """
        return cls(str(gate), None, 0.0, 0.0, rows, why)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """
    What was measured about a candidate.

    :param model: the candidate, ``name@version``.
    :param champion: the champion it was compared with, or ``None`` if there is none.
    :param epoch: entry of the ledger that made that champion: the promotion is valid against it.
    :param since: first time of the hold-out, ISO 8601.
    :param until: its end.
    :param metrics: metrics on the hold-out.
    :param comparisons: candidate against champion on the same rows, per metric and slice.
    :param load_ms: 95th percentile of the time to answer a small batch in a process of its own, in
        milliseconds; ``None``: nobody looked.
    :param note: what a reader has to know, such as why there is no comparison.
    :param burden: what the decision left to prove: with ``better`` (a challenger has shown already
        that a retrain helps) it is enough that the candidate does not lose on the hold-out.
    :param checks: whether it builds the features and gives the answers of its training here, too;
        empty if nobody looked.
    :param memory_mb: memory of that process beyond an empty one, in MB.
    :param findings: what the gates wanted to know beside that.
    :param same: what candidate and champion have in common: all files, or all answers.
    """

    model: str
    champion: str | None
    epoch: int
    since: str
    until: str
    metrics: tuple[Estimate, ...]
    comparisons: tuple[Comparison, ...]
    load_ms: float | None
    note: str = ""
    burden: str = "not worse"
    checks: tuple[ServingCheck, ...] = ()
    memory_mb: float | None = None
    findings: tuple[Finding, ...] = ()
    same: Literal["", "files", "answers"] = ""

    def metric(self, name: str) -> Estimate | None:
        """Return the estimate of a metric."""
        return next((m for m in self.metrics if m.metric == name), None)

    def comparison(self, name: str) -> Comparison | None:
        """Return the comparison by a metric, on all rows."""
        return next((c for c in self.comparisons if c.metric == name and not c.by), None)

    def slices(self, name: str, by: str) -> tuple[Comparison, ...]:
        """
        Return the comparisons by a metric in each slice.

        :param name: the metric.
        :param by: what cut the rows.
        """
        return tuple(c for c in self.comparisons if c.metric == name and c.by == by)

    def finding(self, gate: Gate) -> Finding | None:
        """
        Return what a gate wanted to know.

        :param gate: the word of the policy.
        """
        return next((f for f in self.findings if f.gate == str(gate)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"comparisons": [c.to_dict() for c in self.comparisons]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the evaluation that :meth:`to_dict` wrote."""
        parts = {
            "metrics": tuple(Estimate.from_dict(m) for m in data["metrics"]),
            "comparisons": tuple(Comparison.from_dict(c) for c in data["comparisons"]),
            "checks": tuple(ServingCheck(**c) for c in data.get("checks", ())),
            "findings": tuple(Finding(**f) for f in data.get("findings", ())),
        }
        return cls(**{**data, **parts})


def on_record(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what the ledger keeps: the shares of resamples are for the gates, and an entry is small.

    :param evaluation: what :meth:`Evaluation.to_dict` wrote.
    """
    kept = [{**one, "quantiles": []} for one in evaluation["comparisons"]]
    return {**evaluation, "comparisons": kept}
