"""The feature sets of a model: what they compute, from what, which versions learnt from them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from airflow_mlops.core.data.contract import Contract
from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.lines import written
from airflow_mlops.core.refs import FeatureRef, canonical_json
from airflow_mlops.core.training.models import FEATURES, ModelStore
from airflow_mlops.core.training.versions import ModelVersion

FUNCTION, PARAMS = "mlops.feature_function", "mlops.feature_params"
INPUTS, OUTPUTS = "mlops.feature_inputs", "mlops.feature_outputs"
"""Tags of a model version: the catalogue is read from them, without a download."""

TAG_LETTERS = 100_000
"""MLflow keeps no longer tag."""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """
    One feature set, as the versions that were trained with it describe it.

    :param ref: ``name.features@fs-...``.
    :param function: ``module:function``; empty if its versions do not say it.
    :param params: parameters of the function.
    :param inputs: column of the rows -> logical type; empty if unknown.
    :param outputs: columns it makes; empty if unknown.
    :param versions: numbers of the model versions trained with it, oldest first.
    :param champion: the champion, if it is one of them.
    :param first_seen: when the first of them was registered, ISO 8601.
    """

    ref: str
    function: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    versions: tuple[int, ...]
    champion: int | None
    first_seen: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, versions: Sequence[ModelVersion], champion: int | None) -> Self:
        """
        Describe the set that these versions share.

        :param versions: oldest first; not empty.
        :param champion: number of the model's champion, if it has one.
        """
        first, numbers = versions[0], tuple(v.ref.version for v in versions)
        return cls(
            first.fact(FEATURES),
            first.tags.get(FUNCTION, ""),
            _read(first, PARAMS, {}),
            _read(first, INPUTS, {}),
            tuple(_read(first, OUTPUTS, [])),
            numbers,
            champion if champion in numbers else None,
            first.created_at,
        )

    def __str__(self) -> str:
        params = [f"{name} = {json.dumps(value)}" for name, value in self.params.items()]
        columns = [f"{name} ({kind})" for name, kind in self.inputs.items()]
        lines = {
            "function": self.function or "unknown",
            "parameters": ", ".join(params) or "none",
            "inputs": ", ".join(columns) or "unknown",
            "outputs": ", ".join(self.outputs) or "unknown",
            "versions": _versions(self),
            "first seen": self.first_seen[:19],
        }
        return written([self.ref, *(f"  {k:<12} {v}" for k, v in lines.items())])


def feature_sets(store: ModelStore, name: str, champion: int | None) -> tuple[FeatureSet, ...]:
    """
    List the feature sets of a model, oldest first; nothing is downloaded.

    :param champion: number of the model's champion, if it has one.
    """
    found: dict[str, list[ModelVersion]] = {}
    for version in store.versions(name):
        if FEATURES in version.tags:
            found.setdefault(version.tags[FEATURES], []).append(version)
    return tuple(FeatureSet.of(versions, champion) for versions in found.values())


def feature_set(
    store: ModelStore, ref: FeatureRef, champion: int | None
) -> tuple[FeatureSet, CodeArchive]:
    """
    Describe one feature set, and return its archived source.

    :param champion: number of the model's champion, if it has one.
    :raises ModelNotFoundError: if no version has it; those that exist are named.
    :raises ModelChangedError: if the files of that version are not those that were evaluated.
    """
    return FeatureSet.of(store.trained_with(ref), champion), store.features(ref)


def feature_tags(
    code: CodeArchive, contract: Mapping[str, Any], outputs: Iterable[object]
) -> dict[str, str]:
    """
    Write down a feature set as tags of a version that was trained with it.

    :param contract: of the rows, as a model carries it.
    :param outputs: names of the columns that were built.
    """
    inputs = {c.name: c.type for c in Contract.from_dict(contract).columns}
    found = {
        FUNCTION: code.name,
        PARAMS: canonical_json(code.params),
        INPUTS: json.dumps(inputs),
        OUTPUTS: json.dumps([str(name) for name in outputs]),
    }
    return {name: text for name, text in found.items() if len(text) <= TAG_LETTERS}


def table_of(sets: Sequence[FeatureSet]) -> str:
    """Write feature sets as a table, one a line."""
    rows = [("feature set", "function", "parameters", "columns", "versions", "first seen")]
    rows += [
        (
            found.ref,
            found.function or "unknown",
            canonical_json(found.params) if found.params else "none",
            f"{len(found.inputs) or '?'} -> {len(found.outputs) or '?'}",
            _versions(found),
            found.first_seen[:19],
        )
        for found in sets
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return written(lines)


def _versions(found: FeatureSet) -> str:
    return ", ".join(f"{n} (champion)" if n == found.champion else str(n) for n in found.versions)


def _read(version: ModelVersion, tag: str, unknown: Any) -> Any:
    """Read a tag; people may have edited it, or an older package did not write it."""
    try:
        value = json.loads(version.tags.get(tag, ""))
    except json.JSONDecodeError:
        return unknown
    return value if isinstance(value, type(unknown)) else unknown
