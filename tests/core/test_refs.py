"""Names of versioned things: they round-trip, and hostile ones are refused."""

import json
from hashlib import sha256

import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import (
    DatasetRef,
    FeatureRef,
    ModelRef,
    Recipe,
    canonical_digest,
    canonical_json,
    check_name,
)

HOSTILE = (
    "",
    "a'b",
    'a"b',
    "a; drop table victim",
    "a\0b",
    "a" * 64,
    "a🙂",
    "ä",
    "A",
    "1a",
    "_a",
    "../a",
    "a/b",
    "a b",
    "a\n",
    "a-b",
)
RECIPE = Recipe(
    "m",
    "d@1",
    "x",
    "l@2",
    "y",
    "up",
    "s",
    "u",
    "f@fs-0",
    "m:f",
    "t",
    {"b": [1, 2], "a": None},
    3,
    "c",
    "e",
)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused_with_the_rule_and_the_name(name):
    with pytest.raises(ConfigurationError) as caught:
        check_name(name)
    assert repr(name) in str(caught.value)
    assert "at most 63" in str(caught.value)


@pytest.mark.parametrize("name", ["a", "churn", "a1_b", "a" * 63])
def test_a_plain_name_is_returned(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (DatasetRef, "churn@12"),
        (DatasetRef, "churn.labels@0"),
        (ModelRef, "churn@5"),
        (FeatureRef, "churn.features@fs-00112233445566ff"),
    ],
)
def test_a_reference_round_trips_through_its_written_form(kind, text):
    assert str(kind.parse(text)) == text
    assert kind.parse(str(kind.parse(text))) == kind.parse(text)


@pytest.mark.parametrize("kind", [DatasetRef, ModelRef, FeatureRef])
@pytest.mark.parametrize(
    "text",
    ["", "churn", "churn@", "@1", "churn@-1", "churn@1 ", "churn@\u0661", "churn@" + "9" * 19]
    + [f"{name}@1" for name in HOSTILE if name != "a" * 64],
    ids=ascii,
)
def test_a_malformed_reference_names_the_text_and_an_example(kind, text):
    with pytest.raises(ConfigurationError, match="such as churn") as caught:
        kind.parse(text)
    assert repr(text) in str(caught.value)


def test_references_of_one_dataset_order_by_version_and_not_by_text():
    assert DatasetRef("a", 9) < DatasetRef("a", 10)


def test_a_recipe_round_trips_through_json():
    assert Recipe.from_dict(json.loads(json.dumps(RECIPE.to_dict()))) == RECIPE


def test_the_id_of_a_recipe_does_not_depend_on_the_order_of_its_parameters():
    other = Recipe.from_dict(RECIPE.to_dict() | {"params": {"a": None, "b": [1, 2]}})
    assert other.id == RECIPE.id


@pytest.mark.parametrize("name", list(RECIPE.to_dict()))
def test_the_id_of_a_recipe_depends_on_every_part(name):
    changed = {"params": {"b": [2, 1], "a": None}, "seed": 4}.get(name, "changed")
    assert Recipe.from_dict(RECIPE.to_dict() | {name: changed}).id != RECIPE.id


def test_canonical_json_is_one_text_whatever_the_order():
    assert canonical_json({"b": 1, "a": [True, None, "é"]}) == '{"a":[true,null,"\\u00e9"],"b":1}'


def test_a_digest_is_the_sha256_of_the_canonical_text():
    assert canonical_digest({"a": 1}) == sha256(b'{"a":1}').hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x"])
def test_what_json_does_not_know_is_refused_with_a_way_out(value):
    with pytest.raises(ConfigurationError, match=r"not plain JSON.*use text, finite numbers"):
        canonical_json({"a": value})
