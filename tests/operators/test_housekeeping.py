"""Housekeeping asks Airflow which tasks are over, and closes the runs of those only."""

import os
import tempfile
from datetime import timedelta

import psycopg
import pytest
from airflow.sdk import DAG, task

from airflow_mlops.core.errors import UnavailableError
from airflow_mlops.core.refs import Recipe
from airflow_mlops.core.training.housekeeping import CLOSED
from airflow_mlops.operators._base import run_url
from airflow_mlops.operators.housekeeping import ENDED, HousekeepOperator
from airflow_mlops.policy import Keep
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Temporary folders of this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def train(connections, model):
    """A Dag with one task, ``train``, which ran once; returns Dag and run id."""
    with DAG(f"{model}__train", schedule=None) as dag:

        @task
        def train() -> None:
            """Do nothing."""

        @task
        def mapped(number: int) -> None:
            """Do nothing, more than once."""

        train()
        mapped.expand(number=[1, 2])
    return dag, run(dag).run_id


@pytest.fixture
def housekeep(model):
    def make(**given):
        with DAG(f"{model}__clean", schedule=None, default_args={"retries": 0}) as dag:
            HousekeepOperator(task_id="t", model=model, **given)
        return run(dag)

    return make


@pytest.fixture
def open_run(model_store, model, train):
    """``open_run(task)``: a run that a task of the Dag ``train`` left open."""

    def make(task_id="train", **tags):
        recipe = Recipe(
            model, "d@1", "", "l@1", "", "y", "", "", "f@fs-0", "m:f", "", dict(tags), 0, "", ""
        )
        dag, run_id = train
        written = {
            "airflow.dag_id": dag.dag_id,
            "airflow.run_id": run_id,
            "airflow.task_id": task_id,
            "airflow.try_number": "1",
            "airflow.map_index": "-1",
            "airflow.run_url": f"http://airflow.example.com/dags/{dag.dag_id}",
        }
        return model_store.start(model, recipe, written | tags)

    return make


@pytest.fixture
def status(model_store):
    return lambda run_id: model_store.client.get_run(run_id).info.status


def put_into(state, dag, run_id, *, map_index=-1):
    """Write the state of the task, as the scheduler does."""
    import sqlalchemy as sa
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        session.execute(
            sa.update(TaskInstance)
            .where(TaskInstance.dag_id == dag.dag_id, TaskInstance.run_id == run_id)
            .where(TaskInstance.map_index == map_index)
            .values(state=state)
        )


def test_every_state_of_airflow_is_either_over_or_not(train, housekeep, open_run, status):
    from airflow.sdk import TaskInstanceState

    states = [None, *(state.value for state in TaskInstanceState)]
    assert set(states) >= ENDED
    run_id = open_run()
    for state in sorted(set(states) - ENDED, key=str):
        put_into(state, *train)
        assert housekeep().value("t") == {"runs": [], "folders": [], "old": []}, state
    assert status(run_id) == "RUNNING"
    for state in sorted(ENDED):
        run_id = open_run(n=state)
        put_into(state, *train)
        (closed,) = [r for r in housekeep().value("t")["runs"] if r["run_id"] == run_id]
        assert (closed["status"], closed["why"]) == ("KILLED", f"its task ended as {state}")


def test_says_in_the_run_when_by_whom_and_why(train, housekeep, open_run, model_store):
    put_into("failed", *train)
    run_id, done = open_run(), housekeep()
    said = model_store.run_tags(run_id)[CLOSED]
    assert said.endswith(f"__clean/{done.run_id}: its task ended as failed")
    assert housekeep().value("t")["runs"] == []


def test_mapped_tasks_are_told_apart(train, housekeep, open_run, status):
    over, works = (open_run("mapped", **{"airflow.map_index": str(i)}) for i in (0, 1))
    put_into("failed", *train, map_index=0)
    put_into("running", *train, map_index=1)
    housekeep()
    assert (status(over), status(works)) == ("KILLED", "RUNNING")


def test_a_run_of_another_airflow_is_left_alone(train, housekeep, open_run, status):
    run_id = open_run(**{"airflow.run_url": "http://airflow.example.com.evil.example/dags/d"})
    assert housekeep(older="0d").value("t")["runs"] == []
    assert status(run_id) == "RUNNING"


def test_a_run_whose_dag_run_is_gone_has_to_be_old(train, housekeep, open_run, status):
    run_id = open_run(**{"airflow.run_id": "deleted"})
    assert housekeep().value("t")["runs"] == []
    (closed,) = housekeep(older="0s").value("t")["runs"]
    assert closed["why"] == "Airflow does not know its Dag run any more"
    assert status(run_id) == "KILLED"


def test_old_folders_of_dead_processes_go(connections, housekeep, place):
    old, young = place / "mlops-train-old", place / "mlops-train-young"
    for folder in (old, young):
        folder.mkdir()
    two_days_ago = old.stat().st_mtime - timedelta(days=2).total_seconds()
    os.utime(old, (two_days_ago, two_days_ago))
    assert housekeep().value("t")["folders"] == [old.name]
    assert (old.exists(), young.exists()) == (False, True)


def test_what_was_measured_long_ago_goes(connections, services, housekeep, model, observations):
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as owner:
        owner.execute(
            "insert into mlops.observations (model, monitor, subject, body, recorded_at) "
            "select %s, 'usage', day::text, '{}', now() - day * interval '1 day' "
            "from generate_series(0, 40) day",
            (model,),
        )
    keep = Keep(usages="30d").to_dict()
    done = housekeep(keep=keep).value("t")
    assert [(part["what"], part["rows"]) for part in done["old"]] == [("usages", 11)]
    assert housekeep(keep=keep).value("t")["old"][0]["rows"] == 0
    assert housekeep().value("t")["old"] == []
    mine = [o for o in observations.read(model, "usage") if o.subject.isdecimal()]
    assert len(mine) == 30


def test_a_server_that_is_down_is_named_and_fails_nothing_else(
    market, connect, closed_port, housekeep
):
    connect("mlflow_default", conn_type="mlflow", host="127.0.0.1", port=closed_port)
    done = housekeep()
    assert isinstance(done.error, UnavailableError)


def test_a_decision_is_made_although_housekeeping_fails(market, monkeypatch, ledger):
    def broken(self, context):
        raise UnavailableError("no time for that")

    monkeypatch.setattr(HousekeepOperator, "execute", broken)
    market.deliver(0, 5, labels=(0, 4))
    done = run(market.lifecycle().dags[0])
    assert done.states["housekeep"] == "failed"
    assert (done.states["decide"], done.states["request"]) == ("success", "success")
    assert [e.op for e in ledger.state(market.name).entries if e.op != "handover"] == ["retrain"]


def test_the_address_of_a_dag_run_can_be_opened(train):
    class Ti:
        dag_id, run_id = "d", "manual__2026-01-01T00:00:00+00:00"

    assert run_url({"ti": Ti}) == (
        "http://airflow.example.com/dags/d/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    )
