"""
Replay a policy over a history: the same decision, training and gate, without a scheduler.

Test, then train: every window is served by the champion there is, then its labels arrive, then the
policy decides. Beside it the same windows are served by the first model for ever (never), and by a
model that is trained anew every window (always).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from airflow_mlops.core.data.contract import Contract, infer_contract, row_breaks
from airflow_mlops.core.data.profile import Profile, merge_all
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.errors import NotEnoughDataError, RejectedError
from airflow_mlops.core.evaluation.evaluation import Evaluation
from airflow_mlops.core.evaluation.gate import Verdict, judge
from airflow_mlops.core.evaluation.measuring import Answers, assessed
from airflow_mlops.core.evaluation.spans import OWN, choose_span, enough
from airflow_mlops.core.ledger import Entry, MemoryLedger, State
from airflow_mlops.core.metrics import BLOCKS
from airflow_mlops.core.monitoring.drift.report import DriftReport
from airflow_mlops.core.monitoring.drift.verdict import Reference, calibrate
from airflow_mlops.core.monitoring.drift.verdict import judge as judge_drift
from airflow_mlops.core.monitoring.served import ServedWindow, blocks
from airflow_mlops.core.retraining.decide import decide
from airflow_mlops.core.retraining.evidence import Champion, gather
from airflow_mlops.core.retraining.history import History
from airflow_mlops.core.retraining.learner import Fit, Floats, Learner
from airflow_mlops.core.retraining.record import next_round, record
from airflow_mlops.core.retraining.simulation import Alarm, Promotion, Setting, Simulation, Step
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.policy import Loads, NotWorse, duration

WHO = "simulation"
ALPHA = 0.01
"""Rate of false drift alarms, per window and over all columns."""


@dataclass
class _Replay:
    """One life of a model."""

    history: History
    setting: Setting
    learner: Learner
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    models: dict[int, Fit] = field(default_factory=dict)
    served: dict[int, tuple[int, Floats]] = field(default_factory=dict)
    measured: dict[int, ServedWindow] = field(default_factory=dict)
    drift: list[tuple[bool | None, tuple[str, ...]]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    decisions: dict[int, Entry] = field(default_factory=dict)
    trained: int = 0
    reference: Reference | None = None
    contract: Contract | None = None
    importance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watched = self.learner.used(self.setting.columns)
        ignored = self.setting.policy.drift.ignore
        self.judged = [name for name in self.watched if name not in ignored]
        first = self.history.rows.slice(0, self.history.bounds[min(self.setting.warmup, 4)])
        batch = first.select(self.watched).combine_chunks().to_batches()[0]
        self._around = centres(batch)
        self.profile = lru_cache(maxsize=None)(self._profile)

    @property
    def state(self) -> State:
        return self.ledger.state(self.setting.model)

    def live(self) -> None:
        """Live through all windows."""
        for window in range(self.setting.warmup - 1, self.history.windows):
            champion = self.state.champion
            if champion is not None and window >= self.setting.warmup:
                predicted = self.learner.predict(self.models[champion], window)
                self.served[window] = (champion, predicted)
                self._watch(window)
            labelled = window - self.setting.delay + 1
            if labelled >= 2:
                self._decide(window, labelled)

    def _decide(self, window: int, labelled: int) -> None:
        """Decide at the end of a window, with the labels of the first ``labelled`` ones."""
        name, history, state = self.setting.model, self.history, self.state
        champion = state.champion
        evidence = gather(
            state,
            model=name,
            data=f"{name}@{window + 1}",
            labels=f"{name}.labels@{labelled}",
            now=history.start(window + 1).isoformat(),
            champion=None if champion is None else self._facts(champion),
            windows=self._measured(champion, labelled),
            drift=self.drift,
            labelled_rows=history.bounds[labelled],
            labelled_until=history.start(labelled).isoformat(),
        )
        policy = self.setting.policy
        answer = decide(evidence, policy)
        entry = record(self.ledger, evidence, answer, policy, by=WHO)
        self.decisions[window] = entry
        while entry.op == "retrain":
            entry = self._attempt(entry, window, labelled - 1)

    def _facts(self, version: int) -> Champion:
        model, bounds = self.models[version], self.history.bounds
        rows, until = bounds[model.end] - bounds[model.first], self.history.start(model.end)
        return Champion(version, model.base, rows, until.isoformat())

    def _measured(self, champion: int | None, labelled: int) -> list[ServedWindow]:
        """Measure every labelled window that a champion served, beside the cheap challenger."""
        mine = (
            w
            for w, (v, p) in self.served.items()
            if v == champion and w < labelled and len(p) >= BLOCKS
        )
        found = []
        for window in mine:
            if window not in self.measured:
                self.measured[window] = self._measure(window)
            found.append(self.measured[window])
        return found

    def _measure(self, window: int) -> ServedWindow:
        """Hold what was served against the cheap challenger."""
        champion, predicted = self.served[window]
        parts = (predicted, self.learner.probe(window, predicted))
        self.trained += 1
        loss, probe = (blocks(self.learner.losses(p, window)) for p in parts)
        since, until = (self.history.start(w).isoformat() for w in (window, window + 1))
        model, metric = f"{self.setting.model}@{champion}", self.setting.metric
        return ServedWindow(model, window, since, until, metric, len(predicted), loss, probe)

    def _attempt(self, decision: Entry, window: int, holdout: int) -> Entry:
        """Train, judge and promote; or go back for another round."""
        evidence, state = decision.evidence, self.state
        candidate, share = self._candidate(evidence, holdout)
        verdict = self._verdict(candidate, holdout, str(evidence["burden"]))
        version = len(self.models) + 1
        self.models[version] = candidate
        op = "promote" if verdict.status == "passed" else "refuse"
        entry, _ = self.ledger.record(
            self.setting.model,
            f"{op}:{decision.seq}",
            {"version": version},
            lambda state: Entry(
                self.setting.model, op, "", WHO, verdict.reason, version, state.epoch
            ),
        )
        if op == "promote":
            self.promotions.append(
                Promotion(window, version, str(evidence["trigger"]), decision.reason)
            )
            self._promoted(candidate)
            return entry
        if state.champion is None or verdict.status == "uncertain":
            return entry
        further = self.setting.rounds
        return next_round(self.ledger, entry, decision, share=share, by=WHO, further=further)

    def _candidate(self, evidence: Any, holdout: int) -> tuple[Fit, float]:
        """Fit on the span of the policy, or on another one that helps more; return its share."""
        share, params = float(evidence.get("share", 1.0)), evidence["params"]
        window = evidence.get("pins", {}).get("window")
        span = duration(window) if window else self.setting.span
        first = self.history.since(holdout, span * share)
        fitted, shares = {OWN: self.learner.fit(first, holdout, params=params)}, {OWN: share}
        for other in self.setting.spans if share == 1.0 and self.state.champion else ():
            begin = self.history.since(holdout, self.setting.span * other)
            rows = self.learner.rows(begin, holdout)
            known = {model.first for model in fitted.values()}
            if begin not in known and enough(self.history.y[rows]):
                name = f"x{other:g}"
                fitted[name] = self.learner.fit(begin, holdout, params=params)
                shares[name] = other
        self.trained += len(fitted) + 1
        losses = {
            name: self.learner.losses(self.learner.predict(model, holdout), holdout)
            for name, model in fitted.items()
        }
        choice = choose_span(self.setting.metric, losses.pop(OWN), losses)
        return self.learner.based(fitted[choice.chosen]), shares[choice.chosen]

    def _verdict(self, candidate: Fit, holdout: int, burden: str) -> Verdict:
        """Judge a candidate on the hold-out, beside the champion."""
        learner, setting, champion = self.learner, self.setting, self.state.champion
        rows, other = self.history.span(holdout), None
        if champion is not None:
            other = learner.predict(self.models[champion], holdout)
        base = Evaluation(
            f"{setting.model}@{len(self.models) + 1}",
            None if champion is None else f"{setting.model}@{champion}",
            self.state.epoch,
            self.history.start(holdout).isoformat(),
            self.history.start(holdout + 1).isoformat(),
            (),
            (),
            None,
            "no champion yet" if champion is None else "",
            burden,
        )
        answers = Answers(
            self.history.part(holdout),
            self.history.y[rows],
            learner.predict(candidate, holdout),
            other,
            learner.functions.features_of,
        )
        # whoever approves is taken to follow the probe where the hold-out alone is not sure
        gates = [
            replace(gate, point=True) if isinstance(gate, NotWorse) else gate
            for gate in setting.gates
            if not isinstance(gate, Loads)
        ]
        if not gates:
            return Verdict(())
        return judge(gates, assessed(base, answers, gates, learner.loss, seed=0))

    def _promoted(self, model: Fit) -> None:
        """The new champion's rows are what drift and contract are measured against."""
        windows = [self.profile(w) for w in range(model.first, model.end)]
        self.reference, self.drift = calibrate(windows), []
        self.importance = model.importance
        schema = self.history.rows.select(self.watched).schema
        self.contract = infer_contract(schema, merge_all(windows))

    def _watch(self, window: int) -> None:
        """Look at the rows of a window before their labels are there."""
        if self.reference is None or self.contract is None:
            return
        word = self.setting.policy.drift
        found = judge_drift(self.reference, self.profile(window), self.judged, alpha=ALPHA)
        report = DriftReport(self.setting.model, self.setting.model, "profile", ALPHA, found)
        drifted = report.drifted
        verdict = report.verdict(
            share=word.share,
            important=word.important,
            weights=word.weights or None,
            importance=self.importance,
        )
        self.drift.append((verdict.drifted, drifted))
        _, breaks = row_breaks(self.contract, self.history.part(window), self.history.key)
        broken = tuple(dict.fromkeys(b.column for b in breaks if b.kind == "null"))
        pairs = (("drift", drifted), ("contract", broken))
        self.alarms += [Alarm(window, monitor, names) for monitor, names in pairs if names]

    def _profile(self, window: int) -> Profile:
        builder = ProfileBuilder(self._around)
        for batch in self.history.part(window).select(self.watched).to_batches():
            builder.update(batch)
        return builder.finish()


def simulate(history: History, setting: Setting) -> Simulation:
    """
    Replay a policy.

    :param history: labelled rows, cut into windows.
    :param setting: the policy, the user's functions, and how labels arrive.
    :raises NotEnoughDataError: if there is no window after the warm-up.
    :raises RejectedError: if no model ever passes the gate.
    """
    if history.windows <= setting.warmup or setting.warmup - setting.delay < 2:
        msg = (
            f"{history.windows} windows, {setting.warmup} of them before the first model, labels "
            f"{setting.delay} windows late: nothing is left to live through"
        )
        raise NotEnoughDataError(msg)
    started = time.process_time()
    with scratch_folder("simulate") as scratch:
        learner = Learner.load(history, setting, scratch)
        replay = _Replay(history, setting, learner)
        replay.live()
        if not replay.served:
            last = replay.state.last("refuse")
            msg = f"no model passed the gate: {last.reason if last else 'none was trained'}"
            raise RejectedError(msg)
        lived = time.process_time()
        steps = _steps(replay)
    ended = time.process_time()
    entries = replay.state.entries
    attempts = [e for e in entries if e.op == "retrain" and e.evidence.get("round", 1) == 1]
    return Simulation(
        setting.model,
        setting.metric,
        steps,
        sum(e.evidence["trigger"] != "first" for e in attempts),
        sum(e.op == "refuse" for e in entries),
        replay.trained,
        _promotions(replay),
        tuple(replay.alarms),
        lived - started,
        ended - lived,
        (*history.notes, f"monitored: {', '.join(replay.judged) or 'no column'}"),
    )


def _promotions(replay: _Replay) -> tuple[Promotion, ...]:
    """Ask what each model saved in its windows, beside the one before it."""
    learner, found, before = replay.learner, [], replay.promotions[0]
    for promotion in replay.promotions:
        old, version = replay.models[before.version], promotion.version
        saved = [
            learner.losses(learner.predict(old, w), w).mean() - learner.losses(p, w).mean()
            for w, (v, p) in replay.served.items()
            if v == version
        ]
        found.append(replace(promotion, gain=float(np.mean(saved)) if saved else None))
        before = promotion
    return tuple(found)


def _steps(replay: _Replay) -> tuple[Step, ...]:
    """Measure the served windows beside the first model, and beside one trained every window."""
    learner, history, setting = replay.learner, replay.history, replay.setting
    first = replay.models[replay.promotions[0].version]
    found = []
    for window, (version, predicted) in replay.served.items():
        entry = replay.decisions[window]
        end = max(window - setting.delay, 1)
        newest = learner.fit(history.since(end, setting.span), end)
        every = (predicted, *(learner.predict(model, window) for model in (first, newest)))
        loss, never, always = (float(learner.losses(p, window).mean()) for p in every)
        found.append(
            Step(
                window,
                history.start(window).isoformat(),
                version,
                loss,
                never,
                always,
                entry.op,
                str(entry.evidence["trigger"]),
                entry.reason,
            )
        )
    return tuple(found)
