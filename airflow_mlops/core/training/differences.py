"""What changed between two model versions, or two feature sets: every part, and what came of it."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.differences import DatasetDiff, compare_datasets
from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.lines import one_line
from airflow_mlops.core.refs import DatasetRef, FeatureRef, ModelRef, Recipe
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.catalogue import feature_set
from airflow_mlops.core.training.models import ModelStore
from airflow_mlops.core.training.provenance import (
    Environment,
    EnvironmentChange,
    compare_environments,
)
from airflow_mlops.core.training.saving import CONTENTS, about_of

Pair = tuple[Any, Any]
"""A value then and now."""


@dataclass(frozen=True, slots=True)
class ModelDiff:
    """
    What changed from one model version to another.

    :param metrics: metric -> value then and now; one that only one of them has is ``None``.
    :param parameters: parameter of the training function -> value then and now.
    :param feature_parameters: parameter of the feature function -> value then and now.
    :param features: changes of the feature code, as a unified diff; empty if there are none.
    :param train: changes of the training code.
    :param recipe: other parts of the recipe -> reference then and now.
    :param data: rows and columns that changed, if the two read different versions.
    :param data_note: why they could not be compared; empty if they could.
    :param environment: packages and so on, what the model uses first.
    """

    one: str
    two: str
    metrics: Mapping[str, Pair]
    parameters: Mapping[str, Pair]
    feature_parameters: Mapping[str, Pair]
    features: tuple[str, ...]
    train: tuple[str, ...]
    recipe: Mapping[str, Pair]
    data: DatasetDiff | None
    data_note: str
    environment: tuple[EnvironmentChange, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        causes = [
            *(f"parameter {n}: {_pair(p)}" for n, p in self.parameters.items()),
            *_of_features(self.feature_parameters, self.features),
            *_code("train", self.train),
            *(f"{n}: {_pair(p)}" for n, p in self.recipe.items()),
            *([f"rows: {self.data}"] if self.data else []),
            *([f"rows: {self.data_note}"] if self.data_note else []),
            *(f"environment: {change}" for change in self.environment),
        ]
        lines = [f"{self.one} -> {self.two}", *causes]
        if not causes:
            lines.append("made of the same parts")
        lines += [f"metric {n}: {_pair(_rounded(p))}" for n, p in self.metrics.items()]
        return "\n  ".join(line.replace("\n", "\n  ") for line in lines)


@dataclass(frozen=True, slots=True)
class FeatureDiff:
    """
    What changed from one feature set to another.

    :param parameters: parameter of the function -> value then and now.
    :param code: changes of the source, as a unified diff; empty if there are none.
    :param inputs: column of the rows -> logical type then and now.
    :param outputs: column that is built -> whether it was, and is.
    """

    one: str
    two: str
    parameters: Mapping[str, Pair]
    code: tuple[str, ...]
    inputs: Mapping[str, Pair]
    outputs: Mapping[str, Pair]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        causes = [
            *_of_features(self.parameters, self.code),
            *(f"input {n}: {_pair(p)}" for n, p in self.inputs.items()),
            *(f"output {n}: {_pair(p)}" for n, p in self.outputs.items()),
        ]
        lines = [f"{self.one} -> {self.two}", *(causes or ["made of the same parts"])]
        return "\n  ".join(line.replace("\n", "\n  ") for line in lines)


@dataclass(frozen=True, slots=True)
class _Made:
    """What one version is made of."""

    recipe: Recipe
    features: CodeArchive
    train: CodeArchive
    environment: Environment
    requirements: tuple[str, ...]
    metrics: Mapping[str, float]


def compare_models(
    store: ModelStore, datasets: DatasetStore, one: ModelRef, two: ModelRef
) -> ModelDiff:
    """
    Compare two versions, part by part; neither is loaded.

    :raises ModelNotFoundError: if there is no such version, or it was not trained by this package.
    :raises ModelChangedError: if its files are not those that were evaluated.
    """
    then, now = _made(store, one), _made(store, two)
    metrics = _changes(then.metrics, now.metrics)
    parts = {"model", "params", "features", "train_code", "data_digest", "labels_digest"}
    known = (
        {name: value for name, value in made.recipe.to_dict().items() if name not in parts}
        for made in (then, now)
    )
    data, note = _rows(datasets, then.recipe, now.recipe)
    return ModelDiff(
        str(one),
        str(two),
        metrics,
        _changes(then.recipe.params, now.recipe.params),
        _changes(then.features.params, now.features.params),
        _diff(then.features, now.features),
        _diff(then.train, now.train),
        _changes(*known),
        data,
        note,
        compare_environments(then.environment, now.environment, now.requirements),
    )


def compare_features(store: ModelStore, one: FeatureRef, two: FeatureRef) -> FeatureDiff:
    """
    Compare two feature sets, of one model or of two; neither is loaded.

    :raises ModelNotFoundError: if no version has one of them; those that exist are named.
    :raises ModelChangedError: if the files of that version are not those that were evaluated.
    """
    (then, old), (now, new) = (feature_set(store, ref, None) for ref in (one, two))
    made = (dict.fromkeys(side.outputs, "made") for side in (then, now))
    known = then.outputs and now.outputs
    return FeatureDiff(
        str(one),
        str(two),
        _changes(old.params, new.params),
        _diff(old, new),
        _changes(then.inputs, now.inputs) if then.inputs and now.inputs else {},
        _changes(*made) if known else {},
    )


def _made(store: ModelStore, ref: ModelRef) -> _Made:
    version = store.get(ref)
    with scratch_folder("diff") as scratch:
        folder = store.fetch(version, scratch)
        data = folder / "data" / CONTENTS
        return _Made(
            Recipe.from_dict(about_of(folder, ref)["recipe"]),
            CodeArchive.open(data / "features", "features"),
            CodeArchive.open(data / "train", "train"),
            Environment.parse(store.document(version.run_id, "environment.txt")),
            tuple((folder / "requirements.txt").read_text("utf-8").splitlines()),
            store.metrics(version.run_id),
        )


def _rows(datasets: DatasetStore, then: Recipe, now: Recipe) -> tuple[DatasetDiff | None, str]:
    """Compare the rows both read; or say why that cannot be done."""
    if then.data_digest == now.data_digest:
        return None, ""
    try:
        one, two = (datasets.open(DatasetRef.parse(recipe.data)) for recipe in (then, now))
    except DatasetNotFoundError as error:
        return None, str(error)
    return compare_datasets(one, two), ""


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Pair]:
    pairs = {n: (then.get(n), now.get(n)) for n in sorted({*then, *now})}
    return {n: (a, b) for n, (a, b) in pairs.items() if type(a) is not type(b) or a != b}


def _diff(then: CodeArchive, now: CodeArchive) -> tuple[str, ...]:
    """Return a unified diff of source files."""
    lines: list[str] = []
    for name in sorted({*then.files, *now.files}):
        one, two = (side.files.get(name, "").splitlines() for side in (then, now))
        lines += difflib.unified_diff(one, two, name, name, lineterm="", n=1)
    return tuple(lines)


def _of_features(parameters: Mapping[str, Pair], code: tuple[str, ...]) -> list[str]:
    changed = [f"feature parameter {n}: {_pair(p)}" for n, p in parameters.items()]
    return [*changed, *_code("features", code)]


def _code(what: str, lines: tuple[str, ...]) -> list[str]:
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    if not changed:
        return []
    return [f"{what}: {len(changed)} lines of code changed\n  " + "\n  ".join(lines)]


def _rounded(pair: Pair) -> Pair:
    one, two = (None if value is None else f"{value:.4f}" for value in pair)
    return one, two


def _pair(pair: Pair) -> str:
    return " -> ".join("none" if value is None else one_line(value) for value in pair)
