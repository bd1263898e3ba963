"""
Versioned datasets: appended exactly once, read at any version, tagged, restored.

The unit of everything is the *window*: a fixed span of time counted from the first midnight of the
dataset. Late rows replace their window, and the newest commit that holds a window owns it: its
rows, its digest and its profile. So totals are sums over windows, and drift over any span is a sum
of small stored profiles.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from airflow_mlops.core.data.adoption import FOREIGN_COMMITS, Adoption
from airflow_mlops.core.data.appends import Append
from airflow_mlops.core.data.commits import Commit, Sidecar, WindowStats, sidecar_name
from airflow_mlops.core.data.foreign import described
from airflow_mlops.core.data.removals import removal_of
from airflow_mlops.core.data.snapshots import Request
from airflow_mlops.core.data.sources import Source
from airflow_mlops.core.data.tables import Slice, Table
from airflow_mlops.core.data.tags import Tag, read_tags, remove_tag, write_tag
from airflow_mlops.core.data.version_log import (
    META,
    UNDER_WAY,
    Change,
    VersionLog,
    properties_of,
    schema_of,
)
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef, canonical_digest

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["Commit", "DatasetStore", "Slice", "Table", "WindowStats"]


@dataclass(frozen=True, slots=True)
class DatasetStore:
    """
    All datasets below ``root``, one Delta table per dataset name.

    :param root: local path or object-store URI.
    :param options: credentials and endpoint, as delta-rs names them; never logged.
    :param foreign: what becomes of rows that another tool has changed: ``refuse``: nothing is built
        upon them, until a person restores a version or adopts them; ``adopt``: they are taken as
        they are, on record.
    :raises ConfigurationError: if ``foreign`` is neither.
    """

    root: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    foreign: str = "refuse"

    def __post_init__(self) -> None:
        if self.foreign not in FOREIGN_COMMITS:
            known = ", ".join(FOREIGN_COMMITS)
            msg = f"unknown foreign_commits {self.foreign!r} in section [mlops]; known: {known}"
            raise ConfigurationError(msg)

    @property
    def log(self) -> VersionLog:
        """Where versions are written down."""
        return VersionLog(self.root, self.options)

    def append(
        self,
        name: str,
        source: Source,
        *,
        app_key: str,
        time: str,
        key: str,
        window: timedelta,
        lateness: timedelta = timedelta(0),
        ahead: timedelta = timedelta(0),
        windows_from: datetime | None = None,
        adopt: Sequence[str] = (),
        author: str = "",
        origin: str = "",
        run: str = "",
    ) -> Commit:
        """
        Commit what a source has beyond the newest version, exactly once per ``app_key``.

        Reads from the start of the window that holds ``watermark - lateness``; windows whose rows
        did not change are left alone, so an append costs the new rows. A row that is stored under
        another time, and is not there any more, was corrected: it goes from its old window.

        :param source: a :class:`~airflow_mlops.core.data.sources.Source`.
        :param app_key: names this append; a retry uses the same one.
        :param window: length of a window; fixed with the first commit.
        :param windows_from: where windows are counted from; fixed with the first commit, ``None``:
            the first midnight.
        :param lateness: how far behind the newest row a late one may still arrive.
        :param ahead: how far beyond now the time of a row may lie; rows beyond are not read until
            it has come.
        :param adopt: columns that may join the dataset; earlier rows have no value in them. Other
            new columns of the source are left out.
        :raises ConfigurationError: if ``name`` may not name a dataset.
        :raises ContractBrokenError: if a column is missing, or of another type.
        :raises RejectedError: if there are no rows at all, a time is null, or a key repeats.
        :raises UnavailableError: if the store or the source does not answer.
        """
        DatasetRef.parse(f"{name}@0")  # before anything is written under that name
        query = source.query
        facts = {
            "author": author,
            "origin": origin,
            "run": run,
            "query": query,
            "query_hash": canonical_digest(query)[:16],
        }
        columns = tuple(adopt)
        Adoption(self.log, name, self.foreign, author, run).commit()
        request = Request(
            name, app_key, time, key, window, lateness, ahead, windows_from, columns, facts
        )
        return Append(self.log, source, request).commit()

    def latest(self, name: str) -> DatasetRef | None:
        """
        Return the newest version, or nothing if there is no such dataset.

        :raises ForeignCommitError: if another tool has changed rows, and they are not adopted.
        """
        Adoption(self.log, name, self.foreign).commit()
        table = self.log.find(name)
        found = table and self.log.newest(table)
        return DatasetRef.parse(found.commit.ref) if found else None

    def open(self, ref: DatasetRef) -> "Table":
        """
        Open one version; reads the table's log, not its rows.

        :raises DatasetNotFoundError: if the dataset or the version does not exist.
        :raises ForeignCommitError: if it is the work of another tool.
        :raises RejectedError: if its files do not hold as many rows as are on record.
        :raises UnavailableError: if the store does not answer, or rows are being forgotten:
            meanwhile files and what is on record about them do not belong together.
        """
        found = self.open_anyway(ref)
        # Asked after the sidecar was read: one of a call that has begun is never handed out.
        refuse = partial(self.log.refuse_under_way, found.delta)
        refuse()
        if found.lenient:  # that call has ended meanwhile
            found = self.open_anyway(ref)
            if found.lenient:
                raise RejectedError(found.differs())
        return replace(found, refuse_under_way=refuse)

    def open_anyway(self, ref: DatasetRef) -> "Table":
        """
        Open one version, also while rows are being forgotten; for the one who forgets them.

        :raises DatasetNotFoundError: if the dataset or the version does not exist.
        :raises ForeignCommitError: if it is the work of another tool.
        :raises RejectedError: if its files do not hold as many rows as are on record.
        :raises UnavailableError: if the store does not answer.
        """
        for _ in range(2):  # a call may forget rows between the log and the sidecar, and be done
            table, sidecar = self._find(ref)
            removal = removal_of(self.log, table, ref)
            read = partial(self.log.read_file, table)
            found = Table(ref, schema_of(table), sidecar, table, read, removal)
            if removal or not found.differs():
                return found
            if self.log.list_files(table, UNDER_WAY):  # sidecars are corrected before the files are
                return replace(found, lenient=True)
        raise RejectedError(found.differs())

    def _find(self, ref: DatasetRef) -> "tuple[DeltaTable, Sidecar]":
        """Return one state of a table, and what it says."""
        try:
            table = self.log.find(ref.name, ref.version)
        except UnavailableError as error:  # there is no such version, or the store is away
            newest = self._table(ref.name, asked=str(ref)).version()
            if ref.version <= newest:
                raise
            msg = f"no dataset {ref} below {self.root}: the latest version is {newest}"
            raise DatasetNotFoundError(msg) from error
        if table is None:
            table = self._table(ref.name, asked=str(ref))
        sidecar = self.log.newest(table)
        if sidecar is None:
            msg = f"{ref} below {self.root} was not written by airflow_mlops, or is still empty"
            raise DatasetNotFoundError(msg)
        return table, sidecar

    def _table(self, name: str, *, asked: str = "") -> "DeltaTable":
        table = self.log.find(name)
        if table is None:
            msg = f"no dataset {asked or name} below {self.root}: no such dataset"
            raise DatasetNotFoundError(msg)
        return table

    def commits(self, name: str) -> tuple[Commit, ...]:
        """Return the commits of a dataset, newest first."""
        table = self.log.find(name)
        if table is None:
            return ()
        return tuple(self.log.commit(table, h) for h in self.log.entries(table) if META in h)

    def tag(self, ref: DatasetRef, name: str, *, by: str = "", move: bool = False) -> Tag:
        """
        Give a version a name; ``name@tag`` then stands for it, and ``gc`` keeps it.

        :param by: who names it.
        :param move: consent to take the name from another version.
        :raises DatasetNotFoundError: if there is no such version, or its rows were removed.
        :raises ConfigurationError: if ``name`` may not be a tag.
        :raises RejectedError: if another version has it, and it may not be moved.
        """
        table, _ = self._find(ref)
        Table.refuse_removed(ref, removal_of(self.log, table, ref))
        return write_tag(self.log, table, ref, name, by=by, move=move)

    def untag(self, name: str, tag: str) -> None:
        """
        Take a tag away; one that is not there is fine.

        :raises DatasetNotFoundError: if there is no such dataset.
        """
        remove_tag(self.log, self._table(name), tag)

    def tags(self, name: str) -> dict[str, Tag]:
        """
        Return the tags of a dataset by name.

        :raises DatasetNotFoundError: if there is no such dataset.
        """
        return read_tags(self.log, self._table(name))

    def find(self, text: str) -> DatasetRef:
        """
        Read ``name``, which stands for the newest version, ``name@version`` or ``name@tag``.

        :raises DatasetNotFoundError: if there is no such dataset or tag.
        :raises ConfigurationError: if it is none of them.
        """
        if "@" in text:
            return self.resolve(text)
        found = self.latest(text)
        if found is None:
            msg = f"no dataset {text!r} below {self.root}: no such dataset"
            raise DatasetNotFoundError(msg)
        return found

    def resolve(self, text: str) -> DatasetRef:
        """
        Read ``name@version`` or ``name@tag``.

        :raises DatasetNotFoundError: if there is no such dataset or tag.
        :raises ConfigurationError: if it is neither.
        """
        name, _, last = text.partition("@")
        if not last[:1].isalpha():
            return DatasetRef.parse(text)
        known = self.tags(DatasetRef.parse(f"{name}@0").name)
        if last not in known:
            has = ", ".join(sorted(known)) or "none"
            msg = f"no tag {last!r} of dataset {name}; tags: {has}"
            raise DatasetNotFoundError(msg)
        return DatasetRef(name, known[last].version)

    def restore(self, ref: DatasetRef, *, app_key: str, author: str = "", run: str = "") -> Commit:
        """
        Make the rows of an earlier version the newest version, exactly once per ``app_key``.

        No row is copied, and no version is lost. The next append reads on from the watermark of
        the restored version: correct the source first.

        :param app_key: names this change; a retry uses the same one.
        :raises DatasetNotFoundError: if there is no such version, or its rows were removed.
        :raises UnavailableError: if the store does not answer.
        """
        _, wanted = self._find(ref)
        change = Change(ref.name, app_key, "restore", answers=True)

        def attempt(table: "DeltaTable", before: Sidecar | None) -> bool:
            foreign = self.log.last_own(table)[1]
            if before is None or (_same(before, wanted) and not foreign):
                return False
            Table.refuse_removed(ref, removal_of(self.log, table, ref))
            path, now = sidecar_name(app_key), datetime.now(UTC)
            commit = replace(
                wanted.commit,
                ref=str(DatasetRef(ref.name, table.version() + 1)),
                added=wanted.commit.rows - before.commit.rows,
                windows=(),
                author=author,
                origin=f"restored from {ref}",
                run=run,
                created_at=now.isoformat(timespec="seconds"),
                corrected=0,
            )
            sidecar = replace(wanted, commit=commit, sequence=before.sequence + 1)
            self.log.write_file(table, path, sidecar.to_json().encode())
            said = json.dumps({"undone": described(foreign)}) if foreign else ""
            properties = properties_of(change, path, sidecar.sequence, said)
            self.log.restore(table, ref.version, properties)
            return True

        return self.log.once(self._table(ref.name), change, attempt) or wanted.commit

    def adopt(self, name: str, *, author: str = "", run: str = "") -> Commit | None:
        """
        Take the rows of a dataset as another tool has left them, on record.

        Windows, digests and profiles are made anew from the rows that are there.

        :return: the commit that says so; ``None`` if nobody else has touched rows.
        :raises DatasetNotFoundError: if there is no such dataset.
        :raises RejectedError: if columns are gone, or rows have no key or time.
        """
        self._table(name)
        return Adoption(self.log, name, "adopt", author, run).commit()


def _same(one: Sidecar, two: Sidecar) -> bool:
    """Say whether two versions hold the same rows and columns."""
    return (one.commit.digest, one.adopted) == (two.commit.digest, two.adopted)
