"""Data drift: have these rows left the distribution the model was trained on?"""

from airflow_mlops.core.monitoring.drift.engine import detect_drift
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, DriftReport

__all__ = ["ColumnDrift", "DriftReport", "detect_drift"]
