"""Gather what a decision looks at from where the monitors left it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from airflow_mlops.core.data.selection import labelled_windows
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.ledger import DECISIONS, State
from airflow_mlops.core.monitoring.citations import cite
from airflow_mlops.core.monitoring.dependencies import DependencyReport
from airflow_mlops.core.monitoring.findings import parsed
from airflow_mlops.core.monitoring.observations import Observation, Observations
from airflow_mlops.core.monitoring.served import ServedWindow
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.retraining.evidence import Champion, Evidence, gather
from airflow_mlops.core.training import models
from airflow_mlops.core.training.models import ModelStore
from airflow_mlops.policy import DependencyChange, Retrain, SchemaChange


@dataclass(frozen=True, slots=True)
class Gathering:
    """
    Where the evidence of one model is.

    :param model: name of the model.
    :param metric: per-row loss of the windows.
    """

    model: str
    metric: str
    models: ModelStore
    observations: Observations

    def evidence(
        self,
        state: State,
        data: Table,
        labels: Table,
        policy: Retrain,
        *,
        broken: Sequence[str] = (),
    ) -> Evidence:
        """
        Read what the monitors wrote about the champion.

        :param state: the ledger.
        :param data: version of the rows.
        :param labels: version of the labels.
        :param policy: what it does not ask about is not looked up.
        :param broken: breaks of the champion's contract, in words.
        """
        ref = None if state.champion is None else ModelRef(self.model, state.champion)
        labelled, found = labelled_windows(data, labels), self._findings(ref, policy)
        return gather(
            state,
            model=self.model,
            data=str(data.ref),
            labels=str(labels.ref),
            now=data.watermark.isoformat() if data.watermark else "",
            champion=self._champion(ref),
            windows=self._windows(found["performance"]),
            drift=_drift(found["drift"]),
            labelled_rows=sum(window.rows for window in labelled),
            broken=broken,
            added=self._added(ref, data) if policy.trigger(SchemaChange) else (),
            dependencies=_changed(found["dependencies"]),
            labelled_until=labelled[-1].end if labelled else "",
            cited=cite(chain(*found.values()), _decided(state)) if ref else None,
        )

    def _findings(
        self, ref: ModelRef | None, policy: Retrain
    ) -> dict[str, tuple[Observation, ...]]:
        """Read what the monitors found about the champion: all of it, of its packages the last."""
        read, none = self.observations.read, tuple[Observation, ...]()
        if ref is None:
            return dict.fromkeys(("performance", "drift", "dependencies"), none)
        asked = policy.trigger(DependencyChange)
        return {
            "performance": read(self.model, "performance", of=ref),
            "drift": read(self.model, "drift", of=ref),
            "dependencies": read(self.model, "dependencies", of=ref, last=1) if asked else none,
        }

    def _champion(self, ref: ModelRef | None) -> Champion | None:
        if ref is None:
            return None
        version = self.models.get(ref)
        loss, rows = version.fact(models.BASE_LOSS), version.fact(models.TRAINING_ROWS)
        return Champion(ref.version, float(loss), int(rows), version.fact(models.UNTIL))

    def _windows(self, found: Sequence[Observation]) -> list[ServedWindow]:
        windows = [parsed(o, ServedWindow.from_dict) for o in found]
        return sorted((w for w in windows if w.metric == self.metric), key=lambda w: w.index)

    def _added(self, ref: ModelRef | None, data: Table) -> list[str]:
        """Columns that the champion does not know."""
        if ref is None:
            return []
        known = {c["name"] for c in self.models.about(ref)["contract"]["columns"]}
        own = (data.key, data.time)
        return [n for n in data.schema.names if n not in known and n not in own]


def _drift(found: Sequence[Observation]) -> list[tuple[bool | None, tuple[str, ...]]]:
    by_window = {
        body["window"]: (bool(body.get("dataset", body["drifted"])), tuple(body["drifted"]))
        for body in (o.body for o in found)
        if body["window"] is not None
    }
    return [by_window[index] for index in sorted(by_window)]


def _changed(newest: Sequence[Observation]) -> list[str]:
    """What the newest look at the champion's packages found about those it uses."""
    if not newest:
        return []
    found = parsed(newest[0], DependencyReport.from_dict)
    used = [change.text for change in found.changes if change.used]
    return [*used, *([found.answers.found] if found.status == "broken" else [])]


def _decided(state: State) -> str:
    """Return when it was last decided about this champion; empty if it never was."""
    last = state.last(*DECISIONS)
    return last.at if last is not None and last.version == state.champion else ""
