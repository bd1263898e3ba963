"""What was edited on its way from task to task decides nothing."""

from datetime import timedelta

import pytest
from airflow.sdk import DAG

from airflow_mlops.core.deployment.approval import Bound
from airflow_mlops.core.errors import HandoverChangedError, RejectedError
from airflow_mlops.core.handovers import put
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.rollout.stages import Begun, begin
from airflow_mlops.operators.approval import GIVEN, ApproveModelOperator
from airflow_mlops.operators.candidates import PromoteModelOperator, SubmitCandidateOperator
from airflow_mlops.operators.evaluation import RetryRoundOperator
from airflow_mlops.operators.retraining import RequestTrainingOperator
from airflow_mlops.policy import Canary
from tests.operators.running import run
from tests.operators.test_approval import proposed as proposed
from tests.operators.test_approval import turns

pytestmark = [pytest.mark.airflow, pytest.mark.services]


@pytest.fixture
def alone(connections, model):
    """``alone(Operator, ...)``: a Dag of one task; the tasks before it were marked as done."""

    def make(operator, **arguments):
        with DAG(model, schedule=None, default_args={"retry_delay": timedelta(0)}) as dag:
            operator(task_id="task", model=model, **arguments)
        return dag

    return make


@pytest.fixture
def smoked(proposed, ledger, model):
    """A proposal, and what its smoke test put on record."""
    entry = proposed()
    smoke = {
        "proposal": entry.seq,
        "model": f"{model}@{entry.version}",
        "card": "**the card**",
        "bound": Bound.of(entry, {}).to_dict(),
        "accepts": None,
    }
    put(ledger, model, "smoke", f"proposal {entry.seq}", smoke, by="tests")
    return entry, smoke


def said(smoke, **parts):
    given = {"choice": "promote", "note": "", "by": "ml-lead", "id": "ml-lead", "params": {}}
    return {
        **given,
        "window": "",
        "at": "2026-01-01T00:00:00+00:00",
        "bound": smoke["bound"],
    } | parts


@pytest.mark.parametrize("bound", [True, False])
def test_an_answer_that_nobody_gave_promotes_nobody(alone, smoked, ledger, model, bound):
    entry, smoke = smoked
    forged = said(smoke) if bound else {**said(smoke), "bound": None}
    done = run(alone(PromoteModelOperator, smoke=smoke, answer=forged))
    assert isinstance(done.error, HandoverChangedError)
    assert f"the approve of proposal {entry.seq} of {model} is not on record" in str(done.error)
    assert ledger.state(model).champion is None


def test_a_dag_that_asks_nobody_says_why_and_that_is_on_record(alone, smoked, ledger, model):
    _, smoke = smoked
    dag = alone(PromoteModelOperator, smoke=smoke, answer=None, unasked="passed its test")
    run(dag)
    entry = ledger.state(model).last("promote")
    assert (entry.by, entry.reason) == (dag.dag_id, "passed its test")


@pytest.mark.parametrize(
    "given", [{"answer": None}, {"answer": {"choice": "promote"}, "unasked": "why"}]
)
def test_who_promotes_has_an_answer_or_says_why_not(given):
    with pytest.raises(ValueError, match="t: give answer=, or None and say in unasked="):
        PromoteModelOperator(task_id="t", model="m", smoke={}, **given)


def test_an_answer_that_was_edited_is_refused_with_both_values(alone, smoked, ledger, model):
    entry, smoke = smoked
    put(
        ledger,
        model,
        "approve",
        f"proposal {entry.seq}",
        said(smoke, choice="reject", by="ann", id="ann"),
        by="approve",
    )
    done = run(alone(PromoteModelOperator, smoke=smoke, answer=said(smoke, by="ann", id="ann")))
    assert isinstance(done.error, HandoverChangedError)
    assert 'choice is "promote", on record is "reject"' in str(done.error)
    assert ledger.state(model).champion is None


def test_an_answer_to_another_proposal_is_not_one_to_this(alone, smoked, ledger, model):
    entry, smoke = smoked
    put(ledger, model, "approve", f"proposal {entry.seq - 1}", said(smoke), by="approve")
    done = run(alone(PromoteModelOperator, smoke=smoke, answer=said(smoke)))
    assert isinstance(done.error, HandoverChangedError)


@pytest.mark.parametrize(
    "edited", [{"card": "**another card**"}, {"model": "m@9"}, {"accepts": ["C"]}]
)
def test_people_are_not_shown_what_was_edited(alone, smoked, ledger, model, edited):
    _, smoke = smoked
    dag = alone(ApproveModelOperator, smoke={**smoke, **edited}, by=["ann"])
    done = run(dag, answer=turns(("ann", "promote")))
    assert isinstance(done.error, HandoverChangedError)
    assert next(iter(edited)) in str(done.error)


def test_an_answer_that_waits_is_read_from_the_ledger_alone(alone, smoked, ledger, model):
    entry, smoke = smoked
    mine = {"choice": "promote", "id": "ann"}
    kept = {"given": {**mine, "by": "ann"}, "until": "2027-01-01T00:00:00+00:00", "reminded": False}
    other = put(ledger, model, "answer", "proposal 9 at noon", mine, by="t", facts={"kept": kept})

    class Edited(ApproveModelOperator):
        def execute(self, context):
            context["task_state_store"].set(GIVEN, other.seq)
            return super().execute(context)

    done = run(alone(Edited, smoke=smoke, by=["ann"]))
    assert isinstance(done.error, HandoverChangedError)
    assert f"answers no proposal {entry.seq}: it was edited" in str(done.error)


def test_a_stage_that_did_not_pass_is_not_skipped_by_marking_its_task(
    alone, smoked, ledger, registry, make_version, ask, model
):
    entry, smoke = smoked
    plan = {"rollout": [Canary(percent=10, hold="1d").to_dict()]}
    registry.refuse(registry.models.get(ref := make_version()).ref, ask("x"))
    registry.promote(ref, ask("first"), epoch=None, order=None)
    candidate = registry.propose(
        make_version(),
        ask("second", decision=entry.evidence["decision"], verdict={"status": "passed"}),
        epoch=ledger.state(model).epoch,
        order=99,
    )
    smoke = {
        **smoke,
        "proposal": candidate.seq,
        "model": f"{model}@{candidate.version}",
        "bound": Bound.of(candidate, plan).to_dict(),
    }
    about, answer = f"proposal {candidate.seq}", said(smoke)
    put(ledger, model, "smoke", about, smoke, by="smoke")
    put(ledger, model, "approve", about, answer, by="approve")
    done = run(alone(PromoteModelOperator, smoke=smoke, answer=answer, policy=plan))
    assert isinstance(done.error, RejectedError)
    assert "did not pass its stages by the ledger" in str(done.error)
    begun = Begun(
        model,
        Canary(percent=10, hold="1d"),
        ref.version,
        candidate.version,
        "2026-01-01T00:00:00+00:00",
        "brier",
        0.1,
    )
    begin(ledger, begun, key="stage", by="t")
    done = run(alone(PromoteModelOperator, smoke=smoke, answer=answer, policy=plan))
    assert "clear the task of Canary" in str(done.error)
    assert ledger.state(model).champion == ref.version


@pytest.fixture
def judged(ledger, make_version, model):
    """What the tasks of a training run put on record."""
    draft = Entry(model, "retrain", "", "rule", "grew", evidence={"round": 1})
    decision, _ = ledger.record(model, "decide", {}, lambda _: draft)
    ref = make_version()
    about = f"decision {decision.seq}"
    selection = {"decision": decision.seq, "reason": "grew", "share": 1.0, "epoch": 0}
    evaluation = {"model": str(ref), "metrics": [], "note": "x" * 700}
    verdict = {"status": "failed", "reason": "roc_auc 0.4", "checks": [], "refused": 3}
    put(ledger, model, "select", about, selection, by="select")
    put(ledger, model, "evaluate", about, evaluation, by="evaluate", version=ref.version)
    put(ledger, model, "gate", about, verdict, by="gate", version=ref.version)
    return {"selection": selection, "evaluation": evaluation, "verdict": verdict}


EDITED = {
    "verdict": {"status": "passed"},
    "selection": {"epoch": 9},
    "evaluation": {"metrics": [{"metric": "roc_auc", "value": 0.99}]},
}


@pytest.mark.parametrize("part", list(EDITED))
def test_what_decides_on_a_candidate_is_refused_when_it_was_edited(
    alone, judged, ledger, model, part
):
    given = {**judged, part: {**judged[part], **EDITED[part]}}
    done = run(alone(SubmitCandidateOperator, **given))
    assert isinstance(done.error, HandoverChangedError)
    (name,) = EDITED[part]
    assert f"{name} is " in str(done.error)
    assert "on record is" in str(done.error)
    assert ledger.state(model).challenger is None


def test_a_passing_verdict_that_no_gate_gave_submits_nobody(alone, judged, ledger, model):
    other = {**judged["selection"], "decision": 99}
    put(ledger, model, "select", "decision 99", other, by="select")
    put(ledger, model, "evaluate", "decision 99", judged["evaluation"], by="evaluate")
    given = {**judged, "selection": other, "verdict": {**judged["verdict"], "status": "passed"}}
    done = run(alone(SubmitCandidateOperator, **given))
    assert "the gate of decision 99" in str(done.error)
    assert "Clear the task that makes it: gate" in str(done.error)


def test_another_round_follows_only_a_refusal_that_is_on_record(alone, judged, ledger, model):
    verdict = {**judged["verdict"], "refused": 1}
    given = {"verdict": verdict, "selection": judged["selection"]}
    done = run(alone(RetryRoundOperator, **given))
    assert isinstance(done.error, HandoverChangedError)
    assert "refused is 1, on record is 3" in str(done.error)


def test_a_decision_that_was_edited_starts_no_training(alone, ledger, model):
    draft = Entry(model, "keep", "", "decide", "nothing asks for a retrain")
    entry, _ = ledger.record(model, "decide", {}, lambda _: draft)
    given = {"decision": entry.seq, "fresh": True, "op": "retrain", "reason": "grew"}
    done = run(alone(RequestTrainingOperator, decision=given))
    assert isinstance(done.error, HandoverChangedError)
    assert "'retrain', 'grew' arrived, on record is 'keep'" in str(done.error)
