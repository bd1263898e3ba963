"""The reports of what a model lives on: its tasks and its machine, its packages."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.reports.page import figure, folded, heading, moment, note, page, table
from airflow_mlops.core.reports.performance import seconds
from airflow_mlops.core.reports.plots import Line, timeline

TASKS = 24
"""Tasks that are drawn, those that took longest first."""

LOOKS = 100
LOW = 130

_USED = (("wall_s", "s"), ("cpu_s", "CPU s"), ("rss_mb", "MB"))


def system_report(model: str, looks: Sequence[Observation], usages: Sequence[Observation]) -> str:
    """
    Sum up and draw what every task used, and list what was found.

    :param model: name of the model.
    :param looks: findings of monitor ``system``, oldest first.
    :param usages: findings of monitor ``usage``, oldest first.
    """
    newest = looks[-1].body if looks else {}
    tasks: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in usages:
        tasks[f"{one.body['dag_id']}.{one.body['task_id']}"].append(one.body)
    order = sorted(tasks, key=lambda name: -sum(b["wall_s"] for b in tasks[name]))
    named = {_task(f["what"]) for f in newest.get("findings", ())}
    return page(
        f"System of {model}",
        str(newest.get("status", "")),
        "\n".join(filter(None, (_head(newest), _failed(usages)))),
        [
            heading("Tasks") if tasks else "",
            _summary({name: tasks[name] for name in order}),
            heading("Findings") if any(o.body["findings"] for o in looks) else "",
            _findings(looks[-1:]),
            folded("Findings of earlier looks", list(filter(None, [_findings(looks[:-1])]))),
            heading("Seconds and memory, try by try") if tasks else "",
            *(_pictures(name, tasks[name], unfolded=name in named) for name in order[:TASKS]),
            note(f"{len(order) - TASKS} more tasks are not drawn") if len(order) > TASKS else "",
        ],
    )


def _task(what: str) -> str:
    """Return the task of a finding about one of its tries."""
    return what.partition(" (")[0]


def _head(look: Mapping[str, Any]) -> str:
    """Say of each thing what was found first; the rest is in the table."""
    if not look:
        return "no look at the system is on record yet"
    found: dict[str, list[str]] = defaultdict(list)
    for one in look["findings"]:
        found[_task(one["what"])].append(one.get("brief") or _bare(one))
    lines = [
        f"{what.rpartition('.')[2]}: {texts[0]}"
        + f" (and {len(texts) - 1} more)" * (len(texts) > 1)
        for what, texts in found.items()
    ]
    return "\n".join(lines) or str(look.get("line", ""))


def _bare(finding: Mapping[str, Any]) -> str:
    """Return what was found without the name of the task before it."""
    line = str(finding["line"]).removeprefix(f"{finding['what']} ")
    return re.sub(rf"^{re.escape(_task(finding['what']))}, try \d+: ", "", line)


def _failed(usages: Sequence[Observation]) -> str:
    bad = sum(_is_bad(o.body) for o in usages)
    return f"{bad} of {len(usages)} tries failed" * bool(bad)


def _is_bad(body: Mapping[str, Any]) -> bool:
    return body["outcome"] not in ("success", "skipped")


def _summary(tasks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """List every task with its usual and its last try."""
    names = [f"{unit}, {when}" for _, unit in _USED for when in ("median", "last")]
    return table(
        ("task", "tries", "failed", "last state", *names),
        (
            (
                _is_bad(bodies[-1]),
                (
                    name,
                    len(bodies),
                    sum(map(_is_bad, bodies)) or None,
                    bodies[-1]["outcome"],
                    *(value for field, _ in _USED for value in _usual_and_last(bodies, field)),
                ),
            )
            for name, bodies in tasks.items()
        ),
    )


def _usual_and_last(bodies: Sequence[Mapping[str, Any]], field: str) -> tuple[float, float]:
    values = [float(b.get(field, 0)) for b in bodies]
    places = None if field == "rss_mb" else 2
    return round(median(values), places), round(values[-1], places)


def _findings(looks: Sequence[Observation]) -> str:
    return table(
        ("when", "what", "status", "finding"),
        (
            (f["status"] == "broken", (moment(o.recorded_at), f["what"], f["status"], _bare(f)))
            for o in reversed(looks[-LOOKS:])
            for f in o.body["findings"]
        ),
    )


def _pictures(name: str, bodies: Sequence[Mapping[str, Any]], *, unfolded: bool) -> str:
    """Draw the tries of one task; those that did not end well are alarms, and open it."""
    times = [seconds(b["started_at"]) for b in bodies]
    bad = [_is_bad(b) for b in bodies]
    pictures = []
    for field, unit in (("wall_s", "seconds"), ("rss_mb", "MB of memory")):
        values = [float(b[field]) for b in bodies]
        alarms = [(t, v) for t, v, wrong in zip(times, values, bad, strict=True) if wrong]
        svg = timeline([Line("main", times, values)], alarms=alarms, height=LOW, zero=True)
        keys = {"main": unit} | ({"alarm": "failed or killed"} if alarms else {})
        pictures.append(figure(svg, keys))
    return folded(name, pictures, unfolded=unfolded or any(bad))


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
        str(newest.get("status", "")),
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
