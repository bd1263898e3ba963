"""
Decide: evidence in, decision out, and nothing else.

The rule measures whether retraining would *help* (a cheap challenger on the same rows) instead of
whether something moved. It is level-triggered: asked again about the same data it says the same.
"""

import math
from dataclasses import asdict, dataclass, replace

from airflow_mlops.core.monitoring.performance import ServedWindow
from airflow_mlops.core.retraining.evidence import Decision, Evidence, moment
from airflow_mlops.policy import Drift, Growth, OnRequest, Probe, Regret, Retrain, duration


@dataclass(frozen=True, slots=True)
class _Weighed:
    """The numbers that the triggers look at."""

    probe: float
    p_value: float
    regret: float
    growth: float
    drifted: int
    looked: int

    def text(self) -> str:
        """Say all of them in one breath."""
        probe = "no labelled window yet"
        if not math.isnan(self.probe):
            probe = (
                f"a fresh model would change the loss by {-self.probe:+.1%} (p={self.p_value:.2f})"
            )
        return (
            f"{probe}, regret {self.regret:.2f}, labelled rows x{self.growth:.2f}, "
            f"drift in {self.drifted} of {self.looked} windows"
        )


@dataclass(frozen=True, slots=True)
class _Case:
    """What every rule is given."""

    evidence: Evidence
    policy: Retrain
    weighed: _Weighed


def decide(evidence: Evidence, policy: Retrain) -> Decision:
    """
    Weigh the evidence.

    Source of the rule: replays over real streams (``MEASURED``: probe and regret); regret as the
    cost of waiting: Karlin et al., Competitive snoopy caching, Algorithmica 3, 1988.
    """
    case = _Case(evidence, policy, _weigh(evidence, policy))
    answer = next(filter(None, (rule(case) for rule in _SETTLED)), None)
    if answer is None:
        found = next(filter(None, (rule(case) for rule in _TRIGGERS)), None)
        quiet = Decision("keep", "none", f"nothing asks for a retrain: {case.weighed.text()}")
        answer = quiet if found is None else _held_back(evidence, policy, found) or found
    return replace(answer, facts=asdict(case.weighed))


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
    if drift is not None and case.weighed.drifted >= drift.counts[0]:
        reason = f"{_columns(e)} moved, and there are no labels newer than the last attempt"
        return Decision("ask", "drift", reason)
    reason = f"no labels newer than the last attempt: {case.weighed.text()}"
    return Decision("keep", "none", reason)


def _by_probe(case: _Case) -> Decision | None:
    probe, weighed = case.policy.trigger(Probe), case.weighed
    if probe is None or math.isnan(weighed.p_value) or weighed.p_value > probe.alpha:
        return None
    reason = (
        f"a small model of the newest rows beats the champion by {weighed.probe:.1%} of its "
        f"backtest loss (more than {probe.margin:.0%}, p={weighed.p_value:.3f})"
    )
    return Decision("retrain", "probe", reason, "better")


def _by_regret(case: _Case) -> Decision | None:
    regret, cost = case.policy.trigger(Regret), case.weighed.regret
    if regret is None or cost <= regret.limit:
        return None
    reason = f"waiting has cost {cost:.2f} windows of loss (limit {regret.limit:g})"
    return Decision("retrain", "regret", reason, "better")


def _by_growth(case: _Case) -> Decision | None:
    growth, factor = case.policy.trigger(Growth), case.weighed.growth
    if growth is None or factor < growth.factor:
        return None
    reason = f"labelled rows grew x{factor:.2f} since the last attempt (limit x{growth.factor:g})"
    return Decision("retrain", "growth", reason)


def _by_drift(case: _Case) -> Decision | None:
    e, drift, weighed = case.evidence, case.policy.trigger(Drift), case.weighed
    if drift is None or e.champion is None or e.windows or weighed.drifted < drift.counts[0]:
        return None
    fresh = e.labelled_rows - e.labelled_at_last_attempt
    if fresh < drift.fresh * e.champion.training_rows:
        return None
    reason = (
        f"{_columns(e)} drifted in {weighed.drifted} of {weighed.looked} windows, nothing served "
        f"is labelled yet, and {fresh:,} labels are fresh"
    )
    return Decision("retrain", "drift", reason)


_SETTLED = (_broken, _waiting, _first, _by_request, _without_labels)
"""Rules that settle the question whatever the numbers say, in this order."""

_TRIGGERS = (_by_probe, _by_regret, _by_growth, _by_drift)
"""Rules that cooldown and budget may hold back."""


def _held_back(e: Evidence, policy: Retrain, found: Decision) -> Decision | None:
    """Cooldown and budget, by the clock of the data; the evidence is kept, not reset."""
    now = moment(e.now)
    count, span = policy.limit()
    recent = [t for t in e.attempts if now - moment(t) < span]
    if e.attempts and now - moment(e.attempts[-1]) < duration(policy.cooldown):
        why = f"cooldown: the last attempt was at {e.attempts[-1]}, wait {policy.cooldown}"
    elif len(recent) >= count:
        why = f"budget {policy.budget} is spent until {(moment(recent[0]) + span).isoformat()}"
    else:
        return None
    return Decision("wait", found.trigger, f"{found.reason}; {why}", found.burden)


def _weigh(e: Evidence, policy: Retrain) -> _Weighed:
    drift = policy.trigger(Drift)
    last = e.drift[-(drift.counts[1] if drift else 3) :]
    growth = e.labelled_rows / max(e.labelled_at_last_attempt, 1)
    flags = sum(flag is True for flag in last), len(last)
    if e.champion is None or not e.windows:
        return _Weighed(math.nan, math.nan, 0.0, growth, *flags)
    base, regret = max(e.champion.base_loss, 1e-12), 0.0
    for window in e.windows:
        regret = max(0.0, regret + float(window.gain.mean()) / base)
    probe = policy.trigger(Probe) or Probe()
    newest = e.windows[-1]
    p = _p_better(newest, probe.margin * base) if newest.rows >= probe.min_rows else math.nan
    return _Weighed(float(newest.gain.mean()) / base, p, regret, growth, *flags)


def _p_better(window: ServedWindow, margin: float) -> float:
    """One-sided p-value of "the challenger saves more than ``margin``", from block means."""
    from scipy.stats import t

    gain = window.gain
    error = max(float(gain.std(ddof=1)) / math.sqrt(len(gain)), 1e-12)
    return float(t.sf((float(gain.mean()) - margin) / error, len(gain) - 1))


def _columns(e: Evidence) -> str:
    return ", ".join(e.drifted) or "features"
