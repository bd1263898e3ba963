"""Decisions killed between any two writes: one entry, and aliases that agree, after a retry."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.monitoring.served import ServedWindow
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout import Split
from airflow_mlops.core.rollout.exposures import Exposures
from tests.conftest import MONDAY, WEEK
from tests.faults.truth import settled

pytestmark = pytest.mark.services

BAD = """
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed, **params):
        return LogisticRegression(random_state=seed, **params).fit(X, 1 - y)
"""


@pytest.fixture
def facts(services, model):
    return {
        "mlflow": services.urls["mlflow"],
        "dsn": services.dsn("mlops", user="mlops_task"),
        "ref": f"{model}@1",
    }


@pytest.fixture
def every_step(nursery, registry, model):
    """
    ``every_step(scenario, prepare, ops)``: kill it before its first write, then after each.

    Tried again it gives an answer, and the same once more; ``ops`` are the entries of all three.
    Yields each answer; ``at_least`` so many writes there are. What moves no alias leaves the anchor
    to the next tick.
    """

    def run(scenario, prepare, ops, *, at_least, follows=True):
        number = 0
        while True:
            facts = prepare(number)
            before = len(registry.ledger.state(model).entries)
            die = f"write:after:{number}" if number else "write:before:1"
            (ended,) = nursery.run({"scenario": scenario, "facts": facts, "die": die})
            if ended["signal"] == 0:
                assert (ended["code"], number > at_least) == (0, True), (ended, number)
                return
            assert ended["signal"] == 9
            found = nursery.succeed(scenario, facts)
            if not follows:
                assert registry.reconcile(model) == ()
            assert settled(registry, model).ops[before:] == ops, f"killed at {die}"
            assert nursery.succeed(scenario, facts) == found
            assert settled(registry, model).ops[before:] == ops
            yield found
            number += 1

    return run


@pytest.fixture
def prepared(registry, make_version, ask, facts, model):
    """``prepared(op)``: a champion and one before it, and a candidate, for a decision."""
    for number in range(2):
        registry.promote(make_version(), ask(f"first {number}"), epoch=None, order=None)

    def make(op):
        def prepare(number):
            state, ref = registry.ledger.state(model), make_version()
            key, claim = f"{op}:{number}", {"epoch": state.epoch, "order": 10 + number}
            if op == "refuse":
                registry.propose(ref, ask(f"p:{number}"), **claim)
            if op == "rollback" and state.previous is None:
                registry.promote(ref, ask(f"again:{number}"), epoch=None, order=None)
            return {**facts, "op": op, "ref": str(ref), "key": key, **claim}

        return prepare

    return make


@pytest.mark.parametrize(("op", "writes"), [("promote", 5), ("rollback", 4), ("refuse", 4)])
def test_a_decision_killed_at_any_write_is_one_entry(every_step, prepared, op, writes):
    found = list(every_step("promote", prepared(op), [op], at_least=writes))
    assert {one["op"] for one in found} == {op}


@pytest.mark.parametrize(
    ("policy", "op", "writes"), [("restore", "observe", 4), ("adopt", "adopt", 4)]
)
def test_a_move_by_hand_is_answered_once_whenever_the_answer_is_killed(
    every_step, prepared, registry, make_version, facts, model, policy, op, writes
):
    prepared("promote")
    moved = []

    def prepare(_):
        moved.append(make_version().version)
        client = registry.models.client
        client.set_registered_model_alias(model, "champion", str(moved[-1]))
        return {**facts, "op": "reconcile", "moved_alias": policy}

    list(every_step("promote", prepare, [op], at_least=writes))
    assert registry.champion(model).version == (moved[-1] if policy == "adopt" else 2)


def test_a_vote_killed_at_any_write_is_one_vote(every_step, prepared, registry, ask, facts, model):
    prepared("promote")
    ref = ModelRef(model, 1)
    proposal = registry.propose(ref, ask("p", decision=1), epoch=2, order=1)
    voters = iter(["ann", "bob", "carl"])

    def prepare(_):
        return {**facts, "proposal": proposal.to_dict(), "who": next(voters)}

    found = every_step("vote", prepare, ["vote"], at_least=1, follows=False)
    assert list(found) == [["ann"], ["ann", "bob"]]


@pytest.fixture
def rolling(registry, make_version, observations, ask, facts, model):
    """``rolling(failed)``: a candidate whose canary has run, its entities met it."""
    registry.promote(make_version(), ask("first"), epoch=None, order=None)
    start = datetime(2026, 3, 2, tzinfo=UTC)

    def make(nursery, number, *, begun=True, failed=False):
        ask_it = ask(f"p:{number}", decision=number)
        epoch = registry.ledger.state(model).epoch
        proposal = registry.propose(make_version(), ask_it, epoch=epoch, order=number)
        given = {**facts, "proposal": proposal.to_dict(), "now": start.isoformat()}
        if not begun:
            return given
        assert nursery.succeed("stage", given) == ["running", "continue"]
        arms = ["champion", "candidate"] * 150
        met = pa.table(
            {
                "key": [str(i) for i in range(300)],
                "entity": [str(i) for i in range(300)],
                "arm": arms,
                "exposed_at": pa.array([start] * 300, pa.timestamp("us", "UTC")),
                "failed": [failed and arm == "candidate" for arm in arms],
            }
        )
        split = Split.of(registry.ledger.standing(model))
        assert Exposures(observations).write(split, met) == 300
        return {**given, "now": (start + timedelta(days=2)).isoformat()}

    return make


def test_a_stage_killed_at_any_write_begins_once(nursery, every_step, rolling):
    def prepare(number):
        return rolling(nursery, number, begun=False)

    found = every_step("stage", prepare, ["stage"], at_least=1, follows=False)
    assert list(found) == [["running", "continue"]] * 2


@pytest.mark.parametrize(
    ("failed", "ops", "answer", "writes"),
    [
        (False, ["stage"], ["passed", "held"], 1),
        (True, ["stage", "refuse"], ["stopped", "failures"], 5),
    ],
    ids=["passed", "stopped"],
)
def test_a_stage_killed_at_any_write_ends_once(
    nursery, every_step, rolling, failed, ops, answer, writes
):
    def prepare(number):
        return rolling(nursery, number, failed=failed)

    follows = "refuse" in ops
    for found in every_step("stage", prepare, ops, at_least=writes, follows=follows):
        assert found == answer


def test_a_rollback_of_the_guard_killed_at_any_write_is_one_entry(
    every_step, registry, trained_champions, observations, dataset_store, facts,
    ask, tmp_path, model,
):  # fmt: skip
    (good,) = trained_champions(1)
    (bad,) = trained_champions(1, train=BAD, params={"C": 2.0})
    assert bad.version == 2
    span = (MONDAY + 7 * WEEK).isoformat(), (MONDAY + 8 * WEEK).isoformat()
    window = ServedWindow(model, 7, *span, "brier", 168, (0.9,) * 14, ())
    observations.record(model, "performance", f"{bad}:7", window.to_dict())

    def prepare(number):
        if registry.champion(model) == good:
            registry.promote(bad, ask(f"again {number}"), epoch=None, order=None)
        return {
            **facts,
            "root": dataset_store.root,
            "code": str(tmp_path / "user_code"),
            "data": f"{model}@1",
            "labels": f"{model}.labels@1",
            "by": f"run {number}",
        }

    for found in every_step("guard", prepare, ["rollback"], at_least=4):
        assert (found["status"], found["line"].split(":")[0]) == (
            "broken",
            f"rolled back to {good}",
        )
        assert found["comparison"]["difference"] < 0
