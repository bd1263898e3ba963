"""Operators for retraining: decide from evidence, and request a training run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.operators._base import MlopsOperator, Xcom, airflow_url, run_page, task_of
from airflow_mlops.operators.links import DecisionLink

if TYPE_CHECKING:
    from airflow_mlops.core.data.commits import WindowStats
    from airflow_mlops.core.data.tables import Table
    from airflow_mlops.core.ledger import State
    from airflow_mlops.core.retraining.evidence import Champion, Evidence


class DecideRetrainOperator(MlopsOperator):
    """
    Weigh what the monitors found, and decide whether to retrain; the answer is put on record.

    Re-reads the state instead of trusting its trigger: asked twice about the same data it gives
    the same answer and no second entry.

    :param snapshot: what ``SnapshotTableOperator`` returned for the rows (templated).
    :param labels: what ``SnapshotTableOperator`` returned for the labels (templated).
    :param contract: what ``CheckContractOperator`` returned; none: not checked (templated).
    :param policy: ``policy.Retrain`` as a dict (templated).
    :param metric: per-row loss of the windows.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot", "labels", "contract", "policy")
    operator_extra_links = (DecisionLink(),)

    def __init__(
        self,
        *,
        snapshot: Xcom,
        labels: Xcom,
        policy: Mapping[str, Any],
        contract: Xcom = None,
        metric: str = "brier",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.labels = labels
        self.contract = contract
        self.policy = policy
        self.metric = metric
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Gather the evidence, decide, and append the decision to the ledger."""
        from airflow_mlops.core.data.selection import labelled_windows
        from airflow_mlops.core.retraining.decide import decide
        from airflow_mlops.core.retraining.record import record
        from airflow_mlops.policy import Retrain

        for repair in self.registry().reconcile(self.model):
            self.log.warning("alias repaired: %s", repair)
        policy, ledger, store = Retrain.from_dict(self.policy), self.ledger(), self.datasets()
        data, labels = (
            store.open(DatasetRef.parse(part["ref"])) for part in (self.snapshot, self.labels)
        )
        labelled = labelled_windows(data, labels)
        evidence = self._evidence(ledger.state(self.model), data, str(labels.ref), labelled)
        entry = record(
            ledger,
            evidence,
            decide(evidence, policy),
            policy,
            by=task_of(context),
        )
        self.registry().reconcile(self.model)
        self.urls = {DecisionLink.name: _xcom_page(context)}
        self.log.info("%s: %s", entry.op, entry.reason)
        return {
            "decision": entry.seq,
            "fresh": entry.by == task_of(context),
            "op": entry.op,
            "reason": entry.reason,
            "trigger": entry.evidence["trigger"],
            "facts": entry.evidence["facts"],
            "drifted": entry.evidence["drifted"],
        }

    def _evidence(
        self, state: "State", data: "Table", labels: str, labelled: Sequence["WindowStats"]
    ) -> "Evidence":
        """Read what the monitors wrote about the champion."""
        from airflow_mlops.core.monitoring.performance import ServedWindow
        from airflow_mlops.core.retraining.evidence import gather

        observations = self.observations()
        ref = None if state.champion is None else ModelRef(self.model, state.champion)
        served = [
            window
            for o in (observations.read(self.model, "performance", of=ref) if ref else ())
            if (window := ServedWindow.from_dict(o.body)).metric == self.metric
        ]
        drift = {
            o.body["window"]: (
                o.body.get("dataset", bool(o.body["drifted"])),
                tuple(o.body["drifted"]),
            )
            for o in (observations.read(self.model, "drift", of=ref) if ref else ())
        }
        return gather(
            state,
            model=self.model,
            data=str(data.ref),
            labels=labels,
            now=data.watermark.isoformat() if data.watermark else "",
            champion=self._champion(state),
            windows=sorted(served, key=lambda w: w.index),
            drift=[drift[index] for index in sorted(drift)],
            labelled_rows=sum(window.rows for window in labelled),
            broken=self.contract["fatal"] if self.contract else (),
            labelled_until=labelled[-1].end if labelled else "",
        )

    def _champion(self, state: "State") -> "Champion | None":
        from airflow_mlops.core.retraining.evidence import Champion
        from airflow_mlops.core.training import models

        if state.champion is None:
            return None
        version = self.models().get(ModelRef(self.model, state.champion))
        loss, rows = version.fact(models.BASE_LOSS), version.fact(models.TRAINING_ROWS)
        return Champion(state.champion, float(loss), int(rows), version.fact(models.UNTIL))


class RequestTrainingOperator(MlopsOperator):
    """
    Start a training run if the decision was *retrain*; skipped otherwise.

    Its outlet is the asset that the training Dag waits for. *ask* fails the task, so that people
    are told: somebody has to look. A decision that an earlier run took is not carried out again.

    :param decision: what ``DecideRetrainOperator`` returned (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "decision")

    def __init__(self, *, decision: Xcom, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decision = decision

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Emit the event, or skip.

        :raises RejectedError: if a person has to look first.
        """
        from airflow_mlops.core.errors import RejectedError

        op, reason = self.decision["op"], self.decision["reason"]
        if not self.decision["fresh"]:
            number = self.decision["decision"]
            msg = f"nothing is new since entry {number} was decided: {op}: {reason}"
            if op == "retrain":
                msg += (
                    f". It started a run of {self.model}__train; if that failed, mend the cause "
                    f"and clear its failed task, or ask again: airflow mlops retrain {self.model}"
                )
            raise AirflowSkipException(msg)
        if op == "ask":
            raise RejectedError(reason)
        if op != "retrain":
            msg = f"{op}: {reason}"
            raise AirflowSkipException(msg)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"decision": self.decision["decision"]}
        return {"decision": self.decision["decision"], "reason": reason}


def _xcom_page(context: Context) -> str:
    """Address of the page that shows the whole decision."""
    return f"{airflow_url()}{run_page(context)}/tasks/{context['ti'].task_id}/xcom"
