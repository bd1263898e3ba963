"""Scenarios of the nursery that forget a person, and read meanwhile."""

import time
from pathlib import Path
from typing import Any

from tests.faults import deciding


def forget(facts: dict[str, Any]) -> Any:
    """Forget some keys of the dataset."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.forgetting import forget as forget_rows

    return forget_rows(DatasetStore(facts["root"]), "d", facts["keys"]).to_dict()


def forget_person(facts: dict[str, Any]) -> Any:
    """Forget some keys of a dataset everywhere."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.deployment.forgetting import forget_person as forget_everywhere
    from airflow_mlops.core.deployment.registry import Ask
    from airflow_mlops.core.monitoring.observations import Observations

    return forget_everywhere(
        deciding.registry(facts),
        DatasetStore(facts["root"]),
        Observations(facts["dsn"]),
        facts["name"],
        facts["keys"],
        ask=Ask(facts["key"], "me", "they asked", {}),
    ).to_dict()


def forget_each(facts: dict[str, Any]) -> Any:
    """Forget one key of a dataset after the other."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.forgetting import forget

    return [forget(DatasetStore(facts["root"]), "d", [key]).rows for key in facts["keys"]]


def read(facts: dict[str, Any]) -> Any:
    """
    Read a version all the time, anew and by a table that was opened once, until all keys are gone.

    Returns how often it was read, how often it was told to try again, and what else came of it.
    """
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.digest import digest_of
    from airflow_mlops.core.errors import MlopsError, UnavailableError
    from airflow_mlops.core.refs import DatasetRef

    store, ref = DatasetStore(facts["root"]), DatasetRef("d", facts["version"])
    asked = {int(key) for key in facts["keys"]}
    found: dict[str, Any] = {"read": 0, "told": 0, "old": 0, "wrong": []}
    opened, left, end = store.open(ref), asked, time.monotonic() + 60
    while left and time.monotonic() < end:
        for what, old in (("read", False), ("old", True)):
            try:
                table = opened if old else store.open(ref)
                rows, rest = table.between().to_arrow(), table.between(table.origin).profile().rows
            except UnavailableError:
                found["told"] += 1
                continue
            except MlopsError as error:
                found["wrong"].append(f"{type(error).__name__}: {error}")
                continue
            now = asked & {*rows["id"].to_pylist()}
            if str(digest_of(rows.to_batches())) != table.digest or rest != rows.num_rows:
                found["wrong"].append("rows and record do not belong together")
            if not old and now - left:
                found["wrong"].append("rows came back")
            left = left if old else now
            found[what] += 1
        Path(facts["place"], "reader").touch()
    return found | {"left": len(left)}
