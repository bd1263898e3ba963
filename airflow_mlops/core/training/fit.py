"""
Train: the same recipe gives the same model version, however often it is asked for.

The computation may run more than once (retry, race, kill); its effect happens once. The commit
point is ``create_model_version`` with the recipe's id as a tag of the same call.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.errors import (
    ConfigurationError,
    MlopsError,
    NotEnoughDataError,
    RejectedError,
    UserCodeError,
)
from airflow_mlops.core.refs import Recipe
from airflow_mlops.core.training import models
from airflow_mlops.core.training.models import ModelStore, ModelVersion, save_model
from airflow_mlops.core.training.provenance import Environment

if TYPE_CHECKING:
    import pandas as pd

PROBE_ROWS = 2_000
"""Rows on which a training function shows that it is deterministic."""

Loss = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Training:
    """
    What to train, and from what.

    :param recipe: everything the model is made of.
    :param rows: the labelled training rows.
    :param features: source of ``build(rows) -> frame``.
    :param train: source of ``fit(X, y, *, seed, **params) -> estimator``.
    :param environment: of this process.
    :param about: further facts that travel with the model, such as its contract.
    """

    recipe: Recipe
    rows: Labelled
    features: CodeArchive
    train: CodeArchive
    environment: Environment
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.recipe.model


@dataclass(frozen=True, slots=True)
class Trained:
    """
    A model version and what its training measured.

    :param model: ``name@version``.
    :param rows: labelled rows it was fitted on.
    :param created: whether this call made it; ``False`` if the recipe had been trained before.
    """

    model: str
    run_id: str
    recipe: str
    digest: str
    rows: int
    created: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def train_model(
    store: ModelStore,
    training: Training,
    *,
    loss: tuple[str, Loss],
    tags: Mapping[str, str],
) -> Trained:
    """
    Train a recipe exactly once.

    :param loss: name and function of the per-row loss that the backtest is measured in.
    :param tags: who asked: Dag, run, try and so on; they go to the MLflow run.
    :raises UserCodeError: if a function of the user fails or is not deterministic.
    :raises UnavailableError: if MLflow does not answer; a retry goes on where this left off.
    """
    recipe, name = training.recipe, training.name
    versions = store.of_recipe(name, recipe.id)
    created = not versions
    if created:
        run_id = store.start(name, recipe, tags)
        try:
            _make(store, training, run_id, loss)
        except (ConfigurationError, RejectedError):  # a retry would end the same way
            store.fail(run_id)
            raise
        versions = store.of_recipe(name, recipe.id)
    store.settle(versions)
    return _trained(versions[0], training, created=created)


def _make(store: ModelStore, training: Training, run_id: str, loss: tuple[str, Loss]) -> None:
    """Fit, log, and register unless somebody was faster."""
    recipe = training.recipe
    with tempfile.TemporaryDirectory(prefix="mlops-train-") as scratch:
        folder, loaded = Path(scratch) / "artifacts", Path(scratch) / "loaded"
        for code, part in ((training.features, "features"), (training.train, "train")):
            code.save(folder / part)
            code.save(loaded / part)  # importing leaves byte code beside the source
        build = training.features.load(loaded / "features")
        fit = training.train.load(loaded / "train")
        user = _UserFunctions(training, build, fit)
        estimator, base = user.fit_and_backtest(loss[1])
        metrics = {f"base_{loss[0]}": base, "training_rows": float(len(training.rows))}
        about = {**training.about, "recipe": recipe.to_dict(), "metrics": metrics}
        digest = save_model(
            folder / "model",
            estimator=estimator,
            features=training.features,
            about=about,
            example=training.rows.slice(0, 5).frame,
            requirements=_requirements(training.environment),
        )
        (folder / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1), "utf-8")
        (folder / "environment.txt").write_text(training.environment.text(), "utf-8")
        params = {**recipe.to_dict(), "params": json.dumps(dict(recipe.params), sort_keys=True)}
        store.log(run_id, params, metrics, folder)
    if not store.of_recipe(training.name, recipe.id):
        facts = {
            models.RECIPE: recipe.id,
            models.DIGEST: digest,
            models.BASE_LOSS: repr(base),
            models.TRAINING_ROWS: str(len(training.rows)),
            models.DATA: recipe.data,
            models.LABELS: recipe.labels,
            models.SINCE: recipe.since,
            models.UNTIL: recipe.until,
        }
        store.register(training.name, run_id, facts)


@dataclass(frozen=True, slots=True)
class _UserFunctions:
    """The two functions of the user, called with care."""

    training: Training
    build: Callable[..., Any]
    fit: Callable[..., Any]

    def fit_and_backtest(self, loss: Loss) -> tuple[Any, float]:
        """Fit on all rows; also on the first three quarters, for the loss on the last one."""
        rows = self.training.rows
        features = self._features(rows)
        self._check_deterministic(features.tail(PROBE_ROWS), rows.y[-PROBE_ROWS:])
        cut = len(rows) * 3 // 4
        early = self._fitted(features.iloc[:cut], rows.y[:cut])
        late = np.asarray(self._predicted(early, features.iloc[cut:]), dtype=np.float64)
        return self._fitted(features, rows.y), float(loss(rows.y[cut:], late).mean())

    def _features(self, rows: Labelled) -> "pd.DataFrame":
        frame = self._built(rows)
        self._check_rows_alone(rows, frame)
        return frame

    def _built(self, rows: Labelled) -> "pd.DataFrame":
        name = self.training.features.name
        frame = _call(name, self.build, rows.frame)
        if not hasattr(frame, "iloc"):
            found = "nothing" if frame is None else type(frame).__name__
            msg = f"{name} returned {found} for {len(rows)} rows; it has to return a frame"
            raise UserCodeError(msg)
        if len(frame) != len(rows):
            found = f"{len(frame)} rows"
            msg = f"{name} returned {found} for {len(rows)} rows; it has to return one row for each"
            raise UserCodeError(msg)
        return frame  # type: ignore[no-any-return]

    def _check_rows_alone(self, rows: Labelled, frame: "pd.DataFrame") -> None:
        """Build some of the rows again: a row has to get the same features in every batch."""
        stop = len(rows) - 1  # without the last one, so that a look ahead shows, too
        start = stop - min(len(rows), PROBE_ROWS) // 2
        if start >= stop:
            return
        alone = self._built(rows.slice(start, stop))
        differing = _differing(frame.iloc[start:stop], alone)
        if differing:
            msg = (
                f"{self.training.features.name} depends on neighbouring rows (or on chance): "
                f"{len(alone)} rows built alone and among {len(rows)} differ in "
                f"{', '.join(map(repr, differing))}; compute such features in SQL, before the "
                "snapshot"
            )
            raise UserCodeError(msg)

    def _fitted(self, features: "pd.DataFrame", y: NDArray[np.float64]) -> Any:
        name, recipe = self.training.train.name, self.training.recipe
        estimator = _call(name, self.fit, features, y, seed=recipe.seed, **recipe.params)
        if not hasattr(estimator, "predict"):
            msg = f"{name} returned {type(estimator).__name__}; it has to return a fitted estimator"
            raise UserCodeError(msg)
        return estimator

    def _predicted(self, estimator: Any, features: "pd.DataFrame") -> Any:
        return _call(f"what {self.training.train.name} fitted", _predict, estimator, features)

    def _check_deterministic(self, features: "pd.DataFrame", y: NDArray[np.float64]) -> None:
        first, second = (self._predicted(self._fitted(features, y), features) for _ in range(2))
        if not np.array_equal(first, second):
            moved = float(np.max(np.abs(np.asarray(first) - np.asarray(second))))
            msg = (
                f"{self.training.train.name} is not deterministic: two fits of the same "
                f"{len(features)} rows with seed {self.training.recipe.seed} differ by up to "
                f"{moved:.3g}; pass the seed to every source of randomness"
            )
            raise UserCodeError(msg)


def _differing(among: "pd.DataFrame", alone: "pd.DataFrame") -> list[Any]:
    """Return the columns in which two frames of the same rows differ."""
    one, two = list(among.columns), list(alone.columns)
    if one != two:
        return [n for n in dict.fromkeys([*one, *two]) if (n in one) != (n in two)] or two
    return [n for i, n in enumerate(one) if not _equal(among.iloc[:, i], alone.iloc[:, i])]


def _equal(one: "pd.Series[Any]", two: "pd.Series[Any]") -> bool:
    """
    Compare values, whatever their type.

    Floats may differ in the last digits: a matrix product rounds by the place of a row in it.
    """
    from pandas.api.types import is_float_dtype

    if not (is_float_dtype(one.dtype) and is_float_dtype(two.dtype)):
        one, two = (s.astype(object).reset_index(drop=True) for s in (one, two))
        return bool(one.equals(two))
    x, y = (s.to_numpy(dtype=np.float64, na_value=np.nan) for s in (one, two))
    size = float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
    digits = max(np.finfo(getattr(s.dtype, "numpy_dtype", s.dtype)).eps for s in (one, two))
    return np.allclose(x, y, rtol=0.0, atol=100 * float(digits) * size, equal_nan=True)


def _call(name: str, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Call a function of the user; whatever it raises becomes an error that names it."""
    try:
        return function(*values, **named)
    except MlopsError:
        raise
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = f" (line {trace.tb_lineno})" if trace is not None else ""
        msg = f"{name} raised {type(error).__name__}: {error}{line}"
        raise UserCodeError(msg) from error


def _predict(estimator: Any, features: "pd.DataFrame") -> Any:
    if not hasattr(estimator, "predict_proba"):
        return estimator.predict(features)
    chances = estimator.predict_proba(features)
    if chances.shape[1] != 2:
        msg = (
            f"{type(estimator).__name__} was fitted on {chances.shape[1]} classes; a classifier "
            "needs rows of exactly two, in every quarter of its training span"
        )
        raise NotEnoughDataError(msg)
    return chances[:, 1]


def _requirements(environment: Environment) -> list[str]:
    """Pins of what the model folder needs to load, from the environment it was made in."""
    wanted = {"mlflow", "pandas", "numpy", "scikit-learn", "skops"}
    return [pin for pin in environment.distributions if pin.partition("==")[0] in wanted]


def _trained(version: ModelVersion, training: Training, *, created: bool) -> Trained:
    return Trained(
        str(version.ref),
        version.run_id,
        version.recipe,
        version.digest,
        len(training.rows),
        created,
    )
