"""
Assign keys to arms: this package beside what is usually written, and how even the shares are.

``python benchmarks/assignment.py [--rows N]``
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

from measure import cost_of, run_child, table

SALT, PERCENT = 42, 10


def keys_of(number: str) -> list[str]:
    """Make that many keys."""
    return [f"customer-{i}" for i in range(int(number))]


def assign_all(number: str):
    """Do it as this package does."""
    from airflow_mlops.core.rollout import Split, assign_all

    split = Split("bench", 1, 2, "bench@2/1", SALT, PERCENT * 2**64 // 100)
    keys = keys_of(number)
    return lambda: f"{assign_all(keys, split).mean():.2%}"


def md5_buckets(number: str):
    """Do it as a tutorial does: one digest, its number modulo 100."""
    import hashlib

    keys = keys_of(number)

    def work():
        digests = (hashlib.md5(f"{SALT}:{key}".encode()).hexdigest() for key in keys)
        return f"{sum(int(d, 16) % 100 < PERCENT for d in digests) / len(keys):.2%}"

    return work


def pandas_hash(number: str):
    """Do it by the hash of pandas; its key is 16 letters of salt."""
    import numpy as np
    from pandas.util import hash_array

    keys = np.array(keys_of(number), dtype=object)

    def work():
        found = hash_array(keys, hash_key=f"{SALT:016}", categorize=False)
        return f"{(found < PERCENT * 2**64 // 100).mean():.2%}"

    return work


WORKS: dict[str, Callable] = {
    "assign_all": assign_all,
    "md5 modulo 100": md5_buckets,
    "pandas.util.hash_array": pandas_hash,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    rows = parser.parse_args().rows
    cost = partial(cost_of, __file__)
    costs = [cost(work, str(rows)) for work in WORKS]
    print(f"{rows:,} keys of text, {PERCENT} %\n\n{table(costs, 'assign_all')}\n")
    for found in costs:
        print(f"{found.work}: {rows / found.beyond / 1e6:.1f} million keys per CPU second")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(WORKS, sys.argv[2:])
    else:
        main()
