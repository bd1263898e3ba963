"""Pictures as small SVG texts: a distribution before and now, bars, a timeline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.reports.page import escaped

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 26
BAR = 17
NAMES = 150
DAYS = 4
"""Moments that an axis names: more would touch on a narrow screen."""

LETTER = 7.2
"""Room that a letter takes, on a narrow screen, where text is larger."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line of a timeline.

    :param kind: ``main``, ``base``, ``fresh`` or ``guess``: its colour.
    :param times: seconds since 1970.
    :param values: shape as ``times``.
    :param low: lower end of an interval at each time; empty: there is none.
    :param high: upper end.
    """

    kind: str
    times: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """
    From numbers to places in a picture.

    :param low: number at ``start``.
    :param high: number at ``end``.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)


def steps(edges: Floats, before: Floats, now: Floats) -> str:
    """
    Draw a distribution: an area as it was, a line as it is.

    :param edges: shape ``(n_bins + 1,)``.
    :param before: share of rows in each bin, 0 to 1, shape ``(n_bins,)``.
    :param now: the same of the current rows.
    """
    high = float(max(before.max(initial=0), now.max(initial=0), 1e-9)) * 1.08
    x = Scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    y = Scale(0.0, high, HEIGHT - BOTTOM, TOP)
    shapes = []
    for shares, kind in ((before, "before"), (now, "now")):
        path = "".join(
            f"L{x(a)} {y(s)}L{x(b)} {y(s)}"
            for a, b, s in zip(edges[:-1], edges[1:], shares, strict=True)
        )
        shapes.append(f'<path class="{kind}" d="M{LEFT} {y(0)}{path}L{WIDTH - RIGHT} {y(0)}"/>')
    ticks = "".join(_x_tick(x(v), f"{v:.3g}") for v in np.linspace(edges[0], edges[-1], 6))
    return _svg(HEIGHT, f"{_grid(y, percent=True)}{ticks}{''.join(shapes)}", "distribution")


def bars(names: Sequence[str], before: Sequence[float], now: Sequence[float]) -> str:
    """
    Draw shares of named values: a pale bar as it was, a narrow one as it is.

    :param before: share of rows of each value, 0 to 1.
    :param now: the same of the current rows.
    """
    most = max((*before, *now, 1e-9))
    x = Scale(0.0, most, NAMES, WIDTH - 115)
    rows = []
    for place, (name, was, share) in enumerate(zip(names, before, now, strict=True)):
        top = TOP + place * (BAR + 5)
        rows.append(
            f'<text class="name" x="{NAMES - 8}" y="{top + 12}" text-anchor="end">'
            f"{escaped(name[:20])}</text>"
            f'<rect class="before" x="{NAMES}" y="{top}" width="{x(was) - NAMES:.1f}" '
            f'height="{BAR}"/><rect class="bar" x="{NAMES}" y="{top + 5}" '
            f'width="{x(share) - NAMES:.1f}" height="{BAR - 10}"/>'
            f'<text x="{x(max(was, share)) + 6:.1f}" y="{top + 12}">{was:.1%} '
            f"\u2192 {share:.1%}</text>"
        )
    return _svg(TOP + len(names) * (BAR + 5) + 4, "".join(rows), "shares of values")


def timeline(
    lines: Sequence[Line],
    *,
    marks: Sequence[tuple[float, str]] = (),
    alarms: Sequence[tuple[float, float]] = (),
    height: int = HEIGHT,
    zero: bool = False,
) -> str:
    """
    Draw numbers over time.

    :param marks: time and name of what happened; without a name it is a tick on the axis.
    :param alarms: time and value of each alarm.
    :param zero: whether the axis begins at zero.
    """
    times = [t for line in lines for t in line.times]
    values = [v for line in lines for v in (*line.values, *line.low, *line.high)]
    if not times:
        return ""
    low, high = (0.0 if zero else min(values)), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    x = Scale(min(times), max(times), LEFT + 8, WIDTH - RIGHT - 8)
    y = Scale(low if zero else low - room, high + room, height - BOTTOM, TOP + 10)
    inside = [(at, name) for at, name in marks if x.low <= at <= x.high]
    parts = [_grid(y), *_days(x, height), *_marks(x, inside, height)]
    parts += [_line(line, x, y) for line in lines]
    parts += [f'<circle class="alarm" cx="{x(a)}" cy="{y(v)}" r="4"/>' for a, v in alarms]
    return _svg(height, "".join(parts), "timeline")


def _line(line: Line, x: Scale, y: Scale) -> str:
    points = [f"{x(t)} {y(v)}" for t, v in zip(line.times, line.values, strict=True)]
    band = ""
    if line.low:
        upper = [f"{x(t)} {y(v)}" for t, v in zip(line.times, line.high, strict=True)]
        lower = [f"{x(t)} {y(v)}" for t, v in zip(line.times, line.low, strict=True)]
        band = f'<path class="band" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
    dash = " dash" if line.kind in ("base", "guess") else ""
    alone = "".join(
        f'<circle class="dot" cx="{x(t)}" cy="{y(v)}" r="2"/>'
        for t, v in zip(line.times, line.values, strict=True)
        if line.kind == "main"
    )
    return f'{band}<path class="line {line.kind}{dash}" d="M{"L".join(points)}"/>{alone}'


def _marks(x: Scale, marks: Sequence[tuple[float, str]], height: int) -> list[str]:
    """Draw what happened; a name stands over the middle of its line, the newest first."""
    found: list[str] = []
    foot, free = height - BOTTOM, float(WIDTH)
    for at, name in sorted(marks, reverse=True):
        where, half = x(at), LETTER * (len(name) + 1) / 2  # "@" is wide
        kind, top = ("mark", TOP) if name else ("tick", foot - 8)
        found.append(f'<line class="{kind}" x1="{where}" x2="{where}" y1="{top}" y2="{foot}"/>')
        if name and where - half >= 0 and where + half <= free:
            free = where - half
            found.append(
                f'<text class="name" x="{where}" y="{TOP - 3}" text-anchor="middle">'
                f"{escaped(name)}</text>"
            )
    return found


def _grid(y: Scale, *, percent: bool = False) -> str:
    """Draw a line at each round number."""
    lines = []
    step = _round((y.high - y.low) / 4)
    for value in np.arange(math.ceil(y.low / step), math.floor(y.high / step) + 1) * step:
        text = f"{value * 100:.3g}%" if percent else f"{value:.4g}"
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" '
            f'y2="{y(value)}"/><text x="{LEFT - 6}" y="{y(value) + 4}" '
            f'text-anchor="end">{text}</text>'
        )
    return "".join(lines)


def _round(value: float) -> float:
    """Return the nearest of 1, 2, 2.5, 5 and their like above a number."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= value * 0.999) * power


def _days(x: Scale, height: int) -> list[str]:
    """Name days; where all of it is two days, minutes. No name stands there twice."""
    short = x.high - x.low < 2 * 86400
    ticks: dict[str, str] = {}
    for value in np.linspace(x.low, x.high, DAYS if x.high > x.low else 1):
        moment = datetime.fromtimestamp(float(value), UTC)
        text = moment.strftime("%d %b %H:%M" if short else "%Y-%m-%d")
        ticks.setdefault(text, _x_tick(x(float(value)), text, height))
    return list(ticks.values())


def _x_tick(where: float, text: str, height: int = HEIGHT) -> str:
    anchor = "end" if where > WIDTH - 40 else "start" if where < LEFT + 20 else "middle"
    return f'<text x="{where}" y="{height - 8}" text-anchor="{anchor}">{text}</text>'


def _svg(height: int, content: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escaped(label)}">'
        f"{content}</svg>"
    )
