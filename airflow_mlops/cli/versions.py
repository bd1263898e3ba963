"""Verbs about versions: what differs, what can be made again, where it comes from."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from airflow_mlops.cli.verb import (
    conn_id,
    open_datasets,
    open_ledger,
    open_models,
    open_registry,
    verb,
)
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import FeatureRef, ModelRef, check_name
from airflow_mlops.hooks.ledger import LedgerHook

if TYPE_CHECKING:
    from airflow_mlops.core.deployment.lineage import Lineage

FEATURE_SET = "@fs-"
"""What tells a feature set from a model, as people write them."""


@verb
def diff(args: Namespace) -> tuple[dict[str, Any], str]:
    """What changed between two model versions, feature sets, or with ``--data`` datasets."""
    if args.data:
        from airflow_mlops.core.data.differences import compare_datasets

        store = open_datasets()
        one, two = (store.open(store.resolve(text)) for text in (args.model, args.other))
        rows = compare_datasets(one, two)
        return rows.to_dict(), str(rows)
    from airflow_mlops.core.training.differences import compare_features, compare_models

    if any(FEATURE_SET in text for text in (args.model, args.other)):
        parsed = FeatureRef.parse(args.model), FeatureRef.parse(args.other)
        sets = compare_features(open_models(), *parsed)
        return sets.to_dict(), str(sets)
    refs = ModelRef.parse(args.model), ModelRef.parse(args.other)
    found = compare_models(open_models(), open_datasets(), *refs)
    return found.to_dict(), str(found)


@verb
def features(args: Namespace) -> tuple[dict[str, Any], str]:
    """The feature sets of a model or of all, or one of them with ``--source``."""
    from airflow_mlops.core.training.catalogue import feature_sets, table_of

    if args.model and FEATURE_SET in args.model:
        return _feature_set(FeatureRef.parse(args.model), source=args.source)
    if args.source:
        msg = "--source shows the code of one feature set; name it, name.features@fs-..."
        raise ConfigurationError(msg)
    store, ledger = open_models(), open_ledger()
    names = [check_name(args.model)] if args.model else ledger.models()
    sets = [s for n in names for s in feature_sets(store, n, ledger.state(n).champion)]
    if args.model and not sets:
        known = ", ".join(ledger.models()) or "none yet"
        msg = f"no version of {args.model!r} was trained with a feature set; models: {known}"
        raise ConfigurationError(msg)
    return {"features": [s.to_dict() for s in sets]}, table_of(sets)


def _feature_set(ref: FeatureRef, *, source: bool) -> tuple[dict[str, Any], str]:
    from airflow_mlops.core.training.catalogue import feature_set

    name = ref.name.removesuffix(".features")
    found, code = feature_set(open_models(), ref, open_ledger().state(name).champion)
    if not source:
        return found.to_dict(), str(found)
    files = [f"# {name}\n{text}" for name, text in sorted(code.files.items())]
    return found.to_dict() | {"source": dict(code.files)}, "\n\n".join([str(found), *files])


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
        store = open_datasets()
        text = data_card(store.open(store.resolve(args.model)))
    else:
        text = model_card(_lineage(args.model))
    shown = to_html(text) if args.html else text
    return {"of": args.model, "format": "html" if args.html else "markdown", "card": shown}, shown


def _lineage(text: str) -> "Lineage":
    from airflow_mlops.core.deployment.lineage import lineage as of

    observations = LedgerHook(conn_id("ledger")).observations()
    return of(open_registry(), open_datasets(), observations, ModelRef.parse(text))
