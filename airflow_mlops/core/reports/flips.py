"""The report of the decisions that change: a page, and the same in short for a form."""

from collections.abc import Sequence

from airflow_mlops.core.evaluation.flips import Case, Flips, Segment
from airflow_mlops.core.reports.markdown import markdown_table, plain
from airflow_mlops.core.reports.page import heading, moment, note, page, table

SHOWN = 6
"""Segments that a form names."""

READ = 5
"""Cases that a form shows; the page shows all."""

COLUMNS = 6
"""Columns of a case that a form shows."""


def flips_page(found: Flips) -> str:
    """
    Draw the decisions that change.

    :param found: what two models say to the same rows.
    """
    labelled = found.total.gained is not None
    worse = labelled and (found.total.lost or 0) > (found.total.gained or 0)
    names = list(found.cases[0].values) if found.cases else []
    return page(
        f"Decisions that change from {found.champion} to {found.candidate}",
        "warn" if worse else "ok",
        found.line,
        [
            note(
                f"The same {found.total.rows:,} rows from {moment(found.since)} to "
                f"{moment(found.until)}, answered by both. {_meaning(found)}"
            ),
            heading("From what to what") if found.changes else "",
            table(
                ("champion", "candidate", "rows"),
                [(False, (str(a), str(b), n)) for a, b, n in found.changes],
            ),
            heading("Where"),
            note(
                "Parts of the rows in which decisions change more often than on the whole, found "
                "by a small tree on half of the rows (at most 50,000) and counted on all."
            ),
            table(
                ("rows where", "rows", "change", "share", *(_OUTCOMES if labelled else ())),
                [_segment(one, labelled=labelled) for one in (found.total, *found.segments)],
            ),
            heading("Cases to read"),
            note(
                "Those that move most, as many to the worse as to the better."
                if labelled
                else "Those that move most."
            ),
            table(
                ("row", "time", "champion", "candidate", *(["came true"] * labelled), *names),
                [_case(one, names, labelled=labelled) for one in found.cases],
            ),
        ],
    )


def flips_text(found: Flips, url: str = "") -> str:
    """
    Write the same in short, as Markdown; nothing of it is read as Markdown or HTML.

    :param found: what two models say to the same rows.
    :param url: address of the page; empty: there is none.
    """
    labelled = found.total.gained is not None
    lines = [f"**Decisions that change:** {plain(found.line)}", ""]
    if url:
        lines[0] += f" ([all of it]({url}))"
    if found.segments:
        head = ("rows where", "rows", "change", "share", *(_OUTCOMES if labelled else ()))
        parts = found.segments[:SHOWN]
        lines += markdown_table(head, (_segment(one, labelled=labelled)[1] for one in parts))
    if found.cases:
        names = list(found.cases[0].values)[:COLUMNS]
        head = ("row", "champion", "candidate", *(["came true"] * labelled), *names)
        rows = (_case(one, names, labelled=labelled)[1] for one in _mixed(found.cases))
        lines += markdown_table(head, ((row[0], *row[2:]) for row in rows))
    return "\n".join(lines)


_OUTCOMES = ("to the better", "to the worse")


def _meaning(found: Flips) -> str:
    if found.kind == "class":
        return "A decision changes if the class does; a probability counts as a one from 0.5 on."
    return (
        f"An answer counts as changed if it moves by more than {found.size:.4g}, the median error "
        "of the champion on these rows."
    )


def _segment(one: Segment, *, labelled: bool) -> tuple[bool, Sequence[object]]:
    bad = labelled and (one.lost or 0) > (one.gained or 0)
    outcomes = (one.gained, one.lost) if labelled else ()
    return bad, (one.where or "all", one.rows, one.flips, f"{one.share:.1%}", *outcomes)


def _case(one: Case, names: Sequence[str], *, labelled: bool) -> tuple[bool, Sequence[object]]:
    whole = one.label is not None and one.label.is_integer()
    truth = (int(one.label or 0) if whole else one.label,) if labelled else ()
    values = (one.values.get(name, "") for name in names)
    said = (one.champion, one.candidate)
    return _is_worse(one), (one.key, moment(one.time), *said, *truth, *values)


def _mixed(cases: Sequence[Case]) -> list[Case]:
    """Return some of the worst and some of the best."""
    worse = [one for one in cases if _is_worse(one)]
    good = [one for one in cases if not _is_worse(one)]
    some = worse[: max(READ - READ // 2, READ - len(good))]
    return [*some, *good[: READ - len(some)]]


def _is_worse(one: Case) -> bool:
    """Say whether the candidate is further from what came true."""
    if one.label is None:
        return False
    return abs(one.candidate - one.label) > abs(one.champion - one.label)
