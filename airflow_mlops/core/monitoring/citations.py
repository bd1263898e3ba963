"""
Which findings and rows a decision rests on; and whether they are still what it read.

An entry of the ledger names each finding with a digest of what it said. A finding may be written
anew, for a monitor looks again; what it said before is kept (``mlops.rewritten``), so every finding
that an entry names can be found for ever, unless somebody went round the rights of the tasks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from psycopg import sql

from airflow_mlops.core.chain import understood
from airflow_mlops.core.entries import Entry
from airflow_mlops.core.ledger import Ledger
from airflow_mlops.core.monitoring.observations import Observation, Observations
from airflow_mlops.core.refs import canonical_digest

if TYPE_CHECKING:
    import psycopg

CITED = "cited"
"""Field of an entry's evidence that says what it rests on."""

MOST = 300
"""Findings that one entry names, the newest ones: an entry has room for 64 kB."""

OVERLAP = timedelta(hours=1)
"""How much older than the decision before a finding may be, and is named again: clocks differ."""

_BATCH = 500


def digest_of(body: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what a finding says."""
    return canonical_digest(dict(body) if isinstance(body, dict) else {})[:16]


def cite(findings: Iterable[Observation], since: str = "") -> dict[str, Any]:
    """
    Name the findings that a decision rests on, as its entry holds them.

    :param findings: what was read.
    :param since: when the decision before it was taken, which named what was there, ISO 8601;
        empty: there was none.
    :return: ``findings``, each with its monitor, subject and digest; ``left_out`` if they are more
        than an entry has room for.
    """
    after = datetime.fromisoformat(since) - OVERLAP if since else None
    new = [o for o in findings if not after or datetime.fromisoformat(o.recorded_at) >= after]
    named = sorted(new, key=lambda o: o.recorded_at)[-MOST:]
    left_out = {"left_out": len(new) - len(named)} if len(new) > len(named) else {}
    return {"findings": [[o.monitor, o.subject, digest_of(o.body)] for o in named]} | left_out


def sums(
    observations: Observations,
    experiment: Mapping[str, Any],
    until: Mapping[str, str],
) -> dict[str, list[Any]]:
    """
    Add up what the end of a stage rests on: whatever order rows are read in, the sum is the same.

    :param experiment: ``model``, ``experiment``, ``champion``, ``candidate`` and ``since``.
    :param until: table -> up to when its rows were written, ISO 8601; empty: all of them.
    :return: table -> number of rows, sum of their digests, and when the newest was written.
    """
    found: dict[str, list[Any]] = {}
    with observations.connected() as connection:
        for table, end in until.items():
            values = {**experiment, "until": end or "infinity"}
            row = connection.execute(_SUMS[table], values).fetchone()
            rows, total, newest = row or (0, 0, None)
            found[table] = [int(rows), str(total), newest.isoformat() if newest else ""]
    return found


def check_citations(ledger: Ledger, observations: Observations, model: str) -> tuple[str, ...]:
    """
    Compare what the entries of a model name with what is there; the ledger is read as a stream.

    :return: what is not what an entry rests on, in words; empty if all is.
    :raises UnavailableError: if the database does not answer.
    """
    wrong: list[str] = []
    with observations.connected() as connection:
        named = _named(ledger, model)
        while batch := list(islice(named, _BATCH)):
            wrong += _changed(connection, model, batch)
    for entry in _citing(ledger, model):
        if "rows" in entry.evidence[CITED]:
            wrong += _moved(observations, entry)
    return tuple(wrong)


def _citing(ledger: Ledger, model: str) -> Iterator[Entry]:
    """Yield the entries that name what they rest on; what is no entry is not looked at here."""
    for row in ledger.rows(model):
        entry = understood(row)[0] if row.body and f'"{CITED}":' in row.body else None
        if entry is not None and isinstance(entry.evidence.get(CITED), dict):
            yield entry


def _named(ledger: Ledger, model: str) -> Iterator[tuple[int, str, str, str]]:
    for entry in _citing(ledger, model):
        said = entry.evidence[CITED].get("findings")
        for one in said if isinstance(said, list) else ():
            if isinstance(one, list) and len(one) == 3 and all(isinstance(p, str) for p in one):
                yield (entry.seq, *one)


def _changed(
    connection: "psycopg.Connection[tuple[Any, ...]]",
    model: str,
    named: Sequence[tuple[int, str, str, str]],
) -> list[str]:
    """Say which findings are none that was ever on record."""
    _, monitors, subjects, _ = zip(*named, strict=True)
    asked = {"model": model, "monitors": list(monitors), "subjects": list(subjects)}
    rows = connection.execute(_BODIES, asked).fetchall()
    there: dict[tuple[str, str], set[str]] = {}
    for monitor, subject, body in rows:
        there.setdefault((monitor, subject), set()).add(digest_of(body))
    lines = []
    for seq, monitor, subject, digest in named:
        found = there.get((monitor, subject))
        if found is None or digest not in found:
            what = "is gone" if found is None else "says something else now"
            lines.append(
                f"entry {seq} rests on the finding of {monitor} on {subject} ({digest}), which "
                f"{what}; nothing of this package does that"
            )
    return lines


def _moved(observations: Observations, entry: Entry) -> Iterator[str]:
    """Say which rows of a stage are other ones than those on which its end rests."""
    of, said = _stage(entry)
    if not said:
        yield (
            f"entry {entry.seq} names the rows that it rests on in another way than this package "
            "does: it was not written by it"
        )
        return
    now = sums(observations, of, {table: until for table, (*_, until) in said.items()})
    for table, (rows, total, _) in said.items():
        found, other, _ = now[table]
        if found > rows or (found, other) == (rows, total):
            continue  # rows that were being written during the look came in later
        if found < rows and _deleted(observations, entry, table):
            continue  # a person was forgotten: that is on record itself
        yield (
            f"entry {entry.seq} rests on {rows:,} {table} of {of['experiment']}, "
            f"{found:,} are there now{'' if found < rows else ', and they differ'}; nothing of "
            "this package does that"
        )


def _stage(entry: Entry) -> tuple[dict[str, Any], dict[str, tuple[int, str, str]]]:
    """Read which rows the end of a stage names; nothing, if this package did not write it."""
    cited = entry.evidence[CITED]
    try:
        of = {name: kind(cited["of"][name]) for name, kind in _OF_STAGE.items()}
        said = {
            str(t): (int(n), str(total), _time(at)) for t, (n, total, at) in cited["rows"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}, {}
    return of, said if said.keys() <= _SUMS.keys() and of["model"] == entry.model else {}


def _time(text: str) -> str:
    """Return a moment as it is; empty stays empty."""
    return datetime.fromisoformat(text).isoformat() if text else ""


def _deleted(observations: Observations, entry: Entry, table: str) -> bool:
    with observations.connected() as connection:
        return bool(
            connection.execute(
                "select 1 from mlops.deleted where model = %s and what = %s and deleted_at >= %s "
                "limit 1",
                (entry.model, table, entry.at),
            ).fetchone()
        )


_BODIES = """
with asked as (select distinct monitor, subject
  from unnest(%(monitors)s::text[], %(subjects)s::text[]) as named (monitor, subject))
select monitor, subject, body from mlops.observations join asked using (monitor, subject)
  where model = %(model)s
union all
select monitor, subject, body from mlops.rewritten join asked using (monitor, subject)
  where model = %(model)s
"""

_OF_STAGE: dict[str, Callable[[Any], Any]] = {
    "model": str,
    "experiment": str,
    "champion": int,
    "candidate": int,
    "since": _time,
}

# A row as text that depends on no setting of the session; 64 bits of its digest are added up.
_SUM = (
    "select count(*), coalesce(sum(('x' || left(md5(json_build_array({row})::text), 16))"
    "::bit(64)::bigint), 0), max({written}) from mlops.{table} "
    "where model = %(model)s and {which} and {written} <= %(until)s"
)
_OF = sql.SQL("experiment = %(experiment)s")
_SUMS = {
    table: sql.SQL(_SUM).format(
        row=sql.SQL(row), written=sql.SQL(written), table=sql.Identifier(table), which=which
    )
    for table, row, written, which in (
        (
            "exposures",
            "key, entity, arm, version, extract(epoch from exposed_at)::text, latency_ms, failed",
            "recorded_at",
            _OF,
        ),
        ("outcomes", "key, metric, value", "recorded_at", _OF),
        (
            "predictions",
            "key, version, extract(epoch from observed_at)::text, prediction, scores",
            "scored_at",
            sql.SQL("version in (%(champion)s, %(candidate)s) and observed_at >= %(since)s"),
        ),
    )
}
