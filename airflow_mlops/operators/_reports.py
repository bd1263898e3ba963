"""How a monitor shows what it found: a page beside the model, and a link to it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import MlopsError, ModelNotFoundError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator

if TYPE_CHECKING:
    from airflow_mlops.core.training.models import ModelStore


def attach_report(
    operator: MlopsOperator,
    ref: ModelRef,
    name: str,
    finding: Mapping[str, Any],
    draw: Callable[[], str],
) -> str:
    """
    Put a page into the MLflow run of a version; the finding counts, so failing is only said.

    A page that shows this finding already stays as it is.

    :param ref: version the page is about.
    :param name: name of the file in the run.
    :param finding: what the page shows.
    :param draw: makes the page.
    :return: address of the page; empty if it could not be attached.
    """
    from airflow_mlops.core.training.answers import talking

    hook = MlflowHook(operator.mlflow_conn_id)
    text = json.dumps(finding, sort_keys=True, default=str)
    mark = f"<!-- finding {hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"
    try:
        models = operator.models()
        run_id = models.get(ref).run_id
        if not _has(models, run_id, name, mark):
            models.log_document(run_id, name, draw() + mark)
        with talking(run_id):
            return hook.run_url(run_id, artifact=name)
    except (MlopsError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        operator.log.warning("%s is not attached to %s: %s", name, ref, error)
        return ""


def _has(models: "ModelStore", run_id: str, name: str, mark: str) -> bool:
    try:
        return mark in models.document(run_id, name)
    except ModelNotFoundError:
        return False
