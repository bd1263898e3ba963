"""Model versions: what was evaluated is what is loaded."""

import importlib.util
import marshal
import shutil
import struct
import sys
from pathlib import Path

import pytest

from airflow_mlops.core.errors import (
    ConfigurationError,
    ModelChangedError,
    ModelLostError,
    ModelNotFoundError,
    UnavailableError,
    UserCodeError,
)
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import FeatureRef, ModelRef
from airflow_mlops.core.training.answers import ping
from airflow_mlops.core.training.files import drop_bytecode, tree_digest
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.models import DIGEST, FILES, RECIPE, ModelStore


def test_the_digest_of_a_tree_depends_on_names_and_bytes_only(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "x").write_bytes(b"1")
        (tmp_path / folder / "y").write_bytes(b"2")
    one = tree_digest(tmp_path / "a")
    assert tree_digest(tmp_path / "b") == one
    (tmp_path / "b" / "__pycache__").mkdir()
    (tmp_path / "b" / "__pycache__" / "z.pyc").write_bytes(b"3")
    assert tree_digest(tmp_path / "b") != one
    assert drop_bytecode(tmp_path / "b") == ("__pycache__/z.pyc",)
    assert tree_digest(tmp_path / "b") == one
    (tmp_path / "b" / "y").write_bytes(b"3")
    assert tree_digest(tmp_path / "b") != one
    (tmp_path / "b" / "y").write_bytes(b"2")
    (tmp_path / "b" / "y").rename(tmp_path / "b" / "z")
    assert tree_digest(tmp_path / "b") != one


def test_a_server_that_is_down_is_unavailable(monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient(tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    store = ModelStore(client)
    for question in (
        lambda: ping(client),
        lambda: store.get(ModelRef("m", 1)),
        lambda: store.of_recipe("m", "r"),
        lambda: store.experiment("m"),
        lambda: store.fail("r"),
    ):
        with pytest.raises(UnavailableError, match="MLflow does not answer about"):
            question()


services = pytest.mark.services


@services
def test_a_server_that_is_up_says_its_address(services, model_store):
    assert ping(model_store.client) == services.urls["mlflow"]


@services
@pytest.mark.parametrize("number", [1, 999])
def test_an_unknown_model_or_version_is_named(model_store, make_version, model, number):
    if number == 999:
        make_version()
    with pytest.raises(ModelNotFoundError, match=f"MLflow knows no {model}@{number}"):
        model_store.get(ModelRef(model, number))


@services
@pytest.mark.parametrize("name", ["a'b", 'a"b', "x' or name='y", "a/b", "a:b"])
def test_a_hostile_model_name_is_refused_or_finds_nothing(model_store, name):
    try:
        assert model_store.of_recipe(name, "r") == ()
    except ConfigurationError as error:
        assert "MLflow refuses" in str(error)  # noqa: PT017
    with pytest.raises((ConfigurationError, ModelNotFoundError)):
        model_store.get(ModelRef(name, 1))


def file_of(services, store, ref):
    version = store.get(ref)
    (found,) = Path(services.home, "artifacts").rglob(
        f"{version.run_id}/artifacts/model/weights.txt"
    )
    return found


@services
def test_unchanged_files_are_fetched(model_store, make_version, tmp_path):
    ref = make_version("hello")
    folder = model_store.fetch(model_store.get(ref), tmp_path)
    assert (folder / "weights.txt").read_text().startswith("hello")


@services
@pytest.mark.parametrize("how", ["changed", "cut", "added", "file lost", "folder lost"])
def test_changed_or_lost_files_are_never_loaded(services, model_store, make_version, tmp_path, how):
    ref = make_version()
    file = file_of(services, model_store, ref)
    if how == "changed":
        file.write_text("PWNED")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "added":
        file.with_name("extra.py").write_text("import os")
    elif how == "file lost":
        file.unlink()
    else:
        shutil.rmtree(file.parent)
    family = ModelLostError if "lost" in how else ModelChangedError
    with pytest.raises(family, match=f"files of {ref} are"):
        model_store.fetch(model_store.get(ref), tmp_path)
    with pytest.raises(family), model_store.opened(ref):
        pytest.fail("it was opened")


@services
def test_files_that_are_gone_are_no_change_that_somebody_made(model_store, make_version, tmp_path):
    ref = make_version()
    run = model_store.get(ref).run_id
    tags = {RECIPE: "r", DIGEST: model_store.get(ref).digest, FILES: "3"}
    model_store.register(ref.name, run, tags)
    twin = ModelRef(ref.name, ref.version + 1)
    model_store.client.log_text(run, "other", "model/weights.txt")
    with pytest.raises(ModelLostError, match=f"files of {twin} are gone from run {run}: bring"):
        model_store.fetch(model_store.get(twin), tmp_path)
    assert issubclass(ModelLostError, UnavailableError)


@services
def test_compiled_code_beside_a_model_is_never_run(
    services, model_store, trained_champions, tmp_path
):
    (ref,) = trained_champions(1)
    run, mark = model_store.get(ref).run_id, tmp_path / "PWNED"
    with model_store.opened(ref) as model:
        source = model.folder / "features" / "__init__.py"
        stat = source.stat()
        name = importlib.util.cache_from_source("__init__.py")
        evil = compile(f"open({str(mark)!r}, 'w').close()", "x", "exec")
        head = struct.pack("<4sIII", importlib.util.MAGIC_NUMBER, 1, 0, 0)  # unchecked, by hash
        assert stat.st_size > 0
    made = tmp_path / name
    made.parent.mkdir()
    made.write_bytes(head + marshal.dumps(evil))
    where = "model/data/mlops/features/__pycache__"
    model_store.client.log_artifact(run, str(made), where)
    for module in [one for one in sys.modules if one.startswith("_mlops_")]:
        del sys.modules[module]
    with model_store.opened(ref) as model:
        assert callable(model.build)
    assert not mark.exists()


@services
@pytest.mark.parametrize("opens", ["about", "opened", "features", "fetch"])
def test_files_and_tag_that_were_swapped_together_are_not_opened(
    services, model_store, trained_champions, tmp_path, opens
):
    (ref,) = trained_champions(1)
    version = model_store.get(ref)
    model_store.client.log_text(version.run_id, "evil\n", "model/requirements.txt")
    place = next(services.home.rglob(f"{version.run_id}/artifacts/model"))
    model_store.tag(ref, DIGEST, tree_digest(place))
    ways = {
        "about": lambda: model_store.about(ref),
        "opened": lambda: model_store.opened(ref).__enter__(),
        "features": lambda: model_store.features(FeatureRef.parse(version.tags["mlops.features"])),
        "fetch": lambda: model_store.fetch(model_store.get(ref), tmp_path),
    }
    with pytest.raises(ModelChangedError, match=rf"{ref} in MLflow is run .* the ledger names run"):
        ways[opens]()


@services
def test_a_version_made_elsewhere_has_no_facts(model_store, model):
    model_store.client.create_registered_model(model)
    model_store.client.create_model_version(model, "s3://nowhere/x", await_creation_for=0)
    version = model_store.get(ModelRef(model, 1))
    with pytest.raises(
        ModelNotFoundError, match=f"{model}@1 has no tag mlops.data: it was not tra"
    ):
        version.fact("mlops.data")


@services
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_metric_that_is_no_number_is_refused(model_store, make_version, value):
    run = model_store.get(make_version()).run_id
    with pytest.raises(UserCodeError, match=f"metric auc is {value}"):
        model_store.log_metrics(run, {"fine": 1.0, "auc": value})
    assert "fine" not in model_store.client.get_run(run).data.metrics


@services
def test_a_parameter_that_mlflow_would_cut_is_refused(model_store, make_version, tmp_path):
    run = model_store.get(make_version()).run_id
    with pytest.raises(ConfigurationError, match="parameter p has 6001 letters; MLflow keeps 6000"):
        model_store.log(run, {"p": "x" * 6001}, {}, tmp_path)


@services
def test_a_package_that_a_model_needs_and_is_not_here_is_named(
    model_store, make_training, tmp_path, monkeypatch
):
    """The package was there when the model was trained; it is gone where it is loaded."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "package_of_yesterday.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "gone"))
    monkeypatch.setattr("airflow_mlops.core.data.features._check_travels", lambda *_: None)
    training = make_training(
        "import package_of_yesterday\n\ndef build(rows):\n    return rows[['y']]"
    )
    done = train_model(model_store, training, loss=("brier", loss_function("brier")), tags={})
    shutil.rmtree(tmp_path / "gone")
    for name in [n for n in sys.modules if n.startswith(("_mlops_build", "package_of_yes"))]:
        del sys.modules[name]
    ref = ModelRef.parse(done.model)
    with (
        pytest.raises(
            UserCodeError, match=f"{ref} does not load.*'package_of_yesterday'.*pip inst"
        ),
        model_store.opened(ref),
    ):
        pytest.fail("it was opened")


@services
def test_settling_is_idempotent_and_keeps_the_first_version(model_store, model, make_version):
    """Versions and runs of zombies go; a second settlement finds nothing to do."""
    ref = make_version()
    first = model_store.get(ref)
    for _ in range(2):  # zombies of the same recipe
        zombie = model_store.client.create_run(
            model_store.experiment(model), tags={RECIPE: first.recipe}
        ).info.run_id
        tags = {RECIPE: first.recipe, DIGEST: first.digest}
        model_store.register(model, zombie, tags)
    assert len(model_store.of_recipe(model, first.recipe)) == 3
    for _ in range(2):
        model_store.settle(model_store.of_recipe(model, first.recipe))
        assert [v.ref for v in model_store.of_recipe(model, first.recipe)] == [ref]
    found = model_store.client.search_runs([model_store.experiment(model)])
    assert sorted(r.info.status for r in found) == ["FINISHED", "KILLED", "KILLED"]


@services
def test_a_deleted_experiment_says_what_to_do(model_store, model):
    model_store.client.delete_experiment(model_store.experiment(model))
    with pytest.raises(
        ConfigurationError, match=f"experiment {model!r} is deleted; restore it, or"
    ):
        model_store.experiment(model)
