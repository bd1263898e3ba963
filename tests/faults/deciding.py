"""Scenarios of the nursery that decide who is champion."""

import functools
import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any


def models(facts: dict[str, Any]) -> Any:
    """Open the model versions in MLflow."""
    from mlflow import MlflowClient

    from airflow_mlops.core.training.models import ModelStore

    return ModelStore(MlflowClient(tracking_uri=facts["mlflow"], registry_uri=facts["mlflow"]))


def registry(facts: dict[str, Any]) -> Any:
    """Open MLflow and the ledger together."""
    from airflow_mlops.core.deployment.registry import ModelRegistry
    from airflow_mlops.core.ledger import Ledger

    moved = facts.get("moved_alias", "restore")
    return ModelRegistry(models(facts), Ledger(facts["dsn"]), moved)


def promote(facts: dict[str, Any]) -> Any:
    """Promote, propose, refuse, roll back or reconcile; a refusal is an answer."""
    from airflow_mlops.core.deployment.registry import Ask
    from airflow_mlops.core.errors import RejectedError
    from airflow_mlops.core.refs import ModelRef

    found, op = registry(facts), facts.get("op", "promote")
    ask = Ask(facts.get("key", ""), "tests", "better", {})
    ref = ModelRef.parse(facts["ref"])
    try:
        if op == "reconcile":
            found.reconcile(ref.name)
            return None  # what there was to repair is another answer each time
        if op == "rollback":
            return found.rollback(ref.name, ask).to_dict()
        if op == "refuse":
            return found.refuse(ref, ask).to_dict()
        claim = {"promote": found.promote, "propose": found.propose}[op]
        return claim(ref, ask, epoch=facts["epoch"], order=facts["order"]).to_dict()
    except RejectedError as error:
        return {"op": type(error).__name__}


def vote(facts: dict[str, Any]) -> Any:
    """Say yes to a proposal; returns who has said yes by then."""
    from airflow_mlops.core.deployment.approval import Answer, Bound
    from airflow_mlops.core.deployment.approval import vote as say_yes
    from airflow_mlops.core.ledger import Entry, Ledger

    proposal, answer = Entry(**facts["proposal"]), Answer("promote", "", facts["who"], facts["who"])
    said = say_yes(Ledger(facts["dsn"]), proposal, answer, Bound.of(proposal, {}))
    return [one.id for one in said]


def stage(facts: dict[str, Any]) -> Any:
    """Begin a stage, or look at it and end it."""
    import pyarrow as pa

    from airflow_mlops.core.deployment.rolling import Turn, advance
    from airflow_mlops.core.ledger import Entry
    from airflow_mlops.core.monitoring.observations import Observations
    from airflow_mlops.core.rollout.exposures import Exposures
    from airflow_mlops.policy import Canary

    word = Canary(percent=50, hold="1d", least=100, labelled=0)
    turn = Turn(Entry(**facts["proposal"]), word, 0, "brier", "tests", baseline=0.2)
    none = pa.table({"key": pa.array([], pa.string()), "label": pa.array([], pa.float64())})
    now, exposures = datetime.fromisoformat(facts["now"]), Exposures(Observations(facts["dsn"]))
    look = advance(registry(facts), exposures, turn, now=now, labels=lambda _: none)
    return [look.status, look.answer]


def guard(facts: dict[str, Any]) -> Any:
    """Look whether the champion makes way for the one before it."""
    import sys

    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.selection import Selection
    from airflow_mlops.core.deployment.registry import Ask
    from airflow_mlops.core.monitoring.observations import Observations
    from airflow_mlops.core.refs import ModelRef
    from airflow_mlops.core.retraining.guard import Guard
    from airflow_mlops.policy import Decay

    sys.path.insert(0, facts["code"])
    found, store = registry(facts), DatasetStore(facts["root"])
    name = ModelRef.parse(facts["ref"]).name
    champion = ModelRef(name, found.ledger.standing(name).champion)
    rows = Selection(facts["data"], facts["labels"], "up", "", "")
    seen = Guard(found, store, Observations(facts["dsn"]), "brier").look(
        rows, [Decay(sustained="1 of 1")], Ask("guard", facts["by"], "", {}), champion=champion
    )
    return seen.to_dict()


def patiently(work: Callable[[], Any], tries: int = 20) -> Any:
    """Ask again while something does not answer, as Airflow does."""
    from airflow_mlops.core.errors import UnavailableError

    for left in reversed(range(tries)):
        try:
            return work()
        except UnavailableError:
            if not left:
                raise
            time.sleep(0.2)
    return None


def _claim(model: str, op: str, version: int, seen: int, who: int) -> Callable[[Any], Any]:
    from airflow_mlops.core.ledger import Entry

    def build(state: Any) -> Any:
        to = (state.previous or version) if op == "rollback" else version
        claims = op in ("promote", "rollback")
        late = claims and (seen != state.epoch or (op == "rollback" and not state.previous))
        evidence = {"against": seen, "asked": op}
        made = "refuse" if late else op
        return Entry(model, made, "", f"p{who}", "r", to, state.epoch, evidence=evidence)

    return build


def storm(facts: dict[str, Any]) -> Any:
    """
    Decide so often, in the ledger alone; returns what was acknowledged.

    A claim names the change of champion that it was made against; if another one came in between,
    it is refused. Now and then the answer was lost, and the same is asked again.
    """
    from airflow_mlops.core.ledger import Ledger

    ledger, rng, who = Ledger(facts["dsn"]), random.Random(facts["seed"]), facts["seed"]
    said = []
    for number in range(facts["decisions"]):
        model = rng.choice(facts["models"])
        op = rng.choices(("promote", "rollback", "refuse", "vote"), (5, 2, 2, 1))[0]
        version, key = rng.randint(1, 50), f"{who}:{number}"
        seen = patiently(functools.partial(ledger.standing, model)).epoch

        build = _claim(model, op, version, seen, who)
        ask = {"op": op, "version": version}
        for _ in range(2 if rng.random() < 0.1 else 1):
            work = functools.partial(ledger.record, model, key, ask, build)
            entry, _ = patiently(work)
            said.append([model, key, entry.seq, entry.op, entry.version, entry.hash])
    return said


def bustle(facts: dict[str, Any]) -> Any:
    """Decide so often in the ledger and in MLflow; returns what was acknowledged."""
    from airflow_mlops.core.deployment.registry import Ask
    from airflow_mlops.core.errors import ConfigurationError, RejectedError
    from airflow_mlops.core.refs import ModelRef

    found, rng, who = registry(facts), random.Random(facts["seed"]), facts["seed"]
    said = []
    for number in range(facts["decisions"]):
        ref = ModelRef.parse(rng.choice(facts["refs"]))
        op = rng.choices(("promote", "rollback", "refuse", "propose"), (5, 2, 1, 2))[0]
        ask = Ask(f"{who}:{number}", f"p{who}", "better", {})
        epoch = patiently(functools.partial(found.ledger.standing, ref.name)).epoch
        claim = {"epoch": epoch, "order": None if op == "promote" else 1}
        work = functools.partial(getattr(found, op), ref, ask, **claim)
        if op in ("rollback", "refuse"):
            work = functools.partial(getattr(found, op), ref.name if op == "rollback" else ref, ask)
        try:
            entry = patiently(work)
            said.append([ref.name, ask.key, entry.op, entry.version])
        except RejectedError:
            said.append([ref.name, ask.key, "refuse", ref.version])
        except ConfigurationError:  # nothing to go back to
            continue
    return said
