"""
Forget a person everywhere: rows, labels, predictions and single rows of reports go.

Who learnt from them is named, and so is what cannot be reached from here.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Self

from airflow_mlops.core.data import erasures
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.forgetting import Forgotten, find_rows, forget, spellings
from airflow_mlops.core.deployment.places import unreached
from airflow_mlops.core.deployment.registry import Ask, ModelRegistry
from airflow_mlops.core.deployment.shown import blank_pages, forget_cases, redraw_card
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.lines import written
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.training.models import DATA, LABELS, SINCE, UNTIL
from airflow_mlops.core.training.versions import ModelVersion

RAW = ".raw"
"""How a lifecycle names rows as they arrive, if SQL makes those to learn from."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """
    What was, or would be, forgotten.

    :param datasets: rows and labels, dataset by dataset.
    :param models: model versions that learnt from any of these rows -> whether they serve.
    :param predictions: predictions, exposures and their outcomes, and rows set aside that were
        deleted; 0 if nothing was.
    :param cases: rows that were shown one by one in reports of changed decisions, and went.
    :param done: whether it was done.
    """

    datasets: tuple[Forgotten, ...]
    models: Mapping[str, str]
    predictions: int = 0
    cases: int = 0
    done: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"datasets": [d.to_dict() for d in self.datasets]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what :meth:`to_dict` wrote."""
        return cls(**{**data, "datasets": tuple(map(Forgotten.from_dict, data["datasets"]))})

    def __str__(self) -> str:
        went = "went" if self.done else "would go"
        lines = [
            f"{found.rows} rows in {len(found.versions)} versions of {found.dataset} {went}"
            for found in self.datasets
        ]
        if self.done:
            lines.append(f"{self.predictions} predictions, exposures and rows set aside went")
            lines.append(f"{self.cases} rows shown in reports of changed decisions went")
        lines += [f"model {ref} learnt from them ({what})" for ref, what in self.models.items()]
        if self.models:
            lines.append("they keep what they learnt: retrain, and promote a version without it")
        return written([*lines, *unreached()])


def find_person(
    registry: ModelRegistry, datasets: DatasetStore, name: str, keys: Sequence[str]
) -> Erasure:
    """
    Look where rows of these keys are, and who learnt from them; nothing is changed.

    The datasets that models join with this one, such as its labels, are looked through, too, and
    the rows as they arrived (``NAME.raw``) from which SQL made this one. Others that were computed
    from it are not: name them as well.

    :param name: name of a dataset.
    :param keys: values of its key column, as text.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    """
    versions = list(_learnt_from(registry, name))
    base = name.removesuffix(RAW)
    others = {other for _, used in versions for other in used} | {base, f"{base}{RAW}"}
    found = [find_rows(datasets, name, keys)]
    for other in sorted(others - {name}):
        with contextlib.suppress(DatasetNotFoundError):
            found.append(find_rows(datasets, other, keys))
    learnt = (v for v, used in versions if any(_learnt(v, used, part) for part in found))
    champions = {registry.champion(model) for model in {v.ref.name for v, _ in versions}}
    models = {str(v.ref): "champion" if v.ref in champions else "not serving" for v in learnt}
    return Erasure(tuple(found), models)


def forget_person(
    registry: ModelRegistry,
    datasets: DatasetStore,
    observations: Observations,
    name: str,
    keys: Sequence[str],
    *,
    ask: Ask,
) -> Erasure:
    """
    Remove what :func:`find_person` finds, and the predictions; put on record that it was done.

    The record says how much and why, not who. A call that was killed is finished by the next one of
    the same keys: it reports and records what the first one found. Where no rows are left, there
    is nothing to record.

    :param name: name of a dataset.
    :param keys: values of its key column, as text.
    :param ask: who asks, and why.
    :raises DatasetNotFoundError: if there is no such dataset.
    :raises ConfigurationError: if a value cannot be a key of it.
    """
    note = erasures.begin(
        datasets, name, keys, ask.key, find_person(registry, datasets, name, keys).to_dict()
    )
    found = Erasure.from_dict(note.found)
    versions = [version for version, _ in _learnt_from(registry, name)]
    used = sorted({version.ref.name for version in versions} | _namesake(registry, name))
    for model in used if any(part.rows for part in found.datasets) else ():
        evidence = {
            "keys": len(set(keys)),
            "rows": {part.dataset: part.rows for part in found.datasets},
            "models": [ref for ref in found.models if ref.partition("@")[0] == model],
        }
        draft = Entry(model, "forget", "", ask.by, ask.reason, evidence=evidence)
        registry.ledger.record(model, note.id, {"op": "forget"}, lambda _: draft)  # noqa: B023
    texts = spellings(datasets, name, keys)
    for part in found.datasets:
        forget(datasets, part.dataset, keys, author=ask.by, run=note.id)
    gone = sum(observations.forget(model, texts) for model in used)
    cases = 0
    for version in versions:
        cases += forget_cases(registry.models, version, texts)
        redraw_card(registry.models, datasets, version)
        blank_pages(registry.models, version)
    erasures.end(datasets, name, note)
    return replace(found, predictions=gone, cases=cases, done=True)


def _namesake(registry: ModelRegistry, name: str) -> set[str]:
    """Return the model of a dataset's name: it may have predicted, and no version be left."""
    return {name.removesuffix(RAW)} & {*registry.names()}


def _learnt_from(
    registry: ModelRegistry, name: str
) -> Iterator[tuple[ModelVersion, dict[str, int]]]:
    """Yield the model versions that learnt from a dataset, or from what SQL made of it."""
    asked = {name, name.removesuffix(RAW)}
    for model in registry.names():
        for version in registry.models.versions(model):
            used = _used(version)
            if asked & {*used}:
                yield version, used


def _used(version: ModelVersion) -> dict[str, int]:
    """Return the datasets a version learnt from, with their versions."""
    refs = [DatasetRef.parse(version.tags[tag]) for tag in (DATA, LABELS) if tag in version.tags]
    return {ref.name: ref.version for ref in refs}


def _learnt(version: ModelVersion, used: Mapping[str, int], found: Forgotten) -> bool:
    """Say whether a version learnt from any of these rows."""
    if used.get(found.dataset) not in found.versions:
        return False
    since, until = (datetime.fromisoformat(version.fact(tag)) for tag in (SINCE, UNTIL))
    return any(since <= datetime.fromisoformat(time) < until for time in found.times)
