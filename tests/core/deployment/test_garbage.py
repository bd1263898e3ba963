"""Garbage: what never served may go when it is old; what anybody needs is pinned, and by what."""

from datetime import timedelta

import psycopg
import pytest

from airflow_mlops.core.data import retention
from airflow_mlops.core.deployment.garbage import collect_garbage, find_garbage
from airflow_mlops.core.errors import ConfigurationError, DatasetNotFoundError, ModelNotFoundError
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.refs import DatasetRef, ModelRef

pytestmark = pytest.mark.services

NOW = timedelta(0)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(retention, "SHORTEST", NOW)


@pytest.fixture
def story(trained_champions, train, dataset_store, labelled_weeks, append, model):
    """Two champions, a candidate that nobody wanted, and rows that were corrected twice since."""
    champions = trained_champions(2)
    lost = train(params={"C": 9.0})
    for n in (1, 2):
        values = [v + n for v in labelled_weeks().rows["x"].to_pylist()]
        append(dataset_store, model, labelled_weeks().source(x=values), f"corrected {n}")
    return champions, lost


@pytest.fixture
def train(model_store, make_training):
    from airflow_mlops.core.metrics import loss_function
    from airflow_mlops.core.training.fit import train_model

    def run(**training):
        loss = ("brier", loss_function("brier"))
        return ModelRef.parse(
            train_model(model_store, make_training(**training), loss=loss, tags={}).model
        )

    return run


@pytest.mark.usefixtures("at_once")
def test_looking_says_what_would_go_and_what_is_pinned_by_what(
    registry, dataset_store, story, model
):
    (one, two), lost = story
    found = find_garbage(registry, dataset_store, model=model, older=NOW)
    assert list(found.models) == [str(lost)]
    assert found.pinned_models[str(two)] == "champion"
    assert found.pinned_models[str(one)].startswith("it was champion, a rollback")
    assert found.pinned_datasets[f"{model}@1"] == f"model {one} learnt from it"
    assert {d.dataset: d.versions for d in found.datasets} == {model: (2,), f"{model}.labels": ()}
    assert f"goes    model {lost}: registered" in str(found)
    assert f"pinned  data {model}@1: model {one} learnt from it" in str(found)
    assert registry.models.get(lost).ref == lost
    dataset_store.open(DatasetRef(model, 2)).verify()


@pytest.mark.usefixtures("at_once")
def test_collecting_removes_it_and_puts_it_on_record(registry, dataset_store, story, model):
    (one, two), lost = story
    collect_garbage(registry, dataset_store, by="me", model=model, older=NOW)
    with pytest.raises(ModelNotFoundError):
        registry.models.get(lost)
    with pytest.raises(DatasetNotFoundError, match=r"rows of .*@2 are gone"):
        dataset_store.open(DatasetRef(model, 2)).verify()
    for version in (1, 3):
        dataset_store.open(DatasetRef(model, version)).verify()
    entry = registry.ledger.state(model).last("remove")
    assert (entry.version, entry.by) == (lost.version, "me")
    assert {v.ref for v in registry.models.versions(model)} == {one, two}
    again = collect_garbage(registry, dataset_store, by="me", model=model, older=NOW)
    assert again.models == {}
    assert str(again).startswith("nothing may go")
    assert registry.ledger.state(model).last("remove") == entry


@pytest.mark.usefixtures("at_once")
def test_a_kill_between_record_and_removal_is_finished(
    registry, dataset_store, story, model, monkeypatch
):
    _, lost = story
    store = type(registry.models)
    whole = store.remove

    def dies(self, version):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "remove", dies)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(registry, dataset_store, by="me", model=model, older=NOW)
    monkeypatch.setattr(store, "remove", whole)
    collect_garbage(registry, dataset_store, by="me", model=model, older=NOW)
    entries = [e for e in registry.ledger.state(model).entries if e.op == "remove"]
    assert [e.version for e in entries] == [lost.version]
    assert lost not in {v.ref for v in registry.models.versions(model)}


@pytest.mark.usefixtures("at_once")
def test_candidates_that_wait_tags_and_requests_pin(registry, dataset_store, story, model, ask):
    _, lost = story
    registry.propose(lost, ask("propose"), epoch=registry.ledger.state(model).epoch, order=1)
    pins = {"pins": {"data": f"{model}@2"}, "params": {}}
    registry.ledger.record(
        model,
        "req",
        {"op": "request"},
        lambda _: Entry(model, "request", "", "me", "why", evidence=pins),
    )
    dataset_store.tag(DatasetRef(f"{model}.labels", 1), "paper")
    found = find_garbage(registry, dataset_store, model=model, older=NOW)
    assert found.models == {}
    assert found.pinned_models[str(lost)] == "it waits for its approval"
    assert "(request)" in found.pinned_datasets[f"{model}@2"]
    assert all(d.versions == () for d in found.datasets)


def test_what_is_young_stays(registry, dataset_store, story, model):
    _, lost = story
    found = find_garbage(registry, dataset_store, model=model)
    assert found.models == {}
    assert found.pinned_models[str(lost)].endswith("young")
    with pytest.raises(ConfigurationError, match="always stays"):
        find_garbage(registry, dataset_store, model=model, older=NOW)


@pytest.mark.usefixtures("at_once")
def test_a_model_whose_ledger_is_broken_keeps_all_and_does_not_stop_the_others(
    registry, dataset_store, story, model, services
):
    (one, _), lost = story
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("alter table mlops.decisions disable trigger no_rewrite")
        connection.execute("delete from mlops.decisions where model = %s and seq = 1", (model,))
        connection.execute("alter table mlops.decisions enable always trigger no_rewrite")
    found = find_garbage(registry, dataset_store, model=model, older=NOW)
    assert found.models == {}
    broken = "the ledger of its model is broken: airflow mlops doctor"
    assert found.pinned_models[str(lost)] == found.pinned_models[str(one)] == broken
    assert found.pinned_datasets[f"{model}@1"] == f"model {one} learnt from it"
