"""A monitor that does not finish in time: Airflow can find and call whom the policy names."""

import os
import re
import textwrap
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.lifecycle import Lifecycle
from tests.lifecycle.test_lifecycle import bag_of
from tests.operators import airflow_home
from tests.operators.running import sync

pytestmark = pytest.mark.airflow

DAG_FILE = """
'An Airflow Dag file with both kinds of notifiers.'
import os

from airflow.sdk import BaseNotifier
from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import Approval, Table, Window


def function(context):
    os.environ["TOLD"] += f"function {context['dag_run']['dag_run_id']};"


class Notifier(BaseNotifier):
    template_fields = ("text",)

    def __init__(self, text, channel="ops"):
        super().__init__()
        self.text, self.channel = text, channel

    def notify(self, context):
        os.environ["TOLD"] += f"{self.channel}: {self.text}"


Lifecycle(
    name="churn",
    data=Table("warehouse", "rows", "id", "at", "up", "labels"),
    select=Window("182d"),
    features="f:build",
    train="t:fit",
    approve=Approval(by=["ml-lead"]),
    deadline="6h",
    notify=[function, Notifier("{{ dag_run.dag_run_id }} is late")],
)
"""


@pytest.fixture
def deadlines(tmp_path):
    """Deadlines of each Dag as the scheduler reads them, by the id of the Dag."""
    from airflow.serialization.serialized_objects import DagSerialization

    path = tmp_path / "life.py"
    path.write_text(textwrap.dedent(DAG_FILE))
    bag = bag_of(path)
    assert bag.import_errors == {}
    assert all(DagSerialization.to_dict(dag) for dag in bag.dags.values())
    return {dag_id: dag.deadline for dag_id, dag in bag.dags.items()}


def test_the_monitor_has_one_for_each_notifier_and_the_other_dags_have_none(deadlines):
    found = deadlines["churn__monitor"]
    assert [d.interval for d in found] == [timedelta(hours=6)] * 2
    assert {d.reference.reference_name for d in found} == {"RunCreated"}
    assert not deadlines["churn__train"]
    assert not deadlines["churn__rollout"]


def test_airflow_calls_functions_and_notifiers_of_a_dag_file(deadlines, tmp_path, monkeypatch):
    from airflow.sdk.execution_time.callback_supervisor import execute_callback

    monkeypatch.setenv("TOLD", "")
    context = {"dag_run": {"dag_run_id": "r1"}, "deadline": {"id": "1"}}
    for deadline in deadlines["churn__monitor"]:
        call = deadline.callback
        done = execute_callback(
            call.path,
            {**call.kwargs, "context": dict(context)},
            "life.py",
            str(tmp_path),
            structlog.get_logger(),
        )
        assert done == (True, None)
    assert os.environ["TOLD"] == "function r1;ops: r1 is late"


def test_a_run_with_a_deadline_counts_from_its_creation_and_can_be_cleared(policy):
    """Airflow's own reference makes the clearing fail: apache/airflow#70368."""
    from airflow.models.deadline import Deadline
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import clear_task_instances
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    airflow_home.make_database()
    life = Lifecycle(**policy(name="late", deadline="6h", notify=[print]))
    with DAG("late", schedule=None, deadline=life.dags[0].deadline) as dag:
        EmptyOperator(task_id="t")
    sync(dag)
    with create_session() as session:
        now = datetime.now(UTC)
        run = SerializedDagModel.get_dag("late", session=session).create_dagrun(
            run_id="r",
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.QUEUED,
            session=session,
        )
        session.flush()
        (alarm,) = session.scalars(select(Deadline).where(Deadline.dagrun_id == run.id))
        assert timedelta(hours=6) <= alarm.deadline_time - now < timedelta(hours=6, minutes=5)
        clear_task_instances(run.get_task_instances(session=session), session)
        assert run.state == DagRunState.QUEUED


def test_without_a_deadline_nobody_is_called(policy):
    assert not Lifecycle(**policy()).dags[0].deadline


class Forgets:
    """Something that can be called, and not be found again."""

    def __call__(self, context):
        """Do nothing."""


def notifiers():
    from airflow.sdk import BaseNotifier

    class Local(BaseNotifier):
        """Not at the top level."""

    return [lambda context: None, Forgets(), Local()]


@pytest.mark.parametrize("index", range(3))
def test_whom_airflow_could_not_find_again_is_refused(policy, index):
    with pytest.raises(ConfigurationError, match=r"cannot be called at a deadline.*top level"):
        Lifecycle(**policy(deadline="1h", notify=[notifiers()[index]]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"deadline": "1h"}, "'churn': deadline='1h' has nobody to tell; give notify"),
        ({"deadline": "soon", "notify": [print]}, "not a duration: 'soon'"),
    ],
)
def test_a_deadline_that_cannot_work_is_refused(policy, changes, says):
    with pytest.raises((ConfigurationError, ValueError), match=re.escape(says)):
        Lifecycle(**policy(**changes))


def test_a_notifier_that_does_not_keep_its_arguments_is_refused(policy, user_module):
    name = user_module(
        """
        from airflow.sdk import BaseNotifier

        class Secret(BaseNotifier):
            def __init__(self, token, kept=None):
                super().__init__()
                self.kept = kept
        """
    )
    made = __import__(name).Secret("t")
    with pytest.raises(ConfigurationError, match=r"Secret cannot be made again.*'token'"):
        Lifecycle(**policy(deadline="1h", notify=[made]))
