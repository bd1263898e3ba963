"""Hook for MLflow."""

import re
from base64 import b64encode
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks._connections import read_connection, refuse_login

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from mlflow import MlflowClient

    from airflow_mlops.core.ledger import Ledger
    from airflow_mlops.core.training.models import ModelStore


class MlflowHook(BaseHook):
    """
    Talk to the MLflow server an Airflow connection describes.

    *Schema*, *host* and *port* give the address (http unless *schema* says https). With *login*
    and *password* requests use basic auth; with *password* alone, a bearer token. Of *extra* only
    ``public_url`` is read: the address for people, where links go.

    :param mlflow_conn_id: Airflow connection to the MLflow server.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> "MlflowClient":
        """
        Return a client bound to this server; the global tracking URI stays untouched.

        :raises ConfigurationError: if the connection has no host, or one with a login in it, or a
            token that no header can carry.
        """
        from mlflow import MlflowClient
        from mlflow.environment_variables import (
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
            MLFLOW_HTTP_REQUEST_MAX_RETRIES,
            MLFLOW_HTTP_REQUEST_TIMEOUT,
            MLFLOW_TRACKING_AUTH,
        )

        from airflow_mlops.hooks._mlflow_auth import remember

        # MLflow's own defaults keep one call to a dead server waiting for four minutes, and draw
        # progress bars into task logs.
        for setting, value in (
            (MLFLOW_HTTP_REQUEST_MAX_RETRIES, 3),
            (MLFLOW_HTTP_REQUEST_TIMEOUT, 30),
            (MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, False),
        ):
            if not setting.is_set():
                setting.set(value)
        connection = read_connection(self.mlflow_conn_id)
        uri = _uri(connection)
        authorization = _authorization(connection)
        if authorization and not MLFLOW_TRACKING_AUTH.is_set():
            MLFLOW_TRACKING_AUTH.set("airflow")
        remember(uri, authorization)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    def models(self, ledger: "Ledger") -> "ModelStore":
        """
        Return the model versions of this server.

        :param ledger: says which files each of them has.
        """
        from airflow_mlops.core.training.models import ModelStore

        return ModelStore(self.get_conn(), ledger)

    def model_url(self, ref: ModelRef) -> str:
        """Return the page of a model version."""
        return f"{self._pages()}/#/models/{ref.name}/versions/{ref.version}"

    def run_url(self, run_id: str, *, artifact: str = "") -> str:
        """Return the page of a run, or of one of its artifacts."""
        run = self.get_conn().get_run(run_id)
        page = f"{self._pages()}/#/experiments/{run.info.experiment_id}/runs/{run_id}"
        return f"{page}/artifacts/{artifact}" if artifact else page

    def _pages(self) -> str:
        """Address of MLflow's pages, as a browser reaches them."""
        connection = read_connection(self.mlflow_conn_id)
        public = str(connection.extra_dejson.get("public_url") or "")
        refuse_login(f"public_url of connection {connection.conn_id!r}", public)
        return (public or _uri(connection)).rstrip("/")


def _uri(connection: "Connection") -> str:
    host = connection.host or ""
    if not host:
        msg = f"connection {connection.conn_id!r} has no host; give the MLflow server's address"
        raise ConfigurationError(msg)
    if "://" in host:
        return host.rstrip("/")
    port = f":{connection.port}" if connection.port else ""
    uri = f"{connection.schema or 'http'}://{host}{port}"
    refuse_login(f"the address of connection {connection.conn_id!r}", uri)
    return uri


def _authorization(connection: "Connection") -> str | None:
    if not connection.password:
        return None
    if not connection.login:
        if not re.fullmatch(r"[\x21-\x7e]+", connection.password):
            msg = (
                f"the password of connection {connection.conn_id!r} is sent as a bearer token, and "
                "a token has no space, control character or accent; give a login, too, or mend it"
            )
            raise ConfigurationError(msg)
        return f"Bearer {connection.password}"
    pair = f"{connection.login}:{connection.password}".encode()
    return f"Basic {b64encode(pair).decode()}"
