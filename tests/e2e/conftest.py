"""A whole stack of the tests' own, with a Dags folder that a test may change."""

import gc
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_mlops.local import Stack
from tests.e2e.collector import Collector

ROOT = Path(__file__).parents[2]

SOON = """
for dag in life.dags:
    for task in dag.tasks:
        task.retry_delay = timedelta(seconds=1)
        if hasattr(task, "poke_interval"):
            task.poke_interval = 8.0  # sooner, and Airflow takes the end of one look for a failure
"""

STAGES = 'rollout=[Shadow(hold="7d"), Canary(percent=50, hold="7d"), Full()],'

ARRIVALS = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher

from airflow_mlops.triggers.polling import RowsArrivedTrigger

trigger = RowsArrivedTrigger(table="electricity", time="observed_at", key="id", interval=0.5)
rows = Asset("rows", uri="mlops://rows/new", watchers=[AssetWatcher(name="rows", trigger=trigger)])
with DAG("arrivals", schedule=[rows], catchup=False, is_paused_upon_creation=False):
    EmptyOperator(task_id="seen")
"""

WAITS_TO_BE_KILLED = """
def fit(X, y, **given):
    mark = Path({mark!r})
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(120)
    return really_fit(X, y, **given)
"""


@dataclass(frozen=True)
class World:
    """
    A running stack.

    :param mark: holds the process id of the training function; it waits there to be killed.
    :param collector: where Airflow's metrics go.
    """

    stack: Stack
    mark: Path
    collector: Collector


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The demo's Dag on a stack of its own; the path is short, it has to hold a socket."""
    root = Path(tempfile.mkdtemp(prefix="e2e-"))
    mark = write_project(root)
    stack, collector = Stack(root / "home", root / "dags"), Collector()
    (root / "home" / "airflow").mkdir()
    (root / "home" / "airflow" / "airflow.cfg").write_text("[metrics]\notel_on = True\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(root / "tmp"))  # a killed process leaves its scratch behind
        patch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", collector.url)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # components outlive what started them, on purpose
                stack.up()
                gc.collect()
            yield World(stack, mark, collector)
        finally:
            stack.down()
            collector.close()
            shutil.rmtree(root)


def write_project(root: Path) -> Path:
    """Copy the use case, its retries made quick; its first training waits to be killed."""
    (root / "tmp").mkdir(mode=0o777)
    (root / "dags").mkdir()
    shutil.copytree(ROOT / "include", root / "include")
    policy = (ROOT / "dags" / "electricity.py").read_text()
    policy = policy.replace("\nLifecycle(", "\nlife = Lifecycle(")
    approve = 'approve=Approval(by=["ml-lead"], within="2d"),'
    assert approve in policy
    policy = policy.replace(approve, f"{approve}\n    {STAGES}")
    words = "from airflow_mlops.policy import ("
    policy = policy.replace(words, f"{words}Canary, Full, Shadow, ")
    (root / "dags" / "electricity.py").write_text(
        f"from datetime import timedelta\n\n{policy}{SOON}"
    )
    (root / "dags" / "arrivals.py").write_text(ARRIVALS)
    mark, train = root / "mark", root / "include" / "electricity" / "train.py"
    code = train.read_text().replace("def fit(", "def really_fit(")
    code = f"import os\nimport time\nfrom pathlib import Path\n{code}"
    train.write_text(code + WAITS_TO_BE_KILLED.format(mark=str(mark)))
    return mark
