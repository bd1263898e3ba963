"""Dag files are cheap to parse: every process of Airflow pays for them, every half minute."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_mlops.local.settings import COMMON

ROOT = Path(__file__).parents[2]
DAGS = sorted((ROOT / "dags").glob("*.py"))
HEAVY = (
    "mlflow",
    "evidently",
    "pandas",
    "sklearn",
    "scipy",
    "pyarrow",
    "duckdb",
    "deltalake",
    "psycopg",
    "adbc_driver_postgresql",
)
LIMIT = 100_000
"""Calls of functions in reading one: counted, not timed, so that a busy machine changes nothing."""

_MEASURE = """
import cProfile, json, pstats, runpy, sys
from airflow.sdk import DAG, Asset, BaseHook, BaseOperator, Param
from airflow.sdk.definitions.asset import Dataset, Model

# What Airflow charges the first Dag file of a process, whoever wrote it.
import airflow.providers.standard.operators.hitl
with DAG("plain", schedule="@daily", catchup=False):
    BaseOperator(task_id="a", outlets=[Dataset("d", "mlops://d")]) >> BaseOperator(task_id="b")
with DAG("caused", schedule=[Model("m", "mlops://m")], catchup=False):
    BaseOperator(task_id="a")

with cProfile.Profile() as profile:
    runpy.run_path(sys.argv[1])
calls = pstats.Stats(profile).total_calls
print(json.dumps({"calls": calls, "modules": sorted({m.partition(".")[0] for m in sys.modules})}))
"""


def parse(path: Path, home: Path) -> dict:
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE, str(path)]
    settings = {k: v for k, v in COMMON.items() if k.startswith("AIRFLOW")}
    environment = {
        **settings,
        "PATH": os.environ["PATH"],
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.airflow
@pytest.mark.parametrize("path", DAGS, ids=lambda p: p.stem)
def test_a_dag_file_is_cheap_to_parse_and_loads_nothing_heavy(path, tmp_path):
    parse(path, tmp_path)  # it compiles what was never imported before
    found = parse(path, tmp_path)
    assert not set(found["modules"]) & set(HEAVY)
    assert found["calls"] < LIMIT
