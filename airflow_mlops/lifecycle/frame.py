"""What the Dags of a lifecycle share."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

if TYPE_CHECKING:
    from airflow_mlops.lifecycle.declaration import Lifecycle

RETRY_DELAY = timedelta(seconds=30)
"""Airflow's own five minutes are long for a server that restarts."""


class LifecycleDag(DAG):
    """
    A Dag that is hashed by its id.

    Airflow hashes a Dag anew for each dependency between two tasks, with all that it holds; of a
    file with many lifecycles that was a third of the time that Airflow needs to read it.
    """

    def __hash__(self) -> int:
        return hash(self.dag_id)


def new_dag(life: "Lifecycle", stage: str, schedule: Any, **more: Any) -> DAG:
    """
    Make one Dag of a lifecycle.

    :param stage: what its name ends with.
    :param schedule: what starts it.
    :param more: further arguments of the Dag.
    """
    return LifecycleDag(
        f"{life.name}__{stage}",
        schedule=schedule,
        start_date=datetime(2020, 1, 1),  # noqa: DTZ001  (Airflow's default time zone applies)
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        default_args={
            "retries": life.retries,
            "retry_delay": RETRY_DELAY,
            "owner": life.name,
        },
        on_failure_callback=list(life.notify) or None,
        tags=["mlops", life.name, *life.tags],
        doc_md=f"Stage *{stage}* of model **{life.name}**. Who decided what: "
        f"`airflow mlops history {life.name}`",
        **more,
    )


def connections(life: "Lifecycle") -> dict[str, Any]:
    """Return what every operator of this package is given."""
    return {
        "model": life.name,
        "mlflow_conn_id": life.mlflow_conn_id,
        "dataset_conn_id": life.dataset_conn_id,
        "ledger_conn_id": life.ledger_conn_id,
    }
