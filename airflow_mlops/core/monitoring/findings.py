"""Findings as they are read back: another tool, or another release, may have written them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from airflow_mlops.core.errors import RejectedError
from airflow_mlops.core.monitoring.observations import Observation

T = TypeVar("T")


class Finding(dict[str, Any]):
    """
    The body of a finding; asked for what it does not have, it says whose it is.

    :param observation: the finding on record.
    """

    def __init__(self, observation: Observation) -> None:
        body = observation.body
        super().__init__(body if isinstance(body, dict) else {})
        self._of = f"monitor {observation.monitor!r} on {observation.subject!r}"

    def __missing__(self, name: str) -> Any:
        """
        Name the finding.

        :raises RejectedError: always.
        """
        has = ", ".join(map(repr, sorted(self))) or "nothing"
        msg = (
            f"the finding of {self._of} does not say {name!r}, it has {has}: another tool or "
            "another release wrote it; let the monitor look again, or remove the finding"
        )
        raise RejectedError(msg)


def parsed(observation: Observation, read: Callable[[Mapping[str, Any]], T]) -> T:
    """
    Read a finding into what it stands for.

    :param read: such as ``from_dict`` of a report.
    :raises RejectedError: if it does not fit.
    """
    try:
        return read(observation.body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = (
            f"the finding of monitor {observation.monitor!r} on {observation.subject!r} is not one "
            f"that can be read ({type(error).__name__}: {error}): another tool or another release "
            "wrote it; let the monitor look again, or remove the finding"
        )
        raise RejectedError(msg) from error


def bodies(observations: Iterable[Observation]) -> list[Finding]:
    """Return the bodies of findings."""
    return [Finding(observation) for observation in observations]
