"""Score: rows in, predictions out; rows that break the contract are set aside with the reason."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.data.contract import Contract, row_breaks, schema_breaks
from airflow_mlops.core.data.selection import check_unique
from airflow_mlops.core.errors import ContractBrokenError
from airflow_mlops.core.evaluation.offline import predictions
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import ModelStore


@dataclass(frozen=True, slots=True)
class Scored:
    """
    What a scoring run did.

    :param written: predictions that were not there before.
    :param quarantined: rows set aside.
    :param mean: mean prediction; of more than two classes there is none.
    """

    model: str
    dataset: str
    rows: int
    written: int
    quarantined: int
    mean: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def score(
    models: ModelStore,
    observations: Observations,
    model: ModelRef,
    table: pa.Table,
    *,
    dataset: str,
    time: str,
    key: str,
    run: str,
    shadow: bool = False,
) -> Scored:
    """
    Score rows with one model version, exactly once per row.

    :param table: rows of a dataset version.
    :param dataset: name of that version.
    :param time: column of their time.
    :param key: column that names a row.
    :param run: Dag run that scores.
    :param shadow: whether another version's predictions of these rows are those that count.
    :raises ContractBrokenError: if a column the model needs is missing or of another type.
    :raises RejectedError: if a key repeats: a row has one prediction.
    :raises ModelChangedError: if the model's files are not those that were evaluated.
    """
    check_unique(table[key], key, dataset)
    with models.opened(model) as loaded:
        contract = Contract.from_dict(loaded.about["contract"])
        fatal = [b for b in schema_breaks(contract, table.schema) if b.kind != "unexpected"]
        if fatal:
            msg = f"{dataset} does not fit what {model} was trained on: " + "; ".join(
                map(str, fatal)
            )
            raise ContractBrokenError(msg)
        good, breaks = row_breaks(contract, table, key)
        kept = table.filter(good)
        predicted = predictions(loaded, kept.to_pandas(), model) if kept.num_rows else np.empty(0)
    several = predicted.ndim == 2
    answer = predicted.argmax(axis=1) if several else predicted
    out = pa.table(
        {
            "key": kept[key].cast(pa.string()),
            "observed_at": kept[time],
            "prediction": pa.array(answer, pa.float64()),
            **({"scores": pa.array(predicted.tolist())} if several else {}),
        }
    )
    written = observations.write_predictions(model, out, dataset=dataset, run=run, shadow=shadow)
    reason = "; ".join(map(str, breaks))
    bad = _quarantined(table.filter(pa.compute.invert(good)), time, key, reason)
    observations.quarantine(model.name, dataset, bad, run=run)
    mean = float(predicted.mean()) if len(predicted) and not several else None
    return Scored(str(model), dataset, table.num_rows, written, len(bad), mean)


def _quarantined(rows: pa.Table, time: str, key: str, reason: str) -> list[Mapping[str, Any]]:
    return [
        {
            "key": str(row[key]),
            "observed_at": row[time],
            "reason": reason,
            "row": {name: None if value is None else str(value) for name, value in row.items()},
        }
        for row in rows.to_pylist()
    ]
