"""Forgetting a person: rows, labels, predictions; the models that learnt from them are named."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from airflow_mlops.core.deployment.forgetting import find_person, forget_person
from airflow_mlops.core.deployment.registry import Ask
from airflow_mlops.core.deployment.rollback import plan_rollback
from airflow_mlops.core.errors import ConfigurationError, DatasetNotFoundError
from airflow_mlops.core.evaluation.flips import Case, Flips, Segment
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.reports.flips import flips_page
from airflow_mlops.core.training.models import FLIPS, FLIPS_PAGE
from airflow_mlops.core.training.reproduce import reproduce

pytestmark = pytest.mark.services


@pytest.fixture
def predicted(trained_champions, observations, labelled_weeks):
    """Two champions; the second one predicted the first week."""
    one, two = trained_champions(2)
    rows = labelled_weeks().rows.slice(0, 168)
    keys = rows["id"].cast(pa.string())
    table = pa.table({"key": keys, "observed_at": rows["at"], "prediction": rows["x"]})
    observations.write_predictions(two, table, dataset=f"{two.name}@1", run="r")
    return one, two


def test_looking_names_rows_and_models(registry, dataset_store, predicted, model):
    one, two = predicted
    found = find_person(registry, dataset_store, model, ["5"])
    assert [(d.dataset, d.rows, d.versions) for d in found.datasets] == [
        (model, 1, (1,)),
        (f"{model}.labels", 1, (1,)),
    ]
    assert found.models == {str(one): "not serving", str(two): "champion"}
    assert not found.done
    assert dataset_store.open(DatasetRef(model, 1)).rows == 1344


def test_rows_that_no_model_learnt_from_name_none(registry, dataset_store, predicted, model):
    found = find_person(registry, dataset_store, model, ["1340"])  # in the eighth week, held out
    assert found.datasets[0].rows == 1
    assert found.models == {}


def test_a_person_is_forgotten_everywhere_and_the_record_does_not_name_them(
    registry, dataset_store, observations, predicted, model
):
    one, two = predicted
    ask = Ask("forget:1", "me", "they asked", {})
    found = forget_person(registry, dataset_store, observations, model, ["5", "7"], ask=ask)
    assert (found.done, found.predictions) == (True, 2)
    for name in (model, f"{model}.labels"):
        table = dataset_store.open(DatasetRef(name, 1))
        table.verify()
        assert table.rows == 1342
        assert not {5, 7} & {*table.between().to_arrow()["id"].to_pylist()}
    assert observations.served_by(two).predictions == 166
    entry = registry.ledger.state(model).last("forget")
    assert (entry.by, entry.reason) == ("me", "they asked")
    assert dict(entry.evidence) == {
        "keys": 2,
        "rows": {model: 2, f"{model}.labels": 2},
        "models": [str(one), str(two)],
    }
    json.dumps(found.to_dict())
    assert "learnt from them (champion)" in str(found)
    again = forget_person(
        registry, dataset_store, observations, model, ["5", "7"], ask=Ask("2", "me", "again", {})
    )
    assert [d.rows for d in again.datasets] == [0, 0]
    assert again.predictions == 0


def test_rows_shown_in_a_report_of_changed_decisions_go_also_after_a_kill(
    registry, model_store, dataset_store, observations, predicted, model, monkeypatch
):
    _, two = predicted
    run_id = model_store.get(two).run_id
    cases = tuple(Case(key, "2024-01-01", {"y": f"secret {key}"}, 0.1, 0.9) for key in ("5", "6"))
    total = Segment("", 10, 2)
    found = Flips(str(two), f"{model}@1", "2024-01-01", "2024-01-08", "class", 0, total, (), ())
    found = replace(found, cases=cases)
    model_store.log_document(run_id, FLIPS, json.dumps(found.to_dict()))
    model_store.log_document(run_id, FLIPS_PAGE, flips_page(found))
    store, ask = type(model_store), Ask("forget:1", "me", "they asked", {})
    whole = store.log_document

    def dies(self, run_id, name, text):
        if name == FLIPS:
            raise KeyboardInterrupt
        whole(self, run_id, name, text)

    monkeypatch.setattr(store, "log_document", dies)
    with pytest.raises(KeyboardInterrupt):
        forget_person(registry, dataset_store, observations, model, ["5"], ask=ask)
    monkeypatch.setattr(store, "log_document", whole)
    again = replace(ask, key="forget:2")
    done = forget_person(registry, dataset_store, observations, model, ["5"], ask=again)
    assert done.cases == 1
    left = Flips.from_dict(json.loads(model_store.document(run_id, FLIPS)))
    assert left == replace(found, cases=cases[1:])
    page = model_store.document(run_id, FLIPS_PAGE)
    assert ("secret 5" in page, "secret 6" in page) == (False, True)
    assert "airflow db clean" in str(done)


def test_what_cannot_be_asked_is_refused(registry, dataset_store, predicted, model):
    with pytest.raises(DatasetNotFoundError, match="no such dataset"):
        find_person(registry, dataset_store, "nothing", ["5"])
    with pytest.raises(ConfigurationError, match="cannot be among it"):
        find_person(registry, dataset_store, model, ["me"])


def test_a_model_that_learnt_from_them_says_why_it_is_not_made_again(
    registry, dataset_store, observations, predicted, model
):
    one, _ = predicted
    ask = Ask("forget:1", "me", "they asked", {})
    forget_person(registry, dataset_store, observations, model, ["5"], ask=ask)
    found = reproduce(registry.models, dataset_store, one)
    assert (found.verdict, found.differs_from) == ("differs", "rows")
    assert found.forgotten == (f"{model}@1", f"{model}.labels@1")
    assert f"rows of {model}@1 were forgotten on request" in str(found)
    plan = plan_rollback(registry, dataset_store, model)
    checks = {check.name: check for check in plan.checks}
    assert checks["answers"].status == "ok"  # the newest rows are all there
    forget_person(registry, dataset_store, observations, model, ["1170"], ask=replace(ask, key="2"))
    plan = plan_rollback(registry, dataset_store, model)
    (answers,) = (check for check in plan.checks if check.name == "answers")
    assert answers.status == "uncertain"
    assert "1 of its rows are gone" in answers.found
