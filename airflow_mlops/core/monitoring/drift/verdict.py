"""
Whether a column drifted: an effect that matters *and* a surprise that the past does not explain.

Textbook p-values assume independent rows. Rows of a time series are not, so the reference's own
windows, each compared with the others, say how far apart windows are when nothing happened. A
column alone shows weak dependence too seldom: the columns of a table say together whether there is.

Sources: false discovery rate: Benjamini and Hochberg, JRSS B 57(1), 1995; combination of p-values:
Stouffer et al., The American Soldier, 1949.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, median

import numpy as np

from airflow_mlops.core.data.profile import Profile, merge_all
from airflow_mlops.core.errors import NotEnoughDataError
from airflow_mlops.core.monitoring.drift.checks import (
    Check,
    Lift,
    Marked,
    Share,
    checks,
    checks_of_each,
)
from airflow_mlops.core.monitoring.drift.laws import hypergeometric_tail, student_tail
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, p_text

THRESHOLDS: Mapping[str, float] = {
    "moved": 0.10,
    "missing": 0.03,
    "new values": 0.01,
    "out of range": 0.01,
    "one value": 0.50,
}
"""Share of rows from which an effect matters."""

WARN = 0.5
"""Share of a threshold from which an effect is worth a warning; the p-value has to pass as well."""

CALIBRATE_FROM = 5
"""Windows that the reference needs for its past to count."""

_PRIOR_WINDOWS, _PRIOR_SPREAD = 5, 0.6
_AGREES, _TOGETHER = 1.645, 2.0
"""Normal scores up to which the past agrees with the textbook: of a column, of the table."""

_MUTE = -3.0
"""Normal score up to which a column is too constant to say whether rows depend on each other."""

_MEDIAN = math.sqrt(math.pi / 2)
"""Standard error of the median of normal scores, as a multiple of that of their mean."""

_NORMAL = NormalDist()

Test = Share | Marked
Question = tuple[str, str, int]
"""Column, statistic, and which of the check's tests."""


@dataclass(frozen=True, slots=True)
class Reference:
    """
    What normal looks like.

    :param whole: sum of the windows.
    :param past: tests of each window against the others, where they correct the textbook.
    """

    whole: Profile
    past: Mapping[Question, Sequence[Test]]


@dataclass(frozen=True, slots=True)
class _Asked:
    column: str
    check: Check
    p: float


def calibrate(windows: Sequence[Profile]) -> Reference:
    """
    Compare each window of the reference with the sum of the others.

    :param windows: profiles of windows of about the size of those to be judged.
    :raises NotEnoughDataError: if there is no window.
    """
    if not windows:
        msg = "no window to compare with: the reference is empty"
        raise NotEnoughDataError(msg)
    whole = merge_all(windows)
    past: dict[Question, list[Test]] = {}
    for name, column in whole.columns.items() if len(windows) >= CALIBRATE_FROM else ():
        for asked in checks_of_each(
            column, [w.columns[name] for w in windows if name in w.columns]
        ):
            for check in asked:
                for position, test in enumerate(check.tests):
                    past.setdefault((name, check.statistic, position), []).append(test)
    return Reference(whole, _speaking(past))


def _speaking(past: Mapping[Question, Sequence[Test]]) -> dict[Question, Sequence[Test]]:
    """Leave out the shares whose past agrees with the textbook, in the column and in the table."""
    enough = {question: old for question, old in past.items() if len(old) >= CALIBRATE_FROM}
    scores = {question: _surprise(old) for question, old in enough.items() if _are_shares(old)}
    table: dict[tuple[str, int], list[float]] = {}
    for (_, statistic, position), score in scores.items():
        if score > _MUTE:
            table.setdefault((statistic, position), []).append(score)
    dependent = {
        kind
        for kind, found in table.items()
        if median(found) * math.sqrt(len(found)) > _TOGETHER * _MEDIAN
    }
    return {
        question: old
        for question, old in enough.items()
        if scores.get(question, math.inf) > _AGREES or question[1:] in dependent
    }


def _are_shares(old: Sequence[Test]) -> bool:
    return isinstance(old[0], Share)


def _surprise(old: Sequence[Test]) -> float:
    """Combine textbook p-values into one normal score; about 0 if the textbook is right."""
    p = (o.p for o in old if isinstance(o, Share))
    return sum(-_NORMAL.inv_cdf(min(max(x, 1e-12), 1 - 1e-12)) for x in p) / math.sqrt(len(old))


def judge(
    reference: Reference, current: Profile, columns: Sequence[str], *, alpha: float
) -> tuple[ColumnDrift, ...]:
    """
    Judge every column.

    A column drifts if an effect reaches its threshold and its p-value, corrected over all checks
    of all columns, is at most ``alpha``; it warns from half of the threshold on. Timestamps are
    known by range only and never drift; types without a profile are not judged.

    :param columns: columns to report, in this order.
    :param alpha: rate of false alarms over all columns, 0 to 1: of warnings and drift together.
    """
    asked: list[_Asked] = []
    found: dict[str, ColumnDrift] = {}
    for name in columns:
        before, now = reference.whole.columns.get(name), current.columns.get(name)
        if before is None and now is None:
            found[name] = ColumnDrift(name, "no profile", 0.0, 1.0, 1.0, drifted=False)
        elif before is None or now is None or before.kind != now.kind:
            reason = "column is gone, of another kind, or of a type that has no profile"
            found[name] = ColumnDrift(name, "schema", 1.0, 0.0, 0.0, drifted=True, reason=reason)
        elif getattr(before, "times", False):
            found[name] = ColumnDrift(name, "timestamp", 0.0, 1.0, 1.0, drifted=False)
        else:
            asked += [
                _Asked(name, check, _p_value(name, check, reference.past))
                for check in checks(before, now)
            ]
    for question, p in zip(asked, _adjusted([a.p for a in asked]), strict=True):
        found[question.column] = _fold(found.get(question.column), question, p, alpha)
    return tuple(found[name] for name in columns if name in found)


def _fold(before: ColumnDrift | None, asked: _Asked, p: float, alpha: float) -> ColumnDrift:
    """Keep the most telling check of a column, and the reasons of all that alarmed."""
    threshold, effect = THRESHOLDS[asked.check.statistic], asked.check.effect
    drifted, warned = (p <= alpha and effect >= x * threshold for x in (1, WARN))
    reason = ""
    if warned:
        reason = (
            f"{asked.check.statistic}: {effect:.1%} of rows (limit {threshold:.0%}, p {p_text(p)})"
        )
    found = ColumnDrift(
        asked.column, asked.check.statistic, effect, threshold, p, drifted, reason, warned
    )
    if before is None:
        return found
    reasons = "; ".join(filter(None, (before.reason, reason)))
    telling = min(before, found, key=lambda c: (not c.drifted, not c.warned, c.p_value))
    return replace(telling, reason=reasons)


def _p_value(column: str, check: Check, past: Mapping[Question, Sequence[Test]]) -> float:
    """Smallest p of a check's tests, times their number."""
    found = [
        _corrected(test, past.get((column, check.statistic, position), ()))
        for position, test in enumerate(check.tests)
    ]
    return min(1.0, len(found) * min(found))


def _corrected(test: Test, old: Sequence[Test]) -> float:
    """Let the past windows speak, where they have something to say."""
    if isinstance(test, Marked):
        return _marked_p(test, [o for o in old if isinstance(o, Marked)])
    shares = [o for o in old if isinstance(o, Share)]
    if not shares:
        return test.p
    # what a larger window than all of these scatters by is not known: not less than they did
    test = replace(test, rows=min(test.rows, max(o.rows for o in shares)))
    return max(test.p, (_lifted if isinstance(test, Lift) else _predicted)(test, shares))


def _lifted(test: Share, old: Sequence[Share]) -> float:
    """P-value of a lift: Student's t against the root mean square of past ones."""
    spread = math.sqrt(sum(o.value**2 * o.rows for o in old) / (len(old) * test.rows))
    return 2 * student_tail(test.value / spread, len(old)) if spread else 0.0


def _predicted(test: Share, old: Sequence[Share]) -> float:
    """
    P-value of a share under a t prediction interval of past shares, on the logit scale.

    The spread is shrunk towards 0.6 with the weight of 5 windows, so that few windows do not
    promise more than they know.
    """
    scale = np.sqrt([o.rows / test.rows for o in old])
    past = _logit(np.array([o.value for o in old]) * scale)
    df = _PRIOR_WINDOWS + len(past) - 1
    spread = _PRIOR_WINDOWS * _PRIOR_SPREAD**2 + float(((past - past.mean()) ** 2).sum())
    error = math.sqrt(spread / df) * math.sqrt(1 + 1 / len(past))
    distance = (float(_logit(np.array([test.value]))[0]) - float(past.mean())) / error
    return student_tail(distance, df)


def _logit(share: np.ndarray) -> np.ndarray:
    kept = np.clip(share, 0.001, 0.999)
    return np.asarray(np.log(kept / (1 - kept)))


def _marked_p(test: Marked, old: Sequence[Marked]) -> float:
    """Count bursts instead of rows, as many as the past windows show."""
    if not old:
        return hypergeometric_tail(test.before, test.reference, test.now, test.current)
    now = np.array([o.now for o in old], float)
    rows = np.array([o.current for o in old], float)
    expected = rows * now.sum() / max(rows.sum(), 1.0)
    burst = 1.0
    if now.sum():
        used = expected > 0
        excess = float(((now - expected) ** 2)[used].sum() / expected.sum())
        size = len(now)
        burst = max(1.0, (1 + 2 / math.sqrt(size)) * excess * size / (size - 1))
    shrunk = (now.sum(), rows.sum(), test.now, test.current)
    return hypergeometric_tail(*(int(x / burst) for x in shrunk))


def _adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg: p-values corrected for all questions that were asked."""
    found, least = [0.0] * len(p_values), 1.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank in range(len(order), 0, -1):
        index = order[rank - 1]
        least = min(least, p_values[index] * len(p_values) / rank)
        found[index] = least
    return found
