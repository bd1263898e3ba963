"""
Back to an earlier champion, with all that belongs to it, after looking whether it can serve.

A model version carries its data version, its features and its contract: what is drift, and what is
a break, is measured against the champion's own. So one entry of the ledger turns them all back.
Before it is written, the version has to load here, to build the features and to give the answers of
its training, and to fit the rows of today.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_mlops.core.data.contract import Contract, schema_breaks
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.deployment.registry import Ask, ModelRegistry, rollback_target
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    MlopsError,
    ModelLostError,
    RejectedError,
    UnavailableError,
    refuse_exhausted,
)
from airflow_mlops.core.ledger import Entry, State
from airflow_mlops.core.lines import written
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.training.agreement import ServingCheck, check_answers


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a rollback would do.

    :param champion: who is champion now.
    :param target: who would be.
    :param parts: what belongs to it: data, labels, features, code, environment.
    """

    champion: str
    target: str
    parts: dict[str, str]
    checks: tuple[ServingCheck, ...]

    @property
    def failed(self) -> tuple[ServingCheck, ...]:
        """Checks that speak against it."""
        return tuple(check for check in self.checks if check.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        lines = [f"{self.champion} -> {self.target}"]
        lines += [f"  {name:<12} {value}" for name, value in self.parts.items()]
        return written([*lines, *(f"  {check}" for check in self.checks)])


def plan_rollback(
    registry: ModelRegistry,
    datasets: DatasetStore,
    name: str,
    to: int | datetime | None = None,
) -> Plan:
    """
    Find the version to return to, and look whether it can serve; nothing is changed.

    :param to: version that was champion before, or a moment by the clock of the data; none: the
        previous champion.
    :raises ConfigurationError: if there is no such version.
    """
    state = registry.ledger.state(name)
    target = ModelRef(name, rollback_target(state, name, _version(state, name, to)))
    parts, checks = _looked_at(registry, datasets, target)
    return Plan(f"{name}@{state.champion}", str(target), parts, tuple(checks))


def roll_back(
    registry: ModelRegistry,
    datasets: DatasetStore,
    name: str,
    ask: Ask,
    *,
    to: int | datetime | None = None,
    force: bool = False,
) -> Entry:
    """
    Return to an earlier champion that can serve.

    :param force: go back although a check failed; files that were changed are refused all the same.
    :raises RejectedError: if a check failed; an earlier champion that can serve is named.
    """
    state = registry.ledger.state(name)
    done = state.of(ask.key)
    if done is not None:
        return registry.rollback(name, ask, to=done.version)
    plan = plan_rollback(registry, datasets, name, to)
    version = ModelRef.parse(plan.target).version
    if plan.failed and not force:
        reasons = "; ".join(f"{check.name}: {check.found}" for check in plan.failed)
        other = next(_others(registry, datasets, state, version), None)
        way = f"{other} can serve: --to {other.version}" if other else "no earlier champion can"
        msg = f"{plan.target} cannot serve: {reasons}. {way}; or insist with --force"
        raise RejectedError(msg)
    evidence = {**ask.evidence, "plan": plan.to_dict(), "forced": bool(plan.failed)}
    return registry.rollback(name, Ask(ask.key, ask.by, ask.reason, evidence), to=version)


def parse_target(text: str | None) -> int | datetime | None:
    """
    Read where to roll back to: a version, or a moment; nothing: the previous champion.

    :raises ConfigurationError: if it is neither.
    """
    if not text:
        return None
    return int(text) if text.isdecimal() else moment_of(text)


def moment_of(text: str) -> datetime:
    """
    Read a moment; a day begins at midnight UTC.

    :raises ConfigurationError: if it is not ISO 8601.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        msg = (
            f"neither a version nor a moment: {text!r} (such as 4, or ISO 8601: 1997-05-01, "
            "1997-05-01T12:00+02:00)"
        )
        raise ConfigurationError(msg) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _version(state: State, name: str, to: int | datetime | None) -> int | None:
    """Turn a moment into the version that was champion then."""
    if not isinstance(to, datetime):
        return to
    entry = state.changed_at(to)
    if entry is None:
        msg = f"{name} had no champion at {to.isoformat()}"
        raise ConfigurationError(msg)
    return entry.version


def _others(
    registry: ModelRegistry, datasets: DatasetStore, state: State, but: int
) -> Iterator[ModelRef]:
    """Yield the earlier champions that can serve, newest first."""
    for version in sorted(state.ever - {but, state.champion or 0}, reverse=True):
        ref = ModelRef(state.entries[0].model, version)
        if all(check.status != "failed" for check in _looked_at(registry, datasets, ref)[1]):
            yield ref


def _looked_at(
    registry: ModelRegistry, datasets: DatasetStore, ref: ModelRef
) -> tuple[dict[str, str], list[ServingCheck]]:
    """Load a version, ask it what it was asked before, and hold it against the rows of today."""
    try:
        with registry.models.opened(ref) as model:
            recipe = model.about["recipe"]
            names = ("data", "labels", "features", "code", "environment")
            checks = [
                ServingCheck("files", "ok", "unchanged, and they load here"),
                *check_answers(datasets, model),
                _schema(datasets, model),
            ]
            return {name: recipe[name] for name in names}, checks
    except Exception as error:
        if isinstance(error, UnavailableError) and not isinstance(error, ModelLostError):
            raise
        refuse_exhausted(str(ref), error)
        text = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
        return {}, [ServingCheck("files", "failed", text)]


def _schema(datasets: DatasetStore, model: Any) -> ServingCheck:
    """Compare its contract with the newest rows."""
    name = DatasetRef.parse(model.about["recipe"]["data"]).name
    try:
        newest = datasets.latest(name)
        schema = datasets.open(newest).schema if newest else None
    except (DatasetNotFoundError, UnavailableError) as error:
        return ServingCheck("rows of today", "uncertain", str(error))
    if schema is None:
        return ServingCheck("rows of today", "uncertain", f"no dataset {name}")
    breaks = schema_breaks(Contract.from_dict(model.about["contract"]), schema)
    fatal = [str(b) for b in breaks if b.kind != "unexpected"]
    if fatal:
        return ServingCheck("rows of today", "failed", f"{newest} does not fit: {'; '.join(fatal)}")
    return ServingCheck("rows of today", "ok", f"{newest} fits")
