"""Where a model version comes from and what became of it: one answer from all stores."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_mlops.core.data.commits import Commit
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.errors import DatasetNotFoundError, ModelNotFoundError
from airflow_mlops.core.ledger import Entry, State
from airflow_mlops.core.lines import written
from airflow_mlops.core.monitoring.observations import Observations, Served
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.models import EVALUATION
from airflow_mlops.core.training.saving import about_of


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    Everything on record about one version.

    :param about: facts that travel with the model: recipe, contract, how the estimator is stored.
    :param data: the commit of the rows; ``None`` if the dataset is gone.
    :param labels: the commit of the labels; ``None`` if the dataset is gone.
    :param run_id: MLflow run that made it.
    :param tags: tags of that run: Dag, run, try, author, host.
    :param evaluation: how it was judged; empty if it never was.
    :param decisions: entries of the ledger about it, and the decision that led to it, oldest first.
    :param served: the predictions it made.
    :param champion: whether it is champion now.
    """

    model: str
    digest: str
    about: Mapping[str, Any]
    data: Commit | None
    labels: Commit | None
    run_id: str
    tags: Mapping[str, str]
    evaluation: Mapping[str, Any]
    decisions: tuple[Entry, ...]
    served: Served
    champion: bool

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Everything the model is made of."""
        found: Mapping[str, Any] = self.about["recipe"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.model,
            "digest": self.digest,
            "champion": self.champion,
            "recipe": dict(self.recipe),
            "estimator": dict(self.about["estimator"]),
            "data": self.data and self.data.to_dict() | {"windows": len(self.data.windows)},
            "labels": self.labels and self.labels.to_dict() | {"windows": len(self.labels.windows)},
            "run": {"id": self.run_id, **self.tags},
            "evaluation": dict(self.evaluation),
            "decisions": [entry.to_dict() for entry in self.decisions],
            "served": asdict(self.served),
        }

    def __str__(self) -> str:
        recipe, tags = self.recipe, self.tags
        asked = json.dumps(dict(recipe["params"]), sort_keys=True)
        lines = [
            f"{self.model}{' (champion)' if self.champion else ''}  files {self.digest[:16]}",
            *_source("rows", recipe["data"], self.data),
            *_source("labels", recipe["labels"], self.labels),
            f"  span         {recipe['since']} to {recipe['until']}",
            f"  features     {recipe['features']}",
            f"  train        {recipe['train']} ({recipe['train_code']}) {asked}, "
            f"seed {recipe['seed']}",
            f"  code         {recipe['code']}",
            f"  environment  {recipe['environment']}",
            f"  run          {self.run_id} of {tags.get('airflow.run', 'nobody knows which run')}"
            f", by {tags.get('mlops.author', 'nobody knows whom')}",
        ]
        lines += [
            f"  {entry.op:<11}  {entry.at[:19]} entry {entry.seq}, by {entry.by}: {entry.reason}"
            for entry in self.decisions
        ]
        return written([*lines, f"  predictions  {self.served}"])


def lineage(
    registry: ModelRegistry, datasets: DatasetStore, observations: Observations, ref: ModelRef
) -> Lineage:
    """
    Collect what MLflow, the datasets, the ledger and the predictions say about a version.

    :raises ModelNotFoundError: if there is no such version, or it was not trained by this package.
    :raises ModelChangedError: if its files are not those that were evaluated.
    """
    store = registry.models
    version, state = store.get(ref), registry.ledger.state(ref.name)
    with scratch_folder("lineage") as scratch:
        about = about_of(store.fetch(version, scratch), ref)
    recipe = about["recipe"]
    try:
        evaluation = json.loads(store.document(version.run_id, EVALUATION))
    except ModelNotFoundError:
        evaluation = {}
    return Lineage(
        str(ref),
        version.digest,
        about,
        _commit(datasets, recipe["data"]),
        _commit(datasets, recipe["labels"]),
        version.run_id,
        store.run_tags(version.run_id),
        evaluation,
        _decisions(state, ref.version),
        observations.served_by(ref),
        state.champion == ref.version,
    )


def _commit(datasets: DatasetStore, text: str) -> Commit | None:
    try:
        return datasets.open(DatasetRef.parse(text)).sidecar.commit
    except DatasetNotFoundError:
        return None


def _decisions(state: State, version: int) -> tuple[Entry, ...]:
    """Return the entries about a version, and the decision to train it."""
    others = ("keep", "wait", "handover")
    about = [e for e in state.entries if e.version == version and e.op not in others]
    made = [e for e in about if e.op not in ("retrain", "ask")]  # those are about the next one
    led = {int(e.evidence["decision"]) for e in made if e.evidence.get("decision")}
    numbers = led | {e.seq for e in made}
    return tuple(e for e in state.entries if e.seq in numbers)


def _source(what: str, ref: str, commit: Commit | None) -> list[str]:
    if commit is None:
        return [f"  {what:<11}  {ref}: gone from the dataset store"]
    return [
        f"  {what:<11}  {ref} {commit.digest}, {commit.rows:,} rows from {commit.origin or '?'}",
        *([f"  {'':<11}  query {commit.query_hash}: {commit.query}"] if commit.query else []),
        f"  {'':<11}  by {commit.author or '?'} at {commit.created_at} in {commit.run or '?'}",
    ]


def write_cards(
    registry: ModelRegistry, datasets: DatasetStore, observations: Observations, ref: ModelRef
) -> None:
    """Put the cards of model and data beside the model, for everybody to read."""
    from airflow_mlops.core.deployment.cards import data_card, model_card, to_html

    found = lineage(registry, datasets, observations, ref)
    cards = {"card": model_card(found)}
    if found.data is not None:
        cards["data-card"] = data_card(datasets.open(DatasetRef.parse(found.recipe["data"])))
    for name, text in cards.items():
        registry.models.log_document(found.run_id, f"{name}.md", text)
        registry.models.log_document(found.run_id, f"{name}.html", to_html(text))
