"""
What one day of view `mlops.served` costs, and a batch of new predictions, beside those of before.

    python benchmarks/served.py [--rows 10000000] [--batch 100000]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg

from airflow_mlops.local import Services

# The table and view of migration 0003, beside those of now.
BEFORE = """
create schema before;
create table before.predictions (
  model text not null, version bigint not null, key text not null,
  observed_at timestamptz not null, prediction double precision not null,
  dataset text not null, run text not null,
  scored_at timestamptz not null default clock_timestamp(),
  scores double precision[], shadow boolean not null default false,
  primary key (model, version, key)
);
create index on before.predictions (model, version, observed_at);
create view before.served as
  select distinct on (model, key) * from before.predictions where not shadow
  order by model, key, scored_at, version;
"""

# A thousand days, ten versions; of one key in twenty there is a second prediction, half of them by
# a shadow, that does not count.
FILL = """
insert into {schema}.predictions
  (model, version, key, observed_at, prediction, dataset, run, scored_at, shadow)
select 'm', 1 + n * 10 / %(rows)s + twice.more, n::text, at, 0.5, 'd@1', 'scheduled__2024', at
    + twice.more * interval '1 hour', twice.more = 1 and n %% 40 = 0
from generate_series(0, %(rows)s - 1) n
cross join lateral (
  select timestamptz '2024-01-01Z' + n / %(rows)s::float8 * interval '1000 days' as at) t
join (values (0), (1)) twice (more) on twice.more = 0 or n %% 20 = 0
"""

BATCH = """
insert into {schema}.predictions
  (model, version, key, observed_at, prediction, dataset, run)
select 'm', 11, (%(first)s + n)::text, timestamptz '2026-10-01Z' + n * interval '1 second', 0.5,
  'd@2', 'scheduled__2026' from generate_series(0, %(batch)s - 1) n
on conflict (model, version, key) do nothing
"""

DAY = "model = 'm' and {} >= '2025-03-01Z' and {} < '2025-03-02Z'"
ASKED = {
    "one day by observed_at": DAY.format("observed_at", "observed_at"),
    "one day by scored_at": DAY.format("scored_at", "scored_at"),
    "one key": "model = 'm' and key = '4711'",
    "everything": "model = 'm'",
}


def explained(connection: psycopg.Connection, view: str, where: str) -> tuple[float, int]:
    """Seconds of the server and rows; the better of two runs."""
    statement = f"explain (analyze, timing off, format json) select * from {view} where {where}"
    found = []
    for _ in range(2):
        row = connection.execute(statement).fetchone()
        plan = row[0][0] if row else {}
        found.append((plan["Execution Time"] / 1_000, int(plan["Plan"]["Actual Rows"])))
    return min(found)


def inserts(connection: psycopg.Connection, batch: int, batches: int) -> dict[str, float]:
    """Median seconds of a batch into each table; they take turns."""
    found: dict[str, list[float]] = {"before": [], "mlops": []}
    for number in range(batches):
        for schema, seconds in found.items():
            values = {"first": 100_000_000 + number * batch, "batch": batch}
            start = time.perf_counter()
            connection.execute(BATCH.format(schema=schema), values)
            seconds.append(time.perf_counter() - start)
    return {schema: float(np.median(seconds)) for schema, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=100_000)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mlops-bench-") as home,
        Services(Path(home)) as server,
        psycopg.connect(server.dsn("mlops"), autocommit=True) as connection,
    ):
        connection.execute(BEFORE)
        for schema in ("before", "mlops"):
            connection.execute(FILL.format(schema=schema), {"rows": asked.rows})
            connection.execute(f"vacuum analyze {schema}.predictions")
        print("| work | rows | before s | now s | before / now |\n|---|---:|---:|---:|---:|")
        for name, where in ASKED.items():
            old, rows = explained(connection, "before.served", where)
            new, same = explained(connection, "mlops.served", where)
            assert rows == same, (rows, same)
            print(f"| {name} | {rows:,} | {old:.4f} | {new:.4f} | {old / new:,.1f} |")
        took = inserts(connection, asked.batch, 9)
        old, new = took["before"], took["mlops"]
        name = "insert, median of 9 batches"
        print(f"| {name} | {asked.batch:,} | {old:.4f} | {new:.4f} | {old / new:,.2f} |")


if __name__ == "__main__":
    main()
