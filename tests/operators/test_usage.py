"""Every task of a model is measured and stored; a monitor that cannot is no task's concern."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, conf, task

from airflow_mlops.core.monitoring.spool import Spool
from airflow_mlops.listeners.usage import UsageListener, deliver
from tests.operators.airflow_home import HOME
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Folder of this test alone, where usages wait."""
    monkeypatch.setenv("AIRFLOW__MLOPS__USAGE_FOLDER", str(tmp_path / "usages"))
    return tmp_path / "usages"


@pytest.fixture
def tagged(connections, model):
    """``tagged(tags, **tasks)``: a Dag of plain functions, one of which may fail."""

    def make(*functions, tags=("mlops",)):
        with DAG(f"{model}__other", schedule=None, tags=list(tags)) as dag:
            for function in functions:
                task(function)()
        return dag

    return make


@pytest.fixture
def away(connect, closed_port):
    """``away()``: the database answers no more."""

    def gone():
        connect("mlops_default", conn_type="postgres", host="127.0.0.1", port=closed_port)

    return gone


@pytest.fixture
def back(connect, services):
    """``back()``: the database answers again."""

    def there():
        login = {"host": services.socket_dir, "login": "mlops_task", "schema": "mlops"}
        connect("mlops_default", conn_type="postgres", **login)

    return there


def fails():
    raise ValueError("no")


def works():
    """Do nothing."""


def test_each_task_of_a_monitor_leaves_one_usage(market, observations, folder):
    market.deliver(0, 5, labels=(0, 4))
    done = run(market.lifecycle().dags[0])
    found = {o.body["task_id"]: o for o in observations.read(market.name, "usage")}
    never = ("score", "performance")  # skipped with dependencies: there is no champion yet
    ran = {name: state for name, state in done.states.items() if name not in never}
    assert {name: o.body["outcome"] for name, o in found.items()} == ran
    snapshot = found["snapshot"]
    assert snapshot.subject == f"{market.name}__monitor/{done.run_id}/snapshot/1"
    assert snapshot.body["rows"] == 5 * 168
    assert snapshot.body["cpu_s"] > 0
    assert snapshot.body["rss_mb"] > 50
    assert snapshot.body["status"] == "ok"
    assert "snapshot, try 1: success after" in snapshot.body["line"]
    assert "rows/s" in snapshot.body["line"]
    assert list(folder.iterdir()) == []
    json.dumps(dict(snapshot.body), allow_nan=False)


def test_how_a_task_ended_is_said(tagged, model, observations):
    run(tagged(works, fails))
    found = {o.body["task_id"]: o.body for o in observations.read(model, "usage")}
    assert {name: body["outcome"] for name, body in found.items()} == {
        "works": "success",
        "fails": "failed",
    }
    assert (found["works"]["status"], found["fails"]["status"]) == ("ok", "warn")


def test_a_dag_of_strangers_costs_nothing(tagged, model, observations, folder):
    def threads():
        return [t.name for t in threading.enumerate() if t.name == "mlops-sampler"]

    done = run(tagged(threads, tags=["mlops-like"]))
    assert done.value("threads") == []
    assert observations.read(model, "usage") == ()
    assert not folder.exists()


def test_while_the_database_is_away_usages_wait_and_then_come_once(
    tagged, model, observations, folder, away, back
):
    dag = tagged(works)
    away()
    assert run(dag).state == run(dag).state == "success"
    assert len(list(folder.iterdir())) == 2
    assert observations.read(model, "usage") == ()
    back()
    run(dag)
    assert len(observations.read(model, "usage")) == 3
    assert list(folder.iterdir()) == []


def test_delivered_twice_is_one_usage(tagged, model, observations, folder, away, back):
    away()
    run(tagged(works))
    (path,) = folder.iterdir()
    kept = path.read_text()
    back()
    for _ in range(2):  # the second, as if the first had been killed before it could tidy up
        path.write_text(kept)
        assert deliver(Spool(folder), "another_database") == 0
        assert deliver(Spool(folder), "mlops_default") == 1
        assert len(observations.read(model, "usage")) == 1
    assert deliver(Spool(folder), "mlops_default") == 0


@pytest.mark.parametrize("record", [{}, [], {"conn_id": "mlops_default", "model": "m"}])
def test_a_file_that_holds_no_usage_does_not_keep_others_back(
    tagged, model, observations, folder, record
):
    spool = Spool(folder)
    spool.write(spool.begin(), record, ended=True)
    run(tagged(works))
    assert len(observations.read(model, "usage")) == 1
    assert list(folder.iterdir()) == []


def test_a_task_without_a_connection_works(tagged, monkeypatch, folder):
    monkeypatch.delenv("AIRFLOW_CONN_MLOPS_DEFAULT")
    assert run(tagged(works)).state == "success"
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tagged, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AIRFLOW__MLOPS__USAGE_FOLDER", str(tmp_path / "file"))
    assert run(tagged(works)).state == "success"


def test_a_killed_try_is_stored_by_whoever_comes_next(tagged, model, observations, folder):
    script = f"""
        import os, sys, time
        from types import SimpleNamespace
        from airflow_mlops.listeners.usage import UsageListener
        task = type("T", (), {{"__module__": "airflow_mlops.operators.x"}})()
        task.model, task.dag = {model!r}, None
        named = dict(dag_id="d", run_id="r", task_id="t", try_number=1, map_index=-1, hostname="h")
        UsageListener().on_task_instance_running(SimpleNamespace(task=task, **named))
        kept = b"x" * 100_000_000
        time.sleep(2.5)
        print("works", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "works\n"
        os.kill(process.pid, signal.SIGKILL)
    run(tagged(works))
    (killed,) = [o.body for o in observations.read(model, "usage") if o.body["task_id"] == "t"]
    assert (killed["outcome"], killed["status"], killed["subject"]) == ("killed", "warn", "d/r/t/1")
    assert killed["wall_s"] > 1
    assert killed["rss_mb"] > 150
    assert "killed after" in killed["line"]
    assert list(folder.iterdir()) == []


@pytest.fixture
def metrics(monkeypatch):
    """``metrics(statsd_on="True", ...)``: Airflow's metrics, as a process of a task begins."""
    from airflow.sdk._shared.observability.metrics import stats
    from airflow.sdk.observability.metrics import stats_utils

    def begin(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__{name.upper()}", str(value))
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)

    yield begin
    stats._get_backend().statsd.close()
    monkeypatch.undo()
    begin()


def test_gauges_reach_statsd_with_their_tags(tagged, model, metrics):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        address = {"statsd_host": "127.0.0.1", "statsd_port": server.getsockname()[1]}
        metrics(statsd_on=True, statsd_influxdb_enabled=True, **address)
        run(tagged(works))
        found = []
        while len(found) < 3:  # Airflow's own come between them
            text = server.recv(1000).decode()
            found += [text] * text.startswith("airflow.mlops.")
    tags = f"model={model},dag_id={model}__other,task_id=works"
    for name, text in zip(("wall_s", "cpu_s", "rss_mb"), found, strict=True):
        assert re.fullmatch(rf"airflow\.mlops\.task\.{name},{tags}:[0-9.]+\|g", text)


def test_metrics_that_cannot_be_set_do_not_keep_a_usage_back(
    tagged, model, metrics, observations, user_module
):
    ours = user_module("""
        def named(stat):
            if stat.startswith("mlops."):
                raise KeyError(stat)
            return stat
    """)
    metrics(statsd_on=True, stat_name_handler=f"{ours}.named")
    run(tagged(works))
    assert len(observations.read(model, "usage")) == 1


class Ti:
    """A task instance, as far as the listener looks at it."""

    dag_id, run_id, task_id, try_number, map_index, hostname = "d", "r", "t", 1, 3, "h"
    task = SimpleNamespace(dag=SimpleNamespace(tags=["mlops"]))


def test_a_task_that_waits_and_comes_back_is_counted_once(connections, observations, folder):
    listener = UsageListener()
    for _ in range(2):  # parked after the first
        listener.on_task_instance_running(Ti())
        time.sleep(0.1)
        listener.before_stopping()
        assert list(folder.glob("*")) == []
    listener.on_task_instance_running(Ti())
    listener.on_task_instance_success(Ti())
    listener.before_stopping()
    found = [o.subject for o in observations.read("d", "usage")]
    assert found == ["d/r/t[3]/1"]


def test_hooks_return_at_once_although_the_database_does_not_answer(connections, connect):
    connect("mlops_default", conn_type="postgres", host="192.0.2.1", schema="mlops")  # nobody
    listener, took = UsageListener(), []
    for hook in (listener.on_task_instance_running, listener.on_task_instance_success):
        began = time.perf_counter()
        hook(Ti())
        took.append(time.perf_counter() - began)
    began = time.perf_counter()
    listener.before_stopping()
    assert time.perf_counter() - began < 5.5  # it waits for one attempt, not for an answer
    assert max(took) < 0.1, took  # benchmarks/health.py measures it: less than a millisecond


def test_hooks_of_a_process_without_a_watched_task_do_nothing():
    listener = UsageListener()
    listener.on_task_instance_failed(object())
    listener.on_task_instance_running(object())
    listener.before_stopping()


def test_usages_wait_below_airflows_home(monkeypatch):
    monkeypatch.delenv("AIRFLOW__MLOPS__USAGE_FOLDER")
    assert Path(conf.get("mlops", "usage_folder")) == HOME / "mlops" / "usages"
