"""
Run a recipe again in a process of its own: ``python -m airflow_mlops.core.training.replay FOLDER``.

The folder holds all it needs: ``task.json``, the labelled rows, the archived code; no connection
and no checkout. What was computed, or the error of the user's code, is written to ``result.json``.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.errors import MlopsError
from airflow_mlops.core.refs import Recipe
from airflow_mlops.core.training.estimators import write_estimator
from airflow_mlops.core.training.functions import Functions

ROWS, LABELS, HOLDOUT = "rows.arrow", "labels.arrow", "holdout.arrow"
TASK, RESULT = "task.json", "result.json"


def write_task(
    folder: Path, about: Mapping[str, Any], rows: Labelled, later: pa.Table | None
) -> None:
    """
    Write what :func:`replay` reads, beside the folders ``features`` and ``train``.

    :param about: facts that travel with the model.
    :param later: rows to predict in the end, if any.
    """
    tables = {ROWS: rows.rows, LABELS: pa.table({"label": rows.labels}), HOLDOUT: later}
    for name, table in tables.items():
        if table is not None:
            with pa.ipc.new_file(str(folder / name), table.schema) as file:
                file.write_table(table)
    task = {
        "recipe": about["recipe"],
        "selection": rows.selection.to_dict(),
        "time": rows.time,
        "key": rows.key,
        "build": about["build"],
        "fit": about["fit"],
        "allow_pickle": about["estimator"]["format"] == "pickle",
    }
    (folder / TASK).write_text(json.dumps(task), "utf-8")


def replay(folder: Path) -> dict[str, Any]:
    """
    Build the features, fit, and write the estimator below ``folder / "model"``.

    :return: digest of what each step made, and the answers.
    :raises UserCodeError: if the archived code fails here.
    """
    task = json.loads((folder / TASK).read_text("utf-8"))
    recipe = Recipe.from_dict(task["recipe"])
    rows, labels = (_table(folder / name) for name in (ROWS, LABELS))
    selection = Selection.from_dict(task["selection"])
    functions = Functions.load(
        Labelled(selection, rows, labels["label"], task["time"], task["key"]),
        CodeArchive.open(folder / "features", f"{recipe.features}:{task['build']}"),
        CodeArchive.open(folder / "train", f"{recipe.train.partition(':')[0]}:{task['fit']}"),
        folder / "code",
        params=recipe.params,
        seed=recipe.seed,
    )
    done = functions.fitted(functions.built())
    estimator = folder / "estimator"
    written = write_estimator(done.estimator, estimator, allow_pickle=task["allow_pickle"])
    return {
        "steps": {**done.steps, "estimator": written.digest},
        "answers": {**done.answers, "holdout": _later(functions, done.estimator, folder)},
    }


def _later(functions: Functions, estimator: Any, folder: Path) -> list[float] | None:
    """Predict the rows on which the version was judged, if there are any."""
    path = folder / HOLDOUT
    return functions.predict(estimator, _table(path)).tolist() if path.is_file() else None


def _table(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def main() -> None:
    """Replay, and write the result or the error."""
    folder = Path(sys.argv[1])
    try:
        result = replay(folder)
    except MlopsError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    (folder / RESULT).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
