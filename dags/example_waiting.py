"""Wait for what monitors find, and for rows: Dags of your own beside a model's life in Airflow."""

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_mlops.sensors.monitoring import DriftDetectedSensor
from airflow_mlops.triggers.polling import FindingRecordedTrigger, RowsArrivedTrigger

MODEL = "electricity"

with DAG("example_wait_for_drift", schedule=None, catchup=False, tags=["example"]):

    @task
    def tell(found: Any) -> str:
        """Say which columns moved, to whoever wants to know."""
        return f"{found['model']}: {found['line']}"

    tell(DriftDetectedSensor(task_id="drift", model=MODEL, poke_interval=60).output)


def watched(name: str, trigger: Any) -> Asset:
    """An asset that changes whenever its trigger finds something."""
    uri = f"mlops://{MODEL}/{name}"
    return Asset(f"{MODEL}/{name}", uri=uri, watchers=[AssetWatcher(name=name, trigger=trigger)])


rows = RowsArrivedTrigger(table="public.electricity", time="observed_at", key="id", interval=60)
decay = FindingRecordedTrigger(model=MODEL, monitor="performance", interval=60)

with DAG(
    "example_on_rows_or_decay",
    schedule=watched("arrived", rows) | watched("decayed", decay),
    catchup=False,
    tags=["example"],
):
    EmptyOperator(task_id="look")  # whatever you do then; its event says what was found
