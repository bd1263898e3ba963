"""Verbs about versions, against real stores."""

import pytest

pytestmark = pytest.mark.services


def test_two_models_are_compared(mlops, trained_champions, model):
    trained_champions(2)
    done = mlops("diff", f"{model}@1", f"{model}@2")
    assert done.code == 0
    assert done.out.splitlines()[:2] == [f"{model}@1 -> {model}@2", "  parameter C: 1.0 -> 2.0"]
    done = mlops("diff", f"{model}@1", f"{model}@2", "--json")
    assert done.json["parameters"] == {"C": [1.0, 2.0]}


def test_two_versions_of_a_dataset_are_compared(
    mlops, connections, dataset_store, append, labelled_weeks
):
    weeks = labelled_weeks(2)
    append(dataset_store, "d", weeks.source(0, 1))
    append(dataset_store, "d", weeks.source(), "k2")
    done = mlops("diff", "d@1", "d@2", "--data")
    assert done.code == 0
    assert "d@1 -> d@2: 168 -> 336 rows, 168 added" in done.out
    done = mlops("diff", "d@1", "d@9", "--data")
    assert done.code == 2
    assert "no dataset d@9" in done.err


def test_a_version_is_reproduced(mlops, trained_champions, model):
    (ref,) = trained_champions(1)
    done = mlops("reproduce", str(ref))
    assert done.code == 0
    assert done.out.startswith(f"{ref}: identical bytes")
    assert mlops("reproduce", str(ref), "--json").json["verdict"] == "identical bytes"


@pytest.mark.parametrize("verb", ["reproduce", "diff"])
def test_an_unknown_version_is_named(mlops, connections, ledger, model, verb):
    done = mlops(verb, f"{model}@7", *([f"{model}@8"] if verb == "diff" else []))
    assert done.code == 2
    assert f"{model}@7" in done.err


def test_the_lineage_and_the_card_of_a_version(mlops, trained_champions, model):
    (ref,) = trained_champions(1)
    done = mlops("lineage", str(ref))
    assert done.code == 0
    assert done.out.startswith(f"{ref} (champion)  files ")
    assert mlops("lineage", str(ref), "--json").json["recipe"]["model"] == model
    assert mlops("card", str(ref)).out.startswith(f"# Model {ref}")
    page = mlops("card", str(ref), "--html").out
    assert page.startswith("<!doctype html>")
    assert f"<title>Model {ref}</title>" in page
    data = mlops("card", f"{model}@1", "--data", "--json").json
    assert data["card"].startswith(f"# Dataset {model}@1")


def test_a_retrain_with_versions_that_are_there(mlops, trained_champions, model, ledger):
    (ref,) = trained_champions(1)
    features = mlops("lineage", str(ref), "--json").json["recipe"]["features"]
    done = mlops(
        *("retrain", model, "--reason", "the old set", "--no-trigger"),
        *("--features", features, "--data", f"{model}@1"),
    )
    assert done.code == 0
    assert ledger.state(model).entries[-1].evidence["pins"] == {
        "features": features,
        "data": f"{model}@1",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--features", "{}.features@fs-0000000000000000"), "there are {}.features@fs-"),
        (("--features", "nonsense"), "not a feature set reference: 'nonsense'"),
        (("--data", "{}@99"), "no dataset {}@99"),
    ],
    ids=["features", "no reference", "data"],
)
def test_a_retrain_with_versions_that_are_not_there(
    mlops, trained_champions, model, ledger, words, says
):
    trained_champions(1)
    words = [word.format(model) for word in words]
    done = mlops("retrain", model, "--reason", "r", "--no-trigger", *words)
    assert done.code == 2
    assert says.format(model) in done.err
    assert [e.op for e in ledger.state(model).entries] == ["promote"]


POWERS = """
    def build(rows, *, power=1):
        return rows[["x", "y"]] ** power
"""


@pytest.fixture
def two_sets(trained_champions, model, model_store):
    """Two champions, each with feature parameters of its own; the references of their sets."""
    refs = [trained_champions(1, features=POWERS, feature_params={"power": p})[0] for p in (3, 5)]
    return [model_store.get(ref).tags["mlops.features"] for ref in refs]


def test_the_feature_sets_of_a_model_and_of_all(mlops, two_sets, model):
    done = mlops("features", model)
    assert done.code == 0
    head, one, two = done.out.splitlines()
    assert head.split()[:3] == ["feature", "set", "function"]
    assert [one.split()[0], two.split()[0]] == two_sets
    assert '{"power":3}' in one
    assert "2 (champion)" in two
    sets = mlops("features", model, "--json").json["features"]
    assert [s["params"] for s in sets] == [{"power": 3}, {"power": 5}]
    assert [s["champion"] for s in sets] == [None, 2]
    assert mlops("features", "--json").json["features"] == sets


def test_one_feature_set_with_its_source(mlops, two_sets):
    done = mlops("features", two_sets[0])
    assert done.code == 0
    assert done.out.splitlines()[0] == two_sets[0]
    assert "parameters   power = 3" in done.out
    assert "def build" not in done.out
    done = mlops("features", two_sets[0], "--source")
    assert "# __init__.py" in done.out
    assert "def build(rows, *, power=1):" in done.out
    assert (
        "def build"
        in mlops("features", two_sets[0], "--source", "--json").json["source"]["__init__.py"]
    )


def test_two_feature_sets_are_compared(mlops, two_sets):
    one, two = two_sets
    done = mlops("diff", one, two)
    assert done.out == f"{one} -> {two}\n  feature parameter power: 3 -> 5\n"
    assert mlops("diff", one, two, "--json").json["parameters"] == {"power": [3, 5]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("features", "{}.features@fs-0000000000000000"), "there are {}.features@fs-"),
        (("features", "{}.features@fs-xyz"), "not a feature set reference"),
        (("features", "{}", "--source"), "name it, name.features@fs-..."),
        (("features", "nobody"), "trained with a feature set; models: {}"),
        (("features", "No Name"), "not a valid name: 'No Name'"),
        (
            ("diff", "{}@1", "{}.features@fs-0000000000000000"),
            "not a feature set reference: '{}@1'",
        ),
        (
            ("diff", "{0}.features@fs-0000000000000000", "{0}.features@fs-0000000000000001"),
            "with {}.features@fs-0000000000000000; there are",
        ),
    ],
)
def test_a_feature_set_that_is_not_there_is_named(mlops, trained_champions, model, words, says):
    trained_champions(1)
    done = mlops(*(word.format(model) for word in words))
    assert done.code == 2
    assert says.format(model) in done.err
