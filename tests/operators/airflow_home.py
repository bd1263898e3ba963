"""
An Airflow of the tests' own: SQLite, no Dags, no examples, gone with the process.

Import it before anything of Airflow: Airflow reads its settings once, when it is imported.
"""

import atexit
import importlib
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import skops.io  # noqa: F401  (asks each loaded module for names, and Airflow's warn of that)

HOME = Path(tempfile.mkdtemp(prefix="mlops-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
(HOME / "dags").mkdir()

os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    # a run puts callbacks into its Dag: written again, it would be another version of it
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "3600",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__FERNET_KEY": "",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HOME / "logs"),
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ml-lead:op,ann:op,bob:op,risk:op,owner:op",
    "AIRFLOW__API__BASE_URL": "http://airflow.example.com",
}


def make_database() -> None:
    """Make the tables of Airflow's metadata; a few seconds, so once per session."""
    if (HOME / "airflow.db").exists():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own imports warn of each other
        importlib.import_module("airflow.api_fastapi.execution_api.app")
        importlib.import_module("airflow.utils.db").initdb()
