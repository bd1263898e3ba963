"""
Answers to commits of other tools: rows that stayed the same, and rows that are adopted as they are.

An answer is a commit of ours, so it is looked at once, and it is on record what was found.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import (
    Commit,
    Sidecar,
    WindowStats,
    sidecar_name,
    total_digest,
)
from airflow_mlops.core.data.digest import digest_of
from airflow_mlops.core.data.foreign import (
    ForeignCommit,
    described,
    foreign_error,
    same_rows,
)
from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.data.profiling import ProfileBuilder
from airflow_mlops.core.data.tables import Slice, Table
from airflow_mlops.core.data.version_log import Change, VersionLog, properties_of, schema_of
from airflow_mlops.core.errors import RejectedError
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    from deltalake import DeltaTable

FOREIGN_COMMITS = ("refuse", "adopt")
"""What becomes of rows that another tool has changed."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """
    One answer to what other tools did to a dataset.

    :param policy: one of ``FOREIGN_COMMITS``; rows that stayed the same are accepted by both.
    :param author: who answers.
    :param run: Dag run that does.
    """

    log: VersionLog
    name: str
    policy: str
    author: str = ""
    run: str = ""

    def commit(self) -> Commit | None:
        """
        Answer, exactly once; ``None`` if nobody else has touched rows.

        :raises ForeignCommitError: if rows were changed, and are not to be adopted.
        :raises RejectedError: if they cannot be adopted.
        """
        table = self.log.find(self.name)
        if table is None:
            return None
        before, foreign = self.log.last_own(table)
        if before is None or not foreign:
            return None
        same = same_rows(self.log, table, foreign, before)
        if not same and self.policy != "adopt":
            raise foreign_error(self.log, before, foreign)
        change = Change(self.name, f"adopt:{foreign[-1].version}", "adoption", answers=True)
        return self.log.once(table, change, partial(self._attempt, change, same=same))

    def _attempt(
        self, change: Change, table: "DeltaTable", before: Sidecar | None, *, same: bool
    ) -> bool:
        if before is None:
            return False
        _, foreign = self.log.last_own(table)
        if change.app_key != f"adopt:{foreign[-1].version if foreign else 0}":
            return False  # more came in meanwhile, or somebody was faster: ask again
        path = sidecar_name(change.app_key)
        now = before if same else _adopted(self.log, table, before, path)
        word = "the same rows after" if same else "adopted"
        commit = replace(
            now.commit,
            ref=str(DatasetRef(self.name, table.version() + 1)),
            author=self.author,
            origin=f"{word} commits of another tool: {described(foreign)}",
            run=self.run,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            added=now.commit.rows - before.commit.rows,
            windows=() if same else now.commit.windows,
            corrected=0,
        )
        sidecar = replace(now, commit=commit, sequence=before.sequence + 1)
        self.log.write_file(table, path, sidecar.to_json().encode())
        said = json.dumps({"same": same, "commits": [_short(c) for c in foreign]})
        self.log.touch(table, properties_of(change, path, sidecar.sequence, said))
        return True


def _short(commit: ForeignCommit) -> Mapping[str, object]:
    files = {"added": len(commit.added), "removed": len(commit.removed)}
    return {**asdict(commit), **files, "line": str(commit)}


def _adopted(log: VersionLog, table: "DeltaTable", before: Sidecar, path: str) -> Sidecar:
    """Describe the rows as they are; windows that did not change keep what is stored of them."""
    ref = DatasetRef.parse(before.commit.ref)
    schema = schema_of(table)
    adopted = _columns(log, before, schema)
    found = Table(ref, schema, before, table, partial(log.read_file, table), lenient=True)
    rows = found.between()
    contract = max(adopted.values(), default=1)
    known = {w.index: w for w in before.windows}
    windows: dict[int, WindowStats] = {}
    made: dict[int, Profile] = {}
    for index in _indices(rows, before):
        start = datetime.fromisoformat(before.origin_time) + index * before.window
        part = found.between(start, start + before.window)
        if index in known:
            names = found.columns(known[index].contract)
            if str(digest_of(part.batches(names))) == known[index].digest:
                windows[index] = known[index]
                continue
        windows[index], made[index] = _window(part, index, before, contract, f"{path}.profiles")
    if not windows:
        msg = f"{ref.name} has no row left, there is nothing to adopt: restore {ref}"
        raise RejectedError(msg)
    log.write_file(table, f"{path}.profiles", profiles.to_bytes(made))
    stats = tuple(windows[index] for index in sorted(windows))
    changed = tuple(w for w in stats if w.index in made)
    commit = replace(
        before.commit,
        rows=sum(w.rows for w in stats),
        digest=str(total_digest(stats)),
        windows=changed,
        watermark=_newest(rows),
    )
    base = before.base_of(stats)
    return replace(before, commit=commit, windows=stats, adopted=adopted, base=base)


def _columns(log: VersionLog, before: Sidecar, schema: pa.Schema) -> dict[str, int]:
    """Return the columns that came later; one that is gone, or of another type, is refused."""
    ref = DatasetRef.parse(before.commit.ref)
    table = log.find(ref.name, ref.version)
    held = schema_of(table) if table else schema
    wrong = [
        f.name for f in held if f.name not in schema.names or schema.field(f.name).type != f.type
    ]
    if wrong:
        msg = (
            f"columns {', '.join(map(repr, wrong))} of {ref} are gone or of another type, they "
            f"cannot be adopted: `airflow mlops restore {ref}`, or use another dataset name"
        )
        raise RejectedError(msg)
    new = [name for name in schema.names if name not in held.names]
    return {**before.adopted, **dict.fromkeys(new, before.contract + 1)}


def _indices(rows: Slice, before: Sidecar) -> list[int]:
    """Return the windows that hold rows; reads times and keys."""
    origin = datetime.fromisoformat(before.origin_time)
    first = pa.scalar(origin, pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()
    length = before.window // timedelta(microseconds=1)
    found: set[int] = set()
    for batch in rows.batches([before.time, before.key]):
        time, key = batch.column(0), batch.column(1)
        if time.null_count or key.null_count:
            msg = f"rows without {before.time!r} or {before.key!r} cannot be adopted: restore"
            raise RejectedError(msg)
        micros = np.from_dlpack(time.cast(pa.int64()))
        found.update(np.unique((micros - first) // length).tolist())
    return sorted(found)


def _window(
    part: Slice, index: int, before: Sidecar, contract: int, owner: str
) -> tuple[WindowStats, Profile]:
    builder = ProfileBuilder(Profile.around(before.centres))
    digest = digest_of(_seen(part, builder))
    start, end = (str(moment and moment.isoformat()) for moment in (part.since, part.until))
    stats = WindowStats(index, start, end, digest.rows, str(digest), owner, contract)
    return stats, builder.finish()


def _seen(part: Slice, builder: ProfileBuilder) -> Iterator[pa.RecordBatch]:
    for batch in part.batches():
        if batch.num_rows:
            builder.update(batch)
            yield batch


def _newest(rows: Slice) -> str:
    times = rows.batches([rows.table.time])
    found = max(pc.max(batch.column(0)).as_py() for batch in times if batch.num_rows)
    return str(found.astimezone(UTC).isoformat())
