"""Who is served by which version: a salted hash of the key, the same answer everywhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.rollout.stages import Begun
from airflow_mlops.policy import Shadow, share_of

if TYPE_CHECKING:
    from airflow_mlops.core.ledger import State

ArmName = Literal["champion", "candidate"]

STEPS = 10_000
"""Steps of a share: 0.01 %."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """
    Where one key belongs.

    :param arm: ``champion`` or ``candidate``.
    :param version: version of the model that serves this arm.
    """

    arm: ArmName
    version: int


@dataclass(frozen=True, slots=True)
class Split:
    """
    How the keys of a model are divided now.

    A key belongs to the candidate if ``XXH3_64(key as UTF-8, seed=salt) < threshold``, both
    unsigned. So a key keeps its arm for the whole stage, and a larger share only adds keys.

    :param champion: version that serves whoever is not the candidate's.
    :param candidate: version that is tried; none: no stage is running.
    :param experiment: name of the exposures of the running stage; empty: none is running.
    :param salt: seed of the hash, 64 bits unsigned; each candidate has another.
    :param threshold: share of the candidate times 2 ** 64.
    :param shadow: whether the candidate answers every request, too, and nobody is served it.
    :param since: when the stage began by the clock of the data, ISO 8601.
    """

    model: str
    champion: int
    candidate: int | None = None
    experiment: str = ""
    salt: int = 0
    threshold: int = 0
    shadow: bool = False
    since: str = ""

    @classmethod
    def of(cls, state: "State") -> Self:
        """
        Return the split that the entries of a model stand for.

        :raises ConfigurationError: if the model has no champion.
        """
        if state.champion is None:
            model = state.entries[-1].model if state.entries else "this model"
            msg = f"{model} has no champion, so nobody can be served; promote a version first"
            raise ConfigurationError(msg)
        model, begun = state.entries[-1].model, Begun.of(state)
        if begun is None:
            return cls(model, state.champion)
        threshold = round(share_of(begun.stage) * 100) * 2**64 // STEPS
        shadow = isinstance(begun.stage, Shadow)
        found = (begun.candidate, begun.experiment, begun.salt, threshold, shadow, begun.since)
        return cls(model, begun.champion, *found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; salt and threshold are text: a float has too few digits."""
        return asdict(self) | {"salt": str(self.salt), "threshold": str(self.threshold)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the split that :meth:`to_dict` wrote."""
        numbers = {name: int(data[name]) for name in ("salt", "threshold")}
        return cls(**{**data, **numbers})

    def version(self, arm: str) -> int:
        """
        Return the version that serves an arm.

        :raises ConfigurationError: if there is no such arm now.
        """
        found = {"champion": self.champion, "candidate": self.candidate}.get(arm)
        if found is None:
            msg = f"{self.model} has no arm {arm!r} now; arms: champion, and candidate in a stage"
            raise ConfigurationError(msg)
        return found


def assign(key: str | int, split: Split) -> Assigned:
    """
    Return the arm and the version of one key.

    :param key: the entity, as text or whole number; ``7`` and ``"7"`` are the same one.
    :param split: from :meth:`Split.of`; read the ledger again every few seconds.
    :raises ConfigurationError: if the key is empty, or neither text nor a whole number.

    >>> split = Split("churn", 3, 7, "churn@7/12", salt=42, threshold=2**63)
    >>> assign("user-1", split), assign(7, split) == assign("7", split)
    (Assigned(arm='champion', version=3), True)
    """
    return _arms(split)[bool(assign_all([key], split)[0])]


def assign_all(keys: Iterable[Any], split: Split) -> NDArray[np.bool_]:
    """
    Say of each key whether it belongs to the candidate, shape ``(n_keys,)``.

    :param keys: texts or whole numbers: a list, an array of numpy or Arrow, a series of pandas.
    :param split: from :meth:`Split.of`.
    :raises ConfigurationError: if a key is empty, or neither text nor a whole number.
    """
    texts = _texts(_plain(keys))
    if not split.threshold:
        return np.zeros(len(texts), dtype=np.bool_)
    try:
        encoded = map(str.encode, texts)
        hashes = map(xxhash.xxh3_64_intdigest, encoded, repeat(split.salt))
        found = np.fromiter(hashes, np.uint64, len(texts))
    except UnicodeEncodeError as error:
        msg = f"a key is no Unicode text: {error}"
        raise ConfigurationError(msg) from error
    return np.asarray(found < np.uint64(split.threshold))


def _arms(split: Split) -> tuple[Assigned, Assigned]:
    candidate = split.champion if split.candidate is None else split.candidate
    return Assigned("champion", split.champion), Assigned("candidate", candidate)


def _plain(keys: Iterable[Any]) -> list[Any]:
    """Return the keys as Python objects."""
    if isinstance(keys, str | bytes):
        msg = f"{keys!r} is one key; hand over a list of them, or call assign"
        raise ConfigurationError(msg)
    for way in ("to_pylist", "tolist"):  # Arrow; numpy and pandas
        if hasattr(keys, way):
            found: list[Any] = getattr(keys, way)()
            return found
    return list(keys)


def _texts(keys: Sequence[Any]) -> Sequence[str]:
    """Return the texts of the keys, or refuse what is none."""
    kinds = set(map(type, keys))
    if kinds <= {str} and all(keys):
        return keys
    if kinds <= {int}:
        return list(map(str, keys))
    texts = []
    for number, key in enumerate(keys):
        whole = isinstance(key, int | np.integer) and not isinstance(key, bool)
        if not (whole or isinstance(key, str)) or key == "":
            msg = (
                f"key {number} is {key!r}: a key is text that is not empty, or a whole number; "
                "write another one as the text that stands for it everywhere"
            )
            raise ConfigurationError(msg)
        texts.append(str(key))
    return texts
