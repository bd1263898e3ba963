"""Operators for evaluation: measure the candidate, judge it, and go back if it failed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, Xcom, about_decision, task_of
from airflow_mlops.operators.links import MlflowRunLink, ReportLink


class EvaluateModelOperator(MlopsOperator):
    """
    Score candidate and champion on the same later rows.

    :param trained: what ``TrainModelOperator`` returned (templated).
    :param selection: what ``SelectRowsOperator`` returned (templated).
    :param metric: the per-row loss both are compared in.
    :param gates: the words that ``JudgeCandidateOperator`` is given: what they ask about beside the
        metric is measured here, where the rows are (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "trained", "selection", "metric", "gates")
    operator_extra_links = (MlflowRunLink(), ReportLink())

    def __init__(
        self,
        *,
        trained: Xcom,
        selection: Xcom,
        metric: str = "brier",
        gates: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.trained = trained
        self.selection = selection
        self.metric = metric
        self.gates = gates
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Measure, and write the numbers to the candidate's MLflow run."""
        from airflow_mlops.core.data.selection import Selection
        from airflow_mlops.core.evaluation.offline import evaluate
        from airflow_mlops.core.training.models import EVALUATION
        from airflow_mlops.policy import Gate

        self.selected(self.selection)
        self.handed("train", about_decision(self.selection), self.trained)
        champion, hook = self.selection["champion"], MlflowHook(self.mlflow_conn_id)
        store, run_id, datasets = self.models(), self.trained["run_id"], self.datasets()
        found = evaluate(
            store,
            ModelRef.parse(self.trained["model"]),
            None if champion is None else ModelRef(self.model, champion),
            Selection.from_dict(self.selection["holdout"]).read(datasets),
            loss=self.metric,
            epoch=self.selection["epoch"],
            seed=0,
            burden=self.selection["burden"],
            datasets=datasets,
            gates=[Gate.from_dict(gate) for gate in self.gates],
        )
        store.log_metrics(run_id, {f"holdout_{m.metric}": m.value for m in found.metrics})
        store.log_document(run_id, EVALUATION, json.dumps(found.to_dict(), indent=1))
        self.urls = {
            MlflowRunLink.name: hook.run_url(run_id),
            ReportLink.name: hook.run_url(run_id, artifact=EVALUATION),
        }
        for line in (*found.metrics, *found.comparisons, *found.checks, *found.findings):
            self.log.info("%s: %s", found.model, line)
        version = ModelRef.parse(found.model).version
        about = about_decision(self.selection)
        self.hand_over(context, "evaluate", about, found.to_dict(), version=version)
        return found.to_dict()


class JudgeCandidateOperator(MlopsOperator):
    """
    Judge a candidate by every condition of its gate; a refusal is put on record.

    Returns the verdict: ``status`` is ``passed``, ``failed`` or ``uncertain``. It is a finding: the
    task succeeds, ``SubmitCandidateOperator`` and ``RetryRoundOperator`` go on from it.

    :param evaluation: what ``EvaluateModelOperator`` returned (templated).
    :param selection: what ``SelectRowsOperator`` returned (templated).
    :param gates: words of ``policy`` as dicts, such as ``AtLeast("roc_auc", 0.7).to_dict()``.
    """

    template_fields = (*MlopsOperator.template_fields, "evaluation", "selection", "gates")

    def __init__(
        self,
        *,
        evaluation: Xcom,
        selection: Xcom,
        gates: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.evaluation = evaluation
        self.selection = selection
        self.gates = gates

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge; a candidate that failed is refused in the ledger."""
        from airflow_mlops.core.deployment.registry import Ask
        from airflow_mlops.core.evaluation.evaluation import Evaluation
        from airflow_mlops.core.evaluation.gate import judge
        from airflow_mlops.policy import Gate

        about = about_decision(self.selection)
        self.selected(self.selection)
        self.handed("evaluate", about, self.evaluation)
        found = Evaluation.from_dict(self.evaluation)
        verdict = judge([Gate.from_dict(gate) for gate in self.gates], found)
        for check in verdict.checks:
            self.log.info("%-9s %s: %s", check.status, check.gate, check.reason)
        said, ref = verdict.to_dict() | {"refused": None}, ModelRef.parse(found.model)
        if verdict.status == "failed":
            decision = self.selection["decision"]
            evidence = {"decision": decision, "verdict": verdict.to_dict()}
            key = f"gate:{decision}:{ref.version}"
            ask = Ask(key, task_of(context), verdict.reason, evidence)
            said["refused"] = self.registry().refuse(ref, ask).seq
        self.hand_over(context, "gate", about, said, version=ref.version)
        return said


class RetryRoundOperator(MlopsOperator):
    """
    Start another round after a refusal, or tell people that none is left.

    Skipped if the candidate was not refused. Its outlet is the asset that starts a training run.

    :param verdict: what ``JudgeCandidateOperator`` returned (templated).
    :param selection: what ``SelectRowsOperator`` returned (templated).
    :param rounds: most rounds of one attempt, each on half the history; or what each one after the
        first changes: ``Round`` of ``policy`` as dicts.
    """

    template_fields = (*MlopsOperator.template_fields, "verdict", "selection")

    def __init__(
        self,
        *,
        verdict: Xcom,
        selection: Xcom,
        rounds: int | Sequence[Mapping[str, Any]] = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.selection = selection
        self.rounds = rounds

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Put the next round on record.

        :raises CandidateRefusedError: if no round is left: a person has to look.
        """
        from airflow_mlops.core.errors import CandidateRefusedError
        from airflow_mlops.core.retraining.record import next_round
        from airflow_mlops.policy import further_rounds

        self.selected(self.selection)
        self.handed("gate", about_decision(self.selection), self.verdict)
        if self.verdict["refused"] is None:
            msg = f"the candidate was not refused: {self.verdict['status']}"
            raise AirflowSkipException(msg)
        entry = next_round(
            self.ledger(),
            self.entry(self.verdict["refused"]),
            self.entry(self.selection["decision"]),
            share=float(self.selection["share"]),
            by=task_of(context),
            further=further_rounds(self.rounds),
        )
        if entry.op != "retrain":
            raise CandidateRefusedError(entry.reason)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"decision": entry.seq}
        self.log.info(entry.reason)
        return {"decision": entry.seq, "reason": entry.reason}
