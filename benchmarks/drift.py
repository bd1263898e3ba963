"""
Has the data drifted? Two tables of 20 columns, judged by this package and by Evidently.

``python benchmarks/drift.py [--rows N] [--without-evidently]``
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from measure import cost_of, run_child, table

NUMERIC, CATEGORIES = 16, 4
SHIFTED = ("n00", "c00")
"""Columns that really drift: half a standard deviation, a fifth of the categories."""

WEEKS = 26
START = datetime(2024, 1, 1, tzinfo=UTC)


def make(folder: str, rows: str):
    """Write both tables as Parquet, and once more as windows of one dataset."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.sources import ArrowSource

    count = int(rows)

    def frame(seed: int, *, drifted: bool, start: datetime) -> pa.Table:
        random = np.random.default_rng(seed)
        columns = {}
        for i in range(NUMERIC):
            name = f"n{i:02}"
            shift = 0.5 if drifted and name in SHIFTED else 0.0
            columns[name] = random.normal(10.0 * i + shift, 1.0, count)
        for i in range(CATEGORIES):
            name = f"c{i:02}"
            share = np.array([0.4, 0.3, 0.2, 0.1])
            if drifted and name in SHIFTED:
                share = share[::-1]
            names = np.array(["north", "south", "east", "west"])
            columns[name] = names[random.choice(4, count, p=share)]
        step = timedelta(weeks=WEEKS) // count
        micros = int(start.timestamp() * 1e6) + np.arange(count) * (step // timedelta.resolution)
        time = pa.array(micros, pa.timestamp("us", "UTC"))
        first = 0 if not drifted else count
        key = pa.array(np.arange(first, first + count))
        return pa.table({"id": key, "observed_at": time, **columns})

    def work():
        store = DatasetStore(f"{folder}/datasets")
        for number, part in enumerate(("reference", "current")):
            start = START + number * timedelta(weeks=WEEKS)
            rows = frame(number, drifted=number == 1, start=start)
            pq.write_table(
                rows.drop_columns(["id", "observed_at"]),
                f"{folder}/{part}.parquet",
                row_group_size=131_072,
            )
            if number == 0:
                _write_long(rows.drop_columns(["id", "observed_at"]), f"{folder}/long.parquet")
            source = ArrowSource(rows, "id", "observed_at")
            commit = store.append(
                "bench",
                source,
                app_key=part,
                time="observed_at",
                key="id",
                window=timedelta(weeks=1),
            )
        return commit.ref

    return work


def _write_long(rows, path: str) -> None:
    """Write the same rows ten times, without ten times the memory."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, rows.schema) as writer:
        for _ in range(10):
            writer.write_table(rows, row_group_size=131_072)


def from_rows(folder: str, before: str = "reference", now: str = "current"):
    """Read both Parquet files batch by batch, profile them, judge."""
    import pyarrow.parquet as pq

    from airflow_mlops.core.data.profiling import ProfileBuilder
    from airflow_mlops.core.monitoring.drift.verdict import calibrate, judge

    def profile(path: str, like=None):
        schema = pq.read_schema(path)
        texts = [field.name for field in schema if str(field.type) == "string"]
        # as Parquet stores it: making texts, and numbers of them again, costs more than counting
        builder, file = ProfileBuilder(like), pq.ParquetFile(path, read_dictionary=texts)
        for group in range(file.num_row_groups):  # one iterator over all groups keeps their memory
            for batch in file.iter_batches(16_384, row_groups=[group], use_threads=False):
                builder.update(batch)
        return builder.finish()

    def work():
        old = profile(f"{folder}/{before}.parquet")
        new = profile(f"{folder}/{now}.parquet", old)
        return _said(judge(calibrate([old]), new, list(old.columns), alpha=0.01))

    return work


def from_profiles(folder: str):
    """Open the dataset, and judge the stored profiles of its windows; no row is read."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.monitoring.drift import detect_drift, engine

    engine.load_engine("profile")

    def work():
        store = DatasetStore(f"{folder}/datasets")
        found = store.open(store.latest("bench"))
        border = START + timedelta(weeks=WEEKS)
        report = detect_drift(found.between(None, border), found.between(border, None))
        return _said(report.columns)

    return work


def nothing(folder: str):
    """Import what the stored profiles need, and end: that costs a tenth of a second, too."""
    from_profiles(folder)
    return lambda: ""


def evidently(folder: str):
    """Let Evidently's default preset judge the same two files."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    def work():
        definition = DataDefinition(
            numerical_columns=[f"n{i:02}" for i in range(NUMERIC)],
            categorical_columns=[f"c{i:02}" for i in range(CATEGORIES)],
        )
        before, now = (
            Dataset.from_pandas(
                pd.read_parquet(f"{folder}/{part}.parquet"), data_definition=definition
            )
            for part in ("reference", "current")
        )
        result = Report([DataDriftPreset()]).run(now, before).dict()
        metrics = [m for m in result["metrics"] if "column" in m.get("config", {})]
        moved = [m["config"]["column"] for m in metrics if m["value"] >= m["config"]["threshold"]]
        return _names(moved, len(metrics))

    return work


def _said(columns) -> str:
    return _names([c.column for c in columns if c.drifted], len(columns))


def _names(drifted: list[str], count: int) -> str:
    return f"{', '.join(sorted(drifted)) or 'none'} of {count}"


WORKS: dict[str, Callable] = {
    "make": make,
    "profiles of raw rows": from_rows,
    "profiles of 10 x the rows": partial(from_rows, before="long", now="long"),
    "stored profiles": from_profiles,
    "nothing": nothing,
    "Evidently DataDriftPreset": evidently,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each table")
    parser.add_argument("--without-evidently", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = partial(cost_of, __file__)
        run("make", folder, str(args.rows))
        works = [w for w in WORKS if w != "make"]
        if args.without_evidently:
            works.remove("Evidently DataDriftPreset")
        costs = [run(work, folder) for work in works]
    print(f"two tables of {args.rows:,} rows x {NUMERIC + CATEGORIES} columns\n")
    print(table(costs, "profiles of raw rows"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(WORKS, sys.argv[2:])
    else:
        main()
