"""What every operator shares that makes a version of a dataset from a source."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.core.errors import ContractBrokenError
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.operators._base import MlopsOperator, run_of, task_of
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow_mlops.core.data.commits import Commit
    from airflow_mlops.core.data.sources import Source


class SnapshotOperator(MlopsOperator):
    """Version what a source has beyond the newest version, exactly once per run."""

    template_fields: Sequence[str] = (*MlopsOperator.template_fields, "dataset", "windows_of")

    def __init__(
        self,
        *,
        dataset: str,
        key: str,
        time: str,
        window: str = "7d",
        lateness: str = "1d",
        ahead: str = "0s",
        windows_of: str | None = None,
        adopt: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.key = key
        self.time = time
        self.window = window
        self.lateness = lateness
        self.ahead = ahead
        self.windows_of = windows_of
        self.adopt = adopt

    def source(self) -> tuple["Source", str]:
        """Return where the rows are, and how that is written down."""
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        """Read what is new, and commit it as one version."""
        source, origin = self.source()
        store = self.datasets()
        shared = store.latest(self.windows_of) if self.windows_of else None
        try:
            commit = store.append(
                self.dataset,
                source,
                app_key=task_of(context),
                time=self.time,
                key=self.key,
                window=duration(self.window),
                lateness=duration(self.lateness),
                ahead=duration(self.ahead),
                windows_from=store.open(shared).origin if shared else None,
                adopt=self.adopt,
                author=self.owner,
                origin=origin,
                run=run_of(context),
            )
        except ContractBrokenError as error:
            finding = {"status": "broken", "line": str(error), "breaks": [str(error)]}
            finding |= {"dataset": self.dataset}
            finding |= {"fatal": [str(error)]}
            self.observations().record(self.model, "contract", self._subject(context), finding)
            raise
        self.processed = commit.added
        self.log.info("%s: %d new rows, %d in all", commit.ref, commit.added, commit.rows)
        if commit.corrected:
            self.log.warning("%s: the time of %d rows was corrected", commit.ref, commit.corrected)
        looked = {"looked_at": _looked_at(commit)}
        return commit.summary() | looked | self._arrears(context, source, commit)

    def _subject(self, context: Context) -> str:
        """Name what a finding is about: one run may take snapshots of several datasets."""
        return f"{run_of(context)}/{self.dataset}"

    def _arrears(self, context: Context, source: "Source", commit: "Commit") -> dict[str, Any]:
        """Count what the source has beyond the dataset, and note it; it fails no snapshot."""
        from airflow_mlops.core.data.arrears import find_arrears
        from airflow_mlops.core.errors import ConfigurationError, RejectedError

        table = self.datasets().open(DatasetRef.parse(commit.ref))
        lateness, ahead = duration(self.lateness), duration(self.ahead)
        try:
            found = find_arrears(source, table, lateness=lateness, ahead=ahead)
        except (ConfigurationError, RejectedError) as error:
            self.log.warning("%s: what is unread cannot be counted: %s", self.dataset, error)
            return {"unread": None, "ahead": None}
        (self.log.warning if found.to_dict()["status"] == "warn" else self.log.info)(found.line)
        try:
            observations = self.observations()
        except AirflowNotFoundException:  # a snapshot alone needs no database of its own
            self.log.warning("no connection %r, the finding is not stored", self.ledger_conn_id)
        else:
            observations.record(self.model, "late", self._subject(context), found.to_dict())
        return {"unread": found.unread, "ahead": found.ahead}


def _looked_at(commit: "Commit") -> str:
    """When the source was read, ISO 8601: a commit knows, else it was just now."""
    return commit.created_at if commit.windows else datetime.now(UTC).isoformat(timespec="seconds")
