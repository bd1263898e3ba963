"""The report of performance: every labelled window over time, with what was decided meanwhile."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_mlops.core.entries import CHAMPIONS
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.monitoring.served import ServedWindow
from airflow_mlops.core.monitoring.unlabelled import Guess, past_error
from airflow_mlops.core.reports.page import figure, heading, moment, note, page, table
from airflow_mlops.core.reports.plots import Line, timeline

MARKED = ("retrain", "promote", "refuse", "rollback", "adopt")
"""Entries of the ledger that a timeline shows."""

ROWS = 100
"""Newest windows that the table names."""

DRAWN = 500
"""Newest windows that are drawn."""

_BESIDE = ("backtest", "fresh", "estimate")
_ROLES = {"retrain": "champion", "rollback": "back to", "adopt": "champion"}

_KEYS = {
    "main": "served, with 95 % interval",
    "base": "its own backtest",
    "fresh": "a fresh small model",
    "guess": "estimate without labels",
    "alarm": "surely worse than its backtest",
    "mark": "a version serves from here",
    "tick": "retrain or refuse",
}


def performance_report(
    model: str,
    bodies: Sequence[Mapping[str, Any]],
    guesses: Sequence[Mapping[str, Any]] = (),
    entries: Sequence[Entry] = (),
) -> str:
    """
    Draw how the model did, window by window.

    :param model: name of the model.
    :param bodies: findings of monitor ``performance``, the newest last.
    :param guesses: findings of monitor ``estimate``.
    :param entries: the ledger of the model.
    """
    newest = bodies[-1] if bodies else {}
    windows = _windows(bodies)
    expected = {g.index: g for g in map(Guess.from_dict, guesses)}
    if not windows:
        line = f"nothing is measured yet: no labelled window of {model} is on record"
        return page(f"Performance of {model}", "", line, [_expected(expected), _decisions(entries)])
    last = windows[-1]
    # of findings from before there were lines, only the numbers are known
    line = newest.get("line") or f"window {last.index}: {last.metric} {last.value:.4f}"
    return page(
        f"Performance of {model}",
        str(newest.get("status", "ok")),
        str(line),
        [
            heading(f"{last.metric} over time, less is better"),
            _picture(windows, expected, entries),
            *map(note, newest.get("waiting", ())),
            _slices(last),
            heading("Windows"),
            _table(windows[-ROWS:], expected),
            _estimate(windows, expected),
            _decisions(entries),
        ],
    )


def _windows(bodies: Sequence[Mapping[str, Any]]) -> list[ServedWindow]:
    """Return one window of each number; of two versions that served it, the later one."""
    found: dict[int, ServedWindow] = {}
    for window in map(ServedWindow.from_dict, bodies):
        old = found.get(window.index)
        if old is None or _number(window) >= _number(old):
            found[window.index] = window
    metric = ServedWindow.from_dict(bodies[-1]).metric if bodies else ""
    return [found[index] for index in sorted(found) if found[index].metric == metric][-DRAWN:]


def _number(window: ServedWindow) -> int:
    return int(window.model.rpartition("@")[2])


def _picture(
    windows: Sequence[ServedWindow], guesses: Mapping[int, Guess], entries: Sequence[Entry]
) -> str:
    times = [seconds(w.until) for w in windows]
    known = [(t, m) for t, w in zip(times, windows, strict=True) if (m := w.realised)]
    at, found = [t for t, _ in known], [m for _, m in known]
    based = [(t, w.base) for t, w in zip(times, windows, strict=True) if w.base is not None]
    fresh = [(t, w.probe_loss) for t, w in zip(times, windows, strict=True) if w.probe]
    ahead = [guesses[index] for index in sorted(guesses) if index >= windows[0].index]
    lines = [
        Line("base", [t for t, _ in based], [b for _, b in based]),
        Line("fresh", [t for t, _ in fresh], [p for _, p in fresh]),
        Line("guess", [seconds(g.until) for g in ahead], [g.value for g in ahead]),
        Line("main", at, [m.value for m in found], [m.low for m in found], [m.high for m in found])
        if len(known) == len(windows)
        else Line("main", times, [w.value for w in windows]),
    ]
    alarms = [(t, w.value) for t, w in zip(times, windows, strict=True) if w.decayed]
    svg = timeline([line for line in lines if line.times], marks=marks(entries), alarms=alarms)
    drawn = set(re.findall(r'class="(?:line )?(\w+)', svg))
    return figure(svg, {kind: text for kind, text in _KEYS.items() if kind in drawn})


def _slices(window: ServedWindow) -> str:
    if not window.slices:
        return ""
    rows = sorted(window.slices, key=lambda s: (not s.decayed, s.column, s.value))
    return heading(f"Slices of window {window.index}") + table(
        ("column", "slice", "rows", window.metric, "in the hold-out", "rows there", "p", "verdict"),
        (
            (
                s.decayed,
                (
                    s.column,
                    s.value,
                    s.rows,
                    s.loss,
                    s.before,
                    s.before_rows,
                    s.p_value,
                    "decayed" if s.decayed else "too few rows" if s.p_value is None else "ok",
                ),
            )
            for s in rows
        ),
    )


def _table(windows: Sequence[ServedWindow], guesses: Mapping[int, Guess]) -> str:
    scores = ("accuracy", "roc_auc")
    return table(
        ("window", "until", "model", "rows", "loss", "95 %", *_BESIDE, *scores),
        ((w.decayed, (*_cells(w, guesses), *_scores(w, scores))) for w in reversed(windows)),
    )


def _cells(window: ServedWindow, guesses: Mapping[int, Guess]) -> tuple[Any, ...]:
    found, guess = window.realised, guesses.get(window.index)
    return (
        window.index,
        moment(window.until),
        window.model,
        window.rows,
        window.value,
        f"{found.low:.4f} to {found.high:.4f}" if found else None,
        window.base,
        window.probe_loss if window.probe else None,
        guess.value if guess else None,
    )


def _scores(window: ServedWindow, names: Sequence[str]) -> list[float | None]:
    values = {m.metric: m.value for m in window.metrics}
    return [values.get(name) for name in names]


def _estimate(windows: Sequence[ServedWindow], guesses: Mapping[int, Guess]) -> str:
    known = {w.index: w.value for w in windows if w.index in guesses}
    error = past_error(guesses, known)
    if error is None:
        return ""
    return note(
        f"The estimate without labels was off by {error:.4f} on average over {len(known)} "
        f"labelled window{'s' * (len(known) != 1)} of all versions; the head of this page counts "
        f"only those of {windows[-1].model} before the newest."
    )


def _expected(guesses: Mapping[int, Guess]) -> str:
    return "".join(note(str(guesses[index])) for index in sorted(guesses)[-ROWS:])


def _decisions(entries: Sequence[Entry]) -> str:
    found = _dated(entries)[-ROWS:]
    if not found:
        return ""
    return heading("Decisions") + table(
        ("entry", "when", "what", "about", "why"),
        (
            (e.op == "refuse", (e.seq, moment(at or e.at), e.op, _about(e), e.reason))
            for at, e in reversed(found)
        ),
    )


def _about(entry: Entry) -> str:
    """Name the version of an entry by what it was: a retrain is decided of a champion."""
    role = _ROLES.get(entry.op, "candidate")
    return "" if entry.version is None else f"{role} @{entry.version}"


def _dated(entries: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """Return when each entry happened, by the clock of the data; empty: nobody had looked at it."""
    found, now = [], ""
    for entry in entries:
        now = str(entry.evidence.get("now") or now)
        if entry.op in MARKED:
            found.append((now, entry))
    return found


def marks(entries: Sequence[Entry]) -> list[tuple[float, str]]:
    """Return time, by the clock of the data, and new champion of what was decided."""
    found: dict[tuple[str, bool], str] = {}
    for at, entry in _dated(entries):
        serves = entry.op in CHAMPIONS
        if at:  # of two changes at one moment the later one lasts
            found[at, serves] = f"@{entry.version}" if serves else ""
    return [(seconds(at), name) for (at, _), name in found.items()]


def seconds(text: str) -> float:
    """Return a moment as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
