"""Training: one recipe, one version; a function that breaks its promise is named."""

import logging
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from airflow_mlops.core.data.contract import Contract
from airflow_mlops.core.errors import (
    ConfigurationError,
    MlopsError,
    NotEnoughDataError,
    UserCodeError,
)
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import FeatureRef, ModelRef
from airflow_mlops.core.training import fit as fitting
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.models import BASE_LOSS, DIGEST, RECIPE, TRAINING_ROWS
from airflow_mlops.core.training.reproduce import reproduce

pytestmark = pytest.mark.services

BRIER = ("brier", loss_function("brier"))


def runs(store, model):
    experiment = store.client.get_experiment_by_name(model).experiment_id
    return {r.info.run_id: r.info.status for r in store.client.search_runs([experiment])}


def test_a_recipe_trained_twice_is_one_version_of_one_finished_run(
    model_store, make_training, model
):
    training = make_training()
    first = train_model(model_store, training, loss=BRIER, tags={"airflow.run_id": "r1"})
    again = train_model(model_store, training, loss=BRIER, tags={"airflow.run_id": "r2"})
    assert (first.created, again.created) == (True, False)
    assert (first.model, first.run_id, first.digest) == (again.model, again.run_id, again.digest)
    assert len(model_store.of_recipe(model, training.recipe.id)) == 1
    assert runs(model_store, model) == {first.run_id: "FINISHED"}
    assert first.to_dict()["rows"] == 7 * 168


def test_a_version_answers_like_the_estimator_and_tells_where_it_comes_from(
    model_store, make_training, model, labelled_weeks
):
    training = make_training()
    done = train_model(model_store, training, loss=BRIER, tags={"who": "me"})
    (version,) = model_store.of_recipe(model, training.recipe.id)
    rows = training.rows
    expected = LogisticRegression(random_state=1).fit(rows.frame[["x", "y"]], rows.y)
    with model_store.opened(version.ref) as loaded:
        found = loaded.predict(rows.frame)
        assert loaded.about["recipe"] == training.recipe.to_dict()
        assert Contract.from_dict(loaded.about["contract"]) == Contract.from_dict(
            training.about["contract"]
        )
    assert np.allclose(found, expected.predict_proba(rows.frame[["x", "y"]])[:, 1])
    cut = len(rows) * 3 // 4
    early = LogisticRegression(random_state=1).fit(rows.frame[["x", "y"]][:cut], rows.y[:cut])
    late = early.predict_proba(rows.frame[["x", "y"]][cut:])[:, 1]
    assert float(version.fact(BASE_LOSS)) == pytest.approx(np.mean((late - rows.y[cut:]) ** 2))
    assert version.fact(TRAINING_ROWS) == str(len(rows))
    assert (version.fact(DIGEST), version.fact(RECIPE)) == (done.digest, done.recipe)
    run = model_store.client.get_run(done.run_id)
    assert run.data.tags["who"] == "me"
    assert run.data.params["data"] == training.recipe.data
    names = {f.path for f in model_store.client.list_artifacts(done.run_id)}
    assert {"model", "recipe.json", "environment.txt"} <= names


TRAIN_TREE = """
    from sklearn.tree import DecisionTreeClassifier

    def fit(X, y, *, seed):
        return DecisionTreeClassifier(max_depth=2, random_state=seed).fit(X, y)
"""

HEAD = "from sklearn.linear_model import LogisticRegression as L\n\n"
LONG = "x" * 7000


@pytest.mark.parametrize(
    ("part", "source", "family", "says"),
    [
        ("train", "def fit(X, y, *, seed):\n    return 1 / 0", UserCodeError,
         r"user_\w+:fit raised ZeroDivisionError: division by zero \(line 2\)"),
        ("train", "def fit(X, y, *, seed): ...", UserCodeError,
         "fit returned NoneType; it has to return a fitted estimator"),
        ("train", "def fit(X, y): ...", UserCodeError, "fit raised TypeError.*seed"),
        ("train", "import os\nfrom sklearn.ensemble import ExtraTreesClassifier as E\n\n"
         "def fit(X, y, *, seed):\n"
         "    return E(5, max_depth=3, random_state=int.from_bytes(os.urandom(3))).fit(X, y)",
         UserCodeError, r"is not deterministic: two fits of the same 1176 rows with seed 1 differ"),
        ("train", HEAD + "def fit(X, y, *, seed):\n    return L()", UserCodeError,
         "fit.*NotFittedError"),
        ("train", "from sklearn.tree import DecisionTreeClassifier as D\n\n"
         "def fit(X, y, *, seed):\n    return D().fit(X, y * 0)", NotEnoughDataError,
         "DecisionTreeClassifier was fitted on 1 classes.*exactly two"),
        ("train", "from sklearn.preprocessing import FunctionTransformer as F\n"
         "from sklearn.pipeline import make_pipeline\n" + HEAD +
         "def double(x):\n    return x * 2\n\n"
         "def fit(X, y, *, seed):\n    return make_pipeline(F(double), L()).fit(X, y)",
         UserCodeError, r"holds types that may run code when loaded: .*double.*save\(folder\)"),
        ("features", "def build(rows):\n    return rows[['x', 'y']].head(7)", UserCodeError,
         r"user_\w+:build returned 7 rows for 1176 rows; it has to return one row for each"),
        ("features", "def build(rows): ...", UserCodeError, "build returned nothing for 1176 rows"),
        ("features", "def build(rows):\n    return rows[['x', 'y']].to_numpy()", UserCodeError,
         "build returned ndarray.*has to return a frame"),
        ("features", "def build(rows):\n    return 7", UserCodeError, "build returned int"),
        ("features", "def build(rows):\n    return rows[['nope']]", UserCodeError,
         "build raised KeyError.*nope"),
        ("features", "def build(rows):\n    return rows[['x', 'kind']]", UserCodeError,
         "fit raised ValueError: could not convert string"),
        ("params", {"C": LONG}, ConfigurationError, "raised"),
    ],
    ids=["raises", "returns nothing", "wrong signature", "not deterministic", "unfitted",
         "one class", "code in estimator", "row count", "no frame", "array", "number",
         "unknown column", "text feature", "bad parameter"],
)  # fmt: skip
def test_what_the_user_did_wrong_is_named_and_no_version_is_made(
    model_store, make_training, model, part, source, family, says
):
    training = make_training(**{part: source})
    with pytest.raises(family, match=says) as caught:
        train_model(model_store, training, loss=BRIER, tags={})
    assert isinstance(caught.value, MlopsError)
    assert model_store.of_recipe(model, training.recipe.id) == ()
    assert set(runs(model_store, model).values()) == {"FAILED"}


def test_a_loss_that_is_no_number_makes_no_version(model_store, make_training, model):
    training = make_training()
    nan = ("nan", lambda y, p: y * np.nan)
    with pytest.raises(UserCodeError, match="metric base_nan is nan: no number to compare with"):
        train_model(model_store, training, loss=nan, tags={})
    assert set(runs(model_store, model).values()) == {"FAILED"}


def test_a_failed_training_can_be_tried_again(model_store, make_training, model):
    training = make_training()
    with pytest.raises(UserCodeError):
        train_model(model_store, training, loss=("nan", lambda y, p: y * np.nan), tags={})
    done = train_model(model_store, training, loss=BRIER, tags={})
    assert sorted(runs(model_store, model).values()) == ["FINISHED", "KILLED"]
    killed = next(r for r, s in runs(model_store, model).items() if s == "KILLED")
    assert model_store.client.get_run(killed).data.tags["mlops.superseded_by"] == done.run_id


POWERS = """
    def build(rows, *, power=1, names=("x", "y")):
        return rows[list(names)] ** power
"""


def test_feature_parameters_are_applied_wherever_the_features_are_built(
    model_store, make_training, dataset_store
):
    """In training, in a model that is loaded, in the archive, and on the run's page."""
    training = make_training(POWERS, feature_params={"power": 3, "names": ("y",)})
    done = train_model(model_store, training, loss=BRIER, tags={})
    rows = training.rows
    expected = LogisticRegression(random_state=1).fit(rows.frame[["y"]] ** 3, rows.y)
    with model_store.opened(ModelRef.parse(done.model)) as loaded:
        found = loaded.predict(rows.frame)
        assert list(loaded.build(rows.frame)) == ["y"]
    assert np.allclose(found, expected.predict_proba(rows.frame[["y"]] ** 3)[:, 1])
    again = model_store.features(FeatureRef.parse(training.recipe.features))
    assert (again.params, again.files) == (training.features.params, training.features.files)
    shown = model_store.client.get_run(done.run_id).data.params["feature_params"]
    assert shown == '{"names":["y"],"power":3}'
    assert reproduce(model_store, dataset_store, ModelRef.parse(done.model)).verdict == (
        "identical bytes"
    )


def test_other_feature_parameters_are_another_recipe(model_store, make_training, model):
    for power in (1, 3, 1):
        training = make_training(POWERS, feature_params={"power": power}, train=TRAIN_TREE)
        train_model(model_store, training, loss=BRIER, tags={})
    assert len(model_store.client.search_model_versions(f"name='{model}'")) == 2


def test_a_feature_parameter_that_build_does_not_take_is_named(model_store, make_training, model):
    training = make_training(POWERS, feature_params={"pow": 3})
    with pytest.raises(UserCodeError, match=r"takes no parameter 'pow'; it has 'power', 'names'"):
        train_model(model_store, training, loss=BRIER, tags={})
    assert set(runs(model_store, model).values()) == {"FAILED"}


def test_a_model_folder_loads_without_this_package(model_store, make_training, tmp_path):
    import subprocess
    import sys

    training = make_training(POWERS, feature_params={"power": 3})
    done = train_model(model_store, training, loss=BRIER, tags={})
    folder = model_store.client.download_artifacts(done.run_id, "model", str(tmp_path))
    frame = training.rows.frame.head(1).assign(y=2.0)
    frame.to_parquet(tmp_path / "rows.parquet")
    code = (
        "import sys; sys.modules['airflow_mlops'] = None\n"
        "import pandas, mlflow.pyfunc\n"
        f"model = mlflow.pyfunc.load_model({folder!r})\n"
        f"print(model.predict(pandas.read_parquet({str(tmp_path / 'rows.parquet')!r}))[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) > 0.9


ACROSS = {
    "mean": ("m=rows.x - rows.x.mean()", "'m'"),
    "shift": ("m=rows.x.shift().fillna(0.0)", "'m'"),
    "look ahead": ("m=rows.x.shift(-1).fillna(0.0)", "'m'"),
    "rank": ("m=rows.x.rank()", "'m'"),
    "position": ("m=rows.index", "'m'"),
    "chance": ("m=__import__('numpy').random.rand(len(rows))", "'m'"),
    "text": ("m=rows.kind.shift().fillna('')", "'m'"),
    "two of three": ("m=rows.x.cumsum(), n=rows.y.diff().fillna(0.0), z=rows.y", "'m', 'n'"),
    "columns": ("**{f'first {rows.id.iloc[0]}': rows.y}", "'first 0'.*"),
}


@pytest.mark.parametrize("name", ACROSS)
def test_features_that_look_across_rows_are_refused(model_store, make_training, model, name):
    code, columns = ACROSS[name]
    training = make_training(f"def build(rows):\n    return rows[['x', 'y']].assign({code})")
    with pytest.raises(
        UserCodeError,
        match=rf"user_\w+:build depends on neighbouring rows.* differ in {columns}; .*in SQL",
    ):
        train_model(model_store, training, loss=BRIER, tags={})
    assert model_store.of_recipe(model, training.recipe.id) == ()


WITHIN = {
    "nulls": "m=rows.x.where(rows.x > 0)",
    "text": "m=rows.kind.map({'a': 1, 'b': 2, 'c': 3}).astype('category')",
    "time": "m=rows['at'].dt.hour, n=(rows.y > 0)",
    "products": "m=rows[['x', 'y', 'x']] @ [0.1, 0.7, 1.3]",
    "single": "m=(rows[['x', 'y', 'x']].astype('float32') @ [0.1, 0.7, 1.3]).astype('float32')",
    "own index": "m=rows.x).set_index(rows['id']).assign(",
}


@pytest.mark.parametrize("name", WITHIN)
def test_features_of_one_row_are_trained_on(model_store, make_training, name):
    training = make_training(
        f"def build(rows):\n    return rows[['x', 'y']].assign({WITHIN[name]})",
        "from sklearn.tree import DecisionTreeClassifier as D\n\n"
        "def fit(X, y, *, seed):\n    return D(max_depth=2, random_state=seed).fit(X, y)",
    )
    assert train_model(model_store, training, loss=BRIER, tags={}).created


SLOW = """
    import time
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed, fails=False, **params):
        time.sleep(0.4)
        if fails:
            raise RuntimeError("no more memory")
        return LogisticRegression(random_state=seed).fit(X, y)
"""


def test_the_run_shows_what_the_machine_did_while_it_trained(
    model_store, make_training, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    done = train_model(model_store, make_training(train=SLOW), loss=BRIER, tags={})
    found = {k: v for k, v in model_store.metrics(done.run_id).items() if k.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= {*found}
    assert found["system/system_memory_usage_megabytes"] > 0
    assert "monitor" not in capfd.readouterr().err


def test_no_monitor_of_the_machine_outlives_a_training(model_store, make_training):
    with pytest.raises(UserCodeError, match="no more memory"):
        train_model(
            model_store, make_training(train=SLOW, params={"fails": True}), loss=BRIER, tags={}
        )
    assert "SystemMetricsMonitor" not in {t.name for t in threading.enumerate()}


def test_a_training_does_not_need_the_machine_to_be_watched(model_store):
    before = logging.getLogger("mlflow.system_metrics.system_metrics_monitor").level
    with model_store.watched("no such run"):
        time.sleep(0.05)
    assert logging.getLogger("mlflow.system_metrics.system_metrics_monitor").level == before


SEARCHED = """
    from pathlib import Path

    class Own:
        def predict(self, X):
            return [0.5] * len(X)

    def fit(X, y, *, seed):
        with Path({seen!r}).open("a") as file:
            file.write(f"{{len(X)}}\\n")
        return Own()
"""


def test_what_cannot_be_kept_is_refused_before_the_long_fit(
    make_training, model_store, tmp_path, monkeypatch
):
    seen = tmp_path / "seen"
    training = make_training(train=SEARCHED.format(seen=str(seen)))
    monkeypatch.setattr(fitting, "LONG", 1_000)
    with pytest.raises(UserCodeError, match=r"consent to pickle: Lifecycle\(allow_pickle=True\)"):
        train_model(model_store, training, loss=BRIER, tags={})
    assert seen.read_text().split() == ["50"]
    done = train_model(model_store, replace(training, allow_pickle=True), loss=BRIER, tags={})
    assert model_store.get(ModelRef.parse(done.model)).tags["mlops.format"] == "pickle"
