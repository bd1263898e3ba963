"""Operators for deployment: roll back, score, clean up."""

from datetime import datetime
from typing import Any

from airflow.sdk import Context

from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, Xcom, run_of, task_of
from airflow_mlops.operators.links import ModelVersionLink
from airflow_mlops.policy import duration


class RollbackModelOperator(MlopsOperator):
    """
    Return to an earlier champion, after looking whether it can serve.

    :param reason: why; it is put on record (templated).
    :param to: version to return to, or a moment such as ``"2026-05-01"``: whoever was champion
        then, by the clock of the data; none: the previous champion (templated).
    :param force: go back although a check failed.
    """

    template_fields = (*MlopsOperator.template_fields, "reason", "to")

    def __init__(
        self, *, reason: str, to: int | str | None = None, force: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.reason = reason
        self.to = to
        self.force = force

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, decide in the ledger, then write the aliases."""
        from airflow_mlops.core.deployment.registry import Ask
        from airflow_mlops.core.deployment.rollback import parse_target, roll_back

        ask = Ask(f"rollback:{task_of(context)}", task_of(context), self.reason, {})
        to = parse_target(None if self.to in (None, "None") else str(self.to))
        stores = self.registry(), self.datasets()
        entry = roll_back(*stores, self.model, ask, to=to, force=self.force)
        self.log.info("%s@%s is champion again (entry %d)", self.model, entry.version, entry.seq)
        return {"model": f"{self.model}@{entry.version}", "entry": entry.seq}


class ScoreBatchOperator(MlopsOperator):
    """
    Score the new rows with the champion; skipped while there is none.

    :param snapshot: what ``SnapshotTableOperator`` returned (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot")
    operator_extra_links = (ModelVersionLink(),)

    def __init__(self, *, snapshot: Xcom, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Predict, and write one row per key; rows that break the contract go to quarantine."""
        from airflow_mlops.core.deployment.scoring import score

        ref = self.champion_of(self.ledger().state(self.model))
        version = DatasetRef.parse(self.snapshot["ref"])
        table, hook = self.datasets().open(version), MlflowHook(self.mlflow_conn_id)
        done = score(
            hook.models(),
            self.observations(),
            ref,
            table.between(datetime.fromisoformat(self.snapshot["since"])),
            dataset=str(version),
            time=table.time,
            key=table.key,
            run=run_of(context),
        )
        self.urls = {ModelVersionLink.name: hook.model_url(ref)}
        self.processed = done.rows
        self.log.info("%s: %d new predictions for %d rows", ref, done.written, done.rows)
        return done.to_dict()


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
