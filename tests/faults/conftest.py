"""A nursery of children that may be killed, and the files they work on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Nursery:
    """Runs scenarios of ``nursery.py`` in processes of their own."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        here, root = Path(__file__).parent, Path(__file__).parents[2]
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "TMPDIR": str(scratch),  # who is killed does not tidy up
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "DO_NOT_TRACK": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(here / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = False

    def run(self, *orders: dict[str, Any]) -> list[dict[str, Any]]:
        """Run scenarios at once, each in a fresh process."""
        if not self.ready:
            assert self.process.stdout.readline() == "ready\n"
            self.ready = True
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self, scenario: str, facts: dict[str, Any], die: str) -> None:
        """Run a scenario that is killed at a boundary."""
        (ended,) = self.run({"scenario": scenario, "facts": facts, "die": die})
        assert ended["signal"] == 9, ended

    def cut(self, scenario: str, facts: dict[str, Any], after: float) -> bool:
        """Kill a scenario after so many seconds; says whether it was still at work."""
        (ended,) = self.run({"scenario": scenario, "facts": facts, "after": after})
        return ended["signal"] == 9

    def succeed(self, scenario: str, facts: dict[str, Any]) -> Any:
        """Run a scenario in a fresh process; returns its answer."""
        (ended,) = self.run({"scenario": scenario, "facts": facts})
        assert ended["code"] == 0, ended
        return ended["found"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    found = Nursery(tmp_path_factory.mktemp("nursery"))
    yield found
    found.close()


@pytest.fixture
def two_versions(tmp_path, labelled_weeks, append) -> dict[str, Any]:
    """Two versions: the second one corrects the newest week of the first, and has two more."""
    import pyarrow.parquet as pq

    from airflow_mlops.core.data.datasets import DatasetStore

    weeks, root = labelled_weeks(), str(tmp_path / "datasets")
    values = [v + 1 for v in weeks.rows["x"].to_pylist()]
    append(DatasetStore(root), "d", weeks.source(0, 3), "one")
    append(DatasetStore(root), "d", weeks.source(0, 5, x=values[: 5 * 168]), "two")
    rows = tmp_path / "rows.parquet"
    pq.write_table(weeks.rows, rows)
    return {"root": root, "rows": str(rows), "weeks": 8, "version": 1, "key": "k"}
