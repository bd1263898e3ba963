"""
Replay a policy over a history: the same decision, training and gate, without a scheduler.

Test, then train: every window is served by the champion there is, then its labels arrive, then the
policy decides. Beside it the same windows are served by the first model for ever (never), and by a
model that is trained anew every window (always).
"""

import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airflow_mlops.core.data.contract import Contract, infer_contract, row_breaks
from airflow_mlops.core.data.profile import Profile, merge_all
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.errors import NotEnoughDataError, RejectedError
from airflow_mlops.core.evaluation.comparison import Comparison, compare
from airflow_mlops.core.evaluation.gate import Evaluation, Verdict, judge
from airflow_mlops.core.evaluation.spans import OWN, choose_span
from airflow_mlops.core.ledger import Entry, MemoryLedger, State
from airflow_mlops.core.metrics import estimates, loss_function
from airflow_mlops.core.monitoring.challenger import ROWS, challenge
from airflow_mlops.core.monitoring.drift.verdict import Reference, calibrate
from airflow_mlops.core.monitoring.drift.verdict import judge as judge_drift
from airflow_mlops.core.monitoring.performance import ServedWindow, blocks
from airflow_mlops.core.refs import Recipe
from airflow_mlops.core.retraining.decide import decide
from airflow_mlops.core.retraining.evidence import Champion, gather
from airflow_mlops.core.retraining.history import History
from airflow_mlops.core.retraining.record import next_round, record
from airflow_mlops.core.retraining.simulation import Alarm, Promotion, Setting, Simulation, Step
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.functions import Functions
from airflow_mlops.policy import Loads

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

WHO = "simulation"
ALPHA = 0.01
"""Rate of false drift alarms, per window and over all columns."""


@dataclass(frozen=True, slots=True)
class _Model:
    """
    A fitted model.

    :param first: first window it learnt from.
    :param end: window behind the last one it learnt from.
    :param base: loss of its own backtest.
    """

    estimator: Any
    first: int
    end: int
    base: float = 0.0


@dataclass(frozen=True)
class _Learner:
    """Fits and asks models on the windows of a history; features are built once."""

    history: History
    setting: Setting
    functions: Functions
    frame: "pd.DataFrame"

    @classmethod
    def load(cls, history: History, setting: Setting, folder: Path) -> "_Learner":
        name, ends = setting.model, (history.times[0], history.times[-1])
        span = [moment.isoformat() for moment in ends]
        rows = Labelled(
            Selection(f"{name}@1", f"{name}.labels@1", "label", *span),
            history.rows,
            pa.chunked_array([pa.array(history.y)]),
            history.time,
            history.key,
        )
        recipe = Recipe(
            model=name,
            data=f"{name}@1",
            data_digest="",
            labels=f"{name}.labels@1",
            labels_digest="",
            label="label",
            since=span[0],
            until=span[1],
            features=setting.features.name,
            train=setting.train.name,
            train_code=setting.train.digest,
            params=setting.params,
            seed=setting.seed,
            code=WHO,
            environment=WHO,
        )
        functions = Functions.load(recipe, rows, setting.features, setting.train, folder)
        return cls(history, setting, functions, functions.built())

    def fit(self, first: int, end: int, *, params: Any = None) -> _Model:
        """Fit on windows ``first`` to ``end``, ``end`` excluded."""
        rows, functions = self._rows(first, end), self.functions
        if params:
            asked = {**functions.recipe.params, **params}
            functions = replace(functions, recipe=replace(functions.recipe, params=asked))
        return _Model(functions.estimator(self.frame.iloc[rows], self.history.y[rows]), first, end)

    def based(self, model: _Model) -> _Model:
        """Measure a model's own backtest."""
        rows = self._rows(model.first, model.end)
        part = replace(self.functions, rows=self.functions.rows.slice(rows.start, rows.stop))
        loss = loss_function(self.setting.metric)
        return replace(model, base=part.backtest(self.frame.iloc[rows], loss))

    def predict(self, model: _Model, window: int) -> Floats:
        rows = self.history.span(window)
        found = self.functions.answers(model.estimator, self.frame.iloc[rows])
        return np.asarray(found, dtype=np.float64)

    def losses(self, predicted: Floats, window: int) -> Floats:
        y = self.history.y[self.history.span(window)]
        return np.asarray(loss_function(self.setting.metric)(y, predicted), dtype=np.float64)

    def probe(self, window: int) -> Floats:
        """Ask the cheap challenger of the newest rows before a window."""
        asked = self.history.span(window)
        learn = slice(max(0, asked.start - ROWS), asked.start)
        return challenge(
            self.frame.iloc[learn],
            self.history.y[learn],
            self.frame.iloc[asked],
            metric=self.setting.metric,
            name=self.setting.features.name,
        )

    def _rows(self, first: int, end: int) -> slice:
        return slice(self.history.bounds[first], self.history.bounds[end])


@dataclass
class _Replay:
    """One life of a model."""

    history: History
    setting: Setting
    learner: _Learner
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    models: dict[int, _Model] = field(default_factory=dict)
    served: dict[int, tuple[int, Floats]] = field(default_factory=dict)
    measured: dict[tuple[int, int], ServedWindow] = field(default_factory=dict)
    drift: list[tuple[bool | None, tuple[str, ...]]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    decisions: dict[int, Entry] = field(default_factory=dict)
    refused: int = 0
    trained: int = 0
    reference: Reference | None = None
    contract: Contract | None = None

    def __post_init__(self) -> None:
        first = self.history.rows.slice(0, self.history.bounds[min(self.setting.warmup, 4)])
        batch = first.select(self.setting.columns).combine_chunks().to_batches()[0]
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
        mine = (w for w, (v, _) in self.served.items() if v == champion and w < labelled)
        found = []
        for window in mine:
            if (champion or 0, window) not in self.measured:
                learner, predicted = self.learner, self.served[window][1]
                parts = (predicted, self._probe(window))
                loss = [blocks(learner.losses(p, window)) for p in parts]
                since, until = (self.history.start(w).isoformat() for w in (window, window + 1))
                self.measured[champion or 0, window] = ServedWindow(
                    f"{self.setting.model}@{champion}",
                    window,
                    since,
                    until,
                    self.setting.metric,
                    len(predicted),
                    loss[0],
                    loss[1],
                )
            found.append(self.measured[champion or 0, window])
        return found

    def _probe(self, window: int) -> Floats:
        self.trained += 1
        return self.learner.probe(window)

    def _attempt(self, decision: Entry, window: int, holdout: int) -> Entry:
        """Train, judge and promote; or go back for another round."""
        evidence, state = decision.evidence, self.state
        candidate = self._candidate(evidence, holdout)
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
        self.refused += 1
        if state.champion is None or verdict.status == "uncertain":
            return entry
        return next_round(self.ledger, entry, decision, by=WHO, rounds=self.setting.rounds)

    def _candidate(self, evidence: Any, holdout: int) -> _Model:
        """Fit on the span of the policy, or on another one that helps more."""
        share, params = float(evidence.get("share", 1.0)), evidence["params"]
        first = self.history.since(holdout, self.setting.span * share)
        fitted = {OWN: self.learner.fit(first, holdout, params=params)}
        tried = {OWN: first}
        for other in self.setting.spans if share == 1.0 and self.state.champion else ():
            begin = 0 if other == np.inf else self.history.since(holdout, self.setting.span * other)
            if begin not in tried.values() and begin < holdout:
                name = "all" if other == np.inf else f"x{other:g}"
                tried[name] = begin
                fitted[name] = self.learner.fit(begin, holdout, params=params)
        self.trained += len(fitted) + 1
        losses = {
            name: self.learner.losses(self.learner.predict(model, holdout), holdout)
            for name, model in fitted.items()
        }
        choice = choose_span(self.setting.metric, losses.pop(OWN), losses)
        return self.learner.based(fitted[choice.chosen])

    def _verdict(self, candidate: _Model, holdout: int, burden: str) -> Verdict:
        """Judge a candidate on the hold-out, beside the champion."""
        learner, setting, champion = self.learner, self.setting, self.state.champion
        predicted = learner.predict(candidate, holdout)
        comparisons: tuple[Comparison, ...] = ()
        note = "no champion yet"
        if champion is not None:
            other = learner.predict(self.models[champion], holdout)
            pair = [learner.losses(p, holdout) for p in (other, predicted)]
            try:
                comparisons, note = (compare(setting.metric, *pair),), ""
            except NotEnoughDataError as error:
                note = str(error)
        y = self.history.y[self.history.span(holdout)]
        found = Evaluation(
            f"{setting.model}@{len(self.models) + 1}",
            None if champion is None else f"{setting.model}@{champion}",
            self.state.epoch,
            self.history.start(holdout).isoformat(),
            self.history.start(holdout + 1).isoformat(),
            estimates(setting.metric, y, predicted, seed=0),
            comparisons,
            0.0,
            note,
            burden,
        )
        gates = [gate for gate in setting.gates if not isinstance(gate, Loads)]
        return judge(gates, found)

    def _promoted(self, model: _Model) -> None:
        """The new champion's rows are what drift and contract are measured against."""
        windows = [self.profile(w) for w in range(model.first, model.end)]
        self.reference, self.drift = calibrate(windows), []
        schema = self.history.rows.select(self.setting.columns).schema
        self.contract = infer_contract(schema, merge_all(windows))

    def _watch(self, window: int) -> None:
        """Look at the rows of a window before their labels are there."""
        if self.reference is None or self.contract is None:
            return
        columns = self.setting.columns
        found = judge_drift(self.reference, self.profile(window), columns, alpha=ALPHA)
        drifted = tuple(c.column for c in found if c.drifted)
        self.drift.append((bool(drifted), drifted))
        rows = self.history.span(window)
        part = self.history.rows.slice(rows.start, rows.stop - rows.start)
        _, breaks = row_breaks(self.contract, part, self.history.key)
        broken = tuple(dict.fromkeys(b.column for b in breaks if b.kind == "null"))
        pairs = (("drift", drifted), ("contract", broken))
        self.alarms += [Alarm(window, monitor, names) for monitor, names in pairs if names]

    def _profile(self, window: int) -> Profile:
        rows, builder = self.history.span(window), ProfileBuilder(self._around)
        part = self.history.rows.select(self.setting.columns)
        for batch in part.slice(rows.start, rows.stop - rows.start).to_batches():
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
        learner = _Learner.load(history, setting, scratch)
        replay = _Replay(history, setting, learner)
        replay.live()
        if not replay.served:
            last = replay.state.last("refuse")
            msg = f"no model passed the gate: {last.reason if last else 'none was trained'}"
            raise RejectedError(msg)
        lived = time.process_time()
        steps = _steps(replay)
    ended = time.process_time()
    attempts = [
        e for e in replay.state.entries if e.op == "retrain" and e.evidence.get("round", 1) == 1
    ]
    return Simulation(
        setting.model,
        setting.metric,
        steps,
        sum(e.evidence["trigger"] != "first" for e in attempts),
        replay.refused,
        replay.trained,
        tuple(replay.promotions),
        tuple(replay.alarms),
        lived - started,
        ended - lived,
    )


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
