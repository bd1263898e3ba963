"""Verbs about decisions: who is champion and why, retrain, promote, roll back; and set-up."""

import contextlib
import itertools
import json
import sys
import uuid
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from airflow_mlops.cli.verb import (
    conn_id,
    line_of,
    open_datasets,
    open_ledger,
    open_models,
    open_registry,
    reason_of,
    remember,
    state_of,
    verb,
    who,
)
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.ledger import DECISIONS, Entry, State
from airflow_mlops.core.lines import one_line, written
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.refs import FeatureRef, ModelRef, check_name
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.policy import duration

RECENT = 50
"""Findings among which is looked for the moment since when a monitor has said the same."""


@verb
def status(args: Namespace) -> tuple[dict[str, Any], str]:
    """Who is champion, what the monitors found last, and since when they say so."""
    state = state_of(args.model)
    observations = LedgerHook(conn_id("ledger")).observations()
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
    for monitor in ("contract", "drift", "performance", "dependencies", "system"):
        seen = observations.read(args.model, monitor, last=RECENT)
        serving = [o for o in seen if o.subject.startswith(f"{args.model}@{state.champion}:")]
        found["monitors"][monitor] = _newest(serving or seen)
    for monitor, version in (("rollback", state.champion), ("rollout", state.challenger)):
        seen = observations.read(args.model, monitor, last=RECENT)
        mine = [o for o in seen if o.subject.startswith(f"{args.model}@{version}:")]
        if mine:  # a policy need not have either
            found["monitors"][monitor] = _newest(mine)
    late = _newest_of_each(observations.read(args.model, "late", last=RECENT))
    if late is not None:
        found["monitors"]["late"] = late
    lines = [
        f"{args.model}: champion {_or(state.champion)} since {_or(found['since'])}, "
        f"previous {_or(state.previous)}, waiting for approval {_or(state.challenger)}",
        *(f"  {name:<13}{_finding(body)}" for name, body in found["monitors"].items()),
        f"  {'decision':<13}{line_of(decision) if decision else 'none yet'}",
    ]
    return found, written(lines)


@verb
def history(args: Namespace) -> tuple[dict[str, Any], str]:
    """Every decision on a model, checked against its chain of hashes; or who was champion when."""
    state = state_of(args.model)
    if args.at:
        return _champion_at(state, args.model, args.at)
    lines = [line_of(entry) for entry in state.entries if entry.op != "handover"]
    number, digest = state.head
    between = sum(entry.op == "handover" for entry in state.entries)
    more = f" ({between} from task to task, which --json shows)" if between else ""
    lines.append(f"{number} entries{more}, the chain of hashes holds up to {digest[:16]}")
    found = {
        "model": args.model,
        "entries": [{**e.to_dict(), "hash": e.hash} for e in state.entries],
        "verified": True,
        "head": digest,
    }
    return found, written(lines)


@verb
def retrain(args: Namespace) -> tuple[dict[str, Any], str]:
    """Ask for a retrain: the request goes on record, the monitor decides."""
    name, params, reason = args.model, _params(args.params), reason_of(args)
    state_of(name)  # a request for a model that is misspelt would wait for ever
    key, by, pins = f"request:{uuid.uuid4()}", who(args), _pins(args)
    draft = Entry(name, "request", "", by, reason, evidence={"params": params, "pins": pins})
    entry, _ = open_ledger().record(name, key, {"op": "request"}, lambda _: draft)
    remember(name)
    text = f"request {entry.seq} of {name} by {by} is on record: {reason}"
    if args.no_trigger:
        return entry.to_dict(), written((text, f"the next run of {name}__monitor answers it"))
    run_id = _trigger(f"{name}__monitor")
    return {**entry.to_dict(), "run_id": run_id}, written(
        (text, f"{name}__monitor runs as {run_id}")
    )


@verb
def promote(args: Namespace) -> tuple[dict[str, Any], str]:
    """Make a version champion by hand; its files are verified first."""
    from airflow_mlops.core.deployment.registry import Ask

    ref, by = ModelRef.parse(args.model), who(args)
    ask = Ask(f"promote:{uuid.uuid4()}", by, reason_of(args), {"by_hand": True})
    entry = open_registry().promote(ref, ask, epoch=None, order=None)
    text = f"{ref} is champion (entry {entry.seq}, by {by}): {entry.reason}"
    return entry.to_dict(), one_line(text)


@verb
def reject(args: Namespace) -> tuple[dict[str, Any], str]:
    """Turn a candidate down, whichever stage of its rollout it is in: it serves nobody any more."""
    from airflow_mlops.core.deployment.registry import Ask

    ref, registry = ModelRef.parse(args.model), open_registry()
    waiting = state_of(ref.name).challenger
    if waiting != ref.version:
        now = f"{ref.name}@{waiting} is" if waiting is not None else "there is none now"
        msg = f"{ref} is no candidate, {now}; a champion goes by airflow mlops rollback {ref.name}"
        raise ConfigurationError(msg)
    ask = Ask(f"reject:{uuid.uuid4()}", who(args), reason_of(args), {"by_hand": True})
    entry = registry.refuse(ref, ask, op="reject")
    text = f"{ref} is rejected (entry {entry.seq}, by {entry.by}): {entry.reason}"
    return entry.to_dict(), one_line(text)


@verb
def rollback(args: Namespace) -> tuple[dict[str, Any], str]:
    """Return to an earlier champion that can serve; ``--dry-run`` only looks."""
    from airflow_mlops.core.deployment.registry import Ask
    from airflow_mlops.core.deployment.rollback import parse_target, plan_rollback, roll_back

    name, to = check_name(args.model), parse_target(args.to)
    stores = open_registry(), open_datasets()
    if args.dry_run:
        plan = plan_rollback(*stores, name, to)
        can = "cannot serve" if plan.failed else "can serve; nothing was changed"
        return plan.to_dict() | {"healthy": not plan.failed}, f"{plan}\n{plan.target} {can}"
    ask = Ask(f"rollback:{uuid.uuid4()}", who(args), reason_of(args), {})
    entry = roll_back(*stores, name, ask, to=to, force=args.force)
    before = entry.evidence.get("from")
    text = f"{name}: champion {before} -> {entry.version} (entry {entry.seq}, by {entry.by})"
    return entry.to_dict(), one_line(text)


@verb
def migrate(args: Namespace) -> tuple[dict[str, Any], str]:
    """Bring schema ``mlops`` to the newest version; needs a login that may create roles."""
    from airflow_mlops.core import migrations

    dsn = LedgerHook(conn_id("ledger")).dsn()
    before = migrations.pending(dsn)
    migrations.upgrade(dsn)
    text = f"schema mlops: {before[0]} -> {before[1]}" if before else "schema mlops is up to date"
    return {"before": before}, text


def _champion_at(state: State, name: str, at: str) -> tuple[dict[str, Any], str]:
    """Who was champion at a moment of the data, and why."""
    from airflow_mlops.core.deployment.rollback import moment_of

    entry = state.changed_at(moment_of(at))
    if entry is None:
        msg = f"{name} had no champion at {at}"
        raise ConfigurationError(msg)
    decision = entry.evidence.get("decision")
    led = state.numbered(int(decision)) if decision else None
    entries = [] if led is None else [led]
    lines = [f"{name}@{entry.version} was champion at {at}:"]
    lines += [line_of(e) for e in (*entries, entry)]
    found = {"model": name, "at": at, "champion": entry.version}
    return found | {"entries": [e.to_dict() for e in (*entries, entry)]}, written(lines)


def _pins(args: Namespace) -> dict[str, str]:
    """Read ``--features``, ``--data`` and ``--window``, and see that they are there."""
    pins = {}
    if args.window:
        try:
            duration(args.window)
        except ValueError as error:
            msg = f"--window: {error}"
            raise ConfigurationError(msg) from error
        pins["window"] = args.window
    if args.features:
        ref = FeatureRef.parse(args.features)
        open_models().features(ref)
        pins["features"] = str(ref)
    if args.data:
        store = open_datasets()
        table = store.open(store.resolve(args.data))
        table.refuse_removed(table.ref, table.removed)
        pins["data"] = str(table.ref)
    return pins


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
        with contextlib.redirect_stdout(sys.stderr):  # it talks, and would break --json
            started = get_current_api_client().trigger_dag(dag_id=dag_id)
    except DagNotFound as error:
        msg = f"the request is on record, but there is no Dag {dag_id!r} to answer it"
        raise ConfigurationError(msg) from error
    return str(started["dag_run_id"] if started else "")


def _newest(findings: Sequence[Observation]) -> dict[str, Any] | None:
    """Return the newest finding, with the moment from which on the monitor has said the same."""
    if not findings:
        return None
    body = dict(findings[-1].body)
    same = itertools.takewhile(
        lambda o: o.body.get("status") == body.get("status"), reversed(findings)
    )
    return body | {"since": min(o.recorded_at for o in same)}


def _newest_of_each(findings: Sequence[Observation]) -> dict[str, Any] | None:
    """Return the newest finding; if another dataset of the model has a worse one, that."""
    datasets: dict[str, list[Observation]] = {}
    for finding in findings:
        name = str(finding.body.get("dataset", "")).partition("@")[0]
        datasets.setdefault(name, []).append(finding)
    found = [body for seen in datasets.values() if (body := _newest(seen)) is not None]
    return next((b for b in found if b.get("status") != "ok"), found[-1] if found else None)


def _finding(body: dict[str, Any] | None) -> str:
    if body is None:
        return "nothing yet"
    said = body.get("status", "unknown"), body.get("line", "another tool or release wrote this")
    return f"{said[0]:<7} since {body['since'][:16]}  {said[1]}"


def _or(value: object) -> str:
    return "none" if value is None else str(value)
