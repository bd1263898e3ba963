"""What a model needs each column for: measured by permutation, the same in every run."""

import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression

from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.training.importance import COLUMNS, ROWS, importances, spread

BRIER = loss_function("brier")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(1_000, 3)), columns=["self", "little", "none"])
    return frame, (2 * frame.self + frame.little + rng.normal(size=1_000) > 0).to_numpy(float)


def of_model(model, y):
    return lambda frame: float(BRIER(y, model.predict_proba(frame)[:, 1]).mean())


def test_it_is_what_scikit_learn_finds(rows):
    frame, y = rows
    model = LogisticRegression().fit(frame, y)
    found = importances(frame, list(frame), of_model(model, y))
    asked = {"scoring": "neg_brier_score", "n_repeats": 50, "random_state": 1}
    expected = permutation_importance(model, frame, y, **asked).importances_mean
    assert list(found.values()) == pytest.approx(expected, rel=0.1, abs=0.002)
    assert found == importances(frame, list(frame), of_model(model, y))
    assert list(frame) == ["self", "little", "none"]


def test_a_fall_of_the_loss_counts_as_nothing_and_types_are_kept(rows):
    frame, _ = rows
    frame = frame.assign(kind=pd.Categorical(np.where(frame.self > 0, "a", "b")))

    def loss(found):
        assert found.kind.dtype == frame.kind.dtype
        assert sorted(found.self) == sorted(frame.self)
        return -float((found.self != frame.self).mean())

    assert importances(frame, ["self", "kind"], loss) == {"self": 0.0, "kind": 0.0}


def test_features_that_are_built_in_place_do_not_change_what_is_permuted(rows):
    frame, _ = rows

    def loss(found):
        found["self"] *= 2
        return float((found.self / 2 != frame.self).mean())

    assert importances(frame.copy(), ["self", "none"], loss)["none"] == 0.0


@pytest.mark.parametrize("fails", [UserCodeError("no"), ValueError("shapes"), float("nan")])
def test_what_cannot_be_measured_is_not_known(rows, fails, caplog):
    def loss(_):
        if isinstance(fails, Exception):
            raise fails
        return fails

    assert importances(rows[0], ["self"], loss) == {}
    assert "importances of columns are not known" in caplog.text


def test_it_is_bounded():
    assert importances(pd.DataFrame(), [f"c{i}" for i in range(COLUMNS + 1)], None) == {}
    assert [sum(spread(n).to_pylist()) for n in (1, 7, 50_000)] == [1, 7, ROWS]
    chosen = np.flatnonzero(spread(50_000).to_pylist())
    assert (chosen[0], chosen[-1], np.ptp(np.diff(chosen))) == (0, 49_999, 1)
