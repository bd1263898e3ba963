"""Child processes that outlive the command that started them, and are never mistaken for others."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from airflow_mlops.core.errors import UnavailableError

TAIL_LINES = 15
_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Processes:
    """
    Processes of one home; their ids and start times are kept in ``processes.json``.

    :param home: folder of the stack.
    """

    home: Path

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in a session of its own, its output in ``logs/<name>.log``."""
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.lstrip("_").startswith("AIRFLOW")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                list(command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**inherited, **environment},
                start_new_session=True,
            )
        self._keep(self._kept() | {name: [child.pid, psutil.Process(child.pid).create_time()]})

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """
        Run a command to its end.

        :raises UnavailableError: if it fails; its last lines are shown.
        """
        self.start(name, command, environment)
        self.wait(name)

    def wait(self, name: str) -> None:
        """Wait for a command that was started, and forget it."""
        pid, _ = self._kept()[name]
        try:
            code = psutil.Process(int(pid)).wait()
        except psutil.NoSuchProcess:
            code = 0
        self._forget(name)
        if code:
            msg = f"{name} failed with exit code {code}:\n{self.tail(name)}"
            raise UnavailableError(msg)

    def alive(self, name: str) -> bool:
        """Say whether a process that was started here still runs."""
        return self._process(name) is not None

    def known(self) -> tuple[str, ...]:
        """Return the names of all processes that were started and not stopped."""
        return tuple(self._kept())

    def stop(self) -> None:
        """Stop everything that was started here: first politely, then not."""
        found = [p for name in self._kept() if (p := self._process(name))]
        for process in found:
            _signal(process, signal.SIGTERM)
        psutil.wait_procs(found, timeout=_STOP_SECONDS)
        left = [p for name in self._kept() for p in self._members(name)]
        for process in left:  # workers of Airflow's LocalExecutor outlive their scheduler
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_STOP_SECONDS)
        self._keep({})

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.home / "logs" / f"{name}.log"

    def tail(self, name: str) -> str:
        """Return the last lines of a log, and where it is."""
        return last_lines(self.log(name))

    def _process(self, name: str) -> psutil.Process | None:
        """Find a process again; one that has taken over its number is another one."""
        kept = self._kept().get(name)
        if kept is None:
            return None
        try:
            process = psutil.Process(int(kept[0]))
            same = abs(process.create_time() - kept[1]) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _members(self, name: str) -> list[psutil.Process]:
        """
        Find what is left of a process's group, also after its leader has gone.

        The number of a group is not given away while the group has members: if it belongs to
        another process now, nothing of ours is left.
        """
        pid, began = self._kept()[name]
        with contextlib.suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(int(pid)).create_time() - began) >= 1.0:
                return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(process.pid) == int(pid):
                    found.append(process)
        return found

    def _kept(self) -> dict[str, list[float]]:
        path = self.home / "processes.json"
        found: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _keep(self, processes: Mapping[str, Sequence[float]]) -> None:
        path = self.home / "processes.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(processes))
        fresh.replace(path)

    def _forget(self, name: str) -> None:
        self._keep({n: v for n, v in self._kept().items() if n != name})


def last_lines(path: Path) -> str:
    """Return the last lines of a log, and where it is."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    return "\n".join([*lines[-TAIL_LINES:], f"(all of it: {path})"])


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """Signal the whole group: a server has children of its own."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def wait_until(question: object, what: str, *, seconds: float, processes: Processes) -> None:
    """
    Wait until ``question()`` is true.

    :raises UnavailableError: if a component dies meanwhile, or the time is over.
    """
    end = time.monotonic() + seconds
    while not question():  # type: ignore[operator]
        for name in processes.known():
            if not processes.alive(name):
                msg = f"{name} died while waiting for {what}:\n{processes.tail(name)}"
                raise UnavailableError(msg)
        if time.monotonic() > end:
            msg = f"{what} did not come up within {seconds:.0f} s; logs: {processes.home / 'logs'}"
            raise UnavailableError(msg)
        time.sleep(0.2)
