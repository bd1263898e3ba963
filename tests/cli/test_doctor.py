"""``airflow mlops doctor NAME --gates``: would the gates let a bad model pass?"""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg
import pytest

from airflow_mlops.core.entries import Entry
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.monitoring.citations import CITED, cite
from airflow_mlops.core.monitoring.observations import Observations
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


def as_owner(ledger, *statements):
    """What the owner of the database can do."""
    with psycopg.connect(ledger.dsn, autocommit=True) as connection:
        connection.execute("alter table mlops.decisions disable trigger all")
        for statement in statements:
            connection.execute(statement)
        connection.execute("alter table mlops.decisions enable trigger all")


def test_a_model_whose_entries_are_all_gone_is_found(mlops, champions, ledger, model):
    champions(1)
    assert f"ok  ledger and aliases: {model}: 1 entries verified" in mlops("doctor").out
    as_owner(ledger, f"delete from mlops.decisions where model = '{model}'")
    done = mlops("doctor")
    assert done.code == 1
    assert f"{model}: LedgerLostError: MLflow remembers entry 1" in done.out


def test_a_request_that_was_lost_is_found(mlops, champions, ledger, model):
    champions(1)
    assert mlops("retrain", model, "--reason", "new meter", "--no-trigger").code == 0
    assert mlops("doctor").code == 0
    as_owner(ledger, f"delete from mlops.decisions where model = '{model}' and seq = 2")
    done = mlops("doctor")
    assert done.code == 1
    assert f"{model}: LedgerLostError: MLflow remembers entry 2" in done.out


def test_a_finding_that_is_not_what_a_decision_read_is_named(mlops, champions, ledger, model):
    champions(1)
    observations = Observations(ledger.dsn)
    observations.record(model, "drift", f"{model}@1:0", {"window": 0})
    said = cite(observations.read(model, "drift"))
    draft = Entry(model, "keep", "", "decide", "r", 1, evidence={CITED: said})
    ledger.record(model, "k", {}, lambda _: draft)
    assert mlops("doctor").code == 0
    with psycopg.connect(ledger.dsn, autocommit=True) as owner:
        owner.execute("alter table mlops.observations disable trigger keep_finding")
        owner.execute("update mlops.observations set body = '{}' where model = %s", (model,))
        owner.execute("alter table mlops.observations enable always trigger keep_finding")
    done = mlops("doctor")
    assert done.code == 1
    assert f"{model}: EvidenceChangedError: entry 2 rests on the finding of drift on" in done.out


def test_an_entry_of_somebody_else_stops_one_model_and_is_set_aside(
    mlops, champions, ledger, make_version, registry, ask, model
):
    champions(1)
    other = make_version(name=f"{model}.other")
    registry.promote(other, ask("k"), epoch=None, order=None)
    body = "body::jsonb || jsonb_build_object('seq', 2, 'key', 'x', 'extra', 1)"
    as_owner(
        ledger,
        "alter table mlops.decisions drop constraint decisions_shape",
        "insert into mlops.decisions (model, seq, prev_hash, hash, body) select model, 2, hash, "
        f"encode(sha256(convert_to(hash || E'\\n' || ({body})::text, 'UTF8')), 'hex'), "
        f"({body})::text from mlops.decisions where model = '{model}'",
    )
    done = mlops("doctor")
    assert done.code == 1
    assert f"{model}: ForeignEntryError: entry 2 of the ledger of {model} was not wr" in done.out
    assert f"{other.name}: 1 entries verified, aliases agree" in done.out
    assert mlops("retrain", model, "--reason", "r", "--no-trigger").code == 1
    assert mlops("doctor", model, "--set-aside", "2").code == 2  # why?
    done = mlops("doctor", model, "--set-aside", "2", "--reason", "nobody of us", "--by", "ann")
    assert done.code == 0, done.err
    assert f"entry 2 of {model} counts no more (entry 3, by ann): nobody of us" in done.out
    done = mlops("doctor")
    assert done.code == 0, done.out
    assert f"{model}: 3 entries verified, 1 set aside" in done.out
    assert mlops("retrain", model, "--reason", "r", "--no-trigger").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set-aside", "2", "--reason", "r"), "whose entries?"),
        (("m", "--set-aside", "2", "--vouch", "--reason", "r"), "two things"),
        (("m", "--vouch", "--reason", "r"), "signing_key"),
        (("m", "--set-aside", "2", "--reason", "r"), "has no entry 2"),
    ],
)
def test_what_cannot_be_said_of_entries_says_why(mlops, ledger, arguments, says):
    done = mlops("doctor", *arguments)
    assert done.code == 2
    assert says in done.err
