"""Verbs about a policy: what it would do next, and what it would have done over a past."""

import json
import logging
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.cli.verb import (
    conn_id,
    line_of,
    open_datasets,
    open_models,
    state_of,
    verb,
)
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.ledger import DECISIONS, Entry
from airflow_mlops.core.lines import written
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.policy import Probe, Retrain

if TYPE_CHECKING:
    from airflow_mlops.core.data.datasets import DatasetStore
    from airflow_mlops.core.data.tables import Table

RECENT = 50
"""Findings among which that of the newest rows is looked for."""


@verb
def plan(args: Namespace) -> tuple[dict[str, Any], str]:
    """What the next tick would decide on the newest versions, with the policy of the last one."""
    from airflow_mlops.core.retraining.decide import decide
    from airflow_mlops.core.retraining.gathering import Gathering

    state, store = state_of(args.model), open_datasets()
    last = state.last(*DECISIONS)
    if last is None:
        msg = f"no tick of {args.model}__monitor has decided yet, so its policy is not on record"
        raise ConfigurationError(msg)
    policy = Retrain.from_dict(last.evidence["thresholds"])
    data, labels = (_newest(store, name) for name in (args.model, f"{args.model}.labels"))
    observations = LedgerHook(conn_id("ledger")).observations()
    contract = observations.read(args.model, "contract", last=RECENT)
    seen = [o.body for o in contract if o.body.get("dataset") == str(data.ref)]
    broken = seen[-1]["fatal"] if seen else ()
    metric = _metric(policy, observations.read(args.model, "performance", last=1))
    gathering = Gathering(args.model, metric, open_models(), observations)
    evidence = gathering.evidence(state, data, labels, policy, broken=broken)
    decision = decide(evidence, policy)
    known = (last.evidence["data"], last.evidence["labels"])
    same = known == (evidence.data, evidence.labels)
    lines = [
        f"{args.model} on {evidence.data} (to {evidence.now}) and {evidence.labels} "
        f"(to {evidence.labelled_until or 'nothing'})",
        f"the next tick would say {decision.op} ({decision.trigger}): {decision.reason}",
        *_conditions(decision.facts.get("conditions", ())),
    ]
    if same:
        lines.append(f"nothing is new since entry {last.seq}; new rows or labels will be weighed")
    found = {"model": args.model, "decision": decision.to_dict(), "new": not same}
    return found | {"data": evidence.data, "labels": evidence.labels}, written(lines)


@verb
def why(args: Namespace) -> tuple[dict[str, Any], str]:
    """The last decisions: evidence, thresholds, and what would have to change."""
    if args.last < 1:
        msg = f"--last is {args.last}; one entry or more can be shown"
        raise ConfigurationError(msg)
    decided = [e for e in state_of(args.model).entries if e.op != "handover"]
    entries = decided[-args.last :]
    lines = [line for entry in entries for line in (line_of(entry), *_evidence(entry))]
    return {"model": args.model, "entries": [e.to_dict() for e in entries]}, written(lines)


@verb
def simulate(args: Namespace) -> tuple[dict[str, Any], str]:
    """What a policy would have done over a table of the past, and what that would be worth."""
    from airflow_mlops.core.retraining.picture import check_plot, draw
    from airflow_mlops.lifecycle.files import read_lifecycle
    from airflow_mlops.lifecycle.simulate import Past
    from airflow_mlops.lifecycle.simulate import simulate as replay

    if args.plot:
        check_plot(Path(args.plot))
    life = read_lifecycle(Path(args.dags), args.model)
    policy = read_lifecycle(Path(args.policy), args.policy_model) if args.policy else None
    past = Past(
        Path(args.data),
        args.window,
        args.warmup,
        args.label_delay,
        args.shuffle,
        args.time,
        args.label,
    )
    result = replay(life, past, policy=policy)
    if args.plot:
        logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it would talk into --json
        draw(result, Path(args.plot))
    return result.to_dict(), str(result)


def _newest(store: "DatasetStore", name: str) -> "Table":
    ref = store.latest(name)
    if ref is None:
        msg = f"no dataset {name!r} yet: the first tick of the monitor makes it"
        raise ConfigurationError(msg)
    return store.open(ref)


def _evidence(entry: Entry) -> list[str]:
    """What an entry was decided on, indented."""
    evidence = dict(entry.evidence)
    facts = dict(evidence.get("facts") or {})
    conditions = facts.pop("conditions", ())
    evidence["facts"] = facts
    shown = ("facts", "thresholds", "verdict", "answer", "params", "drifted")
    return [
        *_conditions(conditions),
        *(
            f"       {name}: {json.dumps(evidence[name], default=str)}"
            for name in shown
            if evidence.get(name)
        ),
    ]


def _conditions(conditions: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each rule: whether it asked, and how far it was from that."""
    return [f"       {'*' if c['asks'] else ' '} {c['trigger']:<13}{c['text']}" for c in conditions]


def _metric(policy: Retrain, performance: Sequence[Observation]) -> str:
    """Return the loss that the model is measured in."""
    probe = policy.trigger(Probe)
    if probe is not None:
        return probe.metric
    return str(performance[-1].body.get("metric", "brier")) if performance else "brier"
