"""What a file of pins would change for the champion, before anybody installs it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.dependencies import (
    SHOWN,
    DependencyReport,
    Status,
    known_bad,
    summary,
)
from airflow_mlops.core.training.provenance import (
    Environment,
    EnvironmentChange,
    compare_environments,
)

_COMMENT = re.compile(r"(^|\s)#.*")
_SECRET = re.compile(r"-|.*(://|@)")
_LETTERS = 60


@dataclass(frozen=True, slots=True)
class ConstraintsReport:
    """
    A file of pins beside a worker and a model version.

    :param changes: what it would change on this worker, what the model uses first.
    :param training: what would then differ from the environment of training.
    :param known_bad: of these, what is known to go wrong, in sentences.
    :param absent: pins of packages that are not here: a constraints file alone installs none.
    :param not_understood: lines that name no version, such as URLs, options and other files.
    """

    model: str
    file: str
    changes: tuple[EnvironmentChange, ...]
    training: tuple[EnvironmentChange, ...]
    known_bad: tuple[str, ...]
    absent: tuple[str, ...]
    not_understood: tuple[str, ...]

    @property
    def status(self) -> Status:
        """``warn`` if it is known to go wrong, or if nobody can say: nothing is broken yet."""
        return "warn" if self.known_bad or self.not_understood else "ok"

    @property
    def line(self) -> str:
        """One sentence: what it would change, and what of that is known to go wrong."""
        parts = [f"{self.file} beside {self.model} on this worker: {summary(self.changes)}"]
        parts += [f"known to go wrong: {text}" for text in self.known_bad]
        if self.not_understood:
            shown, more = self.not_understood[:SHOWN], len(self.not_understood) - SHOWN
            also = f" and {more} more" if more > 0 else ""
            parts.append(f"not understood, so not judged: {', '.join(shown)}{also}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        lists = {n: list(getattr(self, n)) for n in ("known_bad", "absent", "not_understood")}
        return asdict(self) | lists | {"status": self.status, "line": self.line}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the report that :meth:`to_dict` wrote."""
        lists = {n: tuple(data[n]) for n in ("known_bad", "absent", "not_understood")}
        changes, training = (
            tuple(EnvironmentChange(**c) for c in data[n]) for n in ("changes", "training")
        )
        return cls(data["model"], data["file"], changes, training, **lists)


def check_constraints(path: Path, report: DependencyReport) -> ConstraintsReport:
    """
    Say what a requirements or constraints file would change, before it is installed.

    A package that it does not name stays as it is.

    :param path: the file, with lines ``name==version``.
    :param report: of the model version and this worker.
    :raises ConfigurationError: if there is no such file, or it names nothing.
    """
    installed = _versions(report.here)
    pins, not_understood = _read(path, installed)
    new = {n: v for n, v in pins.items() if n in installed and not _equal(v, installed[n])}
    lines = tuple(sorted(f"{name}=={v}" for name, v in {**installed, **new}.items()))
    then = replace(report.here, distributions=lines)
    training = compare_environments(report.training, then, report.uses)
    return ConstraintsReport(
        report.model,
        str(path),
        compare_environments(report.here, then, report.uses),
        training,
        known_bad(training, report.stored),
        tuple(f"{name}=={version}" for name, version in pins.items() if name not in installed),
        not_understood,
    )


def _versions(environment: Environment) -> dict[str, str]:
    pairs = (line.split("==", 1) for line in environment.distributions)
    return {str(canonicalize_name(name)): version for name, version in pairs}


def _read(path: Path, installed: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the pinned versions by name, and the lines that name none."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} is no file of constraints: {error}; give one that is on this worker"
        raise ConfigurationError(msg) from error
    pins: dict[str, str] = {}
    not_understood = []
    number = 0
    for number, line in _lines(text):
        try:
            name, version = _pin(line, installed)
        except ValueError:
            not_understood.append(_shown(number, line))
            continue
        if version and pins.setdefault(name, version) != version:
            not_understood.append(f"{_shown(number, line)} (it was {pins[name]} before)")
    if not number:
        msg = f"{path} names no package; it has to hold lines such as numpy==2.3.4"
        raise ConfigurationError(msg)
    return pins, tuple(not_understood)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, as pip reads them: joined, without comments."""
    held, first = "", 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.endswith("\\"):
            held += line[:-1]
            continue
        whole = _COMMENT.sub("", held + line).strip()
        if whole:
            yield first, whole
        held, first = "", number + 1


def _pin(line: str, installed: Mapping[str, str]) -> tuple[str, str]:
    """
    Return name and version; no version if the line changes nothing here.

    :raises ValueError: if the line names no version.
    """
    wanted = Requirement(re.split(r"\s--", line)[0])  # the hash of a file is said behind it
    name = str(canonicalize_name(wanted.name))
    if wanted.url:
        raise ValueError(line)
    if wanted.marker and not wanted.marker.evaluate():
        return name, ""
    parts = [s.version for s in wanted.specifier if s.operator in ("==", "===")]
    if len(parts) == len(wanted.specifier) == 1 and not parts[0].endswith("*"):
        return name, parts[0]
    if name in installed and wanted.specifier.contains(installed[name], prereleases=True):
        return name, ""
    raise ValueError(line)


def _shown(number: int, line: str) -> str:
    """Name a line; of an address or an option only the beginning, for it may hold a password."""
    if _SECRET.match(line):
        line = f"{re.match(r'[-+.A-Za-z0-9]*', line)[0]} ..."  # type: ignore[index]
    return f"line {number}: {line[:_LETTERS]}"


def _equal(one: str, two: str) -> bool:
    try:
        return Version(one) == Version(two)
    except InvalidVersion:
        return one == two
