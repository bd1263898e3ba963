"""
Is the candidate better, and for everybody? Two models on the same rows, judged by this package.

    python benchmarks/evaluation.py [--rows 1000000] [--without-scikit-learn]
    python benchmarks/evaluation.py --sizes 1000   # how often a test says "better" of equal models
    python benchmarks/evaluation.py --ties 1000    # and "worse", if they differ in few rows
"""

import argparse
import sys
from functools import partial

from measure import cost_of, run_child, table

SLICES = 5
COLUMNS = 10
DRAWS = 999


def sample(rows: str):
    """Labels, a slice for each row, and the answers of two models, in the order of time."""
    import numpy as np

    n, random = int(rows), np.random.default_rng(0)
    truth = 1 / (1 + np.exp(-random.normal(size=n)))
    y = (random.random(n) < truth).astype(float)
    champion, candidate = (
        np.clip(truth + random.normal(0, error, n), 0.001, 0.999) for error in (0.2, 0.19)
    )
    return y, random.integers(0, SLICES, n), champion, candidate


def ours(rows: str):
    """Brier score and area under the ROC curve, of all rows and in each slice, with intervals."""
    import pyarrow as pa

    from airflow_mlops.core.evaluation.evaluation import Evaluation
    from airflow_mlops.core.evaluation.gate import judge
    from airflow_mlops.core.evaluation.measuring import Answers, assessed
    from airflow_mlops.core.metrics import loss_function
    from airflow_mlops.policy import AtLeast, NotWorse

    gates = [AtLeast("roc_auc", 0.6)]
    gates += [NotWorse(metric, by=by) for metric in ("brier", "roc_auc") for by in (None, "region")]

    def work():
        y, region, champion, candidate = sample(rows)
        answers = Answers(pa.table({"region": region}), y, candidate, champion, lambda rows: rows)
        base = Evaluation("m@2", "m@1", 1, "", "", (), (), None)
        verdict = judge(gates, assessed(base, answers, gates, loss_function("brier"), seed=0))
        return f"{verdict.status}, {len(verdict.checks)} gates"

    return work


def both(rows: str):
    """The same, and the flip report: a tree over ten more columns, counts, twenty cases, a page."""
    import numpy as np
    import pyarrow as pa
    import sklearn.tree  # noqa: F401  (imported by the report when it looks for parts)

    from airflow_mlops.core.evaluation.flips import Answered, find_flips
    from airflow_mlops.core.reports.flips import flips_page

    judged = ours(rows)

    def work():
        said = judged()
        y, region, champion, candidate = sample(rows)
        n, random = len(y), np.random.default_rng(2)
        columns = {f"x{i}": random.normal(size=n).astype(np.float32) for i in range(COLUMNS)}
        at = pa.array(np.arange(n) * 1_000_000, pa.timestamp("us", "UTC"))
        kept = pa.table({"id": np.arange(n), "at": at, "region": region, **columns})
        asked = Answered("class", kept, champion, candidate, y, "id", "at")
        found = find_flips(asked, candidate="m@2", champion="m@1")
        return f"{said}; {found.total.flips:,} flips, page of {len(flips_page(found)):,} letters"

    return work


def plain(rows: str, draws: str):
    """The same with scikit-learn on rows that are drawn one by one; a part of the draws."""
    import numpy as np
    from sklearn.metrics import brier_score_loss, roc_auc_score

    def work():
        y, region, champion, candidate = sample(rows)
        random = np.random.default_rng(1)
        parts = [np.arange(len(y)), *(np.flatnonzero(region == part) for part in range(SLICES))]
        for part in parts:
            for _ in range(int(draws)):
                drawn = random.choice(part, len(part))
                for p in (champion, candidate):
                    brier_score_loss(y[drawn], p[drawn])
                    roc_auc_score(y[drawn], p[drawn])
        return f"{draws} of {DRAWS} draws"

    return work


def nothing(rows: str):
    """Import, make the rows, and end."""
    import pyarrow

    import airflow_mlops.core.evaluation.measuring  # noqa: F401

    return lambda: f"{len(sample(rows)[0]):,} rows, pyarrow {pyarrow.__version__}"


def size(metric: str, rows: int, rho: float, runs: int) -> float:
    """Share of runs in which one of two equally good models is called surely better, at 5 %."""
    import numpy as np
    from scipy.signal import lfilter

    from airflow_mlops.core.evaluation.comparison import compare_by
    from airflow_mlops.core.metrics import named

    random, wrong = np.random.default_rng(0), 0
    for run in range(runs):
        y = (random.random(rows) < 0.4).astype(float)
        noise = random.normal(size=(2, rows + 200)) * np.sqrt(1 - rho**2)
        errors = lfilter([1.0], [1.0, -rho], noise)[:, 200:]
        champion, candidate = 1 / (1 + np.exp(0.6 - 1.5 * y - errors))
        found = compare_by(named(metric), y, champion, candidate, seed=run)
        wrong += found.harm(0.05) < 0
    return wrong / runs


def sizes(runs: int) -> None:
    """Print the sizes of the tests as a Markdown table."""
    rhos = (0.0, 0.5, 0.8, 0.95)
    print(f"| metric | rows | {' | '.join(f'rho {rho:g}' for rho in rhos)} |")
    print("|---|---:|" + "---:|" * len(rhos))
    for metric in ("brier", "roc_auc", "recall"):
        for rows in (168, 336, 1_000):
            found = (f"{size(metric, rows, rho, runs):.3f}" for rho in rhos)
            print(f"| {metric} | {rows} | {' | '.join(found)} |", flush=True)


def wrongly(metric: str, share: float, runs: int) -> tuple[float, float]:
    """
    Share of runs in which one of two equally good models is called worse, of all rows and by slice.

    2,000 rows in ten slices; the models decide ``share`` of them otherwise. At 5 %.
    """
    import numpy as np

    from airflow_mlops.core.data.slicing import holm
    from airflow_mlops.core.evaluation.comparison import compare_by, compare_slices
    from airflow_mlops.core.metrics import named

    random, rows, wrong = np.random.default_rng(0), 2_000, np.zeros(2)
    cuts = "slice", (np.arange(rows) % 10).tolist()
    for run in range(runs):
        y = (random.random(rows) < 0.4).astype(float)
        right = np.where(random.random(rows) < 0.85, y, 1 - y)
        champion, candidate = (
            np.where(random.random(rows) < share / 2, 1 - right, right) for _ in range(2)
        )
        alone = compare_by(named(metric), y, champion, candidate, seed=run)
        slices = compare_slices(named(metric), y, champion, candidate, by=cuts, seed=run)
        by_slice = min(holm([s.p_value(0.0, less=False) for s in slices if s.tested]))
        wrong += np.array([alone.p_value(0.0, less=False), by_slice]) < 0.05
    return tuple(wrong / runs)


def ties(runs: int) -> None:
    """Print how often models that differ in few rows are called worse, as a Markdown table."""
    shares = (0.003, 0.01, 0.03, 0.1)
    print(f"| metric | rows | {' | '.join(f'{share:.1%}' for share in shares)} |")
    print("|---|---|" + "---:|" * len(shares))
    for metric in ("accuracy", "recall", "precision", "f1"):
        found = [wrongly(metric, share, runs) for share in shares]
        for place, rows in enumerate(("all", "ten slices")):
            rates = (f"{rate[place]:.1%}" for rate in found)
            print(f"| {metric} | {rows} | {' | '.join(rates)} |", flush=True)


WORKS = {"judge": ours, "judge and flips": both, "scikit-learn": plain, "nothing": nothing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000000")
    parser.add_argument("--draws", default="3", help="draws of scikit-learn that are measured")
    parser.add_argument("--without-scikit-learn", action="store_true")
    parser.add_argument("--sizes", type=int, help="so many runs for each kind of rows")
    parser.add_argument("--ties", type=int, help="so many runs of models that differ in few rows")
    parser.add_argument("--child", nargs="+")
    given = parser.parse_args()
    if given.child:
        run_child(WORKS, given.child)
        return
    if given.sizes:
        sizes(given.sizes)
        return
    if given.ties:
        ties(given.ties)
        return
    run = partial(cost_of, sys.argv[0])
    costs = [run(work, given.rows) for work in ("judge", "judge and flips", "nothing")]
    if not given.without_scikit_learn:
        costs.append(run("scikit-learn", given.rows, given.draws))
    print(table(costs, "judge"))


if __name__ == "__main__":
    main()
