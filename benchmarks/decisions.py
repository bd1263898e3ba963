"""
What a decision costs, whatever the length of the ledger.

    python benchmarks/decisions.py [--records 100000] [--decisions 200]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg

from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.local import Services

EVIDENCE = {"facts": {f"fact {i}": i / 7 for i in range(40)}, "thresholds": "x" * 1_000}


def entries(model: str, number: int) -> list[Entry]:
    """A monitor that keeps, and retrains one time in a hundred: proposed, approved, champion."""
    found: list[Entry] = []
    head = Entry(model, "", "", "", "").prev_hash
    for seq in range(1, number + 1):
        turn, version = seq % 100, 1 + seq // 100
        op = {1: "retrain", 2: "propose", 3: "promote"}.get(turn, "keep")
        about = version if turn in (2, 3) else None
        evidence = EVIDENCE | ({"run_id": f"r{version}", "digest": "d"} if about else {})
        made = Entry(model, op, f"key {seq}", "bench", "because", about, 0, None, evidence)
        made = replace(made, ask="x", at="2026-01-01T00:00:00+00:00", seq=seq, prev_hash=head)
        found.append(made)
        head = made.hash
    return found


def fill(dsn: str, kept: list[Entry]) -> None:
    """Write them past the ledger, which would take as many transactions."""
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        columns = "(model, seq, prev_hash, hash, body)"
        with cursor.copy(f"copy mlops.decisions {columns} from stdin") as copy:
            for e in kept:
                copy.write_row((e.model, e.seq, e.prev_hash, e.hash, e.body()))
        connection.commit()
        connection.autocommit = True
        connection.execute("analyze mlops.decisions")


def timed(work: Callable[[int], object], times: int) -> tuple[float, float]:
    """Median and 95th percentile of the wall time, in milliseconds."""
    found = []
    for number in range(times):
        start = time.perf_counter()
        work(number)
        found.append((time.perf_counter() - start) * 1_000)
    return float(np.median(found)), float(np.quantile(found, 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as home, Services(Path(home)) as server:
        ledger = Ledger(server.dsn("mlops", user="mlops_task"))
        print("| records | work | median ms | p95 ms |\n|---:|---|---:|---:|")
        for records in (100, asked.records):
            model = f"m{records}"
            fill(server.dsn("mlops"), entries(model, records))

            def promote(number: int, model: str = model) -> None:
                def build(state: State) -> Entry:
                    return Entry(model, "promote", "", "b", "r", 1 + number, state.epoch)

                ledger.record(model, f"promote {number}", {"n": number}, build)

            works = {
                "decision": (promote, asked.decisions),
                "the same again: a retry": (promote, asked.decisions),
                "the whole chain verified": (lambda _, m=model: ledger.state(m), 3),
            }
            for name, (work, times) in works.items():
                print("| {:,} | {} | {:.1f} | {:.1f} |".format(records, name, *timed(work, times)))


if __name__ == "__main__":
    main()
