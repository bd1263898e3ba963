"""Operator for what killed processes leave behind: open MLflow runs, temporary folders."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from airflow_mlops.operators._base import MlopsOperator, airflow_url, run_of
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow_mlops.core.monitoring.keeping import Old
    from airflow_mlops.core.training.housekeeping import TaskTry

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States after which no process works for a task; a cleared task has no state, and will run."""


class HousekeepOperator(MlopsOperator):
    """
    Clean up after trainings that were killed: their process had no time to do it.

    Their open MLflow runs are closed as *KILLED*, with the reason in a tag; whether the task of a
    run is over, Airflow is asked. On the worker that runs this task, temporary folders of dead
    processes go. What was measured longer ago than the policy keeps it goes, too. Returns what was
    done; nothing to do is fine.

    :param older: age from which a folder that nobody holds is removed, such as ``"1d"``; a run
        whose Dag run is gone from Airflow has to be as old (templated).
    :param keep: a :class:`~airflow_mlops.policy.Keep` as a dict; ``None``: nothing goes.
    """

    template_fields = (*MlopsOperator.template_fields, "older")

    def __init__(
        self, *, older: str = "1d", keep: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.older = older
        self.keep = keep

    def execute(self, context: Context) -> dict[str, Any]:
        """Close the runs, and remove the folders."""
        from airflow_mlops.core.scratch import sweep
        from airflow_mlops.core.training.housekeeping import close_orphans

        oldest = datetime.now(UTC) - duration(self.older)

        def ended(tried: "TaskTry") -> str:
            return _ended(context["ti"], tried, oldest)

        runs = close_orphans(self.models(), self.model, ended, by=run_of(context))
        for run in runs:
            self.log.warning("run %s of %s is %s: %s", run.run_id, run.task, run.status, run.why)
        folders = sweep(duration(self.older))
        self.log.info("%d runs closed, temporary folders removed: %s", len(runs), folders or "none")
        old = self._pruned()
        return {
            "runs": [run.to_dict() for run in runs],
            "folders": list(folders),
            "old": [part.to_dict() for part in old],
        }

    def _pruned(self) -> "tuple[Old, ...]":
        """Let go what is older than the policy keeps it."""
        from airflow_mlops.core.monitoring.keeping import prune
        from airflow_mlops.policy import Keep

        if self.keep is None:
            return ()
        stores, now = (self.ledger(), self.observations()), datetime.now(UTC)
        old = prune(*stores, self.model, Keep.from_dict(self.keep), now=now)
        for part in old:
            self.log.info("%s went", part)
        return old


def _ended(ti: Any, tried: "TaskTry", oldest: datetime) -> str:
    """Say how Airflow saw a task end; nothing if it may still work, or another Airflow has it."""
    if tried.url and not tried.url.startswith(f"{airflow_url()}/"):
        return ""
    asked: dict[str, dict[str, str | None]] = ti.get_task_states(
        dag_id=tried.dag_id,
        map_index=tried.map_index,
        task_ids=[tried.task_id],
        run_ids=[tried.run_id],
    )
    states = list(asked.get(tried.run_id, {}).values())
    if not states:
        return "Airflow does not know its Dag run any more" if tried.started < oldest else ""
    return f"its task ended as {states[0]}" if states[0] in ENDED else ""
