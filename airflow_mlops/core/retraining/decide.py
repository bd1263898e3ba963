"""
Decide: evidence in, decision out, and nothing else.

The rule measures whether retraining would *help* (a cheap challenger on the same rows) instead of
whether something moved. It is level-triggered: asked again about the same data it says the same.
"""

from dataclasses import asdict, dataclass, replace

from airflow_mlops.core.retraining.evidence import Decision, Evidence, moment
from airflow_mlops.core.retraining.rules import Finding, Weighed, columns, findings, weigh
from airflow_mlops.policy import DependencyChange, Drift, OnRequest, Probe, Retrain, duration


@dataclass(frozen=True, slots=True)
class _Case:
    """What every settled rule is given."""

    evidence: Evidence
    policy: Retrain
    weighed: Weighed


def decide(evidence: Evidence, policy: Retrain) -> Decision:
    """
    Weigh the evidence.

    Source of the rule: replays over real streams (``MEASURED``: probe and regret); regret as the
    cost of waiting: Karlin et al., Competitive snoopy caching, Algorithmica 3, 1988.
    """
    case = _Case(evidence, policy, weigh(evidence, policy))
    found = findings(evidence, policy, case.weighed)
    answer = next(filter(None, (rule(case) for rule in _SETTLED)), None)
    if answer is None:
        answer = _triggered(evidence, policy, found)
    conditions = [asdict(f) for f in found] if evidence.champion else []
    return replace(answer, facts={**asdict(case.weighed), "conditions": conditions})


def _triggered(e: Evidence, policy: Retrain, found: tuple[Finding, ...]) -> Decision:
    """Follow the first rule that asks, unless cooldown or budget hold it back."""
    first = next((f for f in found if f.asks), None)
    if first is None:
        texts = "; ".join(f.text for f in found) or "the policy has no rule for it"
        return Decision("keep", "none", f"nothing asks for a retrain: {texts}{_last(e, policy)}")
    decision = Decision("retrain", first.trigger, first.text, first.burden)
    return _held_back(e, policy, decision) or decision


def _last(e: Evidence, policy: Retrain) -> str:
    """Say when the last attempt was."""
    if not e.attempts:
        return ""
    days = (moment(e.now) - moment(e.attempts[-1])).days
    return f"; {days} days since the last attempt (cooldown {policy.cooldown})"


def _broken(case: _Case) -> Decision | None:
    if not case.evidence.broken:
        return None
    what = "; ".join(case.evidence.broken)
    return Decision("ask", "contract", f"the contract is broken, a retrain would hide it: {what}")


def _waiting(case: _Case) -> Decision | None:
    e = case.evidence
    if e.waiting is None or e.request is not None:
        return None
    reason = f"{e.model}@{e.waiting} waits for its approval; a newer candidate would void it"
    return Decision("wait", "candidate", reason)


def _first(case: _Case) -> Decision | None:
    e = case.evidence
    if e.champion is not None:
        return None
    if e.labelled_rows <= e.labelled_at_last_attempt and e.request is None:
        return Decision("keep", "none", "no champion, and no labels newer than the last attempt")
    params = e.request.params if e.request else {}
    return Decision("retrain", "first", "there is no champion yet", "absolute", params)


def _by_request(case: _Case) -> Decision | None:
    request = case.evidence.request
    if request is None:
        return None
    reason = f"asked by {request.by}: {request.note}"
    if case.policy.trigger(OnRequest) is None:
        return Decision("keep", "request", f"{reason}; the policy takes no requests (OnRequest)")
    return Decision("retrain", "request", reason, "better", request.params)


def _without_labels(case: _Case) -> Decision | None:
    e, drift = case.evidence, case.policy.trigger(Drift)
    if e.labelled_rows > e.labelled_at_last_attempt:
        return None
    if e.dependencies and case.policy.trigger(DependencyChange):
        return None  # the same labels, in another environment, are another recipe
    labels = f"no labels newer than the last attempt{_until(e)}"
    if drift is not None and case.weighed.drifted >= drift.counts[0]:
        needed = (case.policy.trigger(Probe) or Probe()).min_rows
        reason = f"{columns(e)} moved, and there are {labels}; about {needed} would settle it"
        return Decision("ask", "drift", reason)
    return Decision("keep", "none", f"{labels}{_last(e, case.policy)}")


def _until(e: Evidence) -> str:
    return f" (they reach {e.labelled_until}, the rows {e.now})" if e.labelled_until else ""


_SETTLED = (_broken, _waiting, _first, _by_request, _without_labels)
"""Rules that settle the question whatever the numbers say, in this order."""


def _held_back(e: Evidence, policy: Retrain, found: Decision) -> Decision | None:
    """Cooldown and budget, by the clock of the data; the evidence is kept, not reset."""
    now = moment(e.now)
    count, span = policy.limit()
    recent = [t for t in e.attempts if now - moment(t) < span]
    if e.attempts and now - moment(e.attempts[-1]) < duration(policy.cooldown):
        held, why = "cooldown", f"the last attempt was at {e.attempts[-1]}, wait {policy.cooldown}"
    elif len(recent) >= count:
        until = (moment(recent[-count]) + span).isoformat()
        held, why = f"budget until {until}", f"budget {policy.budget} is spent until {until}"
    else:
        return None
    text = why if held != "cooldown" else f"cooldown: {why}"
    reason = f"{found.reason}; {text}"
    return Decision("wait", found.trigger, reason, found.burden, held=held)
