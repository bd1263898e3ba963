"""
Train a version's recipe again, and say how far the result agrees with it.

A fresh process is given the rows of the recipe's data version, the archived code and the thread
count of that time. Step by step its work is compared with what training wrote down: rows, features,
estimator, predictions; the first that differs is named. The environment is compared before.
"""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

import airflow_mlops
from airflow_mlops.core import errors
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.errors import ModelNotFoundError, UserCodeError
from airflow_mlops.core.lines import written
from airflow_mlops.core.refs import DatasetRef, ModelRef, Recipe
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training import replay
from airflow_mlops.core.training.agreement import TOLERANCE
from airflow_mlops.core.training.mlops_loader_v1 import Model
from airflow_mlops.core.training.models import EVALUATION, ModelStore
from airflow_mlops.core.training.provenance import (
    Environment,
    EnvironmentChange,
    compare_environments,
    environment,
)
from airflow_mlops.core.training.saving import CONTENTS, about_of

_log = logging.getLogger(__name__)

Verdict = Literal["identical bytes", "identical predictions", "within tolerance", "differs"]

REPORT = "reproduction.json"
"""Artifact of a run that says how far its model could be reproduced, the last time."""

REPRODUCED = "mlops.reproduced"
"""Tag of a version: the last verdict, and when it was given."""


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step of training, then and now.

    :param then: digest of what it made when the version was trained.
    :param now: digest of what it made now.
    """

    name: str
    then: str
    now: str

    @property
    def same(self) -> bool:
        """Whether both agree to the byte."""
        return self.then == self.now


@dataclass(frozen=True, slots=True)
class Reproduction:
    """
    How far a version could be reproduced.

    :param differs_from: first step that does not agree to the byte; empty if all do.
    :param moved: largest distance of two predictions.
    :param predictions: how many were compared.
    :param environment: what is installed differently now, what the model uses first.
    :param forgotten: dataset versions of which rows were forgotten on request; the model may have
        learnt from them.
    """

    model: str
    verdict: Verdict
    differs_from: str
    moved: float
    predictions: int
    steps: tuple[Step, ...]
    environment: tuple[EnvironmentChange, ...]
    forgotten: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; without a distance if the rows were not the same."""
        return asdict(self) | {
            "moved": self.moved if math.isfinite(self.moved) else None,
            "steps": [asdict(step) for step in self.steps],
            "environment": [asdict(change) for change in self.environment],
            "forgotten": list(self.forgotten),
        }

    def __str__(self) -> str:
        found = {
            "identical bytes": "identical bytes",
            "identical predictions": f"identical predictions on {self.predictions} rows",
            "within tolerance": f"within tolerance: predictions moved by up to {self.moved:.3g}",
            "differs": f"differs: predictions moved by up to {self.moved:.3g}",
        }[self.verdict]
        since = f", from step {self.differs_from!r} on" if self.differs_from else ""
        lines = [f"{self.model}: {found}{since}"]
        lines += [f"  environment: {change}" for change in self.environment]
        lines += [f"  rows of {ref} were forgotten on request" for ref in self.forgotten]
        for step in self.steps:
            shown = step.then if step.same else f"{step.then} -> {step.now}"
            lines.append(f"  {'same ' if step.same else 'OTHER'} {step.name:<10} {shown}")
        return written(lines)


def reproduce(
    store: ModelStore, datasets: DatasetStore, ref: ModelRef, *, tolerance: float = TOLERANCE
) -> Reproduction:
    """
    Train the recipe of a version again, in a process of its own; nothing is registered.

    :param tolerance: largest distance of two predictions that still counts as the same.
    :raises ModelNotFoundError: if there is no such version, or it was not trained by this package.
    :raises ModelChangedError: if its files are not those that were evaluated.
    :raises DatasetNotFoundError: if the rows of its recipe are gone.
    :raises UserCodeError: if its archived code does not run here; what is installed differently is
        named.
    """
    version = store.get(ref)
    with scratch_folder("reproduce") as scratch:
        fetched = store.fetch(version, scratch)
        about, folder = about_of(fetched, ref), fetched / "data" / CONTENTS
        recipe = Recipe.from_dict(about["recipe"])
        trained_in = Environment.parse(store.document(version.run_id, "environment.txt"))
        used = (fetched / "requirements.txt").read_text("utf-8").splitlines()
        changes = compare_environments(trained_in, environment(), used)
        selection = Selection(recipe.data, recipe.labels, recipe.label, recipe.since, recipe.until)
        rows, later = selection.read(datasets), _holdout(store, datasets, version.run_id, recipe)
        then = {**about["answers"], "holdout": _answers(folder, later)}
        if then["holdout"] is None:
            later = None
        now = _replayed(folder, about, rows, later, trained_in, changes)
    found = _compared(str(ref), about, then, now, changes, tolerance)
    refs = (recipe.data, recipe.labels)
    forgotten = (r for r in refs if datasets.open(DatasetRef.parse(r)).sidecar.forgotten)
    return replace(found, forgotten=tuple(forgotten))


def record_reproduction(store: ModelStore, found: Reproduction, *, by: str) -> None:
    """
    Write what was found beside the model: a document of its run, a tag of its version.

    :param by: who asked.
    """
    ref, now = ModelRef.parse(found.model), datetime.now(UTC).isoformat(timespec="seconds")
    report = found.to_dict() | {"at": now, "by": by}
    store.log_document(store.get(ref).run_id, REPORT, json.dumps(report, indent=1))
    store.tag(ref, REPRODUCED, f"{found.verdict}, {now}")


def _holdout(
    store: ModelStore, datasets: DatasetStore, run_id: str, recipe: Recipe
) -> pa.Table | None:
    """Return the rows on which the version was judged; nothing if it never was."""
    try:
        judged = json.loads(store.document(run_id, EVALUATION))
    except ModelNotFoundError:
        return None
    since, until = (datetime.fromisoformat(judged[edge]) for edge in ("since", "until"))
    return datasets.open(DatasetRef.parse(recipe.data)).between(since, until).to_arrow()


def _answers(folder: Path, rows: pa.Table | None) -> list[float] | None:
    """Ask the stored model; nothing if it does not load here, or was not judged."""
    if rows is None:
        return None
    try:
        found: list[float] = np.asarray(Model(folder).predict(rows.to_pandas()), float).tolist()
    except Exception as error:  # noqa: BLE001  (whatever another environment does to it)
        _log.warning(
            "the stored model does not answer here, it is compared by its record: %s", error
        )
        return None
    return found


def _replayed(
    folder: Path,
    about: Mapping[str, Any],
    rows: Labelled,
    later: pa.Table | None,
    trained_in: Environment,
    changes: Sequence[EnvironmentChange],
) -> dict[str, Any]:
    """Run the recipe in a child, which sees the archived code and nothing of this process."""
    with scratch_folder("replay") as task:
        for part in ("features", "train"):
            shutil.copytree(folder / part, task / part)
        replay.write_task(task, about, rows, later)
        command = [sys.executable, "-m", replay.__name__, str(task)]
        done = subprocess.run(  # noqa: S603  (our own module and a folder)
            command,
            env=_variables(trained_in),
            cwd=task,
            capture_output=True,
            text=True,
            check=False,
        )
        result = task / replay.RESULT
        if not result.is_file():
            last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            name = about["recipe"]["model"]
            msg = f"training {name} again ended with code {done.returncode}: {last[0]}"
            raise UserCodeError(msg)
        found: dict[str, Any] = json.loads(result.read_text("utf-8"))
    if "error" in found:
        other = "; ".join(map(str, changes[:5])) or "nothing"
        msg = f"{found['message']} (installed differently since it was trained: {other})"
        raise getattr(errors, found["error"])(msg)
    return found


def _variables(trained_in: Environment) -> dict[str, str]:
    """Environment of the child: as many threads as then, and nothing of the user's."""
    threads = trained_in.machine.get("threads", "1")
    package = Path(airflow_mlops.__file__).parent.parent
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}  # noqa: TID251
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**kept, **dict.fromkeys(pools, threads), "PYTHONPATH": str(package)}


def _compared(
    model: str,
    about: Mapping[str, Any],
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    changes: Sequence[EnvironmentChange],
    tolerance: float,
) -> Reproduction:
    """Find the first step that differs, and say what it means for the predictions."""
    digests = [(name, about["steps"][name]) for name in ("rows", "features")]
    digests.append(("estimator", about["estimator"]["digest"]))
    steps = tuple(Step(name, digest, now["steps"][name]) for name, digest in digests)
    first = next((step.name for step in steps if not step.same), "")
    old, new = (
        np.asarray([*side["predictions"], *(side["holdout"] or ())], float)
        for side in (then, now["answers"])
    )
    same_rows = len(old) == len(new) and then["since"] == now["answers"]["since"]
    moved = float(np.max(np.abs(old - new), initial=0.0)) if same_rows else float("inf")
    verdict: Verdict = "differs"
    if not first and moved == 0:
        verdict = "identical bytes"
    elif moved == 0:
        verdict = "identical predictions"
    elif moved <= tolerance:
        verdict = "within tolerance"
    return Reproduction(model, verdict, first, moved, len(new), steps, tuple(changes))
