"""A model in a process of its own: how fast, how much memory, in which environment."""

from pathlib import Path

import pytest

from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.evaluation import loading
from airflow_mlops.core.evaluation.gate import judge
from airflow_mlops.core.evaluation.loading import load_apart
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.policy import Loads

pytestmark = pytest.mark.services

HUNGRY = """
    import time

    ballast = []

    def build(rows):
        if not ballast:
            ballast.append(b"x" * 200_000_000)
        time.sleep(0.02)
        return rows[["x", "y"]]
"""

ALONE = """
    import os

    def build(rows):
        if "PYTEST_CURRENT_TEST" not in os.environ:
            raise RuntimeError("not in a test any more")
        return rows[["x", "y"]]
"""

HANGS = """
    import os, subprocess, time

    def build(rows):
        if "PYTEST_CURRENT_TEST" not in os.environ:
            with open("{pids}", "w") as file:
                file.write(str(subprocess.Popen(["sleep", "600"]).pid))
            time.sleep(600)
        return rows[["x", "y"]]
"""


@pytest.fixture
def loaded(model_store, make_training):
    def ask(limit=500, **asked):
        training = make_training(**asked)
        brier = ("brier", loss_function("brier"))
        ref = ModelRef.parse(train_model(model_store, training, loss=brier, tags={}).model)
        with model_store.opened(ref) as model:
            return load_apart(model.folder, training.rows.rows, str(ref), p95_ms=limit), model

    return ask


def test_what_a_model_takes_is_measured_and_it_is_the_environment_of_training(loaded):
    light, model = loaded()
    assert light.environment == model.about["recipe"]["environment"]
    assert 0 < light.p95_ms < 1_000
    assert 20 < light.memory_mb < 1_500
    heavy, _ = loaded(features=HUNGRY)
    assert heavy.p95_ms > 20
    assert heavy.memory_mb > light.memory_mb + 150


def test_a_model_that_leans_on_this_process_is_named(loaded):
    with pytest.raises(UserCodeError, match=r"m_\w+@1 does not load or answer.*not in a test any"):
        loaded(features=ALONE)


def test_a_model_that_hangs_is_ended_with_what_it_started(loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "PATIENCE", 10.0)
    pids = tmp_path / "pids"
    with pytest.raises(
        UserCodeError, match=r"@1 does not load .* it took longer than 10.021 s, and"
    ):
        loaded(limit=1, features=HANGS.replace("{pids}", str(pids)))
    status = Path("/proc") / pids.read_text() / "status"
    assert not status.exists() or "\nState:\tZ" in status.read_text()


def test_the_gate_refuses_such_a_model(model_store, make_training):
    training = make_training(features=ALONE)
    brier = ("brier", loss_function("brier"))
    ref = ModelRef.parse(train_model(model_store, training, loss=brier, tags={}).model)
    rows, asked = training.rows.slice(0, 168), {"loss": "brier", "epoch": 0, "seed": 0}
    found = evaluate(model_store, ref, None, rows, gates=[Loads()], **asked)
    verdict = judge([Loads()], found)
    assert verdict.status == "failed"
    assert "does not load or answer in a process of its own" in verdict.reason


def test_another_environment_is_uncertain_while_nobody_asks_for_its_answers(
    model_store, make_training, dataset_store, package
):
    package("1.0", name="something-else")
    training = make_training()
    brier = ("brier", loss_function("brier"))
    ref = ModelRef.parse(train_model(model_store, training, loss=brier, tags={}).model)
    package("2.0", name="something-else")
    rows, asked = training.rows.slice(0, 168), {"loss": "brier", "epoch": 0, "seed": 0}
    for datasets, expected in ((None, "uncertain"), (dataset_store, "passed")):
        found = evaluate(
            model_store, ref, None, rows, gates=[Loads(60_000)], datasets=datasets, **asked
        )
        verdict = judge([Loads(60_000)], found)
        assert verdict.status == expected
        assert "not as it was trained" in str(found.checks)
