"""
What Airflow pays to read a file of many Lifecycles: four Dags each, declared and serialized.

    python benchmarks/parsing.py [--lifecycles 200] [--before DIR]
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def declare(number: int) -> list[object]:
    """Declare so many models; returns their Dags."""
    from airflow_mlops.lifecycle import Lifecycle
    from airflow_mlops.policy import Approval, Table, Window

    found: list[object] = []
    for i in range(number):
        life = Lifecycle(
            name=f"model_{time.monotonic_ns()}_{i}",
            data=Table(
                conn_id="warehouse",
                table="public.rows",
                key="id",
                time="at",
                labels="public.labels",
                label="up",
            ),
            select=Window(span="730d", step="7d"),
            features="a.b:build",
            train="a.b:fit",
            approve=Approval(by=["lead"], within="2d"),
        )
        found += life.dags
    return found


def child(number: int) -> None:
    """Measure in this process; the last line says what was found, in milliseconds a Lifecycle."""
    from airflow.serialization.serialized_objects import DagSerialization

    declare(2)  # imports
    start = time.process_time()
    dags = declare(number)
    declared = time.process_time()
    for dag in dags:
        DagSerialization.to_dict(dag)
    serialized = time.process_time()
    with cProfile.Profile() as profile:
        declare(min(number, 50))
    times = {key[0]: 0.0 for key in pstats.Stats(profile).stats}
    for key, found in pstats.Stats(profile).stats.items():
        times[key[0]] += found[2]
    own = sum(t for name, t in times.items() if "airflow_mlops" in name) / sum(times.values())
    parts = {"declared": declared - start, "serialized": serialized - declared}
    print(json.dumps({k: v / number * 1_000 for k, v in parts.items()} | {"own": own}))


def measured(path: Path, number: int) -> dict[str, float]:
    """Run the child on a checkout."""
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as home:
        env = {**os.environ, "AIRFLOW_HOME": home, "PYTHONPATH": str(path)}
        command = [sys.executable, "-W", "ignore", __file__, "--child", str(number)]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lifecycles", type=int, default=200)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier build")
    parser.add_argument("--child", type=int)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
        return
    builds = {"before": asked.before, "now": HERE}
    print("| build | declared, CPU ms | of it this package | serialized by Airflow, CPU ms |")
    print("|---|---:|---:|---:|")
    for name, path in builds.items():
        if path:
            found = measured(path, asked.lifecycles)
            numbers = found["declared"], found["own"], found["serialized"]
            print("| {} | {:.1f} | {:.1%} | {:.1f} |".format(name, *numbers))


if __name__ == "__main__":
    main()
