"""MLflow: where requests go, what they carry, and where links go."""

import os
import warnings
from base64 import b64encode

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow warns of its own type hints
    import mlflow.pyfunc  # noqa: F401

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook

pytestmark = pytest.mark.airflow

PASSWORD = "pa:ss/wörd"
BASIC = "Basic " + b64encode(f"ann:{PASSWORD}".encode()).decode()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Whatever the hook sets is put back."""
    for name in (
        "MLFLOW_TRACKING_AUTH",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    ):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def ask(conn_id="mlflow_default"):
    MlflowHook(conn_id).get_conn().search_registered_models()


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ({"login": "ann", "password": PASSWORD}, BASIC),
        ({"password": "t0ken"}, "Bearer t0ken"),
        ({"login": "ann"}, None),
        ({}, None),
    ],
    ids=["basic", "bearer", "no password", "nothing"],
)
def test_the_login_of_the_connection_is_sent(connect, mlflow_like, login, sent):
    server = mlflow_like()
    connect("mlflow_default", conn_type="mlflow", host="127.0.0.1", port=server.port, **login)
    ask()
    assert {authorization for _, authorization in server.heard} == {sent}


def test_a_secret_reaches_its_own_server_only_and_never_the_environment(connect, mlflow_like):
    mine, other = mlflow_like(), mlflow_like()
    host = {"conn_type": "mlflow", "host": "127.0.0.1"}
    connect("mine", port=mine.port, login="ann", password=PASSWORD, **host)
    connect("other", port=other.port, **host)
    before = dict(os.environ)
    for conn_id in ("mine", "other", "mine"):
        ask(conn_id)
    assert [a for _, a in mine.heard] == [BASIC] * 2
    assert [a for _, a in other.heard] == [None]
    added = {k: v for k, v in os.environ.items() if before.get(k) != v}
    assert added.pop("MLFLOW_TRACKING_AUTH") == "airflow"
    assert not [v for v in added.values() if v in (PASSWORD, "ann", BASIC)]
    assert PASSWORD not in str(added)


def test_a_changed_password_is_used_at_once(connect, mlflow_like):
    server = mlflow_like()
    for password in ("old", "new"):
        connect(
            "mlflow_default",
            conn_type="mlflow",
            host=f"http://127.0.0.1:{server.port}/",
            password=password,
        )
        ask()
    assert [a for _, a in server.heard] == ["Bearer old", "Bearer new"]


def test_a_password_taken_out_of_the_connection_is_not_sent_any_more(connect, mlflow_like):
    server = mlflow_like()
    host = {"conn_type": "mlflow", "host": "127.0.0.1", "port": server.port}
    connect("mlflow_default", password="old", **host)
    ask()
    connect("mlflow_default", **host)
    ask()
    assert [a for _, a in server.heard] == ["Bearer old", None]


@pytest.mark.parametrize(
    ("fields", "uri"),
    [
        ({"host": "h"}, "http://h"),
        ({"host": "h", "port": 5000}, "http://h:5000"),
        ({"host": "h", "schema": "https"}, "https://h"),
        ({"host": "https://h/mlflow/"}, "https://h/mlflow"),
    ],
)
def test_the_address_is_put_together_from_the_fields(connect, fields, uri):
    connect("mlflow_default", conn_type="mlflow", **fields)
    client = MlflowHook().get_conn()
    assert client.tracking_uri == uri
    assert client._registry_uri == uri


def test_a_connection_without_a_host_is_named(connect):
    connect("my_mlflow", conn_type="mlflow")
    with pytest.raises(ConfigurationError, match=r"'my_mlflow' has no host"):
        MlflowHook("my_mlflow").get_conn()


def test_links_go_where_a_browser_reaches_mlflow(connect, mlflow_like):
    server = mlflow_like()
    host = {"conn_type": "mlflow", "host": "127.0.0.1", "port": server.port}
    ref, hook = ModelRef("churn", 3), MlflowHook()
    connect("mlflow_default", **host)
    base = f"http://127.0.0.1:{server.port}"
    assert hook.model_url(ref) == f"{base}/#/models/churn/versions/3"
    assert hook.run_url("r1") == f"{base}/#/experiments/7/runs/r1"
    connect("mlflow_default", extra={"public_url": "https://mlflow.example.com/"}, **host)
    public = "https://mlflow.example.com"
    assert hook.model_url(ref) == f"{public}/#/models/churn/versions/3"
    report = hook.run_url("r1", artifact="evaluation.json")
    assert report == f"{public}/#/experiments/7/runs/r1/artifacts/evaluation.json"
    assert server.heard, (
        "the experiment's number comes from the server, not from the public address"
    )


def test_what_an_administrator_set_for_mlflow_is_kept(connect, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    connect("mlflow_default", conn_type="mlflow", host="h")
    MlflowHook().get_conn()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "ann:s3cret@h"},
        {"host": "ann:s3cret@h", "port": 5000},
        {"host": "s3cret@h"},
        {"host": "http://ann:s3cret@h"},
        {"host": "https://ann:s3cret/with?slash@h/mlflow"},
        {"host": "h", "schema": "https://ann:s3cret@g"},
        {"host": "h", "extra": {"public_url": "https://ann:s3cret@h"}},
        {"host": "h", "extra": {"public_url": "ann:s3cret@h"}},
    ],
)
def test_an_address_with_a_login_is_refused_before_a_link_shows_it(connect, fields):
    connect("mlflow_default", conn_type="mlflow", **fields)
    with pytest.raises(ConfigurationError, match="holds a login") as caught:
        MlflowHook().model_url(ModelRef("churn", 3))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "h", "password": "s3cr\0et"},
        {"host": "h", "login": "ann", "password": "s3cr\0et"},
        {"host": "h\0", "password": "s3cret"},
        {"host": "h", "password": "s3cr\r\net"},
        {"host": "h", "password": "s3crét"},
        {"host": "h", "extra": {"public_url": "http://h", "note": "s3cret\0"}},
    ],
)
def test_what_no_request_can_carry_is_refused_and_not_shown(connect, fields):
    connect("mlflow_default", conn_type="mlflow", **fields)
    with pytest.raises(ConfigurationError, match="'mlflow_default'") as caught:
        MlflowHook().get_conn()
    assert "s3c" not in str(caught.value)
