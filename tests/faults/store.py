"""MLflow behind a proxy that speaks HTTP, and whose artifact store can be away in every way."""

import contextlib
import http.client
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

STATUSES = ("401", "403", "404", "408", "429", "500", "502", "503", "504")
BROKEN = ("reset", "cut", "short", "empty", "page", "hang up")
FAULTS = (*STATUSES, *BROKEN)
"""``cut``: fewer bytes than announced; ``short``: as announced, but fewer; ``page``: other text."""

PLACES = ("listing", "file")


class FaultyStore:
    """
    Forwards to MLflow; requests for artifacts end as ``fault`` says.

    :param url: address of MLflow.

    Attributes to set: ``fault``, one of :data:`FAULTS` or empty; ``place``, one of :data:`PLACES`;
    ``times``, how many requests it meets, ``None``: all.
    """

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url).netloc
        self.fault, self.place, self.times, self.met = "", "", None, 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"store": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def failing(self, place: str, fault: str, times: int | None = None) -> None:
        """Let the artifacts fail from now on."""
        self.place, self.fault, self.times, self.met = place, fault, times, 0

    def of(self, path: str, query: str) -> str:
        """Return what goes wrong with a request; empty: nothing."""
        if "/mlflow-artifacts/artifacts" not in path:
            return ""
        lists = path.rstrip("/").endswith("/artifacts") and "path=" in query
        place = "listing" if lists else "file"
        with self._lock:
            left = self.times is None or self.met < self.times
            if place != self.place or not left or not self.fault:
                return ""
            self.met += 1
        return self.fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FaultyStore

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        fault = self.store.of(path, query) if self.command == "GET" else ""
        if fault.isdecimal():
            self._send(int(fault), b"the store is tired", "text/plain")
            return
        if fault in ("reset", "hang up"):
            if fault == "reset":
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.close()
            return
        status, kind, body = self._forwarded()
        if fault == "empty":
            body = b""
        elif fault == "short":
            body = body[: len(body) // 2]
        elif fault == "page":
            body, kind = b"<html>please sign in</html>", "text/html"
        announced = len(body)
        if fault == "cut":
            body = body[: len(body) // 2]
            self.close_connection = True
        self._send(status, body, kind, announced)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815  (http.server names them)

    def _forwarded(self) -> tuple[int, str, bytes]:
        size = int(self.headers.get("Content-Length") or 0)
        given = self.rfile.read(size) if size else None
        own = ("host", "accept-encoding")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
        connection = http.client.HTTPConnection(self.store.target, timeout=60)
        try:
            connection.request(self.command, self.path, given, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, body: bytes, kind: str, announced: int | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
