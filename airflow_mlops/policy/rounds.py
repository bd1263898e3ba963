"""Words about what follows when a candidate was refused: another round of the same attempt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_mlops.policy.words import Word, duration


@dataclass(frozen=True, slots=True)
class Round(Word):
    """
    What a further round changes, after a candidate was refused.

    Without either it learns from half of what the refused candidate has learnt from.

    :param window: how much history to learn from, such as ``"91d"``.
    :param params: parameters of the training function, in place of those of the same names.
    """

    window: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.window is not None and not duration(self.window):
            msg = f"Round window is {self.window!r}; there is nothing to learn from"
            raise ValueError(msg)
        if not isinstance(self.params, Mapping):
            msg = f"Round params is {self.params!r}; write a mapping, such as {{'max_iter': 200}}"
            raise ValueError(msg)

    def __str__(self) -> str:
        changes = [f"{name} {value}" for name, value in self.params.items()]
        changes += [f"{self.window} of history"] if self.window else []
        return ", ".join(changes) or "half the history"


def further_rounds(rounds: object) -> tuple[Round, ...]:
    """
    Return what each further round of an attempt changes.

    :param rounds: most rounds of one attempt, or what each one after the first changes.
    :raises ValueError: if it is neither.
    """
    if isinstance(rounds, int) and not isinstance(rounds, bool) and rounds >= 1:
        return (Round(),) * (rounds - 1)
    if isinstance(rounds, list | tuple):
        made = [Round.from_dict(r) if isinstance(r, Mapping) else r for r in rounds]
        if all(isinstance(one, Round) for one in made):
            return tuple(made)
    msg = f"rounds={rounds!r}: an attempt has one round or more, or a list of Round(...)"
    raise ValueError(msg)
