"""Fixtures of the hooks: connections, and a tiny server that remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.operators import airflow_home  # noqa: F401  (before anything of Airflow)


@pytest.fixture
def connect(monkeypatch) -> Callable[..., None]:
    """``connect(conn_id, **fields)``: an Airflow connection."""

    def make(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return make


class MlflowLike:
    """
    A server that answers as MLflow does about an empty registry.

    :param heard: path and ``Authorization`` of each request.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append((self.path, self.headers["Authorization"]))
                run = {"run": {"info": {"run_id": "r1", "experiment_id": "7"}, "data": {}}}
                body = json.dumps(run if "runs/get" in self.path else {}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  (http.server's names)

            def log_message(self, *_: object) -> None:
                """Keep the output of tests clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mlflow_like() -> Iterator[Callable[[], MlflowLike]]:
    """``mlflow_like()``: one more server on a port of its own."""
    made: list[MlflowLike] = []

    def make() -> MlflowLike:
        made.append(MlflowLike())
        return made[-1]

    yield make
    for server in made:
        server.close()
