"""
What grows with the number of windows and versions, beside an earlier build in the same run.

``python benchmarks/growth.py [SECTION ...] [--before FOLDER] [--windows N] [--versions N]``

FOLDER is a checkout of the earlier build, such as of ``git worktree add FOLDER REVISION``: the same
script runs with it on ``PYTHONPATH``.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from measure import Cost, cost_of, run_child, table

DAY = timedelta(days=1)
START = datetime(2015, 1, 1, tzinfo=UTC)
LABELS = ("before", "now")


def source(windows: int):
    """Return rows in memory: two a window, five numbers and a text."""
    import pyarrow as pa

    from airflow_mlops.core.data.sources import ArrowSource

    rows = 2 * windows
    times = [START + i * DAY / 2 for i in range(rows)]
    numbers = {f"x{j}": pa.array([float(i % 97 + j) for i in range(rows)]) for j in range(5)}
    found = {"id": pa.array(range(rows)), "at": pa.array(times, pa.timestamp("us", "UTC"))}
    return ArrowSource(pa.table({**found, **numbers, "c": ["a", "b"] * windows}), "id", "at")


def store(folder: str):
    """Open the store, with the libraries loaded."""
    import deltalake  # noqa: F401

    from airflow_mlops.core.data.datasets import DatasetStore

    return DatasetStore(folder)


def append(found, windows: int, key: str):
    """Append what a source of so many windows has."""
    asked = {"time": "at", "key": "id", "window": DAY}
    return found.append("bench", source(windows), app_key=key, **asked)


def first(folder: str, windows: str):
    """First snapshot; answers with the bytes of its XCom and of its sidecar."""
    found = store(folder)

    def work():
        commit = append(found, int(windows), "k")
        said = commit.summary() if hasattr(commit, "summary") else commit.to_dict()
        return f"{len(json.dumps(said)):,} B of XCom, {sidecars(folder):,} B of sidecars"

    return work


def many(folder: str, windows: str, versions: str):
    """Versions that add a row each to a dataset of many windows."""
    found = store(folder)

    def work():
        append(found, int(windows), "k")
        begun = sidecars(folder)
        for n in range(int(versions)):
            part = source(int(windows) + (n + 2) // 2)
            part = type(part)(part.table.slice(0, 2 * int(windows) + n + 1), "id", "at")
            asked = {"time": "at", "key": "id", "window": DAY}
            found.append("bench", part, app_key=f"k{n}", **asked)
        return f"{(sidecars(folder) - begun) // int(versions):,} B of sidecar a version"

    return work


def log_of(folder: str, versions: str):
    """Write a log of many versions, each of which replaces one of 300 files; for ``collect``."""
    found = store(folder)

    def work():
        append(found, 3, "k")
        log = Path(folder, "bench", "_delta_log")
        last = max(log.glob("*.json"))
        lines = [json.loads(line) for line in last.read_text().splitlines()]
        info = next(line for line in lines if "commitInfo" in line)
        add = next(line for line in lines if "add" in line)
        for n in range(2, int(versions)):
            actions = [info, {"add": {**add["add"], "path": f"part-{n}.parquet"}}]
            if n > 300:
                gone = {"path": f"part-{n - 300}.parquet", "dataChange": True}
                actions.append({"remove": {**gone, "deletionTimestamp": 0}})
            text = "\n".join(json.dumps(action) for action in actions)
            (log / f"{n:020}.json").write_text(text)
        return f"{versions} versions"

    return work


def collect(folder: str):
    """Look through the versions, as ``gc`` does to say which of them read a file."""
    found = store(folder)

    def work():
        table = found.log.find("bench")
        files = {f"part-{n}.parquet" for n in range(2, 50)}
        if hasattr(found.log, "changes"):
            from airflow_mlops.core.data.retention import _reading

            return f"{len(list(_reading(found.log, table, files)))} versions"
        held = found.log.files_of(table)
        return f"{sum(1 for names in held.values() if names & files)} versions"

    return work


def verified(folder: str, windows: str):
    """Read all rows, and compare them with the digest, as a training does."""
    found = store(folder)
    append(found, int(windows), "k")
    table_of_rows = found.open(found.latest("bench"))

    def work():
        table_of_rows.verify()
        return f"{table_of_rows.rows:,} rows"

    return work


def sidecars(folder: str) -> int:
    """Bytes of what is stored about windows; profiles are as many as there are windows."""
    found = Path(folder, "bench", "_mlops").glob("*")
    return sum(p.stat().st_size for p in found if p.is_file() and not p.suffix)


WORKS: dict[str, Callable[..., Callable[[], object]]] = {
    "first snapshot": first,
    "many versions": many,
    "log": log_of,
    "gc": collect,
    "verify": verified,
}


@contextmanager
def build(folder: str | None) -> Iterator[None]:
    """Let child processes import another build."""
    kept = os.environ.get("PYTHONPATH")
    if folder:
        os.environ["PYTHONPATH"] = str(Path(folder).resolve())
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH", None)
        if kept is not None:
            os.environ["PYTHONPATH"] = kept


def snapshot(args: argparse.Namespace) -> None:
    """Print what snapshots, their sidecars and ``gc`` cost, before and now."""
    builds = [("before", args.before)] if args.before else []
    with tempfile.TemporaryDirectory() as folder:
        costs: list[Cost] = []
        for label, place in (*builds, ("now", None)):
            with build(place):
                root = f"{folder}/{label}"
                works = [
                    ("first snapshot", f"{root}/third", str(args.windows // 3)),
                    ("first snapshot", f"{root}/first", str(args.windows)),
                    ("many versions", f"{root}/many", str(args.windows), "20"),
                    ("log", f"{root}/log", str(args.versions)),
                    ("gc", f"{root}/log"),
                ]
                costs += [_labelled(label, cost_of(__file__, *work)) for work in works]
        costs.append(cost_of(__file__, "verify", f"{folder}/verify", str(args.windows)))
    print(table(costs, "first snapshot, now"))
    cpu = [c.beyond for c in costs if c.work.startswith("first")]
    for label, (third, whole) in zip([b[0] for b in builds] + ["now"], _pairs(cpu), strict=True):
        print(f"{label}: {args.windows} windows cost {whole / third:.1f} times a third of them")
    if args.before:
        print(f"first snapshot: {cpu[1] / cpu[3]:.1f} times less CPU than before")


def _labelled(label: str, cost: Cost) -> Cost:
    return Cost(f"{cost.work}, {label}", cost.cpu, cost.imports, cost.peak, cost.answer)


def _pairs(values: list[float]) -> Iterator[tuple[float, float]]:
    return zip(values[::2], values[1::2], strict=True)


SECTIONS = {"snapshot": snapshot}


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[*SECTIONS])
    parser.add_argument("--before", help="checkout of the earlier build")
    parser.add_argument("--windows", type=int, default=3000)
    parser.add_argument("--versions", type=int, default=5000)
    args = parser.parse_args()
    for name in args.sections or SECTIONS:
        SECTIONS[name](args)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(WORKS, sys.argv[2:])
    else:
        main()
