"""What every operator of this package shares: connections, retry policy, who it is."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from airflow.sdk import BaseOperator, Context, ExceptionRetryPolicy, RetryAction, RetryRule, conf
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSkipException

from airflow_mlops.core.errors import ConfigurationError, RejectedError, UnavailableError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.datasets import DatasetHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.deployment.registry import ModelRegistry
    from airflow_mlops.core.ledger import Entry, Ledger, State
    from airflow_mlops.core.monitoring.observations import Observations
    from airflow_mlops.core.training.models import ModelStore

Xcom: TypeAlias = Any
"""What another task returned: a mapping when the task runs, an XComArg while the Dag is written."""

RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(UnavailableError, RetryAction.RETRY, reason="the service may come back"),
        RetryRule(
            [ConfigurationError, RejectedError, AirflowNotFoundException],
            RetryAction.FAIL,
            reason="same again",
        ),
    ]
)


class MlopsOperator(BaseOperator):
    """
    Operator of one model, whose retries follow the error families of ``core.errors``.

    :param model: name of the model (templated).
    :param mlflow_conn_id: connection to MLflow (templated).
    :param dataset_conn_id: connection to the dataset store (templated).
    :param ledger_conn_id: connection to the database of schema ``mlops`` (templated).
    """

    template_fields: Collection[str] = (
        "model",
        "mlflow_conn_id",
        "dataset_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        dataset_conn_id: str = DatasetHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", RETRY_POLICY)
        super().__init__(**kwargs)
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id
        self.dataset_conn_id = dataset_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.processed: int | None = None  # rows handled, told to whoever measures rows per second

    def models(self) -> "ModelStore":
        """Open the model versions in MLflow."""
        return MlflowHook(self.mlflow_conn_id).models(self.ledger())

    def datasets(self) -> "DatasetStore":
        """Open the dataset store."""
        return DatasetHook(self.dataset_conn_id).get_conn()

    def ledger(self) -> "Ledger":
        """Open the ledger."""
        return LedgerHook(self.ledger_conn_id).get_conn()

    def observations(self) -> "Observations":
        """Open the findings and predictions."""
        return LedgerHook(self.ledger_conn_id).observations()

    def registry(self) -> "ModelRegistry":
        """Open the registry: ledger and MLflow together."""
        from airflow_mlops.core.deployment.registry import ModelRegistry

        moved_alias = str(conf.get("mlops", "moved_alias"))
        return ModelRegistry(self.models(), self.ledger(), moved_alias)

    def champion_of(self, state: "State", what: str = "") -> ModelRef:
        """
        Return the champion; without one the task is skipped.

        :param what: what it is wanted for, such as ``"to measure"``.
        """
        if state.champion is None:
            msg = " ".join(filter(None, (self.model, "has no champion", what, "yet")))
            raise AirflowSkipException(msg)
        return ModelRef(self.model, state.champion)

    def skip_tasks(self, names: Collection[str]) -> None:
        """
        Tell Airflow to skip tasks of this run, so that others go on when this one fails.

        Its own exception for that would end this task well; this is the message behind it.
        """
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import SkipDownstreamTasks

        if names:
            task_runner.SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=list(names)))

    def hand_over(
        self,
        context: Context,
        step: str,
        about: str,
        value: Mapping[str, Any],
        *,
        version: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Put on record what this task returns, before anybody goes on from it."""
        from airflow_mlops.core import handovers

        by = task_of(context)
        handovers.put(
            self.ledger(), self.model, step, about, value, by=by, version=version, facts=facts
        )

    def handed(self, step: str, about: str, value: Mapping[str, Any]) -> "Entry":
        """
        Return the entry that says what arrived; refuse what is not on record in just this way.

        :raises HandoverChangedError: if it is not on record, or was edited on its way.
        """
        from airflow_mlops.core import handovers

        return handovers.check(self.ledger(), self.model, step, about, value)

    def selected(self, selection: Mapping[str, Any]) -> None:
        """
        Refuse a selection of rows that was edited on its way.

        :raises HandoverChangedError: if no task put it on record in just this way.
        """
        step = "history" if "history" in selection else "select"
        self.handed(step, about_decision(selection), selection)

    def entry(self, number: int) -> "Entry":
        """
        Return one entry of the model's ledger.

        :raises ConfigurationError: if there is no such entry.
        """
        return self.ledger().numbered(self.model, number)


def about_decision(selection: Mapping[str, Any]) -> str:
    """Name the decision that a selection of rows belongs to, as its hand-overs do."""
    return f"decision {selection.get('decision')}"


def about_proposal(smoke: Mapping[str, Any]) -> str:
    """Name the proposal that a rollout is about, as its hand-overs do."""
    return f"proposal {smoke.get('proposal')}"


def run_of(context: Context) -> str:
    """Name this Dag run: it is written beside everything the run does."""
    ti = context["ti"]
    return f"{ti.dag_id}/{ti.run_id}"


def task_of(context: Context) -> str:
    """Name this task of this run; the same for every try."""
    ti = context["ti"]
    mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"{run_of(context)}/{ti.task_id}{mapped}"


def airflow_url() -> str:
    """Return the address of Airflow's pages; empty if its configuration does not name it."""
    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def run_page(context: Context) -> str:
    """Return the page of this Dag run, below Airflow's address."""
    ti = context["ti"]
    return f"/dags/{ti.dag_id}/runs/{quote(ti.run_id, safe='')}"


def run_url(context: Context) -> str:
    """Return the page of this Dag run; empty if Airflow does not know its own address."""
    base = airflow_url()
    return f"{base}{run_page(context)}" if base else ""


def newest_event(context: Context, field: str) -> int | None:
    """Return the greatest ``field`` among the asset events that started this run, if any."""
    events = context.get("triggering_asset_events") or {}
    found = [
        event.extra[field]
        for asset in events
        for event in events[asset]
        if isinstance(event.extra, dict) and field in event.extra
    ]
    return max(map(int, found), default=None)
