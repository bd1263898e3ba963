"""Operator for reproduction: train a version again, and compare."""

from typing import Any, Literal

from airflow.sdk import Context

from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, task_of
from airflow_mlops.operators.links import ModelVersionLink, ReportLink


class ReproduceModelOperator(MlopsOperator):
    """
    Train a version again in a process of its own, and say how far the result agrees with it.

    Nothing is registered. The finding goes to the version's MLflow run as ``reproduction.json``,
    its verdict to the version's tag ``mlops.reproduced``. Skipped while there is no champion.

    :param ref: version to train again, ``name@version``; none: the champion (templated).
    :param tolerance: largest distance of two predictions that still counts as the same.
    :param fail_on: ``"differs"`` fails the task if the model could not be made again, ``"never"``
        only returns what was found.
    """

    template_fields = (*MlopsOperator.template_fields, "ref")
    operator_extra_links = (ModelVersionLink(), ReportLink())

    def __init__(
        self,
        *,
        ref: str | None = None,
        tolerance: float = 1e-6,
        fail_on: Literal["differs", "never"] = "differs",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ref = ref
        self.tolerance = tolerance
        self.fail_on = fail_on
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Train again, compare, and put the finding beside the model.

        :raises RejectedError: if the predictions differ, unless ``fail_on`` is ``"never"``.
        """
        from airflow_mlops.core.errors import RejectedError
        from airflow_mlops.core.training.reproduce import REPORT, record_reproduction, reproduce

        ref, hook = self._asked(), MlflowHook(self.mlflow_conn_id)
        store = self.models()
        found = reproduce(store, self.datasets(), ref, tolerance=self.tolerance)
        record_reproduction(store, found, by=task_of(context))
        self.urls = {
            ModelVersionLink.name: hook.model_url(ref),
            ReportLink.name: hook.run_url(store.get(ref).run_id, artifact=REPORT),
        }
        for line in str(found).splitlines():
            self.log.info("%s", line)
        if found.verdict == "differs" and self.fail_on == "differs":
            msg = f"{found}\n{ref} cannot be made again here; look at the first step that differs"
            raise RejectedError(msg)
        return found.to_dict()

    def _asked(self) -> ModelRef:
        """Return the version to train again."""
        from airflow_mlops.core.errors import ConfigurationError

        if self.fail_on not in ("differs", "never"):
            msg = f"fail_on={self.fail_on!r}; known: 'differs', 'never'"
            raise ConfigurationError(msg)
        if self.ref in (None, "", "None"):
            return self.champion_of(self.ledger().standing(self.model), "to make again")
        ref = ModelRef.parse(str(self.ref))
        if ref.name != self.model:
            msg = f"{ref} is no version of {self.model}; give ref='{self.model}@<version>'"
            raise ConfigurationError(msg)
        return ref
