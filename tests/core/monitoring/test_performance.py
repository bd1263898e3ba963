"""Realised performance: what was served, against late labels and a cheap challenger."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import brier_score_loss

from airflow_mlops.core.evaluation.metrics import loss_function
from airflow_mlops.core.monitoring.performance import PerformanceMonitor, ServedWindow
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.training.fit import train_model

pytestmark = pytest.mark.services

BRIER = loss_function("brier")


@pytest.fixture
def served(dataset_store, model_store, observations, make_training, labelled_weeks, append, model):
    """``served(share)``: a model that predicted .3 for a share of the rows of week 7."""
    training = make_training()
    ref = ModelRef.parse(train_model(model_store, training, loss=("brier", BRIER), tags={}).model)
    rows = labelled_weeks().rows

    def predict(share: float = 1.0, week: int = 7) -> ModelRef:
        part = rows.slice(week * 168, int(168 * share))
        out = pa.table(
            {
                "key": part["id"].cast(pa.string()),
                "observed_at": part["at"],
                "prediction": pa.array([0.3] * part.num_rows),
            }
        )
        observations.write_predictions(ref, out, dataset=f"{model}@1", run="r")
        return ref

    return predict


@pytest.fixture
def monitor(dataset_store, model_store, observations, model):
    def make() -> PerformanceMonitor:
        data, labels = (
            dataset_store.open(dataset_store.latest(name)) for name in (model, f"{model}.labels")
        )
        return PerformanceMonitor(
            dataset_store, model_store, observations, data, labels, "up", "brier", BRIER
        )

    return make


def test_a_served_window_is_measured_once_and_agrees_with_scikit_learn(
    served, monitor, labelled_weeks
):
    ref = served()
    (found,) = monitor().measure(ref)
    truth = labelled_weeks().labels["up"].to_numpy()[7 * 168 : 8 * 168]
    assert found.loss == pytest.approx(brier_score_loss(truth, np.full(168, 0.3)))
    assert (found.index, found.rows, found.model) == (7, 168, str(ref))
    assert found.probe_loss < found.loss  # a model of the rows beats a constant
    assert monitor().measure(ref) == (found,)
    assert ServedWindow.from_dict(found.to_dict()) == found


def test_a_window_that_nobody_served_is_not_measured(served, monitor):
    ref = served()
    assert monitor().measure(ModelRef(ref.name, ref.version + 1)) == ()
    assert [w.index for w in monitor().measure(ref)] == [7]


def test_labels_for_a_part_of_the_window_wait(
    dataset_store, labelled_weeks, append, served, monitor, model
):
    weeks = labelled_weeks(9)
    append(dataset_store, model, weeks.source(0, 9), app_key="rows")
    half = weeks.label_source(0, 9)
    half = type(half)(half.table.slice(0, 8 * 168 + 100), "id", "at")
    append(dataset_store, f"{model}.labels", half, app_key="labels")
    ref = served()
    part = weeks.rows.slice(8 * 168, 168)
    out = pa.table(
        {
            "key": part["id"].cast(pa.string()),
            "observed_at": part["at"],
            "prediction": pa.array([0.5] * 168),
        }
    )
    monitor().observations.write_predictions(ref, out, dataset=f"{model}@2", run="r")
    assert [w.index for w in monitor().measure(ref)] == [7]


def test_the_first_window_has_no_labels_before_it_and_waits(served, monitor):
    ref = served(week=0)
    assert monitor().measure(ref) == ()


def test_the_challenger_never_sees_the_window_it_is_measured_on(served, monitor):
    found = monitor()
    ref = served()
    asked: list[tuple[datetime, datetime]] = []
    original = type(found)._selection

    class Watching(PerformanceMonitor):
        def _selection(self, since, until):
            asked.append((since, until))
            return original(self, since, until)

    fields = (getattr(found, name) for name in PerformanceMonitor.__dataclass_fields__)
    Watching(*fields).measure(ref)
    window, learnt = asked
    assert learnt[1] == window[0]
    assert window[1] - window[0] == timedelta(days=7)


def test_the_dataset_refs_are_those_of_the_monitor(served, monitor, model):
    served()
    assert monitor().data.ref == DatasetRef(model, 1)
