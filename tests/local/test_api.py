"""The client of Airflow's REST API: what it asks, and how it reports what went wrong."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_mlops.core.errors import ConfigurationError, UnavailableError
from airflow_mlops.local.api import AirflowApi
from airflow_mlops.local.settings import free_ports


class AirflowLike:
    """A server that gives prepared answers, by method and path."""

    def __init__(self, answers):
        self.heard = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                size = int(self.headers["Content-Length"] or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                heard.append((self.command, self.path, body, self.headers["Authorization"]))
                code, answer = answers.get(f"{self.command} {self.path}", (404, {}))
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_PATCH = do_GET  # noqa: N815  (http.server's names)

            def log_message(self, *_):
                """Keep the output of tests clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.api = AirflowApi(url, "ann", "s3cret")


@pytest.fixture
def airflow_like():
    made = []

    def make(answers):
        token = {"POST /auth/token": (201, {"access_token": "t"})}
        made.append(AirflowLike(token | answers))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def request(state="awaiting_input", task="approve"):
    instance = {
        "dag_id": "churn__rollout",
        "dag_run_id": "manual__2026-01-01T00:00:00+00:00",
        "task_id": task,
        "map_index": -1,
        "state": state,
    }
    return {"task_instance": instance, "body": ""}


def test_it_signs_in_once_and_sends_the_token(airflow_like):
    paths = {"GET /api/v2/dags?limit=500": (200, {"dags": []})}
    server = airflow_like(paths)
    server.api.dags()
    server.api.dags()
    tokens = [a for _, path, _, a in server.heard if path.startswith("/api")]
    assert tokens == ["Bearer t", "Bearer t"]
    assert [b for _, path, b, _ in server.heard if path == "/auth/token"] == [
        {"username": "ann", "password": "s3cret"}
    ]
    assert "s3cret" not in repr(server.api)


def test_a_refusal_says_what_was_asked_and_why(airflow_like):
    path = "/api/v2/dags/churn__monitor/dagRuns"
    server = airflow_like({f"POST {path}": (403, {"detail": "viewers may not"})})
    with pytest.raises(ConfigurationError, match=f"answers 403 to POST .*{path}.*viewers may not"):
        server.api.trigger("churn__monitor")


def test_a_server_that_is_down_may_come_back():
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(UnavailableError, match=f"does not answer at {url}"):
        AirflowApi(url, "ann", "s3cret").dags()


def test_only_requests_whose_task_has_parked_are_offered(airflow_like):
    # an answer to a task that has not parked yet is taken, and the task then waits for ever
    found = {"hitl_details": [request("running", "early"), request(), request("success", "late")]}
    path = "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false"
    server = airflow_like({f"GET {path}": (200, found)})
    assert [r["task_instance"]["task_id"] for r in server.api.requests()] == ["approve"]


def test_an_answer_goes_to_the_task_that_asked(airflow_like):
    run = "manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    path = f"/api/v2/dags/churn__rollout/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    server = airflow_like({f"PATCH {path}": (200, {})})
    server.api.answer(request(), "promote", note="fine", params={})
    method, asked, body, _ = server.heard[-1]
    assert (method, asked) == ("PATCH", path)
    assert body == {
        "chosen_options": ["promote"],
        "params_input": {"note": "fine", "params": {}},
    }


def test_waiting_for_a_run_looks_around_and_has_an_end(airflow_like):
    path = "/api/v2/dags/d/dagRuns/r"
    tasks = {"task_instances": [{"task_id": "train", "state": "running"}]}
    server = airflow_like(
        {
            f"GET {path}": (200, {"state": "running"}),
            f"GET {path}/taskInstances?limit=500": (200, tasks),
        }
    )
    looks = []
    with pytest.raises(UnavailableError, match=r"did not end within 0 s.*'train': 'running'"):
        server.api.wait("d", "r", seconds=0.2, meanwhile=lambda: looks.append(1))
    assert looks


def test_the_log_of_a_failed_task_shows_its_exception(airflow_like):
    base = "/api/v2/dags/d/dagRuns/r/taskInstances/t"
    detail = [{"exc_type": "UserCodeError", "exc_value": "fit raised"}]
    content = ["plain", {"event": "started"}, {"event": "failed", "error_detail": detail}]
    server = airflow_like(
        {
            f"GET {base}": (200, {"try_number": 2}),
            f"GET {base}/logs/2?full_content=true": (200, {"content": content}),
        }
    )
    assert server.api.log("d", "r", "t").splitlines() == [
        "plain",
        "started",
        "failed UserCodeError: fit raised",
    ]
    assert server.api.log("d", "r", "t", last=1) == "failed UserCodeError: fit raised"
