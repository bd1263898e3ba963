"""The Dags of dags/example_operators.py, run for real on the demo's data."""

import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dags(monkeypatch) -> dict[str, Any]:
    """Dag id -> Dag, as Airflow reads them from the file."""
    monkeypatch.syspath_prepend(str(ROOT))
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags" / "example_operators.py", bundle_path=ROOT / "dags")
    assert not bag.import_errors
    found = dict(bag.dags)
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


def test_the_loop_wired_by_hand_makes_a_champion_that_scores(
    dags, deliveries, ledger, observations
):
    monitor = run(dags["example_monitor"])
    assert monitor.states["request"] == "success"
    train = run(dags["example_train"])
    assert (train.states["submit"], train.states["another_round"]) == ("success", "skipped")
    note = {"note": "as good as by Lifecycle", "params": {}}
    rollout = run(dags["example_rollout"], answer=lambda request: ("promote", note, "ml-lead"))
    assert rollout.state == "success"
    assert ledger.state("example_electricity").champion == 1
    deliveries.rows(26, 26)
    deliveries.labels(25, 25)
    again = run(dags["example_monitor"])
    assert again.state == "success"
    assert len(observations.served("example_electricity")) == 336
    rollback = run(dags["example_rollback"])
    assert "nothing to roll back to: example_electricity@1 had no champion before" in str(
        rollback.error
    )
