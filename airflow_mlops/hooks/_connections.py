"""Airflow connections, looked at before a library is handed their fields: its errors print them."""

import json
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_mlops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection

_FIELDS = ("host", "schema", "login", "password", "extra")


def read_connection(conn_id: str) -> "Connection":
    """
    Return an Airflow connection whose fields a library can be handed.

    :raises ConfigurationError: if a field holds a NUL, or the host a login; no value is shown.
    """
    connection: Connection = BaseHook.get_connection(conn_id)
    for name in _FIELDS:
        if _has_nul(connection, name):
            msg = f"field {name} of connection {conn_id!r} holds a NUL character; write it anew"
            raise ConfigurationError(msg)
    refuse_login(f"the host of connection {conn_id!r}", connection.host or "")
    return connection


def refuse_login(what: str, address: str) -> None:
    """
    Refuse an address with a login in it: links, logs and messages show addresses.

    :param what: names the address in the message.
    :raises ConfigurationError: if it holds one.
    """
    # The @ of abfss://container@account and of an abstract socket is none of a login.
    before, at, _ = address.rpartition("@")
    scheme, separator, rest = before.rpartition("://")
    container = scheme.lower() in ("abfs", "abfss", "wasb", "wasbs") and ":" not in rest
    if at and before and not (separator and container):
        msg = (
            f"{what} holds a login, and links and messages would show it; put it into the fields "
            "login and password"
        )
        raise ConfigurationError(msg)


def _has_nul(connection: "Connection", name: str) -> bool:
    if name == "extra":
        return "\\u0000" in json.dumps(connection.extra_dejson)
    return "\0" in str(getattr(connection, name) or "")
