"""Links from a task to its evidence, shown on the task's details."""

from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink


class _UrlLink(BaseOperatorLink):
    """A link whose address the operator noted while it ran."""

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address, or nothing if the task did not get that far."""
        urls: dict[str, str] = getattr(operator, "urls", {})
        return urls.get(self.name, "")


class MlflowRunLink(_UrlLink):
    """The MLflow run that the task made or looked at."""

    name = "MLflow run"
    xcom_key = "mlops_run_url"


class ModelVersionLink(_UrlLink):
    """The model version in MLflow's registry."""

    name = "Model version"
    xcom_key = "mlops_model_url"


class ReportLink(_UrlLink):
    """The report that the task wrote."""

    name = "Report"
    xcom_key = "mlops_report_url"


class DecisionLink(_UrlLink):
    """The decision with its reasons and numbers."""

    name = "Decision"
    xcom_key = "mlops_decision_url"
