"""Operators for deployment: submit, smoke test, promote, roll back, score, clean up."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.errors import RejectedError
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, Xcom, newest_event, run_of, task_of
from airflow_mlops.operators.approval import NOBODY
from airflow_mlops.operators.links import ModelVersionLink
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow_mlops.core.deployment.registry import ModelRegistry
    from airflow_mlops.core.training.agreement import ServingCheck


class SubmitCandidateOperator(MlopsOperator):
    """
    Submit a candidate that its gate did not refuse; skipped if it was refused.

    Its outlet is the asset that starts a rollout.

    :param evaluation: what ``EvaluateModelOperator`` returned (templated).
    :param verdict: what ``JudgeCandidateOperator`` returned (templated).
    :param selection: what ``SelectRowsOperator`` returned (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "evaluation", "verdict", "selection")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self,
        *,
        evaluation: Xcom,
        verdict: Xcom,
        selection: Xcom,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.evaluation = evaluation
        self.verdict = verdict
        self.selection = selection
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Put the proposal on record, with the numbers people will decide by."""
        from airflow_mlops.core.deployment.registry import Ask

        if self.verdict["status"] == "failed":
            msg = f"refused by the gate: {self.verdict['reason']}"
            raise AirflowSkipException(msg)
        ref = ModelRef.parse(self.evaluation["model"])
        decision = self.selection["decision"]
        evidence = {
            "decision": decision,
            "why": self.selection["reason"],
            "verdict": dict(self.verdict),
            "evaluation": dict(self.evaluation),
        }
        key = f"propose:{decision}:{ref.version}"
        state = self.ledger().state(self.model)
        if state.challenger == ref.version and state.of(key) is None:
            msg = f"{ref} waits for its approval already: this decision led to the same recipe"
            raise AirflowSkipException(msg)
        ask = Ask(key, task_of(context), self.verdict["reason"], evidence)
        entry = self.registry().propose(ref, ask, epoch=self.selection["epoch"], order=decision)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"proposal": entry.seq, "model": str(ref)}
        self.urls = {ModelVersionLink.name: MlflowHook(self.mlflow_conn_id).model_url(ref)}
        self.log.info("%s proposed as entry %d: %s", ref, entry.seq, entry.reason)
        return {"proposal": entry.seq, "model": str(ref)}


class SmokeTestModelOperator(MlopsOperator):
    """
    Load the proposed candidate from its stored files, let it answer, and write its card.

    Fails if it builds other features, or gives other answers, than when it was trained.

    The proposal is the one whose event started this run, else the newest on record. Returns the
    card as Markdown, and what an approval is bound to.

    :param data: name of the dataset whose newest rows are tried (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "data")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(self, *, data: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Verify the files, predict the newest window, and describe what is proposed.

        :raises RejectedError: if it builds other features here, or gives other answers.
        """
        from airflow_mlops.core.deployment.contracts import contract_against
        from airflow_mlops.core.errors import ConfigurationError
        from airflow_mlops.core.evaluation.offline import predictions, usable_rows
        from airflow_mlops.core.training.agreement import check_answers

        state = self.ledger().state(self.model)
        number = newest_event(context, "proposal")
        proposal = self.entry(number) if number else state.last("propose")
        if proposal is None or proposal.version is None:
            msg = f"no candidate of {self.model} was proposed yet"
            raise ConfigurationError(msg)
        if state.challenger != proposal.version:
            msg = f"{self.model}@{proposal.version} was settled or superseded meanwhile"
            raise AirflowSkipException(msg)
        ref, hook = ModelRef(self.model, proposal.version), MlflowHook(self.mlflow_conn_id)
        store = self.datasets()
        newest = store.latest(self.data)
        if newest is None:
            msg = f"no dataset {self.data!r} to try {ref} on"
            raise ConfigurationError(msg)
        table = store.open(newest)
        rows = table.between(datetime.fromisoformat(table.windows()[-1].start)).to_arrow()
        with hook.models().opened(ref) as model:
            rows = rows.filter(usable_rows(model, rows, table.key))
            found = predictions(model, rows.to_pandas(), ref)
            self._refuse_changed(ref, check_answers(store, model))
            before = None if state.champion is None else ModelRef(self.model, state.champion)
            contract = list(contract_against(hook.models(), before, model.about))
        self.urls = {ModelVersionLink.name: hook.model_url(ref)}
        self.log.info("%s answers %d rows of %s", ref, len(found), newest)
        return {
            "proposal": proposal.seq,
            "model": str(ref),
            "champion": state.champion,
            "contract": contract,
            "card": card(
                ref, state.champion, proposal.evidence, hook.model_url(ref), contract=contract
            ),
        }

    def _refuse_changed(self, ref: ModelRef, checks: Sequence["ServingCheck"]) -> None:
        """Let nobody approve a model that is another one here than where it was trained."""
        for check in checks:
            self.log.info("%s", check)
        failed = [f"{check.name}: {check.found}" for check in checks if check.status == "failed"]
        if failed:
            msg = (
                f"{ref} is not here what it was in training: {'; '.join(failed)}. Mend that and "
                "clear this task, or train again: airflow mlops retrain"
            )
            raise RejectedError(msg)


class PromoteModelOperator(MlopsOperator):
    """
    Do what the approver said: promote, reject, or ask for a retrain with changes.

    Skipped if a person answered otherwise; fails if nobody answered, so that people are told. Its
    outlet is the asset of the champion.

    :param smoke: what ``SmokeTestModelOperator`` returned (templated).
    :param answer: what ``ApproveModelOperator`` returned (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "smoke", "answer")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(self, *, smoke: Xcom, answer: Xcom, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.smoke = smoke
        self.answer = answer
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Decide in the ledger, then write the aliases.

        :raises RejectedError: if the candidate was superseded, or its files were changed.
        """
        from airflow_mlops.core.deployment.registry import Ask

        proposal = self.entry(self.smoke["proposal"])
        ref, choice = ModelRef.parse(self.smoke["model"]), self.answer["choice"]
        note = self.answer["note"] or f"answered {choice}"
        evidence = {
            "proposal": proposal.seq,
            "decision": proposal.evidence["decision"],
            "answer": dict(self.answer),
            "verdict": proposal.evidence["verdict"],
            "contract": self.smoke.get("contract", []),
        }
        ask = Ask(f"answer:{proposal.seq}", self.answer["by"], note, evidence)
        registry = self.registry()
        self.urls = {ModelVersionLink.name: MlflowHook(self.mlflow_conn_id).model_url(ref)}
        if choice != "promote":
            registry.refuse(ref, ask, op="reject")
            if choice == "retrain":
                _ask_again(registry.ledger, self.model, ask)
            msg = f"{ref} was not promoted: {self.answer['by']} answered {choice}: {note}"
            if self.answer["by"] == NOBODY:
                raise RejectedError(msg)  # fails the task, so that people are told
            raise AirflowSkipException(msg)
        entry = registry.promote(ref, ask, epoch=proposal.epoch, order=proposal.order)
        if registry.champion(self.model) != ref:
            msg = f"{ref} was promoted by entry {entry.seq}, and is champion no more"
            raise AirflowSkipException(msg)
        self._write_cards(registry, ref)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"model": str(ref), "entry": entry.seq}
        self.log.info("%s is champion (entry %d), approved by %s", ref, entry.seq, entry.by)
        return {"model": str(ref), "entry": entry.seq}

    def _write_cards(self, registry: "ModelRegistry", ref: ModelRef) -> None:
        """Put the cards of model and data beside the model, for everybody to read."""
        from airflow_mlops.core.deployment.cards import data_card, model_card, to_html
        from airflow_mlops.core.deployment.lineage import lineage

        datasets = self.datasets()
        found = lineage(registry, datasets, self.observations(), ref)
        cards = {"card": model_card(found)}
        if found.data is not None:
            table = datasets.open(DatasetRef.parse(found.recipe["data"]))
            cards["data-card"] = data_card(table)
        for name, text in cards.items():
            registry.models.log_document(found.run_id, f"{name}.md", text)
            registry.models.log_document(found.run_id, f"{name}.html", to_html(text))


class RollbackModelOperator(MlopsOperator):
    """
    Return to an earlier champion, after looking whether it can serve.

    :param reason: why; it is put on record (templated).
    :param to: version to return to, or a moment such as ``"2026-05-01"``: whoever was champion
        then, by the clock of the data; none: the previous champion (templated).
    :param force: go back although a check failed.
    """

    template_fields = (*MlopsOperator.template_fields, "reason", "to")

    def __init__(
        self, *, reason: str, to: int | str | None = None, force: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.reason = reason
        self.to = to
        self.force = force

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, decide in the ledger, then write the aliases."""
        from airflow_mlops.core.deployment.registry import Ask
        from airflow_mlops.core.deployment.rollback import parse_target, roll_back

        ask = Ask(f"rollback:{task_of(context)}", task_of(context), self.reason, {})
        to = parse_target(None if self.to in (None, "None") else str(self.to))
        stores = self.registry(), self.datasets()
        entry = roll_back(*stores, self.model, ask, to=to, force=self.force)
        self.log.info("%s@%s is champion again (entry %d)", self.model, entry.version, entry.seq)
        return {"model": f"{self.model}@{entry.version}", "entry": entry.seq}


class ScoreBatchOperator(MlopsOperator):
    """
    Score the new rows with the champion; skipped while there is none.

    :param snapshot: what ``SnapshotTableOperator`` returned (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(self, *, snapshot: Xcom, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Predict, and write one row per key; rows that break the contract go to quarantine."""
        from airflow_mlops.core.deployment.scoring import score

        ref = self.champion_of(self.ledger().state(self.model))
        version = DatasetRef.parse(self.snapshot["ref"])
        table, hook = self.datasets().open(version), MlflowHook(self.mlflow_conn_id)
        done = score(
            hook.models(),
            self.observations(),
            ref,
            table.between(datetime.fromisoformat(self.snapshot["since"])),
            dataset=str(version),
            time=table.time,
            key=table.key,
            run=run_of(context),
        )
        self.urls = {ModelVersionLink.name: hook.model_url(ref)}
        self.processed = done.rows
        self.log.info("%s: %d new predictions for %d rows", ref, done.written, done.rows)
        return done.to_dict()


class CollectGarbageOperator(MlopsOperator):
    """
    Remove versions of a model that never served, and rows that nothing needs, when they are old.

    What ever was champion stays for ever, with the rows it learnt from; so do tagged versions.
    Returns what went and what is pinned by what.

    :param older: age from which something may go, such as ``"90d"`` (templated).
    :param apply: remove it; else it is only looked at.
    """

    template_fields = (*MlopsOperator.template_fields, "older")

    def __init__(self, *, older: str = "90d", apply: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.older = older
        self.apply = apply

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, and remove if that was asked for."""
        from airflow_mlops.core.deployment.garbage import collect_garbage, find_garbage

        asked: dict[str, Any] = {"model": self.model, "older": duration(self.older)}
        stores = self.registry(), self.datasets()
        if self.apply:
            found = collect_garbage(*stores, by=run_of(context), **asked)
        else:
            found = find_garbage(*stores, **asked)
        self.log.info("%s\n%s", "removed" if self.apply else "only looked at", found)
        return found.to_dict() | {"applied": self.apply}


def card(
    ref: ModelRef,
    champion: int | None,
    evidence: Mapping[str, Any],
    url: str,
    *,
    contract: Sequence[str] = (),
) -> str:
    """
    Describe a candidate in Markdown: what it is, what it was measured to do, what is uncertain.

    :param evidence: of the ledger's proposal.
    :param contract: what it asks of the rows that the champion does not, in words.
    """
    found, verdict = evidence["evaluation"], evidence["verdict"]
    against = f"{ref.name}@{champion}" if champion is not None else "no champion yet"
    lines = [
        f"**{ref}** against **{against}** ([in MLflow]({url}))",
        "",
        f"Why it was trained: {evidence['why']}",
        "",
        f"Judged on rows from {found['since']} to {found['until']}, which it has not seen. "
        f"{found['note']}",
        "",
        *(f"* Contract: {change}" for change in contract),
        *([""] if contract else []),
        "| condition | result | numbers |",
        "| --- | --- | --- |",
        *(f"| {c['gate']} | {c['status']} | {c['reason']} |" for c in verdict["checks"]),
        "",
        "| metric | value | 95 % interval |",
        "| --- | --- | --- |",
        *(
            f"| {m['metric']} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
            for m in found["metrics"]
        ),
    ]
    return "\n".join(lines)


def _ask_again(ledger: Any, model: str, ask: Any) -> None:
    """Put the approver's wish for another model on record; the next decision answers it."""
    from airflow_mlops.core.ledger import Entry

    params = ask.evidence["answer"].get("params") or {}
    draft = Entry(model, "request", "", ask.by, ask.reason, evidence={"params": params})
    ledger.record(model, f"{ask.key}:request", {"op": "request"}, lambda _: draft)
