"""Promotions that are killed or race: one entry, one champion, aliases as the ledger has them."""

import pytest

from airflow_mlops.core.deployment.registry import ANCHOR

pytestmark = pytest.mark.services


@pytest.fixture
def facts(services, make_version, registry, ask):
    """A champion, and a candidate that was compared with it."""
    first, second = make_version(), make_version()
    registry.promote(first, ask("first"), epoch=None, order=1)
    return {
        "mlflow": services.urls["mlflow"],
        "dsn": services.dsn("mlops", user="mlops_task"),
        "ref": str(second),
        "key": "k",
        "epoch": 1,
        "order": 2,
    }


def settled(registry, model):
    """The state by the ledger, after checking that MLflow says the same."""
    state = registry.ledger.state(model)
    found = registry.models.client.get_registered_model(model)
    assert int(found.aliases["champion"]) == state.champion
    assert found.aliases.get("previous") == (str(state.previous) if state.previous else None)
    assert found.tags[ANCHOR] == "{}:{}".format(*state.head)
    return state


BOUNDARIES = [
    "insert:before",
    "insert:after",
    "set_registered_model_alias:before",
    "set_registered_model_alias:after",
    "set_registered_model_tag:before",
    "set_registered_model_tag:after",
]


@pytest.mark.parametrize("die", BOUNDARIES)
def test_a_promotion_killed_anywhere_is_one_entry_and_one_champion_after_its_retry(
    nursery, facts, registry, model, die
):
    nursery.kill("promote", facts, die)
    recorded = len(registry.ledger.state(model).entries)
    assert recorded == (1 if die == "insert:before" else 2)
    entry = nursery.succeed("promote", facts)
    state = settled(registry, model)
    assert [e.op for e in state.entries] == ["promote", "promote"]
    assert (entry["version"], entry["seq"], state.champion) == (2, 2, 2)
    assert nursery.succeed("promote", facts) == entry


@pytest.mark.parametrize("die", ["insert:after", "set_registered_model_alias:after"])
def test_a_reconciliation_finishes_what_was_killed(nursery, facts, registry, model, die):
    nursery.kill("promote", facts, die)
    registry.reconcile(model)
    assert settled(registry, model).champion == 2


@pytest.mark.parametrize(
    "die", ["insert:before", "insert:after", "set_registered_model_alias:after"]
)
def test_a_rollback_killed_anywhere_is_one_entry_after_its_retry(
    nursery, facts, registry, model, die
):
    nursery.succeed("promote", facts)
    back = {**facts, "rollback": True, "key": "back"}
    nursery.kill("promote", back, die)
    nursery.succeed("promote", back)
    state = settled(registry, model)
    assert [e.op for e in state.entries] == ["promote", "promote", "rollback"]
    assert state.champion == 1


def test_two_candidates_promoted_at_once_leave_one_champion_and_one_refusal(
    nursery, facts, registry, make_version, model, tmp_path
):
    other = {**facts, "ref": str(make_version()), "key": "k3", "order": 3}
    (tmp_path / "met").mkdir()
    meet = {"meet": "insert", "place": str(tmp_path / "met"), "number": 2}
    ended = nursery.run(*({"scenario": "promote", "facts": f, **meet} for f in (facts, other)))
    assert [e["code"] for e in ended] == [0, 0]
    assert sorted(e["found"]["op"] for e in ended) == ["ConcurrentPromotionError", "promote"]
    state = settled(registry, model)
    assert sorted(e.op for e in state.entries[1:]) == ["promote", "refuse"]
    won = next(e["found"] for e in ended if e["found"]["op"] == "promote")
    assert state.champion == won["version"]


def test_one_promotion_asked_twice_at_once_is_one_entry(nursery, facts, registry, model, tmp_path):
    (tmp_path / "met").mkdir()
    meet = {"meet": "insert", "place": str(tmp_path / "met"), "number": 2}
    order = {"scenario": "promote", "facts": facts, **meet}
    one, two = nursery.run(order, order)
    assert one["found"] == two["found"]
    assert [e.op for e in settled(registry, model).entries] == ["promote", "promote"]
