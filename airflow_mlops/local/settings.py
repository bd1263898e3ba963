"""What the stack runs with: ports, secrets and Airflow's settings, chosen once per home."""

import json
import secrets
import socket
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

PORTS = ("airflow", "mlflow", "worker_log", "trigger_log")
USERS = {"admin": "admin", "ml-lead": "op"}
"""User -> role in Airflow's simple auth manager; ``op`` may answer a Human-in-the-loop request."""

PRELOAD = (
    "airflow",
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.standard.operators.hitl",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.models",
    "pandas",
    "pyarrow.dataset",
    "sklearn.ensemble",
    "skops.io",
    "scipy.stats",
    "deltalake",
    "adbc_driver_postgresql.dbapi",
    "psycopg",
    "xxhash",
    "airflow_mlops.lifecycle",
)
"""Modules a task would spend seconds on; a preloaded fork has them for nothing."""

COMMON = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{u}:{r}" for u, r in USERS.items()),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # Tasks share the cores: two threads that wait for each other cost three times one that works.
    "OMP_NUM_THREADS": "1",
}
"""Settings the local stack shares with docker-compose.yaml; a test compares the two."""


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Ports and secrets of one home, kept in ``settings.json`` there, readable by its owner only.

    :param ports: component -> free port of 127.0.0.1.
    :param passwords: user of Airflow -> password.
    """

    ports: dict[str, int]
    passwords: dict[str, str]
    jwt_secret: str
    api_secret: str
    fernet_key: str

    @classmethod
    def of(cls, home: Path) -> Self:
        """Read the settings of a home, or choose and keep them."""
        path = home / "settings.json"
        if path.exists():
            return cls(**json.loads(path.read_text("utf-8")))
        found = cls(
            dict(zip(PORTS, free_ports(len(PORTS)), strict=True)),
            {user: secrets.token_urlsafe(9) for user in USERS},
            secrets.token_hex(48),
            secrets.token_hex(24),
            urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        )
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(found), indent=1), "utf-8")
        (home / "passwords.json").touch(mode=0o600)
        (home / "passwords.json").write_text(json.dumps(found.passwords), "utf-8")
        return found

    def url(self, component: str) -> str:
        """Return the address of ``airflow`` or ``mlflow``."""
        return f"http://127.0.0.1:{self.ports[component]}"

    def airflow(self, home: Path, dags: Path, database: str, socket_dir: str) -> dict[str, str]:
        """
        Return the environment of every Airflow process.

        :param database: SQLAlchemy address of Airflow's metadata.
        :param socket_dir: host of PostgreSQL for libpq.
        """
        url = self.url("airflow")
        return COMMON | {
            "AIRFLOW_HOME": str(home / "airflow"),
            "PYTHONPATH": str(dags.parent),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__CORE__FERNET_KEY": self.fernet_key,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports["airflow"]),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__SECRET_KEY": self.api_secret,
            "AIRFLOW__API_AUTH__JWT_SECRET": self.jwt_secret,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs" / "tasks"),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.ports["worker_log"]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports["trigger_log"]),
            "AIRFLOW__SCHEDULER__MP_START_METHOD": "forkserver",
            "AIRFLOW__SCHEDULER__MP_FORKSERVER_PRELOAD": ",".join(PRELOAD),
            **self.connections(home, socket_dir),
        }

    def connections(self, home: Path, socket_dir: str) -> dict[str, str]:
        """Return the connections of tasks; the environment hands them over, no database does."""
        postgres = {"conn_type": "postgres", "host": socket_dir, "login": "mlops_task"}
        found = {
            "WAREHOUSE": postgres | {"schema": "warehouse"},
            "MLOPS_DEFAULT": postgres | {"schema": "mlops"},
            "MLFLOW_DEFAULT": {
                "conn_type": "mlflow",
                "host": "127.0.0.1",
                "port": self.ports["mlflow"],
            },
            "DATASET_DEFAULT": {"conn_type": "dataset", "host": str(home / "datasets")},
        }
        return {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in found.items()}


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
