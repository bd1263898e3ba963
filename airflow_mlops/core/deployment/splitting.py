"""Score during a rollout: who is whose by the split, what was met is on record."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.deployment.scoring import Scored, score
from airflow_mlops.core.errors import ConfigurationError, RejectedError, UserCodeError
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout.assignment import Split, assign_all
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.core.training.models import ModelStore


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Rows to score, and where they come from.

    :param table: rows of a dataset version.
    :param dataset: name of that version.
    :param time: column of their time.
    :param key: column that names a row.
    :param entity: column of who is assigned, such as a customer: all rows of one have one version.
    :param run: Dag run that scores.
    """

    table: pa.Table
    dataset: str
    time: str
    key: str
    entity: str
    run: str


@dataclass(frozen=True, slots=True)
class SplitScored:
    """
    What a scoring run did during a rollout.

    :param champion: what the champion did.
    :param candidate: what the candidate did; ``None``: none is tried, or it failed.
    :param failed: why the candidate failed; the champion answered in its place.
    """

    champion: Scored
    candidate: Scored | None = None
    failed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the champion's, and the candidate's beside it."""
        other = self.candidate.to_dict() if self.candidate else None
        return self.champion.to_dict() | {"candidate": other, "candidate_failed": self.failed}


def score_split(
    models: ModelStore, observations: Observations, split: Split, batch: Batch
) -> SplitScored:
    """
    Score rows with the champion, and with the candidate that a stage of its rollout tries.

    In a shadow both score all rows, and the champion's count. In a canary and in an A/B test each
    entity has one version. Rows whose candidate fails are scored by the champion.

    :param split: of the ledger as it is now.
    :param batch: the rows.
    :raises ConfigurationError: if there is no column of the entities.
    """
    champion = ModelRef(split.model, split.champion)
    if split.candidate is None:
        return SplitScored(_score(models, observations, champion, batch, batch.table))
    candidate = ModelRef(split.model, split.candidate)
    mask = _tried(split, batch)
    theirs = batch.table.filter(pa.array(mask))
    failed, tried = "", None
    try:
        tried = _score(models, observations, candidate, batch, theirs, shadow=split.shadow)
    except (UserCodeError, RejectedError) as error:
        failed = str(error)
    everything = split.shadow or bool(failed)
    mine = batch.table if everything else batch.table.filter(pa.array(~mask))
    scored = _score(models, observations, champion, batch, mine)
    # last: who looks meanwhile sees both arms of these rows, or none
    _expose(Exposures(observations), split, batch, mask, failed=bool(failed))
    return SplitScored(scored, tried, failed)


def _tried(split: Split, batch: Batch) -> NDArray[np.bool_]:
    """Say which rows the candidate answers."""
    if split.shadow:
        return _met(split, batch)
    return np.logical_and(assign_all(_entities(batch), split), _met(split, batch))


def _met(split: Split, batch: Batch) -> NDArray[np.bool_]:
    """Say which rows are of the stage: those from before it may be scored again, too."""
    times = batch.table[batch.time]
    since = pa.scalar(datetime.fromisoformat(split.since), times.type)
    return np.asarray(pc.greater(times, since).to_numpy(), np.bool_)


def _entities(batch: Batch) -> pa.ChunkedArray:
    if batch.entity not in batch.table.schema.names:
        known = ", ".join(batch.table.schema.names)
        msg = f"no column {batch.entity!r} of entities in {batch.dataset}; it has {known}"
        raise ConfigurationError(msg)
    return batch.table[batch.entity]


def _score(
    models: ModelStore,
    observations: Observations,
    ref: ModelRef,
    batch: Batch,
    table: pa.Table,
    *,
    shadow: bool = False,
) -> Scored:
    names = {"dataset": batch.dataset, "time": batch.time, "key": batch.key, "run": batch.run}
    return score(models, observations, ref, table, **names, shadow=shadow)


def _expose(
    exposures: Exposures, split: Split, batch: Batch, mask: NDArray[np.bool_], *, failed: bool
) -> None:
    """Put on record who met which version; of a shadow, only how it answered."""
    met = pa.table(
        {
            "key": batch.table[batch.key].cast(pa.string()),
            "entity": (batch.table[batch.key] if split.shadow else _entities(batch)).cast(
                pa.string()
            ),
            "arm": pa.array(np.where(mask, "candidate", "champion"), pa.string()),
            "exposed_at": batch.table[batch.time],
            "failed": pa.array(mask & failed, pa.bool_()),
        }
    )
    exposures.write(split, met.filter(pa.array(mask if split.shadow else _met(split, batch))))
