"""Where a model comes from: the commit of its code, the environment it was made in."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from airflow_mlops.core.refs import canonical_digest

UNVERSIONED = "unversioned"

DIFF_BYTES = 1 << 20
"""Of uncommitted changes, what is kept at most."""

_NVIDIA = Path("/proc/driver/nvidia/version")
_CPU = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Environment:
    """
    What a process runs with.

    Its id says which software; the machine is recorded beside it, so that a retry on another
    worker of the same image trains the same recipe.

    :param distributions: ``name==version`` of every installed distribution, sorted.
    :param python: version of Python.
    :param platform: operating system and processor family.
    :param blas: library that multiplies matrices, with its version.
    :param gpu: version of the NVIDIA driver; empty if there is none.
    :param machine: the processor, its cores, the BLAS kernel chosen for it, and the threads used.
    """

    distributions: tuple[str, ...]
    python: str
    platform: str
    blas: str = ""
    gpu: str = ""
    machine: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        """Version of the environment, ``env-`` and 16 hexadecimal digits."""
        parts = [list(self.distributions), self.python, self.platform, self.blas, self.gpu]
        return "env-" + canonical_digest(parts)[:16]

    def text(self) -> str:
        """Return it as an artifact: comments, then one distribution a line, as pip reads them."""
        facts = {"python": self.python, "platform": self.platform, "blas": self.blas}
        facts |= {"gpu": self.gpu} | {f"machine {k}": v for k, v in self.machine.items()}
        lines = [*(f"# {name}: {value}" for name, value in facts.items()), *self.distributions]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what :meth:`text` wrote."""
        lines = text.splitlines()
        facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
        machine = {k[8:]: v for k, v in facts.items() if k.startswith("machine ")}
        known = {k: v for k, v in facts.items() if not k.startswith("machine ")}
        packages = tuple(line for line in lines if line and not line.startswith("#"))
        return cls(packages, **known, machine=machine)


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """
    One thing that differs between two environments.

    :param name: package, or ``python``, ``platform``, ``blas``, ``gpu``, ``machine ...``.
    :param old: its version; empty if it was not there.
    :param used: whether the model uses it.
    """

    name: str
    old: str
    new: str
    used: bool

    @property
    def text(self) -> str:
        """What changed, without whom it concerns."""
        return f"{self.name} {self.old or 'absent'} -> {self.new or 'absent'}"

    def __str__(self) -> str:
        return f"{self.text} (used by the model)" if self.used else self.text


def environment() -> Environment:
    """Look at the running process."""
    return Environment(
        tuple(sorted(f"{name}=={version}" for name, version in _installed().items())),
        platform.python_version(),
        f"{platform.system()} {platform.machine()}",
        _blas(),
        _driver(),
        _machine(),
    )


def compare_environments(
    old: Environment, new: Environment, used: Iterable[str]
) -> tuple[EnvironmentChange, ...]:
    """
    Name everything that differs, what the model uses first.

    :param used: packages the model uses.
    """
    one, two = _facts(old), _facts(new)
    wanted = {_normalised(name) for name in used} | {"python", "platform", "blas"}
    changes = [
        EnvironmentChange(name, one.get(name, ""), two.get(name, ""), name in wanted)
        for name in sorted({*one, *two})
        if one.get(name, "") != two.get(name, "")
    ]
    return tuple(sorted(changes, key=lambda change: not change.used))


def packages_of(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the distributions that provide these top-level modules, ``name==version``, sorted."""
    from importlib.metadata import packages_distributions

    versions, providers = _installed(), packages_distributions()
    names = {_normalised(name) for top in modules for name in providers.get(top, ())}
    return tuple(sorted(f"{name}=={versions[name]}" for name in names if name in versions))


@dataclass(frozen=True, slots=True)
class Code:
    """
    Version of the code, and what was not committed.

    :param version: ``git:<sha>``, with a digest of the changes if there are any.
    :param changes: these changes, as ``git diff`` shows them.
    """

    version: str
    changes: str = field(default="", repr=False)


def code_version(folder: Path | None, *, declared: str | None = None) -> Code:
    """
    Return the version of the code.

    :param folder: folder of the Dag file; ``None`` if unknown.
    :param declared: a version that is known already, such as that of the Dag bundle.
    """
    if declared:
        return Code(f"git:{declared}")
    sha = None if folder is None else _git(folder, "rev-parse", "HEAD")
    if folder is None or sha is None:
        return Code(UNVERSIONED)
    changes = _git(folder, "diff", "HEAD")
    if not changes:
        return Code(f"git:{sha}")
    digest = hashlib.sha256(changes.encode()).hexdigest()[:12]
    kept = changes.encode()[:DIFF_BYTES].decode(errors="ignore")
    return Code(f"git:{sha}+{digest}", kept)


def _installed() -> dict[str, str]:
    """
    Name -> version of every installed distribution.

    Read from the names of their folders, which the wheel format fixes: opening 250 metadata files
    costs a quarter of a CPU second. The first one on the path is the one that is imported.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        try:
            entries = sorted(os.listdir(place or "."))
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(".dist-info"):
                name, _, version = entry.removesuffix(".dist-info").rpartition("-")
                found.setdefault(_normalised(name), version)
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("==")[0]).lower()


def _blas() -> str:
    import numpy as np

    shown: Any = np.show_config(mode="dicts")
    found = shown.get("Build Dependencies", {}).get("blas", {})
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def _driver() -> str:
    try:
        match = re.search(r"Kernel Module\s+(?:for \S+\s+)?([0-9.]+)", _NVIDIA.read_text("utf-8"))
    except OSError:
        return ""
    return match[1] if match else ""


def _machine() -> dict[str, str]:
    from threadpoolctl import threadpool_info

    try:
        match = re.search(r"^model name\s*:\s*(.+)$", _CPU.read_text("utf-8"), re.MULTILINE)
    except OSError:
        match = None
    blas: dict[str, Any] = next((i for i in threadpool_info() if i["user_api"] == "blas"), {})
    return {
        "cpu": match[1].strip() if match else platform.processor() or "unknown",
        "cores": str(_cores()),
        "kernel": str(blas.get("architecture", "unknown")),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(_cores()),  # noqa: TID251  (no secret)
    }


def _cores() -> int:
    """Cores this process may use; not every system lets one ask for that."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _facts(environment: Environment) -> dict[str, str]:
    """Everything of an environment that has a version, by name."""
    packages = dict(line.split("==", 1) for line in environment.distributions)
    machine = {f"machine {name}": value for name, value in environment.machine.items()}
    software = {name: getattr(environment, name) for name in ("python", "platform", "blas", "gpu")}
    return {_normalised(name): v for name, v in packages.items()} | machine | software


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
