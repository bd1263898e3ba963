"""Score: rows in, predictions out; rows that break the contract are set aside with the reason."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Rows to score, and where they come from.

    :param table: rows of a dataset version.
    :param dataset: name of that version.
    :param time: column of their time.
    :param key: column that names a row.
    :param run: Dag run that scores.
    :param entity: column of who is assigned in a rollout, such as a customer: all rows of one have
        one version; ``None``: each row is assigned by its key.
    """

    table: pa.Table
    dataset: str
    time: str
    key: str
    run: str
    entity: str | None = None

    def part(self, mask: NDArray[np.bool_]) -> "Batch":
        """
        Return the rows where a mask is true.

        :param mask: shape ``(n_rows,)``.
        """
        return replace(self, table=self.table.filter(pa.array(mask)))


def score(models: ModelStore, observations: Observations, model: ModelRef, batch: Batch) -> Scored:
    """
    Score rows with one model version, exactly once per row.

    :param batch: the rows.
    :raises ContractBrokenError: if a column the model needs is missing or of another type.
    :raises RejectedError: if a key repeats: a row has one prediction.
    :raises ModelChangedError: if the model's files are not those that were evaluated.
    """
    return score_rows(models, observations, model, batch)[0]


def score_rows(
    models: ModelStore,
    observations: Observations,
    model: ModelRef,
    batch: Batch,
    *,
    shadow: bool = False,
    aside: bool = True,
) -> tuple[Scored, NDArray[np.bool_]]:
    """
    Do as :func:`score`, and say which rows were answered, shape ``(n_rows,)``.

    :param batch: the rows.
    :param shadow: whether another version's predictions of these rows are those that count.
    :param aside: whether rows that break the contract are set aside; else another version has them.
    """
    table, key, dataset = batch.table, batch.key, batch.dataset
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
            "observed_at": kept[batch.time],
            "prediction": pa.array(answer, pa.float64()),
            **({"scores": pa.array(predicted.tolist())} if several else {}),
        }
    )
    facts = {"dataset": dataset, "run": batch.run}
    written = observations.write_predictions(model, out, **facts, shadow=shadow)
    reason = "; ".join(one.counted for one in breaks)  # names no other row
    bad = _quarantined(table.filter(pa.compute.invert(good)), batch.time, key, reason)
    if aside:
        observations.quarantine(model.name, dataset, bad, run=batch.run)
    mean = float(predicted.mean()) if len(predicted) and not several else None
    return Scored(str(model), dataset, table.num_rows, written, len(bad), mean), np.asarray(
        good, np.bool_
    )


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
