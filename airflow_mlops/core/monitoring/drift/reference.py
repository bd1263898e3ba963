"""What new rows are held against: the rows that a version learnt from."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.data.tables import Slice, Table
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.training import models
from airflow_mlops.core.training.versions import ModelVersion


def training_rows(store: DatasetStore, version: ModelVersion) -> Slice:
    """
    Return the rows that a version learnt from; nothing is read.

    :raises ModelNotFoundError: if it was not trained by this package.
    """
    since, until = (datetime.fromisoformat(version.fact(t)) for t in (models.SINCE, models.UNTIL))
    return store.open(DatasetRef.parse(version.fact(models.DATA))).between(since, until)


def compared(body: Mapping[str, Any], reference: Slice, current: Table) -> tuple[Profile, Profile]:
    """
    Return the stored profiles that a finding compared: of the reference, and of its window.

    :param body: finding of monitor ``drift`` about one window.
    :param reference: the training rows.
    :param current: version of the rows that the window is of.
    """
    (window,) = (w for w in current.windows() if w.index == body["window"])
    return reference.profile(), current.between(*window.span).profile()
