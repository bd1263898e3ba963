"""Replay the policy of a lifecycle over a table of the past."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.lifecycle.declaration import Lifecycle
from airflow_mlops.policy import duration, further_rounds

if TYPE_CHECKING:
    from airflow_mlops.core.retraining.history import History
    from airflow_mlops.core.retraining.simulation import Simulation

LABELS = ("label", "target", "y")
"""What a column of labels is usually called."""


@dataclass(frozen=True, slots=True)
class Past:
    """
    A table of the past, and how it is lived through.

    :param path: Parquet file: rows in the order of time, with their labels.
    :param window: rows of a window, or its length such as ``"7d"``; none: the step of the policy.
    :param warmup: windows before the first model.
    :param delay: windows after which labels arrive.
    :param shuffle: seed with which rows are given other times; none: as they are.
    :param time: column of the time; none: that of the policy, else the only one there is.
    :param label: column of the label; none: that of the policy, else the usual names.
    """

    path: Path
    window: str | None = None
    warmup: int = 26
    delay: int = 0
    shuffle: int | None = None
    time: str | None = None
    label: str | None = None


def simulate(life: Lifecycle, past: Past, *, policy: Lifecycle | None = None) -> "Simulation":
    """
    Replay a policy in this process: the same decision, training and gate, without a scheduler.

    :param life: whose data and functions are used.
    :param past: the table.
    :param policy: whose triggers, cooldown, budget, gates and windows are used; none: those of
        ``life``.
    :raises ConfigurationError: if the table does not fit the lifecycle.
    """
    from airflow_mlops.core.data.features import archive
    from airflow_mlops.core.retraining.replay import simulate as replay
    from airflow_mlops.core.retraining.simulation import Setting

    rules = policy or life
    if rules.metric != life.metric:
        msg = f"{life.name} is measured in {life.metric}, the policy in {rules.metric}"
        raise ConfigurationError(msg)
    if past.warmup < 2 or past.delay < 0:
        msg = f"warm-up {past.warmup} and label delay {past.delay}: 2 or more, and 0 or more"
        raise ConfigurationError(msg)
    history = _history(life, past)
    ignored = rules.policy.drift.ignore
    named = {"Table(columns=...)": life.data.columns or (), "Drift(ignore=...)": ignored}
    for word, names in named.items():
        for name in names:
            if name not in history.columns:
                known = ", ".join(history.columns)
                msg = f"{past.path} lacks {name!r} of {word}; it has {known}"
                raise ConfigurationError(msg)
    return replay(
        history,
        Setting(
            life.name,
            rules.policy,
            tuple(rules.gates),
            further_rounds(rules.rounds),
            life.metric,
            duration(rules.select.span),
            rules.select.shorter,
            archive(life.features, life.feature_params),
            archive(life.train),
            dict(life.params),
            life.seed,
            life.data.columns or history.columns,
            past.warmup,
            past.delay,
            duration(rules.embargo),
        ),
    )


def _history(life: Lifecycle, past: Past) -> "History":
    from airflow_mlops.core.retraining.history import History

    history = History.read(
        past.path,
        key=life.data.key,
        time=past.time or life.data.time,
        label=past.label or life.data.label,
        guess=() if past.label else LABELS,
    )
    step = past.window or life.select.step
    try:
        history = history.cut(int(step) if str(step).isdecimal() else duration(step))
    except ValueError as error:
        msg = f"window {step!r} is neither a number of rows nor a length of time such as '7d'"
        raise ConfigurationError(msg) from error
    return history if past.shuffle is None else history.shuffled(past.shuffle)
