"""A model of three classes: trained, loaded, judged, served and watched like any other."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.deployment.scoring import Batch, score
from airflow_mlops.core.evaluation.evaluation import Evaluation
from airflow_mlops.core.evaluation.gate import judge
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.monitoring.performance import PerformanceMonitor
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.training.agreement import check_answers
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.reproduce import reproduce
from airflow_mlops.policy import AtLeast, Loads, NoLeak, NotWorse, Output

pytestmark = pytest.mark.services

WEEK = timedelta(weeks=1)
GATES = [Loads(60_000, 4_000), NoLeak(), Output(), AtLeast("roc_auc", 0.6)]
GATES += [NotWorse("log_loss", margin=0.5), NotWorse("f1", margin=0.5)]


@pytest.fixture
def weeks(labelled_weeks):
    """Nine weeks, whose label says in which third of its values ``y`` mostly lies."""

    def make(number=8):
        found = labelled_weeks(number)
        noise = np.random.default_rng(1).normal(size=found.rows.num_rows)
        kind = np.digitize(found.rows["y"].to_numpy() + 0.3 * noise, [-0.4, 0.4])
        labels = found.labels.set_column(2, "up", pa.array(kind.astype("int8")))
        return replace(found, labels=labels)

    return make


@pytest.fixture
def trained(model_store, make_training, weeks):
    def make(**recipe):
        training = make_training(weeks=weeks(), **recipe)
        loss = ("log_loss", loss_function("log_loss"))
        return ModelRef.parse(train_model(model_store, training, loss=loss, tags={}).model)

    return make


@pytest.fixture
def hold(make_training, weeks, dataset_store):
    span = make_training(weeks=weeks()).rows.selection
    until = weeks().rows["at"][-1].as_py() + timedelta(hours=1)
    return replace(span, since=span.until, until=until.isoformat()).read(dataset_store)


def test_it_answers_a_probability_for_each_class_wherever_it_is_loaded(
    model_store, dataset_store, trained, hold, tmp_path
):
    import mlflow.pyfunc

    ref = trained()
    with model_store.opened(ref) as model:
        found = model.predict(hold.frame)
        assert {c.status for c in check_answers(dataset_store, model)} == {"ok"}
    assert found.shape == (168, 3)
    assert found.sum(axis=1) == pytest.approx(1)
    folder = model_store.fetch(model_store.get(ref), tmp_path)
    assert np.array_equal(mlflow.pyfunc.load_model(str(folder)).predict(hold.frame), found)
    assert reproduce(model_store, dataset_store, ref).verdict == "identical bytes"


def test_it_is_judged_beside_its_champion(model_store, dataset_store, trained, hold):
    refs = trained(), trained(params={"C": 0.1})
    asked = {"loss": "log_loss", "epoch": 0, "seed": 0, "datasets": dataset_store}
    found = evaluate(model_store, *reversed(refs), hold, gates=GATES, **asked)
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    verdict = judge(GATES, found)
    assert verdict.status == "passed", verdict.reason
    assert [c.metric for c in found.comparisons] == ["log_loss", "f1"]
    names = {"log_loss", "roc_auc", "accuracy", "recall", "precision", "f1", "average_precision"}
    assert {m.metric for m in found.metrics} == names
    assert 10 < found.memory_mb < 4_000
    same = judge(GATES, evaluate(model_store, refs[0], refs[0], hold, gates=GATES, **asked))
    assert (same.status, same.checks[0].gate) == ("failed", "Another model")


def test_it_is_served_and_watched(
    model_store, observations, dataset_store, trained, weeks, append, model
):
    ref, later = trained(), weeks(9)
    data = append(dataset_store, model, later.source(), "more")
    labels = append(dataset_store, f"{model}.labels", later.label_source(), "more")
    table = dataset_store.open(DatasetRef.parse(data.ref))
    since = later.rows["at"][7 * 168].as_py()
    batch = Batch(table.between(since).to_arrow(), data.ref, "at", "id", "r")
    for written in (2 * 168, 0):
        done = score(model_store, observations, ref, batch)
        assert (done.written, done.mean) == (written, None)
    served = observations.predictions(ref, since, since + WEEK)
    scores = np.array(served["scores"].to_pylist())
    assert scores.shape == (168, 3)
    assert served["p"].to_pylist() == scores.argmax(axis=1).tolist()
    with model_store.opened(ref) as loaded:
        rows = table.between(since, since + WEEK).to_arrow()
        assert scores == pytest.approx(np.asarray(loaded.predict(rows.to_pandas())))
    monitor = PerformanceMonitor(
        *(dataset_store, model_store, observations, table),
        dataset_store.open(DatasetRef.parse(labels.ref)),
        "up",
        "log_loss",
        loss_function("log_loss"),
        ("kind",),
    )
    found, newest = monitor.measure(ref).windows
    y = later.labels["up"].to_numpy()[7 * 168 : 8 * 168]
    assert found.value == pytest.approx(-np.log(scores[np.arange(168), y]).mean())
    assert found.probe_loss < 1.1
    assert {s.column for s in found.slices} == {"kind"}
    assert "roc_auc" in {m.metric for m in found.metrics}
    assert monitor.measure(ref).windows == (found, newest)
