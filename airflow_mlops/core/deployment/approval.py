"""An approval: what it is bound to, who may give it, and what makes an answer one that counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from airflow_mlops.core.entries import Entry, State
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.ledger import Ledger
from airflow_mlops.core.refs import canonical_digest
from airflow_mlops.policy import duration

ANSWERS = ("promote", "reject", "retrain")

NOBODY = "nobody"
"""Who answered when the time was over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a person said to a candidate.

    :param by: name of the person, as it is put on record.
    :param id: the person's id in the auth manager; empty: nobody answered.
    :param params: for ``retrain``: parameters of the training function.
    :param window: for ``retrain``: how much history to learn from, such as ``"91d"``; empty: that
        of the policy.
    :param at: when, ISO 8601.
    """

    choice: str
    note: str = ""
    by: str = NOBODY
    id: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    window: str = ""
    at: str = ""

    def problem(self, accepts: Sequence[str] | None) -> str:
        """
        Say why nothing can be done with the answer; empty if it can.

        :param accepts: parameters of the training function; ``None``: it takes any.
        """
        if self.choice not in ANSWERS:
            return f"{self.choice!r} is no answer; known: {', '.join(ANSWERS)}"
        if not isinstance(self.params, Mapping):
            return f"params are {self.params!r}; write an object such as {{'max_iter': 200}}"
        changes = {"params": dict(self.params), "window": self.window}
        if self.choice != "retrain":
            given = ", ".join(name for name, value in changes.items() if value)
            return f"{given} belong to retrain, not to {self.choice}" if given else ""
        try:
            json.dumps(changes, allow_nan=False)
            if self.window:
                duration(self.window)
        except (TypeError, ValueError) as error:
            return str(error)
        unknown = [] if accepts is None else [name for name in self.params if name not in accepts]
        if unknown:
            known = ", ".join(accepts or ()) or "none"
            return f"the training function takes no parameter {', '.join(unknown)}; it has {known}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the answer that :meth:`to_dict` wrote."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Bound:
    """
    What people see when they answer, and nothing else may be promoted by their answer.

    :param proposal: entry of the ledger that submitted the candidate.
    :param digest: SHA-256 over the paths and bytes of its files.
    :param recipe: id of its recipe.
    :param policy: digest of the policy in force; empty: none was given.
    """

    proposal: int
    digest: str
    recipe: str
    policy: str

    @classmethod
    def of(cls, proposal: Entry, policy: Mapping[str, Any]) -> Self:
        """
        Return what an answer to a proposal is bound to.

        :param policy: gates, approval, rollout and rollback as plain JSON types.
        """
        facts = proposal.evidence
        known = canonical_digest(dict(policy))[:16] if policy else ""
        return cls(proposal.seq, facts["digest"], facts["recipe"], known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def moved(self, now: "Bound") -> str:
        """Name what is another one now than when people were asked; empty if nothing is."""
        before = self.to_dict()
        changed = [
            f"{k} {before[k]} is {v} now" for k, v in now.to_dict().items() if v != before[k]
        ]
        return "; ".join(changed)


def voided(answer: Mapping[str, Any], proposal: Entry, policy: Mapping[str, Any] | None) -> str:
    """
    Name what is another one than when people said yes; empty if nothing is.

    :param answer: what they said, with what it was bound to; without that it holds for nothing.
    :param policy: the policy of now; ``None``: it is not compared.
    """
    if not answer.get("bound"):
        return "nobody knows what the answer was given to"
    bound = Bound(**answer["bound"])
    now = Bound.of(proposal, policy or {})
    return bound.moved(now if policy is not None else replace(now, policy=bound.policy))


def void(state: State, proposal: Entry) -> str:
    """
    Say why a proposal need not be answered any more; empty if it waits.

    :param state: of the ledger; :meth:`~airflow_mlops.core.ledger.Ledger.standing` is enough.
    """
    what = f"{proposal.model}@{proposal.version}"
    if state.challenger != proposal.version:
        newer = state.last("propose")
        if newer is not None and newer.seq > proposal.seq:
            return f"{what} was superseded by {newer.model}@{newer.version} (entry {newer.seq})"
        return f"{what} was settled meanwhile"
    if state.epoch != proposal.epoch:
        return (
            f"{what} was compared with the champion of entry {proposal.epoch}, but entry "
            f"{state.epoch} changed it to {state.champion}; evaluate it again"
        )
    return ""


def requester(ledger: Ledger, proposal: Entry) -> str:
    """
    Return the person who asked for this candidate; empty if a rule of the policy did.

    An approver who sent an earlier candidate back did not ask for it in that sense.
    """
    decision = ledger.numbered(proposal.model, int(proposal.evidence["decision"]))
    number = decision.evidence.get("request")
    asked = ledger.numbered(proposal.model, int(number)) if number else None
    return asked.by if asked and "proposal" not in asked.evidence else ""


def send_back(ledger: Ledger, proposal: Entry, answer: Answer, *, key: str) -> Entry:
    """
    Put on record that an approver wants another candidate; the next decision answers it.

    :param key: idempotency key.
    """
    evidence = {
        "params": dict(answer.params),
        "pins": {"window": answer.window} if answer.window else {},
        "proposal": proposal.seq,
    }
    reason = answer.note or f"instead of {proposal.model}@{proposal.version}"
    draft = Entry(proposal.model, "request", "", answer.by, reason, evidence=evidence)
    return ledger.record(proposal.model, key, {"op": "request"}, lambda _: draft)[0]


def approvers(
    by: Sequence[Mapping[str, str]], requested_by: str, voted: Sequence[str], *, quorum: int
) -> tuple[Mapping[str, str], ...]:
    """
    Return who can still say yes: nobody twice, and not whoever asked for the candidate.

    :param by: ``id`` and ``name`` of the users that the policy names.
    :param requested_by: who may not; empty: nobody asked for it.
    :param voted: ids of those who said yes already.
    :param quorum: how many have to say yes, those who did included.
    :raises ConfigurationError: if too few are left.
    """
    asked = requested_by.casefold()
    may = [u for u in by if asked not in (u["id"].casefold(), u["name"].casefold()) or not asked]
    left = tuple(u for u in may if u["id"] not in voted)
    if len(left) + len(voted) < quorum:
        names = ", ".join(u["id"] for u in may) or "nobody"
        msg = (
            f"{requested_by!r} asked for this candidate and may not approve it, so {names} can, "
            f"and {quorum} have to: name more people in Approval(by=...), or allow it with "
            "Approval(separate=False)"
        )
        raise ConfigurationError(msg)
    return left


def votes(state: State, bound: Bound) -> tuple[Answer, ...]:
    """Return who said yes to just this so far, where more than one has to."""
    found = (e.evidence for e in state.entries if e.op == "vote")
    return tuple(Answer.from_dict(f["answer"]) for f in found if f["bound"] == bound.to_dict())


def vote(ledger: Ledger, proposal: Entry, answer: Answer, bound: Bound) -> tuple[Answer, ...]:
    """
    Put a yes on record, once for each person; return all of them.

    :raises ConfigurationError: if nobody gave it.
    """
    if not answer.id:
        msg = f"a vote for {proposal.model}@{proposal.version} has to be somebody's"
        raise ConfigurationError(msg)
    evidence = {"answer": answer.to_dict(), "bound": bound.to_dict()}
    reason = answer.note or "says yes"

    def build(state: State) -> Entry:
        return Entry(
            proposal.model,
            "vote",
            "",
            answer.by,
            reason,
            proposal.version,
            state.epoch,
            evidence=evidence,
        )

    ask = {"op": "vote", "version": proposal.version}
    about = canonical_digest(bound.to_dict())[:8]
    key = f"vote:{proposal.seq}:{about}:{answer.id}"
    _, state = ledger.record(proposal.model, key, ask, build)
    return votes(state, bound)
