"""Verbs about versions: what differs, what can be made again, where it comes from."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from airflow_mlops.cli.verb import conn_id, open_datasets, open_models, open_registry, verb
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.hooks.ledger import LedgerHook

if TYPE_CHECKING:
    from airflow_mlops.core.deployment.lineage import Lineage


@verb
def diff(args: Namespace) -> tuple[dict[str, Any], str]:
    """What changed between two model versions, or with ``--data`` two dataset versions."""
    if args.data:
        from airflow_mlops.core.data.differences import compare_datasets

        store = open_datasets()
        one, two = (store.open(DatasetRef.parse(text)) for text in (args.model, args.other))
        rows = compare_datasets(one, two)
        return rows.to_dict(), str(rows)
    from airflow_mlops.core.training.differences import compare_models

    refs = ModelRef.parse(args.model), ModelRef.parse(args.other)
    found = compare_models(open_models(), open_datasets(), *refs)
    return found.to_dict(), str(found)


@verb
def reproduce(args: Namespace) -> tuple[dict[str, Any], str]:
    """Train a version again in a fresh process; exit code 1 if it predicts something else."""
    from airflow_mlops.core.training.reproduce import reproduce as again

    ref = ModelRef.parse(args.model)
    found = again(open_models(), open_datasets(), ref, tolerance=args.tolerance)
    return found.to_dict() | {"healthy": found.verdict != "differs"}, str(found)


@verb
def lineage(args: Namespace) -> tuple[dict[str, Any], str]:
    """Where a version comes from: source, data, features, code, run, approvals, predictions."""
    found = _lineage(args.model)
    return found.to_dict(), str(found)


@verb
def card(args: Namespace) -> tuple[dict[str, Any], str]:
    """What people read about a version, as Markdown, or with ``--html`` as a page."""
    from airflow_mlops.core.deployment.cards import data_card, model_card, to_html

    if args.data:
        text = data_card(open_datasets().open(DatasetRef.parse(args.model)))
    else:
        text = model_card(_lineage(args.model))
    shown = to_html(text) if args.html else text
    return {"of": args.model, "format": "html" if args.html else "markdown", "card": shown}, shown


def _lineage(text: str) -> "Lineage":
    from airflow_mlops.core.deployment.lineage import lineage as of

    observations = LedgerHook(conn_id("ledger")).observations()
    return of(open_registry(), open_datasets(), observations, ModelRef.parse(text))
