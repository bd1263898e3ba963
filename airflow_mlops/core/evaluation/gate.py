"""Whether that is enough: all conditions are judged before the verdict is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.evaluation.comparison import MIN_ROWS, Comparison
from airflow_mlops.core.metrics import LOSSES, SCORES, Estimate
from airflow_mlops.core.training.agreement import ServingCheck
from airflow_mlops.policy import AtLeast, AtMost, Better, Gate, Loads, NotWorse

Status = Literal["passed", "failed", "uncertain"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """
    What was measured about a candidate.

    :param model: the candidate, ``name@version``.
    :param champion: the champion it was compared with, or ``None`` if there is none.
    :param epoch: entry of the ledger that made that champion: the promotion is valid against it.
    :param metrics: metrics on the hold-out.
    :param comparisons: candidate against champion on the same rows, per loss.
    :param load_ms: 95th percentile of the time to answer a small batch, in milliseconds.
    :param note: what a reader has to know, such as why there is no comparison.
    :param burden: what the decision left to prove: with ``better`` (a challenger has shown already
        that a retrain helps) it is enough that the candidate does not lose on the hold-out.
    :param checks: whether it builds the features and gives the answers of its training here, too;
        empty if nobody looked.
    """

    model: str
    champion: str | None
    epoch: int
    since: str
    until: str
    metrics: tuple[Estimate, ...]
    comparisons: tuple[Comparison, ...]
    load_ms: float
    note: str = ""
    burden: str = "not worse"
    checks: tuple[ServingCheck, ...] = ()

    def metric(self, name: str) -> Estimate | None:
        """Return the estimate of a metric."""
        return next((m for m in self.metrics if m.metric == name), None)

    def comparison(self, name: str) -> Comparison | None:
        """Return the comparison by a loss."""
        return next((c for c in self.comparisons if c.metric == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the evaluation that :meth:`to_dict` wrote."""
        metrics = tuple(Estimate.from_dict(m) for m in data["metrics"])
        comparisons = tuple(Comparison.from_dict(c) for c in data["comparisons"])
        checks = tuple(ServingCheck(**c) for c in data.get("checks", ()))
        parts = {"metrics": metrics, "comparisons": comparisons, "checks": checks}
        return cls(**{**data, **parts})


@dataclass(frozen=True, slots=True)
class Check:
    """One condition and what came of it."""

    gate: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    All conditions of a gate.

    ``failed`` if one failed; else ``uncertain`` if one could not be decided: then people decide.
    """

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst of all checks."""
        found = {check.status for check in self.checks}
        return "failed" if "failed" in found else "uncertain" if "uncertain" in found else "passed"

    @property
    def reason(self) -> str:
        """One sentence: what failed, else what is uncertain, else what passed."""
        return "; ".join(c.reason for c in self.checks if c.status == self.status)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"status": self.status, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the verdict that :meth:`to_dict` wrote."""
        return cls(tuple(Check(**check) for check in data["checks"]))


def judge(gates: Sequence[Gate], found: Evaluation) -> Verdict:
    """
    Judge a candidate by every condition.

    :raises ConfigurationError: if there is no condition, or one names a metric nobody measured.
    """
    if not gates:
        msg = f"no gate for {found.model}: a candidate without a standard is never promoted"
        raise ConfigurationError(msg)
    return Verdict(tuple(_JUDGES[type(gate)](gate, found) for gate in gates))


def _loads(gate: Loads, found: Evaluation) -> Check:
    """Judge how fast it answers, and whether it computes here what it did when it was trained."""
    text = f"answers a small batch in {found.load_ms:.1f} ms (p95), limit {gate.p95_ms:g}"
    wrong = [f"{found.model}: {c.name}: {c.found}" for c in found.checks if c.status == "failed"]
    if wrong or found.load_ms > gate.p95_ms:
        return Check("Loads", "failed", "; ".join([text, *wrong]))
    unknown = [f"{c.name}: {c.found}" for c in found.checks if c.status == "uncertain"]
    return Check("Loads", "uncertain" if unknown else "passed", "; ".join([text, *unknown]))


def _absolute(gate: AtLeast | AtMost, found: Evaluation) -> Check:
    name = f"{type(gate).__name__} {gate.metric}"
    if gate.metric not in LOSSES and gate.metric not in SCORES:
        known = ", ".join(sorted([*LOSSES, *SCORES]))
        msg = f"gate {type(gate).__name__}: unknown metric {gate.metric!r}; known: {known}"
        raise ConfigurationError(msg)
    measured = found.metric(gate.metric)
    if measured is None:
        text = f"{gate.metric} is not defined on the rows of the hold-out"
        return Check(name, "uncertain", text)
    if measured.rows < MIN_ROWS:
        text = f"{measured} on {measured.rows} rows; {MIN_ROWS} can decide"
        return Check(name, "uncertain", text)
    least = isinstance(gate, AtLeast)
    good = measured.value >= gate.value if least else measured.value <= gate.value
    text = f"{measured}, {'at least' if least else 'at most'} {gate.value:g} wanted"
    return Check(name, "passed" if good else "failed", text)


def _better(gate: Better, found: Evaluation) -> Check:
    name = f"Better {gate.metric}"
    compared = found.comparison(gate.metric)
    if compared is None:
        return _not_compared(name, found)
    if compared.bound(gate.alpha) < 0:
        return Check(name, "passed", f"surely better: {compared}")
    if compared.bound(gate.alpha, upper=False) > 0:
        return Check(name, "failed", f"surely worse: {compared}")
    return Check(name, "uncertain", f"not surely better: {compared}")


def _not_worse(gate: NotWorse, found: Evaluation) -> Check:
    name = f"NotWorse {gate.metric}"
    compared = found.comparison(gate.metric)
    if compared is None:
        return _not_compared(name, found)
    if found.burden == "better" and compared.difference <= 0:
        return Check(name, "passed", f"better, as was asked for: {compared}")
    margin = gate.margin * compared.champion
    if compared.bound(gate.alpha) < margin:
        return Check(name, "passed", f"surely not worse by {gate.margin:.0%}: {compared}")
    if compared.bound(gate.alpha, upper=False) > 0:
        return Check(name, "failed", f"surely worse: {compared}")
    more = compared.rows_needed(margin, gate.alpha) if margin > 0 else 0
    text = f"may be worse by more than {gate.margin:.0%}: {compared}"
    return Check(name, "uncertain", f"{text}; about {more:,} more labels would settle it")


def _not_compared(name: str, found: Evaluation) -> Check:
    if found.champion is None:
        return Check(name, "passed", "no champion yet: the absolute gates and a person decide")
    return Check(name, "uncertain", found.note or "not compared with the champion")


_JUDGES: Mapping[type[Gate], Callable[[Any, Evaluation], Check]] = {
    Loads: _loads,
    AtLeast: _absolute,
    AtMost: _absolute,
    Better: _better,
    NotWorse: _not_worse,
}
