"""Findings read into what they stand for: another tool or release may have written them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from airflow_mlops.core.errors import RejectedError
from airflow_mlops.core.monitoring.observations import Observation

T = TypeVar("T")


def parsed(observation: Observation, read: Callable[[Mapping[str, Any]], T]) -> T:
    """
    Read a finding into what it stands for.

    :param read: such as ``from_dict`` of a report.
    :raises RejectedError: if it does not fit.
    """
    try:
        return read(dict(observation.body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = (
            f"the finding of monitor {observation.monitor!r} on {observation.subject!r} is not one "
            f"that can be read ({type(error).__name__}: {error}): another tool or another release "
            "wrote it; let the monitor look again, or remove the finding"
        )
        raise RejectedError(msg) from error
