"""Is all as it should be: connections, schema, ledger, aliases; the gates of a policy."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.cli.declared import declared
from airflow_mlops.cli.verb import (
    conn_id,
    open_datasets,
    open_ledger,
    open_models,
    open_registry,
    reason_of,
    state_of,
    verb,
    who,
)
from airflow_mlops.core.errors import (
    ConfigurationError,
    EvidenceChangedError,
    ForeignEntryError,
    MlopsError,
    RejectedError,
)
from airflow_mlops.core.lines import written
from airflow_mlops.core.refs import ModelRef, is_name
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from airflow_mlops.core.evaluation.planted import Tried


@verb
def doctor(args: Namespace) -> tuple[dict[str, Any], str]:
    """
    Check connections, schema, ledger and aliases, or the gates of a model.

    Exit code 1 if something is broken, or a planted bad model passes the gates.
    """
    if args.gates:
        return _gates(args)
    if args.set_aside is not None or args.vouch:
        return _said(args)
    if args.model:
        msg = (
            f"doctor {args.model}: what of it? --gates tries its gates on bad models, --set-aside "
            "SEQ lets an entry count no more, --vouch believes entries that are not signed"
        )
        raise ConfigurationError(msg)
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
    return {"healthy": healthy, "checks": results}, written(lines)


def _said(args: Namespace) -> tuple[dict[str, Any], str]:
    """Put on record what a person says of entries that nobody else can judge."""
    from airflow_mlops.core.audit import set_aside, vouch

    if not args.model:
        msg = "whose entries? name the model, as in `airflow mlops doctor NAME --set-aside 17`"
        raise ConfigurationError(msg)
    if args.vouch and args.set_aside is not None:
        msg = "--vouch and --set-aside are two things; say one after the other"
        raise ConfigurationError(msg)
    ledger, said = open_ledger(), {"by": who(args), "reason": reason_of(args)}
    if args.vouch:
        entry = vouch(ledger, args.model, **said)
        line = f"entries up to {entry.evidence['until']} of {args.model} are believed"
    else:
        entry = set_aside(ledger, args.model, args.set_aside, **said)
        line = f"entry {args.set_aside} of {args.model} counts no more"
    text = f"{line} (entry {entry.seq}, by {entry.by}): {entry.reason}"
    return entry.to_dict(), written([text])


def _gates(args: Namespace) -> tuple[dict[str, Any], str]:
    """Judge planted bad models by the gates of a declared model."""
    from airflow_mlops.core.evaluation.planted import try_gates_of

    if not args.model:
        msg = "doctor --gates: whose? name the model, as in `airflow mlops doctor NAME --gates`"
        raise ConfigurationError(msg)
    life, state = declared(args.model, args.dags), state_of(args.model)
    if state.champion is None:
        msg = f"{args.model} has no champion yet: bad models are made of its rows and functions"
        raise ConfigurationError(msg)
    champion = ModelRef(args.model, state.champion)
    stores = open_models(), open_datasets()
    tried = try_gates_of(*stores, champion, life.gates, metric=life.metric)
    refused = sum(one.verdict.status != "passed" for one in tried)
    lines = [f"{len(tried)} bad models, made of the recipe of {champion}:", *map(_line, tried)]
    lines.append(f"{refused} of {len(tried)} do not pass the gates of {args.model}")
    found = {"model": str(champion), "healthy": refused == len(tried)}
    return found | {"tried": [one.to_dict() for one in tried]}, written(lines)


def _line(tried: "Tried") -> str:
    name, _, wrong = tried.planted.partition(": ")
    by = ", ".join(tried.caught) or "nothing: tighten the gates"
    return f"  {tried.verdict.status:<9}  {name:<9} {wrong:<40} by {by}"


def _check_datasets() -> str:
    return open_datasets().root


def _check_mlflow() -> str:
    from airflow_mlops.core.training.answers import ping

    return ping(MlflowHook(conn_id("mlflow")).get_conn())


def _check_schema() -> str:
    from airflow_mlops.core import migrations

    behind = migrations.pending(LedgerHook(conn_id("ledger")).dsn())
    if behind:
        msg = f"schema mlops is at {behind[0]}, newest is {behind[1]}: airflow mlops migrate"
        raise ConfigurationError(msg)
    return "up to date"


def _check_models() -> str:
    """Verify the whole chain of every model on record or in MLflow; compare anchor and aliases."""
    from airflow_mlops.core.audit import verify
    from airflow_mlops.core.monitoring.citations import check_citations

    registry, lines, broken = open_registry(), [], False
    observations = LedgerHook(conn_id("ledger")).observations()
    for name in sorted({*registry.ledger.models(), *registry.anchored()}):
        try:
            found = verify(registry.ledger, name)
            if found.foreign:
                raise ForeignEntryError("; ".join(found.foreign))
            other = check_citations(registry.ledger, observations, name)
            if other:
                raise EvidenceChangedError("; ".join(other))
            done = registry.reconcile(name) if is_name(name) else ()
            lines.append(f"{name}: {found}, {'; '.join(done) or 'aliases agree'}")
        except (ConfigurationError, RejectedError) as error:
            broken = True
            lines.append(f"{name}: {type(error).__name__}: {error}")
    text = "; ".join(lines) or "no model yet"
    if broken:
        raise RejectedError(text)
    return text
