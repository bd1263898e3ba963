"""Answers that are lost after the work was done, and servers that go away and come back."""

import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

import psycopg
import pytest

from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.errors import UnavailableError
from airflow_mlops.core.ledger import Entry, Ledger
from airflow_mlops.core.training.models import ModelStore
from tests.faults.deciding import patiently
from tests.faults.proxy import Proxy
from tests.faults.truth import settled, truth

pytestmark = pytest.mark.services

WRITES = {
    "registered-models/alias": "the alias was set",
    "registered-models/set-tag": "the anchor was set",
    "registered-models/delete-tag": "the writer had finished",
}
READS = {
    "model-versions/get?": "the version was read",
    "registered-models/get?": "the model was read",
}


@pytest.fixture
def wire(services):
    """A proxy in front of MLflow."""
    address = urlparse(services.urls["mlflow"])
    with Proxy((address.hostname, address.port)) as proxy:
        yield proxy


@pytest.fixture
def far(wire, ledger):
    """A registry that talks to MLflow over that wire."""
    from mlflow import MlflowClient

    return ModelRegistry(ModelStore(MlflowClient(wire.url, wire.url)), ledger)


@pytest.fixture
def line(services):
    """A proxy in front of PostgreSQL, and a ledger that talks over it."""
    socket = services.home / "pg" / ".s.PGSQL.5432"
    with Proxy(str(socket)) as proxy:
        login = "dbname=mlops user=mlops_task sslmode=disable gssencmode=disable"
        yield proxy, Ledger(f"host=127.0.0.1 port={proxy.port} {login}")


@pytest.fixture
def candidate(registry, make_version, ask):
    """A candidate; the champion is another version."""
    registry.promote(make_version(), ask("first"), epoch=None, order=1)
    return make_version()


@pytest.mark.parametrize("request_", [*WRITES, *READS], ids=[*WRITES.values(), *READS.values()])
def test_a_reply_of_mlflow_lost_once_is_not_noticed(
    wire, far, registry, candidate, ask, model, request_
):
    wire.losing(request_.encode())
    entry = far.promote(candidate, ask("k"), epoch=1, order=2)
    assert wire.lost == 1
    assert settled(registry, model).ops == ["promote", "promote"]
    assert far.promote(candidate, ask("k"), epoch=1, order=2) == entry


@pytest.mark.parametrize("request_", [*WRITES, *READS], ids=[*WRITES.values(), *READS.values()])
def test_a_reply_of_mlflow_lost_for_good_is_one_entry_after_a_retry(
    wire, far, registry, candidate, ask, model, monkeypatch, request_
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    wire.losing(request_.encode(), times=9)
    if request_.endswith("delete-tag"):  # all is done by then
        far.promote(candidate, ask("k"), epoch=1, order=2)
    else:
        said = "is on record and holds" if request_ in WRITES else "MLflow does not answer"
        with pytest.raises(UnavailableError, match=said):
            far.promote(candidate, ask("k"), epoch=1, order=2)
    assert wire.lost == 1
    recorded = truth(registry.ledger.dsn, model).ops
    assert recorded == ["promote"] * (2 if request_ in WRITES else 1)
    wire.times = 0
    entry = far.promote(candidate, ask("k"), epoch=1, order=2)
    assert settled(registry, model).ops == ["promote", "promote"]
    assert (entry.seq, entry.version) == (2, candidate.version)


@pytest.mark.parametrize("statement", ["insert into mlops.decisions", "with mine as"])
def test_a_reply_of_postgres_lost_after_the_work_is_one_entry(
    line, registry, candidate, ask, model, statement
):
    proxy, ledger = line
    proxy.losing(statement.encode())
    entry = ModelRegistry(registry.models, ledger).promote(candidate, ask("k"), epoch=1, order=2)
    assert proxy.lost == 1
    assert entry.seq == 2
    assert settled(registry, model).ops == ["promote", "promote"]


def test_replies_of_postgres_lost_for_good_are_one_entry_after_a_retry(
    line, registry, candidate, ask, model
):
    proxy, ledger = line
    far = ModelRegistry(registry.models, ledger)
    proxy.losing(b"insert into mlops.decisions", times=9)
    with pytest.raises(UnavailableError, match="the ledger's database does not answer"):
        far.promote(candidate, ask("k"), epoch=1, order=2)
    assert truth(registry.ledger.dsn, model).ops == ["promote", "promote"]  # it is on record
    proxy.times = 0
    assert far.promote(candidate, ask("k"), epoch=1, order=2).seq == 2
    assert settled(registry, model).ops == ["promote", "promote"]


def test_with_mlflow_away_nothing_is_decided_and_when_it_is_back_all_goes_on(
    wire, far, registry, candidate, ask, model, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    wire.down = True
    wire.cut()
    decisions = [
        lambda: far.promote(candidate, ask("k"), epoch=1, order=2),
        lambda: far.rollback(model, ask("b"), to=1),
        lambda: far.refuse(candidate, ask("r")),
        lambda: far.reconcile(model),
    ]
    for decide in (decisions[0], *decisions[2:]):
        with pytest.raises(UnavailableError, match="MLflow does not answer about"):
            decide()
    assert settled(registry, model).ops == ["promote"]
    wire.down = False
    decisions[0]()
    decisions[1]()
    found = settled(registry, model)
    assert (found.ops, found.champion) == (["promote", "promote", "rollback"], 1)


def test_mlflow_that_goes_away_after_the_entry_is_caught_up_with(
    wire, far, registry, candidate, ask, model, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    append = Ledger.append

    def away(self, entry):
        wire.down = True
        wire.cut()
        return append(self, entry)

    monkeypatch.setattr(Ledger, "append", away)
    with pytest.raises(
        UnavailableError, match=r"entry 2 \(promote\) .* is on record and holds, do"
    ):
        far.promote(candidate, ask("k"), epoch=1, order=2)
    assert registry.models.client.get_registered_model(model).aliases["champion"] == "1"
    wire.down = False
    assert far.reconcile(model) == ("@champion: 1 -> 2", "@previous: nothing -> 1")
    assert settled(registry, model).ops == ["promote", "promote"]


@pytest.fixture
def own_postgres():
    """A server that may be killed: the ledger of this test alone."""
    from airflow_mlops.local import Services

    home = Path(tempfile.mkdtemp(prefix="mlops-test-"))
    server = Services(home)
    try:
        server._start_postgres()
        yield server
    finally:
        server.down()
        shutil.rmtree(home)


def crash(server):
    """Stop PostgreSQL as a power cut does, and start it again."""
    pid = int((server.home / "pg" / "postmaster.pid").read_text().splitlines()[0])
    import psutil

    postmaster = psutil.Process(pid)
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(30)
    server._start_postgres()


def test_a_restart_of_postgres_in_mid_decision_loses_nothing(
    own_postgres, model_store, make_version, ask, model
):
    dsn = own_postgres.dsn("mlops", user="mlops_task")
    ledger, done = Ledger(dsn), threading.Event()
    registry = ModelRegistry(model_store, ledger)
    refs = [make_version() for _ in range(2)]

    def decide(who):
        said, number = [], 0
        while not done.is_set() or number < 10:
            key = f"{who}:{number}"
            draft = Entry(f"{model}_ledger", "keep", "", "t", "r")
            made = patiently(
                lambda key=key, draft=draft: ledger.record(draft.model, key, {}, lambda _: draft)
            )
            said.append((key, made[0].seq, made[0].hash))
            number += 1
            time.sleep(0.02)
        return said

    def promote():
        said, number = [], 0
        while not done.is_set() or number < 4:
            key, ref = ask(f"p:{number}"), refs[number % 2]
            said.append(
                patiently(
                    lambda key=key, ref=ref: registry.promote(ref, key, epoch=None, order=None)
                )
            )
            number += 1
        return said

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(decide, who) for who in range(3)]
        promoting = pool.submit(promote)
        for _ in range(2):
            time.sleep(0.7)
            crash(own_postgres)
        time.sleep(0.5)
        done.set()
        said = [one for work in working for one in work.result()]
        promoted = promoting.result()
    found = truth(dsn, f"{model}_ledger")
    by_key = {e["key"]: e["seq"] for e in found.entries}
    assert len(by_key) == len(said) > 30
    assert all(by_key[key] == seq for key, seq, _ in said)
    after = settled(registry, model)
    assert after.ops == ["promote"] * len(promoted)
    assert after.champion == promoted[-1].version
    with psycopg.connect(own_postgres.dsn("mlops")) as connection:
        names = connection.execute("select count(distinct model) from mlops.decisions").fetchone()
    assert names == (2,)
