"""
Close the MLflow runs of trainings that were killed.

A killed process calls nobody: its run stays open for ever, and looks as if it still trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from airflow_mlops.core.training.answers import talking
from airflow_mlops.core.training.models import RECIPE, ModelStore

CLOSED = "mlops.housekeeping"
"""Tag of a run that housekeeping closed: when, by which Dag run, and why."""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class TaskTry:
    """
    The try of an Airflow task that started a run, as the run's tags name it.

    :param map_index: which of the mapped tasks; -1: it is not mapped.
    :param url: page of its Dag run; empty if that Airflow does not know its own address.
    :param started: when the run was started.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    url: str
    started: datetime

    @classmethod
    def of(cls, tags: Mapping[str, str], started: datetime) -> Self | None:
        """Read the tags of a run; nothing if this package did not write it from a task."""
        names = ("dag_id", "run_id", "task_id", "try_number")
        dag, run, task, number = (tags.get(f"airflow.{name}", "") for name in names)
        if RECIPE not in tags or not (dag and run and task and number.isdecimal()):
            return None
        index, url = int(tags.get("airflow.map_index", "-1")), tags.get("airflow.run_url", "")
        return cls(dag, run, task, index, int(number), url, started)

    @property
    def task(self) -> tuple[str, str, str, int]:
        """The task, whichever try it is."""
        return self.dag_id, self.run_id, self.task_id, self.map_index


@dataclass(frozen=True, slots=True)
class ClosedRun:
    """
    A run that was closed.

    :param run_id: MLflow run.
    :param task: who had started it, ``dag/run/task``.
    :param status: ``KILLED``, or ``FINISHED`` if its model version had been registered already.
    :param why: how it is known that nobody works on it.
    """

    run_id: str
    task: str
    try_number: int
    status: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def close_orphans(
    store: ModelStore, name: str, ended: Callable[[TaskTry], str], *, by: str
) -> tuple[ClosedRun, ...]:
    """
    Close the open runs of a model on which nobody works any more; idempotent.

    Runs that were not started by a task of this package are left alone. If a process that was
    thought dead ends its training after all, training puts its run right.

    :param ended: says how the task of a try ended; an empty text if it may still work.
    :param by: Dag run that cleans up.
    :return: what was closed.
    """
    runs = _open_runs(store, name)
    newest: dict[tuple[str, str, str, int], int] = {}
    for _, _, tried in runs:
        newest[tried.task] = max(tried.try_number, newest.get(tried.task, 0))
    closed = []
    for run_id, recipe, tried in runs:
        number = newest[tried.task]
        why = f"try {number} took over" if number > tried.try_number else ended(tried)
        if why:
            status = _close(store, name, run_id, recipe, f"{by}: {why}")
            task = "/".join((tried.dag_id, tried.run_id, tried.task_id))
            closed += [ClosedRun(run_id, task, tried.try_number, status, why)] if status else []
    return tuple(closed)


def _open_runs(store: ModelStore, name: str) -> list[tuple[str, str, TaskTry]]:
    """Return id, recipe and try of the model's runs that are open and ours, oldest first."""
    with talking(name):
        experiment = store.client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        return []
    found, token = [], None
    while True:
        with talking(name):
            page = store.client.search_runs(
                [experiment.experiment_id],
                "attributes.status = 'RUNNING'",
                max_results=_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
        for run in page:
            tags = dict(run.data.tags)
            tried = TaskTry.of(tags, datetime.fromtimestamp(run.info.start_time / 1000, UTC))
            if tried is not None:
                found.append((str(run.info.run_id), tags[RECIPE], tried))
        token = page.token
        if not token:
            return found


def _close(store: ModelStore, name: str, run_id: str, recipe: str, why: str) -> str:
    """Close one run, and return its status; empty if somebody else closed it meanwhile."""
    with talking(run_id):
        if store.client.get_run(run_id).info.status != "RUNNING":
            return ""
    versions = store.of_recipe(name, recipe)
    made = bool(versions) and versions[0].run_id == run_id
    status = "FINISHED" if made else "KILLED"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with talking(run_id, existing_is_fine=True):  # another housekeeper says the same
        store.client.set_tag(run_id, CLOSED, f"{now} by {why}")
    with talking(run_id):
        store.client.set_terminated(run_id, status)
    return status
