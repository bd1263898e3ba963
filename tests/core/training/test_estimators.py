"""Estimators as files: the same bytes for the same estimator, no code that nobody asked for."""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import all_estimators
from xgboost import XGBClassifier

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.training.estimators import write_estimator
from airflow_mlops.core.training.mlops_loader_v1 import Model
from airflow_mlops.core.training.trusted import is_safe

EMPTY = inspect.Parameter.empty
X, Y = make_classification(200, 5, random_state=0)

ESTIMATORS = {
    "forest": lambda: RandomForestRegressor(3, random_state=0),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "boosting of categories": lambda: HistGradientBoostingClassifier(
        max_iter=3, random_state=0, categorical_features="from_dtype"
    ),
    "chosen columns": lambda: make_pipeline(
        make_column_transformer(
            (StandardScaler(), make_column_selector(dtype_include=object)), remainder="passthrough"
        ),
        LogisticRegression(),
    ),
    "search in time": lambda: GridSearchCV(
        LogisticRegression(), {"C": [1.0, 2.0]}, cv=TimeSeriesSplit(2)
    ),
    "imputer": lambda: make_pipeline(IterativeImputer(random_state=0), LogisticRegression()),
    "calibrated": lambda: CalibratedClassifierCV(LogisticRegression(), cv=2),
    "xgboost": lambda: XGBClassifier(n_estimators=3, random_state=0),
    "lightgbm": lambda: LGBMClassifier(n_estimators=3, random_state=0, verbose=-1),
    "lightgbm regressor": lambda: LGBMRegressor(n_estimators=3, random_state=0, verbose=-1),
}

UNKEPT = {"Birch": "skops cannot write a structure that refers to itself"}
"""Public estimators of scikit-learn that are refused, and why."""

PARTS = {
    "estimator": LogisticRegression(),
    "estimators": [("a", LogisticRegression()), ("b", LogisticRegression(C=2.0))],
    "steps": [("a", LogisticRegression())],
    "transformer_list": [("a", StandardScaler())],
    "transformers": [("a", StandardScaler(), [0, 1])],
    "param_grid": {"C": [1.0, 2.0]},
    "param_distributions": {"C": [1.0, 2.0]},
}
"""What meta-estimators have to be given."""

FIXED = {"random_state": 0, "max_iter": 20, "n_estimators": 3, "n_iter": 2}
"""What makes them small, and the same each time."""


def fitted_kinds():
    """Yield each public estimator that fits a small table, fitted."""
    positive = np.abs(X)
    tables = ((positive, Y), (X, X[:, 0]), (X, np.c_[Y, 1 - Y]), (X[:, :1], X[:, 1]), (Y, Y))
    for name, kind in all_estimators():
        known = inspect.signature(kind).parameters
        required = {n: v for n, v in PARTS.items() if n in known and known[n].default is EMPTY}
        made = {**required, **{n: v for n, v in FIXED.items() if n in known}}
        for table in tables:
            with contextlib.suppress(Exception):
                yield name, kind(**made).fit(*table), table[0]
                break


BUILD = CodeArchive("m:build", {"__init__.py": "def build(rows):\n    return rows\n"})

OWN = """
import json
import pathlib

class Mean:
    def __init__(self, value):
        self.value = value

    def predict(self, X):
        return [self.value] * len(X)
"""
SAVING = """
    def save(self, folder):
        (folder / "mean.json").write_text(json.dumps(self.value))

    @classmethod
    def load(cls, folder):
        return cls(json.loads((folder / "mean.json").read_text()))
"""
FIT = """
def fit(X, y, *, seed):
    return Mean(float(sum(y)) / len(y))
"""


def written_model(tmp_path, estimator, train=None, **asked):
    """Write what a model folder holds, and open it with the loader that is shipped."""
    data = tmp_path / "model"
    train = train or CodeArchive("m:fit", {"__init__.py": ""})
    BUILD.save(data / "features")
    train.save(data / "train")
    written = write_estimator(estimator, data / "estimator", **asked)
    about = {"build": "build", "fit": train.function, "estimator": written.to_dict()}
    (data / "mlops.json").write_text(json.dumps(about))
    return written, Model(data)


@pytest.mark.filterwarnings("ignore")
def test_every_public_estimator_of_scikit_learn_is_stored_safely(tmp_path):
    seen, refused = 0, {}
    for name, fitted, table in fitted_kinds():
        seen += 1
        try:
            written = write_estimator(fitted, tmp_path / name)
        except UserCodeError as error:
            refused[name] = str(error)
            continue
        assert written.format == "skops"
        back = skops.io.load(tmp_path / name / "model.skops", trusted=list(written.trusted))
        for ask in ("predict_proba", "predict", "transform"):
            if hasattr(fitted, ask):
                with contextlib.suppress(TypeError, ValueError, AttributeError):
                    said, again = (getattr(one, ask)(table) for one in (fitted, back))
                    if hasattr(said, "toarray"):
                        said, again = said.toarray(), again.toarray()
                    np.testing.assert_allclose(again, said, 1e-9, 1e-12, err_msg=name)
    assert refused.keys() == UNKEPT.keys(), refused
    assert seen > 180


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "numpy.load",
        "numpy.memmap",
        "joblib.load",
        "sklearn.datasets._base.load_files",
        "sklearn.utils._testing.assert_array_equal",
        "sklearn.base.os",
        "sklearn.pipeline.joblib",
        "sklearn.externals.joblib.load",
        "sklearn.nowhere.X",
        "scipy.io.loadmat",
        "pickle.loads",
        "builtins.eval",
        "",
    ],
)
def test_what_is_no_maths_is_not_safe(name):
    assert not is_safe(name)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_comes_back_as_it_was(tmp_path, name):
    frame = pd.DataFrame(X)
    fitted = ESTIMATORS[name]().fit(frame, Y)
    written, model = written_model(tmp_path, fitted)
    classifies = hasattr(fitted, "predict_proba")
    expected = fitted.predict_proba(frame)[:, 1] if classifies else fitted.predict(frame)
    assert written.format == "skops"
    assert np.array_equal(model.predict(frame), expected)


# A search keeps how long its fits took.
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "search in time"])
def test_two_fits_have_the_same_bytes(tmp_path, name):
    frame = pd.DataFrame(X)
    digests = {
        write_estimator(ESTIMATORS[name]().fit(frame, Y), tmp_path / str(i)).digest
        for i in range(2)
    }
    assert len(digests) == 1


def test_another_process_writes_the_same_bytes(tmp_path):
    here = write_estimator(ESTIMATORS["boosting"]().fit(X, Y), tmp_path / "here").digest
    code = """if True:
        import pathlib, sys
        from sklearn.datasets import make_classification
        from sklearn.ensemble import HistGradientBoostingClassifier
        from airflow_mlops.core.training.estimators import write_estimator
        X, Y = make_classification(200, 5, random_state=0)
        fitted = HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(X, Y)
        print(write_estimator(fitted, pathlib.Path(sys.argv[1])).digest)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "there")]
    environment = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == here


def test_other_rows_make_other_bytes(tmp_path):
    one = write_estimator(ESTIMATORS["pipeline"]().fit(X, Y), tmp_path / "1").digest
    two = write_estimator(ESTIMATORS["pipeline"]().fit(X[1:], Y[1:]), tmp_path / "2").digest
    assert one != two


def test_the_packages_an_estimator_comes_from_are_known(tmp_path):
    both = make_pipeline(StandardScaler(), ESTIMATORS["lightgbm"]())
    written = write_estimator(both.fit(X, Y), tmp_path)
    assert {"lightgbm", "sklearn"} <= set(written.modules)


def test_code_in_an_estimator_is_refused_and_nothing_is_left(tmp_path):
    estimator = make_pipeline(FunctionTransformer(np.abs), FunctionTransformer(print))
    with pytest.raises(UserCodeError, match=r"may run code .*builtins.print.*allow_pickle=True"):
        write_estimator(estimator, tmp_path)
    assert not list(tmp_path.iterdir())


def test_pickle_is_written_by_consent_only_and_shown(tmp_path):
    estimator = make_pipeline(FunctionTransformer(print), LogisticRegression())
    written, _ = written_model(tmp_path, estimator, allow_pickle=True)
    assert written.format == "pickle"
    assert [p.name for p in (tmp_path / "model" / "estimator").iterdir()] == ["model.pkl"]


def test_a_pickled_class_of_the_training_module_is_found_again(tmp_path):
    train = CodeArchive("m:fit", {"__init__.py": OWN + FIT})
    train.save(tmp_path / "code")
    fitted = train.load(tmp_path / "code")(X, Y, seed=0)
    with pytest.raises(UserCodeError, match="Mean"):
        write_estimator(fitted, tmp_path / "refused")
    written, model = written_model(tmp_path, fitted, train, allow_pickle=True)
    assert written.format == "pickle"
    assert model.predict(X[:2]) == [Y.mean()] * 2


def test_a_class_that_saves_itself_needs_no_pickle(tmp_path):
    train = CodeArchive("m:fit", {"__init__.py": OWN + SAVING + FIT})
    train.save(tmp_path / "code")
    fitted = train.load(tmp_path / "code")(X, Y, seed=0)
    written, model = written_model(tmp_path, fitted, train)
    assert (written.format, written.type) == ("folder", "Mean")
    assert model.predict(X[:2]) == [Y.mean()] * 2


def test_what_cannot_be_pickled_either_is_named(tmp_path):
    estimator = make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression())
    with pytest.raises(UserCodeError, match="estimator Pipeline cannot be pickled"):
        write_estimator(estimator, tmp_path, allow_pickle=True)


def test_a_settled_file_holds_no_time_and_no_address(tmp_path):
    write_estimator(ESTIMATORS["pipeline"]().fit(X, Y), tmp_path)
    with zipfile.ZipFile(tmp_path / "model.skops") as file:
        assert {i.date_time for i in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(len(name) < 12 for name in file.namelist())
