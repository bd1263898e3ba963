"""The report of the drift of one window: every column, as it was in training and as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.data.profile import (
    CategoryProfile,
    ColumnProfile,
    NumericProfile,
    Profile,
)
from airflow_mlops.core.monitoring.drift.record import with_arrivals
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, DriftReport, p_text
from airflow_mlops.core.reports.page import figure, folded, heading, note, page, table
from airflow_mlops.core.reports.plots import bars, steps

BINS = 40
FEW = 12
"""A number with at most so many distinct values is drawn as bars."""

PICTURES = 40
"""Columns that are drawn, drifted ones first, then those that warn."""

EXACT = 1e9
"""Whole numbers up to this are written out."""

LISTED = 200
"""Columns that the table names."""

_ORDER = ("drifted", "warn", "ok")


def drift_report(body: Mapping[str, Any], profiles: tuple[Profile, Profile]) -> str:
    """
    Draw what was compared; status, line and verdicts are those on record.

    :param body: finding of monitor ``drift`` about one window.
    :param profiles: of the reference and of the window.
    """
    # findings from before there were lines
    body = {**with_arrivals(body, ()), **body}
    found, model = DriftReport.from_dict(body), body["model"]
    order = sorted(found.columns, key=lambda c: (_ORDER.index(c.status), c.p_value, -c.effect))
    shown = order[:PICTURES]
    quiet = [picture for c in shown if c.status == "ok" for picture in _column(c, *profiles)]
    before, now = (profile.rows for profile in profiles)
    partly = found.drifted and body.get("reason") and not body["dataset"]
    calm = sum(c.status == "ok" for c in found.columns)
    return page(
        f"Drift of window {body['window']} against {model}",
        body["status"],
        body["line"],
        [
            note(
                f"{now:,} rows of dataset {found.current} against the {before:,} rows of "
                f"dataset {found.reference} that model {model} has learnt from. A column drifts "
                "if a share of rows that matters has moved, and its own past does not explain it; "
                "it warns from half of that share on. At most "
                f"{found.alpha:.0%} of windows alarm without a cause, over all columns."
            ),
            note(f"The dataset did not: {body['reason']}.") if partly else "",
            _table(order[:LISTED]),
            *(part for c in shown if c.status != "ok" for part in _column(c, *profiles)),
            folded(f"{calm} column{'s' * (calm != 1)} did not move", quiet),
            note(f"{len(order) - len(shown)} more columns are not drawn")
            if len(order) > len(shown)
            else "",
        ],
    )


def unjudged_report(model: str, body: Mapping[str, Any]) -> str:
    """
    Say what is known before any window was judged.

    :param body: newest finding of monitor ``drift``; empty: there is none.
    """
    line = body.get("line") or (body and f"no window is complete since {body['model']} serves")
    return page(
        f"Drift of {model}",
        body.get("status", ""),
        line or "nothing is judged yet: no finding of drift is on record",
        [note("The columns are drawn once the first window is complete and judged.")],
    )


def _table(columns: Sequence[ColumnDrift]) -> str:
    head = ("column", "verdict", "looked at", "share of rows", "limit", "p")
    return table(
        head,
        (
            (
                c.drifted,
                (
                    c.column,
                    c.status,
                    c.statistic,
                    f"{c.effect:.1%}",
                    f"{c.threshold:.0%}",
                    _number(p_text(c.p_value)),
                ),
            )
            for c in columns
        ),
    )


def _number(text: str) -> float | str:
    """Numbers stand to the right; what is only known to be small stays in words."""
    return text if text.startswith("<") else float(text)


def _column(found: ColumnDrift, before: Profile, now: Profile) -> list[str]:
    """Draw one column, with the reasons of its verdict."""
    reason = note(f"{found.status}; {found.reason}") if found.reason else ""
    title = heading(found.column, 3) + reason
    one, two = before.columns.get(found.column), now.columns.get(found.column)
    if one is None or two is None or one.kind != two.kind:
        return [title]
    missing = [c.missing / max(c.rows, 1) for c in (one, two)]
    note_missing = f"missing: {missing[0]:.1%} before, {missing[1]:.1%} now" if any(missing) else ""
    svg = picture(one, two)
    if not svg:
        return [title, note(note_missing or "nothing to draw")]
    legend = {"base": "rows of training", "main": "this window"}
    return [title, note(note_missing) if note_missing else "", figure(svg, legend)]


def picture(before: ColumnProfile, now: ColumnProfile) -> str:
    """Draw a column before and now; nothing if there are no values, or only times."""
    if not before.present or not now.present:
        return ""
    if isinstance(before, NumericProfile) and isinstance(now, NumericProfile):
        return "" if before.times else _numeric(before, now)
    if isinstance(before, CategoryProfile) and isinstance(now, CategoryProfile):
        return _category(before, now)
    return ""


def _category(before: CategoryProfile, now: CategoryProfile) -> str:
    """Draw the most frequent values, and all others together."""
    both = {
        value: before.values.get(value, 0) / before.present + now.values.get(value, 0) / now.present
        for value in (*before.values, *now.values)
    }
    top = sorted(both, key=lambda value: (-both[value], value))[:FEW]
    shares = [[p.values.get(v, 0) / p.present for v in top] for p in (before, now)]
    rest = [max(0.0, 1 - sum(part)) for part in shares]
    if max(rest) < 1e-9:
        return bars(top, *shares)
    return bars([*top, "other values"], [*shares[0], rest[0]], [*shares[1], rest[1]])


def _numeric(before: NumericProfile, now: NumericProfile) -> str:
    """Draw steps between the outer quantiles; what lies beyond is in the outermost bins."""
    pairs = [_values(profile) for profile in (before, now)]
    values = np.unique(np.concatenate([v for v, _ in pairs]))
    if not len(values):
        return ""
    if len(values) <= FEW:
        was, is_now = ([float(s[v == value].sum()) for value in values] for v, s in pairs)
        names = [f"{v:.0f}" if v == round(v) and abs(v) < EXACT else f"{v:.3g}" for v in values]
        return bars(names, was, is_now)
    ends = [np.interp((0.005, 0.995), np.cumsum(s), v) for v, s in pairs if len(v)]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    if low >= high:
        low, high = values[0], values[-1]
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(np.clip(v, low, high), edges, weights=s)[0] for v, s in pairs]
    return steps(edges, *shares)


def _values(profile: NumericProfile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return finite values in order, and the share of rows of each: its cell begins there."""
    bits = profile.cells.astype(np.uint32) << 16
    values = bits.view(np.float32).astype(np.float64) / profile.scale + profile.centre
    finite = np.isfinite(values)
    order = np.argsort(values[finite])
    counts = profile.counts[finite][order]
    return values[finite][order], counts / max(counts.sum(), 1)
