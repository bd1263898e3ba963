"""A wire between a client and a server that loses answers, or is cut."""

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """
    Forwards every connection to a server, and can lose what the server answers.

    :param target: path of a socket, or host and port.

    Attributes to set: ``lose`` are bytes of a request whose answer is lost, after the server has
    done what it asks; ``times`` is how often. While it is ``down``, nobody gets through.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        self.target = target
        self.lose, self.times, self.lost, self.down = b"", 0, 0, False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def losing(self, request: bytes, times: int = 1) -> None:
        """Lose the next answers to a kind of request."""
        self.lose, self.times, self.lost = request.lower(), times, 0

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                if self.down:
                    client.close()
                else:
                    threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        kind = socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET
        server = socket.socket(kind)
        server.connect(self.target)
        with self._lock:
            self._open |= {client, server}
        doomed = threading.Event()
        back = threading.Thread(target=self._answers, args=(server, client, doomed), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.lose and self.times and self.lose in data.lower():
                    doomed.set()
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)
        back.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _answers(
        self, server: socket.socket, client: socket.socket, doomed: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if doomed.is_set():
                    self.lost, self.times = self.lost + 1, self.times - 1
                    break
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
