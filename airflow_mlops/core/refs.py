"""Names of versioned things as they travel between tasks, and the recipe that binds them."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from airflow_mlops.core.errors import ConfigurationError

_NAME = r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*"
_NUMBERED = re.compile(rf"(?P<name>{_NAME})@(?P<version>[0-9]{{1,18}})")
_FEATURES = re.compile(rf"(?P<name>{_NAME})@(?P<version>fs-[0-9a-f]{{16}})")
_MODEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def is_name(name: str) -> bool:
    """Say whether ``name`` may name a model or a dataset."""
    return bool(_MODEL_NAME.fullmatch(name))


def check_name(name: str) -> str:
    """
    Return ``name`` if it may name a model or a dataset.

    :raises ConfigurationError: unless it is lower case letters, digits and underscores, starting
        with a letter, at most 63 characters: the length PostgreSQL and file systems agree on.
    """
    if not is_name(name):
        msg = (
            f"not a valid name: {name!r} (lower case letters, digits and underscores, "
            "starting with a letter, at most 63 characters)"
        )
        raise ConfigurationError(msg)
    return name


@dataclass(frozen=True, slots=True, order=True)
class _Numbered:
    """Something whose versions are numbers, written ``name@version``."""

    name: str
    version: int
    kind: ClassVar[str]
    example: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a reference from its written form.

        :raises ConfigurationError: if ``text`` is not ``name@version``.
        """
        name, version = _parse(_NUMBERED, text, cls.kind, cls.example)
        return cls(name, int(version))

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class DatasetRef(_Numbered):
    """
    One version of one dataset, written ``name@version``.

    >>> DatasetRef.parse("churn@12")
    DatasetRef(name='churn', version=12)
    >>> str(DatasetRef("churn.labels", 3))
    'churn.labels@3'
    """

    __slots__ = ()
    kind, example = "dataset", "churn@12"


class ModelRef(_Numbered):
    """
    One version of one registered model, written ``name@version``.

    >>> ModelRef.parse("churn@5")
    ModelRef(name='churn', version=5)
    """

    __slots__ = ()
    kind, example = "model", "churn@5"


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """
    One version of one feature set, written ``name@fs-<16 hex digits of its content>``.

    >>> FeatureRef.parse("churn.features@fs-00112233445566ff").name
    'churn.features'
    """

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a reference from its written form.

        :raises ConfigurationError: if ``text`` is not ``name@fs-...``.
        """
        return cls(*_parse(_FEATURES, text, "feature set", "churn.features@fs-00112233445566ff"))

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    Everything a model is made of; its :attr:`id` is the key of exactly-once training.

    :param model: name of the model.
    :param data: dataset version of the rows, and its content digest.
    :param labels: dataset version of the labels, and its content digest.
    :param label: column of the labels.
    :param since: first time of the training rows, ISO 8601 (inclusive).
    :param until: end of the training rows, ISO 8601 (exclusive).
    :param features: version of the feature set, ``name@fs-...``.
    :param train: ``module:function`` of the training function.
    :param train_code: digest of the training function's source.
    :param params: parameters handed to the training function; JSON types only.
    :param seed: seed of every source of randomness.
    :param code: version of the code, ``git:<sha>`` or ``unversioned``.
    :param environment: id of the installed distributions, ``env-...``.
    """

    model: str
    data: str
    data_digest: str
    labels: str
    labels_digest: str
    label: str
    since: str
    until: str
    features: str
    train: str
    train_code: str
    params: Mapping[str, Any]
    seed: int
    code: str
    environment: str

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return canonical_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"params": dict(self.params)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the recipe that :meth:`to_dict` wrote."""
        return cls(**data)


def canonical_json(value: object) -> str:
    """
    Write ``value`` as the one JSON text it has: sorted keys, no spaces.

    :raises ConfigurationError: if it holds NaN, an infinity or something JSON does not know.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"not plain JSON: {error} (use text, finite numbers, booleans, lists and mappings)"
        raise ConfigurationError(msg) from error


def plain_params(what: str, params: object) -> dict[str, Any]:
    """
    Return named parameters as the JSON object they are: tuples are lists, in a run and in a file.

    :param what: whose they are; the errors name it.
    :raises ConfigurationError: if they are no mapping, or hold something JSON does not know.
    """
    if not isinstance(params, Mapping):
        msg = f"{what}: {params!r} is no mapping of parameters, such as {{'lags': 3}}"
        raise ConfigurationError(msg)
    for key in _keys(params):
        if not isinstance(key, str):
            msg = f"{what}: the key {key!r} in {params!r} is no text; JSON would make it one"
            raise ConfigurationError(msg)
    try:
        found: dict[str, Any] = json.loads(canonical_json(dict(params)))
    except ConfigurationError as error:
        msg = f"{what}: {params!r} is {error}"
        raise ConfigurationError(msg) from error
    return found


def _keys(value: object) -> Iterator[object]:
    """Yield the keys of a mapping, and of those inside it."""
    if isinstance(value, Mapping):
        yield from value
    inside = value.values() if isinstance(value, Mapping) else value
    if isinstance(inside, Iterable) and not isinstance(inside, str):
        for part in inside:
            yield from _keys(part)


def canonical_digest(value: object) -> str:
    """Return the SHA-256 of :func:`canonical_json`, hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _parse(pattern: re.Pattern[str], text: str, what: str, example: str) -> tuple[str, str]:
    match = pattern.fullmatch(str(text))
    if match is None:
        msg = f"not a {what} reference: {text!r} (expected name@version, such as {example})"
        raise ConfigurationError(msg)
    return match["name"], match["version"]
