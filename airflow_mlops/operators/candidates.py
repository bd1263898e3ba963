"""Operators for candidates: submit, smoke test, promote or turn down."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.errors import (
    HandoverChangedError,
    ModelChangedError,
    RejectedError,
)
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import (
    MlopsOperator,
    Xcom,
    about_decision,
    about_proposal,
    newest_event,
    task_of,
)
from airflow_mlops.operators.links import ModelVersionLink

if TYPE_CHECKING:
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.tables import Table
    from airflow_mlops.core.deployment.approval import Answer
    from airflow_mlops.core.deployment.registry import Ask, ModelRegistry
    from airflow_mlops.core.entries import Entry, State
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
        from airflow_mlops.core.evaluation.evaluation import on_record

        ref = self._judged()
        if self.verdict["status"] == "failed":
            msg = f"refused by the gate: {self.verdict['reason']}"
            raise AirflowSkipException(msg)
        decision = self.selection["decision"]
        evidence = {
            "decision": decision,
            "why": self.selection["reason"],
            "verdict": dict(self.verdict),
            "evaluation": on_record(self.evaluation),
        }
        key = f"propose:{decision}:{ref.version}"
        state = self.ledger().standing(self.model, key)
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

    def _judged(self) -> ModelRef:
        """Name the version that was judged; anything that was edited on its way is refused."""
        about, ref = about_decision(self.selection), ModelRef.parse(self.evaluation["model"])
        self.selected(self.selection)
        self.handed("evaluate", about, self.evaluation)
        judged = self.handed("gate", about, self.verdict)
        if judged.version != ref.version:
            msg = f"the gate judged {self.model}@{judged.version}, and {ref} is to be submitted"
            raise HandoverChangedError(msg)
        return ref


class SmokeTestModelOperator(MlopsOperator):
    """
    Load the proposed candidate from its stored files, let it answer, and write its card.

    Fails if it builds other features, or gives other answers, than when it was trained.

    The proposal is the one whose event started this run, else the newest on record. Returns the
    card as Markdown, and what an approval is bound to.

    :param data: name of the dataset whose newest rows are tried (templated).
    :param policy: what it is judged, approved and rolled out by, as plain JSON types: an answer is
        bound to it.
    """

    template_fields = (*MlopsOperator.template_fields, "data")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self, *, data: str, policy: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.policy = policy
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Verify the files, predict the newest window, and describe what is proposed.

        :raises RejectedError: if it builds other features here, or gives other answers.
        """
        from airflow_mlops.core.data.features import CodeArchive
        from airflow_mlops.core.deployment.approval import Bound
        from airflow_mlops.core.deployment.cards import candidate_card
        from airflow_mlops.core.deployment.contracts import contract_against
        from airflow_mlops.core.evaluation.offline import predictions, usable_rows
        from airflow_mlops.core.training.agreement import check_answers

        state = self.ledger().standing(self.model)
        proposal = self._proposed(context, state)
        ref, hook = ModelRef(self.model, proposal.version or 0), MlflowHook(self.mlflow_conn_id)
        store = self.datasets()
        table = self._newest(store, ref)
        rows = table.between(datetime.fromisoformat(table.windows()[-1].start)).to_arrow()
        with self.models().opened(ref) as model:
            rows = rows.filter(usable_rows(model, rows, table.key))
            found = predictions(model, rows.to_pandas(), ref)
            self._refuse_changed(ref, check_answers(store, model))
            before = None if state.champion is None else ModelRef(self.model, state.champion)
            named, contract = (
                list(contract_against(self.models(), before, model.about, named=shown))
                for shown in (True, False)
            )
            train = CodeArchive.open(model.folder / "train", f"train:{model.about['fit']}")
        self.urls = {ModelVersionLink.name: hook.model_url(ref)}
        self.log.info("%s answers %d rows of %s", ref, len(found), table.ref)
        tried = {
            "proposal": proposal.seq,
            "model": str(ref),
            "champion": state.champion,
            "contract": contract,
            "bound": Bound.of(proposal, self.policy or {}).to_dict(),
            "accepts": _changeable(train.accepts),
            "card": candidate_card(
                ref, state.champion, proposal.evidence, hook.model_url(ref), contract=named
            ),
        }
        self.hand_over(context, "smoke", about_proposal(tried), tried, version=ref.version)
        return tried

    def _newest(self, store: "DatasetStore", ref: ModelRef) -> "Table":
        """Open the newest rows."""
        from airflow_mlops.core.errors import ConfigurationError

        newest = store.latest(self.data)
        if newest is None:
            msg = f"no dataset {self.data!r} to try {ref} on"
            raise ConfigurationError(msg)
        return store.open(newest)

    def _proposed(self, context: Context, state: "State") -> "Entry":
        """Return the proposal that waits; one that was settled meanwhile skips the task."""
        from airflow_mlops.core.errors import ConfigurationError

        number = newest_event(context, "proposal")
        proposal = self.entry(number) if number else state.last("propose")
        if proposal is None or proposal.version is None:
            msg = f"no candidate of {self.model} was proposed yet"
            raise ConfigurationError(msg)
        if state.challenger != proposal.version:
            msg = f"{self.model}@{proposal.version} was settled or superseded meanwhile"
            raise AirflowSkipException(msg)
        return proposal

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
    Do what the approvers said: promote, reject, or ask for a retrain with changes.

    Skipped if a person answered otherwise; fails if nobody answered, so that people are told. Its
    outlet is the asset of the champion.

    :param smoke: what ``SmokeTestModelOperator`` returned (templated).
    :param answer: what ``ApproveModelOperator`` returned; ``None``: nobody is asked (templated).
    :param unasked: instead of an answer: why this Dag promotes without asking a person, such as
        ``"passed its A/B test"``. It is on record as said by the Dag.
    :param policy: as for ``SmokeTestModelOperator``: one that changed meanwhile voids the answer;
        ``None``: it is not compared. The stages that it names have to be passed.
    :raises ValueError: if neither an answer nor ``unasked`` is given, or both.
    """

    template_fields = (*MlopsOperator.template_fields, "smoke", "answer")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self,
        *,
        smoke: Xcom,
        answer: Xcom,
        unasked: str = "",
        policy: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (answer is None) is not bool(unasked):
            msg = f"{self.task_id}: give answer=, or None and say in unasked= why nobody is asked"
            raise ValueError(msg)
        self.smoke = smoke
        self.answer = answer
        self.unasked = unasked
        self.policy = policy
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Decide in the ledger, then write the aliases.

        :raises RejectedError: if the candidate was superseded, or is not what people said yes to.
        """
        from airflow_mlops.core.deployment.approval import Answer
        from airflow_mlops.core.deployment.lineage import write_cards
        from airflow_mlops.core.deployment.registry import Ask

        if not self.answer and not self.unasked:
            msg = f"{self.smoke['model']} was not answered: it is no candidate any more"
            raise AirflowSkipException(msg)
        self.handed("smoke", about_proposal(self.smoke), self.smoke)
        self._answered()
        proposal, ref = self.entry(self.smoke["proposal"]), ModelRef.parse(self.smoke["model"])
        said = {k: v for k, v in self.answer.items() if k not in ("bound", "votes")}
        answer = Answer.from_dict(said)
        evidence = {
            "proposal": proposal.seq,
            "decision": proposal.evidence["decision"],
            "answer": dict(self.answer),
            "verdict": proposal.evidence["verdict"],
            "contract": self.smoke.get("contract", []),
        }
        note = answer.note or f"answered {answer.choice}"
        ask = Ask(f"answer:{proposal.seq}", answer.by, note, evidence)
        registry = self.registry()
        self.urls = {ModelVersionLink.name: MlflowHook(self.mlflow_conn_id).model_url(ref)}
        if answer.choice != "promote":
            self._turn_down(registry, proposal, ask, answer)
        entry = self._promoted(context, registry, proposal, ask)
        if registry.champion(self.model) != ref:
            msg = f"{ref} was promoted by entry {entry.seq}, and is champion no more"
            raise AirflowSkipException(msg)
        write_cards(registry, self.datasets(), self.observations(), ref)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"model": str(ref), "entry": entry.seq}
        self.log.info("%s is champion (entry %d), approved by %s", ref, entry.seq, entry.by)
        return {"model": str(ref), "entry": entry.seq}

    def _answered(self) -> None:
        """See that the answer is on record; a Dag that asks nobody gives its own."""
        from airflow_mlops.core.deployment.approval import Answer

        if not self.unasked:
            self.handed("approve", about_proposal(self.smoke), self.answer)
            return
        given = Answer("promote", self.unasked, by=self.dag_id)
        self.answer = given.to_dict() | {"bound": self.smoke["bound"]}

    def _turn_down(
        self, registry: "ModelRegistry", proposal: "Entry", ask: "Ask", answer: "Answer"
    ) -> None:
        """Put it on record, ask for another candidate if that was said, and end the task."""
        from airflow_mlops.core.deployment.approval import NOBODY, send_back

        ref = ModelRef.parse(self.smoke["model"])
        registry.refuse(ref, ask, op="reject")
        if answer.choice == "retrain":
            send_back(registry.ledger, proposal, answer, key=f"{ask.key}:request")
        msg = f"{ref} was not promoted: {answer.by} answered {answer.choice}: {ask.reason}"
        if answer.by == NOBODY:
            raise RejectedError(msg)  # fails the task, so that people are told
        raise AirflowSkipException(msg)

    def _promoted(
        self, context: Context, registry: "ModelRegistry", proposal: "Entry", ask: "Ask"
    ) -> "Entry":
        """Promote what people said yes to; anything else is refused, on record."""
        from airflow_mlops.core.deployment.approval import voided
        from airflow_mlops.core.deployment.registry import Ask
        from airflow_mlops.core.rollout.stages import refuse_unpassed

        ref = ModelRef.parse(self.smoke["model"])
        standing, version = registry.ledger.standing(self.model), proposal.version or 0
        refuse_unpassed((self.policy or {}).get("rollout", []), standing, version)
        moved = voided(self.answer, proposal, self.policy)
        try:
            if moved:
                msg = (
                    f"{ref} is not what {ask.by} said yes to: {moved}. Ask for another candidate: "
                    f"airflow mlops retrain {self.model}"
                )
                raise ModelChangedError(msg)
            facts = {"epoch": proposal.epoch, "order": proposal.order}
            return registry.promote(ref, ask, **facts, waiting=True)
        except ModelChangedError as error:
            key = f"changed:{proposal.seq}"
            registry.refuse(ref, Ask(key, task_of(context), str(error), ask.evidence))
            raise


def _changeable(accepts: Sequence[str] | None) -> list[str] | None:
    """Return which parameters of a training function a person can change; ``None``: any."""
    return None if accepts is None else [name for name in accepts[2:] if name != "seed"]
