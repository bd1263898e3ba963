"""Whether the champion makes way for the one before it: it decayed, and going back would help."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.selection import Selection
from airflow_mlops.core.deployment.registry import Ask, ModelRegistry
from airflow_mlops.core.deployment.rollback import roll_back
from airflow_mlops.core.entries import Entry, State
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.evaluation.comparison import Comparison, compare
from airflow_mlops.core.evaluation.flips import Answered
from airflow_mlops.core.monitoring.citations import CITED, cite
from airflow_mlops.core.monitoring.findings import parsed
from airflow_mlops.core.monitoring.observations import Observation, Observations
from airflow_mlops.core.monitoring.served import ServedWindow
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.retraining.evidence import moment
from airflow_mlops.core.retraining.rules import decayed
from airflow_mlops.core.training.models import BASE_LOSS
from airflow_mlops.core.training.own_metrics import load_loss
from airflow_mlops.policy import Decay


@dataclass(frozen=True, slots=True)
class Guarded:
    """
    What the guard found.

    :param status: ``ok``; ``warn``: it decayed, and nothing was done; ``broken``: rolled back.
    :param line: why, in one sentence with the numbers.
    :param entry: entry of the ledger by which the earlier champion returned.
    :param comparison: the earlier champion minus this one, on the same rows.
    """

    status: Literal["ok", "warn", "broken"]
    line: str
    entry: int | None = None
    comparison: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Guard:
    """
    What the guard needs to look.

    :param registry: who is champion.
    :param datasets: where rows and labels are.
    :param observations: what the champion's windows have shown.
    :param metric: per-row loss of the windows.
    """

    registry: ModelRegistry
    datasets: DatasetStore
    observations: Observations
    metric: str

    def look(
        self, rows: Selection, rules: Sequence[Decay], ask: Ask, *, champion: ModelRef
    ) -> Guarded:
        """
        Roll back if a rule of the policy asks for it, and the earlier champion is surely better.

        Both are asked about the labelled rows of the windows that decayed: a hard season is hard
        for both of them, and then nothing is gained. Asked again by the same task after it rolled
        back, it gives the same answer.

        :param rows: versions of rows and labels, and the label; its span does not count.
        :param rules: when the champion has decayed.
        :param ask: who asks; its key is completed by what was seen.
        :param champion: who is champion.
        """
        state = self.registry.ledger.weighed(champion.name)
        done = _done(state, ask)
        if done is not None:
            self.registry.reconcile(champion.name)
            compared = Comparison.from_dict(done.evidence["comparison"])
            return _rolled_back(done, compared)
        seen_by = self.observations.read(champion.name, "performance", of=champion)
        windows = self._windows(state, seen_by)
        base = float(self.registry.models.get(champion).fact(BASE_LOSS))
        found = [(rule, *decayed(rule, windows, base)) for rule in rules]
        asking = [(rule, text) for rule, asks, text in found if asks]
        if not asking:
            return Guarded("ok", "; ".join(text for *_, text in found))
        rule, text = asking[0]
        if state.previous is None:
            return Guarded("warn", f"{champion} decayed: {text}; there is no earlier champion")
        previous, last = ModelRef(champion.name, state.previous), windows[-rule.counts[1] :]
        seen = Selection(rows.data, rows.labels, rows.label, last[0].since, last[-1].until)
        try:
            compared = self._compared(seen, previous, champion)
            if compared.bound(rule.alpha) >= 0:
                line = f"{champion} decayed: {text}; {previous} is not surely better: {compared}"
                return Guarded("warn", f"{line}; retrain, or wait", comparison=compared)
            evidence = {"rule": rule.to_dict(), "comparison": compared.to_dict()}
            evidence |= {CITED: cite(seen_by)}
            better = f"{previous} is surely better on these rows: {compared}"
            reason = f"{champion} decayed: {text}; {better}"
            key = f"{ask.key}:{state.epoch}:{last[-1].index}"
            mine = Ask(key, ask.by, reason, {**ask.evidence, **evidence})
            entry = roll_back(
                self.registry, self.datasets, champion.name, mine, to=previous.version
            )
        except (ConfigurationError, RejectedError) as error:
            line = f"{champion} decayed: {text}; {previous} cannot take over: {error}"
            return Guarded("warn", line)
        return _rolled_back(entry, compared)

    def _windows(self, state: State, found: Sequence[Observation]) -> list[ServedWindow]:
        """Return the labelled windows that it served since it became champion, oldest first."""
        since = _since(state)
        windows = (parsed(o, ServedWindow.from_dict) for o in found)
        mine = (w for w in windows if w.metric == self.metric and w.champion)
        return sorted(
            (w for w in mine if not since or moment(w.until) > moment(since)), key=lambda w: w.index
        )

    def _compared(self, seen: Selection, previous: ModelRef, champion: ModelRef) -> Comparison:
        labelled = seen.read(self.datasets)
        said = Answered.ask(self.registry.models, previous, champion, labelled)
        loss, y = load_loss(self.metric), said.truth
        return compare(self.metric, loss(y, said.champion), loss(y, said.candidate))


def _done(state: State, ask: Ask) -> Entry | None:
    """Return the rollback by which this task made the champion of now: its answer was lost."""
    last = state.numbered(state.epoch)
    if last is None or last.op != "rollback" or not last.key.startswith(f"{ask.key}:"):
        return None
    return last if last.by == ask.by else None


def _rolled_back(entry: Entry, compared: Comparison) -> Guarded:
    line = f"rolled back to {entry.model}@{entry.version}: {entry.reason}"
    return Guarded("broken", line, entry.seq, compared)


def _since(state: State) -> str:
    """Return when the champion of now became it, by the clock of the data; empty: not known."""
    now = ""
    for entry in state.entries:
        if entry.seq > state.epoch:
            break
        now = str(entry.evidence.get("now") or now)
    return now
