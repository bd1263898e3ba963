"""Connection strings for libpq, from Airflow connections."""

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.hooks._connections import read_connection


def postgres_dsn(conn_id: str) -> str:
    """
    Return the libpq connection string of a PostgreSQL connection.

    :param conn_id: Airflow connection of type ``postgres``.
    :raises ConfigurationError: if the connection is of another type, or a field cannot be used.
    """
    connection = read_connection(conn_id)
    if connection.conn_type not in ("postgres", "postgresql"):
        msg = f"connection {conn_id!r} is of type {connection.conn_type!r}, not 'postgres'"
        raise ConfigurationError(msg)
    parts = {
        "host": connection.host,
        "port": connection.port,
        "dbname": connection.schema,
        "user": connection.login,
        "password": connection.password,
        "application_name": "airflow_mlops",
    }
    return " ".join(f"{name}={_quoted(value)}" for name, value in parts.items() if value)


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
