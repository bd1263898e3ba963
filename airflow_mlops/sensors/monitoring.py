"""Sensors for monitoring: wait for new rows, for drift, for decay, or for any other finding."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.operators._base import RETRY_POLICY
from airflow_mlops.triggers.polling import (
    FindingRecordedTrigger,
    PollingTrigger,
    RowsArrivedTrigger,
)


class PollingSensor(BaseSensorOperator):
    """
    Waits until its trigger finds something; without a worker, unless ``deferrable`` is false.

    Returns what was found.

    :param after: moment from which on something counts, ISO 8601; none: what is there when the wait
        begins does not count; empty: whatever is there already (templated).
    :param deferrable: whether the triggerer waits, and no worker.
    """

    template_fields: Sequence[str] = ("after",)

    def __init__(self, *, after: str | None = None, deferrable: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("retry_policy", RETRY_POLICY)
        super().__init__(**kwargs)
        self.after = after
        self.deferrable = deferrable
        self.found: Mapping[str, Any] | None = None

    def trigger(self, after: str) -> PollingTrigger:
        """Return what looks; ``after`` is the watermark."""
        raise NotImplementedError

    def poke(self, context: Context) -> bool:
        """Look once."""
        after = self._after(context)
        found = self.trigger(after).look(after)
        self.found = None if found is None else found[1]
        return found is not None

    def execute(self, context: Context) -> Any:
        """Wait, here or in the triggerer."""
        if not self.deferrable:
            super().execute(context)
            return self.found
        if self.poke(context):
            return self.found
        wait = timedelta(seconds=self.timeout) if self.timeout else None
        self.defer(trigger=self.trigger(self._after(context)), method_name="resumed", timeout=wait)
        return None

    def resumed(self, context: Context, event: Any = None) -> Any:
        """
        Take what the triggerer found.

        :raises ConfigurationError: if the event is not one of our triggers'.
        """
        if not isinstance(event, Mapping) or "watermark" not in event:
            msg = f"{self.task_id} was resumed by something else than its trigger: {event!r}"
            raise ConfigurationError(msg)
        self.log.info("%s", event)
        return dict(event)

    def began(self, context: Context) -> str:
        """Return the watermark of what is there when the wait begins: the start of this run."""
        started = context["dag_run"].start_date
        return started.isoformat() if started else ""

    def _after(self, context: Context) -> str:
        if self.after in (None, "None"):
            self.after = self.began(context)
        return str(self.after)


class RowsArrivedSensor(PollingSensor):
    """
    Wait until a table holds rows newer than those it holds now, or than ``after``; by their clock.

    :param table: ``schema.table``, or a query in parentheses (templated).
    :param time: timestamp column by which rows arrive.
    :param key: column that names a row.
    :param warehouse_conn_id: Airflow connection of type ``postgres`` (templated).
    """

    template_fields = (*PollingSensor.template_fields, "table", "warehouse_conn_id")

    def __init__(
        self,
        *,
        table: str,
        time: str,
        key: str,
        warehouse_conn_id: str = "warehouse",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.time = time
        self.key = key
        self.warehouse_conn_id = warehouse_conn_id

    def began(self, context: Context) -> str:
        """
        Return the time of the newest row.

        :raises ConfigurationError: if each look is a process of its own, which knows no first one.
        """
        if self.mode == "reschedule" and not self.deferrable:
            msg = f"{self.task_id}: with mode='reschedule' say after=..., or wait deferrable"
            raise ConfigurationError(msg)
        newest = self.trigger("").look("")
        return newest[0] if newest else ""

    def trigger(self, after: str) -> RowsArrivedTrigger:
        """Look at the table."""
        return RowsArrivedTrigger(
            table=self.table,
            time=self.time,
            key=self.key,
            warehouse_conn_id=self.warehouse_conn_id,
            after=after,
            interval=float(self.poke_interval),
        )


class FindingRecordedSensor(PollingSensor):
    """
    Wait until a monitor of a model records a finding.

    :param model: name of the model (templated).
    :param monitor: such as ``drift``, ``performance``, ``system`` or ``dependencies`` (templated).
    :param statuses: which findings count.
    :param ledger_conn_id: connection to the database of schema ``mlops`` (templated).
    """

    template_fields = (*PollingSensor.template_fields, "model", "monitor", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        monitor: str,
        statuses: Sequence[str] = ("warn", "broken"),
        ledger_conn_id: str = "mlops_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.monitor = monitor
        self.statuses = statuses
        self.ledger_conn_id = ledger_conn_id

    def trigger(self, after: str) -> FindingRecordedTrigger:
        """Look at the findings."""
        return FindingRecordedTrigger(
            model=self.model,
            monitor=self.monitor,
            statuses=self.statuses,
            ledger_conn_id=self.ledger_conn_id,
            after=after,
            interval=float(self.poke_interval),
        )


class DriftDetectedSensor(FindingRecordedSensor):
    """Wait until the data of a model has drifted, by the verdict on the whole dataset."""

    def __init__(
        self, *, monitor: str = "drift", statuses: Sequence[str] = ("broken",), **kwargs: Any
    ) -> None:
        super().__init__(monitor=monitor, statuses=statuses, **kwargs)


class ModelDecayedSensor(FindingRecordedSensor):
    """Wait until a model does worse than in its own hold-out."""

    def __init__(self, *, monitor: str = "performance", **kwargs: Any) -> None:
        super().__init__(monitor=monitor, **kwargs)
