"""
Tags: names of people for versions of a dataset, such as ``electricity@audit-1997``.

One small file each, beside the sidecars. A version with a tag is kept by ``gc``.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_mlops.core.data.commits import SIDECARS
from airflow_mlops.core.data.table_files import stored
from airflow_mlops.core.data.version_log import VersionLog
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    from deltalake import DeltaTable

FOLDER = f"{SIDECARS}/tags"
_TAG = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Tag:
    """
    A name for a version.

    :param version: number of the version.
    :param by: who gave it.
    :param at: when, ISO 8601.
    """

    name: str
    version: int
    by: str
    at: str


def check_tag(name: str) -> str:
    """
    Return ``name`` if it may be a tag.

    :raises ConfigurationError: if it may not.
    """
    if not _TAG.fullmatch(name):
        msg = (
            f"not a tag: {name!r} (lower case letters, digits, '-' and '_', starting with a "
            "letter, at most 63)"
        )
        raise ConfigurationError(msg)
    return name


def read_tags(log: VersionLog, table: "DeltaTable") -> dict[str, Tag]:
    """Return all tags of a dataset by name."""
    found: dict[str, Tag] = {}
    for path in log.list_files(table, FOLDER):
        data = log.read_json(table, path)
        with stored(f"{path} of {table.table_uri}"):
            found[data["name"]] = Tag(data["name"], int(data["version"]), data["by"], data["at"])
    return found


def write_tag(
    log: VersionLog, table: "DeltaTable", ref: DatasetRef, name: str, *, by: str, move: bool
) -> Tag:
    """
    Name a version; the same again changes nothing.

    :param ref: a version that is there.
    :param move: consent to take the tag from another version.
    :raises RejectedError: if another version has it, and it may not be moved.
    """
    held = read_tags(log, table).get(check_tag(name))
    if held is not None and held.version == ref.version:
        return held
    if held is not None and not move:
        msg = f"tag {name!r} names {ref.name}@{held.version}, by {held.by}; to move it, say --move"
        raise RejectedError(msg)
    tag = Tag(name, ref.version, by, datetime.now(UTC).isoformat(timespec="seconds"))
    data = {"name": name, "version": tag.version, "by": by, "at": tag.at}
    log.write_file(table, f"{FOLDER}/{name}.json", json.dumps(data).encode())
    return tag


def remove_tag(log: VersionLog, table: "DeltaTable", name: str) -> None:
    """Take a tag away; one that is not there is fine."""
    log.remove_file(table, f"{FOLDER}/{check_tag(name)}.json")
