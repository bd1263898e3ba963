"""The one class Airflow loads."""

from airflow.sdk.plugins_manager import AirflowPlugin


class MlopsPlugin(AirflowPlugin):
    """Register what this package adds to Airflow beyond its provider manifest."""

    name = "mlops"
