"""
Ask a model what it was asked when it was trained: the same features, and the same answers?

Its files are checked by digest, so if the same code builds other features of the same rows, what
surrounds it is another: a package, the processor, or something that no archive holds.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.selection import Selection
from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    NotEnoughDataError,
    UnavailableError,
    refuse_exhausted,
)
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.training.fingerprints import Fingerprint
from airflow_mlops.core.training.provenance import environment

TOLERANCE = 1e-6
"""How far two predictions may lie apart and still be called the same model."""

SHOWN = 5
"""Columns that a finding names."""


@dataclass(frozen=True, slots=True)
class ServingCheck:
    """
    One question that was asked before a version may serve.

    :param status: ``uncertain`` if it could not be answered, such as when old rows are gone.
    :param moved: largest distance of two answers; ``None``: not measured, or no finite number.
    """

    name: str
    status: Literal["ok", "failed", "uncertain"]
    found: str
    moved: float | None = None

    def __str__(self) -> str:
        return f"{self.status:<9} {self.name}: {self.found}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """
    The rows behind the answers that travel with a model, in the order of these.

    :param changed: why they are other rows than those of training; empty if they are not.
    """

    rows: pa.Table
    changed: str


def check_answers(datasets: DatasetStore, model: Any) -> tuple[ServingCheck, ...]:
    """
    Build the features of the newest training rows again, through the loader, and answer them.

    Features may differ by rounding: the last digits are another processor's affair. Answers may
    move by ``TOLERANCE``.

    :param model: an opened version.
    :return: the checks ``features`` and ``answers``.
    """
    try:
        asked = _asked(datasets, model.about)
    except (DatasetNotFoundError, NotEnoughDataError, UnavailableError, OSError) as error:
        return tuple(ServingCheck(n, "uncertain", str(error)) for n in ("features", "answers"))
    return _features(model, asked), _answers(model, asked)


def _asked(datasets: DatasetStore, about: Any) -> _Asked:
    """Read the rows whose features and answers were written down."""
    then, recipe = about["answers"], about["recipe"]
    facts = {part: recipe[part] for part in ("data", "labels", "label", "until")}
    found = Selection(**facts, since=then["since"]).read(datasets)
    answered = len(then["predictions"])
    lost = then.get("rows", answered) - len(found)  # a release before wrote no number
    if lost:
        msg = f"{lost} of its rows are gone from {recipe['data']}"
        raise NotEnoughDataError(msg)
    table = datasets.open(DatasetRef.parse(recipe["data"]))
    changed = ""
    if table.digest != recipe["data_digest"]:
        changed = f"{recipe['data']} holds other rows than it was trained on ({table.digest})"
    return _Asked(found.rows.slice(len(found) - answered), changed)


def _features(model: Any, asked: _Asked) -> ServingCheck:
    """Compare the features with the fingerprint that travels with the model."""
    known = model.about["answers"].get("features")
    if known is None:
        return ServingCheck("features", "uncertain", "trained before features were written down")
    try:
        now = Fingerprint.of(model.build(asked.rows.to_pandas()))
    except Exception as error:  # noqa: BLE001  (whatever another environment does to it)
        refuse_exhausted(str(model.about["recipe"]["model"]), error)
        text = f"building them raises {type(error).__name__}: {error}"
        return ServingCheck("features", "failed", text)
    then, rows = Fingerprint.from_dict(known), asked.rows.num_rows
    differing = then.differs(now)
    if differing:
        named = ", ".join(map(repr, differing[:SHOWN]))
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        text = f"{named}{more} differ on {rows} rows: {_cause(model.about['recipe'], asked)}"
        return ServingCheck("features", "failed", text)
    but = "" if then.digest == now.digest else ", up to rounding: this is another processor"
    return ServingCheck("features", "ok", f"{rows} rows have the features of training{but}")


def _cause(recipe: Any, asked: _Asked) -> str:
    """Say why the same code may build other features."""
    if asked.changed:
        return asked.changed
    here, there = environment().id, recipe["environment"]
    if here == there:
        return (
            f"the code and the packages ({here}) are those of training, so build depends on "
            "something else, such as a file, a variable or the clock"
        )
    return (
        f"the code is that of training, the environment is not ({here}, trained in {there}): most "
        "likely another version of a package; `airflow mlops reproduce` names each"
    )


def _answers(model: Any, asked: _Asked) -> ServingCheck:
    """Compare with the answers that travel with the model."""
    then = np.asarray(model.about["answers"]["predictions"], float)
    try:
        now = np.asarray(model.predict(asked.rows.to_pandas()), float)
    except Exception as error:  # noqa: BLE001  (whatever another environment does to it)
        refuse_exhausted(str(model.about["recipe"]["model"]), error)
        return ServingCheck("answers", "failed", f"it raises {type(error).__name__}: {error}")
    moved = float(np.max(np.abs(now - then)))
    known = moved if math.isfinite(moved) else None
    if not moved <= TOLERANCE:
        text = f"{len(now)} answers moved by up to {moved:.3g}"
        return ServingCheck("answers", "failed", text, known)
    return ServingCheck("answers", "ok", f"{len(now)} answers are what they were", known)
