"""
What may go: candidates that never served, and rows that no version needs any more.

For ever stays every version that ever was champion, with the rows and labels it learnt from;
everything young stays, too, and whatever a decision still waits for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.retention import Removable, find_removable, remove
from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.errors import DatasetNotFoundError, ForeignEntryError, LedgerLostError
from airflow_mlops.core.ledger import Entry, State
from airflow_mlops.core.lines import written
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.training.models import DATA, LABELS
from airflow_mlops.core.training.versions import ModelVersion

OLDER = timedelta(days=90)
"""For how long everything stays."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """
    What may go, and what is pinned.

    :param models: model versions that may go -> why nobody needs them.
    :param datasets: what may go from each dataset.
    :param pinned_models: model versions that stay -> by what they are pinned.
    :param pinned_datasets: dataset versions that stay -> by what they are pinned.
    """

    models: Mapping[str, str]
    datasets: tuple[Removable, ...]
    pinned_models: Mapping[str, str]
    pinned_datasets: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"datasets": [d.to_dict() for d in self.datasets]}

    def __str__(self) -> str:
        lines = [f"goes    model {ref}: {why}" for ref, why in self.models.items()]
        for found in self.datasets:
            lines += [
                f"goes    data {found.dataset}@{version}: replaced, and nothing needs its rows"
                for version in found.versions
            ]
            if found.files:
                lines.append(f"goes    {len(found.files)} files of rows of {found.dataset}")
        lines = lines or ["nothing may go"]
        lines += [f"pinned  model {ref}: {why}" for ref, why in self.pinned_models.items()]
        lines += [f"pinned  data {ref}: {why}" for ref, why in self.pinned_datasets.items()]
        return written(lines)


def find_garbage(
    registry: ModelRegistry,
    datasets: DatasetStore,
    *,
    model: str | None = None,
    older: timedelta = OLDER,
) -> Garbage:
    """
    Look what may go; nothing is changed.

    :param model: only versions of this model, and the datasets that it learnt from; ``None``: all.
        What another model needs stays in any case.
    :param older: age from which something may go, by the wall clock.
    :raises ConfigurationError: if ``older`` is less than a day.
    """
    since = datetime.now(UTC) - older
    models: dict[str, str] = {}
    kept: dict[str, str] = {}
    rows: dict[str, str] = {}
    for name in registry.names():
        state = _state(registry, name)
        for version in registry.models.versions(name):
            why = "not asked about" if model not in (None, name) else _pin(state, version, since)
            if not why:
                models[str(version.ref)] = f"registered {version.created_at[:10]}, never champion"
                continue
            kept[str(version.ref)] = why
            for ref in _used(version):
                rows.setdefault(str(ref), f"model {version.ref} learnt from it")
        for text, why in _awaited(state):
            rows.setdefault(text, why)
    names = _datasets(registry, model)
    found = tuple(_removable(datasets, name, rows, older) for name in sorted(names))
    for part in found:
        for number in part.kept:
            rows.setdefault(f"{part.dataset}@{number}", "it has a tag")
    return Garbage(models, found, kept, rows)


def collect_garbage(
    registry: ModelRegistry,
    datasets: DatasetStore,
    *,
    by: str,
    model: str | None = None,
    older: timedelta = OLDER,
) -> Garbage:
    """
    Remove what :func:`find_garbage` finds; what is removed is put on record first.

    A call that was killed is finished by the next one. Runs and versions are deleted in MLflow;
    their files go when its server is told ``mlflow gc``.

    :param by: who asks.
    :param model: only this model; ``None``: all.
    :param older: age from which something may go, by the wall clock.
    :raises ConfigurationError: if ``older`` is less than a day.
    """
    found = find_garbage(registry, datasets, model=model, older=older)
    for name in registry.names():
        for version in registry.models.versions(name):
            why = found.models.get(str(version.ref))
            if why is not None:
                _record(registry, version, by, why)
                registry.models.remove(version)
    for part in found.datasets:
        if part.files:
            why = f"replaced more than {older.days} days ago, and nothing needed it"
            remove(datasets, part.dataset, keep=part.kept, older=older, why=why)
    return found


def _state(registry: ModelRegistry, name: str) -> State | None:
    """Return what is on record about a model; nothing if its ledger is broken."""
    try:
        return registry.ledger.state(name)
    except (LedgerLostError, ForeignEntryError):
        return None


def _pin(state: State | None, version: ModelVersion, since: datetime) -> str:
    """Say why a version stays; empty if it may go."""
    number = version.ref.version
    if state is None:
        return "the ledger of its model is broken: airflow mlops doctor"
    if number == state.champion:
        return "champion"
    if number in state.ever:
        return "it was champion, a rollback may return to it"
    if number == state.challenger:
        return "it waits for its approval"
    young = datetime.fromisoformat(version.created_at) >= since
    return f"registered {version.created_at[:10]}: young" if young else ""


def _used(version: ModelVersion) -> list[DatasetRef]:
    """Return the dataset versions that a version learnt from."""
    return [DatasetRef.parse(version.tags[tag]) for tag in (DATA, LABELS) if tag in version.tags]


def _datasets(registry: ModelRegistry, model: str | None) -> set[str]:
    """Return the datasets that versions learnt from, those included that are gone already."""
    found: set[str] = set()
    for name in registry.names():
        if model in (None, name):
            versions = registry.models.versions(name)
            found |= {ref.name for version in versions for ref in _used(version)}
            state = _state(registry, name)
            gone = (e for e in (state.entries if state else ()) if e.op == "remove")
            found |= {dataset for e in gone for dataset in e.evidence.get("datasets", ())}
    return found


def _awaited(state: State | None) -> Iterator[tuple[str, str]]:
    """Yield dataset versions that the newest decision or request may still need."""
    if state is None:
        return
    for entry in (state.last("retrain"), state.last("request")):
        pins = entry.evidence.get("pins", {}) if entry else {}
        refs = [entry.evidence.get("data"), entry.evidence.get("labels")] if entry else []
        for ref in (*refs, pins.get("data")):
            if ref and entry:
                yield str(ref), f"entry {entry.seq} ({entry.op}) of {entry.model} names it"


def _removable(
    datasets: DatasetStore, name: str, pinned: Mapping[str, str], older: timedelta
) -> Removable:
    refs = map(DatasetRef.parse, pinned)
    keep = [ref.version for ref in refs if ref.name == name]
    try:
        return find_removable(datasets, name, keep=keep, older=older)
    except DatasetNotFoundError:
        return Removable(name, (), (), ())


def _record(registry: ModelRegistry, version: ModelVersion, by: str, why: str) -> None:
    ref = version.ref
    evidence = {
        "run_id": version.run_id,
        "recipe": version.recipe,
        "digest": version.digest,
        "datasets": sorted({used.name for used in _used(version)}),
    }
    draft = Entry(ref.name, "remove", "", by, why, ref.version, evidence=evidence)
    key, ask = f"remove:{ref.version}", {"op": "remove", "version": ref.version}
    registry.ledger.record(ref.name, key, ask, lambda _: draft)
