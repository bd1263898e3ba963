"""
Whether the system is well: limits that a policy sets, and a task beside its own earlier runs.

A task is named if its last two runs both need at least half as much again as the median of the
comparable runs before them, and lie more than four median absolute deviations beyond it. One run
may be unlucky, and there are limits for what must never happen. By simulation, with times that
scatter by 20 %, that is a false alarm in 1 of 400 runs with five earlier ones, in 1 of 1,400 with
twenty; with 10 %, in none of 200,000; with 30 %, in 1 of 70 and 1 of 330. A task that became three
times as slow is named at its second run in 99 of 100 cases (scatter of 20 %).
Source of the two robust measures: Hampel, "The influence curve and its role in robust estimation",
1974.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any, Literal, Self

from airflow_mlops.core.monitoring.findings import parsed
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.monitoring.resources import Usage
from airflow_mlops.policy import Health, duration

Status = Literal["ok", "warn", "broken"]

MIN_RUNS = 5
"""Earlier runs that a comparison needs."""

LAST_RUNS = 20
"""Earlier runs that are compared with, so that a lasting change is news only for a while."""

DEVIATIONS = 4.0

ALIKE = 1.5
"""Runs are comparable if none has this many times the rows of the other."""

RATE_ROWS = 1_000
"""Fewer rows say nothing about rows per second: what a task costs without any outweighs them."""

_LEAST = {"s": 2.0, "CPU s": 2.0, "MB": 100.0}
"""Differences below which nobody is told, whatever the ratio."""


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """
    One thing that is not as it should be.

    :param what: what was looked at: a task, ``disk``, ``mlflow``, ``scheduler``, ``silence``.
    :param status: ``warn``, or ``broken``: somebody has to do something now.
    :param line: what is wrong, in one sentence with its numbers.
    :param brief: the same in a few words, for a list; empty: ``line`` is short enough.
    """

    what: str
    status: Status
    line: str
    brief: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the finding that :meth:`to_dict` wrote."""
        return cls(**data)


def judge_health(
    task: str, usage: Usage, history: Sequence[Usage], rules: Health
) -> tuple[HealthFinding, ...]:
    """
    Hold one run of a task against the limits, and the last two against its own earlier runs.

    :param task: its name, for the findings.
    :param history: usages of earlier runs that went well, oldest first.
    """
    return (*_limits(task, usage, rules), *_regressions(task, usage, history, rules))


def judge_usages(
    found: Sequence[Observation], since: str, rules: Health
) -> tuple[HealthFinding, ...]:
    """
    Judge every try that was recorded after a moment.

    :param found: findings of monitor ``usage``, oldest first.
    :param since: ISO 8601; empty: all of them.
    """
    earlier: dict[tuple[str, str], list[Usage]] = defaultdict(list)
    findings: list[HealthFinding] = []
    if since and not (found and _after(found[-1].recorded_at, since)):
        line = (
            f"no task has left a usage since {since[:16]}; see that the plugin is loaded, and that "
            "the folder of section [mlops] can be written on the workers"
        )
        findings.append(HealthFinding("usage", "warn", line))
    for one in found:
        body, usage = one.body, parsed(one, Usage.from_dict)
        key = (body["dag_id"], body["task_id"])
        if not since or _after(one.recorded_at, since):
            name = f"{'.'.join(key)} (try {body['try']} of {body['run_id']})"
            if body["outcome"] == "killed":
                findings.append(HealthFinding(name, "warn", body["line"]))
            findings += judge_health(name, usage, earlier[key], rules)
        if body["outcome"] == "success":
            earlier[key].append(usage)
    return tuple(findings)


def _after(one: str, other: str) -> bool:
    return datetime.fromisoformat(one) > datetime.fromisoformat(other)


def _limits(task: str, usage: Usage, rules: Health) -> list[HealthFinding]:
    lines = []
    if rules.rss_mb is not None and usage.rss_mb > rules.rss_mb:
        lines.append(f"{task} held {usage.rss_mb:,.0f} MB, the limit is {rules.rss_mb:,.0f}")
    if rules.duration is not None and usage.wall_s > duration(rules.duration).total_seconds():
        lines.append(f"{task} took {usage.wall_s:,.0f} s, the limit is {rules.duration}")
    rate = usage.rows_per_s
    slow = rate is not None and rules.rows_per_s is not None and rate < rules.rows_per_s
    if slow and (usage.rows or 0) >= RATE_ROWS:
        lines.append(f"{task} handled {rate:,.0f} rows/s, at least {rules.rows_per_s:,.0f} are due")
    return [HealthFinding(task, "broken", line) for line in lines]


def _regressions(
    task: str, usage: Usage, history: Sequence[Usage], rules: Health
) -> list[HealthFinding]:
    alike = [past for past in history if _alike(past, usage)]
    before, alike = alike[-1:], alike[:-1][-LAST_RUNS:]
    if len(alike) < MIN_RUNS:
        return []
    found = []
    for unit, name in (("s", "wall_s"), ("CPU s", "cpu_s"), ("MB", "rss_mb")):
        now, past = getattr(usage, name), [getattr(one, name) for one in alike]
        usual = median(past)
        both = min(now, getattr(before[0], name))
        if both - usual > _LEAST[unit] and worse(both, past, rules.factor):
            times = f"{now:,.1f} {unit}, {now / max(usual, 1e-9):.1f} times the"
            line = (
                f"{task} needed {times} {usual:,.1f} {unit} of {len(alike)} earlier runs, and so "
                "did the run before it"
            )
            brief = f"{times} usual {usual:,.1f} {unit}, twice"
            found.append(HealthFinding(task, "warn", line, brief))
    return found


def worse(now: float, past: Sequence[float], factor: float) -> bool:
    """
    Say whether a value is far above those before it.

    :param factor: of the median; besides, it has to lie four median absolute deviations beyond.
    """
    usual = median(past)
    spread = median(abs(value - usual) for value in past)
    return now >= factor * usual and now > usual + DEVIATIONS * spread


def _alike(past: Usage, usage: Usage) -> bool:
    """Say whether two runs had about as much to do."""
    if past.rows is None or usage.rows is None:
        return past.rows is None and usage.rows is None
    few, many = sorted((past.rows + 1, usage.rows + 1))
    return many <= ALIKE * few


def judge_silence(
    what: str, times: Sequence[datetime], now: datetime, rules: Health
) -> tuple[HealthFinding, ...]:
    """
    Say whether something that happens again and again has not happened for long.

    The usual gap is the median of those there were; gaps below an hour are no schedule.

    :param what: what happens, for the line, such as ``"run of the monitor"``.
    :param times: when it happened, oldest first.
    """
    gaps = [(late - early).total_seconds() for early, late in pairwise(times)]
    if len(gaps) < MIN_RUNS:
        return ()
    usual = max(median(gaps), timedelta(hours=1).total_seconds())
    silent = (now - times[-1]).total_seconds()
    if silent <= rules.silent * usual:
        return ()
    line = (
        f"no {what} for {silent / 3600:,.1f} hours, since {times[-1].isoformat()[:16]}; "
        f"usually there is one every {usual / 3600:,.1f} hours"
    )
    return (HealthFinding("silence", "warn", line),)


def judge_disk(place: str, free_gb: float, rules: Health) -> tuple[HealthFinding, ...]:
    """
    Say whether a folder is running full.

    :param free_gb: free space, in GB.
    """
    if free_gb >= rules.disk_free_gb:
        return ()
    line = (
        f"{free_gb:.2f} GB are free at {place}, at least {rules.disk_free_gb:g} are due; make room"
    )
    return (HealthFinding("disk", "broken", line),)


def worst(findings: Sequence[HealthFinding]) -> Status:
    """Return the status of all findings together."""
    found = {finding.status for finding in findings}
    return "broken" if "broken" in found else "warn" if found else "ok"
