"""The folder of a model: MLflow's pyfunc format, with all it needs to load anywhere inside."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_mlops.core.data.contract import Contract
from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.errors import ModelNotFoundError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training import mlops_loader_v1
from airflow_mlops.core.training.estimators import Written, write_estimator
from airflow_mlops.core.training.files import count_files, drop_bytecode, tree_digest

CONTENTS = "mlops"
"""Folder below MLflow's ``data`` that the loader is given."""


@dataclass(frozen=True, slots=True)
class Saved:
    """
    A model folder that was written.

    :param digest: SHA-256 over the paths and bytes of its files.
    :param files: how many there are.
    :param estimator: how the estimator was written.
    """

    digest: str
    files: int
    estimator: Written


def save_model(
    folder: Path,
    *,
    estimator: Any,
    features: CodeArchive,
    train: CodeArchive,
    about: Mapping[str, Any],
    optional: Sequence[str],
    requirements: Callable[[Written], Sequence[str]],
    allow_pickle: bool = False,
) -> Saved:
    """
    Write a pyfunc folder that loads anywhere.

    :param folder: where to; must not exist.
    :param estimator: what the training function returned.
    :param features: source of the ``build`` function, shipped inside.
    :param train: source of the ``fit`` function, shipped inside.
    :param about: facts that travel with the model; plain JSON types, a contract among them.
    :param optional: columns of the source beside those of the contract: key and time.
    :param requirements: pins of what it takes to load the estimator.
    :param allow_pickle: as in :func:`~airflow_mlops.core.training.estimators.write_estimator`.
    :raises UserCodeError: if the estimator holds types that are not on the list of trusted ones.
    """
    import mlflow.pyfunc

    with scratch_folder("save") as scratch:
        data = scratch / CONTENTS
        features.save(data / "features")
        train.save(data / "train")
        written = write_estimator(estimator, data / "estimator", allow_pickle=allow_pickle)
        facts = {
            **about,
            "build": features.function,
            "fit": train.function,
            "estimator": written.to_dict(),
        }
        (data / "mlops.json").write_text(json.dumps(facts, indent=1, sort_keys=True), "utf-8")
        with warnings.catch_warnings():
            # it warns of a missing example; rows stay where they are
            warnings.simplefilter("ignore")
            mlflow.pyfunc.save_model(
                str(folder),
                loader_module=mlops_loader_v1.__name__.rpartition(".")[2],
                data_path=str(data),
                code_paths=[mlops_loader_v1.__file__],
                pip_requirements=list(requirements(written)),
                signature=_signature(Contract.from_dict(about["contract"]), optional),
            )
    drop_bytecode(folder)
    return Saved(tree_digest(folder), count_files(folder), written)


def about_of(folder: Path, ref: ModelRef) -> dict[str, Any]:
    """
    Read the facts that travel with a model.

    :param folder: the model's folder, as it was fetched.
    :raises ModelNotFoundError: if it does not say how it was made.
    """
    path = folder / "data" / CONTENTS / "mlops.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if not {"recipe", "steps", "answers"} <= set(found):
        msg = f"{ref} does not say how it was made: it was not trained by airflow_mlops"
        raise ModelNotFoundError(msg)
    return found


def _signature(contract: Contract, optional: Sequence[str]) -> Any:
    """
    Columns of the input, as MLflow names types.

    It knows no time zones and no nullable integers: such columns may hold anything.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    known = {
        ("integer", False): DataType.long,
        ("integer", True): DataType.double,
        ("number", False): DataType.double,
        ("number", True): DataType.double,
        ("boolean", False): DataType.boolean,
        ("string", False): DataType.string,
        ("string", True): DataType.string,
    }
    columns = [
        ColSpec(known.get((c.type, c.nullable)) or AnyType(), c.name, required=not c.nullable)
        for c in contract.columns
    ]
    others = [ColSpec(AnyType(), name, required=False) for name in optional]
    return ModelSignature(Schema([*columns, *others]))
