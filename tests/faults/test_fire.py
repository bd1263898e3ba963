"""Eight processes that decide at once: no wrong champion, and no decision lost."""

from collections import Counter

import pytest

from airflow_mlops.core.deployment.aliases import WRITING
from tests.faults.truth import settled, truth

pytestmark = pytest.mark.services

PROCESSES = 8


def at_once(nursery, scenario, facts, **more):
    orders = [
        {"scenario": scenario, "facts": {**facts, "seed": seed}, **more.get(f"p{seed}", {})}
        for seed in range(PROCESSES)
    ]
    return orders, nursery.run(*orders)


def check_acknowledged(said, truths):
    """Every answer that a process got is on record as it was given, exactly once."""
    for model, key, *answer in said:
        (entry,) = [e for e in truths[model].entries if e["key"] == key]
        names = ("seq", "op", "version") if len(answer) == 4 else ("op", "version")
        assert [entry[name] for name in names] == answer[: len(names)], key


@pytest.mark.parametrize("number", [1, 3], ids=["one model", "three models"])
def test_a_thousand_decisions_at_once_are_all_on_record_in_one_order(
    services, nursery, ledger, model, number
):
    names = [f"{model}_{i}" for i in range(number)]
    decisions = 125 if number == 1 else 20
    dsn = services.dsn("mlops", user="mlops_task")
    facts = {"dsn": dsn, "models": names, "decisions": decisions}
    _, ended = at_once(nursery, "storm", facts)
    assert [e["code"] for e in ended] == [0] * PROCESSES
    truths = {name: truth(dsn, name) for name in names}
    assert sum(len(t.entries) for t in truths.values()) == PROCESSES * decisions
    said = [one for e in ended for one in e["found"]]
    assert len(said) > PROCESSES * decisions  # some were asked again
    check_acknowledged(said, truths)
    for name, found in truths.items():
        state = ledger.state(name)
        assert (state.champion, state.epoch) == (found.champion, found.epoch)
        assert state.head == (len(found.entries), found.hash)
        assert ledger.standing(name).champion == found.champion
        assert {"promote", "rollback", "refuse", "vote"} <= Counter(found.ops).keys()


def test_who_is_killed_in_the_storm_and_starts_again_decides_nothing_twice(
    services, nursery, model
):
    dsn = services.dsn("mlops", user="mlops_task")
    facts = {"dsn": dsn, "models": [model], "decisions": 20}
    dying = {f"p{s}": {"die": f"write:{w}:{n}"} for s, w, n in ((2, "after", 7), (5, "before", 9))}
    orders, ended = at_once(nursery, "storm", facts, **dying)
    assert [e["signal"] for e in ended] == [0, 0, 9, 0, 0, 9, 0, 0]
    again = [nursery.succeed("storm", orders[s]["facts"]) for s in (2, 5)]
    found = truth(dsn, model)
    assert len(found.entries) == PROCESSES * 20
    said = [one for e in ended if e["found"] for one in e["found"]]
    check_acknowledged([*said, *(one for a in again for one in a)], {model: found})


def test_full_promotions_at_once_leave_the_aliases_where_the_ledger_is(
    services, nursery, registry, make_version, model
):
    refs = [str(make_version()) for _ in range(8)]
    dsn = services.dsn("mlops", user="mlops_task")
    facts = {"mlflow": services.urls["mlflow"], "dsn": dsn, "refs": refs, "decisions": 8}
    _, ended = at_once(nursery, "bustle", facts)
    assert [e["code"] for e in ended] == [0] * PROCESSES
    found = settled(registry, model)
    said = [one for e in ended for one in e["found"]]
    check_acknowledged(said, {model: found})
    assert len(found.entries) == len(said)
    assert {"promote", "rollback", "refuse", "propose"} <= set(found.ops)
    assert "observe" not in found.ops  # nobody takes a late writer for a hand
    tags = registry.models.client.get_registered_model(model).tags
    assert not [name for name in tags if name.startswith(WRITING)]
