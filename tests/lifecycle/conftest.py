"""Fixtures of the lifecycle: a policy to vary."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.operators import airflow_home  # noqa: F401  (before anything of Airflow)


@pytest.fixture
def policy() -> Callable[..., dict[str, Any]]:
    """``policy(**changes)``: arguments of a lifecycle, some of them changed."""
    from airflow_mlops.policy import Approval, Table, Window

    def make(**changes: Any) -> dict[str, Any]:
        table = Table("warehouse", "public.rows", "id", "at", "up", "public.labels")
        usual = {
            "name": "churn",
            "data": table,
            "select": Window("182d"),
            "features": "code.features:build",
            "train": "code.train:fit",
            "approve": Approval(by=["ml-lead"]),
        }
        return usual | changes

    return make
