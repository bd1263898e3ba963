"""
A process that imports everything once and then forks children that may die.

Reads a list of orders a line, which run at once: ``{"scenario": ..., "die": ..., "facts": {...}}``.
Answers one JSON line: how each child ended and what it returned. Dying is real:
``SIGKILL`` of the child by itself, at the named boundary; or from outside, after so many seconds:
``{"after": 0.2, ...}``. One with ``{"begin": 0.1, ...}`` begins so much later than the others.
"""

import gc
import itertools
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.faults import deciding, forgetting

WEEK = timedelta(days=7)


def dying(function: Callable[..., Any], when: str, number: int) -> Callable[..., Any]:
    """Wrap a boundary: die before it, or after it, when it is reached for the nth time."""
    reached = 0

    def run(*values: Any, **named: Any) -> Any:
        nonlocal reached
        reached += 1
        if reached < number:
            return function(*values, **named)
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*values, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        return found

    return run


def count_writes(when: str, number: int) -> None:
    """
    Die before or after the nth write to MLflow, PostgreSQL or a dataset, whoever does it.

    Between two writes the world is the same, so these are all the places where dying matters.
    """
    import deltalake
    import psycopg
    import requests

    from airflow_mlops.core.data.version_log import VersionLog

    reached = itertools.count(1)

    def changes(query: Any, *_: Any) -> bool:
        text = query if isinstance(query, str) else query.as_string()
        return text.lower().startswith(("insert", "update", "delete", "select mlops.forget"))

    places: dict[tuple[type, str], Callable[..., bool]] = {
        (requests.Session, "send"): lambda request, *_: request.method not in ("GET", "HEAD"),
        (psycopg.Cursor, "execute"): changes,
        (psycopg.Cursor, "executemany"): changes,
        (VersionLog, "write_file"): lambda *_: True,
        (VersionLog, "remove_file"): lambda *_: True,
        (VersionLog, "touch"): lambda *_: True,
        (deltalake.DeltaTable, "create_checkpoint"): lambda *_: True,
    }

    def counted(function: Callable[..., Any], writes: Callable[..., bool]) -> Any:
        def run(who: Any, *values: Any, **named: Any) -> Any:
            if not writes(*values) or next(reached) != number:
                return function(who, *values, **named)
            return dying(function, when, 1)(who, *values, **named)

        return run

    for (place, attribute), writes in places.items():
        setattr(place, attribute, counted(getattr(place, attribute), writes))


def meeting(function: Callable[..., Any], place: str, number: int) -> Callable[..., Any]:
    """Wrap a boundary: wait at it, the first time, until all have come."""

    def run(*values: Any, **named: Any) -> Any:
        Path(place, str(os.getpid())).touch()
        end = time.monotonic() + 10
        while len(os.listdir(place)) < number and time.monotonic() < end:
            time.sleep(0.005)
        return function(*values, **named)

    return run


def boundary(name: str) -> tuple[Any, str]:
    """Where the package touches the world: object and attribute."""
    from mlflow import MlflowClient

    from airflow_mlops.core.data import retention, version_log
    from airflow_mlops.core.ledger import Ledger
    from airflow_mlops.core.monitoring.observations import Observations

    places: dict[str, tuple[Any, str]] = {
        "sidecar": (version_log.VersionLog, "write_file"),
        "commit": (version_log, "write_deltalake"),
        "restore": (version_log.VersionLog, "restore"),
        "mark": (retention, "mark_removed"),
        "vacuum": (version_log.VersionLog, "vacuum"),
        "insert": (Ledger, "append"),
        "finding": (Observations, "record_all"),
    }
    return places.get(name) or (MlflowClient, name)


def append(facts: dict[str, Any]) -> Any:
    """Append the first weeks of a Parquet file to a dataset."""
    import pyarrow.parquet as pq

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.sources import ArrowSource

    rows = pq.read_table(facts["rows"]).slice(0, facts["weeks"] * 168)
    commit = DatasetStore(facts["root"]).append(
        "d",
        ArrowSource(rows, "id", "at"),
        app_key=facts["key"],
        time="at",
        key="id",
        window=WEEK,
        author=facts.get("author", ""),
    )
    return commit.to_dict()


def restore(facts: dict[str, Any]) -> Any:
    """Restore the first version of the dataset."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.refs import DatasetRef

    store = DatasetStore(facts["root"])
    return store.restore(DatasetRef("d", facts["version"]), app_key=facts["key"]).to_dict()


def collect(facts: dict[str, Any]) -> Any:
    """Remove what no version but the newest needs, however young."""
    from airflow_mlops.core.data import retention
    from airflow_mlops.core.data.datasets import DatasetStore

    retention.SHORTEST = timedelta(0)
    store = DatasetStore(facts["root"])
    return retention.remove(store, "d", keep=(), older=timedelta(0), why="test").to_dict()


def patient(facts: dict[str, Any]) -> Any:
    """Do something to a dataset that others change, as Airflow does: again, if it is not free."""
    work = {f.__name__: f for f in (append, restore, forgetting.forget, collect)}[facts["step"]]
    return deciding.patiently(lambda: work(facts), tries=50)


def fill(facts: dict[str, Any]) -> Any:
    """Append to a disk that has room for so many bytes a file; says how that ended."""
    import resource

    from airflow_mlops.core.errors import MlopsError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (facts["room"], facts["room"]))
    try:
        return append(facts)
    except MlopsError as error:
        return {"error": type(error).__name__, "message": str(error)}


def train(facts: dict[str, Any]) -> Any:
    """Train the recipe that the facts describe."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.features import archive
    from airflow_mlops.core.data.selection import Selection
    from airflow_mlops.core.metrics import loss_function
    from airflow_mlops.core.refs import Recipe
    from airflow_mlops.core.training.fit import Training, train_model
    from airflow_mlops.core.training.provenance import Environment

    sys.path.insert(0, facts["code"])
    recipe = Recipe.from_dict(facts["recipe"])
    chosen = Selection(recipe.data, recipe.labels, "up", recipe.since, recipe.until)
    training = Training(
        recipe,
        chosen.read(DatasetStore(facts["root"])),
        archive(facts["build"]),
        archive(facts["fit"]),
        Environment((), "3", "test"),
        {"contract": {"columns": []}},
    )
    loss = ("brier", loss_function("brier"))
    return train_model(
        deciding.models(facts), training, loss=loss, tags=facts.get("tags", {})
    ).to_dict()


def tick(facts: dict[str, Any]) -> Any:
    """Measure what the champion served, and decide; returns the number of the entry."""
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.ledger import Ledger
    from airflow_mlops.core.metrics import loss_function
    from airflow_mlops.core.monitoring.observations import Observations
    from airflow_mlops.core.monitoring.performance import PerformanceMonitor
    from airflow_mlops.core.refs import ModelRef
    from airflow_mlops.core.retraining.decide import decide
    from airflow_mlops.core.retraining.gathering import Gathering
    from airflow_mlops.core.retraining.record import record
    from airflow_mlops.policy import Probe, Regret, Retrain

    sys.path.insert(0, facts["code"])
    store, ledger = DatasetStore(facts["root"]), Ledger(facts["dsn"])
    models, observations = deciding.models(facts), Observations(facts["dsn"])
    ref, policy = ModelRef.parse(facts["ref"]), Retrain((Probe(), Regret()))
    data, labels = (store.open(store.latest(n)) for n in (ref.name, f"{ref.name}.labels"))
    PerformanceMonitor(
        store, models, observations, data, labels, "up", "brier", loss_function("brier")
    ).measure(ref)
    gathering = Gathering(ref.name, "brier", models, observations)
    evidence = gathering.evidence(ledger.state(ref.name), data, labels, policy)
    entry = record(ledger, evidence, decide(evidence, policy), policy, by="tick")
    return {"seq": entry.seq, "op": entry.op}


SCENARIOS = {
    function.__name__: function
    for function in (
        *(append, restore, collect, patient, fill, train, tick),
        *(deciding.promote, deciding.vote, deciding.stage, deciding.guard),
        *(deciding.storm, deciding.bustle),
        *(forgetting.forget, forgetting.forget_person, forgetting.forget_each, forgetting.read),
    )
}


def child(order: dict[str, Any], answer: int) -> None:
    """Run one scenario in this process, and write what it returned."""
    warnings.simplefilter("ignore")
    time.sleep(order.get("begin", 0))
    if "die" in order:
        name, when, *number = order["die"].split(":")
        if name == "write":
            count_writes(when, int(number[0]))
            name = "none"
    if "die" in order and name != "none":
        place, attribute = boundary(name)
        wrapped = dying(getattr(place, attribute), when, int(*number or (1,)))
        setattr(place, attribute, wrapped)
    if "meet" in order:
        place, attribute = boundary(order["meet"])
        wrapped = meeting(getattr(place, attribute), order["place"], order["number"])
        setattr(place, attribute, wrapped)
    found = SCENARIOS[order["scenario"]](order["facts"])
    os.write(answer, json.dumps(found).encode())


def fork(order: dict[str, Any]) -> tuple[int, int]:
    """Start a child; returns its id and the end of a pipe on which it answers."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:
        os.close(read)
        os.dup2(2, 1)  # MLflow prints
        child(order, write)
        code = 0
    except BaseException:  # noqa: BLE001  (a fork must never return)
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, pipe: int) -> dict[str, Any]:
    """Wait for a child; how it ended and what it returned."""
    with os.fdopen(pipe, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "found": json.loads(data) if data else None,
    }


def main() -> None:
    """Import what is slow to import, and then serve orders."""
    warnings.simplefilter("ignore")
    slow = "mlflow.pyfunc markdown_it pandas sklearn.linear_model skops.io scipy.stats"
    for name in slow.split():
        __import__(name)
    for name in ("deployment.forgetting", "training.fit"):
        __import__(f"airflow_mlops.core.{name}")
    gc.freeze()  # else each child looks through all of this again and again
    print("ready", flush=True)
    for line in sys.stdin:
        orders = json.loads(line)
        started = [fork(order) for order in orders]
        for order, (pid, _) in zip(orders, started, strict=True):
            if "after" in order:
                time.sleep(order["after"])
                os.kill(pid, signal.SIGKILL)  # who has ended is not waited for yet: the id is his
        print(json.dumps([ended(*one) for one in started]), flush=True)


if __name__ == "__main__":
    main()
