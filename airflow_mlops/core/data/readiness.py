"""Whether a dataset can be corrected: all of it is readable, and its store can be written to."""

import contextlib
import secrets
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.commits import SIDECARS
from airflow_mlops.core.data.removals import removed_versions
from airflow_mlops.core.data.table_files import plain
from airflow_mlops.core.data.version_log import META, UNDER_WAY, VersionLog
from airflow_mlops.core.errors import RejectedError, UnavailableError

if TYPE_CHECKING:
    from deltalake import DeltaTable


def check_whole(log: VersionLog, table: "DeltaTable") -> None:
    """
    Read everything once, and write once, before a step that cannot be undone.

    :raises RejectedError: if a file is gone, cut or garbled; nothing is changed then.
    :raises UnavailableError: if the store does not answer, or nothing can be written.
    """
    gone, owners = removed_versions(log, table), set[str]()
    with _readable(table, "a file of the log"):
        entries = list(log.entries(table))
    for entry in entries:
        if META in entry:
            with _readable(table, entry[META]):
                windows = log.sidecar(table, entry).windows
                owners |= {w.owner for w in windows if int(entry["version"]) not in gone}
    for path in sorted(owners):
        with _readable(table, path):
            profiles.from_bytes(log.read_file(table, path))
    for path in log.list_files(table, ""):
        if path.endswith(".parquet"):
            with _readable(table, path), log.open_file(table, path) as file:
                for _ in pq.ParquetFile(file).iter_batches():
                    pass
    probe = f"{SIDECARS}/probe-{secrets.token_hex(4)}"
    log.write_file(table, probe, b"{}")
    log.remove_file(table, probe)


@contextlib.contextmanager
def shared(log: VersionLog, table: "DeltaTable") -> Iterator[None]:
    """
    Do not call damaged what another call that forgets rows, too, is writing again meanwhile.

    :raises UnavailableError: instead of RejectedError, while rows are being forgotten.
    """
    there = log.list_files(table, UNDER_WAY)
    try:
        yield
    except RejectedError as error:
        if not there and not log.list_files(table, UNDER_WAY):
            raise
        msg = (
            f"rows of {table.table_uri} are being forgotten by another call; try again, which "
            f"finishes one that was killed. It was seen that {error}"
        )
        raise UnavailableError(msg) from error


@contextlib.contextmanager
def _readable(table: "DeltaTable", path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, zlib.error, EOFError) as error:
        msg = (
            f"{path} of {table.table_uri} is cut or garbled ({plain(error)}): bring it back from "
            "a backup; nothing was forgotten yet"
        )
        raise RejectedError(msg) from error
