"""Operator for the health of the system: tasks, disk, MLflow, scheduler, and silence."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context, conf

from airflow_mlops.operators._base import MlopsOperator, airflow_url, run_of
from airflow_mlops.policy import Health, duration
from airflow_mlops.policy.monitoring import FAILS

if TYPE_CHECKING:
    from airflow_mlops.core.monitoring.health import HealthFinding
    from airflow_mlops.core.monitoring.observations import Observation

_TIMEOUT = 5.0
_LOOKS = 50
_USAGES = 2_000
"""Newest usages that are read: judged are those since the last look, by those before."""


class CheckHealthOperator(MlopsOperator):
    """
    Look after the system that a model lives on, and record one finding per run, ``system``.

    Judged are the tasks of the model's Dags since the last look (memory, time, rows per second,
    killed processes; by limits, and beside their own earlier runs), free disk, whether MLflow
    answers, whether scheduler and Dag processor work, how late this run began, and whether monitor
    and decisions have been silent. A worker sees its own disk only; the components of Airflow it
    sees through the API server that all tasks talk to, or not at all, and then says so.

    :param rules: ``policy.Health`` as a dict (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "rules")

    def __init__(self, *, rules: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rules = rules

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Look, and record what was found.

        :raises RejectedError: if ``fail_on`` of the rules says that such a finding fails the task.
        """
        from airflow_mlops.core.monitoring.health import judge_usages, worst

        rules = Health.from_dict(self.rules) if self.rules else Health()
        store, subject = self.observations(), run_of(context)
        looks = [o for o in store.read(self.model, "system", last=_LOOKS) if o.subject != subject]
        usages = store.read(self.model, "usage", last=_USAGES)
        seen = looks[-1].body.get("seen") or looks[-1].recorded_at if looks else ""
        facts: dict[str, Any] = {"seen": usages[-1].recorded_at if usages else seen, "not_seen": []}
        findings = (
            *judge_usages(usages, seen, rules),
            *self._disk(facts, rules),
            *self._mlflow(facts),
            *_airflow(facts),
            *_delay(context, facts, rules),
            *self._silence(looks, context, rules),
        )
        findings = tuple(sorted(findings, key=lambda found: found.status != "broken"))
        status = worst(findings)
        line = "; ".join(finding.line for finding in findings) or _all_well(facts)
        body = {
            "status": status,
            "line": line,
            "findings": [f.to_dict() for f in findings],
            **facts,
        }
        store.record(self.model, "system", subject, body)
        (self.log.warning if findings else self.log.info)("%s: %s", status, line)
        _refuse(status, line, rules)
        return body

    def _disk(self, facts: dict[str, Any], rules: Health) -> Iterator["HealthFinding"]:
        """Look at the folders of this worker; datasets in an object store have no end."""
        from airflow_mlops.core.monitoring.health import judge_disk

        root = self.datasets().root
        places = [tempfile.gettempdir(), *([root] if Path(root).is_dir() else [])]
        facts["disk_free_gb"] = {p: round(shutil.disk_usage(p).free / 1e9, 3) for p in places}
        for place, free in facts["disk_free_gb"].items():
            yield from judge_disk(place, free, rules)

    def _mlflow(self, facts: dict[str, Any]) -> Iterator["HealthFinding"]:
        """Ask MLflow for anything, and take the time."""
        from airflow_mlops.core.errors import MlopsError
        from airflow_mlops.core.monitoring.health import HealthFinding
        from airflow_mlops.core.training.answers import ping

        client, began = self.models().client, time.monotonic()
        try:
            ping(client)
        except MlopsError as error:
            yield HealthFinding("mlflow", "broken", str(error))
        facts["mlflow_ms"] = round((time.monotonic() - began) * 1000, 1)

    def _silence(
        self, looks: Sequence["Observation"], context: Context, rules: Health
    ) -> Iterator["HealthFinding"]:
        """Compare the time since the last look, and since the last decision, with what is usual."""
        from airflow_mlops.core.ledger import DECISIONS
        from airflow_mlops.core.monitoring.health import judge_silence

        entries = self.ledger().state(self.model).entries
        decided = [datetime.fromisoformat(e.at) for e in entries if e.op in DECISIONS]
        looked = [datetime.fromisoformat(o.recorded_at) for o in looks]
        now = context["ti"].start_date
        yield from judge_silence("run of the monitor", looked, now, rules)
        yield from judge_silence("decision", decided, now, rules)


def _airflow(facts: dict[str, Any]) -> Iterator["HealthFinding"]:
    """Read what the API server says of the other components; it asks for no login."""
    import httpx

    from airflow_mlops.core.monitoring.health import HealthFinding

    known = str(conf.get("core", "execution_api_server_url", fallback="") or "")
    base = known.rstrip("/").removesuffix("/execution") or airflow_url()
    try:
        reply = httpx.get(f"{base}/api/v2/monitor/health", timeout=_TIMEOUT)
        components = reply.raise_for_status().json()
        states = {name: (components.get(name) or {}).get("status") for name in _COMPONENTS}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        facts["not_seen"].append(f"Airflow's components: {base or 'no address'}: {error}")
        return
    facts["airflow"] = states
    for name, state in states.items():
        if state == "unhealthy":
            beat = next((v for k, v in components[name].items() if k.startswith("latest_")), None)
            line = f"Airflow's {name} gives no sign of life since {beat}; start it again"
            yield HealthFinding("scheduler", "broken", line)


_COMPONENTS = ("scheduler", "dag_processor", "triggerer")


def _delay(context: Context, facts: dict[str, Any], rules: Health) -> Iterator["HealthFinding"]:
    """Say how late the scheduler began this run, and how long this task waited for a worker."""
    from airflow_mlops.core.monitoring.health import HealthFinding

    run, ti = context["dag_run"], context["ti"]
    due = run.run_after if str(run.run_type) == "scheduled" else None
    waits = {"scheduler": (due, run.start_date), "worker": (run.start_date, ti.start_date)}
    for who, (since, until) in waits.items():
        if since is None or until is None:
            continue
        waited = (until - since).total_seconds()
        facts[f"{who}_delay_s"] = round(waited, 1)
        if ti.try_number == 1 and waited > duration(rules.delay).total_seconds():
            line = f"{run.run_id} waited {waited:,.0f} s for a {who}, the limit is {rules.delay}"
            yield HealthFinding("scheduler", "warn", line)


def _all_well(facts: Mapping[str, Any]) -> str:
    least = min(facts["disk_free_gb"].values())
    airflow = facts.get("airflow", {}).get("scheduler", "not seen")
    return (
        f"nothing to report: {least:,.1f} GB free, MLflow answers in {facts['mlflow_ms']:,.0f} ms, "
        f"scheduler {airflow}"
    )


def _refuse(status: str, line: str, rules: Health) -> None:
    from airflow_mlops.core.errors import RejectedError

    if status in FAILS[rules.fail_on]:
        msg = f"{line} (Health(fail_on={rules.fail_on!r}) fails the task)"
        raise RejectedError(msg)
