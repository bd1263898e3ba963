"""Scoring: one prediction per row, exactly once; rows that break the contract are set aside."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.deployment.contracts import contract_against
from airflow_mlops.core.deployment.scoring import Batch, score
from airflow_mlops.core.errors import (
    ContractBrokenError,
    ModelChangedError,
    NotEnoughDataError,
    RejectedError,
    UserCodeError,
)
from airflow_mlops.core.evaluation.offline import evaluate, predictions, usable_rows
from airflow_mlops.core.metrics import loss_function
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
            Batch(table.between(since).to_arrow(), commit.ref, "at", "id", "r1"),
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
    batch = Batch(table.between().to_arrow(), commit.ref, "at", "id", "r")
    with pytest.raises(ContractBrokenError, match=r"'x' missing.*'y' retyped.*number.*string"):
        score(model_store, observations, trained, batch)
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


def test_a_key_that_repeats_among_the_rows_is_refused_and_nothing_is_written(
    model_store, observations, trained, dataset_store, append, labelled_weeks, model
):
    rows = labelled_weeks(9).rows
    rows = rows.set_column(0, "id", pa.array([*range(8 * 168), *range(168)]))
    append(dataset_store, model, ArrowSource(rows.slice(0, 8 * 168), "id", "at"), "one")
    commit = append(dataset_store, model, ArrowSource(rows, "id", "at"), "two")
    table = dataset_store.open(DatasetRef.parse(commit.ref))
    batch = Batch(table.between().to_arrow(), commit.ref, "at", "id", "r")
    with pytest.raises(RejectedError, match=f"168 values of key 'id' repeat in {commit.ref}"):
        score(model_store, observations, trained, batch)
    assert observations.served(model) == ()


@pytest.fixture
def holdout(make_training):
    """``holdout(y=...)``: the first 168 labelled rows, some columns replaced; no champion of it."""
    labelled = make_training().rows.slice(0, 168)

    def make(**replaced) -> Labelled:
        rows = labelled.rows
        for name, values in replaced.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
        late = replace(labelled.selection, since="2024-02-19T00:00:00+00:00")
        return replace(labelled, selection=late, rows=rows)

    return make


def test_rows_that_break_a_contract_are_left_out_for_both(
    model_store, make_training, trained, holdout
):
    late = make_training(seed=2)
    other = ModelRef.parse(train_model(model_store, late, loss=BRIER, tags={}).model)
    y = holdout().rows["y"].to_pylist()
    y[5], y[7], y[9] = None, float("nan"), float("inf")
    given = holdout(y=y)
    found = evaluate(model_store, other, trained, given, loss="brier", epoch=0, seed=0)
    (compared,) = found.comparisons
    assert (compared.rows, found.metrics[0].rows) == (165, 165)
    assert found.note.startswith("3 of 168 rows left out")
    assert "column 'y' null" in found.note
    kept = [i for i in range(168) if i not in (5, 7, 9)]
    with model_store.opened(other) as model:
        p = model.predict(given.frame.iloc[kept])
        assert usable_rows(model, given.rows, "id").to_pylist() == [i in kept for i in range(168)]
    assert found.metrics[0].value == pytest.approx(np.mean((p - given.y[kept]) ** 2))


def test_a_null_that_only_the_champion_never_saw_is_left_out_for_both(
    model_store, make_training, trained, holdout
):
    training = make_training(seed=3)
    contract = training.about["contract"]
    columns = [{**c, "nullable": c["name"] == "x" or c["nullable"]} for c in contract["columns"]]
    lenient = replace(training, about={"contract": {"columns": columns}})
    other = ModelRef.parse(train_model(model_store, lenient, loss=BRIER, tags={}).model)
    x = holdout().rows["x"].to_pylist()
    x[3] = None
    found = evaluate(model_store, other, trained, holdout(x=x), loss="brier", epoch=0, seed=0)
    assert found.comparisons[0].rows == 167
    assert found.note.startswith(f"1 of 168 rows left out, for {trained} was trained on none such")


def test_a_reason_not_to_compare_stands_beside_the_rows_left_out(model_store, trained, holdout):
    y = holdout().rows["y"].to_pylist()
    y[5] = None
    found = evaluate(model_store, trained, None, holdout(y=y), loss="brier", epoch=0, seed=0)
    assert found.note.startswith("1 of 168 rows left out")
    assert found.note.endswith("; no champion yet")
    assert found.metrics[0].rows == 167


def test_too_few_usable_rows_are_not_compared(model_store, trained, holdout):
    y = [*holdout().rows["y"].to_pylist()[:20], *[None] * 148]
    found = evaluate(model_store, trained, trained, holdout(y=y), loss="brier", epoch=0, seed=0)
    assert found.comparisons == ()
    assert "; 20 labelled rows in the hold-out; a comparison needs" in found.note


def test_no_usable_row_is_not_enough_data(model_store, trained, holdout):
    given = holdout(y=pa.nulls(168, pa.float64()))
    with pytest.raises(NotEnoughDataError, match=r"all 168 rows .* left out.*'y' null"):
        evaluate(model_store, trained, trained, given, loss="brier", epoch=0, seed=0)


def test_rows_without_a_column_of_the_model_are_named(model_store, trained, holdout):
    rows = holdout().rows.drop_columns(["y"])
    with (
        model_store.opened(trained) as model,
        pytest.raises(ContractBrokenError, match="'y' missing"),
    ):
        usable_rows(model, rows, "id")


def test_a_champion_that_cannot_be_opened_is_an_error_of_its_own(
    model_store, make_training, trained, holdout
):
    other = ModelRef.parse(
        train_model(model_store, make_training(seed=2), loss=BRIER, tags={}).model
    )
    run = model_store.get(trained).run_id
    model_store.client.log_text(run, "changed", "model/data/mlops/estimator/model.skops")
    with pytest.raises(ModelChangedError, match=str(trained)):
        evaluate(model_store, other, trained, holdout(), loss="brier", epoch=0, seed=0)


def test_a_candidate_that_asks_for_more_says_so(model_store, trained, make_version):
    about = model_store.about(trained)
    assert contract_against(model_store, None, about) == ()
    assert contract_against(model_store, trained, about) == ()
    rain = {"name": "rain", "type": "number", "nullable": False, "categories": None}
    wider = {"contract": {"columns": [*about["contract"]["columns"], rain]}}
    assert contract_against(model_store, trained, wider) == ("column 'rain' (number) is new",)
    (unknown,) = contract_against(model_store, make_version(), about)
    assert "cannot be read" in unknown
