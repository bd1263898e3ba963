"""
Is the candidate better, and for everybody? Two models on the same rows, judged by this package.

    python benchmarks/evaluation.py [--rows 1000000] [--without-scikit-learn]
"""

import argparse
import sys
from functools import partial

from measure import cost_of, run_child, table

SLICES = 5
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


WORKS = {"judge": ours, "scikit-learn": plain, "nothing": nothing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000000")
    parser.add_argument("--draws", default="3", help="draws of scikit-learn that are measured")
    parser.add_argument("--without-scikit-learn", action="store_true")
    parser.add_argument("--child", nargs="+")
    given = parser.parse_args()
    if given.child:
        run_child(WORKS, given.child)
        return
    run = partial(cost_of, sys.argv[0])
    costs = [run("judge", given.rows), run("nothing", given.rows)]
    if not given.without_scikit_learn:
        costs.append(run("scikit-learn", given.rows, given.draws))
    print(table(costs, "judge"))


if __name__ == "__main__":
    main()
