"""
Fitted estimators as files: safe to open, and the same bytes for the same estimator.

*skops* is the format by default: numbers and names of types, which are checked before anything is
built. *folder* is what an estimator writes itself: a plain class of the training module with
``save(folder)`` and ``load(folder)``. *pickle* runs code when it is opened: by consent only.
"""

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.training.files import tree_digest
from airflow_mlops.core.training.trusted import is_safe

Format = Literal["skops", "folder", "pickle"]

NAMES: dict[Format, str] = {"skops": "model.skops", "folder": "files", "pickle": "model.pkl"}
"""File or folder of each format; the loader that is shipped with a model knows the same."""

_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Earliest time a zip file can hold."""


@dataclass(frozen=True, slots=True)
class Written:
    """
    How an estimator was written.

    :param type: name of its class.
    :param modules: top-level modules its classes come from.
    :param trusted: types that the loader may build besides those skops trusts.
    :param digest: SHA-256 of the files; the same estimator has the same one.
    """

    format: Format
    type: str
    modules: tuple[str, ...]
    trusted: tuple[str, ...]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"modules": list(self.modules), "trusted": list(self.trusted)}


def write_estimator(estimator: Any, folder: Path, *, allow_pickle: bool = False) -> Written:
    """
    Write a fitted estimator into ``folder``.

    :param folder: holds nothing else.
    :param allow_pickle: consent to a file that runs code when it is opened, should the estimator
        hold types that cannot be written otherwise.
    :raises UserCodeError: if it holds such types and nobody consented; they are named.
    """
    kind = type(estimator)
    folder.mkdir(parents=True, exist_ok=True)
    if callable(getattr(estimator, "save", None)) and callable(getattr(kind, "load", None)):
        path = folder / NAMES["folder"]
        path.mkdir()
        estimator.save(path)
        return _written("folder", estimator, [kind.__module__], (), folder)
    path = folder / NAMES["skops"]
    types, unknown = _write_skops(estimator, path)
    if not unknown:
        modules = [node["__module__"] for node in _nodes(_schema(path)) if "__module__" in node]
        return _written("skops", estimator, modules, types, folder)
    if not allow_pickle:
        msg = (
            f"estimator {kind.__name__} holds types that may run code when loaded: "
            f"{', '.join(unknown)}; use estimators of scikit-learn, xgboost or lightgbm, or give "
            "your class save(folder) and load(folder), or consent to pickle: "
            "Lifecycle(allow_pickle=True)"
        )
        raise UserCodeError(msg)
    _write_pickle(estimator, folder / NAMES["pickle"])
    return _written("pickle", estimator, [kind.__module__, *unknown], (), folder)


def _written(
    kind: Format, estimator: Any, modules: list[str], trusted: tuple[str, ...], folder: Path
) -> Written:
    tops = {name.partition(".")[0] for name in modules} - {"builtins"}
    used = tuple(sorted(top for top in tops if not top.startswith("_mlops_")))
    return Written(kind, type(estimator).__qualname__, used, trusted, tree_digest(folder))


def _write_skops(estimator: Any, path: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return the types to trust, and those that nobody should; then nothing is written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skops asks every loaded module for deprecated names, too
        import skops.io
        from skops.io.exceptions import UnsupportedTypeException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            skops.io.dump(estimator, path)
        types = skops.io.get_untrusted_types(file=path)
    except (UnsupportedTypeException, AttributeError, TypeError, pickle.PicklingError) as error:
        path.unlink(missing_ok=True)
        return (), [f"{type(estimator).__module__}.{type(estimator).__qualname__} ({error})"]
    unknown = [name for name in types if not is_safe(name)]
    if unknown:
        path.unlink()
        return (), unknown
    _settle(path)
    return tuple(types), []


def _write_pickle(estimator: Any, path: Path) -> None:
    try:
        path.write_bytes(pickle.dumps(estimator, protocol=5))
    except Exception as error:  # __reduce__ of the user may raise anything
        msg = f"estimator {type(estimator).__name__} cannot be pickled: {error}"
        raise UserCodeError(msg) from error


def _settle(path: Path) -> None:
    """
    Rewrite a skops file so that the same estimator has the same bytes.

    skops names objects and files by their address in memory, and stamps them with the time: here
    they are numbered in the order in which the schema names them.
    """
    schema = _schema(path)
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}
    for node in _nodes(schema):
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if isinstance(node.get("file"), str) and node["file"] in content:
            ending = node["file"].rpartition(".")[2]
            node["file"] = names.setdefault(node["file"], f"{len(names)}.{ending}")
    with zipfile.ZipFile(path, "w") as new:  # stored: compressors differ from build to build
        for name, renamed in names.items():
            new.writestr(zipfile.ZipInfo(renamed, _EPOCH), content[name])
        new.writestr(zipfile.ZipInfo(_SCHEMA, _EPOCH), json.dumps(schema, indent=1))


def _schema(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        found: dict[str, Any] = json.loads(file.read(_SCHEMA))
    return found


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Walk the mappings of a JSON tree, in their order."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from _nodes(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)
