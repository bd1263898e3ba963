"""
Schema ``mlops`` in PostgreSQL: the ledger, observations, predictions and quarantine.

Run by a role that may create roles and schemas; tasks get ``mlops_writer``, pages ``mlops_reader``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from airflow_mlops.core.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 7_264_119_001
"""Advisory lock: two migrations of one database wait for each other."""


def upgrade(dsn: str) -> None:
    """
    Bring schema ``mlops`` of a database to the newest version; does nothing when it is there.

    :param dsn: libpq connection string of a role that may create schemas and roles.
    :raises UnavailableError: if the server does not answer.
    :raises ConfigurationError: if the server is older than PostgreSQL 14 or not in UTF-8.
    """
    from alembic import command
    from sqlalchemy.exc import ProgrammingError

    with _connect(dsn) as connection:
        _check_server(connection)
        connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
        try:
            connection.execute("create schema if not exists mlops")
            command.upgrade(_config(dsn), "head")
        except (psycopg.errors.InsufficientPrivilege, ProgrammingError) as error:
            cause = getattr(error, "orig", error)
            msg = (
                f"this login may not make or change schema mlops: {cause}. Migrate with the owner "
                "of the database who may create roles (or made mlops_owner), or with a superuser"
            )
            raise ConfigurationError(msg) from error


def pending(dsn: str) -> tuple[str, str] | None:
    """
    Return ``(installed, newest)`` revision if they differ, else nothing.

    :raises UnavailableError: if the server does not answer.
    """
    from alembic.script import ScriptDirectory

    newest = ScriptDirectory.from_config(_config(dsn)).get_current_head() or ""
    with _connect(dsn) as connection:
        found = connection.execute("select to_regclass('mlops.schema_version')").fetchone()
        if found is None or found[0] is None:
            return "none", newest
        row = connection.execute("select version_num from mlops.schema_version").fetchone()
    installed = row[0] if row else "none"
    return None if installed == newest else (str(installed), newest)


def _connect(dsn: str) -> "psycopg.Connection[tuple[object, ...]]":
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        msg = f"cannot reach the database of schema mlops: {error}"
        raise UnavailableError(msg) from error


def _check_server(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    version = connection.info.server_version
    encoding = connection.info.parameter_status("server_encoding")
    if version < 140000 or encoding != "UTF8":
        msg = (
            f"the ledger needs PostgreSQL 14 or newer with encoding UTF8; this server is "
            f"{version // 10000} with {encoding}"
        )
        raise ConfigurationError(msg)


def _config(dsn: str) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["dsn"] = dsn
    return config
