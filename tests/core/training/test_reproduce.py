"""Reproduction: a fresh process, the archived code, and the first step that differs."""

import json
from dataclasses import replace

import pytest

from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    ModelChangedError,
    ModelNotFoundError,
    UserCodeError,
)
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training import reproduce as module
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.models import EVALUATION
from airflow_mlops.core.training.provenance import Environment
from airflow_mlops.core.training.reproduce import reproduce

pytestmark = pytest.mark.services

BRIER = ("brier", loss_function("brier"))

BOOSTING = """
    from sklearn.ensemble import HistGradientBoostingClassifier

    def fit(X, y, *, seed):
        return HistGradientBoostingClassifier(max_iter=5, random_state=seed).fit(X, y)
"""

# What it computes depends on something that is in no recipe: a variable of the environment.
OUTSIDE = """
    import os
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed):
        noise = 0.0 if "PYTEST_CURRENT_TEST" in os.environ else {noise}
        return LogisticRegression(C=1.0 + noise).fit(X, y)
"""


@pytest.fixture
def trained(model_store, make_training):
    def make(**asked):
        done = train_model(model_store, make_training(**asked), loss=BRIER, tags={})
        return ModelRef.parse(done.model), done.run_id

    return make


@pytest.mark.parametrize("train", [None, BOOSTING], ids=["logistic", "boosting"])
def test_a_version_is_reproduced_to_the_byte(model_store, dataset_store, trained, train):
    ref, _ = trained(**({"train": train} if train else {}))
    found = reproduce(model_store, dataset_store, ref)
    assert (found.verdict, found.differs_from, found.moved) == ("identical bytes", "", 0.0)
    assert [s.name for s in found.steps] == ["rows", "features", "estimator"]
    assert found.environment == ()
    assert str(found).startswith(f"{ref}: identical bytes\n  same  rows")
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == "identical bytes"


def test_importances_travel_with_a_version_and_are_no_part_of_its_recipe(
    model_store, dataset_store, make_training
):
    plain = make_training()
    training = replace(plain, importance=True)
    assert training.recipe.id == plain.recipe.id
    ref = ModelRef.parse(train_model(model_store, training, loss=BRIER, tags={}).model)
    found = model_store.about(ref)["importance"]
    assert list(found) == ["kind", "x", "y"]
    assert (found["kind"], found["y"] > 0.1 > 10 * found["x"]) == (0.0, True)
    assert reproduce(model_store, dataset_store, ref).verdict == "identical bytes"


def test_the_rows_it_was_judged_on_are_predicted_too(model_store, dataset_store, trained):
    ref, run = trained()
    span = {"since": "2024-02-19T00:00:00+00:00", "until": "2024-02-26T00:00:00+00:00"}
    model_store.log_document(run, EVALUATION, json.dumps(span))
    found = reproduce(model_store, dataset_store, ref)
    assert (found.verdict, found.predictions) == ("identical bytes", 200 + 168)


@pytest.mark.parametrize(
    ("noise", "tolerance", "verdict"),
    [
        ("1e-9", 1e-6, "within tolerance"),
        ("0.5", 1e-6, "differs"),
        ("0.5", 1.0, "within tolerance"),
    ],
)
def test_what_depends_on_more_than_its_recipe_is_found(
    model_store, dataset_store, trained, noise, tolerance, verdict
):
    ref, _ = trained(train=OUTSIDE.format(noise=noise))
    found = reproduce(model_store, dataset_store, ref, tolerance=tolerance)
    assert (found.verdict, found.differs_from) == (verdict, "estimator")
    assert found.moved > 0
    assert "from step 'estimator' on" in str(found)
    assert "OTHER estimator" in str(found)


def test_another_environment_is_named_before_anything_else(
    model_store, dataset_store, trained, monkeypatch
):
    ref, _ = trained()
    now = module.environment()
    older = tuple(
        "scikit-learn==0.1" if d.startswith("scikit-learn==") else d for d in now.distributions
    )
    changed = Environment(older, now.python, now.platform, now.blas, now.gpu, now.machine)
    monkeypatch.setattr(module, "environment", lambda: changed)
    found = reproduce(model_store, dataset_store, ref)
    assert [c.name for c in found.environment] == ["scikit-learn"]
    assert "-> 0.1 (used by the model)" in str(found).splitlines()[1]


def test_the_authors_checkout_is_not_needed(
    model_store, dataset_store, trained, user_module, tmp_path
):
    ref, _ = trained()
    for path in (tmp_path / "user_code").glob("*.py"):
        path.unlink()
    assert reproduce(model_store, dataset_store, ref).verdict == "identical bytes"


def test_code_that_fails_here_names_what_is_installed_differently(
    model_store, dataset_store, trained, monkeypatch
):
    train = """
        import os
        from sklearn.linear_model import LogisticRegression

        if "PYTEST_CURRENT_TEST" not in os.environ:
            import a_package_that_went_away

        def fit(X, y, *, seed):
            return LogisticRegression().fit(X, y)
    """
    monkeypatch.setattr("airflow_mlops.core.data.features._check_travels", lambda *_: None)
    ref, _ = trained(train=train)
    with pytest.raises(
        UserCodeError, match=r"No module named 'a_package_that_went_away'.*installed"
    ):
        reproduce(model_store, dataset_store, ref)


def test_a_training_that_dies_is_an_error(model_store, dataset_store, trained):
    train = """
        import os
        from sklearn.linear_model import LogisticRegression

        def fit(X, y, *, seed):
            if "PYTEST_CURRENT_TEST" not in os.environ:
                os._exit(9)
            return LogisticRegression().fit(X, y)
    """
    ref, _ = trained(train=train)
    with pytest.raises(UserCodeError, match=f"training {ref.name} again ended with code 9"):
        reproduce(model_store, dataset_store, ref)


def test_rows_that_are_gone_are_named(model_store, trained, tmp_path):
    from airflow_mlops.core.data.datasets import DatasetStore

    ref, _ = trained()
    with pytest.raises(DatasetNotFoundError, match=f"no dataset {ref.name}@"):
        reproduce(model_store, DatasetStore(str(tmp_path / "elsewhere")), ref)


def test_files_that_were_changed_are_not_reproduced(model_store, dataset_store, trained):
    ref, run = trained()
    model_store.client.log_text(
        run, "def build(rows): ...", "model/data/mlops/features/__init__.py"
    )
    with pytest.raises(ModelChangedError, match=f"files of {ref} are not those"):
        reproduce(model_store, dataset_store, ref)


def test_a_version_that_does_not_say_how_it_was_made(model_store, dataset_store, make_version):
    ref = make_version()
    with pytest.raises(ModelNotFoundError, match=f"{ref} does not say how it was made"):
        reproduce(model_store, dataset_store, ref)


def test_fitting_all_rows_twice_finds_what_a_sample_does_not(model_store, make_training):
    train = """
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        def fit(X, y, *, seed):
            keep = np.arange(len(X)) if len(X) < 1000 else np.random.permutation(len(X))[:500]
            return LogisticRegression().fit(X.iloc[keep], y[keep])
    """
    training = make_training(train=train)
    with pytest.raises(UserCodeError, match="is not deterministic: two fits of the same 1176 rows"):
        train_model(model_store, replace(training, verify="twice"), loss=BRIER, tags={})
