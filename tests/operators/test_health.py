"""The look after the system records what is wrong, and fails its task only if it was told to."""

import http.server
import json
import threading
from datetime import UTC, datetime

import psycopg
import pytest

from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.monitoring.resources import Usage
from airflow_mlops.operators.health import CheckHealthOperator
from airflow_mlops.policy import Health
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

WELL = {"status": "healthy", "latest_scheduler_heartbeat": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def look(connections, alone):
    """``look(**rules)``: run the operator once; returns the run."""

    def make(**rules):
        return run(alone(CheckHealthOperator, rules=Health(**rules).to_dict(), retries=0))

    return make


@pytest.fixture
def api(monkeypatch):
    """An API server that says of the components what is put into the mapping."""
    said = {"scheduler": WELL, "dag_processor": WELL, "triggerer": {"status": None}}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/api/v2/monitor/health"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/execution/"
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield said
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def used(observations, model):
    """``used(n, wall_s, outcome)``: a usage that a task left behind."""

    def make(n, wall_s=10.0, outcome="success"):
        facts = {"dag_id": f"{model}__train", "task_id": "train", "run_id": f"r{n}", "try": 1}
        body = Usage(wall_s, 1.0, 300.0).to_dict() | facts
        body |= {"outcome": outcome, "line": f"{outcome} after {wall_s} s"}
        observations.record(model, "usage", f"s{n}", body)

    return make


def test_a_system_that_is_well_is_recorded_as_such(look, api, observations, model):
    done = look()
    (found,) = observations.read(model, "system")
    assert found.subject == f"{model}/{done.run_id}"
    assert found.body == done.value("t")
    body = found.body
    assert (body["status"], body["findings"], body["not_seen"]) == ("ok", [], [])
    assert body["line"].startswith("nothing to report: ")
    assert "scheduler healthy" in body["line"]
    assert body["mlflow_ms"] > 0
    assert len(body["disk_free_gb"]) == 1  # the datasets have no folder yet


def test_components_that_cannot_be_seen_are_said_and_fail_nothing(look, closed_port, monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", f"http://127.0.0.1:{closed_port}/execution/"
    )
    body = look(fail_on="warn").value("t")
    assert body["status"] == "ok"
    assert f"127.0.0.1:{closed_port}" in body["not_seen"][0]
    assert "scheduler not seen" in body["line"]


def test_a_dead_component_of_airflow_is_named(look, api):
    api["dag_processor"] = {"status": "unhealthy", "latest_dag_processor_heartbeat": "noon"}
    body = look().value("t")
    assert body["status"] == "broken"
    assert body["line"] == (
        "Airflow's dag_processor gives no sign of life since noon; start it again"
    )


def test_an_mlflow_that_is_away_is_named(look, api, connect, closed_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    connect("mlflow_default", conn_type="mlflow", host="127.0.0.1", port=closed_port)
    body = look().value("t")
    assert body["status"] == "broken"
    assert "MLflow does not answer" in body["line"]


def test_fail_on_says_what_fails_the_task(look, api, observations, model):
    full = {"disk_free_gb": 1e5}
    assert look(**full).state == "success"
    failed = look(**full, fail_on="error")
    assert isinstance(failed.error, RejectedError)
    assert "GB are free at" in str(failed.error)
    assert len(observations.read(model, "system")) == 2  # recorded all the same


def test_tasks_are_judged_once_by_limits_and_by_their_own_history(look, api, used):
    for n in range(6):
        used(n)
    assert look().value("t")["findings"] == []
    used(6, 40.0)
    used(7, 41.0)
    (finding,) = look().value("t")["findings"]
    assert finding["status"] == "warn"
    assert "needed 41.0 s, 4.1 times the 10.0 s of 6 earlier runs" in finding["line"]
    assert look().value("t")["findings"] == []
    used(8, 2.0, "killed")
    assert look(fail_on="warn").error.args[0].startswith("killed after 2.0 s")


def test_a_limit_that_is_passed_is_broken(look, api, used):
    used(1)
    body = look(rss_mb=200, duration="5s").value("t")
    assert body["status"] == "broken"
    assert [f["line"].partition(") ")[2] for f in body["findings"]] == [
        "held 300 MB, the limit is 200",
        "took 10 s, the limit is 5s",
    ]


def test_the_same_run_again_judges_the_same(api, used, alone, connections, observations):
    used(1)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    dag = alone(CheckHealthOperator, rules=Health(rss_mb=200).to_dict())
    for _ in range(2):
        names = [f["what"] for f in run(dag, at=at).value("t")["findings"]]
        assert f"{dag.dag_id}__train.train (try 1 of r1)" in names
    assert len(observations.read(dag.dag_id, "system")) == 1


def test_tasks_that_nobody_watches_are_said(look, api, observations, model):
    observations.record(model, "system", "an earlier look", {"seen": ""})
    (finding,) = look().value("t")["findings"]
    assert finding["line"].startswith("no task has left a usage since ")


def test_long_silence_is_said(look, api, observations, model, services, used):
    for n in range(8):
        observations.record(model, "system", f"look {n}", {"seen": ""})
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute(
            "update mlops.observations set recorded_at = recorded_at - interval '4 day' "
            "- (7 - right(subject, 1)::int) * interval '1 day' where model = %s",
            (model,),
        )
    used(1)
    (finding,) = look().value("t")["findings"]
    assert finding["line"].startswith("no run of the monitor for 96.0 hours, since ")
    assert look(silent=5.0).value("t")["findings"] == []


def test_rules_that_are_none_are_refused(connections, alone):
    done = run(alone(CheckHealthOperator, rules={"word": "Table"}, retries=0))
    assert isinstance(done.error, ValueError | ConfigurationError)
