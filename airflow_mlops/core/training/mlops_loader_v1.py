"""
Loads a model folder of airflow_mlops anywhere: needs mlflow's pyfunc, pandas, and skops.

Shipped inside each model as MLflow ``code_paths``; no Airflow, nothing of this package. A change of
the folder's layout is a new file ``mlops_loader_v2``.
"""

import functools
import hashlib
import importlib.util
import json
import pathlib
import sys
import warnings
from typing import Any


def _archived(folder: pathlib.Path, function: str) -> Any:
    """Import archived source under a name that only this content has."""
    files = sorted((p.name, p.read_text(encoding="utf-8")) for p in folder.glob("*.py"))
    name = f"_mlops_{function}_{hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            msg = f"cannot load archived source in {folder}"
            raise ImportError(msg)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            del sys.modules[name]
            msg = (
                f"{function} of this model imports {error.name!r}, which is not installed here: "
                "pip install -r requirements.txt, the one in the model's folder"
            )
            raise ModuleNotFoundError(msg, name=error.name) from error
        except BaseException:
            del sys.modules[name]
            raise
    sys.modules[name].__path__ = [str(folder)]  # another copy of the same model may be gone
    return sys.modules[name]


def _build(folder: pathlib.Path, function: str) -> Any:
    """Return the archived function of the features, bound to its parameters."""
    build, path = getattr(_archived(folder, function), function), folder / "params.json"
    if not path.is_file():
        return build
    return functools.partial(build, **json.loads(path.read_text("utf-8")))


def _estimator(folder: pathlib.Path, about: Any) -> Any:
    """Open the estimator in the format in which it was written."""
    files, written = folder / "estimator", about["estimator"]
    if written["format"] == "skops":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks every loaded module for names
            import skops.io

        return skops.io.load(files / "model.skops", trusted=written["trusted"])
    module = _archived(folder / "train", about["fit"])
    if written["format"] == "folder":
        return getattr(module, written["type"]).load(files / "files")
    import pickle

    return pickle.loads((files / "model.pkl").read_bytes())  # noqa: S301  (by the consent of whoever trained it)


class Model:
    """
    Features and estimator of one version: rows in, one number per row out.

    A classifier of more than two classes gives a row of numbers, one for each class.

    :param folder: the model's data folder.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "mlops.json").read_text("utf-8"))
        self.build = _build(folder / "features", self.about["build"])
        self.estimator = _estimator(folder, self.about)

    def predict(self, rows: Any, params: Any = None) -> Any:
        """
        Predict; a binary classifier answers the probability of its second class.

        A classifier of more classes answers ``(n_rows, n_classes)``.

        :param rows: frame with the columns of the source table, shape ``(n_rows, n_columns)``.
        """
        features = self.build(rows)
        if not hasattr(self.estimator, "predict_proba"):
            return self.estimator.predict(features)
        chances = self.estimator.predict_proba(features)
        return chances if chances.shape[1] > 2 else chances[:, 1]


def _load_pyfunc(path: str) -> Model:
    """Entry point of MLflow's pyfunc flavour."""
    return Model(pathlib.Path(path))
