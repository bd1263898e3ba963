"""
Who is champion: the ledger says so, MLflow's aliases are a cache of it.

A promotion is one entry of the ledger. Aliases are written after it, and then the ledger is read
again; a crash in between is put right by the next :meth:`ModelRegistry.reconcile`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_mlops.core.deployment.aliases import ANCHOR, INSTALLATION, Aliases, Seen, wanted
from airflow_mlops.core.errors import (
    ConcurrentPromotionError,
    ConfigurationError,
    LedgerLostError,
    RejectedError,
    StaleCandidateError,
    UnavailableError,
)
from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.refs import ModelRef, is_name
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.answers import talking
from airflow_mlops.core.training.models import ModelStore
from airflow_mlops.core.training.versions import ModelVersion

__all__ = ["ANCHOR", "MOVED_ALIAS", "Ask", "ModelRegistry", "rollback_target"]

MOVED_ALIAS = ("restore", "adopt")
"""What becomes of ``@champion`` that somebody moved in MLflow: put back, or followed."""

BY_HAND = "unknown, by hand"
"""Who moved an alias: MLflow does not say."""

_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Who wants something decided, and why.

    :param key: idempotency key: the same key gets the same answer.
    :param by: a person, or the task that asks.
    :param evidence: what the decision rests on; plain JSON types.
    """

    key: str
    by: str
    reason: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """
    Candidates, champions and the way between them.

    :param models: the model versions in MLflow.
    :param ledger: the decisions.
    :param moved_alias: what becomes of ``@champion`` that somebody moved in MLflow: ``restore``
        puts it back; ``adopt`` makes that version champion, if this package trained it and its
        files are those that were evaluated. Both are put on record.
    :raises ConfigurationError: if ``moved_alias`` is neither.
    """

    models: ModelStore
    ledger: Ledger
    moved_alias: str = "restore"

    def __post_init__(self) -> None:
        if self.moved_alias not in MOVED_ALIAS:
            known = ", ".join(MOVED_ALIAS)
            msg = f"unknown moved_alias {self.moved_alias!r} in section [mlops]; known: {known}"
            raise ConfigurationError(msg)

    def names(self) -> tuple[str, ...]:
        """Return the names of all models on record; what can be no model in MLflow is left out."""
        return tuple(name for name in self.ledger.models() if is_name(name))

    def anchored(self) -> tuple[str, ...]:
        """Return the models whose ledger MLflow remembers, whether it is there or not."""
        with talking("the registered models"):
            found = self.models.client.search_registered_models(max_results=1000)
            models = list(found)
            while found.token:
                found = self.models.client.search_registered_models(
                    max_results=1000, page_token=found.token
                )
                models += found
        mine = self.ledger.identifier()
        return tuple(m.name for m in models if dict(m.tags).get(INSTALLATION) == mine)

    def champion(self, name: str) -> ModelRef | None:
        """Return the champion by the ledger."""
        version = self.ledger.standing(name).champion
        return None if version is None else ModelRef(name, version)

    def propose(self, ref: ModelRef, ask: Ask, *, epoch: int, order: int) -> Entry:
        """
        Submit a candidate for its rollout.

        :param epoch: entry that made the champion it was compared with; 0: there was none.
        :param order: number of the decision that led to it: a newer one wins for ever.
        :raises ConcurrentPromotionError: if the champion changed since ``epoch``; on record.
        :raises StaleCandidateError: if a newer candidate is there already; on record.
        """
        return self._claim("propose", ref, ask, epoch, order)

    def promote(
        self,
        ref: ModelRef,
        ask: Ask,
        *,
        epoch: int | None,
        order: int | None,
        waiting: bool = False,
    ) -> Entry:
        """
        Make a version champion, if nobody decided otherwise meanwhile.

        :param epoch: entry that made the champion it was compared with; ``None``: whichever.
        :param order: number of the decision that led to it; ``None``: newer than all.
        :param waiting: whether it has to be the candidate that waits for its promotion.
        :raises ConcurrentPromotionError: if the champion changed since ``epoch``; on record.
        :raises StaleCandidateError: if a newer candidate was proposed or promoted; on record.
        :raises ModelChangedError: if its files are not those that were evaluated.
        """
        return self._claim("promote", ref, ask, epoch, order, waiting=waiting)

    def _claim(
        self,
        op: str,
        ref: ModelRef,
        ask: Ask,
        epoch: int | None,
        order: int | None,
        *,
        waiting: bool = False,
    ) -> Entry:
        """Put a claim on record, or its refusal if somebody decided otherwise meanwhile."""
        evidence = {**ask.evidence, **_facts(self._verified(ref))}

        def build(state: State) -> Entry:
            draft = Entry(ref.name, op, "", ask.by, ask.reason, ref.version, state.epoch, order)
            why = _objection(state, ref, epoch, order)
            if waiting and not why and state.challenger != ref.version:
                why = f"stale: {ref} is no candidate any more: it was settled, or superseded"
            if not why:
                return replace(draft, evidence=evidence)
            return replace(draft, op="refuse", reason=why, evidence={**evidence, "asked": op})

        request = {"op": op, "version": ref.version, "epoch": epoch, "order": order}
        entry = self._record(ref.name, ask.key, request, build)
        if entry.op == "refuse":
            stale = entry.reason.startswith("stale")
            raise (StaleCandidateError if stale else ConcurrentPromotionError)(entry.reason)
        return entry

    def rollback(self, name: str, ask: Ask, *, to: int | None = None) -> Entry:
        """
        Return to the previous champion, or to any version that ever was champion.

        :raises ConfigurationError: if there is nothing to go back to.
        :raises ModelChangedError: if the files of that version are not those that were evaluated.
        """
        before = self.ledger.standing(name)
        if before.of(ask.key) is None:
            self._verified(ModelRef(name, rollback_target(before, name, to)))

        def build(state: State) -> Entry:
            version = rollback_target(state, name, to)
            evidence = {**ask.evidence, "from": state.champion}
            return Entry(
                name, "rollback", "", ask.by, ask.reason, version, state.epoch, evidence=evidence
            )

        return self._record(name, ask.key, {"op": "rollback", "to": to}, build)

    def refuse(self, ref: ModelRef, ask: Ask, *, op: str = "refuse") -> Entry:
        """Put on record that a candidate was refused by its gate, or rejected by a person."""
        draft = Entry(ref.name, op, "", ask.by, ask.reason, ref.version, evidence=ask.evidence)
        request = {"op": op, "version": ref.version}
        return self._record(ref.name, ask.key, request, lambda now: _at(draft, now))

    def reconcile(self, name: str) -> tuple[str, ...]:
        """
        Make MLflow's aliases agree with the ledger; an alias moved by hand is put on record.

        :return: what had to be repaired or was adopted, in words.
        :raises LedgerLostError: if MLflow remembers an entry that the ledger does not have.
        """
        repaired: list[str] = []
        aliases = Aliases(self.models.client, name, self.ledger)
        for _ in range(_ROUNDS):
            seen = aliases.read()
            state = self.ledger.standing(name) if seen else State()
            if seen is None or not self._has_a_say(name, seen, state):
                return ()
            moved = seen.moved(state)
            if moved and aliases.read() != seen:
                continue  # a writer was at work
            for alias in moved:
                state, words = self._answer(name, alias, seen, state)
                repaired += words
            if seen.agrees(state):
                aliases.finish(seen)
                return tuple(repaired)
            repaired += aliases.write(seen, state)
        msg = f"the aliases of {name} did not settle in {_ROUNDS} rounds; try again"
        raise UnavailableError(msg)

    def _record(
        self,
        name: str,
        key: str,
        request: Mapping[str, Any],
        build: Callable[[State], Entry],
    ) -> Entry:
        """Append an entry, if the ledger is the one that MLflow remembers; the aliases follow."""
        seen = Aliases(self.models.client, name, self.ledger).read()

        def checked(state: State) -> Entry:
            self._check_anchor(name, seen.anchor if seen else "", state)
            return build(state)

        entry, _ = self.ledger.record(name, key, request, checked)
        try:
            self.reconcile(name)
        except UnavailableError as error:
            msg = (
                f"entry {entry.seq} ({entry.op}) of {name} is on record and holds, do not "
                "ask again; only MLflow's aliases are behind, and the next tick or `airflow mlops "
                f"doctor` brings them up: {error}"
            )
            raise UnavailableError(msg) from error
        return entry

    def _verified(self, ref: ModelRef) -> ModelVersion:
        """Check that a version is the canonical one of its recipe, with the evaluated files."""
        version = self.models.get(ref)
        if version.status != "READY":
            msg = f"{ref} is {version.status} in MLflow, not READY; train again"
            raise ConfigurationError(msg)
        canonical = self.models.of_recipe(ref.name, version.recipe) if version.recipe else ()
        if not canonical or canonical[0].ref != ref:
            instead = f"; {canonical[0].ref} is" if canonical else ""
            msg = f"{ref} is not the version its recipe stands for{instead}"
            raise ConfigurationError(msg)
        with scratch_folder("verify") as scratch:
            self.models.fetch(version, scratch)
        return version

    def _has_a_say(self, name: str, seen: Seen, state: State) -> bool:
        """Say whether the ledger says anything about a model; it may adopt a first champion."""
        self._check_anchor(name, seen.anchor, state)
        return bool(state.entries) or (self.moved_alias == "adopt" and "champion" in seen.aliases)

    def _check_anchor(self, name: str, anchor: str, state: State) -> None:
        """Compare MLflow's copy of the head with the ledger."""
        if not anchor:
            return
        number, _, digest = anchor.partition(":")
        seq = int(number) if number.isdecimal() else 0
        known = state.numbered(seq)
        if (known.hash if known else self.ledger.hash_of(name, seq)) != digest:
            msg = (
                f"MLflow remembers entry {number} ({digest[:12]}) of {name}; the ledger ends at "
                f"{state.head[0]} without it. Restore the newest backup before anything is decided"
            )
            raise LedgerLostError(msg)

    def _answer(
        self, name: str, alias: str, seen: Seen, state: State
    ) -> tuple[State, tuple[str, ...]]:
        """
        Put a move by hand on record, once, and adopt it if that is the policy.

        The key holds the entry that was applied before the move: whoever sees the same move gives
        the same answer, and after it was answered another entry is the applied one.
        """
        found = seen.aliases.get(alias)
        facts, why = self._adoptable(name, alias, found)

        def build(now: State) -> Entry:
            adopts = facts is not None and now.epoch == state.epoch
            late = "" if facts is None else f"; entry {now.epoch} changed the champion meanwhile"
            says = wanted(now)[alias] or "nothing"
            reason = f"@{alias} was {found or 'nothing'}, the ledger says {says}"
            if adopts:
                evidence = {**(facts or {}), "from": now.champion}
                reason = f"{reason}; it is followed"
                return Entry(name, "adopt", "", BY_HAND, reason, found, now.epoch, None, evidence)
            reason = f"{reason}; the alias is put back{why or late}"
            return Entry(name, "observe", "", "reconcile", reason, found, now.epoch)

        key, ask = f"moved:{seen.applied}:{alias}:{found}", {"alias": alias, "version": found}
        entry, after = self.ledger.record(name, key, ask, build)
        if entry.op != "adopt":
            return after, ()
        words = f"@{alias}: {entry.evidence['from'] or 'nothing'} -> {found}, adopted"
        return after, (f"{words} (entry {entry.seq})",)

    def _adoptable(
        self, name: str, alias: str, version: int | None
    ) -> tuple[dict[str, Any] | None, str]:
        """Return the facts of a version that may be adopted, or nothing and why not."""
        if self.moved_alias != "adopt" or alias != "champion" or version is None:
            return None, ""
        ref = ModelRef(name, version)
        try:
            return _facts(self._verified(ref)), ""
        except (ConfigurationError, RejectedError) as error:
            return None, f", for it cannot be adopted: {error}"


def _facts(version: ModelVersion) -> dict[str, Any]:
    return {"run_id": version.run_id, "recipe": version.recipe, "digest": version.digest}


def _at(draft: Entry, state: State) -> Entry:
    """Set the epoch of an entry that is valid whoever is champion."""
    return replace(draft, epoch=state.epoch)


def _objection(state: State, ref: ModelRef, epoch: int | None, order: int | None) -> str:
    """Say why a claim is not valid any more; empty if it is."""
    if epoch is not None and epoch != state.epoch:
        return (
            f"conflict: {ref} was compared with the champion of entry {epoch}, but entry "
            f"{state.epoch} changed it to {state.champion}; evaluate it again"
        )
    if order is not None and state.mark is not None and order <= state.mark:
        return (
            f"stale: {ref} comes from decision {order}, and a candidate of decision {state.mark} "
            "was promoted before it"
        )
    if order is not None and state.proposed is not None and order < state.proposed:
        return (
            f"stale: {ref} comes from decision {order}, and a candidate of decision "
            f"{state.proposed} was proposed after it"
        )
    if state.champion == ref.version:
        return f"conflict: {ref} is champion already"
    return ""


def rollback_target(state: State, name: str, to: int | None) -> int:
    """
    Return the version that a rollback leads to.

    :param to: version that was asked for; ``None``: the previous champion.
    :raises ConfigurationError: if there is nothing to go back to, or it never was champion.
    """
    if to is None:
        if state.previous is None:
            others = sorted(state.ever - {state.champion})
            way = f"go to one of its other champions with --to: {others}" if others else ""
            what = "has no champion yet" if state.champion is None else "had no champion before"
            now = f"{name}@{state.champion}" if state.champion is not None else name
            msg = f"nothing to roll back to: {now} {what}{'; ' + way if way else ''}"
            raise ConfigurationError(msg)
        return state.previous
    if to not in state.ever:
        ever = ", ".join(map(str, sorted(state.ever))) or "none"
        msg = f"{name}@{to} never was champion; champions so far: {ever}"
        raise ConfigurationError(msg)
    if to == state.champion:
        msg = f"{name}@{to} is champion already"
        raise ConfigurationError(msg)
    return to
