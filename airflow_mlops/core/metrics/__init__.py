"""How good: per-row losses, scores of a whole sample, and their intervals."""

from airflow_mlops.core.metrics.bootstrap import DRAWS, block_length, of_one_row, resampled
from airflow_mlops.core.metrics.estimates import Estimate, estimate, estimates, is_of_classes
from airflow_mlops.core.metrics.losses import (
    BLOCKS,
    LOSSES,
    Floats,
    block_means,
    indicators,
    per_class,
    rarest,
    read_only,
    standard_error,
)
from airflow_mlops.core.metrics.metric import Metric, loss_function, measure, named
from airflow_mlops.core.metrics.scores import SCORES

__all__ = [
    "BLOCKS",
    "DRAWS",
    "LOSSES",
    "SCORES",
    "Estimate",
    "Floats",
    "Metric",
    "block_length",
    "block_means",
    "estimate",
    "estimates",
    "indicators",
    "is_of_classes",
    "loss_function",
    "measure",
    "named",
    "of_one_row",
    "per_class",
    "rarest",
    "read_only",
    "resampled",
    "standard_error",
]
