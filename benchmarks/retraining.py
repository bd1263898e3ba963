"""
What a retraining policy is worth: replays over both demo tables, beside other policies.

    python benchmarks/retraining.py            # 15 minutes
    python benchmarks/retraining.py --quick    # 4 minutes: the default policy only

``never`` and ``always`` are lived through in the same replay; the others have one of their own.
"""

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from airflow_mlops.lifecycle.files import read_lifecycle  # noqa: E402
from airflow_mlops.lifecycle.simulate import Past, simulate  # noqa: E402
from airflow_mlops.policy import Decay, Regret, Schedule  # noqa: E402

TABLES = {
    "electricity": Past(ROOT / "include" / "electricity" / "electricity.parquet", "336"),
    "bike": Past(ROOT / "include" / "bike" / "bike.parquet", "168"),
}
BARS = {
    ("electricity", "default"): "<= .87 with <= 22",
    ("electricity", "default, labels 4 windows late"): "<= .91 with <= 14",
    ("bike", "default"): "<= .60 with <= 17",
}
SHUFFLED = "<= 1.00 with <= 4, no alarm"


def policies(name, quick):
    """Yield what is replayed: how it is called, the declaration, the past."""
    life, past = read_lifecycle(ROOT / "dags" / f"{name}.py"), TABLES[name]
    yield "default", life, past
    if name == "electricity":
        yield "default, labels 4 windows late", life, replace(past, delay=4)
    for seed in (1,) if quick else (1, 2, 3):
        yield f"default, shuffled ({seed})", life, replace(past, shuffle=seed)
    if quick:
        return
    slow = [Regret(2.0) if isinstance(word, Regret) else word for word in life.retrain]
    triggers = {"every 28 days": [Schedule("28d")], "decay": [Decay(life.metric)]}
    for other, words in {**triggers, "regret 2 instead of .5": slow}.items():
        yield other, changed(life, retrain=words), past
    whole = replace(life.select, shorter=())
    yield "default, span never shortened", changed(life, select=whole), past


def changed(life, **given):
    """Declare the same lifecycle with another policy."""
    from airflow_mlops.lifecycle import Lifecycle

    names = (n for n in life.__dataclass_fields__ if n != "dags")
    return Lifecycle(**{**{n: getattr(life, n) for n in names}, **given})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| table | policy | loss / never | always | retrains | refused | useless | alarms | "
        "CPU s | always, CPU s | bar |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for name in TABLES:
        for policy, life, past in policies(name, asked.quick):
            found = simulate(life, past)
            never = found.loss("never")
            bar = BARS.get((name, policy), SHUFFLED if "shuffled" in policy else "")
            cells = (
                name,
                policy,
                f"{found.loss() / never:.3f}",
                f"{found.loss('always') / never:.3f} with {len(found.steps)}",
                found.attempts,
                found.refused,
                found.useless,
                len(found.alarms),
                f"{found.cpu_s:.0f}",
                f"{found.always_cpu_s:.0f}",
                bar,
            )
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
