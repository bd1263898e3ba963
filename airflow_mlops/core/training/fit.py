"""
Train: the same recipe gives the same model version, however often it is asked for.

The computation may run more than once (retry, race, kill); its effect happens once. The commit
point is ``create_model_version`` with the recipe's id as a tag of the same call.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.data.tables import Table
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.refs import Recipe, canonical_json
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training import models
from airflow_mlops.core.training.catalogue import feature_tags
from airflow_mlops.core.training.estimators import Written, write_estimator
from airflow_mlops.core.training.functions import Backtest, Fitted, Functions, Loss, Verify
from airflow_mlops.core.training.inputs import DataInput
from airflow_mlops.core.training.models import AUTHOR, RUN, RUN_URL, ModelStore
from airflow_mlops.core.training.provenance import Environment, packages_of
from airflow_mlops.core.training.saving import Saved, save_model
from airflow_mlops.core.training.versions import ModelVersion

if TYPE_CHECKING:
    import pandas as pd

LONG = 5_000
"""Rows from which on a fit may take long: before it, it is seen whether its result can be kept."""


@dataclass(frozen=True, slots=True)
class Training:
    """
    What to train, and from what.

    :param recipe: everything the model is made of.
    :param rows: the labelled training rows.
    :param features: source of ``build(rows, **params) -> frame``, with its parameters.
    :param train: source of ``fit(X, y, *, seed, **params) -> estimator``.
    :param environment: of this process.
    :param about: further facts that travel with the model; its contract has to be among them.
    :param changes: what was not committed when the code got its version, as ``git diff`` shows it.
    :param verify: ``"sample"`` fits the newest 2,000 rows twice, ``"twice"`` all of them, to see
        that the training function is deterministic.
    :param allow_pickle: consent to an estimator that can only be pickled.
    :param importance: measure how much the model needs each column of the rows; it is kept beside
        the model, and makes it no other model.
    :param sources: the dataset versions, by their role: ``rows``, ``labels``; the run notes who
        made them, when, and what columns they have.
    """

    recipe: Recipe
    rows: Labelled
    features: CodeArchive
    train: CodeArchive
    environment: Environment
    about: Mapping[str, Any]
    changes: str = field(default="", repr=False)
    verify: Verify = "sample"
    allow_pickle: bool = False
    sources: Mapping[str, Table] = field(default_factory=dict, repr=False)
    importance: bool = False

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
            who = {name: tags[name] for name in (AUTHOR, RUN, RUN_URL) if name in tags}
            _make(store, training, run_id, loss, who)
        except (ConfigurationError, RejectedError):  # a retry would end the same way
            store.fail(run_id)
            raise
        versions = store.of_recipe(name, recipe.id)
    store.settle(versions)
    return _trained(versions[0], training, created=created)


def _make(
    store: ModelStore,
    training: Training,
    run_id: str,
    loss: tuple[str, Loss],
    who: Mapping[str, str],
) -> None:
    """Fit, log, and register unless somebody was faster."""
    recipe = training.recipe
    with scratch_folder("train") as scratch:
        folder = scratch / "artifacts"
        functions = Functions.load(
            training.rows,
            training.features,
            training.train,
            scratch / "code",
            params=recipe.params,
            seed=recipe.seed,
        )
        with store.watched(run_id):
            features = functions.built()
            _refuse_unkept(training, functions, features, scratch / "small")
            fitted = functions.fitted(features, training.verify)
            tested = functions.backtest(features, loss[1], importance=training.importance)
        metrics = {f"base_{loss[0]}": tested.loss, "training_rows": float(len(training.rows))}
        saved = save_model(
            folder / "model",
            estimator=fitted.estimator,
            features=training.features,
            train=training.train,
            about=_about(training, fitted, metrics, tested),
            optional=(training.rows.key, training.rows.time),
            requirements=partial(_requirements, training),
            allow_pickle=training.allow_pickle,
        )
        (folder / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1), "utf-8")
        (folder / "environment.txt").write_text(training.environment.text(), "utf-8")
        if training.changes:
            (folder / "code.diff").write_text(training.changes, "utf-8")
        store.log(run_id, _params(training), metrics, folder)
        store.log_inputs(run_id, _inputs(training))
    if not store.of_recipe(training.name, recipe.id):
        about = feature_tags(training.features, training.about["contract"], features.columns)
        store.register(
            training.name, run_id, {**_facts(training, saved, tested.loss), **about, **who}
        )


def _refuse_unkept(
    training: Training, functions: Functions, features: "pd.DataFrame", folder: Path
) -> None:
    """Refuse before a long fit what could not be stored after it."""
    small = functions.small(features) if len(training.rows) >= LONG else None
    if small is not None:
        write_estimator(small, folder, allow_pickle=training.allow_pickle)


def _params(training: Training) -> dict[str, Any]:
    """What the page of the run lists as parameters: the recipe, and those of the features."""
    recipe, built = training.recipe, training.features.params
    params = {**recipe.to_dict(), "params": json.dumps(dict(recipe.params), sort_keys=True)}
    params |= {f"params.{name}": value for name, value in recipe.params.items()}
    return params | ({"feature_params": canonical_json(built)} if built else {})


def _facts(training: Training, saved: Saved, base: float) -> dict[str, str]:
    """Tags of the version."""
    recipe = training.recipe
    return {
        models.RECIPE: recipe.id,
        models.DIGEST: saved.digest,
        models.FILES: str(saved.files),
        models.FORMAT: saved.estimator.format,
        models.BASE_LOSS: repr(base),
        models.TRAINING_ROWS: str(len(training.rows)),
        models.DATA: recipe.data,
        models.LABELS: recipe.labels,
        models.FEATURES: recipe.features,
        models.SINCE: recipe.since,
        models.UNTIL: recipe.until,
        models.CODE: recipe.code,
        models.ENVIRONMENT: recipe.environment,
    }


def _about(
    training: Training, fitted: Fitted, metrics: Mapping[str, float], tested: Backtest
) -> dict[str, Any]:
    """Facts that travel with the model."""
    return {
        **({"importance": dict(tested.importance)} if training.importance else {}),
        **training.about,
        "recipe": training.recipe.to_dict(),
        "metrics": dict(metrics),
        "steps": dict(fitted.steps),
        "answers": dict(fitted.answers),
    }


def _inputs(training: Training) -> list[DataInput]:
    recipe = training.recipe
    known = {
        "rows": (recipe.data, recipe.data_digest),
        "labels": (recipe.labels, recipe.labels_digest),
    }
    span = recipe.since, recipe.until
    return [
        DataInput.of(training.sources[role], role, *span)
        if role in training.sources
        else DataInput(*reference, role, *span)
        for role, reference in known.items()
    ]


def _requirements(training: Training, written: Written) -> list[str]:
    """Pins of what the model folder needs to load and to answer."""
    modules = {*training.features.modules, *written.modules, "mlflow", "numpy", "pandas"}
    if written.format == "skops":
        modules |= {"skops"}
    else:
        modules |= {*training.train.modules}  # its module is imported when the estimator is loaded
    return list(packages_of(modules))


def _trained(version: ModelVersion, training: Training, *, created: bool) -> Trained:
    return Trained(
        str(version.ref),
        version.run_id,
        version.recipe,
        version.digest,
        len(training.rows),
        created,
    )
