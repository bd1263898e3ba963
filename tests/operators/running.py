"""Run a Dag in this process, and read what came of it."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True)
class Run:
    """
    One finished run of a Dag.

    :param states: task -> state; a mapped task has one for each of its instances.
    :param values: task -> key -> XCom.
    :param rendered: task -> rendered template fields.
    :param events: name of an asset -> what its event carries.
    """

    run_id: str
    state: str
    states: dict[str, Any]
    tries: dict[str, int]
    values: dict[str, dict[str, Any]]
    rendered: dict[str, Any]
    events: dict[str, Any]
    errors: list[BaseException] = field(default_factory=list)

    def value(self, task: str) -> Any:
        """What a task returned."""
        return self.values[task]["return_value"]

    @property
    def error(self) -> BaseException:
        """The one error of the run."""
        assert len(self.errors) == 1, self.errors
        return self.errors[0]


def run(
    dag: Any,
    *,
    at: datetime | None = None,
    answer: Callable[[Any], Any] | None = None,
    conf: dict[str, Any] | None = None,
) -> Run:
    """
    Run a Dag to its end.

    :param at: logical date; the same one again is what clearing the run does: same id, same keys.
        None, as for a run that an asset starts.
    :param answer: given an open Human-in-the-loop request, returns option, form fields and who;
        ``None``: nobody answers, and the scheduler's look comes.
    :param conf: what a person filled in who triggered it.
    """
    sync(dag)
    errors: list[BaseException] = []
    for task in dag.tasks:
        task.on_failure_callback = [lambda context: errors.append(context["exception"])]
        task.on_retry_callback = task.on_failure_callback
    stop = threading.Event()
    person = threading.Thread(target=_answer, args=(dag.dag_id, answer, stop))
    if answer is not None:
        person.start()
    try:
        done = dag.test(logical_date=at, run_after=at, run_conf=conf)
    finally:
        stop.set()
        if answer is not None:
            person.join()
    return _read(dag, done, errors)


def sync(dag: Any) -> None:
    """Write a Dag into Airflow's metadata, as the Dag processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(dag_folder=os.devnull, collect_dags=False, bundle_path=None)
    dag.relative_fileloc = "tests.py"
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)


def _read(dag: Any, done: Any, errors: list[BaseException]) -> Run:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    states: dict[str, Any] = {}
    tries: dict[str, int] = {}
    with create_session() as session:
        for ti in sorted(done.get_task_instances(session=session), key=lambda ti: ti.map_index):
            state = str(ti.state)
            states[ti.task_id] = state if ti.map_index < 0 else [*states.get(ti.task_id, ()), state]
            tries[ti.task_id] = ti.try_number
        mine = {"dag_id": dag.dag_id, "run_id": done.run_id}
        values: dict[str, dict[str, Any]] = {}
        for x in session.scalars(sa.select(XComModel).filter_by(**mine).order_by("map_index")):
            found = XComModel.deserialize_value(x)
            kept = values.setdefault(x.task_id, {})
            kept[x.key] = found if x.map_index < 0 else [*kept.get(x.key, ()), found]
        rendered = {
            r.task_id: r.rendered_fields
            for r in session.scalars(sa.select(Rendered).filter_by(**mine))
        }
        events = session.execute(
            sa.select(AssetModel.name, AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetEvent.source_run_id == done.run_id, AssetEvent.source_dag_id == dag.dag_id)
        )
        return Run(
            done.run_id,
            str(done.state),
            states,
            tries,
            values,
            rendered,
            {row.name: row.extra for row in events},
            errors,
        )


def _answer(dag_id: str, choose: Callable[[Any], Any], stop: threading.Event) -> None:
    """
    Do what the API server does when a person answers the form.

    The same answer again if the task did not go on: ``dag.test()`` parks it once more if the answer
    is very quick. A task that asks again has taken the answer away.
    """
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState

    open_requests = (
        sa.select(HITLDetail, TaskInstance)
        .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
        .where(TaskInstance.dag_id == dag_id)
        .where(TaskInstance.state == TaskInstanceState.AWAITING_INPUT)
    )
    last: dict[Any, Any] = {}
    while not stop.is_set():
        time.sleep(0.1)
        with create_session() as session:
            for request, ti in session.execute(open_requests).unique().all():
                said = choose(request) if request.responded_at is None else last[ti.id]
                last[ti.id] = said
                option, given, by = said or (request.defaults[0], {}, None)
                request.chosen_options, request.params_input = [option], given
                request.responded_by = {"id": by, "name": by} if by else None
                request.responded_at = datetime.now().astimezone()
                session.add(request)
                event = TriggerEvent(request.as_resume_event_payload(timedout=said is None))
                handle_event_submit(event, task_instance=ti, session=session)
