"""A version is trained again by a task; the finding is kept beside the model."""

import json

import pytest
from airflow.sdk import DAG

from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.training.reproduce import REPORT, REPRODUCED
from airflow_mlops.operators.reproduction import ReproduceModelOperator
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

# What it computes depends on something that is in no recipe: a variable of the environment.
OUTSIDE = """
    import os
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed, C):
        outside = 0.0 if "PYTEST_CURRENT_TEST" in os.environ else 9.0
        return LogisticRegression(C=C + outside).fit(X, y)
"""


@pytest.fixture
def reproduce(connections, model):
    def make(**given):
        with DAG(model, schedule=None, default_args={"retries": 1}) as dag:
            ReproduceModelOperator(task_id="t", model=model, **given)
        return run(dag)

    return make


def test_the_champion_is_made_again_and_the_finding_kept(
    reproduce, trained_champions, model_store, services, model
):
    _, champion = trained_champions(2)
    done = reproduce()
    found, version = done.value("t"), model_store.get(champion)
    assert (found["model"], found["verdict"]) == (str(champion), "identical bytes")
    report = json.loads(model_store.document(version.run_id, REPORT))
    assert {k: v for k, v in report.items() if k not in ("at", "by")} == found
    assert report["by"] == f"{model}/{done.run_id}/t"
    assert version.tags[REPRODUCED] == f"identical bytes, {report['at']}"
    assert done.values["t"]["mlops_model_url"].startswith(services.urls["mlflow"])
    assert done.values["t"]["mlops_report_url"].endswith(f"/artifacts/{REPORT}")
    assert len(model_store.client.search_model_versions(f"name='{model}'")) == 2


def test_a_version_can_be_named(reproduce, trained_champions, model_store):
    first, champion = trained_champions(2)
    assert reproduce(ref="{{ '" + str(first) + "' }}").value("t")["model"] == str(first)
    assert REPRODUCED in model_store.get(first).tags
    assert REPRODUCED not in model_store.get(champion).tags


def test_a_model_that_comes_out_otherwise_fails_the_task_and_is_on_record(
    reproduce, trained_champions, model_store
):
    (ref,) = trained_champions(1, train=OUTSIDE)
    done = reproduce()
    assert (type(done.error), done.tries["t"]) == (RejectedError, 1)
    assert f"{ref}: differs" in str(done.error)
    assert "'estimator'" in str(done.error)
    version = model_store.get(ref)
    assert version.tags[REPRODUCED].startswith("differs, ")
    assert json.loads(model_store.document(version.run_id, REPORT))["differs_from"] == "estimator"
    lenient = reproduce(fail_on="never")
    assert (lenient.state, lenient.value("t")["verdict"]) == ("success", "differs")


def test_without_a_champion_there_is_nothing_to_make_again(reproduce):
    assert reproduce().states["t"] == "skipped"


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"ref": "other_model@1"}, "other_model@1 is no version of"),
        ({"ref": "gibberish"}, "gibberish"),
        ({"fail_on": "always"}, "'always'"),
    ],
    ids=["another model", "no reference", "no such word"],
)
def test_what_cannot_be_asked_is_named(reproduce, given, word):
    done = reproduce(**given)
    assert (type(done.error), done.tries["t"]) == (ConfigurationError, 1)
    assert word in str(done.error)


def test_a_finding_is_plain_json_even_if_the_rows_were_others():
    from airflow_mlops.core.training.reproduce import Reproduction

    found = Reproduction("m@1", "differs", "rows", float("inf"), 0, (), ())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["moved"] is None
