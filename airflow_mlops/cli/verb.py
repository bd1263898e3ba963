"""
What every verb of ``airflow mlops`` shares: how it prints, how it ends, what it talks to.

Exit codes: 0 done, 1 refused or found broken, 2 asked for something that cannot work, 3 a service
does not answer.
"""

import contextlib
import functools
import getpass
import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.core.errors import ConfigurationError, MlopsError, UnavailableError
from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.lines import without_codes
from airflow_mlops.core.refs import check_name
from airflow_mlops.hooks.datasets import DatasetHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.deployment.registry import ModelRegistry
    from airflow_mlops.core.training.models import ModelStore

Verb = Callable[[Namespace], int]


def verb(function: Callable[[Namespace], tuple[dict[str, Any], str]]) -> Verb:
    """Print what a verb found, as text or as JSON, and turn errors into exit codes."""

    @functools.wraps(function)
    def run(args: Namespace) -> int:
        # Else the hooks would look for connections in the environment only, as a task does.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")  # noqa: TID251
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would warn into --json
        try:
            found, text = _with_connections(function, args)
        except MlopsError as error:
            kind = type(error).__name__
            if args.json:
                print(json.dumps({"error": kind, "message": str(error)}))
            else:
                print(f"{kind}: {_indented(error)}", file=sys.stderr)
            unavailable = isinstance(error, UnavailableError)
            sys.exit(2 if isinstance(error, ConfigurationError) else 3 if unavailable else 1)
        _show(json.dumps(found, indent=1, default=str) if args.json else text)
        if found.get("healthy") is False:
            sys.exit(1)
        return 0

    return run


def _show(text: str) -> None:
    try:
        print(without_codes(text), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; Python would complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _indented(error: MlopsError) -> str:
    """Return the message; what a database or user code says in several lines is moved in."""
    return without_codes(str(error)).replace("\n", "\n    ")


def _with_connections(
    function: Callable[[Namespace], tuple[dict[str, Any], str]], args: Namespace
) -> tuple[dict[str, Any], str]:
    try:
        return function(args)
    except AirflowNotFoundException as error:
        msg = f"{error}; make it, or name another one in section [mlops] of Airflow's configuration"
        raise ConfigurationError(msg) from error


def state_of(name: str) -> State:
    """
    Read the entries of a model.

    :raises ConfigurationError: if there are none; the models that have some are named.
    """
    ledger = open_ledger()
    state = ledger.state(check_name(name))
    if not state.entries:
        known = ", ".join(ledger.models()) or "none yet"
        msg = f"no decision on a model {name!r} is on record; models on record: {known}"
        raise ConfigurationError(msg)
    return state


def open_ledger() -> Ledger:
    """Open the ledger."""
    return LedgerHook(conn_id("ledger")).get_conn()


def open_models() -> "ModelStore":
    """Open the model versions in MLflow."""
    return MlflowHook(conn_id("mlflow")).models(open_ledger())


def open_registry() -> "ModelRegistry":
    """Open ledger and MLflow together."""
    from airflow_mlops.core.deployment.registry import ModelRegistry

    moved_alias = str(conf.get("mlops", "moved_alias"))
    return ModelRegistry(open_models(), open_ledger(), moved_alias)


def remember(name: str) -> None:
    """Let MLflow remember the newest entry of a model; if it is away, the next tick does."""
    with contextlib.suppress(UnavailableError):
        open_registry().reconcile(name)


def open_datasets() -> "DatasetStore":
    """Open the dataset store."""
    return DatasetHook(conn_id("dataset")).get_conn()


def conn_id(what: str) -> str:
    """Return the id of a connection, as section ``[mlops]`` names it."""
    return str(conf.get("mlops", f"{what}_conn_id"))


def who(args: Namespace) -> str:
    """Return who asks: ``--by``, else the user of this shell."""
    return str(args.by or getpass.getuser())


def reason_of(args: Namespace) -> str:
    """
    Return why somebody wants something.

    :raises ConfigurationError: if it says nothing.
    """
    if not args.reason.strip():
        msg = "--reason is empty; say why, it is put on record"
        raise ConfigurationError(msg)
    return str(args.reason)


def line_of(entry: Entry) -> str:
    """Write one entry of the ledger in one line."""
    version = f" {entry.model}@{entry.version}" if entry.version is not None else ""
    return f"{entry.seq:>4}  {entry.at[:19]}  {entry.op:<9}{version}  {entry.reason}  [{entry.by}]"
