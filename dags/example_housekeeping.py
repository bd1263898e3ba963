"""Once a week: clean up after killed tasks, and see whether the champion could be made again."""

from airflow.sdk import DAG

from airflow_mlops.operators.housekeeping import HousekeepOperator
from airflow_mlops.operators.reproduction import ReproduceModelOperator

MODEL = "electricity"

with DAG(
    "example_housekeeping",
    schedule="@weekly",
    catchup=False,
    is_paused_upon_creation=True,  # it trains once more: switch it on where that is worth it
    tags=["example"],
):
    HousekeepOperator(task_id="housekeep", model=MODEL)
    ReproduceModelOperator(task_id="reproduce", model=MODEL)
