"""
Temporary folders that are known to be in use, and those that a killed process left behind.

A process that is killed does not tidy up. Each folder is therefore locked while its process lives;
the kernel takes the lock back with the process, however it ended. What has no lock is rubbish.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from airflow_mlops.core.errors import ConfigurationError

PREFIX = "mlops-"
PURPOSES = (
    "code", "diff", "features", "java", "lineage", "model", "read", "replay", "reproduce", "save",
    "simulate", "train",
    "verify",
)  # fmt: skip
"""What this package makes temporary folders for; only such names are ever removed."""


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """
    Make a temporary folder, which goes when the block ends.

    :param purpose: one of :data:`PURPOSES`; it is part of the name.
    :raises ConfigurationError: if the purpose is not on the list.
    """
    if purpose not in PURPOSES:
        msg = f"unknown purpose {purpose!r} of a temporary folder; known: {', '.join(PURPOSES)}"
        raise ConfigurationError(msg)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-") as name:
        held = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(held)


def sweep(older: timedelta, *, folder: Path | None = None) -> tuple[str, ...]:
    """
    Remove the temporary folders of processes that ended without tidying up.

    Only folders with a name that :func:`scratch_folder` gives, of this user, and that nobody holds.

    :param older: how long a folder has to have lain unchanged.
    :param folder: where to look; none: where this process has its own.
    :return: names of what was removed, sorted.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    latest = time.time() - older.total_seconds()
    ours = tuple(f"{PREFIX}{purpose}-" for purpose in PURPOSES)
    found = sorted(path for path in place.iterdir() if path.name.startswith(ours))
    return tuple(path.name for path in found if _removed(path, latest))


def _removed(path: Path, latest: float) -> bool:
    """Remove one folder, unless it is young, somebody else's, or in use."""
    with contextlib.suppress(OSError):  # gone meanwhile, no folder, or held by its process
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            facts = os.fstat(held)
            if facts.st_uid != os.getuid() or facts.st_mtime > latest:
                return False
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            return True
        finally:
            os.close(held)
    return False
