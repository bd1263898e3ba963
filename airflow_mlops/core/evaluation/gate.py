"""Whether that is enough: all conditions are judged before the verdict is given."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from airflow_mlops.core.data.slicing import holm
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.evaluation.comparison import MIN_RARE, MIN_ROWS, Comparison
from airflow_mlops.core.evaluation.evaluation import Evaluation, Finding
from airflow_mlops.policy import (
    SCORES,
    AtLeast,
    AtMost,
    Better,
    Calibrated,
    Custom,
    FailOn,
    Fair,
    Gate,
    Loads,
    NoLeak,
    NotWorse,
    Output,
)

Status = Literal["passed", "failed", "uncertain"]

SHOWN = 3
"""Slices that a reason names."""


@dataclass(frozen=True, slots=True)
class Check:
    """
    One condition and what came of it.

    :param fail_on: what of it counts; see :class:`~airflow_mlops.policy.Gate`.
    """

    gate: str
    status: Status
    reason: str
    fail_on: FailOn = "error"

    @property
    def counts(self) -> Status | None:
        """As what it counts for the verdict; ``None``: it does not."""
        if self.fail_on == "never":
            return None
        return "failed" if self.fail_on == "warn" and self.status != "passed" else self.status


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    All conditions of a gate.

    ``failed`` if one failed; else ``uncertain`` if one could not be decided: then people decide.
    """

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst of all checks that count."""
        found = {check.counts for check in self.checks}
        return "failed" if "failed" in found else "uncertain" if "uncertain" in found else "passed"

    @property
    def reason(self) -> str:
        """One sentence: what failed, else what is uncertain, else what passed."""
        return "; ".join(c.reason for c in self.checks if c.counts == self.status)

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

    Whatever the gates, the champion itself is refused, and one that answers every row as the
    champion does is for people to decide.

    :raises ConfigurationError: if there is no condition that counts, or one asks about what nobody
        measured.
    """
    if all(gate.fail_on == "never" for gate in gates):
        msg = f"no gate for {found.model} counts: a candidate without a standard is never promoted"
        raise ConfigurationError(msg)
    judged = (replace(_JUDGES[type(g)](g, found), fail_on=g.fail_on) for g in gates)
    return Verdict((*_same(found), *judged))


def _same(found: Evaluation) -> tuple[Check, ...]:
    if found.same == "files":
        text = (
            f"{found.model} has the files of champion {found.champion}: nothing is to be promoted"
        )
        return (Check("Another model", "failed", text),)
    if found.same == "answers":
        text = (
            f"{found.model} gives exactly the answers of champion {found.champion} on all rows: "
            "promote it only for what surrounds it, such as newer packages"
        )
        return (Check("Another model", "uncertain", text),)
    return ()


def _loads(gate: Loads, found: Evaluation) -> Check:
    """Judge how fast it answers, and whether it computes here what it did when it was trained."""
    wrong = [f"{found.model}: {c.name}: {c.found}" for c in found.checks if c.status == "failed"]
    if found.load_ms is None:
        if not wrong:
            raise _not_measured(gate, found)
        return Check("Loads", "failed", "; ".join(wrong))
    text = f"answers a small batch in {found.load_ms:.1f} ms (p95), limit {gate.p95_ms:g}"
    unknown = [f"{c.name}: {c.found}" for c in found.checks if c.status == "uncertain"]
    slow = found.load_ms > gate.p95_ms
    if gate.memory_mb is not None:
        memory = found.memory_mb
        if memory is None:
            unknown.append("its memory is not known on this system")
        else:
            text += f", with {memory:.0f} MB, limit {gate.memory_mb:g}"
            slow = slow or memory > gate.memory_mb
    if wrong or slow:
        return Check("Loads", "failed", "; ".join([text, *wrong]))
    return Check("Loads", "uncertain" if unknown else "passed", "; ".join([text, *unknown]))


def _absolute(gate: AtLeast | AtMost, found: Evaluation) -> Check:
    name = f"{type(gate).__name__} {gate.metric}"
    measured = found.metric(gate.metric)
    if measured is None:
        text = f"{gate.metric} is not defined on the rows of the hold-out"
        return Check(name, "uncertain", text)
    if measured.rows < MIN_ROWS:
        text = f"{measured} on {measured.rows} rows; {MIN_ROWS} can decide"
        return Check(name, "uncertain", f"{text}: {_labels(MIN_ROWS - measured.rows)}")
    rare = measured.rare
    if rare is not None and rare < MIN_RARE:
        text = f"{measured} on {rare} rows of the rarest class; {MIN_RARE} can decide"
        if rare:
            text += f": {_labels(math.ceil(measured.rows * MIN_RARE / rare) - measured.rows)}"
        return Check(name, "uncertain", text)
    least = isinstance(gate, AtLeast)
    good = measured.value >= gate.value if least else measured.value <= gate.value
    text = f"{measured}, {'at least' if least else 'at most'} {gate.value:g} wanted"
    return Check(name, "passed" if good else "failed", text)


def _better(gate: Better, found: Evaluation) -> Check:
    name = f"Better {gate.metric}"
    compared = found.comparison(gate.metric)
    if compared is None or not compared.tested:
        return _not_compared(name, found, compared)
    if compared.harm(gate.alpha) < 0:
        return Check(name, "passed", f"surely better: {compared}")
    if compared.harm(gate.alpha, upper=False) > 0:
        return Check(name, "failed", f"surely worse: {compared}")
    return Check(name, "uncertain", f"not surely better: {compared}")


def _not_worse(gate: NotWorse, found: Evaluation) -> Check:
    if gate.by is not None:
        return _not_worse_by(gate, gate.by, found)
    name = f"NotWorse {gate.metric}"
    compared = found.comparison(gate.metric)
    if compared is None or not compared.tested:
        return _not_compared(name, found, compared)
    if compared.harm(gate.alpha) < _margin(gate, compared):
        return Check(name, "passed", f"surely not worse by {_said(gate)}: {compared}")
    if compared.harm(gate.alpha, upper=False) > 0:
        return Check(name, "failed", f"surely worse: {compared}")
    if gate.point and found.burden == "better" and _no_loss(compared):
        text = (
            f"no worse on these rows, though not surely: up to half of those that are a little "
            f"worse pass so (NotWorse(point=True)): {compared}"
        )
        return Check(name, "passed", text)
    text = f"may be worse by more than {_said(gate)}: {compared}{_settle(gate, compared)}"
    return Check(name, "uncertain", text)


def _no_loss(compared: Comparison) -> bool:
    gain = compared.difference if compared.greater_is_better else -compared.difference
    return gain >= 0


def _not_worse_by(gate: NotWorse, by: str, found: Evaluation) -> Check:
    """Judge every slice; Holm's correction holds the error rate over all of them."""
    name = f"NotWorse {gate.metric} by {by}"
    slices = found.slices(gate.metric, by)
    if not slices:
        if found.comparisons:
            raise _not_measured(gate, found)
        return _not_compared(name, found)
    tested = [one for one in slices if one.tested]
    small = [_too_few(one) for one in slices if not one.tested]
    undefined = [_too_few(one) for one in slices if not one.tested and one.lacking == 0]
    if not tested:
        return Check(name, "uncertain", f"no slice can be compared: {_some(small)}")
    worse = holm([one.p_value(0.0, less=False) for one in tested])
    fine = holm([one.p_value(_margin(gate, one), less=True) for one in tested])
    bad = [str(one) for one, p in zip(tested, worse, strict=True) if p < gate.alpha]
    open_ = [one for one, p in zip(tested, fine, strict=True) if p >= gate.alpha]
    shown = f" (shown only: {_some(small)})" if small else ""
    if bad:
        return Check(name, "failed", f"surely worse in {len(bad)} slices: {_some(bad)}{shown}")
    if undefined:
        text = f"not defined in {len(undefined)} of {len(slices)} slices: {_some(undefined)}"
        return Check(name, "uncertain", text)
    if open_:
        unsure = [f"{one}{_settle(gate, one)}" for one in open_]
        text = f"may be worse by more than {_said(gate)} in {len(unsure)} of {len(tested)} slices"
        return Check(name, "uncertain", f"{text}: {_some(unsure)}{shown}")
    text = f"surely not worse by {_said(gate)} in each of {len(tested)} slices"
    return Check(name, "passed", f"{text}: {_some(list(map(str, tested)))}{shown}")


def _margin(gate: NotWorse, compared: Comparison) -> float:
    """Accepted harm, in the unit of the metric."""
    return gate.harm if gate.metric in SCORES else gate.harm * abs(compared.champion)


def _said(gate: NotWorse) -> str:
    return f"{gate.harm:g}" if gate.metric in SCORES else f"{gate.harm * 100:g}%"


def _settle(gate: NotWorse, compared: Comparison) -> str:
    margin = _margin(gate, compared)
    more = compared.rows_needed(margin, gate.alpha) if margin > 0 else 0
    return f"; about {more:,} more labels would settle it" if more else ""


def _labels(more: int) -> str:
    return f"about {more:,} more labels are needed"


def _too_few(compared: Comparison) -> str:
    """Say what is lacking to decide anything."""
    lacking = compared.lacking
    if not math.isfinite(compared.difference) and lacking == 0:
        return f"{compared}: not defined on these rows"
    rare = "" if compared.rare is None else f", {compared.rare} of the rarest class"
    needed = "nobody can say how many labels are needed" if lacking is None else _labels(lacking)
    return f"{compared}{rare}: {needed}"


def _some(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return f"{'; '.join(texts[:SHOWN])}{more}"


def _not_compared(name: str, found: Evaluation, few: Comparison | None = None) -> Check:
    if few is not None:
        return Check(name, "uncertain", _too_few(few))
    if found.champion is None:
        return Check(name, "passed", "no champion yet: the absolute gates and a person decide")
    return Check(name, "uncertain", found.note or "not compared with the champion")


def _not_measured(gate: Gate, found: Evaluation) -> ConfigurationError:
    msg = (
        f"{gate}: nobody measured that of {found.model}; give EvaluateModelOperator the gates that "
        "JudgeCandidateOperator is given, and clear both"
    )
    return ConfigurationError(msg)


def _measured(gate: Gate, found: Evaluation) -> Finding:
    finding = found.finding(gate)
    if finding is None:
        raise _not_measured(gate, found)
    return finding


def _output(gate: Output, found: Evaluation) -> Check:
    seen = _measured(gate, found)
    text = f"answers from {seen.low:.4g} to {seen.high:.4g} on {seen.rows} rows"
    if seen.value:
        wanted = f"{seen.value:.0f} of them outside of {gate.low:g} to {gate.high:g}"
        return Check("Output", "failed", f"{text}, {wanted}")
    return Check("Output", "passed", text)


def _calibrated(gate: Calibrated, found: Evaluation) -> Check:
    seen = _measured(gate, found)
    if seen.value is None:
        return Check("Calibrated", "uncertain", seen.text)
    text = f"calibration error {seen.value:.4f} [{seen.low:.4f}, {seen.high:.4f}]"
    return _bounded("Calibrated", text, seen, gate.max_error)


def _fair(gate: Fair, found: Evaluation) -> Check:
    seen, name = _measured(gate, found), f"Fair {gate.metric} by {gate.by}"
    if seen.value is None:
        return Check(name, "uncertain", seen.text)
    text = f"{gate.metric} by {gate.by}: gap {seen.value:.4f} [{seen.low:.4f}, {seen.high:.4f}]"
    return _bounded(name, f"{text}, {seen.text}", seen, gate.max_gap)


def _bounded(name: str, text: str, seen: Finding, limit: float) -> Check:
    """Judge a measure by its bounds; if the limit lies between them, say what would settle it."""
    value = 0.0 if seen.value is None else seen.value
    if seen.high <= limit:
        return Check(name, "passed", f"{text}, at most {limit:g} wanted")
    if seen.low > limit:
        return Check(name, "failed", f"{text}, at most {limit:g} wanted")
    reach = seen.high - value if value < limit else value - seen.low
    text = f"{text}, at most {limit:g} wanted, not settled"
    if value != limit:  # bounds close in with the root of the rows
        more = math.ceil(seen.rows * ((reach / (limit - value)) ** 2 - 1))
        text = f"{text}: {_labels(max(more, 1))}"
    return Check(name, "uncertain", text)


def _no_leak(gate: NoLeak, found: Evaluation) -> Check:
    seen = _measured(gate, found)
    if seen.value is None:
        return Check("NoLeak", "uncertain", seen.text)
    text = (
        f"feature {seen.text!r} alone ranks the labels with {seen.value:.3f}, limit {gate.limit:g}"
    )
    if seen.value < gate.limit:
        return Check("NoLeak", "passed", text)
    return Check("NoLeak", "failed", f"{text}: it may know them; leave it out if it does")


def _custom(gate: Custom, found: Evaluation) -> Check:
    seen = _measured(gate, found)
    said = "yes" if seen.value else "no"
    text = f"{gate.check} says {said}{': ' if seen.text else ''}{seen.text}"
    return Check(f"Custom {gate.check}", "passed" if seen.value else "failed", text)


_JUDGES: Mapping[type[Gate], Callable[[Any, Evaluation], Check]] = {
    Loads: _loads,
    AtLeast: _absolute,
    AtMost: _absolute,
    Better: _better,
    NotWorse: _not_worse,
    Output: _output,
    Calibrated: _calibrated,
    Fair: _fair,
    NoLeak: _no_leak,
    Custom: _custom,
}
