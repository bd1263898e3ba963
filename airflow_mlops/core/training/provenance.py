"""Where a model comes from: commit of the code, installed distributions."""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from airflow_mlops.core.refs import canonical_digest

UNVERSIONED = "unversioned"


@dataclass(frozen=True, slots=True)
class Environment:
    """
    What a process runs with.

    :param distributions: ``name==version`` of every installed distribution, sorted.
    :param python: version of Python.
    :param platform: operating system and processor.
    """

    distributions: tuple[str, ...]
    python: str
    platform: str

    @property
    def id(self) -> str:
        """Version of the environment, ``env-`` and 16 hexadecimal digits."""
        parts = [list(self.distributions), self.python, self.platform]
        return "env-" + canonical_digest(parts)[:16]

    def text(self) -> str:
        """Return the list as an artifact: one distribution a line."""
        head = f"# python {self.python} on {self.platform}\n"
        return head + "\n".join(self.distributions) + "\n"


def environment() -> Environment:
    """Look at the running process."""
    names = {f"{d.name.lower()}=={d.version}" for d in distributions() if d.name}
    return Environment(
        tuple(sorted(names)),
        platform.python_version(),
        f"{platform.system()} {platform.machine()}",
    )


def code_version(folder: Path | None, *, declared: str | None = None) -> str:
    """
    Return the version of the code, ``git:<sha>``, with a digest of the changes if there are any.

    :param folder: folder of the Dag file; ``None`` if unknown.
    :param declared: a version that is known already, such as that of the Dag bundle.
    """
    if declared:
        return f"git:{declared}"
    if folder is None:
        return UNVERSIONED
    sha = _git(folder, "rev-parse", "HEAD")
    if sha is None:
        return UNVERSIONED
    changes = _git(folder, "diff", "HEAD", "--", ".")
    if not changes:
        return f"git:{sha}"
    return f"git:{sha}+{hashlib.sha256(changes.encode()).hexdigest()[:12]}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git; ``None`` where there is no git, or no repository."""
    try:
        done = subprocess.run(  # noqa: S603  (fixed words and a folder)
            ["git", "-C", str(folder), *arguments],  # noqa: S607  (whichever git the worker has)
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
