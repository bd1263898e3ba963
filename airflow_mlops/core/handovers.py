"""
What one task hands to the next, on record: written by who saw it, before anybody believes it.

Whoever may edit what Airflow carries from task to task cannot edit the ledger. So a task that
decides something puts on record what it found, and who goes on from it holds what arrived against
that.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from airflow_mlops.core.entries import Entry, State
from airflow_mlops.core.errors import HandoverChangedError, UnavailableError
from airflow_mlops.core.ledger import Ledger
from airflow_mlops.core.refs import canonical_json

LONGEST = 600
"""Letters up to which the value of a field is on record itself; of a longer one, its digest is."""

SHOWN = ("card", "line", "text")
"""Fields that people read: they may show rows, and the ledger is for ever, so it has a digest."""

_RACES = 10


def put(
    ledger: Ledger,
    model: str,
    step: str,
    about: str,
    value: Mapping[str, Any],
    *,
    by: str,
    version: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Entry:
    """
    Put on record what a step found; said again, nothing is added.

    :param step: name of the step, such as ``gate``.
    :param about: what it is about, such as ``decision 17``.
    :param value: what the next task is given; plain JSON types.
    :param by: the task that found it.
    :param version: version of the model it is about.
    :param facts: what else the entry says.
    :raises UnavailableError: if others always came first.
    """
    found = sealed(value)
    for _ in range(_RACES):
        newest = ledger.handed_over(model, step, about)
        if newest is not None and newest.evidence["value"] == found:
            return newest
        evidence = {**(facts or {}), "step": step, "about": about, "value": found}
        draft = Entry(model, "handover", "", by, f"{step} of {about}", version, evidence=evidence)

        def build(state: State, draft: Entry = draft) -> Entry:
            return replace(draft, epoch=state.epoch)

        key = f"handover:{step}:{about}:{newest.seq if newest else 0}"
        ledger.record(model, key, {"step": step, "about": about}, build)
    msg = f"{_RACES} others put the {step} of {about} of {model} on record; try again"
    raise UnavailableError(msg)


def check(ledger: Ledger, model: str, step: str, about: str, value: Mapping[str, Any]) -> Entry:
    """
    Hold what arrived against what is on record.

    :param value: as the task before returned it.
    :return: the entry that says the same.
    :raises HandoverChangedError: if it is not on record, or another one; both are named.
    """
    newest = ledger.handed_over(model, step, about)
    if newest is None:
        msg = (
            f"the {step} of {about} of {model} is not on record, so nobody saw what arrived here. "
            f"Clear the task that makes it: {step}"
        )
        raise HandoverChangedError(msg)
    differing = _differing(newest.evidence["value"], sealed(value))
    if differing:
        msg = (
            f"the {step} of {about} of {model} was edited on its way: {differing} (entry "
            f"{newest.seq}, by {newest.by}). Clear the task that makes it: {step}"
        )
        raise HandoverChangedError(msg)
    return newest


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is on record of a value: short fields as they are, of others the digest."""
    return {name: _sealed(name, part) for name, part in value.items()}


def _sealed(name: str, part: Any) -> Any:
    text = json.dumps(part, sort_keys=True, separators=(",", ":"))
    plain = len(text) <= LONGEST and not any(word in text for word in ("NaN", "Infinity"))
    plain = plain and name not in SHOWN
    return json.loads(text) if plain else f"sha256:{sha256(text.encode()).hexdigest()}"


def _differing(known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Name the fields that differ, with both values."""
    names = [n for n in {**known, **found} if _text(known, n) != _text(found, n)]
    return "; ".join(
        f"{name} is {_text(found, name)}, on record is {_text(known, name)}" for name in names
    )


def _text(value: Mapping[str, Any], name: str) -> str:
    return canonical_json(value[name]) if name in value else "nothing"
