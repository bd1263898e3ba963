"""What new rows are held against: the rows that a version learnt from."""

from datetime import datetime

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.tables import Slice
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.training import models
from airflow_mlops.core.training.models import ModelVersion


def training_rows(store: DatasetStore, version: ModelVersion) -> Slice:
    """
    Return the rows that a version learnt from; nothing is read.

    :raises ModelNotFoundError: if it was not trained by this package.
    """
    since, until = (datetime.fromisoformat(version.fact(t)) for t in (models.SINCE, models.UNTIL))
    return store.open(DatasetRef.parse(version.fact(models.DATA))).between(since, until)
