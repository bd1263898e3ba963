"""
A whole stack on one machine: embedded PostgreSQL, MLflow, Airflow with LocalExecutor.

``python -m airflow_mlops.local up --dags DIR --home DIR``; also ``down``, ``status``, ``env``. All
of it lives below the home folder and listens on 127.0.0.1 only.
"""

from airflow_mlops.local.settings import Settings
from airflow_mlops.local.stack import ComponentStatus, Services, Stack

__all__ = ["ComponentStatus", "Services", "Settings", "Stack"]
