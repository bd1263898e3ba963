"""What the drift monitor puts on record about one window."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from airflow_mlops.core.monitoring.drift.arrival import Arrival
from airflow_mlops.core.monitoring.drift.report import DatasetDrift, DriftReport

_NAMED = 5


def body_of(
    report: DriftReport,
    verdict: DatasetDrift,
    arrivals: Sequence[Arrival],
    *,
    model: str,
    window: int,
    lag: float | None = None,
) -> dict[str, Any]:
    """
    Write one observation: status, line, the report, and what is odd about the delivery.

    :param verdict: of the dataset as a whole.
    :param model: version that the rows were compared for.
    :param window: index of the window.
    :param lag: age of the newest row, in seconds; ``None``: no clock was given.
    """
    body = report.to_dict() | {
        "model": model,
        "window": window,
        "dataset": verdict.drifted,
        "weight": verdict.weight,
        "reason": verdict.reason,
        "lag_s": lag,
    }
    return with_arrivals(body, arrivals)


def body_before(model: str) -> dict[str, Any]:
    """
    Write an observation without a window: none is complete since a version serves.

    :param model: that version.
    """
    return {"model": model, "window": None, "drifted": [], "columns": []}


def with_arrivals(body: Mapping[str, Any], arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Write an observation anew with other findings about the delivery."""
    odd = bool(body["drifted"] or body.get("warned") or arrivals)
    return {
        **body,
        "findings": [a.to_dict() for a in arrivals],
        "status": "broken" if body.get("dataset") else "warn" if odd else "ok",
        "line": _line(body, arrivals),
    }


def _line(body: Mapping[str, Any], arrivals: Sequence[Arrival]) -> str:
    others = "".join(f"; {a.text}" for a in arrivals)
    if body["window"] is None:
        return f"no window is complete since {body['model']} serves{others}"
    says = [
        f"{_named(body, names)} {word}"
        for names, word in ((body["drifted"], "drifted"), (body.get("warned"), "moved a little"))
        if names
    ]
    what = " and ".join(says) or "no column drifted"
    whole = f"; the dataset drifted: {body['reason']}" if body.get("dataset") else ""
    return f"window {body['window']}: {what} against what {body['model']} saw{whole}{others}"


def _named(body: Mapping[str, Any], names: Collection[str]) -> str:
    found = {c["column"]: c for c in body["columns"]}
    some = [
        f"{name} ({found[name]['statistic']} {found[name]['effect']:.0%})"
        for name in list(names)[:_NAMED]
    ]
    more = len(names) - len(some)
    return ", ".join(some) + (f" and {more} more" if more > 0 else "")
