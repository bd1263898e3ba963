"""Scoring: one prediction per row, exactly once; rows that break the contract are set aside."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.deployment.scoring import score
from airflow_mlops.core.errors import ContractBrokenError, UserCodeError
from airflow_mlops.core.evaluation.metrics import loss_function
from airflow_mlops.core.evaluation.offline import evaluate, predictions
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.training.fit import train_model

pytestmark = pytest.mark.services

BRIER = ("brier", loss_function("brier"))


@pytest.fixture
def trained(model_store, make_training) -> ModelRef:
    return ModelRef.parse(train_model(model_store, make_training(), loss=BRIER, tags={}).model)


@pytest.fixture
def scored(model_store, observations, dataset_store, trained, model, append, labelled_weeks):
    """``scored(**replaced)``: append an eighth week, with columns replaced, and score it."""

    def run(source=None, key="w", **replaced):
        weeks = labelled_weeks(9)
        source = source or weeks.source(8, 9, **replaced)
        commit = append(dataset_store, model, source, app_key=key)
        table = dataset_store.open(DatasetRef.parse(commit.ref))
        since = table.watermark - timedelta(hours=167)
        done = score(
            model_store,
            observations,
            trained,
            table.between(since),
            dataset=commit.ref,
            time="at",
            key="id",
            run="r1",
        )
        return done, observations.served(model)

    return run


def test_each_row_is_predicted_once_however_often_it_is_scored(scored, model_store, trained):
    first, served = scored()
    again, same = scored()
    assert (first.rows, first.written, first.quarantined) == (168, 168, 0)
    assert again.written == 0
    assert same == served
    assert first.mean == pytest.approx(np.mean([p for _, _, p in served]))


def test_a_null_where_training_saw_none_is_quarantined_and_the_rest_is_scored(
    scored, labelled_weeks, observations, model
):
    values = labelled_weeks(9).rows["y"].to_pylist()[8 * 168 :]
    values[5], values[7] = None, float("nan")
    done, served = scored(y=values)
    assert (done.written, done.quarantined) == (166, 2)
    assert not {str(8 * 168 + 5), str(8 * 168 + 7)} & {key for key, _, _ in served}


def test_a_column_of_another_type_stops_scoring_and_is_named(
    model_store, observations, trained, dataset_store, append, labelled_weeks, model
):
    rows = labelled_weeks(1).rows
    rows = rows.set_column(rows.schema.get_field_index("y"), "y", pa.array(["1 MW"] * 168))
    rows = rows.rename_columns(["id", "at", "ex", "y", "kind"])
    commit = append(dataset_store, f"{model}_other", ArrowSource(rows, "id", "at"))
    table = dataset_store.open(DatasetRef.parse(commit.ref))
    asked = {"dataset": commit.ref, "time": "at", "key": "id", "run": "r"}
    with pytest.raises(ContractBrokenError, match=r"'x' missing.*'y' retyped.*number.*string"):
        score(model_store, observations, trained, table.between(), **asked)
    assert observations.served(model) == ()


class Raises:
    def predict(self, frame):
        msg = "no column 'z'"
        raise KeyError(msg)


class Wrong:
    def __init__(self, answer):
        self.answer = answer

    def predict(self, frame):
        return self.answer


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Raises(), "m@1 raised KeyError on 2 rows: .*'z'"),
        (Wrong([0.5]), "one finite number per row"),
        (Wrong([0.5, float("nan")]), "1 values that are not finite"),
    ],
)
def test_a_model_that_does_not_answer_is_named(model, words):
    with pytest.raises(UserCodeError, match=words):
        predictions(model, [1, 2], "m@1")


def test_a_candidate_and_its_champion_are_measured_on_the_same_later_rows(
    model_store, make_training, trained, dataset_store, labelled_weeks
):
    training = make_training(seed=2)
    other = ModelRef.parse(train_model(model_store, training, loss=BRIER, tags={}).model)
    from airflow_mlops.core.data.selection import Selection

    span = training.rows.selection
    until = labelled_weeks().rows["at"][-1].as_py() + timedelta(hours=1)
    held = Selection(span.data, span.labels, "up", span.until, until.isoformat())
    found = evaluate(
        model_store, other, trained, held.read(dataset_store), loss="brier", epoch=3, seed=0
    )
    (compared,) = found.comparisons
    assert compared.rows == 168
    assert compared.difference == pytest.approx(0, abs=1e-9)  # the same estimator twice
    assert (found.champion, found.epoch, found.note) == (str(trained), 3, "")


def test_a_champion_that_was_fitted_on_the_holdout_is_not_compared(
    model_store, make_training, trained
):
    training = make_training(seed=2)
    other = ModelRef.parse(train_model(model_store, training, loss=BRIER, tags={}).model)
    found = evaluate(model_store, other, trained, training.rows, loss="brier", epoch=0, seed=0)
    assert found.comparisons == ()
    assert "inside the hold-out" in found.note
