"""
What each task of a model used: measured beside it, and stored after it has ended.

A hook only starts or ends a thread. The thread writes to a local folder; once the task has ended
and Airflow knows how, it delivers what lies there to ``mlops.observations``.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl
from airflow.sdk import conf

from airflow_mlops.core.monitoring.resources import Sampler, Usage
from airflow_mlops.core.monitoring.spool import Spool, Waiting

GRACE = 5.0
"""Seconds that an ended task waits for its delivery; what takes longer, the next one delivers."""

_TIMEOUT = 2
"""Seconds that a connection to the database may take; there is one attempt."""

_log = logging.getLogger(__name__)

Finding = tuple[str, str, str, dict[str, Any]]
"""Model, monitor, subject and body, as they are stored."""


def _quiet(hook: Callable[..., None]) -> Callable[..., None]:
    """Keep every error of a hook from the task: a monitor that fails is no reason to fail it."""

    @wraps(hook)
    def run(*args: Any, **named: Any) -> None:
        try:
            hook(*args, **named)
        except Exception:  # noqa: BLE001  (whatever it is, the task goes on)
            _log.debug("usage of this task is not recorded", exc_info=True)

    return run


@dataclass(slots=True)
class Watch:
    """
    One try of one task, while it is watched.

    :param facts: which task it is; they are part of what is stored.
    :param conn_id: connection to the database of schema ``mlops``.
    """

    facts: Mapping[str, Any]
    conn_id: str
    spool: Spool
    path: Path = field(init=False)
    sampler: Sampler = field(init=False)
    outcome: str = ""

    def __post_init__(self) -> None:
        self.path = self.spool.begin()
        self.sampler = Sampler(_quiet(self._looked), _quiet(self._ended))

    @property
    def model(self) -> str:
        """Name of the model that the task works for."""
        return str(self.facts["model"])

    def record(self, usage: Usage, outcome: str) -> dict[str, Any]:
        """Return what is stored about this try."""
        body = {**self.facts, **usage.to_dict(), "outcome": outcome}
        return {"conn_id": self.conn_id, "model": self.model, "body": body}

    def _looked(self, usage: Usage) -> None:
        self.spool.write(self.path, self.record(usage, "running"), ended=False)

    def _ended(self, usage: Usage) -> None:
        if not self.outcome:  # parked: it comes back, and is counted then
            self.spool.remove(self.path)
            return
        self.spool.write(self.path, self.record(usage, self.outcome), ended=True)
        _quiet(self._tell_metrics)(usage)
        try:
            deliver(self.spool, self.conn_id)
        finally:
            if lost := self.spool.bound():
                _log.warning(
                    "%d usages waited too long in %s and are lost", lost, self.spool.folder
                )

    def _tell_metrics(self, usage: Usage) -> None:
        """Set Airflow's gauges; they go nowhere unless its metrics are on."""
        from airflow.sdk.observability import stats

        tags = {name: str(self.facts[name]) for name in ("model", "dag_id", "task_id")}
        found = usage.to_dict()
        for name in ("wall_s", "cpu_s", "rss_mb", "rows_per_s", "gpu_mb"):
            if found[name] is not None:
                stats.gauge(f"mlops.task.{name}", found[name], tags=tags)


class UsageListener:
    """Watches the tasks of this package, and all of a Dag with the tag ``mlops``."""

    def __init__(self) -> None:
        self._watch: Watch | None = None

    @hookimpl
    @_quiet
    def on_task_instance_running(self, task_instance: Any) -> None:
        """Begin; a task that comes back from waiting begins again."""
        self._stop()
        if _concerns_us(task_instance):
            spool = Spool(Path(conf.get("mlops", "usage_folder")))
            self._watch = Watch(_facts(task_instance), _conn_id(task_instance), spool)
            self._watch.sampler.start()

    @hookimpl
    @_quiet
    def on_task_instance_success(self, task_instance: Any) -> None:
        """End."""
        self._end("success", task_instance)

    @hookimpl
    @_quiet
    def on_task_instance_skipped(self, task_instance: Any) -> None:
        """End."""
        self._end("skipped", task_instance)

    @hookimpl
    @_quiet
    def on_task_instance_failed(self, task_instance: Any) -> None:
        """End; a scheduler that finds a task dead has no watch, and nothing happens."""
        self._end("failed", task_instance)

    @hookimpl
    @_quiet
    def before_stopping(self) -> None:
        """Give the thread time to deliver: the process ends without waiting for threads."""
        self._stop()

    def _stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.sampler.end()
            watch.sampler.join(GRACE)

    def _end(self, outcome: str, task_instance: Any) -> None:
        if self._watch is not None:
            self._watch.outcome = outcome
            self._watch.sampler.end(getattr(task_instance.task, "processed", None))


def deliver(spool: Spool, conn_id: str) -> int:
    """
    Store what waits in a folder; what was stored goes.

    :param conn_id: only what belongs to this connection.
    :return: how many were stored.
    """
    waiting = dict(_findings(spool, conn_id))
    if waiting:
        from airflow_mlops.core.monitoring.observations import Observations
        from airflow_mlops.hooks.ledger import LedgerHook

        observations = Observations(LedgerHook(conn_id).dsn(), _TIMEOUT)
        observations.record_all(waiting.values())
    for path in waiting:
        spool.remove(path)
    return len(waiting)


def _findings(spool: Spool, conn_id: str) -> Iterator[tuple[Path, Finding]]:
    """Yield what belongs to a connection; a file that holds no usage goes: it would stop all."""
    for one in spool.waiting():
        try:
            if one.record["conn_id"] == conn_id:
                yield one.path, _finding(one)
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("%s is no usage, it is dropped: %r", one.path, error)
            spool.remove(one.path)


def _finding(waiting: Waiting) -> Finding:
    """Say in one line what a try used, and how it ended."""
    body = dict(waiting.record["body"])
    if waiting.killed:
        body["outcome"] = "killed"
    outcome, used = body["outcome"], Usage.from_dict(body)
    name = f"{body['dag_id']}.{body['task_id']}, try {body['try']}"
    line = f"{name}: {outcome} after {used}"
    if waiting.killed:
        line += "; no more is known of it: was memory or disk full on its machine?"
    body |= {"status": "ok" if outcome in ("success", "skipped") else "warn", "line": line}
    return waiting.record["model"], "usage", body["subject"], body


def _concerns_us(ti: Any) -> bool:
    """Say whether a task is one of ours, by its operator or by the tag of its Dag."""
    ours = any(c.__module__.startswith("airflow_mlops.operators.") for c in type(ti.task).__mro__)
    return ours or "mlops" in (getattr(ti.task.dag, "tags", None) or ())


def _conn_id(ti: Any) -> str:
    return str(getattr(ti.task, "ledger_conn_id", None) or conf.get("mlops", "ledger_conn_id"))


def _facts(ti: Any) -> dict[str, Any]:
    mapped = ti.map_index if ti.map_index is not None and ti.map_index >= 0 else -1
    index = f"[{mapped}]" if mapped >= 0 else ""
    model = getattr(ti.task, "model", None) or ti.dag_id.partition("__")[0]
    return {
        "model": str(model),
        "subject": f"{ti.dag_id}/{ti.run_id}/{ti.task_id}{index}/{ti.try_number}",
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": mapped,
        "try": ti.try_number,
        "host": str(ti.hostname),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
