"""``airflow mlops doctor NAME --gates``: would the gates let a bad model pass?"""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.training.models import EVALUATION

pytestmark = pytest.mark.services

DAG_FILE = """
from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import *

Lifecycle(
    name="{name}",
    data=Table("warehouse", "public.t", "id", "at", "up", "public.labels"),
    select=Window("28d"),
    features="project.features:build",
    train="project.train:fit",
    approve=Approval(by=["ann"]),
    {gates}
)
"""


@pytest.fixture
def champion(model_store, dataset_store, trained_champions, make_training):
    """A champion that was judged on the week after its training rows."""
    (ref,) = trained_champions(1)
    span = make_training().rows.selection
    until = (datetime.fromisoformat(span.until) + timedelta(days=7)).isoformat()
    held = replace(span, since=span.until, until=until).read(dataset_store)
    found = evaluate(model_store, ref, None, held, loss="brier", epoch=0, seed=0)
    text = json.dumps(found.to_dict())
    model_store.log_document(model_store.get(ref).run_id, EVALUATION, text)
    return ref


@pytest.fixture
def declared(tmp_path, model):
    def write(gates="", name=model):
        folder = tmp_path / "dags"
        folder.mkdir(exist_ok=True)
        (folder / "other.py").write_text("Lifecycle = 1 / 0\n", "utf-8")
        path = folder / "theirs.py"
        path.write_text(DAG_FILE.format(name=name, gates=gates), "utf-8")
        return str(path)

    return write


def test_the_usual_gates_let_no_bad_model_pass(mlops, champion, declared, monkeypatch):
    path = declared()
    done = mlops("doctor", champion.name, "--gates", "--dags", path)
    assert done.code == 0, done.err
    assert f"4 bad models, made of the recipe of {champion}:" in done.out
    assert "failed     leak      a feature that is the label" in done.out
    assert "by NoLeak" in done.out
    assert f"4 of 4 do not pass the gates of {champion.name}" in done.out
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", path.rpartition("/")[0])
    found = mlops("doctor", champion.name, "--gates", "--json").json
    assert (found["healthy"], found["model"]) == (True, str(champion))
    assert [t["verdict"]["status"] for t in found["tried"]] == ["failed"] * 4


def test_gates_that_let_one_pass_end_with_code_1(mlops, champion, declared):
    path = declared('gates=[AtLeast("roc_auc", 0.6)],')
    done = mlops("doctor", champion.name, "--gates", "--dags", path)
    assert done.code == 1
    assert "passed     leak" in done.out
    assert "by nothing: tighten the gates" in done.out


def test_what_cannot_be_asked_says_why(mlops, ledger, declared, model, tmp_path, monkeypatch):
    path = declared(name="other")
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path / "dags"))
    for arguments, says in (
        (("doctor", "--gates"), "doctor --gates: whose? name the model"),
        (("doctor", model), "--gates tries its gates on bad models"),
        (("doctor", model, "--gates", "--dags", path), f"{path} declares other"),
        (("doctor", model, "--gates"), f"declares {model!r}: give it with --dags; "),
        (("doctor", "other", "--gates"), "no decision on a model 'other' is on record"),
    ):
        done = mlops(*arguments)
        assert done.code == 2
        assert says in done.err
    assert "ZeroDivisionError" in mlops("doctor", model, "--gates").err
