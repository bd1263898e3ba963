"""A person is forgotten although the call is killed at any write; nobody reads a mixture."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.erasures import FOLDER
from airflow_mlops.core.data.version_log import UNDER_WAY
from airflow_mlops.core.deployment.cards import data_card
from airflow_mlops.core.evaluation.flips import Case, Flips, Segment
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.training.models import DATA, FLIPS, LABELS, SINCE, UNTIL
from tests.conftest import MONDAY, WEEK
from tests.core.monitoring.test_observations import SHOWN

pytestmark = pytest.mark.services

KEY = 100
TABLES = ("predictions", "exposures", "outcomes", "quarantine", "observations", "rewritten")


@pytest.fixture
def known(model, registry, model_store, make_version, ask, tmp_path, labelled_weeks, append):
    """A champion that learnt from two versions of a dataset; returns it and the store."""
    weeks, store = labelled_weeks(2), DatasetStore(str(tmp_path / "first"))
    append(store, model, weeks.source(0, 1), "one")
    append(store, model, weeks.source(0, 2, x=[v + 1 for v in weeks.rows["x"].to_pylist()]), "two")
    append(store, f"{model}.labels", weeks.label_source(0, 1))
    ref = make_version()
    registry.promote(ref, ask("first"), epoch=None, order=None)
    facts = {DATA: f"{model}@2", LABELS: f"{model}.labels@1"}
    facts |= {SINCE: MONDAY.isoformat(), UNTIL: (MONDAY + WEEK).isoformat()}
    for name, value in facts.items():
        model_store.tag(ref, name, value)
    return ref, store


@pytest.fixture
def prepared(known, model_store, observations, services, tmp_path):
    """``prepared(n)``: all of it as it was before anybody was forgotten; facts for the nursery."""
    ref, first = known
    run_id = model_store.get(ref).run_id
    case = Case(str(KEY), "2024-01-01", {"y": "secret"}, 0.1, 0.9)
    found = Flips(str(ref), "m@0", "2024-01-01", "2024-01-08", "class", 0, Segment("", 10, 2))
    flips = json.dumps(replace(found, cases=(case,)).to_dict())
    card = data_card(first.open(DatasetRef(ref.name, 2)))
    table = pa.table({"key": [str(KEY)], "observed_at": [MONDAY], "prediction": [0.5]})
    aside = {"key": str(KEY), "observed_at": MONDAY, "reason": "", "row": {"y": "secret"}}

    def make(number):
        root = tmp_path / f"root{number}"
        shutil.copytree(first.root, root)
        for name, text in ((FLIPS, flips), ("data-card.md", card), ("monitoring/d.html", "secret")):
            model_store.log_document(run_id, name, text)
        observations.write_predictions(ref, table, dataset=f"{ref.name}@2", run="r")
        observations.quarantine(ref.name, f"{ref.name}@2", [aside], run="r")
        for status in ("broken", "warn"):
            finding = {**SHOWN, "status": status, "line": f"{KEY}: secret"}
            observations.record(ref.name, "contract", f"run {number}", finding)
        facts = {"mlflow": services.urls["mlflow"], "dsn": observations.dsn, "root": str(root)}
        return {**facts, "name": ref.name, "keys": [str(KEY)], "key": f"forget:{number}"}

    return make


def notes_of(facts):
    log = DatasetStore(facts["root"]).log
    return log.list_files(log.find(facts["name"]), FOLDER)


def assert_forgotten(facts, known, model_store, observations):
    ref, _ = known
    store = DatasetStore(facts["root"])
    for name, versions in ((ref.name, 3), (f"{ref.name}.labels", 2)):
        assert store.latest(name).version == versions
        for version in range(1, versions + 1):
            table = store.open(DatasetRef(name, version))
            table.verify()
            assert KEY not in table.between().to_arrow()["id"].to_pylist()
        assert store.log.list_files(store.log.find(name), UNDER_WAY) == []
    assert notes_of(facts) == []
    run_id = model_store.get(ref).run_id
    assert Flips.from_dict(json.loads(model_store.document(run_id, FLIPS))).cases == ()
    card = data_card(store.open(DatasetRef(ref.name, 2)))
    assert model_store.document(run_id, "data-card.md") == card
    assert "secret" not in model_store.document(run_id, "monitoring/d.html")
    with psycopg.connect(observations.dsn) as connection:
        for table in TABLES:
            asked = f"select to_jsonb(t)::text from mlops.{table} t where model = %s"
            kept = str(connection.execute(asked, (ref.name,)).fetchall())
            assert "secret" not in kept
            assert f'"key": "{KEY}"' not in kept


def test_a_call_killed_at_any_write_is_finished_by_the_next_as_one_entry(
    nursery, known, prepared, registry, model_store, observations, model
):
    number, ended_calls = 0, 0
    while True:
        facts = prepared(number)
        die = f"write:after:{number}" if number else "write:before:1"
        (ended,) = nursery.run({"scenario": "forget_person", "facts": facts, "die": die})
        if ended["signal"] == 0:
            break
        assert ended["signal"] == 9, ended
        done = number > 0 and not notes_of(facts)  # only its answer was lost
        again = nursery.succeed("forget_person", {**facts, "key": f"again:{number}"})
        found = [part["rows"] for part in again["datasets"]]
        assert found == ([0, 0] if done else [2, 1]), f"killed at {die}"
        assert_forgotten(facts, known, model_store, observations)
        entries = [e for e in registry.ledger.state(model).entries if e.op == "forget"]
        ended_calls += 1
        assert len(entries) == ended_calls, f"killed at {die}"
        assert dict(entries[-1].evidence) == {
            "keys": 1,
            "rows": {model: 2, f"{model}.labels": 1},
            "models": [f"{model}@1"],
        }
        number += 1 if number < 3 else 3  # every third of the writes: each takes seconds
    assert ended_calls > 12


def test_who_reads_all_the_time_gets_rows_and_digest_that_belong_together(
    nursery, labelled_weeks, append, tmp_path
):
    weeks, store = labelled_weeks(6), DatasetStore(str(tmp_path / "datasets"))
    for last in range(2, 7):
        append(store, "d", weeks.source(0, last), f"k{last}")
    place = tmp_path / "met"
    place.mkdir()
    keys = [str(key) for key in range(5, 160, 31)]
    facts = {"root": store.root, "keys": keys, "version": 5, "place": str(place)}
    meet = {"meet": "sidecar", "place": str(place), "number": 2}
    reader, writer = nursery.run(
        {"scenario": "read", "facts": facts},
        {"scenario": "forget_each", "facts": facts, **meet},
    )
    assert (reader["code"], writer["code"]) == (0, 0)
    found = reader["found"]
    assert (found["wrong"], found["left"]) == ([], 0)
    assert found["read"] > 1
    assert found["told"] > len(keys)
    assert Path(place, "reader").exists()
