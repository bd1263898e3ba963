"""Verbs about monitors: what they would find now, here; nothing is put on record."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from airflow_mlops.cli.verb import conn_id, open_datasets, open_models, state_of, verb
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.ledger import LedgerHook


@verb
def dependencies(args: Namespace) -> tuple[dict[str, Any], str]:
    """Is the champion, with the packages of this shell, what it was in training?"""
    from airflow_mlops.core.monitoring.constraints import check_constraints
    from airflow_mlops.core.monitoring.dependencies import check_dependencies

    champion = state_of(args.model).champion
    if champion is None:
        msg = f"{args.model} has no champion to ask yet"
        raise ConfigurationError(msg)
    ref, observations = ModelRef(args.model, champion), LedgerHook(conn_id("ledger")).observations()
    report = check_dependencies(ref, observations, lambda: (open_models(), open_datasets()))
    lines = [f"{report.status}: {report.line}", *(f"  {change}" for change in report.changes)]
    found = report.to_dict() | {"healthy": report.status != "broken"}
    if args.constraints:
        planned = check_constraints(Path(args.constraints), report)
        lines += [f"{planned.status}: {planned.line}", *(f"  {c}" for c in planned.changes)]
        lines += [f"  {pin} is not here" for pin in planned.absent]
        found |= {"constraints": planned.to_dict()}
    return found, "\n".join(lines)
