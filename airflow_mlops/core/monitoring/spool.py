"""
Usages on their way to the database: one small file each, rewritten while the work goes on.

A process that is killed leaves its file behind, with what it had used by then; a database that is
away leaves files, too. Whoever delivers next on this machine takes them along.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

LIMIT = 1_000
"""Most files that wait; the oldest go first."""

_STEP = 2.0
"""Seconds by which a process may seem to have begun at another time: clocks are set."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A record that is to be delivered.

    :param record: what was written, plain JSON types.
    :param killed: whether its process died before it could end it.
    """

    path: Path
    record: Mapping[str, Any]
    killed: bool


@dataclass(frozen=True, slots=True)
class Spool:
    """
    A local folder of records.

    :param folder: made when the first one is written.
    """

    folder: Path

    def begin(self) -> Path:
        """Choose the file of one record of this process; nothing is written yet."""
        return self.folder / f"{time.time_ns():020d}-{os.getpid()}-{uuid4().hex[:8]}.json"

    def write(self, path: Path, record: Mapping[str, Any], *, ended: bool) -> None:
        """
        Write a record, or write it again; whoever reads sees one of them whole.

        :param path: from :meth:`begin`.
        :param ended: whether it may be delivered.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        owner = {
            "host": platform.node(),
            "pid": os.getpid(),
            "born": psutil.Process().create_time(),
        }
        draft.write_text(json.dumps({"ended": ended, "owner": owner, "record": record}), "utf-8")
        draft.replace(path)

    def remove(self, path: Path) -> None:
        """Forget a record."""
        path.unlink(missing_ok=True)

    def waiting(self) -> tuple[Waiting, ...]:
        """Return what can be delivered, oldest first: the ended, and the dead of this machine."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # another one delivered it
                try:
                    kept = json.loads(path.read_text("utf-8"))
                    dead = not kept["ended"] and _dead(kept["owner"])
                    if dead:  # it may have ended well, and been delivered, since it was read
                        kept = json.loads(path.read_text("utf-8"))
                    if kept["ended"] or dead:
                        found.append(Waiting(path, kept["record"], not kept["ended"]))
                except (ValueError, KeyError, TypeError):  # no record: it would come up each time
                    self.remove(path)
        return tuple(found)

    def bound(self) -> int:
        """Remove the oldest files beyond :data:`LIMIT`; return how many."""
        surplus = sorted(self.folder.glob("*"))[:-LIMIT]
        for path in surplus:
            self.remove(path)
        return len(surplus)


def _dead(owner: Mapping[str, Any]) -> bool:
    """Say whether a process is over, as far as it can be seen from here."""
    if owner["host"] != platform.node():
        return False
    try:
        found = psutil.Process(owner["pid"])
        same = abs(found.create_time() - owner["born"]) < _STEP
        return not same or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
