"""The reports of what a model lives on: its tasks and its machine, its packages."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.reports.page import figure, heading, moment, note, page, table
from airflow_mlops.core.reports.performance import seconds
from airflow_mlops.core.reports.plots import Line, timeline

TASKS = 24
"""Tasks that are drawn, those that took longest first."""

LOOKS = 100
LOW = 130


def system_report(model: str, looks: Sequence[Observation], usages: Sequence[Observation]) -> str:
    """
    Draw what every task used, and list what was found.

    :param model: name of the model.
    :param looks: findings of monitor ``system``, oldest first.
    :param usages: findings of monitor ``usage``, oldest first.
    """
    newest = looks[-1].body if looks else {}
    tasks: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in usages:
        tasks[f"{one.body['dag_id']}.{one.body['task_id']}"].append(one.body)
    order = sorted(tasks, key=lambda name: -sum(b["wall_s"] for b in tasks[name]))
    return page(
        f"System of {model}",
        str(newest.get("status", "ok")),
        str(newest.get("line", "no look at the system is on record yet")),
        [
            heading("Findings") if any(o.body["findings"] for o in looks) else "",
            table(
                ("when", "what", "status", "finding"),
                (
                    (
                        f["status"] == "broken",
                        (moment(o.recorded_at), f["what"], f["status"], f["line"]),
                    )
                    for o in reversed(looks[-LOOKS:])
                    for f in o.body["findings"]
                ),
            ),
            heading("Tasks") if tasks else "",
            *(part for name in order[:TASKS] for part in _task(name, tasks[name])),
            note(f"{len(order) - TASKS} more tasks are not drawn") if len(order) > TASKS else "",
        ],
    )


def _task(name: str, bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw seconds and memory of the tries of one task; tries that did not end well are alarms."""
    times = [seconds(b["started_at"]) for b in bodies]
    bad = [b["outcome"] not in ("success", "skipped") for b in bodies]
    pictures = []
    for field, unit in (("wall_s", "seconds"), ("rss_mb", "MB of memory")):
        values = [float(b[field]) for b in bodies]
        alarms = [(t, v) for t, v, wrong in zip(times, values, bad, strict=True) if wrong]
        svg = timeline([Line("main", times, values)], alarms=alarms, height=LOW, zero=True)
        keys = {"main": unit} | ({"alarm": "failed or killed"} if alarms else {})
        pictures.append(figure(svg, keys))
    last = bodies[-1]
    return [heading(name, 3), note(str(last.get("line", last["outcome"]))), *pictures]


def dependencies_report(
    model: str, reports: Sequence[Observation], planned: Sequence[Observation] = ()
) -> str:
    """
    List where the champion was asked, and what differs from its training.

    :param model: name of the model.
    :param reports: findings of monitor ``dependencies``, oldest first.
    :param planned: findings about files of pins, oldest first.
    """
    newest = reports[-1].body if reports else {}
    since = () if newest.get("since") == newest.get("changes") else newest.get("since", ())
    return page(
        f"Dependencies of {model}",
        str(newest.get("status", "ok")),
        str(newest.get("line", "no champion was asked yet")),
        [
            _changes("Changed since training", newest.get("changes", ())),
            _changes("Changed since the environment before", since),
            heading("Files of pins") if planned else "",
            *(note(str(o.body.get("line", o.subject))) for o in planned[-LOOKS:]),
            heading("Environments") if reports else "",
            table(
                ("when", "model", "environment", "status", "finding"),
                (
                    (
                        o.body["status"] == "broken",
                        (
                            moment(o.recorded_at),
                            o.body["model"],
                            o.body["environment"],
                            o.body["status"],
                            o.body["answers"]["found"],
                        ),
                    )
                    for o in reversed(reports[-LOOKS:])
                ),
            ),
        ],
    )


def _changes(title: str, changes: Sequence[Mapping[str, Any]]) -> str:
    """List packages, those that the model uses first."""
    if not changes:
        return ""
    order = sorted(changes, key=lambda c: (not c["used"], c["name"]))
    return heading(title) + table(
        ("package", "before", "now", "used by the model"),
        (
            (
                c["used"],
                (c["name"], c["old"] or "absent", c["new"] or "absent", "yes" if c["used"] else ""),
            )
            for c in order
        ),
    )
