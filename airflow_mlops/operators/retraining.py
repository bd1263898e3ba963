"""Operators for retraining: decide from evidence, and request a training run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.operators._base import (
    MlopsOperator,
    Xcom,
    airflow_url,
    run_of,
    run_page,
    task_of,
)
from airflow_mlops.operators._telling import TOLD, tell
from airflow_mlops.operators.links import DecisionLink
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow_mlops.core.ledger import Entry, State

COUNTED = 2_000
"""Decisions not to retrain that a digest can count."""


RECENT = 50
"""Findings among which that of this run is looked for: a snapshot may have written one after it."""


class DecideRetrainOperator(MlopsOperator):
    """
    Weigh what the monitors found, and decide whether to retrain; the answer is put on record.

    A contract that this run found broken comes first: a retrain would hide it.

    Re-reads the state instead of trusting its trigger: asked twice about the same data it gives
    the same answer and no second entry.

    :param snapshot: what ``SnapshotTableOperator`` returned for the rows (templated).
    :param labels: what ``SnapshotTableOperator`` returned for the labels (templated).
    :param policy: ``policy.Retrain`` as a dict (templated).
    :param metric: per-row loss of the windows.
    :param notifiers: told about each retrain, and about a budget that is spent; of what was
        declined they get a digest. They find ``mlops`` in their context: ``model``, ``line``,
        ``entry``.
    :param digest: time between two digests, by the clock of the data.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot", "labels", "policy")
    operator_extra_links = (DecisionLink(),)

    def __init__(
        self,
        *,
        snapshot: Xcom,
        labels: Xcom,
        policy: Mapping[str, Any],
        metric: str = "brier",
        notifiers: Sequence[Any] = (),
        digest: str = "7d",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.labels = labels
        self.policy = policy
        self.metric = metric
        self.notifiers = notifiers
        self.digest = digest
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Gather the evidence, decide, and append the decision to the ledger."""
        from airflow_mlops.core.retraining.decide import decide
        from airflow_mlops.core.retraining.gathering import Gathering
        from airflow_mlops.core.retraining.record import record
        from airflow_mlops.core.retraining.telling import QUIET
        from airflow_mlops.policy import Retrain

        for repair in self.registry().reconcile(self.model):
            self.log.warning("alias repaired: %s", repair)
        policy, ledger, store = Retrain.from_dict(self.policy), self.ledger(), self.datasets()
        data, labels = (
            store.open(DatasetRef.parse(part["ref"])) for part in (self.snapshot, self.labels)
        )
        gathering = Gathering(self.model, self.metric, self.models(), self.observations())
        evidence = gathering.evidence(
            ledger.weighed(self.model), data, labels, policy, broken=self._broken(context)
        )
        decision = decide(evidence, policy)
        entry = record(ledger, evidence, decision, policy, by=task_of(context))
        self.registry().reconcile(self.model)
        self.urls = {DecisionLink.name: _xcom_page(context)}
        self.log.info("%s: %s", entry.op, entry.reason)
        if self.notifiers:
            self._tell(context, ledger.weighed(self.model, ops=QUIET, last=COUNTED), entry)
        return {
            "decision": entry.seq,
            "fresh": entry.by == task_of(context),
            "op": entry.op,
            "reason": entry.reason,
            "trigger": entry.evidence["trigger"],
            "facts": entry.evidence["facts"],
            "drifted": entry.evidence["drifted"],
        }

    def _broken(self, context: Context) -> Sequence[str]:
        """
        Return what stops the rows of this run, if its contract was looked at; it names none.

        :raises RejectedError: if the finding does not say it.
        """
        seen = self.observations().read(self.model, "contract", last=RECENT)
        mine = [o for o in seen if o.subject == run_of(context)]
        return list(mine[-1].body["plain"]["fatal"]) if mine else ()

    def _tell(self, context: Context, state: "State", entry: "Entry") -> None:
        """Tell people, once; a notifier that fails is no reason to decide again."""
        from airflow_mlops.core.retraining.telling import message_of

        observations = self.observations()
        before = [o.body for o in observations.read(self.model, TOLD)]
        digests = [str(b["until"]) for b in before if b.get("digest")]
        message = message_of(state, entry, max(digests, default=""), duration(self.digest))
        if message is None:
            return
        mlops = {"line": message.line, "entry": entry.to_dict()}
        kept = {"digest": message.digest, "until": entry.evidence["now"]}
        tell(observations, self.notifiers, context, self.model, message.subject, mlops, **kept)


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
        from airflow_mlops.core.errors import HandoverChangedError, RejectedError

        entry = self.entry(self.decision["decision"])
        op, reason = entry.op, entry.reason
        if (self.decision["op"], self.decision["reason"]) != (op, reason):
            msg = (
                f"the decision was edited on its way: {self.decision['op']!r}, "
                f"{self.decision['reason']!r} arrived, on record is {op!r}, {reason!r} (entry "
                f"{entry.seq}). Clear the task that makes it: decide"
            )
            raise HandoverChangedError(msg)
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
