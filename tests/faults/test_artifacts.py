"""An artifact store that is away is an outage: nobody is blamed, nothing is on record."""

import errno

import pytest

from airflow_mlops.core.data.selection import Selection
from airflow_mlops.core.deployment.lineage import lineage
from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.deployment.rollback import plan_rollback
from airflow_mlops.core.deployment.scoring import Batch, score
from airflow_mlops.core.deployment.splitting import score_split
from airflow_mlops.core.errors import ConfigurationError, ModelChangedError, UnavailableError
from airflow_mlops.core.evaluation.flips import Answered
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.refs import DatasetRef, FeatureRef
from airflow_mlops.core.rollout.assignment import Split
from airflow_mlops.core.rollout.stages import Begun, begin
from airflow_mlops.core.training.models import ModelStore
from airflow_mlops.core.training.reproduce import reproduce
from airflow_mlops.policy import Canary
from tests.conftest import MONDAY, WEEK
from tests.faults.store import FAULTS, PLACES, FaultyStore

pytestmark = pytest.mark.services

REFUSED = ("401", "403")
"""A login that is refused will be refused again: that is no outage."""


@pytest.fixture
def faulty(services, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with FaultyStore(services.urls["mlflow"]) as found:
        yield found


@pytest.fixture
def tired(faulty, ledger):
    """The registry as who goes through the faulty store sees it."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=faulty.url, registry_uri=faulty.url)
    return ModelRegistry(ModelStore(client, ledger), ledger)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_candidate_is_not_refused_for_what_the_store_does(
    faulty, tired, registry, make_version, ask, model, place, fault
):
    registry.promote(make_version(), ask("first"), epoch=None, order=0)
    ref = make_version()
    registry.propose(ref, ask("propose"), epoch=1, order=1)
    before = registry.ledger.state(model)
    faulty.failing(place, fault)
    family = (ConfigurationError, UnavailableError) if fault in REFUSED else UnavailableError
    with pytest.raises(family, match=str(ref)):
        tired.promote(ref, ask("k"), epoch=None, order=1, waiting=True)
    assert faulty.met > 0
    assert registry.ledger.state(model) == before
    faulty.failing("", "")
    assert tired.promote(ref, ask("k"), epoch=None, order=1, waiting=True).op == "promote"


@pytest.mark.parametrize("fault", ["cut", "short", "empty", "page", "503"])
def test_a_file_that_comes_whole_the_second_time_is_fine(
    faulty, tired, make_version, tmp_path, fault
):
    ref = make_version()
    faulty.failing("file", fault, times=1)
    if fault in ("503", "cut"):  # the client says so itself: the task is tried again
        with pytest.raises(UnavailableError):
            tired.models.fetch(tired.models.get(ref), tmp_path)
        return
    assert tired.models.fetch(tired.models.get(ref), tmp_path).is_dir()
    assert faulty.met == 1


@pytest.fixture
def places(tired, dataset_store, observations, trained_champions, make_training, ask):
    """Every place that opens a model, by name."""
    one, two = trained_champions(2)
    store, registry = tired.models, tired
    recipe = store.about(two)["recipe"]
    held = Selection(
        recipe["data"], recipe["labels"], "up", recipe["until"], (MONDAY + 8 * WEEK).isoformat()
    ).read(dataset_store)
    table = dataset_store.open(DatasetRef.parse(recipe["data"]))
    rows = table.between(MONDAY + 7 * WEEK).to_arrow()
    batch = Batch(rows, str(table.ref), "at", "id", "run")
    evaluated = {"loss": "brier", "epoch": 0, "seed": 0}
    return {
        "about": lambda: store.about(two),
        "features": lambda: store.features(FeatureRef.parse(recipe["features"])),
        "evaluate": lambda: evaluate(store, two, one, held, **evaluated),
        "flips": lambda: Answered.ask(store, two, one, held),
        "score": lambda: score(store, observations, two, batch),
        "lineage": lambda: lineage(registry, dataset_store, observations, two),
        "reproduce": lambda: reproduce(store, dataset_store, two),
        "rollback": lambda: registry.rollback(two.name, ask("back")),
        "plan": lambda: plan_rollback(registry, dataset_store, two.name),
    }


@pytest.mark.parametrize("place", PLACES)
def test_every_place_that_opens_a_model_calls_it_an_outage(faulty, places, registry, model, place):
    before = registry.ledger.state(model)
    for fault in ("404", "503", "short"):
        for name, opens in places.items():
            faulty.failing(place, fault)
            with pytest.raises(UnavailableError):
                opens()
            assert faulty.met > 0, (name, fault)
    assert registry.ledger.state(model) == before


@pytest.mark.parametrize("fault", ["404", "503", "empty", "short"])
def test_a_canary_marks_no_row_as_the_candidate_s_failure(
    faulty, tired, registry, observations, dataset_store, trained_champions, make_training, fault
):
    from airflow_mlops.core.metrics import loss_function
    from airflow_mlops.core.training.fit import train_model

    (champion,) = trained_champions(1)
    made = make_training(params={"C": 9.0})
    brier = ("brier", loss_function("brier"))
    candidate = train_model(registry.models, made, loss=brier, tags={})
    number = int(candidate.model.rpartition("@")[2])
    stage = Canary(percent=50, hold="1d")
    begun = Begun(
        champion.name, stage, champion.version, number, MONDAY.isoformat(), "brier", 0.1, 0.0
    )
    begin(registry.ledger, begun, key="stage", by="t")
    table = dataset_store.open(DatasetRef.parse(made.recipe.data))
    rows = table.between(MONDAY + 7 * WEEK).to_arrow()
    batch = Batch(rows, str(table.ref), "at", "id", "run")
    split = Split.of(registry.ledger.standing(champion.name))
    faulty.failing("file", fault)
    with pytest.raises(UnavailableError):
        score_split(tired.models, observations, split, batch)
    with observations.connected() as connection:
        count = "select count(*) from mlops.exposures where model = %s"
        assert connection.execute(count, (champion.name,)).fetchone() == (0,)
    faulty.failing("", "")
    done = score_split(tired.models, observations, split, batch)
    assert (done.failed, done.candidate.rows > 0) == ("", True)


def test_a_full_temporary_folder_is_an_outage(model_store, make_version, tmp_path, monkeypatch):
    ref = make_version()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(model_store.client), "download_artifacts", full)
    with pytest.raises(UnavailableError, match="No space left on device"):
        model_store.fetch(model_store.get(ref), tmp_path)


def test_a_model_that_did_not_load_for_want_of_disk_is_not_to_blame(
    model_store, trained_champions, monkeypatch
):
    (ref,) = trained_champions(1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("airflow_mlops.core.training.mlops_loader_v1.Model", full)
    with pytest.raises(UnavailableError, match="this machine ran out"), model_store.opened(ref):
        pytest.fail("it was opened")


def test_only_bytes_that_were_read_whole_and_differ_are_a_change(
    services, tired, registry, make_version, ask, model
):
    ref = make_version()
    run = registry.models.get(ref).run_id
    registry.models.client.log_text(run, "PWNED", "model/weights.txt")
    with pytest.raises(ModelChangedError, match=f"files of {ref} are not those that were evalu"):
        tired.promote(ref, ask("k"), epoch=None, order=1)
