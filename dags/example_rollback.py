"""Back to an earlier champion: by a rule that looks every day, and by a person with a button."""

from typing import Any

from airflow.sdk import DAG, Param

from airflow_mlops.operators.data import SnapshotTableOperator
from airflow_mlops.operators.deployment import GuardChampionOperator, RollbackModelOperator
from airflow_mlops.operators.monitoring import MeasurePerformanceOperator
from airflow_mlops.policy import Decay

MODEL = "example_electricity"
ROWS = {"model": MODEL, "key": "id", "time": "observed_at", "window": "7d"}

# [START example_rollback]
with DAG("example_guard", schedule=None, catchup=False, max_active_runs=1, tags=["example"]):
    snapshot = SnapshotTableOperator(
        task_id="snapshot", table="public.electricity", dataset=MODEL, **ROWS
    )
    labels = SnapshotTableOperator(
        task_id="labels",
        table="public.electricity_labels",
        dataset=f"{MODEL}.labels",
        windows_of=MODEL,
        **ROWS,
    )
    looked: dict[str, Any] = {
        "model": MODEL,
        "snapshot": snapshot.output,
        "labels": labels.output,
        "label_column": "price_up",
        "metric": "brier",
    }
    performance = MeasurePerformanceOperator(task_id="performance", **looked)
    # It goes back only if the champion before is better on the rows of the windows that decayed.
    guard = GuardChampionOperator(
        task_id="guard", rules=[Decay("brier", drop=0.05, sustained="2 of 3").to_dict()], **looked
    )
    snapshot >> labels
    performance >> guard

with DAG(
    "example_rollback",
    schedule=None,
    catchup=False,
    tags=["example"],
    params={
        "to": Param(None, type=["null", "string"], description="version or moment; empty: before"),
        "reason": Param("", type="string", minLength=3, description="why; it is put on record"),
    },
):
    RollbackModelOperator(
        task_id="rollback",
        model=MODEL,
        to="{{ params.to or '' }}",
        reason="{{ params.reason }}",
    )
# [END example_rollback]
