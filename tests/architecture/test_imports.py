"""What importing this package costs a Dag file, and what the core can do without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "airflow_mlops"
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
    "adbc_driver_manager",
    "adbc_driver_postgresql",
)
DAG_FACING = (
    "airflow_mlops",
    "airflow_mlops.assets",
    "airflow_mlops.lifecycle",
    "airflow_mlops.policy",
    "airflow_mlops.provider",
    "airflow_mlops.plugin",
    "airflow_mlops.cli.definition",
    *(
        f"airflow_mlops.{kind}.{path.stem}"
        for kind in ("operators", "sensors", "triggers", "decorators", "notifications", "hooks")
        for path in sorted((PACKAGE / kind).glob("[a-z]*.py"))
    ),
)
"""Modules a Dag file, or any process of Airflow, imports; ``hooks._*`` belong to their hooks."""

_REPORT = """
import importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    before = set(sys.modules)
    importlib.import_module(name)
    found[name] = sorted({m.partition(".")[0] for m in set(sys.modules) - before})
print(json.dumps(found))
"""


def loaded_by(modules, home: Path) -> dict[str, list[str]]:
    """Module -> top-level packages that a fresh interpreter loads for it, in this order."""
    command = [sys.executable, "-W", "ignore", "-c", _REPORT, json.dumps(list(modules))]
    environment = {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.airflow
def test_a_dag_file_loads_nothing_heavy(tmp_path):
    found = loaded_by(DAG_FACING, tmp_path)
    guilty = {name: heavy for name, new in found.items() if (heavy := sorted({*new} & {*HEAVY}))}
    assert not guilty


def test_the_core_runs_without_airflow(tmp_path):
    core = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((PACKAGE / "core").rglob("*.py"))
        if path.name != "env.py"  # run by alembic, not imported
    ]
    found = loaded_by(core, tmp_path)
    assert not {name for name, new in found.items() if "airflow" in new}


def test_policy_is_data_that_needs_nothing(tmp_path):
    found = loaded_by(["airflow_mlops.policy"], tmp_path)["airflow_mlops.policy"]
    assert not {*found} & {*HEAVY, "airflow", "numpy"}
