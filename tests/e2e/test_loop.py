"""One life of a model under the real scheduler, a killed process and a bad delivery included."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.observations import Observations
from include.electricity import story as demo
from include.electricity.deliveries import WEEK

pytestmark = [pytest.mark.airflow, pytest.mark.services]

MODEL = "electricity"


def airflow(stack, *arguments):
    """Run a command as a person would; returns exit code and output."""
    program = str(Path(sys.executable).parent / "airflow")
    no_metrics = {"AIRFLOW__METRICS__OTEL_ON": "False"}  # Airflow speaks of them before the answer
    done = subprocess.run(
        [program, *arguments],
        env={**os.environ, **stack.env(), **no_metrics},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class Life(demo.Story):
    """The demo, in stages; somebody who is not named tries to approve first, and two at once do."""

    def answer(self, proposal):
        for request in self.admin.requests():
            with pytest.raises(ConfigurationError, match="answers 403"):
                self.admin.answer(request, "promote", note="", params={})
            super().answer(proposal)
            with pytest.raises(ConfigurationError, match="answers 409"):
                self.approver.answer(request, "reject", note="too late", params={})

    def in_stages(self, asked):
        """Approve what a person asked for, and live on until it has met its share of the rows."""
        proposal = self.next_entry(asked, ("propose",))
        stage = self.next_entry(proposal, ("stage",), lambda: self.answer(proposal))
        self.week(), self.week()  # labels come a week later
        self.next_entry(stage, ("stage",))
        self.week(), self.week()
        return self.next_entry(proposal, ("promote", "reject", "refuse"))


def kill_when_it_trains(mark, killed):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if mark.exists() and (pid := mark.read_text()):
            os.kill(int(pid), signal.SIGKILL)
            killed.append(int(pid))
            return
        time.sleep(0.1)


def check_one_version(client):
    assert [v.version for v in client.search_model_versions(f"name='{MODEL}'")] == ["1"]
    experiment = client.get_experiment_by_name(MODEL).experiment_id
    runs = client.search_runs([experiment])
    assert sorted(r.info.status for r in runs) == ["FINISHED", "KILLED"]
    assert {r.data.tags["airflow.try_number"] for r in runs} == {"1", "2"}


def check_usages(stack, collector):
    """Each try of each task that ran is on record, the killed and the parked one included."""
    store = Observations(stack.dsn("mlops", user="mlops_task"))
    found = {o.subject: o.body for o in store.read(MODEL, "usage")}
    by_task = {(body["task_id"], body["outcome"]) for body in found.values()}
    assert {("train", "killed"), ("train", "success"), ("approve", "success")} <= by_task
    assert {("snapshot", "success"), ("score", "success"), ("system", "success")} <= by_task
    assert "failed" in {body["outcome"] for body in found.values()}  # the broken delivery
    assert len(found) == len(
        {(b["dag_id"], b["run_id"], b["task_id"], b["try"]) for b in found.values()}
    )
    trained = [b for b in found.values() if b["task_id"] == "train" and b["outcome"] == "success"]
    assert all(b["rows"] > 1_000 and b["cpu_s"] > 0 and b["rss_mb"] > 100 for b in trained)
    check_gauges([b for b in found.values() if b["outcome"] != "killed"], collector)
    looks = [o.body for o in store.read(MODEL, "system")]
    assert looks[-1]["airflow"]["scheduler"] == "healthy"
    assert any("train" in f["what"] and "killed" in f["line"] for b in looks for f in b["findings"])


def check_gauges(bodies, collector):
    """What each try used was sent to the collector as it is on record."""
    assert any(body["rows_per_s"] for body in bodies)
    end, missing = time.monotonic() + 30, ["all"]  # they are sent when a process ends
    while missing and time.monotonic() < end:
        time.sleep(0.2)
        missing = [
            (name, body[name], body["task_id"])
            for body in bodies
            for name in ("wall_s", "cpu_s", "rss_mb", "rows_per_s")
            if body[name] is not None and body[name] not in sent(collector, name, body)
        ]
    assert missing == []


def sent(collector, name, body):
    tags = frozenset((tag, body[tag]) for tag in ("model", "dag_id", "task_id"))
    return collector.gauges[f"airflow.mlops.task.{name}", tags]


def check_arrivals(story, stack):
    """The watcher of an asset saw every delivery, without a worker and without a schedule."""
    runs = story.admin.runs("arrivals")
    assert {r["state"] for r in runs} <= {"success", "running", "queued"}
    assert {r["run_type"] for r in runs} == {"asset_triggered"}
    assert len(runs) >= 2
    code, out, _ = airflow(stack, "mlops", "plan", MODEL)
    assert code == 0
    assert "nothing is new since entry" in out


def check_stages(story):
    """Beside the champion, then for half of the rows: each row was served by one of them."""
    looks = [e.evidence for e in story.state().entries if e.op == "stage"]
    assert [e["status"] for e in looks] == ["begun", "passed"] * 2
    assert [e["stage"]["word"] for e in looks[::2]] == ["Shadow", "Canary"]
    arms = looks[3]["look"]["arms"]
    assert min(arms[arm]["units"] for arm in ("champion", "candidate")) > 100
    assert arms["crossed"] == 0
    served = [version for _, version, _ in story.observations.served(MODEL)]
    assert {1, 2} == set(served)
    assert len(served) == len({key for key, *_ in story.observations.served(MODEL)})


def check_ledger(state):
    found = [e.op for e in state.entries if e.op not in ("keep", "wait", "handover")]
    wanted = ["retrain", "propose", "promote", "request", "retrain", "propose"]
    wanted += [*["stage"] * 4, "promote"]
    assert found[: len(wanted)] == wanted  # the new champion may be asked for another one at once
    assert "rollback" in found[len(wanted) :]


def wait_for_dags(story):
    while len(story.admin.dags()) < 5:
        assert story.admin.import_errors() == []
        time.sleep(0.3)


def check_components(stack):
    stack.check()
    assert {c.state for c in stack.status()} == {"up"}
    assert outside(stack) <= {stack.settings.ports[p] for p in ("worker_log", "trigger_log")}


def test_a_whole_life(world):
    from mlflow import MlflowClient

    stack, killed = world.stack, []
    story = Life(stack, Console(file=io.StringIO(), soft_wrap=True), time.time())
    client = MlflowClient(stack.urls["mlflow"], stack.urls["mlflow"])
    wait_for_dags(story)
    # the process that trains is killed once; the retry leaves one version
    killer = threading.Thread(target=kill_when_it_trains, args=(world.mark, killed))
    killer.start()
    story.first_champion()
    killer.join()
    assert killed
    check_one_version(client)
    state = story.state()
    assert [e.op for e in state.entries if e.op != "handover"] == ["retrain", "propose", "promote"]
    assert state.entries[-1].by == "ml-lead"

    story.follow(story.week())
    assert story.predictions() == WEEK
    story.broken_delivery()
    assert story.predictions() == 2 * WEEK
    (stopped,) = [line for line in story.console.file.getvalue().splitlines() if "stopped" in line]
    assert "vicdemand" in stopped
    assert "transfer" in stopped

    check_arrivals(story, stack)

    code, _, err = airflow(stack, "mlops", "rollback", MODEL, "--reason", "too early")
    assert code == 2
    assert "nothing to roll back to" in err

    code, out, _ = airflow(stack, "mlops", "why", MODEL, "--last", "2", "--json")
    assert code == 0
    assert [e["op"] for e in json.loads(out)["entries"]] == [e.op for e in story.state().entries][
        -2:
    ]

    code, _, _ = airflow(
        stack, "mlops", "retrain", MODEL, "--reason", "more trees", "--params", '{"max_iter": 60}'
    )
    assert code == 0
    asked = story.state().last("request")
    assert story.in_stages(story.next_entry(asked, ("retrain",))).op == "promote"
    check_stages(story)
    rollout = story.admin.runs(demo.ROLLOUT)[0]["dag_run_id"]
    assert story.wait(demo.ROLLOUT, rollout) == "success"
    assert client.get_registered_model(MODEL).aliases == {"champion": "2", "previous": "1"}
    params = client.get_run(client.get_model_version(MODEL, "2").run_id).data.params["params"]
    assert json.loads(params) == {"max_iter": 60}

    code, out, _ = airflow(stack, "mlops", "rollback", MODEL, "--reason", "complaints")
    assert code == 0
    assert "champion 2 -> 1" in out
    assert client.get_registered_model(MODEL).aliases == {"champion": "1"}
    code, out, _ = airflow(stack, "mlops", "doctor")
    assert code == 0, out
    state = story.state()
    assert f"{MODEL}: {len(state.entries)} entries verified, aliases agree" in out
    check_ledger(state)
    check_usages(stack, world.collector)
    check_components(stack)


def outside(stack):
    """Ports of the stack that other machines can reach; Airflow's log servers know no host."""
    found = set()
    for process in psutil.process_iter():
        try:
            group = os.getpgid(process.pid)
            listening = process.net_connections("inet")
        except (psutil.Error, ProcessLookupError):
            continue
        if any(group == pid for pid, _ in stack.processes._kept().values()):
            listening = [c for c in listening if c.status == psutil.CONN_LISTEN]
            found |= {c.laddr.port for c in listening if c.laddr.ip != "127.0.0.1"}
    return found
