"""The example Dags, run for real on the demo's data."""

import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from airflow_mlops.core.ledger import Entry
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dags(monkeypatch) -> dict[str, Any]:
    """Dag id -> Dag, as Airflow reads them from the file."""
    monkeypatch.syspath_prepend(str(ROOT))
    from airflow.dag_processing.dagbag import DagBag

    found: dict[str, Any] = {}
    for path in sorted((ROOT / "dags").glob("example_*.py")):
        bag = DagBag(path, bundle_path=ROOT / "dags")
        assert not bag.import_errors
        found |= bag.dags
    for task in (task for dag in found.values() for task in dag.tasks):
        task.retries = 0
    return found


@pytest.fixture
def deliveries(services, connections, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from include.electricity.deliveries import Deliveries

    found = Deliveries(services.dsn("warehouse"))
    found.create()
    found.rows(0, 25)
    found.labels(0, 24)
    yield found
    with psycopg.connect(found.dsn, autocommit=True) as connection:
        connection.execute("drop table electricity, electricity_labels")
    for name in [n for n in sys.modules if n.partition(".")[0] == "include"]:
        del sys.modules[name]


def candidate(dags, ledger, params):
    """A person asks for another one."""
    draft = Entry("example_electricity", "request", "", "ann", "try", evidence={"params": params})
    ledger.record("example_electricity", f"asked {params}", {}, lambda _: draft)
    assert run(dags["example_monitor"]).states["request"] == "success"
    assert run(dags["example_train"]).states["submit"] == "success"


def test_the_loop_wired_by_hand_makes_a_champion_that_scores(
    dags, deliveries, ledger, observations
):
    monitor = run(dags["example_monitor"])
    assert monitor.states["request"] == "success"
    train = run(dags["example_train"])
    assert (train.states["submit"], train.states["another_round"]) == ("success", "skipped")
    tested = run(dags["example_ab_test"])
    assert set(tested.states.values()) == {"success", "skipped"}  # there is no champion yet
    assert ledger.state("example_electricity").champion == 1

    candidate(dags, ledger, {"max_iter": 40})
    people = iter(["ml-lead", "owner"])
    yes = {"note": "read the card", "window": "", "params": {}}
    approved = run(dags["example_approval"], answer=lambda request: ("promote", yes, next(people)))
    assert approved.state == "success"
    assert approved.value("approve")["by"] == "ml-lead, owner"
    assert "decisions change" in approved.value("flips")["line"]

    candidate(dags, ledger, {"max_iter": 30})
    rollout = run(dags["example_rollout"], answer=lambda request: ("promote", yes, "ml-lead"))
    assert rollout.state == "success"
    assert ledger.state("example_electricity").stack == (1, 2, 3)
    served = len(observations.served("example_electricity"))
    deliveries.rows(26, 26)
    deliveries.labels(25, 25)
    again = run(dags["example_monitor"])
    assert again.state == "success"
    assert len(observations.served("example_electricity")) == served + 336
    weekly = run(dags["example_dependencies"])
    assert weekly.state == "success"
    assert weekly.value("dependencies")["constraints"]["status"] == "ok"
    assert run(dags["example_guard"]).value("guard")["status"] == "ok"
    rollback = run(dags["example_rollback"], conf={"to": None, "reason": "to see"})
    assert rollback.value("rollback")["model"] == "example_electricity@2"


def test_features_by_sql_see_what_was_known(dags, deliveries, dataset_store):
    first = run(dags["example_features"]).value("known")
    deliveries.rows(26, 26)
    deliveries.labels(25, 25)
    second = run(dags["example_features"]).value("known")
    assert second["added"] == 336
    assert second["origin"] == "sql:market=example_market@2, labels=example_market.labels@2"
    assert first["query_hash"] == second["query_hash"]
    names = ("example_market.known", "example_market.labels")
    known, labels = (
        dataset_store.open(dataset_store.latest(n)).between().to_arrow() for n in names
    )
    up = dict(zip(labels["id"].to_pylist(), labels["price_up"].to_pylist(), strict=True))
    seen = zip(known["id"].to_pylist(), known["up_a_week_ago"].to_pylist(), strict=True)
    assert all(value == up.get(id - 336) for id, value in seen)
    assert known["up_a_week_ago"].null_count == 336
