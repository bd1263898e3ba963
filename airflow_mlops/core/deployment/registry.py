"""
Who is champion: the ledger says so, MLflow's aliases are a cache of it.

A promotion is one entry of the ledger. Aliases are written after it, and then the ledger is read
again; a crash in between is put right by the next :meth:`ModelRegistry.reconcile`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_mlops.core.errors import (
    ConcurrentPromotionError,
    ConfigurationError,
    LedgerLostError,
    ModelChangedError,
    StaleCandidateError,
    UnavailableError,
)
from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.refs import ModelRef, is_name
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.answers import talking
from airflow_mlops.core.training.models import ModelStore, ModelVersion

ANCHOR = "mlops.ledger"
"""Tag of the registered model that holds a copy of the ledger's head: a lost tail is seen."""

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
    """

    models: ModelStore
    ledger: Ledger

    def names(self) -> tuple[str, ...]:
        """Return the names of all models on record; what can be no model in MLflow is left out."""
        return tuple(name for name in self.ledger.models() if is_name(name))

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
        self._verified(ref)
        evidence = self._evidence(ref, ask)

        def build(state: State) -> Entry:
            draft = Entry(ref.name, op, "", ask.by, ask.reason, ref.version, state.epoch, order)
            why = _objection(state, ref, epoch, order)
            if waiting and not why and state.challenger != ref.version:
                why = f"stale: {ref} is no candidate any more: it was settled, or superseded"
            if not why:
                return replace(draft, evidence=evidence)
            return replace(draft, op="refuse", reason=why, evidence={**evidence, "asked": op})

        request = {"op": op, "version": ref.version, "epoch": epoch, "order": order}
        entry, _ = self.ledger.record(ref.name, ask.key, request, build)
        self._follow(entry)
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

        entry, _ = self.ledger.record(name, ask.key, {"op": "rollback", "to": to}, build)
        self._follow(entry)
        return entry

    def refuse(self, ref: ModelRef, ask: Ask, *, op: str = "refuse") -> Entry:
        """Put on record that a candidate was refused by its gate, or rejected by a person."""
        draft = Entry(ref.name, op, "", ask.by, ask.reason, ref.version, evidence=ask.evidence)
        request = {"op": op, "version": ref.version}
        entry, _ = self.ledger.record(ref.name, ask.key, request, lambda now: _at(draft, now))
        self._follow(entry)
        return entry

    def reconcile(self, name: str) -> tuple[str, ...]:
        """
        Make MLflow's aliases agree with the ledger; an alias moved by hand is put on record.

        :return: what had to be repaired, in words.
        :raises LedgerLostError: if MLflow remembers an entry that the ledger does not have.
        """
        repaired: list[str] = []
        for _ in range(_ROUNDS):
            model = self._registered(name)
            if model is None:
                return ()
            state = self.ledger.standing(name)
            if not state.entries:
                return ()
            self._check_anchor(name, dict(model.tags).get(ANCHOR), state)
            state = self._observe_move(name, model, state)
            repaired += self._write_aliases(name, dict(model.aliases), state)
            anchor = "{}:{}".format(*state.head)
            if dict(model.tags).get(ANCHOR) != anchor:
                with talking(name, existing_is_fine=True):
                    self.models.client.set_registered_model_tag(name, ANCHOR, anchor)
            if self.ledger.standing(name).head == state.head:
                return tuple(repaired)
        msg = f"the aliases of {name} did not settle in {_ROUNDS} rounds; try again"
        raise UnavailableError(msg)

    def _follow(self, entry: Entry) -> None:
        """Bring the aliases up to an entry; whoever asked has to know that it is on record."""
        try:
            self.reconcile(entry.model)
        except UnavailableError as error:
            msg = (
                f"entry {entry.seq} ({entry.op}) of {entry.model} is on record and holds, do not "
                "ask again; only MLflow's aliases are behind, and the next tick or `airflow mlops "
                f"doctor` brings them up: {error}"
            )
            raise UnavailableError(msg) from error

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
        found = (version.run_id, version.digest)
        known = self.ledger.standing(ref.name).identity.get(ref.version, found)
        if known != found:
            msg = (
                f"{ref} in MLflow is run {found[0]} with files {found[1][:16]}, the ledger names "
                f"run {known[0]} with files {known[1][:16]}: it was changed, or made again"
            )
            raise ModelChangedError(msg)
        with scratch_folder("verify") as scratch:
            self.models.fetch(version, scratch)
        return version

    def _evidence(self, ref: ModelRef, ask: Ask) -> dict[str, Any]:
        version = self.models.get(ref)
        facts = {"run_id": version.run_id, "recipe": version.recipe, "digest": version.digest}
        return {**ask.evidence, **facts}

    def _registered(self, name: str) -> Any:
        with talking(name, missing_is_fine=True):
            return self.models.client.get_registered_model(name)
        return None

    def _check_anchor(self, name: str, anchor: str | None, state: State) -> None:
        """Compare MLflow's copy of the head with the ledger."""
        if not anchor:
            return
        number, _, digest = anchor.partition(":")
        found = state.numbered(int(number)) or self.ledger.state(name).numbered(int(number))
        if found is None or found.hash != digest:
            msg = (
                f"MLflow remembers entry {number} ({digest[:12]}) of {name}; the ledger ends at "
                f"{state.head[0]} without it. Restore the newest backup before anything is decided"
            )
            raise LedgerLostError(msg)

    def _observe_move(self, name: str, model: Any, state: State) -> State:
        """
        Record that somebody else moved ``@champion``; it is put back afterwards.

        A version that never was promoted was certainly set by hand. An earlier champion counts
        only while the anchor says that the head has been applied: else it is a write under way.
        """
        found = dict(model.aliases).get("champion")
        if found is None or int(found) == state.champion:
            return state
        applied = dict(model.tags).get(ANCHOR, "").partition(":")[0] == str(state.head[0])
        if int(found) in state.ever and not applied:
            return state
        reason = f"@champion was {found}, the ledger says {state.champion}; the alias is put back"
        draft = Entry(name, "observe", "", "reconcile", reason, int(found))
        key, ask = f"observe:{state.head[0]}:{found}", {"op": "observe", "version": int(found)}
        return self.ledger.record(name, key, ask, lambda now: _at(draft, now))[1]

    def _write_aliases(self, name: str, aliases: Mapping[str, str], state: State) -> list[str]:
        wanted = {
            "champion": state.champion,
            "previous": state.previous,
            "challenger": state.challenger,
        }
        done = []
        for alias, version in wanted.items():
            found = aliases.get(alias)
            if version is not None and found != str(version):
                with talking(f"{name}@{version}", existing_is_fine=True):
                    self.models.client.set_registered_model_alias(name, alias, str(version))
                done.append(f"@{alias}: {found or 'nothing'} -> {version}")
            elif version is None and found is not None:
                with talking(name):
                    self.models.client.delete_registered_model_alias(name, alias)
                done.append(f"@{alias}: {found} -> nothing")
        return done


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
