"""What a dataset may forget: rows that were replaced long ago, and that no kept version needs."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.removals import mark_removed, removed_versions
from airflow_mlops.core.data.version_log import META, VersionLog
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    from deltalake import DeltaTable

_RACES = 10

SHORTEST = timedelta(days=1)
"""Whatever is younger stays: a snapshot that is being written has files that no version names."""


@dataclass(frozen=True, slots=True)
class Removable:
    """
    What may go from one dataset.

    :param versions: versions whose rows cannot be read afterwards; later ones stay whole.
    :param files: files of rows, paths below the dataset.
    :param kept: versions that were asked to stay, and tagged ones.
    """

    dataset: str
    versions: tuple[int, ...]
    files: tuple[str, ...]
    kept: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def find_removable(
    store: DatasetStore, name: str, *, keep: Iterable[int], older: timedelta
) -> Removable:
    """
    Look what may go from a dataset; nothing is changed.

    :param keep: versions that stay, beside the newest one and those that have a tag.
    :param older: how long ago a version has to be replaced by a newer one.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if ``older`` is less than a day.
    """
    table, kept = _kept(store, name, keep, older)
    there = set(store.log.list_files(table, ""))  # the log names files that went long ago, too
    going = there.intersection(store.log.vacuum(table, kept, older, apply=False))
    marked = removed_versions(store.log, table)
    commits = {int(h["version"]) for h in store.log.entries(table) if META in h}
    lost = (v for v in _reading(store.log, table, going) if v in commits - marked)
    return Removable(name, tuple(sorted(lost)), tuple(sorted(going)), tuple(sorted(kept)))


def remove(
    store: DatasetStore, name: str, *, keep: Iterable[int], older: timedelta, why: str
) -> Removable:
    """
    Remove what :func:`find_removable` finds; a kill in between is finished by the next call.

    What is stored about a removed version (its windows, digests and profiles) stays.

    :param keep: versions that stay, beside the newest one and those that have a tag.
    :param older: how long ago a version has to be replaced by a newer one.
    :param why: what an error says when somebody asks for a removed version.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if ``older`` is less than a day.
    :raises UnavailableError: if others always came first, or rows are being forgotten.
    """
    for _ in range(_RACES):
        found = find_removable(store, name, keep=keep, older=older)
        table = store.log.get(name)
        store.log.refuse_under_way(table)
        if not found.files:
            return found
        mark = mark_removed(store.log, table, found.versions, why)
        if {*_kept(store, name, keep, older)[1]} & {*found.versions}:  # tagged a moment ago
            store.log.remove_file(table, mark)
            continue
        if store.log.vacuumed(name, found.kept, older):
            return found
    msg = f"{_RACES} other changes of {name} came first; try again"
    raise UnavailableError(msg)


def _reading(log: VersionLog, table: "DeltaTable", files: set[str]) -> Iterator[int]:
    """Yield the versions that read any of some files."""
    now: set[str] = set()
    for version, added, removed in log.changes(table):
        now = (now - removed) | (added & files)
        if now:
            yield version


def _kept(
    store: DatasetStore, name: str, keep: Iterable[int], older: timedelta
) -> "tuple[DeltaTable, set[int]]":
    if older < SHORTEST:
        msg = f"what is younger than {SHORTEST} always stays; asked to keep only {older}"
        raise ConfigurationError(msg)
    table = store.log.find(name)
    newest = table and store.log.newest(table)
    if table is None or newest is None:
        msg = f"no dataset {name} below {store.root}: no such dataset"
        raise DatasetNotFoundError(msg)
    tagged = {tag.version for tag in store.tags(name).values()}
    compacted = bool(store.log.last_own(table)[1])  # by another tool: our newest has other files
    own = {DatasetRef.parse(newest.commit.ref).version} if compacted else set()
    return table, {v for v in {*keep, *tagged, *own} if v <= table.version()}
