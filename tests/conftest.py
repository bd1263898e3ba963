"""Fixtures of every test: real servers once a session, real tables, small labelled data."""

import importlib
import shutil
import sys
import tempfile
import textwrap
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.deployment.registry import Ask, ModelRegistry
from airflow_mlops.core.ledger import Ledger
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef, Recipe
from airflow_mlops.core.training import models
from airflow_mlops.core.training.files import tree_digest
from airflow_mlops.core.training.models import ModelStore

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
TASK = "mlops_task"

FEATURES = """
    def build(rows):
        return rows[["x", "y"]]
"""

TRAIN = """
    from sklearn.linear_model import LogisticRegression

    def fit(X, y, *, seed, **params):
        return LogisticRegression(random_state=seed, **params).fit(X, y)
"""


@pytest.fixture(scope="session")
def services() -> Iterator[Any]:
    """
    PostgreSQL and MLflow, started once; nothing is left running.

    Not below pytest's own folder: a second session of pytest would close that to the server's user.
    """
    from airflow_mlops.local import Services

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        home = Path(tempfile.mkdtemp(prefix="mlops-test-"))
        found = Services(home)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # platformdirs asks for XDG_RUNTIME_DIR
                importlib.import_module("mlflow.pyfunc")  # warns of its own type hints
                found.up()
            yield found
        finally:
            found.down()
            shutil.rmtree(home)


@pytest.fixture
def model() -> str:
    """A name that no other test uses."""
    return f"m_{uuid.uuid4().hex[:10]}"


@pytest.fixture
def ledger(services) -> Ledger:
    return Ledger(services.dsn("mlops", user=TASK))


@pytest.fixture
def observations(services) -> Observations:
    return Observations(services.dsn("mlops", user=TASK))


@pytest.fixture
def model_store(services, ledger) -> ModelStore:
    from mlflow import MlflowClient

    url = services.urls["mlflow"]
    return ModelStore(MlflowClient(tracking_uri=url, registry_uri=url), ledger)


@pytest.fixture
def registry(model_store, ledger) -> ModelRegistry:
    return ModelRegistry(model_store, ledger)


@pytest.fixture
def dataset_store(tmp_path) -> DatasetStore:
    return DatasetStore(str(tmp_path / "datasets"))


@pytest.fixture
def warehouse(services) -> Callable[..., Any]:
    """Run statements in the warehouse as its owner; returns the dsn."""

    def run(*statements: str) -> str:
        dsn = services.dsn("warehouse")
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
        return dsn

    return run


@pytest.fixture(scope="session")
def password_login(services) -> Iterator[Callable[[str, str], str]]:
    """``password_login(database, password)``: the dsn of a role that has to say its password."""
    hba = services.home / "pg" / "pg_hba.conf"
    before = hba.read_text()
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute("create role careful login password 'right' in role mlops_writer")
        hba.write_text(f"local all careful scram-sha-256\n{before}")
        connection.execute("select pg_reload_conf()")
        time.sleep(0.5)
        yield (
            lambda database, password: (
                f"{services.dsn(database, user='careful')} password='{password}'"
            )
        )
        hba.write_text(before)
        connection.execute("select pg_reload_conf()")


@dataclass(frozen=True)
class Weeks:
    """
    Labelled weeks that are the same in every run: ``y > 0`` mostly says the label.

    :param rows: columns ``id``, ``at``, ``x``, ``y``, ``kind``; hourly.
    :param labels: columns ``id``, ``at``, ``up``.
    """

    rows: pa.Table
    labels: pa.Table

    def source(self, first: int = 0, last: int | None = None, **replaced: Any) -> ArrowSource:
        """Rows of the weeks ``first`` to ``last`` (exclusive), some columns replaced."""
        rows = self.part(self.rows, first, last)
        for name, values in replaced.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
        return ArrowSource(rows, "id", "at")

    def label_source(self, first: int = 0, last: int | None = None) -> ArrowSource:
        return ArrowSource(self.part(self.labels, first, last), "id", "at")

    @staticmethod
    def part(table: pa.Table, first: int, last: int | None) -> pa.Table:
        stop = table.num_rows if last is None else last * 168
        return table.slice(first * 168, stop - first * 168)


@pytest.fixture(scope="session")
def labelled_weeks() -> Callable[..., Weeks]:
    """``labelled_weeks(n, seed=0, shift=0.0)``: n weeks of 168 rows with labels."""

    def make(number: int = 8, *, seed: int = 0, shift: float = 0.0) -> Weeks:
        rng = np.random.default_rng(seed)
        n = number * 168
        at = pa.array([MONDAY + timedelta(hours=i) for i in range(n)], pa.timestamp("us", "UTC"))
        ids = pa.array(np.arange(n))
        y = rng.normal(size=n) + shift
        rows = pa.table(
            {
                "id": ids,
                "at": at,
                "x": rng.normal(size=n),
                "y": y,
                "kind": rng.choice(["a", "b", "c"], n),
            }
        )
        up = (y - shift + 0.5 * rng.normal(size=n) > 0).astype("int8")
        return Weeks(rows, pa.table({"id": ids, "at": at, "up": up}))

    return make


@pytest.fixture
def append() -> Callable[..., Any]:
    """``append(store, name, source, app_key=...)`` with the usual time, key and window."""

    def run(store: DatasetStore, name: str, source: Any, app_key: str = "k1", **asked: Any) -> Any:
        usual = {"time": "at", "key": "id", "window": WEEK}
        return store.append(name, source, app_key=app_key, **{**usual, **asked})

    return run


@pytest.fixture
def user_module(tmp_path, monkeypatch) -> Callable[[str], str]:
    """Write a module of a user, importable during this test; returns its name."""
    folder = tmp_path / "user_code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(source: str, name: str = "") -> str:
        name = name or f"user_{uuid.uuid4().hex[:8]}"
        (folder / f"{name}.py").write_text(textwrap.dedent(source), "utf-8")
        return name

    return write


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """
    ``package(version, code)``: tinypkg as a fresh process finds it; no version: it is gone.

    Of other names there is the version alone.
    """
    scaled = "def scaled(values):\n    return values * 2\n"
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr("airflow_mlops.core.data.features._check_travels", lambda *_: None)

    def install(version: str = "1.0", code: str = scaled, name: str = "tinypkg") -> None:
        for path in place.glob(f"{name.replace('-', '_')}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if version:
            info = place / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n")
            (info / "top_level.txt").write_text(f"{name}\n")
        if version and name == "tinypkg":
            (place / "tinypkg.py").write_text(code)
        importlib.invalidate_caches()
        _forget_modules()

    yield install
    _forget_modules()


def _forget_modules() -> None:
    for name in list(sys.modules):
        if name.startswith(("tinypkg", "_mlops_")):
            del sys.modules[name]


@pytest.fixture
def make_training(dataset_store, labelled_weeks, append, user_module, model) -> Callable[..., Any]:
    """``make_training(features=..., feature_params=..., seed=...)``: a recipe of eight weeks."""
    from airflow_mlops.core.data.contract import infer_contract, logical_types
    from airflow_mlops.core.data.features import archive, feature_version
    from airflow_mlops.core.data.selection import Selection
    from airflow_mlops.core.refs import DatasetRef
    from airflow_mlops.core.training.fit import Training
    from airflow_mlops.core.training.provenance import environment

    def make(
        features: str = FEATURES,
        train: str = TRAIN,
        weeks: Any = None,
        feature_params: Any = None,
        **recipe: Any,
    ) -> Training:
        weeks = weeks or labelled_weeks()
        data = append(dataset_store, model, weeks.source())
        labels = append(dataset_store, f"{model}.labels", weeks.label_source())
        until = (MONDAY + 7 * WEEK).isoformat()
        chosen = Selection(data.ref, labels.ref, "up", MONDAY.isoformat(), until)
        build, fit = f"{user_module(features)}:build", f"{user_module(train)}:fit"
        built, trained, found = archive(build, feature_params), archive(fit), environment()
        table = dataset_store.open(DatasetRef.parse(data.ref))
        version = feature_version(built, logical_types(table.schema))
        facts = {
            "model": model,
            "data": data.ref,
            "data_digest": data.digest,
            "labels": labels.ref,
            "labels_digest": labels.digest,
            "label": "up",
            "since": chosen.since,
            "until": chosen.until,
            "features": f"{model}.features@{version}",
            "train": "user:fit",
            "train_code": trained.digest,
            "params": {},
            "seed": 1,
            "code": "unversioned",
            "environment": found.id,
        }
        profile = table.between(MONDAY, MONDAY + 7 * WEEK).profile()
        contract = infer_contract(table.schema, profile, exclude=("id", "at"))
        return Training(
            Recipe(**{**facts, **recipe}),
            chosen.read(dataset_store),
            built,
            trained,
            found,
            {"contract": contract.to_dict()},
        )

    return make


@pytest.fixture
def trained_champions(model_store, registry, make_training, ask) -> Callable[..., list[ModelRef]]:
    """``trained_champions(2)``: so many trained versions, each of them promoted."""
    from airflow_mlops.core.metrics import loss_function
    from airflow_mlops.core.training.fit import train_model

    def make(number: int = 2, **training: Any) -> list[ModelRef]:
        refs = []
        for seed in range(number):
            made = make_training(**{"params": {"C": 1.0 + seed}, **training})
            loss = ("brier", loss_function("brier"))
            refs.append(ModelRef.parse(train_model(model_store, made, loss=loss, tags={}).model))
            registry.promote(refs[-1], ask(f"promote {refs[-1]}"), epoch=None, order=None)
        return refs

    return make


@pytest.fixture
def make_version(model_store, model, tmp_path) -> Callable[..., ModelRef]:
    """Register a version whose model folder holds one small file; made by the real store."""

    def make(content: str = "weights", name: str = model) -> ModelRef:
        number = uuid.uuid4().hex
        folder = tmp_path / number
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "weights.txt").write_text(content + number)
        (folder / "recipe.json").write_text("{}")
        recipe = Recipe(
            name, "d@1", "", "l@1", "", "y", "", "", "f@fs-0", "m:f", "", {"n": number}, 0, "", ""
        )
        run = model_store.start(name, recipe, {})
        model_store.log(run, {"n": number}, {"loss": 0.1}, folder)
        digest = tree_digest(folder / "model")
        facts = {models.RECIPE: recipe.id, models.DIGEST: digest, models.FILES: "1"}
        model_store.register(name, run, facts)
        return model_store.of_recipe(name, recipe.id)[0].ref

    return make


@pytest.fixture
def ask() -> Callable[..., Ask]:
    """``ask(key)``: a request under an idempotency key."""

    def make(key: str, reason: str = "better", **evidence: Any) -> Ask:
        return Ask(key, "tests", reason, evidence)

    return make


@pytest.fixture
def electricity() -> Path:
    """The real data of the use case."""
    return Path(__file__).parents[1] / "include" / "electricity" / "electricity.parquet"
