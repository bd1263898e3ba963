"""Estimators as files: the same bytes for the same estimator, no code that nobody asked for."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from xgboost import XGBClassifier

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.training.estimators import write_estimator
from airflow_mlops.core.training.mlops_loader_v1 import Model

X, Y = make_classification(200, 5, random_state=0)

ESTIMATORS = {
    "forest": lambda: RandomForestRegressor(3, random_state=0),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "calibrated": lambda: CalibratedClassifierCV(LogisticRegression(), cv=2),
    "xgboost": lambda: XGBClassifier(n_estimators=3, random_state=0),
    "lightgbm": lambda: LGBMClassifier(n_estimators=3, random_state=0, verbose=-1),
    "lightgbm regressor": lambda: LGBMRegressor(n_estimators=3, random_state=0, verbose=-1),
}

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


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_comes_back_as_it_was(tmp_path, name):
    fitted = ESTIMATORS[name]().fit(X, Y)
    written, model = written_model(tmp_path, fitted)
    expected = fitted.predict_proba(X)[:, 1] if hasattr(fitted, "predict_proba") else None
    assert written.format == "skops"
    assert np.array_equal(model.predict(X), fitted.predict(X) if expected is None else expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_fits_have_the_same_bytes(tmp_path, name):
    digests = {
        write_estimator(ESTIMATORS[name]().fit(X, Y), tmp_path / str(i)).digest for i in range(2)
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
