"""
Model versions in MLflow: register exactly once, verify, load.

MLflow's client with explicit ids only: no active run, no global tracking URI.
"""

import contextlib
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.errors import (
    ConfigurationError,
    ModelChangedError,
    ModelNotFoundError,
    UnavailableError,
    UserCodeError,
    refuse_exhausted,
)
from airflow_mlops.core.refs import FeatureRef, ModelRef, Recipe
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training import artifacts, mlops_loader_v1
from airflow_mlops.core.training.answers import talking
from airflow_mlops.core.training.inputs import DataInput
from airflow_mlops.core.training.saving import CONTENTS, about_of
from airflow_mlops.core.training.versions import LEARNT_UNTIL, ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.core.ledger import Ledger

_logger = logging.getLogger(__name__)

RECIPE = "mlops.recipe"
DIGEST = "mlops.digest"
BASE_LOSS = "mlops.base_loss"
TRAINING_ROWS = "mlops.training_rows"
DATA, LABELS = "mlops.data", "mlops.labels"
SINCE, UNTIL = "mlops.since", LEARNT_UNTIL
FEATURES = "mlops.features"
FORMAT = "mlops.format"
CODE, ENVIRONMENT = "mlops.code", "mlops.environment"
AUTHOR, RUN, RUN_URL = "mlops.author", "airflow.run", "airflow.run_url"
"""Who trained it: these tags of a run are those of its version, too."""

FILES = "mlops.files"
"""How many files a version has: a list that lacks some is no list of them."""

EVALUATION = "evaluation.json"
"""Artifact of a run that says how its model was judged, and on which rows."""

FLIPS, FLIPS_PAGE = "flips.json", "flips.html"
"""Artifacts of a run that say which decisions change: numbers, and a page."""

_COMMIT = re.compile(r"git:([0-9a-f]{7,64})\b")

SYSTEM_INTERVAL = 5
"""Seconds between two readings of MLflow's monitor of the machine; a shorter fit has none."""

PARAM_LETTERS = 6000
"""MLflow cuts longer parameter values silently."""


@dataclass(frozen=True, slots=True)
class ModelStore:
    """
    The model versions of one MLflow server.

    :param client: MLflow client, bound to its server.
    :param ledger: the decisions: which files a version has is what they say; ``None``: nothing was
        decided, MLflow is believed.
    """

    client: "MlflowClient"
    ledger: "Ledger | None" = None

    def experiment(self, name: str) -> str:
        """Return the id of the model's experiment; makes it and the registered model if needed."""
        with talking(name):
            found = self.client.get_experiment_by_name(name)
        if found is None:
            with talking(name, existing_is_fine=True):
                self.client.create_experiment(name)
            with talking(name):
                found = self.client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            msg = (
                f"MLflow experiment {name!r} is deleted; restore it, or give the model another name"
            )
            raise ConfigurationError(msg)
        with talking(name, existing_is_fine=True):
            self.client.create_registered_model(name)
        return str(found.experiment_id)

    def of_recipe(self, name: str, recipe: str) -> tuple[ModelVersion, ...]:
        """Return all versions made from a recipe; the first is the canonical one, for ever."""
        return self._search(name, f"name='{name}' and tags.`{RECIPE}`='{recipe}'")

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return all versions of a model, oldest first."""
        return self._search(name, f"name='{name}'")

    def _search(self, name: str, wanted: str) -> tuple[ModelVersion, ...]:
        found: list[ModelVersion] = []
        token = None
        with talking(name):
            while token != "":
                page = self.client.search_model_versions(wanted, 1000, page_token=token)
                found += map(_version, page)
                token = page.token or ""
        return tuple(sorted(found, key=lambda v: v.ref.version))

    def features(self, ref: FeatureRef) -> CodeArchive:
        """
        Return the source of a feature set, from a model that was trained with it.

        :raises ModelNotFoundError: if no version has it; those that exist are named.
        :raises ModelChangedError: if the files of that version are not those that were evaluated.
        """
        holder = self.trained_with(ref)[0]
        with scratch_folder("features") as scratch:
            folder = self.fetch(holder, scratch)
            build = about_of(folder, holder.ref)["build"]
            return CodeArchive.open(folder / "data" / CONTENTS / "features", f"{ref}:{build}")

    def trained_with(self, ref: FeatureRef) -> tuple[ModelVersion, ...]:
        """
        Return the versions that were trained with a feature set, oldest first.

        :raises ModelNotFoundError: if there is none; those sets that exist are named.
        """
        name = ref.name.removesuffix(".features")
        versions = self.versions(name)
        found = tuple(v for v in versions if v.tags.get(FEATURES) == str(ref))
        if not found:
            known = ", ".join(sorted({v.tags.get(FEATURES, "") for v in versions} - {""}))
            msg = f"no version of {name} was trained with {ref}; there are {known or 'none'}"
            raise ModelNotFoundError(msg)
        return found

    def get(self, ref: ModelRef) -> ModelVersion:
        """
        Return one version.

        :raises ModelNotFoundError: if there is no such model or version.
        """
        with talking(str(ref)):
            return _version(self.client.get_model_version(ref.name, str(ref.version)))

    def start(self, name: str, recipe: Recipe, tags: Mapping[str, str]) -> str:
        """Create a run; its tags travel in the same call, so that none can be lost."""
        experiment, commit = self.experiment(name), _COMMIT.match(recipe.code)
        facts = {RECIPE: recipe.id, **({"mlflow.source.git.commit": commit[1]} if commit else {})}
        with talking(name):
            run = self.client.create_run(
                experiment, run_name=f"{name} {recipe.id[:8]}", tags={**facts, **tags}
            )
        return str(run.info.run_id)

    def log(
        self, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float], folder: Path
    ) -> None:
        """
        Log parameters, metrics and all files of a folder.

        :raises ConfigurationError: if a parameter is longer than MLflow keeps.
        :raises UserCodeError: if a metric is not finite.
        """
        from mlflow.entities import Param

        texts = {name: str(value) for name, value in params.items()}
        for name, text in texts.items():
            if len(text) > PARAM_LETTERS:
                msg = f"parameter {name} has {len(text)} letters; MLflow keeps {PARAM_LETTERS}"
                raise ConfigurationError(msg)
        with talking(run_id):
            self.client.log_batch(run_id, [], [Param(k, v) for k, v in texts.items()])
        self.log_metrics(run_id, metrics)
        with talking(run_id):
            self.client.log_artifacts(run_id, str(folder))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """
        Log metrics.

        :raises UserCodeError: if one is not finite; MLflow would store a number instead.
        """
        from mlflow.entities import Metric

        for name, value in metrics.items():
            if not math.isfinite(value):
                msg = f"metric {name} is {value}: no number to compare with"
                raise UserCodeError(msg)
        now = int(time.time() * 1000)
        with talking(run_id):
            self.client.log_batch(run_id, [Metric(k, float(v), now, 0) for k, v in metrics.items()])

    @contextlib.contextmanager
    def watched(self, run_id: str) -> Iterator[None]:
        """
        Let MLflow note what the machine does meanwhile, every 5 s, as metrics ``system/...``.

        What its monitor cannot read is left out; what it cannot send fails nothing.
        """
        from mlflow.system_metrics import system_metrics_monitor as system

        said = logging.getLogger(system.__name__)
        before = said.level
        said.setLevel(logging.ERROR)  # it tells each start, each end and each missing GPU
        uri = self.client.tracking_uri
        monitor = system.SystemMetricsMonitor(run_id, SYSTEM_INTERVAL, tracking_uri=uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()
            said.setLevel(before)

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the metrics of a run."""
        with talking(run_id):
            return dict(self.client.get_run(run_id).data.metrics)

    def run_tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run that are not MLflow's own."""
        with talking(run_id):
            tags = dict(self.client.get_run(run_id).data.tags)
        return {k: v for k, v in sorted(tags.items()) if not k.startswith("mlflow.")}

    def log_inputs(self, run_id: str, inputs: Sequence[DataInput]) -> None:
        """Link a run to the dataset versions it read, as MLflow's page shows them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        found = []
        for part in inputs:
            known = part.digest[-32:], "delta", part.source, part.schema
            dataset = Dataset(part.ref, *known)
            tags = {"mlflow.data.context": part.role, "since": part.since, "until": part.until}
            found.append(DatasetInput(dataset, [InputTag(k, v) for k, v in tags.items()]))
        for again in (True, False):  # two runs at once may both be the first to name a dataset
            with talking(run_id, existing_is_fine=again):
                self.client.log_inputs(run_id, found)
                return

    def tag(self, ref: ModelRef, name: str, value: str) -> None:
        """Write a tag of a version; the value before it is replaced."""
        with talking(str(ref), existing_is_fine=True):  # somebody else writes it now
            self.client.set_model_version_tag(ref.name, str(ref.version), name, value)

    def log_document(self, run_id: str, name: str, text: str) -> None:
        """Store a text as an artifact of a run."""
        with talking(run_id):
            self.client.log_text(run_id, text, name)

    def document(self, run_id: str, name: str) -> str:
        """
        Read a text artifact of a run.

        :raises ModelNotFoundError: if the run has none of that name.
        :raises UnavailableError: if it has, and it could not be read.
        """
        with scratch_folder("read") as scratch:
            try:
                path = artifacts.download(self.client, run_id, name, scratch, f"run {run_id}")
            except UnavailableError as error:
                if artifacts.has(self.client, run_id, name, f"run {run_id}"):
                    raise
                msg = f"run {run_id} has no artifact {name}"
                raise ModelNotFoundError(msg) from error
            return path.read_text("utf-8")

    def register(self, name: str, run_id: str, tags: Mapping[str, str]) -> None:
        """Create the version, its tags in the same call: the commit point of training."""
        with talking(name):
            uri = self.client.get_run(run_id).info.artifact_uri
            self.client.create_model_version(
                name, f"{uri}/model", run_id=run_id, tags=dict(tags), await_creation_for=0
            )

    def settle(self, versions: Sequence[ModelVersion]) -> None:
        """
        Clean up after retries and zombies; idempotent.

        The canonical run ends FINISHED, every other run of the recipe KILLED, later versions go.

        :param versions: what :meth:`of_recipe` found; not empty.
        """
        keep = versions[0]
        for duplicate in versions[1:]:
            with talking(str(duplicate.ref), missing_is_fine=True):
                self.client.delete_model_version(duplicate.ref.name, str(duplicate.ref.version))
        experiment = self.experiment(keep.ref.name)
        with talking(keep.ref.name):
            runs = self.client.search_runs([experiment], f"tags.`{RECIPE}`='{keep.recipe}'")
        for run in runs:
            status = "FINISHED" if run.info.run_id == keep.run_id else "KILLED"
            with talking(keep.ref.name):
                if run.info.status != status:
                    self.client.set_terminated(run.info.run_id, status)
            if status == "KILLED":
                with talking(keep.ref.name, existing_is_fine=True):  # another settle says the same
                    self.client.set_tag(run.info.run_id, "mlops.superseded_by", keep.run_id)

    def remove(self, version: ModelVersion) -> None:
        """Delete a version and its run; what is gone already is fine."""
        with talking(str(version.ref), missing_is_fine=True):
            self.client.delete_model_version(version.ref.name, str(version.ref.version))
        with talking(version.run_id, missing_is_fine=True):
            self.client.delete_run(version.run_id)

    def fail(self, run_id: str) -> None:
        """Close a run that did not make a model."""
        with talking(run_id):
            self.client.set_terminated(run_id, "FAILED")

    def fetch(self, version: ModelVersion, into: Path) -> Path:
        """
        Download the files of a version, and check that they are the evaluated ones.

        What was evaluated is what the ledger says; what it does not name yet, MLflow's tag says.
        Compiled code is no part of a model: nobody knows who wrote it, and it goes.

        :param into: an empty folder.
        :raises ModelChangedError: if a file was changed, lost or added, or the ledger names others.
        :raises UnavailableError: if they could not be read whole: that says nothing about them;
            :class:`ModelLostError` if the store answers, and does not have them.
        """
        self.check_identity(version)
        files = version.tags.get(FILES, "")
        return artifacts.fetch(
            self.client,
            artifacts.Wanted(
                str(version.ref),
                version.run_id,
                version.digest,
                int(files) if files.isdecimal() else None,
            ),
            into,
        )

    def check_identity(self, version: ModelVersion) -> None:
        """
        Hold what MLflow says of a version against the ledger, whose word counts.

        :raises ModelChangedError: if the ledger names another run, or other files.
        """
        found = (version.run_id, version.digest)
        ref, ledger = version.ref, self.ledger
        known = (ledger.identity(ref.name, ref.version) if ledger else None) or found
        if known != found:
            msg = (
                f"{ref} in MLflow is run {found[0]} with files {found[1][:16]}, the ledger names "
                f"run {known[0]} with files {known[1][:16]}: it was changed, or made again"
            )
            raise ModelChangedError(msg)

    def about(self, ref: ModelRef) -> dict[str, Any]:
        """
        Return the facts that travel with a version; it is not loaded, so it need not load here.

        :raises ModelNotFoundError: if there is no such version, or it says nothing of itself.
        :raises ModelChangedError: if its files are not those that were evaluated.
        """
        with scratch_folder("read") as scratch:
            return about_of(self.fetch(self.get(ref), scratch), ref)

    @contextlib.contextmanager
    def opened(self, ref: ModelRef) -> Iterator[mlops_loader_v1.Model]:
        """
        Load a version after its files were verified; the files go when the block ends.

        :raises ModelNotFoundError: if there is no such version.
        :raises ModelChangedError: if its files are not those that were evaluated.
        :raises UserCodeError: if it does not load here, such as for want of a package.
        """
        with scratch_folder("model") as scratch:
            folder = self.fetch(self.get(ref), scratch)
            try:
                model = mlops_loader_v1.Model(folder / "data" / CONTENTS)
            except Exception as error:  # whatever another environment does to it
                refuse_exhausted(str(ref), error)
                msg = f"{ref} does not load here: {type(error).__name__}: {error}"
                raise UserCodeError(msg) from error
            yield model


def _version(found: Any) -> ModelVersion:
    tags = dict(found.tags)
    ref = ModelRef(found.name, int(found.version))
    recipe, digest = tags.get(RECIPE, ""), tags.get(DIGEST, "")
    since = datetime.fromtimestamp((found.creation_timestamp or 0) / 1000, UTC).isoformat()
    return ModelVersion(ref, str(found.run_id), recipe, digest, str(found.status), tags, since)
