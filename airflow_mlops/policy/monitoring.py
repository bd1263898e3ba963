"""Words about monitors: what they look at, and what fails a task."""

from dataclasses import dataclass
from typing import Literal, get_args

from airflow_mlops.policy.words import Word

FailOn = Literal["error", "warn", "never"]
"""What fails a monitor's task: what is broken; what is uncertain as well; nothing."""


@dataclass(frozen=True, slots=True)
class Dependencies(Word):
    """
    The champion serves only where it gives the answers of its training.

    :param fail_on: ``"error"`` lets nothing be scored where its answers moved or it does not load;
        ``"warn"`` neither where that is uncertain, or a change is known to go wrong; ``"never"``
        scores all the same.
    :param constraints: file of pins, on the workers, that is going to be installed: what it would
        change is said beforehand.
    """

    fail_on: FailOn = "error"
    constraints: str | None = None

    def __post_init__(self) -> None:
        if self.fail_on not in get_args(FailOn):
            known = ", ".join(map(repr, get_args(FailOn)))
            msg = f"Dependencies fail_on is {self.fail_on!r}; known: {known}"
            raise ValueError(msg)
