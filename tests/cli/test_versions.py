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
