"""Hook for tables of production data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_mlops.hooks._postgres import postgres_dsn

if TYPE_CHECKING:
    from airflow_mlops.core.data.sources import PostgresSource


class WarehouseHook(BaseHook):
    """
    Read tables of the PostgreSQL server an Airflow connection describes.

    :param warehouse_conn_id: Airflow connection of type ``postgres``.
    """

    conn_name_attr = "warehouse_conn_id"
    default_conn_name = "warehouse"
    conn_type = "postgres"
    hook_name = "Warehouse"

    def __init__(self, warehouse_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.warehouse_conn_id = warehouse_conn_id

    def source(
        self, table: str, *, key: str, time: str, columns: Sequence[str] | None = None
    ) -> "PostgresSource":
        """Return a table as a source of rows; nothing is read yet."""
        from airflow_mlops.core.data.sources import PostgresSource

        wanted = tuple(columns) if columns else None
        dsn = postgres_dsn(self.warehouse_conn_id)
        return PostgresSource(dsn, table, key, time, wanted)
