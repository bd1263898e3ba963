"""How a monitor shows what it found: a page beside the model, and a link to it."""

from collections.abc import Callable

from airflow_mlops.core.errors import MlopsError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator


def attach_report(
    operator: MlopsOperator, ref: ModelRef, name: str, draw: Callable[[], str]
) -> str:
    """
    Put a page into the MLflow run of a version; the finding counts, so failing is only said.

    :param ref: version the page is about.
    :param name: name of the file in the run.
    :param draw: makes the page.
    :return: address of the page; empty if it could not be attached.
    """
    from airflow_mlops.core.training.answers import talking

    hook = MlflowHook(operator.mlflow_conn_id)
    try:
        models = hook.models()
        run_id = models.get(ref).run_id
        models.log_document(run_id, name, draw())
        with talking(run_id):
            return hook.run_url(run_id, artifact=name)
    except (MlopsError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        operator.log.warning("%s is not attached to %s: %s", name, ref, error)
        return ""
