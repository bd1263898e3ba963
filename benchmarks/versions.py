"""
Versions of a table: this package beside DVC, and the same with a thousand versions.

``python benchmarks/versions.py [--rows N] [--versions N] [--home FOLDER] [--without-dvc]``
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from measure import Cost, cost_of, run_child, table
from snapshot import COLUMNS, TABLE, columns_of

WEEK = timedelta(weeks=1)
TIMES = {"time": "observed_at", "key": "id", "window": WEEK}


def snapshot(dsn: str, folder: str, key: str):
    """Version what is new in the table."""
    import adbc_driver_postgresql.dbapi  # noqa: F401  (imported by the source when it reads)

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.sources import PostgresSource

    source = PostgresSource(dsn, "public.bench", key="id", time="observed_at")

    def work():
        commit = DatasetStore(folder).append("bench", source, app_key=key, **TIMES)
        return f"{commit.added:,} rows added, {len(commit.windows)} windows"

    return work


def many(folder: str, versions: str):
    """Make that many versions, 100 rows of 20 columns each."""
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.sources import ArrowSource

    def work():
        rows = 100 * int(versions)
        start, step = datetime(2024, 1, 1, tzinfo=UTC), WEEK * 52 / rows
        values = {f"f{i:02}": np.random.default_rng(i).random(rows) for i in range(COLUMNS - 2)}
        at = pa.array([start + i * step for i in range(rows)], pa.timestamp("us", "UTC"))
        whole = pa.table({"id": np.arange(rows), "observed_at": at, **values})
        store = DatasetStore(folder)
        for n in range(1, int(versions) + 1):
            part = ArrowSource(whole.slice(0, 100 * n), "id", "observed_at")
            store.append("many", part, app_key=str(n), **TIMES)
        return str(store.latest("many"))

    return work


def of_many(what: str, folder: str, version: str):
    """Open a version in the middle, compare it with the next one, restore it; or do nothing."""
    import duckdb  # noqa: F401  (imported when two windows are compared)

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.differences import compare_datasets
    from airflow_mlops.core.refs import DatasetRef

    store, ref = DatasetStore(folder), DatasetRef("many", int(version))

    def work():
        if what == "nothing":
            return ""
        if what == "restore":
            return store.restore(ref, app_key="benchmark").ref
        opened = store.open(ref)
        if what == "open":
            return f"{opened.rows:,} rows"
        found = compare_datasets(opened, store.open(DatasetRef("many", ref.version + 1)))
        return f"{found.added} rows added, {found.windows[0]} window read"

    return work


def digest(rows: str):
    """Digest a table in memory."""
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.core.data.digest import digest_of

    n = int(rows)
    rng = np.random.default_rng(0)
    columns = {f"f{i:02}": rng.random(n) for i in range(16)}
    columns |= {f"i{i:02}": rng.integers(0, 100, n) for i in range(2)}
    columns |= {f"c{i:02}": rng.choice(["north", "south", "east"], n) for i in range(2)}
    batches = pa.table(columns).to_batches(max_chunksize=65_536)

    def work():
        return str(digest_of(batches))[:16]

    return work


def dvc(what: str, dsn: str, folder: str, program: str):
    """What one does with DVC: export to a file, add it, and go back to an earlier one."""
    import pandas as pd
    import psycopg2
    import sqlalchemy

    path = Path(folder)
    git = partial(subprocess.run, cwd=path, check=True, capture_output=True, text=True)

    def add(tag: str):
        connect = partial(psycopg2.connect, dsn)
        with sqlalchemy.create_engine("postgresql+psycopg2://", creator=connect).connect() as one:
            pd.read_sql("select * from bench order by observed_at, id", one).to_parquet(
                path / "bench.parquet"
            )
        git([program, "add", "-q", "bench.parquet"])
        git(["git", "add", "-A"])
        git(["git", "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-q", "-m", tag])
        git(["git", "tag", tag])
        return f"{(path / 'bench.parquet').stat().st_size >> 20} MB"

    def work():
        if what == "add":
            git(["git", "init", "-q"])
            git([program, "init", "-q"])
            return add("one")
        if what == "add 1 % more":
            return add("two")
        if what == "open":
            git([program, "get", ".", "bench.parquet", "--rev", "one", "-o", "old.parquet", "-f"])
            return "old.parquet"
        if what == "diff":
            return git([program, "diff", "one", "two"]).stdout.split("\n")[0]
        git(["git", "checkout", "-q", "one", "--", "bench.parquet.dvc"])
        git([program, "checkout", "-q", "bench.parquet"])
        return "bench.parquet"

    return work


WORKS: dict[str, Callable] = {
    "snapshot": partial(snapshot, key="full"),
    "append of 1 %": partial(snapshot, key="more"),
    "make versions": many,
    **{what: partial(of_many, what) for what in ("nothing", "open", "diff", "restore")},
    "digest": digest,
    **{
        f"DVC {what}": partial(dvc, what)
        for what in ("add", "add 1 % more", "open", "diff", "restore")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=1_000)
    parser.add_argument("--home", type=Path, help="keep PostgreSQL's files here; else a new folder")
    parser.add_argument("--without-dvc", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, place = args.home or Path(folder, "stack"), Path(folder)
        costs = growing(home, place, args)
        print(f"one table of {args.rows:,} rows x {COLUMNS} columns, then 1 % more rows\n")
        print(table(costs, "snapshot"))
        print(f"\na dataset of {args.versions:,} versions\n")
        print(table(of_versions(place, args.versions), "nothing"))
        print(f"\ndigest of {args.rows:,} rows x 20 columns in memory\n")
        print(table([cost_of(__file__, "digest", str(args.rows))], "digest"))


def growing(home: Path, folder: Path, args: argparse.Namespace) -> list[Cost]:
    """Version the table, let it grow by 1 %, version it again; the same with DVC."""
    import psycopg

    from airflow_mlops.local import Services

    more = args.rows // 100
    run, (data, files) = partial(cost_of, __file__), (folder / "data", folder / "dvc")
    files.mkdir()
    program = "" if args.without_dvc else dvc_program(folder)
    with Services(home) as services:
        dsn = services.dsn("warehouse")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop table if exists bench")
            connection.execute(TABLE.format(**columns_of(args.rows)))
            costs = [run("snapshot", dsn, str(data))]
            if program:
                costs.append(run("DVC add", dsn, str(files), program))
            connection.execute(
                "insert into bench select id + %s, observed_at + interval '364 days', "
                f"{', '.join(columns_of(args.rows)['names'])} from bench where id <= %s",
                (args.rows, more),
            )
            costs.append(run("append of 1 %", dsn, str(data)))
            if program:
                rest = ("add 1 % more", "open", "diff", "restore")
                costs += [run(f"DVC {what}", dsn, str(files), program) for what in rest]
    return costs


def of_versions(folder: Path, versions: int) -> list[Cost]:
    """Make many versions, then open, compare and restore one in the middle."""
    place, middle = str(folder / "many"), str(versions // 2)
    cost_of(__file__, "make versions", place, str(versions))
    works = ("nothing", "open", "diff", "restore")
    return [cost_of(__file__, what, place, middle) for what in works]


def dvc_program(folder: Path) -> str:
    """Install DVC into an environment of its own: its requirements are not ours."""
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder / "env"], check=True)
    python = str(folder / "env" / "bin" / "python")
    subprocess.run(
        [uv, "pip", "install", "-q", "--compile-bytecode", "--python", python, "dvc"], check=True
    )
    program = str(folder / "env" / "bin" / "dvc")
    subprocess.run([program, "--version"], check=True, capture_output=True)  # warms it up
    return program


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(WORKS, sys.argv[2:])
    else:
        main()
