"""
Errors of the tests of a rollout under hourly looks, and how soon they see what is planted.

``python benchmarks/experiments.py [--quick]``
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from airflow_mlops.core.rollout.arms import COMPARED, expected
from airflow_mlops.core.rollout.looks import LATE
from airflow_mlops.core.rollout.sequential import (
    RATIO_ALPHA,
    planned_information,
    ratio_evidence,
    reach,
    squared_error,
    surely_above,
)
from airflow_mlops.core.rollout.shadow import look_at_pairs
from airflow_mlops.core.rollout.stages import Begun
from airflow_mlops.policy import AB, Shadow

Floats = NDArray[np.float64]
ALPHA, LOOKS = 0.05, 14 * 24
LEAST = AB().least
SINCE = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One arm of many experiments at every look; units, means and variances ``(n, looks)``.

    :param rows: the same of single rows, if units have several.
    """

    n: Floats
    mean: Floats
    variance: Floats
    rows: tuple[Floats, Floats, Floats] | None = None


Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
DRAWS: dict[str, tuple[Draw, float, float]] = {
    "normal": (lambda rng, shape: rng.normal(1, 1, shape), 1.0, 1.0),
    "lognormal, sd 1.5 on the log scale": (
        lambda rng, shape: rng.lognormal(0, 1.5, shape),
        math.exp(1.125),
        math.sqrt((math.exp(2.25) - 1) * math.exp(2.25)),
    ),
    "2 % convert": (lambda rng, shape: -(rng.random(shape) < 0.02).astype(float), 0.02, 0.14),
    "0.2 % convert": (lambda rng, shape: -(rng.random(shape) < 0.002).astype(float), 0.002, 0.0447),
}
"""Name -> how outcomes are drawn (less is better), size of their mean, standard deviation."""


def independent(rng, draw: Draw, runs: int, per_look: int, shift: float = 0.0) -> Seen:
    """Let so many new units of one arm arrive between two looks."""
    total, squares = np.empty((runs, LOOKS)), np.empty((runs, LOOKS))
    for first in range(0, runs, 20):
        found = draw(rng, (min(20, runs - first), LOOKS, per_look)) + shift
        total[first : first + 20] = found.sum(axis=2)
        squares[first : first + 20] = (found**2).sum(axis=2)
    n = np.broadcast_to(per_look * np.arange(1.0, LOOKS + 1), total.shape)
    return _moments(n, total.cumsum(axis=1), squares.cumsum(axis=1))


def returning(rng, runs: int, per_look: int, entities: int, dependence: float) -> Seen:
    """
    Let entities come back, about five times each; their requests resemble each other.

    :param per_look: requests between two looks.
    :param dependence: share of the variance that lies between entities.
    """
    own = rng.normal(size=(runs, entities)) * math.sqrt(dependence)
    count, total = np.zeros((runs, entities)), np.zeros((runs, entities))
    sums = np.zeros((5, runs))  # units, their means, squares; rows, squares
    kept = np.empty((5, runs, LOOKS))
    run = np.arange(runs)
    for look in range(LOOKS):
        for _ in range(per_look):
            who = rng.integers(0, entities, runs)
            value = 1 + own[run, who] + rng.normal(size=runs) * math.sqrt(1 - dependence)
            before = total[run, who] / np.maximum(count[run, who], 1)
            sums[0] += count[run, who] == 0
            count[run, who] += 1
            total[run, who] += value
            after = total[run, who] / count[run, who]
            sums[1:] += after - before, after**2 - before**2, value, value**2
        kept[:, :, look] = sums
    rows = np.broadcast_to(per_look * np.arange(1.0, LOOKS + 1), (runs, LOOKS))
    by_row = _moments(rows, kept[3], kept[4])
    by_unit = _moments(*kept[:3])
    return Seen(by_unit.n, by_unit.mean, by_unit.variance, (rows, by_row.mean, by_row.variance))


def _moments(n: Floats, total: Floats, squares: Floats) -> Seen:
    with np.errstate(invalid="ignore", divide="ignore"):
        return Seen(n, total / n, (squares - total**2 / n) / (n - 1))


def ours(candidate: Seen, champion: Seen, effect: float) -> tuple[Floats, Floats]:
    """Return, for each look, whether the candidate is surely less, and surely more."""
    squared = squared_error((candidate.n, champion.n), (candidate.variance, champion.variance))
    return _answers(candidate, champion, squared, effect)


def separate(candidate: Seen, champion: Seen, effect: float) -> tuple[Floats, Floats]:
    """Do the same without the pooled variance."""
    squared = candidate.variance / candidate.n + champion.variance / champion.n
    return _answers(candidate, champion, np.maximum(squared, 1e-15), effect)


def _answers(candidate: Seen, champion: Seen, squared: Floats, effect: float):
    fewest = np.minimum(candidate.n, champion.n)
    squared = np.where(squared > 0, squared, np.inf)
    width = reach(1 / squared, planned_information(effect, ALPHA), ALPHA)
    gap = candidate.mean - champion.mean
    return (fewest >= LEAST) & (gap + width < 0), (fewest >= COMPARED) & (gap - width > 0)


def naive(candidate: Seen, champion: Seen) -> tuple[Floats, Floats]:
    """Test at each look as if it were the only one: what a dashboard with a p-value invites to."""
    enough = np.minimum(candidate.n, champion.n) >= COMPARED
    error = np.sqrt(candidate.variance / candidate.n + champion.variance / champion.n)
    gap = candidate.mean - champion.mean
    return enough & (gap < -1.645 * error), enough & (gap > 1.645 * error)


def _share(found: Floats) -> str:
    return f"{100 * found.any(axis=1).mean():.1f} %"


def _shares(arms: list[Seen], shown: list[Seen], effect: float) -> str:
    """Return what each test says of experiments without a difference, as cells of a table."""
    either = (np.logical_or(*separate(*arms, effect)), np.logical_or(*naive(*shown)))
    return " | ".join(_share(found) for found in (*ours(*arms, effect), *either))


def false_answers(runs: int) -> None:
    print(f"No difference: {runs:,} experiments, {LOOKS} hourly looks, alpha {ALPHA:.0%} a side\n")
    print("| outcomes | split | units | proof | harm | separate variances | t test at each look |")
    print("|---|---|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(1)
    for name, (draw, _, deviation) in DRAWS.items():
        for one, two in ((15, 15), (3, 27), (1, 29)):
            arms = [independent(rng, draw, runs, per_look) for per_look in (one, two)]
            error = deviation * math.sqrt((1 / one + 1 / two) / LOOKS)
            shares = _shares(arms, arms, 2.8 * error)
            split = f"{100 * one / (one + two):.0f} %"
            print(f"| {name} | {split} | {LOOKS * (one + two):,} | {shares} |", flush=True)
    for name, other in (("lognormal, sd 1", 1.0), ("lognormal, sd 1.5", 1.5)):
        mean = math.exp(other**2 / 2)
        for one, two in ((15, 15), (3, 27)):
            arms = [
                independent(rng, lambda r, shape: r.lognormal(0, other, shape), runs, one),  # noqa: B023
                independent(rng, lambda r, shape: r.normal(mean, 1, shape), runs, two),  # noqa: B023
            ]
            shares = _shares(arms, arms, 0.15 * mean)
            split = f"{100 * one / (one + two):.0f} %"
            print(f"| candidate {name}, champion normal | {split} | {LOOKS * 30:,} | {shares} |")
    for dependence in (0.3, 0.8):
        arms = [returning(rng, runs, 20, 1_300, dependence) for _ in range(2)]
        by_row = [Seen(*arm.rows) for arm in arms]
        shares = _shares(arms, by_row, 0.1)
        print(f"| 5 rows of each entity, {dependence:.0%} its own | 50 % | 2,600 | {shares} |")
        rows = " | ".join(_share(found) for found in ours(*by_row, effect=0.1))
        print(
            f"| the same, rows taken for units (wrong) | 50 % | 13,440 | {rows} | | |", flush=True
        )


def planted(runs: int) -> None:
    print("\nHarm that is there, as large as planned: units of both arms together\n")
    print(
        "| outcomes | effect | expected | median | 80 % expected | decided by then | "
        "t test, one look | decided by then |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(2)
    for name, (draw, mean, deviation) in DRAWS.items():
        for share in (0.1, 0.2) if mean < 0.1 or deviation > 2 else (0.05, 0.1):
            begun = stage(AB(min_effect=share), mean)
            times = expected(begun, variance=deviation**2, per_day=1_000)
            per_look = max(2, math.ceil(1.3 * times.most / LOOKS / 2))
            if per_look * LOOKS > 200_000:
                continue  # minutes of random numbers
            champion = independent(rng, draw, runs, per_look)
            candidate = independent(rng, draw, runs, per_look, share * mean)
            found = ours(candidate, champion, share * mean)[1]
            units = np.where(found.any(axis=1), (found.argmax(axis=1) + 1) * 2 * per_look, np.inf)
            by_most, by_fixed = (np.mean(units <= n) for n in (times.most, times.fixed))
            print(
                f"| {name} | {share:.0%} of the mean | {times.half:,} | {np.median(units):,.0f} | "
                f"{times.most:,} | {by_most:.0%} | {times.fixed:,} | {by_fixed:.0%} |",
                flush=True,
            )


def ratios(runs: int) -> None:
    print(f"\nRatio test at {RATIO_ALPHA}, {LOOKS} looks, 120 entities an hour\n")
    print("| planned | true | found | median entities |\n|---:|---:|---:|---:|")
    rng = np.random.default_rng(3)
    cases = ((0.5, 0.5), (0.1, 0.1), (0.5, 0.52), (0.5, 0.55), (0.1, 0.11), (0.1, 0.05))
    for share, true in cases:
        units = 120 * np.arange(1, LOOKS + 1)
        one = rng.binomial(120, true, ((20 if share == true else 1) * runs, LOOKS)).cumsum(axis=1)
        found = ratio_evidence(one, units - one, share) > -math.log(RATIO_ALPHA)
        seen = np.where(found.any(axis=1), units[found.argmax(axis=1)], np.inf)
        median = "-" if share == true else f"{np.median(seen):,.0f}"
        print(f"| {share:.0%} | {true:.0%} | {100 * found.any(axis=1).mean():.2f} % | {median} |")


def shares(runs: int) -> None:
    print("\nFailures and slow answers, a look after each of 3,000 requests\n")
    print("| limit | true | found | median requests |\n|---:|---:|---:|---:|")
    rng = np.random.default_rng(4)
    for limit, true in ((0.01, 0.01), (0.01, 0.02), (0.01, 0.05), (0.01, 0.5), (LATE, LATE),
                        (LATE, 0.1)):  # fmt: skip
        seen = np.full(runs, np.inf)
        for run in range(runs):
            hits = np.flatnonzero(rng.random(3_000) < true)  # the evidence grows only with a hit
            for number, at in enumerate(hits, start=1):
                if surely_above(number, int(at) + 1, limit, ALPHA):
                    seen[run] = at + 1
                    break
        median = f"{np.median(seen):,.0f}" if np.isfinite(np.median(seen)) else "-"
        print(f"| {limit:.0%} | {true:.0%} | {np.isfinite(seen).mean():.1%} | {median} |")


def stage(word, baseline: float = 1.0) -> Begun:
    """Return a stage that runs."""
    return Begun("m", word, 1, 2, SINCE.isoformat(), "brier", baseline, 0.0, "m@2/1")


def shadows(runs: int) -> None:
    print("\nShadow of 7 days: pairs in time order, no difference; harm of 0.3 sd\n")
    print("| rows | autocorrelation | stopped | t test at each look | harm found |")
    print("|---:|---:|---:|---:|---:|")
    rng, begun = np.random.default_rng(5), stage(Shadow("7d"))
    for rows in (168, 672, 2_688):
        naive_looks = range(100, rows + 1, max(1, rows // 168))
        step = np.timedelta64(7 * 86_400_000 // rows, "ms")
        times = np.datetime64("2024-01-01T00:00:00") + step * np.arange(rows)
        for rho in (0.0, 0.5, 0.8):
            answers = np.zeros(3)
            for _ in range(runs):
                noise = rng.normal(size=rows + 100) * math.sqrt(1 - rho**2)
                gap = signal.lfilter([1], [1, -rho], noise)[100:]
                for column, shift in ((0, 0.0), (2, 0.3)):
                    pair = (np.ones(rows), 1 + gap + shift)
                    ends = look_at_pairs(begun, times, pair, now=SINCE + timedelta(days=7))
                    answers[column] += ends.answer == "harm"
                n = np.arange(1, rows + 1)
                mean, squares = gap.cumsum() / n, (gap**2).cumsum() / n
                t = mean / np.sqrt(np.maximum(squares - mean**2, 1e-12) / n)
                answers[1] += (t[np.array(naive_looks) - 1] > 1.645).any()
            said = " | ".join(f"{100 * x / runs:.1f} %" for x in answers)
            print(f"| {rows:,} | {rho:g} | {said} |", flush=True)


def lengths() -> None:
    print("\nHow long an A/B test takes, 2,000 new entities with an outcome a day\n")
    print("| outcomes | smallest effect | 50 % | 10 % |\n|---|---:|---:|---:|")
    cases = (("Brier score .15, sd .2", 0.15, 0.2), ("2 % convert", 0.02, 0.14),
             ("20 % convert", 0.2, 0.4))  # fmt: skip
    for name, mean, deviation in cases:
        for share in (0.02, 0.05, 0.1):
            cells = []
            for percent in (50, 10):
                begun = stage(AB(percent=percent, min_effect=share), mean)
                found = expected(begun, variance=deviation**2, per_day=2_000)
                cells.append(f"{found.half:,} units, {found.half / 2_000:.1f} d")
            print(f"| {name} | {share:.0%} of the mean | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer experiments: half a minute")
    runs = 200 if parser.parse_args().quick else 1_000
    start = time.process_time()
    false_answers(runs)
    planted(min(runs, 400))
    ratios(runs)
    shares(runs)
    shadows(runs)
    lengths()
    print(f"\n{time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
