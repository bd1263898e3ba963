"""What changed between two versions: each part is named, and nothing else."""

import json

import pytest

from airflow_mlops.core.errors import ModelNotFoundError
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.differences import compare_models
from airflow_mlops.core.training.fit import train_model

pytestmark = pytest.mark.services

BRIER = ("brier", loss_function("brier"))

OTHER_FEATURES = """
    def build(rows):
        return rows[["x", "y"]].assign(both=rows["x"] * rows["y"])
"""
COMMENTED = """
    def build(rows):
        # the same, explained
        return rows[["x", "y"]]
"""
STRONGER = """
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed, **params):
        return LogisticRegression(random_state=seed, max_iter=300, **params).fit(X, y)
"""


@pytest.fixture
def trained(model_store, make_training):
    def make(**asked):
        return ModelRef.parse(
            train_model(model_store, make_training(**asked), loss=BRIER, tags={}).model
        )

    return make


@pytest.fixture
def diff(model_store, dataset_store):
    return lambda one, two: compare_models(model_store, dataset_store, one, two)


def test_a_version_is_made_of_the_same_parts_as_itself(diff, trained):
    ref = trained()
    assert str(diff(ref, ref)) == f"{ref} -> {ref}\n  made of the same parts"


def test_parameters_seed_and_what_came_of_them(diff, trained):
    one, two = trained(params={"C": 1.0}), trained(params={"C": 0.01}, seed=2)
    found = diff(one, two)
    assert found.parameters == {"C": (1.0, 0.01)}
    assert found.recipe == {"seed": (1, 2)}
    assert list(found.metrics) == ["base_brier"]
    assert (found.features, found.train, found.data, found.environment) == ((), (), None, ())
    text = str(found).splitlines()
    assert text[1:3] == ["  parameter C: 1.0 -> 0.01", "  seed: 1 -> 2"]
    assert text[3].startswith("  metric base_brier: 0.")


def test_feature_and_training_code_line_by_line(diff, trained):
    found = diff(trained(), trained(features=OTHER_FEATURES, train=STRONGER))
    assert '+    return rows[["x", "y"]].assign(both=rows["x"] * rows["y"])' in found.features
    assert any("max_iter=300" in line for line in found.train)
    assert "features: 2 lines of code changed" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["parameters"] == {}


POWERS = """
    def build(rows, *, power=1, names=("x", "y")):
        return rows[list(names)] ** power
"""


def test_feature_parameters_one_by_one_beside_the_code(diff, trained):
    one = trained(features=POWERS, feature_params={"power": 3, "names": ["x", "y"]})
    two = trained(features=POWERS, feature_params={"power": 5, "names": ["x", "y"]})
    found = diff(one, two)
    assert (found.feature_parameters, found.features) == ({"power": (3, 5)}, ())
    assert str(found).splitlines()[1] == "  feature parameter power: 3 -> 5"
    assert "made of the same parts" not in str(found)
    other = diff(trained(), one)
    lines = str(other).splitlines()
    assert lines[1:3] == [
        "  feature parameter names: none -> ['x', 'y']",
        "  feature parameter power: none -> 3",
    ]
    assert "features: 4 lines of code changed" in lines[3]
    assert json.loads(json.dumps(found.to_dict()))["feature_parameters"] == {"power": [3, 5]}


def test_a_whole_number_is_another_parameter_than_a_fraction(diff, trained):
    one, two = (trained(features=POWERS, feature_params={"power": p}) for p in (1, 1.0))
    assert diff(one, two).feature_parameters == {"power": (1, 1.0)}


def test_rows_that_were_added_and_changed_are_counted(
    diff, trained, labelled_weeks, append, dataset_store
):
    one = trained(weeks=labelled_weeks(8))
    more = labelled_weeks(10)
    append(dataset_store, one.name, more.source(), "k2")
    found = diff(one, trained(weeks=more, data=f"{one.name}@2", data_digest="other"))
    assert found.recipe["data"] == (f"{one.name}@1", f"{one.name}@2")
    # the newest window was read again, and these ten weeks are other ones than those eight
    assert (found.data.added, found.data.changed) == (336, 168)
    assert "336 added, 0 removed, 168 changed" in str(found)


def test_rows_that_are_gone_are_said_so(model_store, trained, tmp_path):
    from airflow_mlops.core.data.datasets import DatasetStore

    one, two = trained(), trained(data_digest="other", seed=5)
    found = compare_models(model_store, DatasetStore(str(tmp_path / "none")), one, two)
    assert found.data is None
    assert f"rows: no dataset {one.name}@1" in str(found)


def test_a_version_that_does_not_say_how_it_was_made(diff, make_version):
    ref = make_version()
    with pytest.raises(ModelNotFoundError, match="does not say how it was made"):
        diff(ref, ref)
