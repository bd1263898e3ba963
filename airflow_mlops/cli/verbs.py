"""
What each verb of ``airflow mlops`` does.

Exit codes: 0 done, 1 refused or found broken, 2 asked for something that cannot work, 3 a service
does not answer.
"""

import functools
import getpass
import json
import logging
import os
import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.core.errors import ConfigurationError, MlopsError, UnavailableError
from airflow_mlops.core.ledger import DECISIONS, Entry, Ledger, State
from airflow_mlops.core.refs import ModelRef, check_name
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MlflowHook

Verb = Callable[[Namespace], int]


def _verb(function: Callable[[Namespace], tuple[dict[str, Any], str]]) -> Verb:
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
                print(f"{kind}: {error}", file=sys.stderr)
            unavailable = isinstance(error, UnavailableError)
            sys.exit(2 if isinstance(error, ConfigurationError) else 3 if unavailable else 1)
        print(json.dumps(found, indent=1, default=str) if args.json else text)
        if found.get("healthy") is False:
            sys.exit(1)
        return 0

    return run


def _with_connections(
    function: Callable[[Namespace], tuple[dict[str, Any], str]], args: Namespace
) -> tuple[dict[str, Any], str]:
    try:
        return function(args)
    except AirflowNotFoundException as error:
        msg = f"{error}; make it, or name another one in section [mlops] of Airflow's configuration"
        raise ConfigurationError(msg) from error


@_verb
def status(args: Namespace) -> tuple[dict[str, Any], str]:
    """Who is champion, and what the monitors found last."""
    state = _known(args.model)
    observations = LedgerHook(_conn("ledger")).observations()
    decision = state.last(*DECISIONS)
    found: dict[str, Any] = {
        "model": args.model,
        "champion": state.champion,
        "previous": state.previous,
        "challenger": state.challenger,
        "since": next((e.at for e in reversed(state.entries) if e.seq == state.epoch), None),
        "decision": decision.to_dict() if decision else None,
        "monitors": {},
    }
    for monitor in ("contract", "drift", "performance"):
        last = observations.read(args.model, monitor, last=1)
        found["monitors"][monitor] = dict(last[-1].body) if last else None
    lines = [
        f"{args.model}: champion {_or(state.champion)} since {_or(found['since'])}, "
        f"previous {_or(state.previous)}, waiting for approval {_or(state.challenger)}",
        *(f"  {name:<12}{_finding(name, body)}" for name, body in found["monitors"].items()),
        f"  {'decision':<12}{_line(decision) if decision else 'none yet'}",
    ]
    return found, "\n".join(lines)


@_verb
def why(args: Namespace) -> tuple[dict[str, Any], str]:
    """The last decisions, with their evidence and thresholds."""
    if args.last < 1:
        msg = f"--last is {args.last}; one entry or more can be shown"
        raise ConfigurationError(msg)
    entries = _known(args.model).entries[-args.last :]
    lines = []
    for entry in entries:
        lines.append(_line(entry))
        evidence = entry.evidence
        shown = ("facts", "thresholds", "verdict", "answer", "params", "drifted")
        lines += [
            f"       {name}: {json.dumps(evidence[name], default=str)}"
            for name in shown
            if evidence.get(name)
        ]
    return {"model": args.model, "entries": [e.to_dict() for e in entries]}, "\n".join(lines)


@_verb
def history(args: Namespace) -> tuple[dict[str, Any], str]:
    """Every decision on a model, checked against its chain of hashes."""
    state = _known(args.model)
    lines = [_line(entry) for entry in state.entries]
    number, digest = state.head
    lines.append(f"{number} entries, the chain of hashes holds up to {digest[:16]}")
    found = {
        "model": args.model,
        "entries": [{**e.to_dict(), "hash": e.hash} for e in state.entries],
        "verified": True,
        "head": digest,
    }
    return found, "\n".join(lines)


@_verb
def retrain(args: Namespace) -> tuple[dict[str, Any], str]:
    """Ask for a retrain: the request goes on record, the monitor decides."""
    name, params, reason = args.model, _params(args.params), _reason(args)
    _known(name)  # a request for a model that is misspelt would wait for ever
    key, by = f"request:{uuid.uuid4()}", _who(args)
    draft = Entry(name, "request", "", by, reason, evidence={"params": params})
    entry, _ = _ledger().record(name, key, {"op": "request"}, lambda _: draft)
    text = f"request {entry.seq} of {name} by {by} is on record: {reason}"
    if args.no_trigger:
        return entry.to_dict(), f"{text}\nthe next run of {name}__monitor answers it"
    run_id = _trigger(f"{name}__monitor")
    return {**entry.to_dict(), "run_id": run_id}, f"{text}\n{name}__monitor runs as {run_id}"


@_verb
def promote(args: Namespace) -> tuple[dict[str, Any], str]:
    """Make a version champion by hand; its files are verified first."""
    from airflow_mlops.core.deployment.registry import Ask

    ref, by = ModelRef.parse(args.model), _who(args)
    ask = Ask(f"promote:{uuid.uuid4()}", by, _reason(args), {"by_hand": True})
    entry = _registry().promote(ref, ask, epoch=None, order=None)
    return entry.to_dict(), f"{ref} is champion (entry {entry.seq}, by {by}): {entry.reason}"


@_verb
def rollback(args: Namespace) -> tuple[dict[str, Any], str]:
    """Return to an earlier champion; its files are verified first."""
    from airflow_mlops.core.deployment.registry import Ask

    name, by = check_name(args.model), _who(args)
    ask = Ask(f"rollback:{uuid.uuid4()}", by, _reason(args), {})
    entry = _registry().rollback(name, ask, to=args.to)
    before = entry.evidence.get("from")
    text = f"{name}: champion {before} -> {entry.version} (entry {entry.seq}, by {by})"
    return entry.to_dict(), text


@_verb
def doctor(args: Namespace) -> tuple[dict[str, Any], str]:
    """Check connections, schema, ledger and aliases; exit code 1 if something is broken."""
    checks = {
        "connection to the dataset store": _check_datasets,
        "connection to MLflow": _check_mlflow,
        "schema mlops": _check_schema,
        "ledger and aliases": _check_models,
    }
    results = {}
    for name, check in checks.items():
        try:
            results[name] = {"ok": True, "found": check()}
        except (MlopsError, AirflowNotFoundException) as error:
            results[name] = {"ok": False, "found": f"{type(error).__name__}: {error}"}
    lines = [f"{'ok ' if r['ok'] else 'BAD'} {n}: {r['found']}" for n, r in results.items()]
    healthy = all(r["ok"] for r in results.values())
    return {"healthy": healthy, "checks": results}, "\n".join(lines)


@_verb
def migrate(args: Namespace) -> tuple[dict[str, Any], str]:
    """Bring schema ``mlops`` to the newest version; needs a login that may create roles."""
    from airflow_mlops.core import migrations

    dsn = LedgerHook(_conn("ledger")).dsn()
    before = migrations.pending(dsn)
    migrations.upgrade(dsn)
    text = f"schema mlops: {before[0]} -> {before[1]}" if before else "schema mlops is up to date"
    return {"before": before}, text


def _check_datasets() -> str:
    from airflow_mlops.hooks.datasets import DatasetHook

    return DatasetHook(_conn("dataset")).get_conn().root


def _check_mlflow() -> str:
    from airflow_mlops.core.training.models import ping

    return ping(MlflowHook(_conn("mlflow")).get_conn())


def _check_schema() -> str:
    from airflow_mlops.core import migrations

    behind = migrations.pending(LedgerHook(_conn("ledger")).dsn())
    if behind:
        msg = f"schema mlops is at {behind[0]}, newest is {behind[1]}: airflow mlops migrate"
        raise ConfigurationError(msg)
    return "up to date"


def _check_models() -> str:
    registry, lines = _registry(), []
    for name in registry.ledger.models():
        repaired = registry.reconcile(name)
        number, _ = registry.ledger.state(name).head
        lines.append(f"{name}: {number} entries verified, {'; '.join(repaired) or 'aliases agree'}")
    return "; ".join(lines) or "no model yet"


def _known(name: str) -> State:
    """
    Read the entries of a model.

    :raises ConfigurationError: if there are none; the models that have some are named.
    """
    ledger = _ledger()
    state = ledger.state(check_name(name))
    if not state.entries:
        known = ", ".join(ledger.models()) or "none yet"
        msg = f"no decision on a model {name!r} is on record; models on record: {known}"
        raise ConfigurationError(msg)
    return state


def _ledger() -> Ledger:
    return LedgerHook(_conn("ledger")).get_conn()


def _registry() -> Any:
    from airflow_mlops.core.deployment.registry import ModelRegistry

    return ModelRegistry(MlflowHook(_conn("mlflow")).models(), _ledger())


def _conn(what: str) -> str:
    return str(conf.get("mlops", f"{what}_conn_id"))


def _who(args: Namespace) -> str:
    return str(args.by or getpass.getuser())


def _reason(args: Namespace) -> str:
    """
    Return why somebody wants something.

    :raises ConfigurationError: if it says nothing.
    """
    if not args.reason.strip():
        msg = "--reason is empty; say why, it is put on record"
        raise ConfigurationError(msg)
    return str(args.reason)


def _params(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"--params is not JSON: {text!r} ({error})"
        raise ConfigurationError(msg) from error
    if not isinstance(found, dict):
        msg = f"--params must be a JSON object such as '{{\"max_iter\": 200}}', not {text!r}"
        raise ConfigurationError(msg)
    return found


def _trigger(dag_id: str) -> str:
    """Start a run of the monitor through Airflow's own client."""
    from airflow.api.client import get_current_api_client
    from airflow.exceptions import DagNotFound

    try:
        started = get_current_api_client().trigger_dag(dag_id=dag_id)
    except DagNotFound as error:
        msg = f"the request is on record, but there is no Dag {dag_id!r} to answer it"
        raise ConfigurationError(msg) from error
    return str(started["dag_run_id"] if started else "")


def _line(entry: Entry) -> str:
    version = f" {entry.model}@{entry.version}" if entry.version is not None else ""
    return f"{entry.seq:>4}  {entry.at[:19]}  {entry.op:<9}{version}  {entry.reason}  [{entry.by}]"


def _finding(monitor: str, body: dict[str, Any] | None) -> str:
    if body is None:
        return "nothing yet"
    if monitor == "contract":
        return f"{body['status']} on {body['dataset']}: {'; '.join(body['breaks']) or 'no breaks'}"
    if monitor == "drift":
        names = ", ".join(body["drifted"]) or "no column"
        return f"window {body['window']}: {names} drifted against what {body['model']} saw"
    loss = sum(body["champion"]) / len(body["champion"])
    probe = sum(body["probe"]) / len(body["probe"])
    who, numbers = body["model"], f"{body['metric']} {loss:.4f}, a fresh small model {probe:.4f}"
    return f"window {body['index']}: {who} {numbers}"


def _or(value: object) -> str:
    return "none" if value is None else str(value)
