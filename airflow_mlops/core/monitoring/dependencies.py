"""
Whether the champion is, in this environment, the model that was trained in another one.

What differs is named, what the model uses first; whether it matters is not guessed but asked: the
model is opened here and gives the answers of its training again, or it does not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.monitoring.findings import parsed
from airflow_mlops.core.monitoring.observations import Observation, Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.agreement import check_answers
from airflow_mlops.core.training.models import FORMAT, ModelStore
from airflow_mlops.core.training.provenance import (
    Environment,
    EnvironmentChange,
    compare_environments,
    environment,
)

MONITOR = "dependencies"
SHOWN = 5
"""Changes that a line names."""

Status = Literal["ok", "warn", "broken"]
Verdict = Literal["same", "moved", "fails", "not asked"]
FORMATS = ("skops", "folder", "pickle")


@dataclass(frozen=True, slots=True)
class Rule:
    """
    A change of version that is known to go wrong.

    :param packages: names of distributions, or ``python``.
    :param part: ``major``: the first number of the version differs; of ``0.x``, the second.
    :param stake: what goes wrong.
    :param formats: how the estimator has to be stored for it.
    """

    packages: tuple[str, ...]
    part: Literal["major", "minor"]
    stake: str
    formats: tuple[str, ...] = FORMATS

    def breaks(self, change: EnvironmentChange, stored: str) -> bool:
        """Say whether a change is one of these."""
        numbers = 2 if self.part == "minor" or change.old.startswith("0.") else 1
        old, new = (text.split(".")[:numbers] for text in (change.old, change.new))
        return change.name in self.packages and stored in self.formats and old != new


RULES = (
    Rule(("scikit-learn",), "major", "fitted estimators keep their state under other names"),
    Rule(
        ("scikit-learn",),
        "minor",
        "a pickle is promised to load only in the version that wrote it",
        ("pickle",),
    ),
    Rule(("python",), "minor", "a pickle may hold what only its own Python can read", ("pickle",)),
    Rule(("numpy",), "major", "types and rounding differ, and compiled packages are built for one"),
    Rule(("pandas",), "major", "features are built from frames with other types"),
    Rule(("skops",), "major", "the file of the estimator may be read differently", ("skops",)),
    Rule(("xgboost", "xgboost-cpu", "lightgbm"), "major", "stored trees may be read differently"),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """
    What a model said when it was asked again.

    :param verdict: ``fails``: it does not load, or raises; ``not asked``: its rows are gone.
    :param found: the same in words.
    :param moved: largest distance from the answers of training, if it was measured.
    """

    verdict: Verdict
    found: str
    moved: float | None = None


@dataclass(frozen=True, slots=True)
class DependencyReport:
    """
    One model version in one environment.

    :param here: environment of this process.
    :param training: environment in which the version was trained.
    :param changes: what differs from training, what the model uses first.
    :param answers: whether it still says what it said.
    :param known_bad: changes from training that are known to go wrong, in sentences.
    :param uses: packages the model uses, ``name==version``.
    :param stored: how its estimator is stored: ``skops``, ``folder`` or ``pickle``.
    :param before: id of the environment in which the version was looked at before this one; empty
        if it was in none.
    :param since: what differs from that one.
    """

    model: str
    here: Environment
    training: Environment
    changes: tuple[EnvironmentChange, ...]
    answers: Answers
    known_bad: tuple[str, ...]
    uses: tuple[str, ...]
    stored: str
    before: str = ""
    since: tuple[EnvironmentChange, ...] = ()

    @property
    def status(self) -> Status:
        """``broken``: it may not serve here; ``warn``: nobody can say, or it is known to go bad."""
        if self.answers.verdict in ("moved", "fails"):
            return "broken"
        return "warn" if self.known_bad or self.answers.verdict == "not asked" else "ok"

    @property
    def line(self) -> str:
        """One sentence: what it said, what differs, what to do."""
        verdict, found = self.answers.verdict, self.answers.found
        said = {
            "same": f"{self.model} gives the answers of its training here",
            "moved": f"{self.model} is not here what it was in training: {found}",
            "fails": f"{self.model} does not work here: {found}",
            "not asked": f"nobody knows whether {self.model} answers here as in training: {found}",
        }
        parts = [said[verdict], f"{summary(self.changes)} since training"]
        if self.status == "broken":
            if self.since and self.since != self.changes:
                parts.append(f"{summary(self.since)} since it ran in {self.before}")
            parts.append(
                "put back what its requirements.txt names and clear this task, or train again: "
                f"airflow mlops retrain {ModelRef.parse(self.model).name}"
            )
        return "; ".join([*parts, *(f"known to go wrong: {text}" for text in self.known_bad)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        texts = {"here": self.here.text(), "training": self.training.text()}
        known = {name: list(getattr(self, name)) for name in ("known_bad", "uses")}
        found = {"status": self.status, "line": self.line, "environment": self.here.id}
        return asdict(self) | texts | known | found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the report that :meth:`to_dict` wrote."""
        return cls(
            data["model"],
            Environment.parse(data["here"]),
            Environment.parse(data["training"]),
            tuple(EnvironmentChange(**c) for c in data["changes"]),
            Answers(**data["answers"]),
            tuple(data["known_bad"]),
            tuple(data["uses"]),
            data["stored"],
            data["before"],
            tuple(EnvironmentChange(**c) for c in data["since"]),
        )


def check_dependencies(
    ref: ModelRef,
    observations: Observations,
    stores: Callable[[], tuple[ModelStore, DatasetStore]],
) -> DependencyReport:
    """
    Compare this environment with that of training, and ask the model what it was asked there.

    In an environment in which it gave the same answers before, it is not asked again: the report
    on record is the answer, and no store is opened.

    :param stores: opens MLflow and the datasets.
    :raises ModelNotFoundError: if there is no such version, or it was not trained by this package.
    :raises ModelChangedError: if its files are not those that were evaluated.
    """
    here, seen = environment(), observations.read(ref.name, MONITOR, of=ref)
    report = _known(seen, here) or _asked(ref, here, *stores())
    others = [o for o in seen if o.body["environment"] != here.id]
    if not others:
        return report
    before = Environment.parse(others[-1].body["here"])
    since = compare_environments(before, here, report.uses)
    return replace(report, before=before.id, since=since)


def record_dependencies(observations: Observations, report: DependencyReport) -> None:
    """Put a report on record, one for each version and environment."""
    ref = ModelRef.parse(report.model)
    subject = f"{ref}:{report.here.id}"
    observations.record(ref.name, MONITOR, subject, report.to_dict())


def known_bad(changes: Iterable[EnvironmentChange], stored: str) -> tuple[str, ...]:
    """
    Name the changes that are known to go wrong, one sentence each.

    :param stored: how the estimator is stored.
    """
    both = (c for c in changes if c.used and c.old and c.new)
    found = ((c, next((r for r in RULES if r.breaks(c, stored)), None)) for c in both)
    return tuple(f"{c}: {rule.part} version: {rule.stake}" for c, rule in found if rule)


def summary(changes: Sequence[EnvironmentChange]) -> str:
    """Say in a few words what changed: what the model uses by name, the rest as a number."""
    used = [str(c) for c in changes if c.used]
    named = [*used[:SHOWN], *([f"{len(used) - SHOWN} more"] if len(used) > SHOWN else [])]
    others = sum(not c.used and not c.name.startswith("machine ") for c in changes)
    if others:
        named.append(f"{others} that it does not use")
    return f"changed: {', '.join(named)}" if named else "no package changed"


def _known(seen: Iterable[Observation], here: Environment) -> DependencyReport | None:
    """Return the report on record, if the version gave the same answers in this environment."""
    for found in seen:
        same = found.body["answers"]["verdict"] == "same"
        if same and found.body["environment"] == here.id:
            return parsed(found, DependencyReport.from_dict)
    return None


def _asked(
    ref: ModelRef, here: Environment, models: ModelStore, datasets: DatasetStore
) -> DependencyReport:
    version = models.get(ref)
    training = Environment.parse(models.document(version.run_id, "environment.txt"))
    uses = tuple(models.document(version.run_id, "model/requirements.txt").splitlines())
    changes, stored = compare_environments(training, here, uses), version.fact(FORMAT)
    bad, answers = known_bad(changes, stored), _answers(ref, models, datasets)
    return DependencyReport(str(ref), here, training, changes, answers, bad, uses, stored)


def _answers(ref: ModelRef, models: ModelStore, datasets: DatasetStore) -> Answers:
    """Open the model here, and ask it again."""
    try:
        with models.opened(ref) as model:
            features, answers = check_answers(datasets, model)
    except UserCodeError as error:
        return Answers("fails", str(error))
    found = f"features: {features.found}; answers: {answers.found}"
    if "failed" in (features.status, answers.status):
        return Answers("fails" if answers.moved is None else "moved", found, answers.moved)
    if answers.status == "uncertain":
        return Answers("not asked", answers.found)
    return Answers("same", found, answers.moved)
