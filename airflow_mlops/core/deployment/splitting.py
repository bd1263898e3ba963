"""Score during a rollout: who is whose by the split, what was met is on record."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.deployment.scoring import Batch, Scored, score, score_rows
from airflow_mlops.core.errors import ConfigurationError, RejectedError, UserCodeError
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout.assignment import Split, assign_all
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.core.training.models import ModelStore


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
    _entities(batch)  # a name that is misspelt shows before a stage needs it
    if split.candidate is None:
        return SplitScored(score(models, observations, champion, batch))
    met, mask = _assigned(split, batch)
    refused, failed, tried = mask.copy(), "", None
    try:
        candidate, theirs = ModelRef(split.model, split.candidate), batch.part(mask)
        how = {"shadow": split.shadow, "aside": False}
        tried, good = score_rows(models, observations, candidate, theirs, **how)
        refused[mask] = ~good
    except (UserCodeError, RejectedError) as error:
        failed = str(error)
    mine = np.ones_like(mask) if split.shadow else ~mask | refused
    scored, good = score_rows(models, observations, champion, batch.part(mine))
    refused[mine] &= good  # what the champion cannot answer either is no fault of the candidate
    # last: who looks meanwhile sees both arms of these rows, or none
    shown = mask if split.shadow else met
    met_by = _exposures(split, batch, mask, refused)
    Exposures(observations).write(split, met_by.filter(pa.array(shown)))
    return SplitScored(scored, tried, failed)


def _assigned(split: Split, batch: Batch) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """
    Say which rows are of the stage, and which of them the candidate answers.

    Rows from before it may be scored again, too; those of nobody are the champion's.
    """
    times = batch.table[batch.time]
    since = pa.scalar(datetime.fromisoformat(split.since), times.type)
    met = np.asarray(pc.greater(times, since).to_numpy(), np.bool_)
    if split.shadow:
        return met, met
    entities = _entities(batch)
    met &= np.asarray(pc.fill_null(pc.not_equal(entities.cast(pa.string()), ""), False))
    mask = met.copy()
    mask[met] = assign_all(entities.filter(pa.array(met)), split)
    return met, mask


def _entities(batch: Batch) -> pa.ChunkedArray:
    name, known = batch.entity or batch.key, batch.table.schema.names
    if name not in known:
        msg = f"no column {name!r} of entities in {batch.dataset}; it has {', '.join(known)}"
        raise ConfigurationError(msg)
    return batch.table[name]


def _exposures(
    split: Split, batch: Batch, mask: NDArray[np.bool_], refused: NDArray[np.bool_]
) -> pa.Table:
    """Say of every row who met which version; of a shadow, only how it answered."""
    entities = batch.table[batch.key] if split.shadow else _entities(batch)
    return pa.table(
        {
            "key": batch.table[batch.key].cast(pa.string()),
            "entity": entities.cast(pa.string()),
            "arm": pa.array(np.where(mask, "candidate", "champion"), pa.string()),
            "exposed_at": batch.table[batch.time],
            "failed": pa.array(mask & refused, pa.bool_()),
        }
    )
