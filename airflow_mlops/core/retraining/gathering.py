"""Gather what a decision looks at from where the monitors left it."""

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_mlops.core.data.selection import labelled_windows
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.ledger import State
from airflow_mlops.core.monitoring.dependencies import DependencyReport
from airflow_mlops.core.monitoring.findings import bodies, parsed
from airflow_mlops.core.monitoring.observations import Observations
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
        labelled = labelled_windows(data, labels)
        return gather(
            state,
            model=self.model,
            data=str(data.ref),
            labels=str(labels.ref),
            now=data.watermark.isoformat() if data.watermark else "",
            champion=self._champion(ref),
            windows=self._windows(ref),
            drift=self._drift(ref),
            labelled_rows=sum(window.rows for window in labelled),
            broken=broken,
            added=self._added(ref, data) if policy.trigger(SchemaChange) else (),
            dependencies=self._changed(ref) if policy.trigger(DependencyChange) else (),
            labelled_until=labelled[-1].end if labelled else "",
        )

    def _champion(self, ref: ModelRef | None) -> Champion | None:
        if ref is None:
            return None
        version = self.models.get(ref)
        loss, rows = version.fact(models.BASE_LOSS), version.fact(models.TRAINING_ROWS)
        return Champion(ref.version, float(loss), int(rows), version.fact(models.UNTIL))

    def _windows(self, ref: ModelRef | None) -> list[ServedWindow]:
        found = self.observations.read(self.model, "performance", of=ref) if ref else ()
        windows = [parsed(o, ServedWindow.from_dict) for o in found]
        return sorted((w for w in windows if w.metric == self.metric), key=lambda w: w.index)

    def _drift(self, ref: ModelRef | None) -> list[tuple[bool | None, tuple[str, ...]]]:
        found = {
            body["window"]: (
                bool(body.get("dataset", body["drifted"])),
                tuple(body["drifted"]),
            )
            for body in bodies(self.observations.read(self.model, "drift", of=ref) if ref else ())
            if body["window"] is not None
        }
        return [found[index] for index in sorted(found)]

    def _added(self, ref: ModelRef | None, data: Table) -> list[str]:
        """Columns that the champion does not know."""
        if ref is None:
            return []
        known = {c["name"] for c in self.models.about(ref)["contract"]["columns"]}
        own = (data.key, data.time)
        return [n for n in data.schema.names if n not in known and n not in own]

    def _changed(self, ref: ModelRef | None) -> list[str]:
        """What the newest look at the champion's packages found about those it uses."""
        newest = self.observations.read(self.model, "dependencies", of=ref, last=1) if ref else ()
        if not newest:
            return []
        found = parsed(newest[0], DependencyReport.from_dict)
        used = [change.text for change in found.changes if change.used]
        return [*used, *([found.answers.found] if found.status == "broken" else [])]
