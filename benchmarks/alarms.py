"""
How often drift is reported when there is none, and how often it is found: ours beside the usual.

``python benchmarks/alarms.py [--quick]``
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import signal, stats

from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.monitoring.drift.verdict import Reference, calibrate, judge

ALPHA = 0.01
PAST = 26
"""Windows of a reference."""

LATER = 20
"""Windows that are compared with each reference."""

COLUMNS = 10
SIZES = (50, 100, 336, 1_000, 10_000)
WEEK = 336
ELECTRICITY = Path(__file__).parents[1] / "include" / "electricity" / "electricity.parquet"


def numbers(rng: np.random.Generator, rows: int, rho: float) -> pd.DataFrame:
    """Draw ten columns of mean 0 and variance 1 whose rows depend on each other by ``rho``."""
    noise = rng.normal(size=(rows + 200, COLUMNS)) * np.sqrt(1 - rho**2)
    values = signal.lfilter([1], [1, -rho], noise, axis=0)[200:] if rho else noise[200:]
    return pd.DataFrame(values, columns=[f"n{i}" for i in range(COLUMNS)])


def mixed(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """Draw eight numbers, one with 1 % of nulls, and a category with a value of 10 %."""
    frame = numbers(rng, rows, 0.0)
    frame["n8"] = frame["n8"].where(rng.random(rows) >= 0.01)
    frame["n9"] = np.where(rng.random(rows) < 0.1, "rare", "usual")
    return frame


CHANGES: Mapping[str, tuple[str, Callable[[np.random.Generator, pd.DataFrame], pd.Series]]] = {
    "+ .2 sd": ("n0", lambda _, f: f["n0"] + 0.2),
    "+ .5 sd": ("n0", lambda _, f: f["n0"] + 0.5),
    "nulls 1 -> 5 %": ("n8", lambda rng, f: f["n0"].where(rng.random(len(f)) >= 0.05)),
    "category 10 -> 20 %": (
        "n9",
        lambda rng, f: pd.Series(np.where(rng.random(len(f)) < 0.2, "rare", "usual")),
    ),
}


class Ours:
    """
    The verdict of this package.

    :param past: the reference, one frame a window.
    """

    def __init__(self, past: list[pd.DataFrame]) -> None:
        self.like = centres(_batch(past[0]))
        self.reference: Reference = calibrate([self.profile(frame) for frame in past])

    def profile(self, frame: pd.DataFrame):
        """Profile one window around the centres of the reference."""
        builder = ProfileBuilder(self.like)
        builder.update(_batch(frame))
        return builder.finish()

    def alarms(self, frame: pd.DataFrame) -> tuple[set[str], set[str]]:
        """Return the columns that drifted, and those that drifted or warn."""
        found = judge(self.reference, self.profile(frame), list(frame), alpha=ALPHA)
        loud = {c.column for c in found if c.drifted}
        return loud, loud | {c.column for c in found if c.warned}


def _batch(frame: pd.DataFrame) -> pa.RecordBatch:
    return pa.RecordBatch.from_pandas(frame, preserve_index=False)


def evidently(before: pd.DataFrame, now: pd.DataFrame) -> set[str]:
    """Return the columns in which Evidently's default preset sees drift."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    number = [c for c in before if before[c].dtype.kind == "f"]
    definition = DataDefinition(
        numerical_columns=number, categorical_columns=[c for c in before if c not in number]
    )
    parts = (Dataset.from_pandas(f, data_definition=definition) for f in (now, before))
    metrics = Report([DataDriftPreset()]).run(*parts).dict()["metrics"]
    found = set()
    for metric in metrics:
        asked = metric.get("config", {})
        if "column" in asked:
            less = metric["value"] < asked["threshold"]
            if less if "p_value" in asked["method"] else not less:
                found.add(asked["column"])
    return found


def psi(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Tell whether the population stability index of any column, by deciles, exceeds .2."""
    for name in before:
        edges = np.quantile(before[name], np.linspace(0, 1, 11)[1:-1])
        a, b = (
            np.bincount(np.searchsorted(edges, f[name]), minlength=10) / len(f) + 1e-4
            for f in (before, now)
        )
        if ((b - a) * np.log(b / a)).sum() > 0.2:
            return True
    return False


def smirnov(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Tell whether Kolmogorov and Smirnov's test of any column gives a p below .05."""
    return any(stats.ks_2samp(before[c], now[c], method="asymp").pvalue < 0.05 for c in before)


def false_alarms(rows: int, rho: float, references: int, peers: int) -> str:
    """
    Count the windows with any alarm when nothing drifts.

    :param references: how many references are drawn.
    :param peers: windows that are also shown to the others, which are slower.
    """
    rng, asked, loud, warned = np.random.default_rng(rows), 0, 0, 0
    others = np.zeros(3)
    for number in range(references):
        frame = numbers(rng, (PAST + LATER) * rows, rho)
        windows = [frame.iloc[i * rows : (i + 1) * rows] for i in range(PAST + LATER)]
        ours, before = Ours(windows[:PAST]), frame.iloc[: PAST * rows]
        for now in windows[PAST:]:
            found = ours.alarms(now)
            asked, loud, warned = asked + 1, loud + bool(found[0]), warned + bool(found[1])
        if number < peers:
            now = windows[-1]
            others += [bool(evidently(before, now)), psi(before, now), smirnov(before, now)]
    shown = " | ".join(f"{100 * x / peers:.0f} %" for x in others)
    kind = f"AR(1) {rho:g}" if rho else "iid"
    return (
        f"| {kind} | {rows:,} | {asked:,} | {100 * loud / asked:.2f} % | "
        f"{100 * warned / asked:.2f} % | {shown} |"
    )


def power(rows: int, change: str, tries: int, peers: int) -> str:
    """Count the windows in which a change of one column of ten is found in that column."""
    column, changed = CHANGES[change]
    rng, loud, warned, other = np.random.default_rng(rows), 0, 0, 0
    for number in range(tries):
        if number % LATER == 0:
            past = [mixed(rng, rows) for _ in range(PAST)]
            ours = Ours(past)
        frame = mixed(rng, rows)
        now = frame.assign(**{column: changed(rng, frame)})
        found = ours.alarms(now)
        loud, warned = loud + (column in found[0]), warned + (column in found[1])
        other += number < peers and column in evidently(pd.concat(past), now)
    shares = " | ".join(f"{100 * x / n:.0f} %" for x, n in ((loud, tries), (warned, tries)))
    return f"| {change} | {rows:,} | {shares} | {100 * other / peers:.0f} % |"


def electricity() -> str:
    """Judge weeks of a real market before it opens, and the week in which it does."""
    frame = pd.read_parquet(ELECTRICITY).drop(columns=["timestamp", "target"])
    weeks = [frame.iloc[i * WEEK : (i + 1) * WEEK] for i in range(51)]
    ours, before = Ours(weeks[:PAST]), frame.iloc[: PAST * WEEK].astype(float)
    found = [ours.alarms(week) for week in weeks[PAST:]]
    counts = [sum(map(bool, part)) for part in zip(*found, strict=True)]
    opened = frame.iloc[17_424 : 17_424 + WEEK]
    names = [", ".join(sorted(found)) for found in ours.alarms(opened)]
    theirs = [evidently(before, w.astype(float)) for w in (weeks[PAST], opened)]
    return "\n".join(
        (
            f"weeks 26 to 50 (nothing happens), of {len(weeks) - PAST}: drift {counts[0]}, "
            f"drift or warning {counts[1]}; Evidently in week 26: {len(theirs[0])} columns",
            f"the week of row 17,424: drift in {names[0]}; or warning in {names[1]}; Evidently: "
            f"{', '.join(sorted(theirs[1]))}",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer windows: three minutes")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    start = time.process_time()
    print(f"False alarms: windows with any, {COLUMNS} columns, reference of {PAST} windows\n")
    print(
        "| rows | a window | windows | drift | drift or warning | Evidently | PSI > .2 | KS < .05 |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for rho in (0.0, 0.2, 0.4, 0.9):
        for rows in SIZES:
            print(false_alarms(rows, rho, *((4, 2) if quick else (50, 10))), flush=True)
    print(f"\nFound, of {COLUMNS} columns one of which changes\n")
    print("| change | rows | drift | drift or warning | Evidently |")
    print("|---|---:|---:|---:|---:|")
    for change in CHANGES:
        for rows in (336, 1_000):
            print(power(rows, change, *((40, 4) if quick else (400, 10))), flush=True)
    print(f"\nelec2\n\n{electricity()}\n\n{time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
