"""Verbs about monitors: what they would find now, here, or have found; nothing is recorded."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.cli.verb import conn_id, open_datasets, open_models, state_of, verb
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.ledger import State
from airflow_mlops.core.lines import written
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.hooks.ledger import LedgerHook

if TYPE_CHECKING:
    from airflow_mlops.core.monitoring.observations import Observations


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
    return found, written(lines)


@verb
def report(args: Namespace) -> tuple[dict[str, Any], str]:
    """Write what one monitor found as a page of HTML."""
    chosen = [name for name in _REPORTS if getattr(args, name)]
    if len(chosen) != 1:
        known = ", ".join(f"--{name}" for name in _REPORTS)
        msg = f"a report is about one monitor, {len(chosen)} are named; choose one of {known}"
        raise ConfigurationError(msg)
    state = state_of(args.model)
    observations = LedgerHook(conn_id("ledger")).observations()
    text = _REPORTS[chosen[0]](args, state, observations)
    if not args.out:
        return {"model": args.model, "report": chosen[0], "html": text}, text.rstrip()
    path = Path(args.out)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        msg = f"cannot write the report to {path}: {error}"
        raise ConfigurationError(msg) from error
    size = len(text.encode())
    found = {"model": args.model, "report": chosen[0], "file": str(path), "bytes": size}
    return found, f"{path}: {chosen[0]} of {args.model}, {size / 1000:,.0f} kB"


def _drift(args: Namespace, state: State, observations: "Observations") -> str:
    """Draw the newest window that was judged, or one by its number."""
    from airflow_mlops.core.monitoring.drift.reference import compared, training_rows
    from airflow_mlops.core.reports.drift import drift_report, unjudged_report

    found = [o.body for o in observations.read(args.model, "drift")]
    bodies = [body for body in found if body["window"] is not None]
    wanted = [b for b in bodies if args.window in (None, b["window"])]
    if not wanted and args.window is None:
        return unjudged_report(args.model, found[-1] if found else {})
    if not wanted:
        judged = ", ".join(str(n) for n in sorted({b["window"] for b in bodies})) or "none"
        msg = f"no finding of drift of {args.model}, window {args.window}; judged were: {judged}"
        raise ConfigurationError(msg)
    body, store = wanted[-1], open_datasets()
    before = training_rows(store, open_models().get(ModelRef.parse(body["model"])))
    current = store.open(DatasetRef.parse(body["current"]))
    return drift_report(body, compared(body, before, current))


def _performance(args: Namespace, state: State, observations: "Observations") -> str:
    from airflow_mlops.core.reports.performance import performance_report

    windows, guesses = (
        [o.body for o in observations.read(args.model, m)] for m in ("performance", "estimate")
    )
    if args.window is not None:
        kept = [b for b in windows if b["index"] == args.window]
        if not kept:
            known = ", ".join(str(n) for n in sorted({b["index"] for b in windows})) or "none"
            msg = f"window {args.window} of {args.model} was not measured; measured were: {known}"
            raise ConfigurationError(msg)
        windows = [b for b in windows if b["index"] <= args.window and b not in kept] + kept
    return performance_report(args.model, windows, guesses, state.entries)


def _system(args: Namespace, state: State, observations: "Observations") -> str:
    from airflow_mlops.core.reports.system import system_report

    looks = observations.read(args.model, "system", last=_LAST)
    return system_report(args.model, looks, observations.read(args.model, "usage", last=_USAGES))


def _dependencies(args: Namespace, state: State, observations: "Observations") -> str:
    from airflow_mlops.core.reports.system import dependencies_report

    found, planned = (observations.read(args.model, m) for m in ("dependencies", "constraints"))
    return dependencies_report(args.model, found, planned)


_LAST, _USAGES = 100, 2_000
_REPORTS = {
    "drift": _drift,
    "performance": _performance,
    "system": _system,
    "dependencies": _dependencies,
}
