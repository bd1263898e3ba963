"""The catalogue: every feature set of a model, told by the tags of its versions."""

import json

import pytest

from airflow_mlops.core.errors import ModelChangedError, ModelNotFoundError
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import FeatureRef, ModelRef
from airflow_mlops.core.training.catalogue import (
    FUNCTION,
    INPUTS,
    OUTPUTS,
    PARAMS,
    TAG_LETTERS,
    FeatureSet,
    feature_set,
    feature_sets,
    feature_tags,
    table_of,
)
from airflow_mlops.core.training.differences import compare_features
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.models import FEATURES

pytestmark = pytest.mark.services

BRIER = ("brier", loss_function("brier"))

POWERS = """
    def build(rows, *, power=1):
        return rows[["x", "y"]].add_prefix("raised_") ** power
"""
INPUT_TYPES = {"x": "number", "y": "number", "kind": "string"}


@pytest.fixture
def trained(model_store, make_training):
    """``trained(power, **recipe)``: a version, and the reference of its feature set."""

    def make(power=None, **asked):
        params = {} if power is None else {"power": power}
        training = make_training(POWERS, feature_params=params, **asked)
        done = train_model(model_store, training, loss=BRIER, tags={})
        return ModelRef.parse(done.model), FeatureRef.parse(training.recipe.features)

    return make


class Counting:
    """The client of a store, and the names of what it was asked."""

    def __init__(self, client):
        self.client, self.asked = client, []

    def __getattr__(self, name):
        self.asked.append(name)
        return getattr(self.client, name)


def test_lists_every_set_with_what_is_known_and_asks_once(model_store, trained, model):
    (one, plain), (two, cubes), (three, _) = trained(), trained(3), trained(3, seed=2)
    store = type(model_store)(Counting(model_store.client))
    found = feature_sets(store, model, champion=three.version)
    assert store.client.asked == ["search_model_versions"]
    assert [f.ref for f in found] == [str(plain), str(cubes)]
    assert [f.params for f in found] == [{}, {"power": 3}]
    assert [f.versions for f in found] == [(one.version,), (two.version, three.version)]
    assert [f.champion for f in found] == [None, three.version]
    assert all(f.function.endswith(":build") and f.function.startswith("user_") for f in found)
    assert all(f.inputs == INPUT_TYPES for f in found)
    assert all(f.outputs == ("raised_x", "raised_y") for f in found)
    assert found[0].first_seen <= found[1].first_seen
    assert found[1].first_seen == model_store.get(two).created_at
    assert json.loads(json.dumps(found[1].to_dict()))["params"] == {"power": 3}
    head, first, second = table_of(found).splitlines()
    assert head.split("  ")[0] == "feature set"
    assert first.index(" 3 -> 2 ") == second.index(" 3 -> 2 ")
    assert ' {"power":3} ' in second
    assert " 2, 3 (champion) " in second


def test_a_model_nobody_trained_has_none(model_store, model, make_version):
    assert feature_sets(model_store, model, None) == ()
    make_version()  # it says nothing about features
    assert feature_sets(model_store, model, None) == ()


def test_tags_that_are_absent_or_were_edited_leave_it_unknown(model_store, trained, model):
    ref, _ = trained(3)
    number = str(ref.version)
    model_store.client.set_model_version_tag(model, number, PARAMS, "{power: 3")
    model_store.client.set_model_version_tag(model, number, INPUTS, "7")
    for tag in (FUNCTION, OUTPUTS):
        model_store.client.delete_model_version_tag(model, number, tag)
    (found,) = feature_sets(model_store, model, None)
    assert (found.function, found.params, found.inputs, found.outputs) == ("", {}, {}, ())
    assert "unknown" in str(found)
    assert "? -> ?" in table_of([found])


def test_a_list_too_long_for_a_tag_is_left_out(make_training):
    training = make_training()
    wide = [f"column_{i}" * 10 for i in range(TAG_LETTERS // 80)]
    tags = feature_tags(training.features, training.about["contract"], wide)
    assert set(tags) == {FUNCTION, PARAMS, INPUTS}


def test_one_set_shows_its_source(model_store, trained):
    ref, features = trained(3)
    found, code = feature_set(model_store, features, None)
    assert isinstance(found, FeatureSet)
    assert (found.ref, found.versions) == (str(features), (ref.version,))
    assert code.params == {"power": 3}
    assert 'add_prefix("raised_") ** power' in code.files["__init__.py"]
    assert "parameters   power = 3" in str(found)
    assert "inputs       x (number), y (number), kind (string)" in str(found)


def test_a_set_that_does_not_exist_is_named_with_those_that_do(model_store, trained, model):
    _, features = trained()
    wrong = FeatureRef(f"{model}.features", "fs-0000000000000000")
    for ask in (
        lambda: feature_set(model_store, wrong, None),
        lambda: compare_features(model_store, features, wrong),
    ):
        with pytest.raises(ModelNotFoundError, match=f"with {wrong}; there are {features}"):
            ask()


def test_source_that_was_changed_is_not_shown(model_store, trained):
    ref, features = trained()
    run = model_store.get(ref).run_id
    model_store.client.log_text(run, "x", "model/data/mlops/features/__init__.py")
    with pytest.raises(ModelChangedError, match="not those that were evaluated"):
        feature_set(model_store, features, None)


def test_two_sets_are_compared_parameter_by_parameter(model_store, trained, make_training):
    (_, three), (_, five) = trained(3), trained(5)
    found = compare_features(model_store, three, five)
    assert str(found) == f"{three} -> {five}\n  feature parameter power: 3 -> 5"
    assert str(compare_features(model_store, three, three)).endswith("made of the same parts")
    training = make_training(POWERS.replace('["x", "y"]', '["y"]'), feature_params={"power": 3})
    train_model(model_store, training, loss=BRIER, tags={})
    other = compare_features(model_store, three, FeatureRef.parse(training.recipe.features))
    assert (other.parameters, other.outputs) == ({}, {"raised_x": ("made", None)})
    assert "features: 2 lines of code changed" in str(other)
    assert "output raised_x: made -> none" in str(other)
    assert json.loads(json.dumps(other.to_dict()))["inputs"] == {}


def test_all_versions_are_read_however_many_pages_they_fill(model_store, make_version, model):
    """MLflow answers in pages."""
    refs = [make_version() for _ in range(3)]
    search = model_store.client.search_model_versions

    class Paged(Counting):
        def search_model_versions(self, wanted, size, page_token):
            assert size == 1000
            return search(wanted, 2, page_token=page_token)

    store = type(model_store)(Paged(model_store.client))
    assert [v.ref for v in store.versions(model)] == refs
    assert all(FEATURES not in v.tags for v in store.versions(model))
