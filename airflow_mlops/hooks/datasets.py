"""Hook for versioned datasets."""

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, conf

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.hooks._connections import read_connection

if TYPE_CHECKING:
    from airflow_mlops.core.data.datasets import DatasetStore

OPTIONS = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ALLOW_HTTP", "AWS_CONDITIONAL_PUT")
"""Extras a connection may set; anything else in it is ignored on purpose."""


class DatasetHook(BaseHook):
    """
    Open the dataset store an Airflow connection describes.

    The connection's *host* is the root (a path or an object-store URI), *login* and *password*
    are the access key, and *extra* may hold the names in ``OPTIONS``.

    :param dataset_conn_id: Airflow connection to the dataset store.
    """

    conn_name_attr = "dataset_conn_id"
    default_conn_name = "dataset_default"
    conn_type = "dataset"
    hook_name = "Dataset store"

    def __init__(self, dataset_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.dataset_conn_id = dataset_conn_id

    def get_conn(self) -> "DatasetStore":
        """
        Return the store; nothing is opened yet.

        :raises ConfigurationError: if the connection has no host, or one with a login in it.
        """
        from airflow_mlops.core.data.datasets import DatasetStore

        connection = read_connection(self.dataset_conn_id)
        if not connection.host:
            msg = f"connection {self.dataset_conn_id!r} has no host; it is the root of all datasets"
            raise ConfigurationError(msg)
        extra = connection.extra_dejson
        options = {name: str(extra[name]) for name in OPTIONS if name in extra}
        if connection.login and connection.password:
            options["AWS_ACCESS_KEY_ID"] = connection.login
            options["AWS_SECRET_ACCESS_KEY"] = connection.password
        foreign = str(conf.get("mlops", "foreign_commits"))
        return DatasetStore(connection.host, options, foreign)
