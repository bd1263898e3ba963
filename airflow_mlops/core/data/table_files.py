"""Files below a dataset's table, wherever it is, and the errors of whoever keeps them."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector

from airflow_mlops.core.errors import ConfigurationError, RejectedError, UnavailableError

_PATIENCE = {"max_retries": "3", "retry_timeout": "30s"}
"""An object store that is away is given up after a while; object_store's own limit is 3 minutes."""

_READS = 20
"""How often a file is read that somebody replaces meanwhile."""

_REFUSED = ("Generic Config error", "NoSuchBucket", "AccessDenied", "InvalidAccessKey", "Forbidden")
_BROKEN = tuple(
    f"Kernel error: {kind}"
    for kind in ("Json error", "Arrow error", "Parquet error", "Invalid Checkpoint")
)
"""What delta-rs says of a file of its log that is cut or garbled: a retry reads it again."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class TableFiles:
    """
    The files below one root.

    :param root: local path or object-store URI.
    :param options: credentials and endpoint, as delta-rs names them; never logged.
    """

    root: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def uri(self, name: str) -> str:
        """Return the place of a dataset."""
        return f"{self.root.rstrip('/')}/{name}"

    def read_file(self, table: DeltaTable, path: str) -> bytes:
        """
        Read a file below a table.

        delta-rs asks for its size first: of one that is replaced meanwhile it would read a part.

        :raises RejectedError: if it is gone.
        :raises UnavailableError: if others replace it all the time.
        """
        files = self._files(table)
        with self._talking(f"cannot read {path}"):
            try:
                for _ in range(_READS):
                    (before,) = files.get_file_info([path])
                    with files.open_input_file(path) as file:
                        data = bytes(file.read())
                    (after,) = files.get_file_info([path])
                    same = (before.size, before.mtime_ns) == (after.size, after.mtime_ns)
                    if same and len(data) == after.size:
                        return data
            except FileNotFoundError as error:
                msg = f"{path} of {table.table_uri} is gone: bring it back from a backup"
                raise RejectedError(msg) from error
        msg = f"{path} of {table.table_uri} is being replaced; try again"
        raise UnavailableError(msg)

    def read_json(self, table: DeltaTable, path: str) -> dict[str, Any]:
        """
        Read a file below a table that holds one JSON object.

        :raises RejectedError: if it is gone, cut or garbled.
        """
        data = self.read_file(table, path)
        with stored(f"{path} of {table.table_uri}"):
            return dict(json.loads(data))

    def notes(self, table: DeltaTable, folder: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """
        Yield the path of each note right below a folder, and what it says.

        Nothing, if somebody has removed it since it was listed.

        :raises RejectedError: if one is cut or garbled.
        """
        for path in self.list_files(table, folder):
            try:
                yield path, self.read_json(table, path)
            except RejectedError:
                if path in self.list_files(table, folder):
                    raise
                yield path, None

    @contextlib.contextmanager
    def open_file(self, table: DeltaTable, path: str) -> Iterator[pa.NativeFile]:
        """Open a file below a table, to read parts of it."""
        with self._talking(f"cannot read {path}"), self._files(table).open_input_file(path) as file:
            yield file

    def write_file(self, table: DeltaTable, path: str, data: bytes) -> None:
        """Write a file below a table; readers see the old one or the new one, never a part."""
        with self._talking(f"cannot write {path}"):
            # pyarrow hands delta-rs a Buffer where it wants bytes: write below pyarrow's wrapper
            file = self._files(table)._handler.open_output_stream(path, {})
            file.write(data)
            file.close()

    def remove_file(self, table: DeltaTable, path: str) -> None:
        """Remove a file below a table; one that is gone is fine."""
        with self._talking(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
            self._files(table).delete_file(path)

    def list_files(self, table: DeltaTable, folder: str) -> list[str]:
        """Return the paths of the files right below a folder of a table, sorted."""
        with self._talking(f"cannot list {folder}"):
            selector = FileSelector(folder, allow_not_found=True)
            found = self._files(table).get_file_info_selector(selector)
        return sorted(info.path for info in found if info.is_file)

    def _options(self) -> dict[str, str] | None:
        patience = _PATIENCE if "://" in self.root else {}
        return {**patience, **self.options} or None

    def _files(self, table: DeltaTable) -> DeltaStorageHandler:
        return DeltaStorageHandler.from_table(table._table, self._options())

    @contextlib.contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        """
        Give delta-rs's errors their family.

        :param what: what cannot be done: the errors name it.
        """
        try:
            yield
        except CommitFailedError:
            raise
        except (DeltaError, OSError) as error:
            text = plain(error)
            msg = f"the dataset store at {self.root} {what}: {text}"
            if any(sign in text for sign in _BROKEN):
                msg += "; a file of its log is cut or garbled: bring it back from a backup"
                raise RejectedError(msg) from error
            refused = any(sign in text for sign in _REFUSED)
            raise (ConfigurationError if refused else UnavailableError)(msg) from error


def counted(table: DeltaTable) -> int:
    """Count the rows of a table by its log."""
    try:
        return int(table.count())
    except DeltaError:  # a file of another tool, without statistics
        return int(table.to_pyarrow_dataset().count_rows())


@contextlib.contextmanager
def stored(what: str) -> Iterator[None]:
    """
    Give what goes wrong with stored bytes its family: they are not what was written.

    :param what: which bytes.
    :raises RejectedError: if they are cut, garbled, or lack a part.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError, pa.ArrowException) as error:
        text = f"{type(error).__name__}: {plain(error)}"
        msg = (
            f"{what} is not what was written ({text}): cut or garbled; bring it back from a backup"
        )
        raise RejectedError(msg) from error


def plain(error: Exception) -> str:
    """Write an error of delta-rs in one line, without the colours it is drawn in."""
    return _COLOURS.sub("", " ".join(str(error).split()))
