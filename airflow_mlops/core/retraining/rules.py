"""
The reasons to retrain, one rule for each word of the policy.

A rule looks at the evidence and says whether it asks for a retrain, and how far it is from that:
what it says is put on record either way, so that a *no* can be read as well as a *yes*.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_mlops.core.metrics import standard_error
from airflow_mlops.core.monitoring.served import ServedWindow, p_more
from airflow_mlops.core.retraining.evidence import Burden, Evidence, moment
from airflow_mlops.policy import (
    Decay,
    DependencyChange,
    Drift,
    Growth,
    MaxAge,
    NewRows,
    Probe,
    Regret,
    Retrain,
    Schedule,
    SchemaChange,
    Trigger,
    duration,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What one rule says.

    :param trigger: which rule.
    :param asks: whether it asks for a retrain.
    :param text: why, or what would have to change, with the numbers.
    :param burden: what a candidate would have to prove.
    """

    trigger: str
    asks: bool
    text: str
    burden: Burden = "not worse"


@dataclass(frozen=True, slots=True)
class Weighed:
    """
    The numbers that the rules look at.

    :param probe: what the challenger saves, as a share of the champion's backtest loss; NaN if it
        was not measured on the newest window.
    :param p_value: of "it saves more than the margin".
    :param regret: what waiting has cost, in windows of that loss.
    :param growth: labelled rows now over those at the last attempt.
    :param drifted: drifted windows among the last ``looked``.
    """

    probe: float
    p_value: float
    regret: float
    growth: float
    drifted: int
    looked: int


def weigh(e: Evidence, policy: Retrain) -> Weighed:
    """Compute the numbers."""
    drift = policy.trigger(Drift)
    last = e.drift[-(drift.counts[1] if drift else 3) :]
    growth = e.labelled_rows / max(e.labelled_at_last_attempt, 1)
    flags = sum(flag is True for flag in last), len(last)
    if e.champion is None or not e.windows:
        return Weighed(math.nan, math.nan, 0.0, growth, *flags)
    base, regret = max(e.champion.base_loss, 1e-12), 0.0
    for window in (w for w in e.windows if w.probe):
        regret = max(0.0, regret + float(window.gain.mean()) / base)
    probe = policy.trigger(Probe) or Probe()
    newest = e.windows[-1]
    if not newest.probe:
        return Weighed(math.nan, math.nan, regret, growth, *flags)
    p = p_more(newest.gain, probe.margin * base) if newest.rows >= probe.min_rows else math.nan
    return Weighed(float(newest.gain.mean()) / base, p, regret, growth, *flags)


def findings(e: Evidence, policy: Retrain, weighed: Weighed) -> tuple[Finding, ...]:
    """Ask every rule of the policy, in its order; what a person asks for is no rule."""
    rules = ((_RULES.get(type(word)), word) for word in policy.triggers)
    return tuple(rule(word, e, weighed) for rule, word in rules if rule)


def _probe(word: Probe, e: Evidence, weighed: Weighed) -> Finding:
    if not e.windows or e.champion is None:
        return Finding("probe", False, "no labelled window yet for a challenger", "better")
    newest, base = e.windows[-1], e.champion.base_loss
    if not newest.probe:
        return Finding("probe", False, f"window {newest.index}: {newest.unprobed}", "better")
    if math.isnan(weighed.p_value):
        text = (
            f"{newest.rows} labelled rows in the newest window, a challenger needs {word.min_rows}"
        )
        return Finding("probe", False, text, "better")
    if weighed.p_value <= word.alpha:
        text = (
            f"a small model of the newest rows beats the champion by {weighed.probe:.1%} of its "
            f"backtest loss (more than {word.margin:.0%}, p={weighed.p_value:.2g})"
        )
        return Finding("probe", True, text, "better")
    text = (
        f"a small model of the newest rows would change {newest.metric} by "
        f"{-newest.gain.mean():+.4f} +- {1.96 * standard_error(newest.gain):.4f} (asks from "
        f"{-word.margin * base:+.4f} on, p={weighed.p_value:.2g})"
    )
    return Finding("probe", False, text, "better")


def _regret(word: Regret, _: Evidence, weighed: Weighed) -> Finding:
    asks = weighed.regret > word.limit
    text = f"waiting has cost {weighed.regret:.2f} windows of loss (limit {word.limit:g})"
    return Finding("regret", asks, text, "better")


def _growth(word: Growth, _: Evidence, weighed: Weighed) -> Finding:
    asks = weighed.growth >= word.factor
    text = (
        f"labelled rows grew x{weighed.growth:.2f} since the last attempt (limit x{word.factor:g})"
    )
    return Finding("growth", asks, text)


def _new_rows(word: NewRows, e: Evidence, _: Weighed) -> Finding:
    text = f"{_fresh(e):,} labelled rows since the last attempt (limit {word.rows:,})"
    return Finding("new rows", _fresh(e) >= word.rows, text)


def _drift(word: Drift, e: Evidence, weighed: Weighed) -> Finding:
    sustained = weighed.drifted >= word.counts[0]
    seen = f"drifted in {weighed.drifted} of {weighed.looked} windows"
    if not sustained:
        names = ", ".join(e.drifted) or "no column"
        text = f"data {seen} (asks from {word.sustained} on; newest: {names})"
        return Finding("drift", False, text)
    text = f"{columns(e)} {seen}"
    if e.champion is None or e.windows:
        return Finding("drift", False, f"{text}; labels are there, and measure what it costs")
    if _fresh(e) < word.fresh * e.champion.training_rows:
        return Finding("drift", False, f"{text}; {_too_few(e, word.fresh)}")
    text += f", nothing served is labelled yet, and {_fresh(e):,} labels are fresh"
    return Finding("drift", True, text)


def _decay(word: Decay, e: Evidence, _: Weighed) -> Finding:
    if e.champion is None or not e.windows:
        return Finding("decay", False, "no labelled window yet to measure decay on", "better")
    asks, text = decayed(word, e.windows, e.champion.base_loss)
    return Finding("decay", asks, text, "better")


def decayed(word: Decay, windows: Sequence[ServedWindow], base: float) -> tuple[bool, str]:
    """
    Say whether a champion has decayed, and why, with the numbers.

    :param windows: labelled windows that it served, oldest first.
    :param base: its mean loss in its own backtest.
    """
    if not windows:
        return False, "no labelled window yet to measure decay on"
    (n, m), limit = word.counts, base * (1 + word.drop)
    last = windows[-m:]
    worse = [w for w in last if p_more(w.losses, limit) <= word.alpha]
    text = (
        f"{last[-1].metric} {last[-1].loss:.4f} against {base:.4f} in its backtest, surely worse "
        f"by {word.drop:.0%} in {len(worse)} of {len(last)} windows (asks from {word.sustained} on)"
    )
    return len(worse) >= n, text


def _schema(word: SchemaChange, e: Evidence, _: Weighed) -> Finding:
    if not e.added:
        return Finding("schema", False, "no column that the champion does not know")
    text = f"the champion does not know {', '.join(e.added)}"
    if e.champion is None or _fresh(e) < word.fresh * e.champion.training_rows:
        return Finding("schema", False, f"{text}; {_too_few(e, word.fresh)}")
    return Finding("schema", True, text)


def _dependencies(_: DependencyChange, e: Evidence, __: Weighed) -> Finding:
    if not e.dependencies:
        return Finding("dependencies", False, "no package that the champion uses has changed")
    text = f"packages the champion uses have changed: {'; '.join(e.dependencies)}"
    return Finding("dependencies", True, text)


def _age(word: MaxAge, e: Evidence, _: Weighed) -> Finding:
    if e.champion is None or not e.champion.trained_until:
        return Finding("age", False, "no champion whose age is known")
    age = moment(e.now) - moment(e.champion.trained_until)
    text = f"the champion's newest training row is {age.days} days old (limit {word.age})"
    if age >= duration(word.age) and _fresh(e) < word.fresh * e.champion.training_rows:
        return Finding("age", False, f"{text}; {_too_few(e, word.fresh)}")
    return Finding("age", age >= duration(word.age), text)


def _schedule(word: Schedule, e: Evidence, _: Weighed) -> Finding:
    if not e.attempts:
        return Finding("schedule", True, f"no attempt is on record (every {word.every})")
    passed = moment(e.now) - moment(e.attempts[-1])
    text = f"{passed.days} days since the last attempt (every {word.every})"
    return Finding("schedule", passed >= duration(word.every), text)


_RULES: Mapping[type[Trigger], Callable[[Any, Evidence, Weighed], Finding]] = {
    Probe: _probe,
    Regret: _regret,
    Growth: _growth,
    NewRows: _new_rows,
    Drift: _drift,
    Decay: _decay,
    SchemaChange: _schema,
    DependencyChange: _dependencies,
    MaxAge: _age,
    Schedule: _schedule,
}


def columns(e: Evidence) -> str:
    """Name the columns that drifted in the newest window."""
    return ", ".join(e.drifted) or "features"


def _fresh(e: Evidence) -> int:
    """Labelled rows since the last attempt."""
    return e.labelled_rows - e.labelled_at_last_attempt


def _too_few(e: Evidence, share: float) -> str:
    needed = math.ceil(share * e.champion.training_rows) if e.champion else 0
    return f"{_fresh(e):,} fresh labels, {needed:,} can tell"
