"""Files below a dataset's table, wherever it is, and the errors of whoever keeps them."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector

from airflow_mlops.core.errors import ConfigurationError, RejectedError, UnavailableError

_PATIENCE = {"max_retries": "3", "retry_timeout": "30s"}
"""An object store that is away is given up after a while; object_store's own limit is 3 minutes."""

_REFUSED = ("Generic Config error", "NoSuchBucket", "AccessDenied", "InvalidAccessKey", "Forbidden")
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

        :raises RejectedError: if it is gone.
        """
        with self._talking(f"cannot read {path}"):
            try:
                with self._files(table).open_input_file(path) as file:
                    return bytes(file.read())
            except FileNotFoundError as error:
                msg = f"{path} of {table.table_uri} is gone: bring it back from a backup"
                raise RejectedError(msg) from error

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
            refused = any(sign in text for sign in _REFUSED)
            raise (ConfigurationError if refused else UnavailableError)(msg) from error


def plain(error: Exception) -> str:
    """Write an error of delta-rs in one line, without the colours it is drawn in."""
    return _COLOURS.sub("", " ".join(str(error).split()))
