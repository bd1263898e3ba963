"""Runs that nobody closes: found, closed once, and only if they are certainly nobody's."""

from datetime import UTC, datetime

import pytest

from airflow_mlops.core.refs import Recipe
from airflow_mlops.core.training import housekeeping
from airflow_mlops.core.training.housekeeping import CLOSED, TaskTry, close_orphans

pytestmark = pytest.mark.services


@pytest.fixture
def start(model_store, model):
    """``start(task, try_number)``: open a run as a training task does."""

    def make(task="train", try_number=1, *, run="r1", **tags):
        facts = {"n": f"{task}{try_number}{run}{tags}"}
        recipe = Recipe(
            model, "d@1", "", "l@1", "", "y", "", "", "f@fs-0", "m:f", "", facts, 0, "", ""
        )
        written = {
            "airflow.dag_id": f"{model}__train",
            "airflow.run_id": run,
            "airflow.task_id": task,
            "airflow.try_number": str(try_number),
        }
        return model_store.start(model, recipe, written | tags)

    return make


@pytest.fixture
def status(model_store):
    return lambda run_id: model_store.client.get_run(run_id).info.status


def ended(tried):
    return "its task failed"


def working(tried):
    return ""


def test_a_run_whose_task_ended_is_closed_with_the_reason(model_store, model, start, status):
    run_id = start()
    (closed,) = close_orphans(model_store, model, ended, by="m/r")
    assert closed.to_dict() == {
        "run_id": run_id,
        "task": f"{model}__train/r1/train",
        "try_number": 1,
        "status": "KILLED",
        "why": "its task failed",
    }
    assert status(run_id) == "KILLED"
    said = model_store.run_tags(run_id)[CLOSED]
    when, _, why = said.partition(" ")
    assert (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds() < 60
    assert why == "by m/r: its task failed"
    assert close_orphans(model_store, model, ended, by="m/r2") == ()
    assert model_store.run_tags(run_id)[CLOSED] == said


def test_a_run_whose_task_works_is_left_alone(model_store, model, start, status):
    run_id = start()
    assert close_orphans(model_store, model, working, by="m/r") == ()
    assert (status(run_id), CLOSED in model_store.run_tags(run_id)) == ("RUNNING", False)


def test_a_newer_try_takes_over_and_goes_on(model_store, model, start, status):
    older, other, newer = start(try_number=1), start("train_too"), start(try_number=2)
    mapped = start(try_number=1, **{"airflow.map_index": "3"})
    (closed,) = close_orphans(model_store, model, working, by="m/r")
    assert (closed.run_id, closed.why) == (older, "try 2 took over")
    assert [status(r) for r in (other, newer, mapped)] == ["RUNNING"] * 3


def test_the_question_names_the_try(model_store, model, start):
    start(try_number=3, **{"airflow.map_index": "4", "airflow.run_url": "http://a/dags/d"})
    asked = []
    close_orphans(model_store, model, lambda t: asked.append(t) or "", by="m/r")
    (tried,) = asked
    assert tried.task == (f"{model}__train", "r1", "train", 4)
    assert (tried.try_number, tried.url) == (3, "http://a/dags/d")
    assert abs((datetime.now(UTC) - tried.started).total_seconds()) < 60


def test_runs_that_this_package_did_not_write_are_never_touched(
    model_store, model, start, status, make_version
):
    make_version()
    experiment = model_store.experiment(model)
    airflow = {"airflow.dag_id": "d", "airflow.run_id": "r", "airflow.task_id": "t"}
    client = model_store.client
    foreign = [
        client.create_run(experiment).info.run_id,
        client.create_run(experiment, tags=airflow | {"airflow.try_number": "1"}).info.run_id,
        start(**{"airflow.try_number": "first"}),
        start(**{"airflow.dag_id": ""}),
    ]
    elsewhere = model_store.start(
        f"{model}_too",
        Recipe(model, "d@1", "", "l@1", "", "y", "", "", "f@fs-0", "m:f", "", {}, 0, "", ""),
        airflow | {"airflow.try_number": "1"},
    )
    assert close_orphans(model_store, model, ended, by="m/r") == ()
    assert [status(r) for r in (*foreign, elsewhere)] == ["RUNNING"] * 5


def test_a_model_that_was_never_trained_gets_no_experiment(model_store, model):
    assert close_orphans(model_store, model, ended, by="m/r") == ()
    assert model_store.client.get_experiment_by_name(model) is None


def test_a_deleted_experiment_is_nobodys_business(model_store, model, start, status):
    run_id = start()
    model_store.client.delete_experiment(model_store.experiment(model))
    assert close_orphans(model_store, model, ended, by="m/r") == ()
    assert status(run_id) == "RUNNING"


def test_every_page_is_read(model_store, model, start, monkeypatch):
    monkeypatch.setattr(housekeeping, "_PAGE", 2)
    runs = [start(run=f"r{i}") for i in range(5)]
    closed = close_orphans(model_store, model, ended, by="m/r")
    assert [c.run_id for c in closed] == runs


def test_a_run_that_closes_while_it_is_asked_about_keeps_its_own_end(
    model_store, model, start, status
):
    run_id = start()

    def finishes(tried):
        model_store.client.set_terminated(run_id, "FINISHED")
        return "its task ended as success"

    assert close_orphans(model_store, model, finishes, by="m/r") == ()
    assert (status(run_id), CLOSED in model_store.run_tags(run_id)) == ("FINISHED", False)


def test_tags_that_are_not_ours_name_no_try():
    assert TaskTry.of({}, datetime.now(UTC)) is None
