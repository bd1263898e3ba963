"""
A table of PostgreSQL becomes a dataset version: this package, a bare copy, and pandas.

``python benchmarks/snapshot.py [--rows N] [--home FOLDER] [--without-pandas]``
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from measure import cost_of, run_child, table

FLOATS, COLUMNS = 14, 20

TABLE = """
select setseed(0.5);
create unlogged table bench as
select i as id,
  timestamptz '2024-01-01' + i * interval '{step} microseconds' as observed_at,
  {floats},
  (random() * 100)::int as i00,
  (random() * 1e9)::bigint as i01,
  ('{{north,south,east,west}}'::text[])[1 + (random() * 3)::int] as c00,
  'shop ' || (random() * 500)::int as c01
from generate_series(1, {rows}) i;
alter table bench add primary key (id);
create index on bench (observed_at);
analyze bench;
"""


def columns_of(rows: int) -> dict[str, object]:
    """Return what fills in ``TABLE``, and the names of its columns beside id and time."""
    names = [f"f{i:02}" for i in range(FLOATS)]
    return {
        "rows": rows,
        "step": timedelta(days=364) // timedelta.resolution // rows,
        "floats": ", ".join(f"random() * {i + 1} as {name}" for i, name in enumerate(names)),
        "names": [*names, "i00", "i01", "c00", "c01"],
    }


def package(dsn: str, folder: str):
    """Version the table: windows, digest, profiles, contract, exactly once."""
    import adbc_driver_postgresql.dbapi  # noqa: F401  (imported by the source when it reads)

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.sources import PostgresSource

    def work():
        commit = DatasetStore(folder).append(
            "bench",
            PostgresSource(dsn, "public.bench", key="id", time="observed_at"),
            app_key="benchmark",
            time="observed_at",
            key="id",
            window=timedelta(weeks=1),
        )
        return f"{commit.rows:,} rows, {len(commit.windows)} windows, {commit.digest[:12]}"

    return work


def bare(dsn: str, folder: str):
    """Copy the rows with the same two libraries, and nothing else."""
    from adbc_driver_postgresql import dbapi
    from deltalake import DeltaTable, write_deltalake

    def work():
        with dbapi.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute("select * from bench order by observed_at, id")
            write_deltalake(f"{folder}/bench", cursor.fetch_record_batch())
        return f"{DeltaTable(f'{folder}/bench').count():,} rows"

    return work


def frame(dsn: str, _folder: str):
    """Read the rows into a frame; they are not even stored."""
    import pandas as pd
    import psycopg2
    import sqlalchemy

    def work():
        connect = partial(psycopg2.connect, dsn)
        engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=connect)
        with engine.connect() as connection:
            rows = pd.read_sql("select * from bench order by observed_at, id", connection)
        return f"{len(rows):,} rows"

    return work


WORKS: dict[str, Callable] = {
    "snapshot": package,
    "bare ADBC to Delta": bare,
    "pandas.read_sql": frame,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path, help="keep PostgreSQL's files here; else a new folder")
    parser.add_argument("--without-pandas", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(args.home or Path(folder, "stack"), Path(folder), args)
    print(f"one table of {args.rows:,} rows x {COLUMNS} columns\n")
    print(table(costs, "bare ADBC to Delta"))


def measure(home: Path, folder: Path, args: argparse.Namespace):
    """Make the table, run the peers one after the other; the server's work is not theirs."""
    import psycopg

    from airflow_mlops.local import Services

    with Services(home) as services:
        with psycopg.connect(services.dsn("warehouse"), autocommit=True) as connection:
            connection.execute("drop table if exists bench")
            connection.execute(TABLE.format(**columns_of(args.rows)))
        run = partial(cost_of, __file__)
        dsn = services.dsn("warehouse")
        works = [w for w in WORKS if w != "pandas.read_sql" or not args.without_pandas]
        return [run(work, dsn, str(folder / str(n))) for n, work in enumerate(works)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(WORKS, sys.argv[2:])
    else:
        main()
