"""Operators for deployment: roll back, guard, score, clean up."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow.sdk import Context

from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, Xcom, run_of, task_of
from airflow_mlops.operators._telling import tell
from airflow_mlops.operators.links import ModelVersionLink
from airflow_mlops.policy import duration


class RollbackModelOperator(MlopsOperator):
    """
    Return to an earlier champion, after looking whether it can serve.

    :param reason: why; it is put on record (templated).
    :param to: version to return to, or a moment such as ``"2026-05-01"``: whoever was champion
        then, by the clock of the data; none: the previous champion (templated).
    :param force: go back although a check failed (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "reason", "to", "force")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self,
        *,
        reason: str,
        to: int | str | None = None,
        force: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.reason = reason
        self.to = to
        self.force = force
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, decide in the ledger, then write the aliases."""
        from airflow_mlops.core.deployment.registry import Ask
        from airflow_mlops.core.deployment.rollback import parse_target, roll_back

        self._refuse_old(context)
        by = context["dag_run"].triggering_user_name or task_of(context)
        ask = Ask(f"rollback:{task_of(context)}", by, self.reason, {"run": run_of(context)})
        to = parse_target(None if self.to in (None, "None") else str(self.to))
        stores = self.registry(), self.datasets()
        force = str(self.force) == "True"
        entry = roll_back(*stores, self.model, ask, to=to, force=force)
        ref = ModelRef(self.model, entry.version or 0)
        self.urls = {ModelVersionLink.name: MlflowHook(self.mlflow_conn_id).model_url(ref)}
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"model": str(ref), "entry": entry.seq}
        self.log.info("%s is champion again (entry %d), by %s", ref, entry.seq, entry.by)
        return {"model": str(ref), "entry": entry.seq}

    def _refuse_old(self, context: Context) -> None:
        """Refuse to go back a second step: who asked for one saw another champion."""
        from airflow_mlops.core.errors import RejectedError

        if self.to not in (None, "", "None") or context["dag_run"].run_type != "manual":
            return
        state, asked = self.ledger().standing(self.model), context["dag_run"].run_after
        changed = state.numbered(state.epoch)
        if changed is None or changed.key == f"rollback:{task_of(context)}":
            return
        if datetime.fromisoformat(changed.at) > asked:
            msg = (
                f"{self.model}@{state.champion} became champion by entry {changed.seq} "
                f"({changed.op}, by {changed.by}) after this rollback was asked for; say to which "
                "version you want to go back"
            )
            raise RejectedError(msg)


class GuardChampionOperator(MlopsOperator):
    """
    Roll back if the champion decayed, and the one before it is better on the same rows.

    Skipped while there is no champion. Returns ``status``, ``line`` and ``entry``: ``ok``;
    ``warn``: it decayed, and going back would not help, or cannot be done; ``broken``: it was
    rolled back.

    :param snapshot: what ``SnapshotTableOperator`` returned for the rows (templated).
    :param labels: what ``SnapshotTableOperator`` returned for the labels (templated).
    :param label_column: column of the labels.
    :param rules: ``Decay`` of ``policy`` as dicts; one that asks is enough.
    :param metric: per-row loss of the windows.
    :param notifiers: told of each rollback. They find ``mlops`` in their context: ``model``,
        ``line``, ``entry``.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot", "labels")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self,
        *,
        snapshot: Xcom,
        labels: Xcom,
        label_column: str,
        rules: Sequence[Mapping[str, Any]],
        metric: str = "brier",
        notifiers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.labels = labels
        self.label_column = label_column
        self.rules = rules
        self.metric = metric
        self.notifiers = notifiers
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at the windows it served, compare, and decide in the ledger."""
        from airflow_mlops.core.data.selection import Selection
        from airflow_mlops.core.deployment.registry import Ask
        from airflow_mlops.core.retraining.guard import Guard
        from airflow_mlops.policy import Decay

        registry, observations = self.registry(), self.observations()
        champion = self.champion_of(registry.ledger.standing(self.model), "to guard")
        versions = self.snapshot["ref"], self.labels["ref"], self.label_column
        ask = Ask("guard", task_of(context), "", {"run": run_of(context)})
        found = Guard(registry, self.datasets(), observations, self.metric).look(
            Selection(*versions, "", ""),
            [Decay.from_dict(rule) for rule in self.rules],
            ask,
            champion=champion,
        )
        self.urls = {ModelVersionLink.name: MlflowHook(self.mlflow_conn_id).model_url(champion)}
        observations.record(self.model, "rollback", f"{champion}:", found.to_dict())
        self.log.info("%s", found.line)
        if found.entry is not None:
            mlops = {"line": f"{self.model}: {found.line}", "entry": found.entry}
            subject = f"rollback {found.entry}"
            tell(observations, self.notifiers, context, self.model, subject, mlops)
            for outlet in self.outlets:
                context["outlet_events"][outlet].extra = {"entry": found.entry}
        return found.to_dict()


class ScoreBatchOperator(MlopsOperator):
    """
    Score the new rows with the champion; skipped while there is none.

    Rows that it has learnt from are left out, also if no others have come since: what is said about
    them is no service.

    While a candidate is tried, it scores its share of them by the split of the ledger, or in a
    shadow all of them, too. A candidate that fails is replaced by the champion.

    :param snapshot: what ``SnapshotTableOperator`` returned (templated).
    :param entity: column of who is assigned in a rollout, such as a customer: all rows of one have
        one version; ``None``: each row is assigned by its key.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot", "entity")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(self, *, snapshot: Xcom, entity: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.entity = entity
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Predict, and write one row per key; rows that break the contract go to quarantine."""
        from airflow_mlops.core.deployment.scoring import Batch
        from airflow_mlops.core.deployment.splitting import score_split
        from airflow_mlops.core.rollout import Split

        state = self.ledger().standing(self.model)
        ref = self.champion_of(state)
        version = DatasetRef.parse(self.snapshot["ref"])
        table, hook = self.datasets().open(version), MlflowHook(self.mlflow_conn_id)
        since, learnt = (
            datetime.fromisoformat(self.snapshot["since"]),
            self.models().get(ref).learnt_until,
        )
        rows = table.between(max(since, learnt) if learnt else since).to_arrow()
        columns = table.time, table.key
        batch = Batch(rows, str(version), *columns, run_of(context), self.entity)
        found = score_split(self.models(), self.observations(), Split.of(state), batch)
        self.urls = {ModelVersionLink.name: hook.model_url(ref)}
        for done in filter(None, (found.champion, found.candidate)):
            self.log.info("%s: %d new of %d rows", done.model, done.written, done.rows)
        if found.failed:
            self.log.warning("the candidate failed, %s answered: %s", ref, found.failed)
        self.processed = rows.num_rows
        return found.to_dict()


class CollectGarbageOperator(MlopsOperator):
    """
    Remove versions of a model that never served, and rows that nothing needs, when they are old.

    What ever was champion stays for ever, with the rows it learnt from; so do tagged versions.
    Returns what went and what is pinned by what.

    :param older: age from which something may go, such as ``"90d"`` (templated).
    :param apply: remove it; else it is only looked at.
    """

    template_fields = (*MlopsOperator.template_fields, "older")

    def __init__(self, *, older: str = "90d", apply: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.older = older
        self.apply = apply

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, and remove if that was asked for."""
        from airflow_mlops.core.deployment.garbage import collect_garbage, find_garbage

        asked: dict[str, Any] = {"model": self.model, "older": duration(self.older)}
        stores = self.registry(), self.datasets()
        if self.apply:
            found = collect_garbage(*stores, by=run_of(context), **asked)
        else:
            found = find_garbage(*stores, **asked)
        self.log.info("%s\n%s", "removed" if self.apply else "only looked at", found)
        return found.to_dict() | {"applied": self.apply}
