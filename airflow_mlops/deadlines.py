"""Since when a deadline counts; a plugin brings it to every process of Airflow."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from airflow.sdk.definitions.deadline import BaseDeadlineReference


class RunCreated(BaseDeadlineReference):
    """
    The moment at which a run came into being, whatever started it.

    A run with Airflow's own ``DAGRUN_QUEUED_AT`` cannot be cleared with 3.3 (apache/airflow#70368).
    A run that is cleared keeps its deadline.
    """

    required_kwargs: ClassVar[set[str]] = set()

    def _evaluate_with(self, **known: Any) -> datetime:
        return datetime.now(UTC)
