"""One answer about a version, from all stores; and the cards that people read."""

import json
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.deployment.cards import data_card, model_card, to_html
from airflow_mlops.core.deployment.lineage import lineage
from airflow_mlops.core.errors import ModelNotFoundError
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.reports.markdown import plain
from airflow_mlops.core.training.models import EVALUATION
from tests.conftest import MONDAY

JUDGED = {
    "champion": None,
    "since": "2024-02-19T00:00:00+00:00",
    "until": "2024-02-26T00:00:00+00:00",
    "note": "",
    "metrics": [{"metric": "brier", "value": 0.1234, "low": 0.1, "high": 0.2}],
}


@pytest.fixture
def version(registry, dataset_store, observations, trained_champions, model_store):
    """A champion that was judged, and served three rows."""
    (ref,) = trained_champions(1)
    model_store.log_document(model_store.get(ref).run_id, EVALUATION, json.dumps(JUDGED))
    at = pa.array([MONDAY + timedelta(hours=i) for i in range(3)], pa.timestamp("us", "UTC"))
    rows = pa.table({"key": ["1", "2", "3"], "observed_at": at, "prediction": [0.1, 0.2, 0.3]})
    observations.write_predictions(ref, rows, dataset="d@1", run="r")
    return ref


@pytest.fixture
def traced(registry, dataset_store, observations):
    return lambda ref: lineage(registry, dataset_store, observations, ref)


@pytest.mark.services
def test_every_store_is_asked(traced, version, model, model_store):
    found = traced(version)
    assert (found.champion, found.data.ref, found.labels.ref) == (
        True,
        f"{model}@1",
        f"{model}.labels@1",
    )
    assert found.run_id == model_store.get(version).run_id
    assert [e.op for e in found.decisions] == ["promote"]
    assert found.evaluation == JUDGED
    text = str(found)
    assert text.startswith(f"{version} (champion)  files ")
    assert f"rows         {model}@1 ctd1-" in text
    assert "promote      20" in text
    assert "predictions  3 for 2024-01-01T00:00:00+00:00 to 2024-01-01T02:00:00+00:00" in text
    assert json.loads(json.dumps(found.to_dict()))["recipe"]["label"] == "up"


@pytest.mark.services
def test_what_is_gone_is_said_so(registry, observations, version, tmp_path):
    from airflow_mlops.core.data.datasets import DatasetStore

    found = lineage(registry, DatasetStore(str(tmp_path / "none")), observations, version)
    assert found.data is None
    assert f"rows         {version.name}@1: gone from the dataset store" in str(found)
    assert found.to_dict()["data"] is None


@pytest.mark.services
def test_a_version_made_elsewhere_is_refused(traced, make_version):
    with pytest.raises(ModelNotFoundError, match="does not say how it was made"):
        traced(make_version())


@pytest.mark.services
def test_the_card_of_a_model_says_what_people_ask(traced, version):
    card = model_card(traced(version))
    assert card.startswith(f"# Model {version}\n\n*champion*\n")
    for line in (
        f"| predicts | {plain(f'up of {version.name}.labels@1')} |",
        "| estimator | LogisticRegression, stored as skops |",
        "| brier | 0.1234 | 0.1000 to 0.2000 |",
        "| kind | string | no | a, b, c |",
        "Predictions: 3 for 2024-01-01",
    ):
        assert line in card
    assert "<table>" in to_html(card)


@pytest.mark.services
def test_a_pickle_is_shown_as_such(traced, version):
    found = traced(version)
    stored = {**found.about["estimator"], "format": "pickle"}
    card = model_card(replace(found, about={**found.about, "estimator": stored}))
    assert r"stored as pickle; opening it runs code \(pickle\)" in card


def test_the_card_of_a_dataset(dataset_store, append, labelled_weeks):
    commit = append(dataset_store, "d", labelled_weeks(2).source(), author="ann", origin="w:t")
    card = data_card(dataset_store.open(DatasetRef.parse(commit.ref)))
    assert card.startswith("# Dataset d@1\n\n*336 rows*\n")
    assert "| source | w:t |" in card
    assert "by ann |" in card
    assert r"| x | number | 0.0% | \-" in card
    assert "| kind | string | 0.0% | " in card


def test_hostile_names_stay_text(dataset_store, append, labelled_weeks):
    name = "<script>alert(1)</script>|[a](javascript:x)![b](http://c)"
    rows = labelled_weeks(1).rows
    rows = rows.rename_columns([name if n == "x" else n for n in rows.schema.names])
    said = {"author": name, "origin": name, "run": name}
    commit = append(dataset_store, "d", ArrowSource(rows, "id", "at"), **said)
    card = data_card(dataset_store.open(DatasetRef.parse(commit.ref)))
    assert "<script" not in MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    page = to_html(card)
    assert "<script>" not in page
    assert "<img" not in page
    assert "href" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|[a](javascript:x)" in page
