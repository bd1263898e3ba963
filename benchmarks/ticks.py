"""
What the tasks of a tick read of a long ledger, beside an earlier build in the same run.

``python benchmarks/ticks.py [--before FOLDER] [--records N]``

FOLDER is a checkout of the earlier build. Each build migrates a database of its own, and asks the
ledger what its tasks of a tick ask: contract, drift, performance, dependencies and system look who
is champion or what was decided, and ``decide`` weighs it all and appends an entry.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import psycopg
from decisions import entries, fill
from growth import build
from measure import cost_of, run_child, table

MODEL = "long"


def filled(dsn: str, records: str):
    """Migrate, and write a ledger of so many entries."""
    from airflow_mlops.core import migrations

    def work():
        migrations.upgrade(dsn)
        fill(dsn, entries(MODEL, int(records)))
        tick(dsn, "first")()
        return f"{records} entries"

    return work


def tick(dsn: str, key: str = "k"):
    """Ask what the tasks of a tick ask, each of them in turn."""
    from airflow_mlops.core.ledger import DECISIONS, Entry, Ledger

    ledger = Ledger(dsn)
    short = hasattr(ledger, "weighed")
    look = ledger.standing if short else ledger.state

    def weighed(**more: object):
        return ledger.weighed(MODEL, **more) if short else ledger.state(MODEL)

    def work():
        for _ in ("contract", "drift", "performance", "dependencies"):
            champion = look(MODEL).champion
        known = weighed(ops=DECISIONS, last=200) if short else weighed()
        decided = [entry for entry in known.entries if entry.op in DECISIONS][-200:]
        state = weighed()
        tried = [entry for entry in state.entries if entry.op == "retrain"]
        draft = Entry(MODEL, "keep", "", "bench", "nothing asks for it")
        ledger.record(MODEL, f"{key}:{state.head[0]}", {}, lambda _: draft)
        return f"champion {champion}, {len(decided)} decisions, last attempt {tried[-1].seq}"

    return work


WORKS = {"fill": filled, "tick": tick}


def main() -> None:
    """Print what the tick costs at two lengths, before and now."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="checkout of the earlier build")
    parser.add_argument("--records", type=int, default=100_000)
    args = parser.parse_args()
    from airflow_mlops.local import Services

    costs = []
    with tempfile.TemporaryDirectory() as folder:
        services = Services(Path(folder))
        services.up()
        try:
            builds = [("before", args.before)] if args.before else []
            for label, place in (*builds, ("now", None)):
                for number in (args.records // 100, args.records):
                    name = f"{label}_{number}"
                    with psycopg.connect(services.dsn("postgres"), autocommit=True) as connection:
                        connection.execute(f"create database {name}")
                    dsn = services.dsn(name)
                    with build(place):
                        cost_of(__file__, "fill", dsn, str(number))
                        cost = cost_of(__file__, "tick", dsn)
                    work = f"tick at {number:,}, {label}"
                    costs.append(type(cost)(work, cost.cpu, cost.imports, cost.peak, cost.answer))
        finally:
            services.down()
    print(table(costs, costs[-1].work))
    for cost in costs:
        print(f"{cost.work}: {cost.beyond:.2f} CPU s beyond imports, {cost.peak:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(WORKS, sys.argv[2:])
    else:
        main()
