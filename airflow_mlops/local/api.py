"""What a person does in Airflow's pages, through its REST API: trigger, look, answer, clear."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from airflow_mlops.core.errors import ConfigurationError, UnavailableError

FINISHED = ("success", "failed")

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks servers of this machine, whatever proxy the environment names."""


@dataclass(frozen=True)
class AirflowApi:
    """
    One user of one Airflow.

    :param url: address of the API server.
    :param user: user of Airflow's simple auth manager.
    """

    url: str
    user: str
    password: str = field(repr=False)

    def trigger(self, dag_id: str) -> str:
        """Start a run now, and return its id."""
        done = self._ask("POST", f"/dags/{_q(dag_id)}/dagRuns", {"logical_date": None})
        return str(done["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the newest runs of a Dag, newest first."""
        done = self._ask("GET", f"/dags/{_q(dag_id)}/dagRuns?order_by=-run_after&limit=50")
        return list(done["dag_runs"])

    def dags(self) -> dict[str, bool]:
        """Return Dag -> whether its newest version was parsed without error."""
        done = self._ask("GET", "/dags?limit=500")
        return {d["dag_id"]: not d["has_import_errors"] for d in done["dags"]}

    def import_errors(self) -> list[str]:
        """Return what went wrong when Dag files were parsed."""
        done = self._ask("GET", "/importErrors")
        return [f"{e['filename']}: {e['stack_trace']}" for e in done["import_errors"]]

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        seconds: float = 600,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> str:
        """
        Wait for the end of a run, and return its state.

        :param meanwhile: called at each look, such as a check that the servers are alive.
        :raises UnavailableError: if the run does not end in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self._ask("GET", f"/dags/{_q(dag_id)}/dagRuns/{_q(run_id)}")["state"]
            if state in FINISHED:
                return str(state)
            meanwhile()
            time.sleep(0.3)
        states = self.tasks(dag_id, run_id)
        msg = f"run {run_id} of {dag_id} did not end within {seconds:.0f} s; tasks: {states}"
        raise UnavailableError(msg)

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return task -> state of one run."""
        path = f"/dags/{_q(dag_id)}/dagRuns/{_q(run_id)}/taskInstances?limit=500"
        found = self._ask("GET", path)["task_instances"]
        return {t["task_id"]: str(t["state"]) for t in found}

    def log(self, dag_id: str, run_id: str, task_id: str, *, last: int = 20) -> str:
        """Return the last lines of a task's newest log."""
        base = f"/dags/{_q(dag_id)}/dagRuns/{_q(run_id)}/taskInstances/{_q(task_id)}"
        number = self._ask("GET", base)["try_number"]
        content = self._ask("GET", f"{base}/logs/{number}?full_content=true")["content"]
        lines = [_line(entry) for entry in content]
        return "\n".join(line for line in lines[-last:] if line)

    def clear(self, dag_id: str, run_id: str) -> None:
        """Run the failed tasks of a run once more."""
        body = {"dry_run": False, "only_failed": True, "dag_run_id": run_id}
        self._ask("POST", f"/dags/{_q(dag_id)}/clearTaskInstances", body)

    def requests(self) -> list[dict[str, Any]]:
        """Return the Human-in-the-loop requests that nobody has answered, with their tasks."""
        path = "/dags/~/dagRuns/~/hitlDetails?response_received=false"
        found = self._ask("GET", path)["hitl_details"]
        # An answer to a task that has not parked yet is taken, and the task then waits for ever.
        return [r for r in found if r["task_instance"]["state"] == "awaiting_input"]

    def answer(self, request: Mapping[str, Any], choice: str, **given: Any) -> None:
        """
        Answer a request.

        :param request: one of :meth:`requests`.
        :param choice: one of its options.
        :param given: values of the form's fields.
        """
        task = request["task_instance"]
        path = (
            f"/dags/{_q(task['dag_id'])}/dagRuns/{_q(task['dag_run_id'])}"
            f"/taskInstances/{_q(task['task_id'])}/{task['map_index']}/hitlDetails"
        )
        self._ask("PATCH", path, {"chosen_options": [choice], "params_input": given})

    @cached_property
    def _token(self) -> str:
        body = {"username": self.user, "password": self.password}
        return str(_call("POST", f"{self.url}/auth/token", body, {})["access_token"])

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        header = {"Authorization": f"Bearer {self._token}"}
        return _call(method, f"{self.url}/api/v2{path}", body, header)


def _call(
    method: str, url: str, body: Mapping[str, Any] | None, header: Mapping[str, str]
) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310  (our own address)
        url, data, {"Content-Type": "application/json", **header}, method=method
    )
    try:
        with DIRECT.open(request, timeout=60) as reply:
            text = reply.read()
            return dict(json.loads(text)) if text else {}
    except urllib.error.HTTPError as error:
        msg = f"Airflow answers {error.code} to {method} {url}: {error.read().decode()[:500]}"
        raise ConfigurationError(msg) from error
    except (urllib.error.URLError, OSError) as error:
        msg = f"Airflow does not answer at {url}: {error}"
        raise UnavailableError(msg) from error


def _line(entry: Any) -> str:
    """One structured log entry as text, its exception included."""
    if not isinstance(entry, dict):
        return str(entry)
    details = [f"{e['exc_type']}: {e['exc_value']}" for e in entry.get("error_detail") or []]
    return " ".join([str(entry.get("event", "")), *details])


def _q(text: str) -> str:
    return urllib.parse.quote(text, safe="")
