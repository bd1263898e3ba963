"""Put decisions on record: once per state of the data, or once per refused round."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.monitoring.citations import CITED
from airflow_mlops.core.refs import canonical_digest
from airflow_mlops.core.retraining.evidence import Decision, Evidence
from airflow_mlops.policy import Retrain, Round


def record(
    ledger: Ledger, evidence: Evidence, decision: Decision, policy: Retrain, *, by: str
) -> Entry:
    """Put a decision on record, exactly once for each state of the evidence."""
    asked = evidence.request.seq if evidence.request else 0
    version = evidence.champion.version if evidence.champion else 0
    waiting = evidence.waiting or 0
    key = f"decide:{evidence.data}:{evidence.labels}:{version}:{asked}:{waiting}"
    if evidence.dependencies:  # the same data, in another environment
        key += f":{canonical_digest(list(evidence.dependencies))[:8]}"
    body = {
        "trigger": decision.trigger,
        "burden": decision.burden,
        "params": dict(decision.params),
        "pins": dict(evidence.request.pins) if evidence.request else {},
        "facts": {k: None if v != v else v for k, v in decision.facts.items()},
        "policy": canonical_digest(policy.to_dict())[:16],
        "thresholds": policy.to_dict(),
        "data": evidence.data,
        "labels": evidence.labels,
        "now": evidence.now,
        "labelled_rows": evidence.labelled_rows,
        "labelled_until": evidence.labelled_until,
        "drifted": list(evidence.drifted),
        "dependencies": list(evidence.packages),
        "held": decision.held,
        "request": asked or None,
        "round": 1,
    } | ({CITED: dict(evidence.cited)} if evidence.cited else {})

    def build(state: State) -> Entry:
        return Entry(
            evidence.model,
            decision.op,
            "",
            by,
            decision.reason,
            evidence.champion.version if evidence.champion else None,
            state.epoch,
            evidence=body,
        )

    return ledger.record(evidence.model, key, {"op": "decide"}, build)[0]


def next_round(
    ledger: Ledger,
    refused: Entry,
    decision: Entry,
    *,
    share: float,
    by: str,
    further: Sequence[Round],
) -> Entry:
    """
    Start another round after a refusal, as the policy says; or tell people that none is left.

    :param refused: entry by which the gate refused the candidate.
    :param decision: entry of the ``retrain`` decision that led to it.
    :param share: of the span of the policy that the refused candidate has learnt from.
    :param by: the task that asks.
    :param further: what each round after the first changes.
    """
    number, rounds = int(decision.evidence["round"]), len(further) + 1
    body = {k: v for k, v in decision.evidence.items() if k != CITED} | {"after": refused.seq}
    if number < rounds:
        change = further[number - 1]
        op, reason = "retrain", f"round {number + 1} of {rounds} with {change}"
        reason = f"{reason}, after: {refused.reason}"
        body |= {"round": number + 1, "share": share, **_changed(body, change, share)}
    else:
        op, reason = "ask", f"{number} of {rounds} rounds refused, a person has to look"
        reason = f"{reason}: {refused.reason}"

    def build(state: State) -> Entry:
        return Entry(refused.model, op, "", by, reason, state.champion, state.epoch, evidence=body)

    key = f"round:{decision.seq}"
    return ledger.record(refused.model, key, {"op": "round"}, build)[0]


def _changed(before: Mapping[str, Any], change: Round, share: float) -> dict[str, Any]:
    """Return what is another one in the next round."""
    if change == Round():
        return {"share": share / 2}
    found: dict[str, Any] = {"params": {**before["params"], **change.params}}
    if change.window:
        found |= {"pins": {**before.get("pins", {}), "window": change.window}, "share": 1.0}
    return found
