"""A model that is asked again: the features and the answers of its training, or what differs."""

import json
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.evaluation.evaluation import Evaluation
from airflow_mlops.core.evaluation.gate import judge
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.agreement import check_answers
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.policy import Loads
from tests.conftest import MONDAY

pytestmark = pytest.mark.services

BRIER = ("brier", loss_function("brier"))

# What it computes depends on something that no archive holds, as on the version of a package.
OUTSIDE = """
    import os

    import numpy as np

    def build(rows):
        shift = float(os.environ.get("MLOPS_TEST_SHIFT", "0"))
        if shift > 1000:
            raise KeyError(shift)
        return rows[["x", "y"]].assign(wave=np.sin(rows["x"]) + shift)
"""
# It learns from y alone: whatever else is built, the answers stay.
DEAF = """
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def fit(X, y, *, seed):
        return make_pipeline(
            make_column_transformer(("passthrough", ["y"])), LogisticRegression()
        ).fit(X, y)
"""


@pytest.fixture
def trained(model_store, make_training):
    def make(**asked):
        training = make_training(OUTSIDE, **asked)
        return ModelRef.parse(train_model(model_store, training, loss=BRIER, tags={}).model)

    return make


@pytest.fixture
def check(model_store, dataset_store):
    def ask(ref, datasets=dataset_store):
        with model_store.opened(ref) as model:
            return {c.name: c for c in check_answers(datasets, model)}

    return ask


def test_features_and_answers_are_what_they_were(check, trained, model_store):
    ref = trained()
    found = check(ref)
    assert {name: c.status for name, c in found.items()} == {"features": "ok", "answers": "ok"}
    assert found["features"].found == "200 rows have the features of training"
    with model_store.opened(ref) as model:
        columns = model.about["answers"]["features"]["columns"]
    assert sorted(columns) == ["wave", "x", "y"]


def test_features_that_differ_are_named_though_no_answer_moved(check, trained, monkeypatch):
    ref = trained(train=DEAF)
    monkeypatch.setenv("MLOPS_TEST_SHIFT", "1e-4")
    found = check(ref)
    assert {n: c.status for n, c in found.items()} == {"features": "failed", "answers": "ok"}
    assert "'wave' differ on 200 rows: the code and the packages (env-" in str(found["features"])
    assert "build depends on something else" in str(found["features"])


def test_another_environment_is_the_likely_cause(check, trained, monkeypatch):
    ref = trained(environment="env-0123456789abcdef")
    assert check(ref)["features"].status == "ok"  # another environment alone is no difference
    monkeypatch.setenv("MLOPS_TEST_SHIFT", "0.5")
    found = check(ref)
    assert "trained in env-0123456789abcdef" in found["features"].found
    assert "another version of a package" in found["features"].found
    assert found["answers"].status == "failed"
    assert "200 answers moved by up to" in found["answers"].found


def test_the_last_digit_is_rounding(check, trained, monkeypatch):
    ref = trained()
    monkeypatch.setenv("MLOPS_TEST_SHIFT", "1e-16")
    found = check(ref)["features"]
    assert found.status == "ok"
    assert "up to rounding" in found.found


def test_features_that_cannot_be_built_are_a_finding(check, trained, monkeypatch):
    ref = trained()
    monkeypatch.setenv("MLOPS_TEST_SHIFT", "1001")
    found = check(ref)
    assert found["features"].found == "building them raises KeyError: 1001.0"
    assert {c.status for c in found.values()} == {"failed"}


def test_a_model_holds_no_key_of_the_rows_that_it_learnt_from(trained, model_store, dataset_store):
    """Several rows share a moment, so the time of the first does not tell which they were."""
    with model_store.opened(trained()) as model:
        answers = model.about["answers"]
        assert (answers["rows"], "keys" in answers) == (200, False)
        answers["since"] = (MONDAY + timedelta(hours=7 * 168 - 201)).isoformat()
        answers["rows"] = 201  # one more at that moment, which is not among the 200
        assert {c.status for c in check_answers(dataset_store, model)} == {"ok"}


def test_rows_that_are_gone_or_others_are_said_so(check, trained, dataset_store, append, tmp_path):
    ref = trained()
    gone = check(ref, DatasetStore(str(tmp_path / "empty")))
    assert {c.status for c in gone.values()} == {"uncertain"}
    table, labels = (
        dataset_store.open(dataset_store.latest(name)).between().to_arrow()
        for name in (ref.name, f"{ref.name}.labels")
    )
    fewer, other = (DatasetStore(str(tmp_path / name)) for name in ("fewer", "other"))
    for store in (fewer, other):
        append(store, f"{ref.name}.labels", ArrowSource(labels, "id", "at"))
    append(fewer, ref.name, ArrowSource(table.slice(0, 7 * 168 - 50), "id", "at"))
    lost = check(ref, fewer)
    assert {c.found for c in lost.values()} == {f"50 of its rows are gone from {ref.name}@1"}
    place = table.schema.get_field_index("x")
    append(
        other,
        ref.name,
        ArrowSource(table.set_column(place, "x", pa.array([7.0] * len(table))), "id", "at"),
    )
    found = check(ref, other)["features"]
    assert found.status == "failed"
    assert f"'wave', 'x' differ on 200 rows: {ref.name}@1 holds other rows" in found.found


def test_a_model_of_an_older_package_leaves_it_uncertain(model_store, dataset_store, trained):
    with model_store.opened(trained()) as model:
        del model.about["answers"]["features"]
        features, answers = check_answers(dataset_store, model)
    assert (features.status, answers.status) == ("uncertain", "ok")
    assert "trained before features were written down" in features.found


def test_types_of_the_rows_are_those_of_training(check, model_store, make_training, labelled_weeks):
    """A null outside the newest rows would turn their whole numbers into fractions."""
    weeks = labelled_weeks()
    count = pa.array([None, *range(1, weeks.rows.num_rows)], pa.int64())
    weeks = replace(weeks, rows=weeks.rows.append_column("count", count))
    code = 'def build(rows):\n    return rows[["y"]].assign(n=rows["count"])'
    train = (
        "from sklearn.ensemble import HistGradientBoostingClassifier as H\n\n"
        "def fit(X, y, *, seed):\n    return H(max_iter=3, random_state=seed).fit(X, y)"
    )
    training = make_training(code, train, weeks)
    ref = ModelRef.parse(train_model(model_store, training, loss=BRIER, tags={}).model)
    assert {c.status for c in check(ref).values()} == {"ok"}


class TestGate:
    @pytest.fixture
    def judged(self, model_store, make_training, dataset_store):
        def ask(ref):
            rows = make_training().rows.slice(0, 168)
            found = evaluate(
                *(model_store, ref, None, rows),
                loss="brier",
                epoch=0,
                seed=0,
                datasets=dataset_store,
                gates=[Loads(60_000)],
            )
            assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
            return judge([Loads(60_000)], found)

        return ask

    def test_a_candidate_that_computes_the_same_here_passes(self, judged, trained):
        found = judged(trained())
        assert (found.status, len(found.checks)) == ("passed", 1)

    def test_a_candidate_with_other_features_here_is_refused_by_name(
        self, judged, trained, monkeypatch
    ):
        ref = trained(train=DEAF)
        monkeypatch.setenv("MLOPS_TEST_SHIFT", "0.5")
        found = judged(ref)
        assert found.status == "failed"
        assert f"{ref}: features: 'wave' differ on 200 rows" in found.reason
