"""Scoring, monitoring and judging of a trained model, on real servers."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.data.selection import Selection
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.deployment.scoring import Scored, score
from airflow_mlops.core.errors import (
    ConfigurationError,
    ContractBrokenError,
    ModelNotFoundError,
    UserCodeError,
)
from airflow_mlops.core.evaluation.gate import Evaluation
from airflow_mlops.core.evaluation.metrics import loss_function
from airflow_mlops.core.evaluation.offline import evaluate, predictions
from airflow_mlops.core.monitoring.performance import PerformanceMonitor
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.training.fit import train_model

pytestmark = pytest.mark.services

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
BRIER = ("brier", loss_function("brier"))
TREES = """
    from sklearn.ensemble import HistGradientBoostingClassifier as H

    def fit(X, y, *, seed, **params):
        return H(max_iter=20, random_state=seed, **params).fit(X, y)
"""
TIMID = """
    from sklearn.dummy import DummyClassifier

    def fit(X, y, *, seed):
        return DummyClassifier(strategy="constant", constant=0).fit(X, y)
"""


@pytest.fixture
def trained(model_store, make_training):
    """A model of seven weeks; the eighth is held out."""
    training = make_training()
    return ModelRef.parse(train_model(model_store, training, loss=BRIER, tags={}).model)


def holdout(training_model, store, first=7):
    span = (MONDAY + first * WEEK).isoformat(), (MONDAY + 8 * WEEK).isoformat()
    return Selection(f"{training_model}@1", f"{training_model}.labels@1", "up", *span).read(store)


@pytest.fixture
def run_score(model_store, observations, dataset_store, model):
    def run(ref, source=None, append=None, since=None):
        if source is None:
            table = dataset_store.open(DatasetRef(model, 1))
        else:
            commit = append(dataset_store, f"{model}.new", source, window=WEEK)
            table = dataset_store.open(DatasetRef.parse(commit.ref))
        rows = table.between(since)
        return score(
            model_store,
            observations,
            ref,
            rows,
            dataset=str(table.ref),
            time="at",
            key="id",
            run="r",
        )

    return run


def test_every_row_is_scored_once_however_often_it_is_asked(
    trained, run_score, observations, model_store, dataset_store, model
):
    first = run_score(trained, since=MONDAY + 7 * WEEK)
    again = run_score(trained, since=MONDAY + 7 * WEEK)
    assert (first.rows, first.written, first.quarantined) == (168, 168, 0)
    assert again.written == 0
    assert again.mean == first.mean
    found = observations.predictions(trained, MONDAY, MONDAY + 9 * WEEK)
    assert found["key"].to_pylist() == [str(i) for i in range(7 * 168, 8 * 168)]
    with model_store.opened(trained) as loaded:
        expected = loaded.predict(holdout(model, dataset_store).frame)
    assert np.allclose(found["p"].to_numpy(), expected)
    assert Scored(**json.loads(json.dumps(first.to_dict()))) == first


def test_a_row_that_breaks_the_contract_is_set_aside_with_the_reason(
    services, trained, run_score, labelled_weeks, append, model
):
    weeks = labelled_weeks(1)
    x = weeks.rows["x"].to_pylist()
    x[3], x[9], x[11] = None, float("nan"), float("inf")
    y = weeks.rows["y"].to_pylist()
    y[0] = 500.0
    found = run_score(trained, weeks.source(x=x, y=y), append)
    assert (found.rows, found.written, found.quarantined) == (168, 165, 3)
    run_score(trained, weeks.source(x=x, y=y), append)
    with psycopg.connect(services.dsn("mlops", user="mlops_task")) as connection:
        rows = connection.execute(
            "select key, reason, row from mlops.quarantine where model = %s order by key", (model,)
        ).fetchall()
    assert [r[0] for r in rows] == ["11", "3", "9"]
    assert all("column 'x' null: expected a value" in r[1] for r in rows)
    assert [r[2]["x"] for r in rows] == ["inf", None, "nan"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns(["x"]), "column 'x' missing"),
        (lambda t: t.rename_columns({"kind": "sort"}), r"renamed to 'sort'\?"),
        (lambda t: t.set_column(2, "x", t["x"].cast(pa.string())), "'x' retyped"),
    ],
)
def test_rows_of_another_shape_are_not_scored(
    trained, run_score, labelled_weeks, append, change, says, observations
):
    source = ArrowSource(change(labelled_weeks(1).rows), "id", "at")
    with pytest.raises(
        ContractBrokenError, match=f"does not fit what {trained} was trained on.*{says}"
    ):
        run_score(trained, source, append)
    assert observations.predictions(trained, MONDAY, MONDAY + 9 * WEEK).num_rows == 0


def test_an_unknown_version_scores_nothing(trained, run_score, model):
    with pytest.raises(ModelNotFoundError, match=f"MLflow knows no {model}@99"):
        run_score(ModelRef(model, 99))


def test_no_rows_are_scored_as_none(trained, run_score):
    found = run_score(trained, since=MONDAY + 90 * WEEK)
    assert (found.rows, found.written, found.mean) == (0, 0, None)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([0.1, float("nan")], "1 values that are not finite"),
        ([0.1], "one finite number per row"),
        ([[0.1], [0.2]], "one finite number per row"),
    ],
)
def test_a_model_that_does_not_answer_one_number_per_row_is_named(answer, says):
    class Odd:
        def predict(self, rows):
            return answer

    with pytest.raises(UserCodeError, match=f"m@1 answered.*{says}"):
        predictions(Odd(), [1, 2], "m@1")


# judged on later rows


def judged(model_store, candidate, champion, rows):
    return evaluate(model_store, candidate, champion, rows, loss="brier", epoch=4, seed=0)


def test_a_first_candidate_is_measured_and_not_compared(model_store, trained, dataset_store, model):
    found = judged(model_store, trained, None, holdout(model, dataset_store))
    assert {m.metric for m in found.metrics} == {
        "brier",
        "roc_auc",
        "accuracy",
        "recall",
        "precision",
    }
    assert found.metric("roc_auc").value > 0.8
    assert (found.comparisons, found.note, found.champion) == ((), "no champion yet", None)
    assert 0 < found.load_ms < 5000
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_candidate_is_compared_on_the_same_rows(
    model_store, trained, make_training, dataset_store, model
):
    other = make_training(train=TREES)
    candidate = ModelRef.parse(train_model(model_store, other, loss=BRIER, tags={}).model)
    rows = holdout(model, dataset_store)
    found = judged(model_store, candidate, trained, rows)
    compared = found.comparison("brier")
    assert compared.rows == 168
    assert compared.candidate == pytest.approx(found.metric("brier").value)
    assert compared.champion == pytest.approx(
        judged(model_store, trained, None, rows).metric("brier").value
    )
    same = judged(model_store, trained, trained, rows).comparison("brier")
    assert same.difference == same.error == 0


def test_a_champion_that_saw_the_rows_is_not_compared(model_store, trained, dataset_store, model):
    found = judged(model_store, trained, trained, holdout(model, dataset_store, first=6))
    assert found.comparisons == ()
    assert "was fitted on rows up to" in found.note


def test_too_few_rows_are_not_compared(model_store, trained, dataset_store, model):
    found = judged(model_store, trained, trained, holdout(model, dataset_store).slice(0, 99))
    assert found.comparisons == ()
    assert found.note == "99 labelled rows in the hold-out; a comparison needs 100"


def test_a_candidate_that_never_says_yes_is_still_measured(
    model_store, make_training, dataset_store, model
):
    timid = make_training(train=TIMID)
    candidate = ModelRef.parse(train_model(model_store, timid, loss=BRIER, tags={}).model)
    found = judged(model_store, candidate, None, holdout(model, dataset_store))
    assert found.metric("recall").value == 0
    assert found.metric("precision") is None  # of no rows: not defined
    assert found.metric("brier") is not None


def test_an_unknown_loss_is_refused_before_anything_is_loaded(
    model_store, trained, dataset_store, model
):
    with pytest.raises(ConfigurationError, match="'nope'; known"):
        evaluate(
            model_store, trained, None, holdout(model, dataset_store), loss="nope", epoch=0, seed=0
        )


# how the champion really does


@pytest.fixture
def monitor(dataset_store, model_store, observations, model):
    def make(labels=1):
        return PerformanceMonitor(
            dataset_store,
            model_store,
            observations,
            dataset_store.open(DatasetRef(model, 1)),
            dataset_store.open(DatasetRef(f"{model}.labels", labels)),
            "up",
            *BRIER,
        )

    return make


def test_a_served_window_is_measured_on_its_predictions_and_a_fresh_challenger(
    trained, run_score, monitor, observations, model, dataset_store
):
    assert monitor().measure(trained) == ()
    run_score(trained, since=MONDAY + 6 * WEEK)
    windows = monitor().measure(trained)
    assert [w.index for w in windows] == [6, 7]
    rows = holdout(model, dataset_store)
    served = observations.predictions(trained, MONDAY + 7 * WEEK, MONDAY + 8 * WEEK)["p"].to_numpy()
    last = windows[-1]
    assert last.rows == 168
    assert last.loss == pytest.approx(np.mean((served - rows.y) ** 2))
    assert 0 < last.probe_loss < 0.5
    assert last.gain == pytest.approx(np.subtract(last.champion, last.probe))
    assert monitor().measure(trained) == windows
    assert len(observations.read(model, "performance")) == 2


def test_a_window_with_few_labels_is_not_measured_yet(
    trained, run_score, monitor, dataset_store, labelled_weeks, append, model
):
    run_score(trained, since=MONDAY + 7 * WEEK)
    weeks = labelled_weeks()
    few = weeks.labels.slice(0, 7 * 168 + 150)
    name = f"{model}.late"
    append(dataset_store, name, ArrowSource(few, "id", "at"), "a")
    late = PerformanceMonitor(
        dataset_store,
        monitor().models,
        monitor().observations,
        monitor().data,
        dataset_store.open(DatasetRef(name, 1)),
        "up",
        *BRIER,
    )
    assert late.measure(trained) == ()
    assert len(monitor().measure(trained)) == 1
