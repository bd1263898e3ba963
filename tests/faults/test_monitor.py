"""A tick of the monitor that is killed, or finds no database: measured once, decided once."""

import pyarrow as pa
import pytest

from airflow_mlops.core.retraining.evidence import open_request

pytestmark = pytest.mark.services


@pytest.fixture
def facts(
    services, trained_champions, observations, labelled_weeks, dataset_store, tmp_path, model
):
    """A champion that served week 7, badly; its labels are there."""
    (ref,) = trained_champions(1)
    part = labelled_weeks().rows.slice(7 * 168, 168)
    columns = {"key": part["id"].cast(pa.string()), "observed_at": part["at"]}
    rows = pa.table({**columns, "prediction": pa.array([0.3] * 168)})
    observations.write_predictions(ref, rows, dataset=f"{model}@1", run="r")
    return {
        "mlflow": services.urls["mlflow"],
        "dsn": services.dsn("mlops", user="mlops_task"),
        "root": dataset_store.root,
        "code": str(tmp_path),
        "ref": str(ref),
    }


@pytest.mark.parametrize(
    "die", ["finding:before", "finding:after", "insert:before", "insert:after"]
)
def test_a_killed_tick_measures_and_decides_once_when_it_is_tried_again(
    nursery, facts, ledger, observations, model, die
):
    nursery.kill("tick", facts, die)
    found = nursery.succeed("tick", facts)
    assert nursery.succeed("tick", facts) == found
    entries = ledger.state(model).entries
    assert [e.op for e in entries] == ["promote", "retrain"]
    assert found["seq"] == 2
    assert open_request(ledger.state(model)) is None
    measured = observations.read(model, "performance")
    assert [o.body["index"] for o in measured] == [7]
    assert measured[0].body["rows"] == 168


def test_ticks_at_once_decide_once(nursery, facts, ledger, model):
    ended = nursery.run(*[{"scenario": "tick", "facts": facts}] * 3)
    assert [e["code"] for e in ended] == [0, 0, 0]
    assert {e["found"]["seq"] for e in ended} == {2}
    assert len(ledger.state(model).entries) == 2


def test_a_database_that_is_away_is_said_and_nothing_is_lost(nursery, facts, ledger, model):
    away = {**facts, "dsn": "host=127.0.0.1 port=1 dbname=x connect_timeout=1"}
    (ended,) = nursery.run({"scenario": "tick", "facts": away})
    assert ended["code"] == 1
    assert nursery.succeed("tick", facts)["op"] == "retrain"
    assert len(ledger.state(model).entries) == 2
