"""One append to a dataset, from the question "what is new?" to the commit."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import IO, TYPE_CHECKING, Literal

import pyarrow as pa

from airflow_mlops.core.data.arrivals import Arrivals, without_ahead
from airflow_mlops.core.data.commits import Commit, Sidecar, sidecar_name
from airflow_mlops.core.data.contract import schema_breaks
from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.data.snapshots import Flow, Mend, Request, Target
from airflow_mlops.core.data.sources import Source
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.data.version_log import Change, VersionLog, properties_of, schema_of
from airflow_mlops.core.errors import (
    ConfigurationError,
    ContractBrokenError,
    MlopsError,
    RejectedError,
)
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    from deltalake import DeltaTable

_MEMORY = 32 << 20
"""Bytes that arrive before they are kept on disk."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Append:
    """
    One append, exactly once per key.

    :param source: where the rows are.
    """

    log: VersionLog
    source: Source
    request: Request

    def commit(self) -> Commit:
        """Commit once, or return the commit that is there."""
        asked = self.request
        table = self.log.find(asked.name)
        if table is None:  # first: two racing first commits would both land
            table = self.log.create(asked.name, self.source.schema())
        done = self.log.once(table, self._change, self._attempt)
        if done is None:
            msg = f"{asked.name}: the source is empty, there is nothing to version yet"
            raise RejectedError(msg)
        return done

    @property
    def _change(self) -> Change:
        return Change(self.request.name, self.request.app_key, "append")

    def _attempt(self, table: "DeltaTable", before: Sidecar | None) -> bool:
        """Stream new and changed windows into one commit; ``False`` if there are none."""
        if before is None and table.file_uris():
            msg = (
                f"{self.request.name}: there are rows at {table.table_uri} that another tool "
                "wrote; they would be lost: use another dataset name, or move them away"
            )
            raise RejectedError(msg)
        offered = self.source.schema()
        _check_names(self.request, offered)
        target = self._target(table, before, offered)
        since = before.reread_from(self.request.lateness) if before else None
        with self.source.read(since) as reader, tempfile.SpooledTemporaryFile(_MEMORY) as file:
            batches = without_ahead(reader, self.request)
            mends: Sequence[Mend] = ()
            corrected = 0
            if before is not None and since is not None:
                arrivals = self._arrivals(table, before, since, target, file)
                arrivals.take(batches)
                mends, corrected = arrivals.corrections()
                batches = arrivals.batches()
            flow = Flow(self.request, target, before, mends, corrected)
            return self._write(table, flow, batches, _schema_mode(before, target))

    def _write(
        self,
        table: "DeltaTable",
        flow: Flow,
        batches: Iterator[pa.RecordBatch],
        schema_mode: Literal["merge", "overwrite"] | None,
    ) -> bool:
        """Commit what passes through; ``False`` if nothing does."""
        rows = flow.rows(batches)
        first = next(rows, None)
        if first is None and not flow.mends:
            return False
        schema, sidecar = flow.target.schema, flow.target.sidecar
        found = chain([first] if first else [], rows)
        try:
            self.log.write(
                table,
                pa.RecordBatchReader.from_batches(schema, found),
                properties_of(self._change, sidecar, flow.sequence),
                replaced=flow.replaced(),
                time=self.request.time,
                schema_mode=schema_mode,
            )
        except MlopsError:
            flow.raise_if_failed()  # an error of ours, raised while Delta was reading
            raise
        return True

    def _arrivals(
        self,
        table: "DeltaTable",
        before: Sidecar,
        since: datetime,
        target: Target,
        file: IO[bytes],
    ) -> Arrivals:
        ref, read = DatasetRef.parse(before.commit.ref), partial(self.log.read_file, table)
        stored = Table(ref, schema_of(table), before, table, read)
        return Arrivals(self.source, stored, since, self.request, target.schema, file)

    def _target(self, table: "DeltaTable", before: Sidecar | None, offered: pa.Schema) -> Target:
        """Say where the rows go, after what the source offers was compared with what is there."""
        if before is None:
            _check_first(self.request, offered)
            schema, adopted = offered, {}
        else:
            new = self._adopted(schema_of(table), before, offered)
            schema = pa.schema([*schema_of(table), *(offered.field(name) for name in new)])
            adopted = {**before.adopted, **dict.fromkeys(new, before.contract + 1)}
        return Target(
            table.version() + 1,
            schema,
            sidecar_name(self.request.app_key),
            partial(self.log.write_file, table),
            Profile.around(before.centres if before else {}),
            adopted,
        )

    def _adopted(self, held: pa.Schema, before: Sidecar, offered: pa.Schema) -> list[str]:
        """Compare what the source offers with what the dataset holds; return the columns to add."""
        asked = self.request
        breaks = schema_breaks(held, offered)
        if any(b.kind != "unexpected" for b in breaks):
            msg = (
                f"the contract of {asked.name} is broken, nothing was read: "
                f"{'; '.join(map(str, breaks))}. Correct the delivery and clear the task"
            )
            raise ContractBrokenError(msg)
        fixed = (before.window, before.time, before.key)
        if (asked.window, asked.time, asked.key) != fixed:
            msg = (
                f"dataset {asked.name} has windows of {fixed[0]}, time {fixed[1]!r}, key "
                f"{fixed[2]!r}; asked for {asked.window}, {asked.time!r}, {asked.key!r}. They are "
                "fixed with the first commit; use another dataset name"
            )
            raise ConfigurationError(msg)
        extra = [b.column for b in breaks]
        for name in extra:
            if name not in asked.adopt:
                text = "%s: column %r is new at the source; left out, unless the snapshot adopts it"
                _log.warning(text, asked.name, name)
        for name in asked.adopt:
            if name not in offered.names:
                has = ", ".join(offered.names)
                text = "%s: no column %r to adopt at the source yet; it has %s"
                _log.warning(text, asked.name, name, has)
        return [name for name in extra if name in asked.adopt]


def _schema_mode(before: Sidecar | None, target: Target) -> Literal["merge", "overwrite"] | None:
    if before is None:  # the table is empty; an attempt that was refused may have made it otherwise
        return "overwrite"
    return "merge" if target.adopted != before.adopted else None


def _check_names(asked: Request, offered: pa.Schema) -> None:
    """A name with a NUL would be stored as another one, cut there."""
    wrong = [name for name in (*offered.names, *asked.adopt) if "\0" in name]
    if wrong:
        msg = (
            f"{asked.name}: column {wrong[0]!r} has a NUL in its name; offer it under another one, "
            "for instance through a view"
        )
        raise ConfigurationError(msg)


def _check_first(asked: Request, offered: pa.Schema) -> None:
    """What a dataset is made with has to fit: window, time and key stay for ever."""
    missing = [name for name in (asked.time, asked.key) if name not in offered.names]
    if missing:
        has = ", ".join(offered.names)
        msg = f"{asked.name}: no column {', '.join(map(repr, missing))} in the source; it has {has}"
        raise ConfigurationError(msg)
    kind = offered.field(asked.time).type
    if kind != pa.timestamp("us", "UTC"):
        msg = (
            f"{asked.name}: time column {asked.time!r} is {kind}, it has to be a timestamp; "
            "offer it as one, for instance through a view"
        )
        raise ConfigurationError(msg)
    if asked.window < timedelta(seconds=1):
        msg = f"{asked.name}: a window of {asked.window} is too short; it lasts a second or more"
        raise ConfigurationError(msg)
