"""
Files of an MLflow run: read whole, or not read.

A store that is away, tired or cut off says nothing about a model. Only files that were read whole
can be compared with what was recorded.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import (
    ModelChangedError,
    ModelLostError,
    ModelNotFoundError,
    UnavailableError,
)
from airflow_mlops.core.training.answers import talking
from airflow_mlops.core.training.files import count_files, drop_bytecode, tree_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient


MODEL = "model"
"""Folder of a run that holds its model."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    The files of one model version, and how they are recognized.

    :param what: the version; errors name it.
    :param run_id: MLflow run that has them.
    :param digest: SHA-256 over their paths and bytes.
    :param files: how many there are; ``None``: nobody knows.
    """

    what: str
    run_id: str
    digest: str
    files: int | None


def fetch(client: "MlflowClient", wanted: Wanted, into: Path) -> Path:
    """
    Download the folder of a model, and check that it holds what it has to hold.

    Compiled code is no part of a model: nobody knows who wrote it, and it goes.

    :param into: an empty folder.
    :raises ModelChangedError: if a file was changed, lost or added.
    :raises UnavailableError: if they could not be read whole: that says nothing about them;
        :class:`ModelLostError` if the store answers, and does not have them.
    """
    found, what = "", wanted.what
    for number in ("first", "second"):  # one that was cut off may come whole the next time
        place = into / number
        place.mkdir()
        folder = _downloaded(client, wanted, place)
        for name in drop_bytecode(folder):
            _logger.warning("%s: %s is compiled code, and not used", what, name)
        before, found = found, tree_digest(folder)
        if found == wanted.digest:
            return folder
    why = unread(client, wanted.run_id, MODEL, folder, what, files=wanted.files)
    if wanted.files is not None and count(client, wanted.run_id, MODEL, what) < wanted.files:
        raise _lost(wanted)
    if why or found != before:
        msg = f"files of {what} were not read whole: {why or 'each time others'}; try again"
        raise UnavailableError(msg)
    msg = (
        f"files of {what} are not those that were evaluated: digest {found[:16]}, "
        f"recorded {wanted.digest[:16]}; roll back, or train again"
    )
    raise ModelChangedError(msg)


def _downloaded(client: "MlflowClient", wanted: Wanted, into: Path) -> Path:
    try:
        return download(client, wanted.run_id, MODEL, into, wanted.what)
    except UnavailableError as error:
        there = has(client, wanted.run_id, MODEL, wanted.what)
        if there and count(client, wanted.run_id, MODEL, wanted.what):
            raise
        raise _lost(wanted) from error


def _lost(wanted: Wanted) -> ModelLostError:
    msg = (
        f"files of {wanted.what} are gone from run {wanted.run_id}: bring them back from a backup "
        "of the artifact store, roll back, or train again"
    )
    return ModelLostError(msg)


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Let whatever keeps files from being read be an outage, but for a login that is refused."""
    try:
        with talking(what):
            yield
    except ModelNotFoundError as error:
        msg = f"the artifact store does not give out {what}: {error}"
        raise UnavailableError(msg) from error
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        msg = f"{what} cannot be read: {type(error).__name__}: {error}"
        raise UnavailableError(msg) from error


def download(client: "MlflowClient", run_id: str, path: str, into: Path, what: str) -> Path:
    """
    Download a file or a folder of a run.

    :param path: below the run's artifacts.
    :param into: an empty folder.
    :param what: what it is of: the errors name it.
    :raises UnavailableError: if it could not be read, for whatever reason.
    :raises ConfigurationError: if the login is refused.
    """
    with _reading(f"{path} of {what}"):
        return Path(client.download_artifacts(run_id, path, str(into)))


def unread(
    client: "MlflowClient", run_id: str, path: str, folder: Path, what: str, *, files: int | None
) -> str:
    """
    Say why a folder that was downloaded is not what the store has; empty if it is.

    :param path: the folder below the run's artifacts.
    :param folder: where it was downloaded to.
    :param what: what it is of: the errors name it.
    :param files: how many there have to be; ``None``: nobody knows.
    :raises UnavailableError: if the store does not list its files.
    """
    with _reading(f"the list of {path} of {what}"):
        listed, empty = _listed(client, run_id, path)
    if empty:
        return f"{empty[0]} is listed as empty"
    for name, size in listed.items():
        found = folder / Path(name).relative_to(path)
        if not found.is_file():
            return f"{name} was not read"
        if size is not None and found.stat().st_size != size:
            return f"{found.stat().st_size} of {size} bytes of {name} were read"
    if count_files(folder) > len(listed):
        return f"{count_files(folder)} files were read, {len(listed)} are listed"
    if files is not None and len(listed) < files:
        return f"{len(listed)} of {files} files are there"
    return ""


def count(client: "MlflowClient", run_id: str, path: str, what: str) -> int:
    """Return how many files the store lists below a folder."""
    with _reading(f"the list of {path} of {what}"):
        return len(_listed(client, run_id, path)[0])


def files(client: "MlflowClient", run_id: str, path: str, of: str) -> tuple[str, ...]:
    """
    Return the files below a folder of a run; none if there is no such folder.

    :param of: what it is of: the errors name it.
    :raises UnavailableError: if the store does not list them.
    """
    with _reading(f"the list of {path} of {of}"):
        return tuple(sorted(_listed(client, run_id, path)[0]))


def has(client: "MlflowClient", run_id: str, name: str, of: str) -> bool:
    """
    Say whether a run has an artifact.

    :param of: what it is of: the errors name it.
    :raises UnavailableError: if the store does not list them, or lists nothing at all.
    """
    what = f"the list of artifacts of {of}"
    with _reading(what):
        top = [one.path for one in client.list_artifacts(run_id)]
        parent = name.rpartition("/")[0]
        found = [one.path for one in client.list_artifacts(run_id, parent)] if parent else top
    if not top:
        msg = f"{what} is empty"
        raise UnavailableError(msg)
    return name in found


def _listed(
    client: "MlflowClient", run_id: str, path: str
) -> tuple[dict[str, int | None], list[str]]:
    """Return the files below a folder with their sizes, and the folders that hold nothing."""
    files: dict[str, int | None] = {}
    empty, folders = [], [path]
    while folders:
        folder = folders.pop()
        below = client.list_artifacts(run_id, folder)
        if not below:
            empty.append(folder)
        folders += [one.path for one in below if one.is_dir]
        files |= {one.path: one.file_size for one in below if not one.is_dir}
    return files, empty
