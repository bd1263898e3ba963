"""Promotions that race, or that nobody tries again: aliases as the ledger has them."""

import pytest

from tests.faults.truth import settled

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


@pytest.mark.parametrize("die", ["insert:after", "set_registered_model_alias:after"])
def test_a_reconciliation_finishes_what_was_killed(nursery, facts, registry, model, die):
    nursery.kill("promote", facts, die)
    registry.reconcile(model)
    assert settled(registry, model).champion == 2


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
    assert sorted(state.ops[1:]) == ["promote", "refuse"]
    won = next(e["found"] for e in ended if e["found"]["op"] == "promote")
    assert state.champion == won["version"]


def test_one_promotion_asked_twice_at_once_is_one_entry(nursery, facts, registry, model, tmp_path):
    (tmp_path / "met").mkdir()
    meet = {"meet": "insert", "place": str(tmp_path / "met"), "number": 2}
    order = {"scenario": "promote", "facts": facts, **meet}
    one, two = nursery.run(order, order)
    assert one["found"] == two["found"]
    assert settled(registry, model).ops == ["promote", "promote"]
