"""
Who is champion after eight processes have decided at once.

    python benchmarks/races.py [--decisions 1000] [--promotions 80]

Each decision looks who is champion, and promotes another version if nobody has changed that
meanwhile. The peer is MLflow's alias alone: read, compare, write.
"""

import argparse
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
from mlflow import MlflowClient

from airflow_mlops.core.deployment.registry import Ask, ModelRegistry
from airflow_mlops.core.errors import ConcurrentPromotionError, UnavailableError
from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.refs import ModelRef, Recipe
from airflow_mlops.core.training.files import tree_digest
from airflow_mlops.core.training.models import DIGEST, RECIPE, ModelStore
from airflow_mlops.local import Services

PROCESSES, TRAINED = 8, 16

Promotions = list[tuple[int, int]]
"""Whom, or which change of champion, a promotion was decided against; and whom it promoted."""


def patiently(work: Callable[[], Any]) -> Any:
    """Ask again when somebody else came first 50 times, as a task's retry does."""
    while True:
        try:
            return work()
        except UnavailableError:
            time.sleep(0.1)


def bare_versions(url: str, model: str, number: int) -> None:
    client = MlflowClient(url, url)
    for _ in range(number):
        client.create_model_version(model, "s3://nowhere/x", await_creation_for=0)


def trained_versions(url: str, model: str, number: int) -> None:
    """Register versions of one small file, as training does."""
    models = ModelStore(MlflowClient(url, url))
    for _ in range(number):
        params = {"n": uuid.uuid4().hex}
        parts = ("d@1", "", "l@1", "", "y", "", "", "f@fs-0", "m:f", "", params, 0, "", "")
        recipe = Recipe(model, *parts)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model")
            path.mkdir()
            (path / "weights.txt").write_text(params["n"])
            run = models.start(model, recipe, {})
            models.log(run, params, {}, Path(folder))
            tags = {RECIPE: recipe.id, DIGEST: tree_digest(path)}
            models.register(model, run, tags)


def prepare(url: str, model: str, versions: int) -> None:
    client = MlflowClient(url, url)
    client.create_registered_model(model)
    bare_versions(url, model, 1)
    client.set_registered_model_alias(model, "champion", "1")
    bare_versions(url, model, versions)


def race_alias(seed: int, url: str, model: str, decisions: int) -> Promotions:
    """Read, compare and write the alias."""
    client, done = MlflowClient(url, url), []

    def champion() -> int:
        return int(client.get_registered_model(model).aliases["champion"])

    for number in range(decisions):
        before, version = champion(), 2 + seed * decisions + number
        if champion() == before:
            client.set_registered_model_alias(model, "champion", str(version))
            done.append((before, version))
    return done


def race_ledger(seed: int, dsn: str, model: str, decisions: int) -> Promotions:
    """Claim in the ledger alone."""
    ledger, done = Ledger(dsn), []
    for number in range(decisions):
        epoch, version = ledger.standing(model).epoch, 1 + seed * decisions + number

        def build(state: State, epoch: int = epoch, version: int = version) -> Entry:
            op = "promote" if state.epoch == epoch else "refuse"
            return Entry(model, op, "", "b", "r", version, epoch)

        ask = {"version": version}
        entry, _ = patiently(
            lambda ask=ask, build=build: ledger.record(model, str(ask), ask, build)
        )
        if entry.op == "promote":
            done.append((epoch, version))
    return done


def race_registry(seed: int, dsn: str, url: str, model: str, decisions: int) -> Promotions:
    """Promote: the files are verified, and the aliases follow."""
    registry = ModelRegistry(ModelStore(MlflowClient(url, url)), Ledger(dsn))
    rng, done = random.Random(seed), []
    for number in range(decisions):
        epoch, ref = registry.ledger.standing(model).epoch, ModelRef(model, rng.randint(1, TRAINED))
        ask = Ask(f"{seed}:{number}", "b", "r", {})
        try:
            patiently(
                lambda ref=ref, ask=ask, epoch=epoch: registry.promote(
                    ref, ask, epoch=epoch, order=None
                )
            )
            done.append((epoch, ref.version))
        except ConcurrentPromotionError:
            continue
    return done


def aliased(url: str, model: str) -> int:
    return int(MlflowClient(url, url).get_registered_model(model).aliases["champion"])


def on_record(server: Services, model: str) -> int:
    """Verify the chain, and count the decisions."""
    entries = Ledger(server.dsn("mlops")).state(model).entries
    with psycopg.connect(server.dsn("mlops")) as connection:
        row = connection.execute(
            "select count(distinct key) from mlops.decisions where model = %s", (model,)
        ).fetchone()
    assert row == (len(entries),)
    return len(entries)


class Race:
    """Eight processes, and one line of a table for each race."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool
        names = (
            "who decides",
            "decisions",
            "s",
            "promoted",
            "wrong champions",
            "on record",
            "ends",
        )
        print(f"| {' | '.join(names)} |\n|---|{'---:|' * 5}---|")

    def run(self, work: Callable[..., Promotions], *given: object) -> tuple[Promotions, float]:
        """Let all run at once."""
        start = time.perf_counter()
        asked: list[Future[Promotions]] = [
            self.pool.submit(work, seed, *given) for seed in range(PROCESSES)
        ]
        found = [one for a in asked for one in a.result()]
        return found, time.perf_counter() - start

    def show(
        self, who: str, number: int, found: tuple[Promotions, float], recorded: int, ends: str
    ) -> None:
        """Print one line; wrong is who replaced another champion than it was held against."""
        promoted, seconds = found
        wrong = len(promoted) - len(Counter(before for before, _ in promoted))
        row = f"{who} | {number:,} | {seconds:.0f} | {len(promoted):,} | {wrong:,} | {recorded:,}"
        print(f"| {row} | {ends} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_000)
    parser.add_argument("--promotions", type=int, default=80)
    asked = parser.parse_args()
    each, few = asked.decisions // PROCESSES, asked.promotions // PROCESSES
    with (
        tempfile.TemporaryDirectory(prefix="mlops-bench-") as home,
        Services(Path(home)) as server,
        ProcessPoolExecutor(PROCESSES, get_context("fork")) as pool,
    ):
        url, dsn = server.urls["mlflow"], server.dsn("mlops", user="mlops_task")
        ask = pool.submit(prepare, url, "alias", each * PROCESSES)
        ask.result()
        pool.submit(trained_versions, url, "full", TRAINED).result()
        race = Race(pool)
        found = race.run(race_alias, url, "alias", each)
        last = pool.submit(aliased, url, "alias").result()
        race.show("MLflow's alias alone", each * PROCESSES, found, 1, f"alias {last}")
        found = race.run(race_ledger, dsn, "ledger", each)
        recorded = on_record(server, "ledger")
        race.show("the ledger alone", each * PROCESSES, found, recorded, "")
        found = race.run(race_registry, dsn, url, "full", few)
        last, champion = (
            pool.submit(aliased, url, "full").result(),
            Ledger(dsn).state("full").champion,
        )
        recorded = on_record(server, "full")
        ends = f"alias {last}, ledger {champion}"
        race.show("ledger and MLflow, files verified", few * PROCESSES, found, recorded, ends)


if __name__ == "__main__":
    main()
