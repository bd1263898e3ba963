"""Operators for training: archive the features, train exactly once, train again to compare."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.refs import FeatureRef, ModelRef, Recipe
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, Xcom, about_decision, run_of, run_url
from airflow_mlops.operators.links import MlflowRunLink, ModelVersionLink
from airflow_mlops.policy import PROBABILITIES

if TYPE_CHECKING:
    from airflow_mlops.core.data.features import CodeArchive
    from airflow_mlops.core.data.selection import Selection
    from airflow_mlops.core.data.tables import Table
    from airflow_mlops.core.evaluation.spans import SpanChoice


class ArchiveFeaturesOperator(MlopsOperator):
    """
    Give the feature code a version: a hash of what it does, its parameters, and the columns it has.

    A request may ask for an earlier version: its source and its own parameters come from a model
    trained with it.

    :param features: ``module:function`` of ``build(rows, **params) -> frame`` (templated).
    :param selection: what ``SelectRowsOperator`` returned (templated).
    :param feature_params: parameters of ``build``, plain JSON types; they reach the training with
        what this operator returns (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "features", "selection", "feature_params")

    def __init__(
        self,
        *,
        features: str,
        selection: Xcom,
        feature_params: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.selection = selection
        self.feature_params = feature_params

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the source, check that it can travel with a model, and hash it."""
        from airflow_mlops.core.data.contract import logical_types
        from airflow_mlops.core.data.features import feature_version
        from airflow_mlops.core.refs import DatasetRef

        pinned = self.selection.get("features")
        code = _source(self, self.features, pinned, self.feature_params)
        code.check()
        self.selected(self.selection)
        table = self.datasets().open(DatasetRef.parse(self.selection["train"]["data"]))
        columns = logical_types(table.schema)
        ref = FeatureRef(f"{self.model}.features", feature_version(code, columns))
        self.log.info("%s from %s with %s", ref, pinned or self.features, dict(code.params))
        found = {
            "ref": str(ref),
            "params": dict(code.params),
            "columns": columns,
            "files": sorted(code.files),
            "pinned": pinned,
        }
        self.hand_over(context, "features", about_decision(self.selection), found)
        return found


class ChooseHistoryOperator(MlopsOperator):
    """
    See which history helps now: fit a model on the whole span and on shorter ones.

    Returns the selection, with the rows of the shorter span if its model is surely better on the
    hold-out. A first model, a further round and rows that a person named keep their span.

    :param selection: what ``SelectRowsOperator`` returned (templated).
    :param features: ``module:function`` of ``build(rows, **params) -> frame`` (templated).
    :param feature_set: what ``ArchiveFeaturesOperator`` returned (templated).
    :param train: ``module:function`` of ``fit(X, y, *, seed, **params) -> estimator`` (templated).
    :param shorter: shares of the span to try, such as ``(0.25,)``; none: nothing is tried.
    :param metric: per-row loss they are compared in.
    :param train_params: parameters for the training function.
    :param seed: seed handed to the training function.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "selection",
        "features",
        "feature_set",
        "train",
    )

    def __init__(
        self,
        *,
        selection: Xcom,
        features: str,
        feature_set: Xcom,
        train: str,
        shorter: Sequence[float] = (0.25, 0.0625),
        metric: str = "brier",
        train_params: Mapping[str, Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.selection = selection
        self.features = features
        self.feature_set = feature_set
        self.train = train
        self.shorter = shorter
        self.metric = metric
        self.train_params = train_params
        self.seed = seed

    def execute(self, context: Context) -> dict[str, Any]:
        """Try the spans, and name the rows to learn from."""
        from airflow_mlops.core.evaluation.spans import OWN

        self.selected(self.selection)
        self.handed("features", about_decision(self.selection), self.feature_set)
        asked: dict[str, Any] = dict(self.selection)
        if not self.shorter or asked["champion"] is None or asked["share"] < 1 or asked["pinned"]:
            return asked
        learn = asked["train"]
        since, until = (datetime.fromisoformat(learn[end]) for end in ("since", "until"))
        shares = {f"x{share:g}": share for share in self.shorter}
        spans = {name: until - (until - since) * share for name, share in shares.items()}
        choice = self._choice(spans)
        self.log.info("%s", choice)
        if choice.chosen != OWN:
            learn = {**learn, "since": spans[choice.chosen].isoformat()}
            asked["share"] = shares[choice.chosen]
        chosen = {**asked, "train": learn, "history": choice.to_dict()}
        self.hand_over(context, "history", about_decision(chosen), chosen)
        return chosen

    def _choice(self, spans: Mapping[str, datetime]) -> "SpanChoice":
        from airflow_mlops.core.data.contract import Contract, row_breaks
        from airflow_mlops.core.data.features import archive
        from airflow_mlops.core.data.selection import Selection
        from airflow_mlops.core.evaluation.spans import try_spans
        from airflow_mlops.core.refs import DatasetRef
        from airflow_mlops.core.scratch import scratch_folder
        from airflow_mlops.core.training.functions import Functions

        given, store = self.feature_set, self.datasets()
        learn, hold = (Selection.from_dict(self.selection[part]) for part in ("train", "holdout"))
        rows, holdout = learn.read(store), hold.read(store)
        contract = _contract(store.open(DatasetRef.parse(learn.data)), learn)
        good, _ = row_breaks(Contract.from_dict(contract), holdout.rows, holdout.key)
        with scratch_folder("train") as folder:
            functions = Functions.load(
                rows,
                _source(self, self.features, given.get("pinned"), given.get("params")),
                archive(self.train),
                folder,
                params={**(self.train_params or {}), **self.selection["params"]},
                seed=self.seed,
            )
            return try_spans(functions, spans, holdout.filter(good), metric=self.metric)


class TrainModelOperator(MlopsOperator):
    """
    Train the recipe, exactly once, and register the version in MLflow.

    :param features: ``module:function`` of ``build(rows, **params) -> frame`` (templated).
    :param feature_set: what ``ArchiveFeaturesOperator`` returned, the parameters of ``build`` in it
        (templated).
    :param train: ``module:function`` of ``fit(X, y, *, seed, **params)`` (templated).
    :param selection: what ``SelectRowsOperator`` returned (templated).
    :param metric: per-row loss of the backtest.
    :param train_params: parameters for the training function; those of the decision replace them
        (templated).
    :param seed: seed handed to the training function.
    :param verify: ``"sample"`` fits the newest 2,000 rows twice to see whether the function is
        deterministic, ``"twice"`` all rows.
    :param allow_pickle: consent to an estimator that only pickle can store: opening it runs code.
    :param importance: measure how much the loss of the backtest rises when a column of the rows is
        permuted: five times per column the features of at most 2,000 rows are built and predicted;
        not at all for more than 200 columns.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "features",
        "feature_set",
        "train",
        "selection",
        "train_params",
    )
    operator_extra_links = (MlflowRunLink(), ModelVersionLink())

    def __init__(
        self,
        *,
        features: str,
        feature_set: Xcom,
        train: str,
        selection: Xcom,
        metric: str = "brier",
        train_params: Mapping[str, Any] | None = None,
        seed: int = 0,
        verify: Literal["sample", "twice"] = "sample",
        allow_pickle: bool = False,
        importance: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verify = verify
        self.allow_pickle = allow_pickle
        self.importance = importance
        self.features = features
        self.feature_set = feature_set
        self.train = train
        self.selection = selection
        self.metric = metric
        self.train_params = train_params
        self.seed = seed
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Collect the recipe's parts, train, and return the version."""
        from airflow_mlops.core.training.fit import train_model
        from airflow_mlops.core.training.own_metrics import load_loss

        self.selected(self.selection)
        self.handed("features", about_decision(self.selection), self.feature_set)
        hook = MlflowHook(self.mlflow_conn_id)
        training = self._training(context)
        done = train_model(
            self.models(),
            training,
            loss=(self.metric, load_loss(self.metric)),
            tags=self._tags(context),
        )
        self.urls = {
            MlflowRunLink.name: hook.run_url(done.run_id),
            ModelVersionLink.name: hook.model_url(ModelRef.parse(done.model)),
        }
        self.processed = done.rows if done.created else None
        self.log.info("%s from recipe %s, %d rows", done.model, done.recipe[:12], done.rows)
        if done.model == f"{self.model}@{self.selection['champion']}":
            msg = (
                f"{done.model} is champion already, and was made from the very same data, code and "
                "parameters: nothing to judge; change one of them, for instance with --params"
            )
            raise AirflowSkipException(msg)
        self.hand_over(
            context,
            "train",
            about_decision(self.selection),
            done.to_dict(),
            version=ModelRef.parse(done.model).version,
            facts={"run_id": done.run_id, "digest": done.digest},
        )
        return done.to_dict()

    def _training(self, context: Context) -> Any:
        """Read the rows and the code, and write the recipe."""
        from airflow_mlops.core.data.features import archive
        from airflow_mlops.core.data.selection import Selection
        from airflow_mlops.core.refs import DatasetRef
        from airflow_mlops.core.training.fit import Training
        from airflow_mlops.core.training.provenance import code_version, environment

        selection = Selection.from_dict(self.selection["train"])
        store, train = self.datasets(), archive(self.train)
        features, version = self._archived_features()
        rows, found = selection.read(store), environment()
        if self.metric in PROBABILITIES:
            rows.check_classes()
        code = code_version(_dag_folder(context), declared=_bundle_version(context))
        data, labels = (
            store.open(DatasetRef.parse(ref)) for ref in (selection.data, selection.labels)
        )
        recipe = Recipe(
            model=self.model,
            data=selection.data,
            data_digest=data.digest,
            labels=selection.labels,
            labels_digest=labels.digest,
            label=selection.label,
            since=selection.since,
            until=selection.until,
            features=version,
            train=self.train,
            train_code=train.digest,
            params={**(self.train_params or {}), **self.selection["params"]},
            seed=self.seed,
            code=code.version,
            environment=found.id,
        )
        about = {"contract": _contract(data, selection)}
        asked, sources = (self.verify, self.allow_pickle), {"rows": data, "labels": labels}
        facts = (about, code.changes, *asked, sources, self.importance)
        return Training(recipe, rows, features, train, found, *facts)

    def _archived_features(self) -> tuple["CodeArchive", str]:
        """Read the feature code, and insist on the version that the run began with."""
        from airflow_mlops.core.data.features import feature_version
        from airflow_mlops.core.errors import ConfigurationError

        given = self.feature_set
        found = _source(self, self.features, given.get("pinned"), given.get("params"))
        ref = given["ref"]
        version = f"{self.model}.features@{feature_version(found, given['columns'])}"
        if version != ref:
            msg = (
                f"{self.features} changed under way: it was {ref} and is {version} now; clear the "
                "task 'features' to train with the new one"
            )
            raise ConfigurationError(msg)
        return found, version

    def _tags(self, context: Context) -> dict[str, str]:
        ti, url = context["ti"], run_url(context)
        return {
            **({"airflow.run_url": url} if url else {}),
            "airflow.dag_id": ti.dag_id,
            "airflow.run_id": ti.run_id,
            "airflow.task_id": ti.task_id,
            "airflow.map_index": str(-1 if ti.map_index is None else ti.map_index),
            "airflow.try_number": str(ti.try_number),
            "mlops.decision": str(self.selection["decision"]),
            "mlops.author": self.owner,
            "airflow.run": run_of(context),
            "mlops.host": platform.node(),
            "mlflow.user": self.owner,
            "mlflow.source.type": "JOB",
            "mlflow.source.name": ti.dag_id,
        }


def _contract(data: "Table", selection: "Selection") -> dict[str, Any]:
    """Write down what the selected rows look like."""
    from airflow_mlops.core.data.contract import infer_contract

    span = (datetime.fromisoformat(t) for t in (selection.since, selection.until))
    profile = data.between(*span).profile()
    return infer_contract(data.schema, profile, exclude=(data.key, data.time)).to_dict()


def _source(
    operator: MlopsOperator, features: str, pinned: str | None, params: Mapping[str, Any] | None
) -> "CodeArchive":
    """Read the feature code of today, or an earlier version that was asked for, as it was."""
    from airflow_mlops.core.data.features import archive

    if pinned:
        return operator.models().features(FeatureRef.parse(pinned))
    return archive(features, params)


def _bundle_version(context: Context) -> str | None:
    """Version of the Dag bundle, else the commit that the image was built from."""
    bundle = getattr(context["ti"], "bundle_instance", None)
    built_from = os.environ.get("MLOPS_GIT_SHA")  # noqa: TID251  (set by an image, no secret)
    return getattr(bundle, "version", None) or built_from or None


def _dag_folder(context: Context) -> Path | None:
    dag = getattr(context.get("dag"), "fileloc", None)
    return Path(dag).parent if dag else None
