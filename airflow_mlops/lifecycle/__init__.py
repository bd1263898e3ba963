"""
The front door: one declaration of policy becomes three Dags of ordinary operators.

``Lifecycle`` holds frozen data; :func:`build` is a pure function from it to Dags.
"""

from airflow_mlops.lifecycle.dags import build
from airflow_mlops.lifecycle.declaration import Lifecycle

__all__ = ["Lifecycle", "build"]
