"""Training that is killed at every commit point: one recipe, one version, runs that are settled."""

from datetime import timedelta

import pytest

from airflow_mlops.core.refs import ModelRef, Recipe
from airflow_mlops.core.scratch import sweep
from airflow_mlops.core.training.housekeeping import CLOSED, close_orphans

pytestmark = pytest.mark.services


@pytest.fixture
def facts(services, make_training, model, dataset_store, tmp_path):
    training = make_training()
    return {
        "mlflow": services.urls["mlflow"],
        "root": dataset_store.root,
        "code": str(tmp_path / "user_code"),
        "build": training.features.name,
        "fit": training.train.name,
        "recipe": training.recipe.to_dict(),
    }


BOUNDARIES = {
    "create_run:before": 0,
    "create_run:after": 1,
    "log_artifacts:after": 1,
    "create_model_version:before": 1,
    "create_model_version:after": 1,
    "set_terminated:before": 1,
}
"""Where training is killed, and how many runs it has left behind then."""


def runs(store, model):
    experiment = store.client.get_experiment_by_name(model)
    found = store.client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.info.run_id: run.info.status for run in found}


@pytest.mark.parametrize("die", list(BOUNDARIES))
def test_a_training_killed_anywhere_gives_one_version_after_its_retry(
    nursery, facts, model_store, model, die
):
    recipe = Recipe.from_dict(facts["recipe"]).id
    nursery.kill("train", facts, die)
    assert len(runs(model_store, model)) == BOUNDARIES[die]
    done = nursery.succeed("train", facts)
    (version,) = model_store.of_recipe(model, recipe)
    assert (str(version.ref), version.run_id, version.digest) == (
        done["model"], done["run_id"], done["digest"]
    )  # fmt: skip
    settled = runs(model_store, model)
    assert settled.pop(done["run_id"]) == "FINISHED"
    assert set(settled.values()) <= {"KILLED"}
    assert done["created"] == (die not in ("create_model_version:after", "set_terminated:before"))
    with model_store.opened(ModelRef.parse(done["model"])) as loaded:
        assert loaded.about["recipe"] == facts["recipe"]


@pytest.mark.parametrize(
    ("die", "status"),
    [
        ("create_run:after", "KILLED"),
        ("log_artifacts:after", "KILLED"),
        ("create_model_version:after", "FINISHED"),
        ("set_terminated:before", "FINISHED"),
    ],
)
def test_what_a_killed_training_leaves_behind_is_cleaned_up(
    nursery, facts, model_store, model, die, status
):
    sweep(timedelta(0), folder=nursery.scratch)  # of other tests
    tags = dict.fromkeys(("airflow.dag_id", "airflow.run_id", "airflow.task_id"), "t")
    nursery.kill("train", facts | {"tags": tags | {"airflow.try_number": "1"}}, die)
    (run_id,) = runs(model_store, model)
    assert sweep(timedelta(days=1), folder=nursery.scratch) == ()  # it is not old enough

    def clean():
        closed = close_orphans(model_store, model, lambda _: "its task failed", by="d/r")
        return [run.run_id for run in closed], sweep(timedelta(0), folder=nursery.scratch)

    found, folders = clean()
    assert found == [run_id]
    inside = die in ("log_artifacts:after", "create_model_version:before")
    assert [name.startswith("mlops-train-") for name in folders] == [True] * inside
    assert runs(model_store, model) == {run_id: status}
    assert "by d/r: its task failed" in model_store.run_tags(run_id)[CLOSED]
    assert clean() == ([], ())
    done = nursery.succeed("train", facts)  # somebody cleared the task after all
    assert runs(model_store, model)[done["run_id"]] == "FINISHED"
    assert len(model_store.of_recipe(model, Recipe.from_dict(facts["recipe"]).id)) == 1


@pytest.mark.parametrize("where", ["log_inputs", "create_model_version"])
def test_two_trainings_of_one_recipe_at_once_give_one_version(
    nursery, facts, model_store, model, tmp_path, where
):
    (tmp_path / "met").mkdir()
    meet = {"meet": where, "place": str(tmp_path / "met"), "number": 2}
    order = {"scenario": "train", "facts": facts, **meet}
    one, two = nursery.run(order, order)
    assert one["code"] == two["code"] == 0
    last = nursery.succeed("train", facts)  # settles what the race has left
    assert one["found"]["model"] == two["found"]["model"] == last["model"]
    assert len(model_store.of_recipe(model, Recipe.from_dict(facts["recipe"]).id)) == 1
    assert sorted(runs(model_store, model).values()) == ["FINISHED", "KILLED"]
