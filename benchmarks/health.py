"""
What watching a task costs the task: the looks, the hooks, the delivery.

    python benchmarks/health.py [--seconds 20]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil

SLEEPERS = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    if not os.fork():
        time.sleep(600)
        os._exit(0)
print("ready", flush=True)
time.sleep(600)
"""


def work(seconds: float) -> int:
    """Compute for some CPU seconds of this thread; returns how much was done."""
    done, end = 0, time.thread_time() + seconds
    while time.thread_time() < end:
        done += sum(range(1_000)) > 0
    return done


def watched(seconds: float, children: int) -> dict[str, float]:
    """Compute beside a sampler, in this process, with children that sleep."""
    from airflow_mlops.core.monitoring.resources import Sampler

    looks, ended = [], []
    sampler = Sampler(looks.append, ended.append)
    sampler.start()
    family = None
    if children:
        command = [sys.executable, "-c", SLEEPERS, str(children - 1)]
        family = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert family.stdout is not None
        family.stdout.readline()
    work(seconds)
    seen = psutil.Process().children(recursive=True)
    sampler.end()
    sampler.join(60)
    for process in seen:
        process.kill()
    if family is not None:
        family.communicate()
    usage = ended[0]
    return {
        "share": usage.overhead_s / usage.wall_s,
        "looks": len(looks) + 1,
        "overhead": usage.overhead_s,
        "children": usage.children,
        "processes": len(psutil.pids()) + children,
    }


def hooks(times: int) -> dict[str, list[float]]:
    """Watch a task that does nothing, again and again; returns seconds of each part."""
    from airflow_mlops.listeners.usage import UsageListener
    from airflow_mlops.local import Services

    found: dict[str, list[float]] = {"running": [], "success": [], "delivery": [], "CPU": []}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as home, Services(Path(home)) as there:
        login = {"conn_type": "postgres", "host": there.socket_dir, "login": "mlops_task"}
        os.environ["AIRFLOW_CONN_MLOPS_DEFAULT"] = json.dumps(login | {"schema": "mlops"})
        os.environ["AIRFLOW__MLOPS__USAGE_FOLDER"] = f"{home}/usages"
        listener = UsageListener()
        for n in range(times + 1):
            task = SimpleNamespace(dag=SimpleNamespace(tags=["mlops"]))
            ti = SimpleNamespace(task=task, dag_id="d", run_id=f"r{n}", task_id="t", map_index=-1)
            ti.try_number, ti.hostname = 1, "h"
            steps = (
                ("running", lambda ti=ti: listener.on_task_instance_running(ti)),
                ("success", lambda ti=ti: listener.on_task_instance_success(ti)),
                ("delivery", listener.before_stopping),
            )
            began = time.process_time()
            for name, step in steps:
                since = time.perf_counter()
                step()
                found[name].append(time.perf_counter() - since)
            found["CPU"].append(time.process_time() - began)
        assert not list(Path(home, "usages").iterdir())
    return {name: seconds[1:] for name, seconds in found.items()}  # the first one imports


def child(argument: str) -> None:
    """Measure one case in a process of its own."""
    case = json.loads(argument)
    if "children" in case:
        print(json.dumps(watched(**case)))
    elif "plain" in case:
        print(json.dumps(work(case["plain"])))
    else:
        print(json.dumps(hooks(case["hooks"])))


def measured(**case: float) -> dict:
    """Run one case in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    print("| children | looks | CPU s of the sampler | share of the time |")
    print("|---:|---:|---:|---:|")
    for children in (0, 10, 100, 1_000):
        found = measured(seconds=given.seconds, children=children)
        print(
            f"| {found['children']:,.0f} | {found['looks']:.0f} | {found['overhead']:.3f} "
            f"| {found['share']:.2%} |"
        )
    print("\n| what | median ms | worst of 200 ms |\n|---|---:|---:|")
    names = {
        "running": "hook when a task starts",
        "success": "hook when it has ended",
        "delivery": "wait for the delivery, before the process ends",
        "CPU": "CPU of all that",
    }
    found = measured(hooks=200)
    for key, name in names.items():
        each = [1000 * seconds for seconds in found[key]]
        print(f"| {name} | {statistics.median(each):.2f} | {max(each):.2f} |")


if __name__ == "__main__":
    main()
