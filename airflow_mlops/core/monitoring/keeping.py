"""
What was measured long ago goes, as the policy says; what the ledger names stays.

Rows go in batches, each a transaction of its own: a call that was killed is finished by the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg import sql

from airflow_mlops.core.ledger import Ledger
from airflow_mlops.core.monitoring.citations import CITED
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.policy import Keep, duration

USAGES = ("usage", "system")
"""Monitors that look at tasks and machines: each try of a task leaves a finding."""

BATCH = 10_000
"""Rows that go at once."""

STAGES = 1_000
"""Ends of stages whose rows are looked for, the newest ones."""


@dataclass(frozen=True, slots=True)
class Old:
    """
    What is older than the policy keeps it.

    :param what: ``findings``, ``usages``, ``predictions`` or ``quarantine``.
    :param rows: how many go; of an applied policy, how many went.
    :param before: when they were written: before this moment, ISO 8601.
    """

    model: str
    what: str
    rows: int
    before: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.rows:,} {self.what} of {self.model} from before {self.before[:10]}"


class _Part(NamedTuple):
    """Statements of one part of the policy: how many rows are old, and a batch of them goes."""

    counts: sql.SQL | sql.Composed
    prunes: sql.SQL | sql.Composed
    values: dict[str, Any]


def find_old(
    ledger: Ledger, observations: Observations, model: str, keep: Keep, *, now: datetime
) -> tuple[Old, ...]:
    """
    Count what the policy lets go; nothing is changed.

    :param now: moment from which ages count, the wall clock of the database's rows.
    """
    found = []
    for what, before, part in _parts(ledger, model, keep, now):
        with observations.connected() as connection:
            row = connection.execute(part.counts, part.values).fetchone()
        found.append(Old(model, what, int(row[0]) if row else 0, before.isoformat()))
    return tuple(found)


def prune(
    ledger: Ledger, observations: Observations, model: str, keep: Keep, *, now: datetime
) -> tuple[Old, ...]:
    """
    Delete what :func:`find_old` counts, batch by batch; idempotent.

    That rows went, how many and from when, is kept in ``mlops.deleted``.
    """
    found = []
    for what, before, part in _parts(ledger, model, keep, now):
        rows = sum(_batches(observations, part))
        found.append(Old(model, what, rows, before.isoformat()))
    return tuple(found)


def _batches(observations: Observations, part: _Part) -> Iterator[int]:
    """Delete until a batch is not full; yields how many rows went."""
    gone = BATCH
    while gone >= BATCH:
        with observations.connected() as connection:
            row = connection.execute(part.prunes, part.values).fetchone()
        gone = int(row[0]) if row else 0
        yield gone


def _parts(
    ledger: Ledger, model: str, keep: Keep, now: datetime
) -> Iterator[tuple[str, datetime, _Part]]:
    """Yield what the policy limits: its name, the moment, and the statements."""
    made: dict[str, Callable[[], _Part]] = {
        "findings": lambda: _findings(_champion(ledger, model), others=True),
        "usages": lambda: _findings("", others=False),
        "predictions": lambda: _predictions(ledger, model),
        "quarantine": lambda: _rows("quarantine", "recorded_at", sql.SQL("true")),
    }
    for what, build in made.items():
        age = getattr(keep, what)
        if age is not None:
            before, part = now.astimezone(UTC) - duration(age), build()
            values = {**part.values, "model": model, "before": before, "batch": BATCH}
            yield what, before, part._replace(values=values)


def _champion(ledger: Ledger, model: str) -> str:
    """Return how findings about the champion begin: the next decisions read them."""
    champion = ledger.standing(model).champion
    return "" if champion is None else f"{ModelRef(model, champion)}:"


def _findings(champion: str, *, others: bool) -> _Part:
    """Findings of some monitors, or of all others; the database refuses what a decision names."""
    count = sql.SQL(
        "select count(*) from mlops.uncited where model = %(model)s "
        "and (monitor = any(%(monitors)s)) <> %(others)s and recorded_at < %(before)s "
        "and not (%(champion)s <> '' and starts_with(subject, %(champion)s))"
    )
    gone = sql.SQL(
        "select mlops.prune_findings(%(model)s, %(monitors)s, %(others)s, %(before)s, "
        "%(champion)s, %(batch)s)"
    )
    values = {"monitors": list(USAGES), "others": others, "champion": champion}
    return _Part(count, gone, values)


def _predictions(ledger: Ledger, model: str) -> _Part:
    """Predictions on which no end of a stage rests."""
    spans = [*_shadows(ledger, model)]
    free: list[sql.Composable] = [
        sql.SQL(
            "not (version = any({}) and observed_at >= {}::timestamptz "
            "and scored_at <= {}::timestamptz)"
        ).format(*map(sql.Literal, span))
        for span in spans
    ]
    return _rows("predictions", "scored_at", sql.SQL(" and ").join(free or [sql.SQL("true")]))


def _shadows(ledger: Ledger, model: str) -> Iterator[tuple[list[int], str, str]]:
    """Yield versions, beginning and end of the predictions that ends of stages name."""
    for entry in ledger.weighed(model, ops=("stage",), last=STAGES).entries:
        cited = entry.evidence.get(CITED, {})
        rows: Sequence[Any] = cited.get("rows", {}).get("predictions", ())
        if entry.op == "stage" and rows and rows[0]:
            of = cited["of"]
            yield [of["champion"], of["candidate"]], of["since"], rows[2]


def _rows(table: str, written: str, free: sql.Composable) -> _Part:
    """Rows of a table that are old, and free to go."""
    names = {"table": sql.Identifier(table), "written": sql.Identifier(written), "free": free}
    old = sql.SQL("model = %(model)s and {written} < %(before)s and {free}").format(**names)
    count = sql.SQL("select count(*) from mlops.{table} where {old}").format(**names, old=old)
    gone = sql.SQL(
        "with gone as (delete from mlops.{table} where ctid = any(array("
        "select ctid from mlops.{table} where {old} order by {written} limit %(batch)s)) "
        "returning 1) select count(*) from gone"
    ).format(**names, old=old)
    return _Part(count, gone, {})
