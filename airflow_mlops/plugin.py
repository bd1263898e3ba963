"""The one class Airflow loads."""

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_mlops.deadlines import RunCreated
from airflow_mlops.listeners.usage import UsageListener


class MlopsPlugin(AirflowPlugin):
    """Register what this package adds to Airflow beyond its provider manifest."""

    name = "mlops"
    listeners = [UsageListener()]  # noqa: RUF012  (Airflow reads it so)
    deadline_references = [RunCreated]  # noqa: RUF012  (the same)
