"""Once a week: what the packages that are to be installed next would do to the champion."""

from pathlib import Path

from airflow.sdk import DAG

from airflow_mlops.operators.dependencies import CheckDependenciesOperator

with DAG("example_dependencies", schedule="@weekly", catchup=False, tags=["example"]):
    CheckDependenciesOperator(
        task_id="dependencies",
        model="example_electricity",
        constraints=str(Path(__file__).parents[1] / "constraints.txt"),
        fail_on="warn",  # nothing serves from here: people are to be told
    )
