"""Bad models that are made on purpose: the usual gates refuse each, and let a good one pass."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.evaluation.gate import judge
from airflow_mlops.core.evaluation.measuring import Answers, assessed
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.evaluation.planted import plant, try_gates, try_gates_of
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.functions import Functions
from airflow_mlops.core.training.models import EVALUATION
from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import AtLeast, AtMost, Loads, NoLeak, NotWorse, Output
from tests.core.evaluation.answering import BASE

DEFAULT = [g for g in Lifecycle.__dataclass_fields__["gates"].default if not isinstance(g, Loads)]


@pytest.fixture
def recipe(make_training, tmp_path):
    """``recipe()``: the functions on the first six weeks, and the seventh as hold-out."""

    def make(**training):
        made = make_training(**training)
        learn, hold = made.rows.slice(0, 6 * 168), made.rows.slice(6 * 168)
        asked = {"params": made.recipe.params, "seed": made.recipe.seed}
        return Functions.load(learn, made.features, made.train, tmp_path / "code", **asked), hold

    return make


@pytest.fixture
def said(recipe):
    """Functions, hold-out, and what a good champion says of it."""
    functions, holdout = recipe()
    champion = functions.estimator(functions.built(), functions.rows.y)
    return functions, holdout, functions.predict(champion, holdout.rows)


def test_the_usual_gates_refuse_every_planted_model_and_name_the_reason(said):
    found = try_gates(DEFAULT, *said, metric="brier", name="m@1")
    caught = {one.planted.partition(":")[0]: (one.verdict.status, one.caught) for one in found}
    assert {name: status for name, (status, _) in caught.items()} == dict.fromkeys(
        ("constant", "shuffled", "leak", "champion"), "failed"
    )
    assert caught["constant"][1] == ("AtLeast roc_auc", "NotWorse brier")
    assert "NotWorse brier" in caught["shuffled"][1]
    assert caught["leak"][1] == ("NoLeak",)
    assert caught["champion"][1] == ("Another model",)
    assert all(one.to_dict()["caught_by"] for one in found)


def test_a_good_model_passes_the_same_gates(said):
    """One of more rows than the champion had, on the rows that planted ones are judged on."""
    functions, holdout, _ = said
    features, y = functions.built(), functions.rows.y
    early = functions.estimator(features.iloc[:100], y[:100])
    late = functions.estimator(features, y)
    old, new = (functions.predict(model, holdout.rows) for model in (early, late))
    answers = Answers(holdout.rows, holdout.y, new, old, functions.features_of)
    found = assessed(BASE, answers, DEFAULT, loss_function("brier"), seed=0)
    assert judge(DEFAULT, found).status == "passed"


def test_gates_that_are_too_wide_let_a_bad_model_pass_and_it_shows(said):
    wide = [NotWorse("brier", margin=9.0)]
    found = try_gates(wide, *said, metric="brier", name="m@1")
    passed = [one.planted.partition(":")[0] for one in found if one.verdict.status == "passed"]
    assert passed == ["constant", "shuffled", "leak"]
    assert {one.caught for one in found if one.verdict.status == "passed"} == {()}
    none = try_gates([Loads()], *said, metric="brier", name="m@1")
    assert {one.verdict.status for one in none} == {"passed"}


QUANTITY = """
    from sklearn.linear_model import LinearRegression

    def fit(X, y, *, seed):
        return LinearRegression().fit(X, y)
"""


def test_quantities_are_planted_as_well(recipe):
    functions, holdout = recipe(train=QUANTITY)
    champion = functions.estimator(functions.built(), functions.rows.y)
    said = functions.predict(champion, holdout.rows)
    gates = [NoLeak(), Output(-2.0, 3.0), AtMost("squared_error", 0.2), NotWorse("squared_error")]
    found = try_gates(gates, functions, holdout, said, metric="squared_error", name="m@1")
    assert [one.verdict.status for one in found] == ["failed"] * 4


def test_what_is_planted_is_the_same_every_time(said):
    one, two = (list(plant(*said)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.answers.candidate, b.answers.candidate)
    features = one[2].answers.build(None)
    assert (features["planted_leak"] == said[1].y).all()


@pytest.mark.services
class TestOfAChampion:
    @pytest.fixture
    def champion(self, model_store, make_training):
        brier = ("brier", loss_function("brier"))
        return ModelRef.parse(train_model(model_store, make_training(), loss=brier, tags={}).model)

    def test_its_own_recipe_and_hold_out_are_taken(
        self, model_store, dataset_store, champion, make_training
    ):
        span = make_training().rows.selection
        until = (datetime.fromisoformat(span.until) + timedelta(days=7)).isoformat()
        held = replace(span, since=span.until, until=until).read(dataset_store)
        found = evaluate(model_store, champion, None, held, loss="brier", epoch=0, seed=0)
        run = model_store.get(champion).run_id
        model_store.log_document(run, EVALUATION, json.dumps(found.to_dict()))
        gates = [AtLeast("roc_auc", 0.6), NoLeak(), NotWorse("brier"), Loads()]
        tried = try_gates_of(model_store, dataset_store, champion, gates, metric="brier")
        assert [one.verdict.status for one in tried] == ["failed"] * 4
        assert f"champion {champion}" in tried[-1].verdict.reason

    def test_one_that_never_was_judged_has_no_hold_out(self, model_store, dataset_store, champion):
        with pytest.raises(ConfigurationError, match=f"{champion} was never judged"):
            try_gates_of(model_store, dataset_store, champion, [NoLeak()], metric="brier")
