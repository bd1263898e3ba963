"""Two models that answer the same rows, for tests of what gates measure."""

import numpy as np
import pyarrow as pa

from airflow_mlops.core.evaluation.evaluation import Evaluation
from airflow_mlops.core.evaluation.measuring import Answers

BASE = Evaluation("m@2", "m@1", 3, "2024-01-01", "2024-01-08", (), (), None)


def binary(seed=0, n=1_000, *, skill=(1.5, 1.5), towns=("Oslo", "Rome"), share=0.4, **columns):
    """Labels of two classes, and how champion and candidate answer; two features."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(float)
    noise = rng.normal(size=(3, n))
    said = [1 / (1 + np.exp(0.8 - s * y - 0.8 * e)) for s, e in zip(skill, noise, strict=False)]
    rows = {"town": rng.choice(towns, n), "x": y + noise[2], "hour": np.arange(n) % 24, **columns}
    return answers(rows, y, *said)


def answers(rows, y, champion, candidate, build=None):
    return Answers(
        pa.table(rows), y, candidate, champion, build or (lambda frame: frame[["x", "hour"]])
    )
