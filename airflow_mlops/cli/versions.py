"""Verbs about versions: what differs, and what can be made again."""

from argparse import Namespace
from typing import Any

from airflow_mlops.cli.verb import open_datasets, open_models, verb
from airflow_mlops.core.refs import DatasetRef, ModelRef


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
