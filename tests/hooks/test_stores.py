"""PostgreSQL and the dataset store: an Airflow connection in, a core object out."""

import psycopg
import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.hooks.datasets import DatasetHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.warehouse import WarehouseHook

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("password", ["plain", "it's", r"back\slash", "a b = c", "'", "ü€"])
def test_libpq_reads_back_every_field(connect, password):
    connect(
        "mlops_default",
        conn_type="postgres",
        host="db.example.com",
        port=5433,
        schema="mlops",
        login="o'neil",
        password=password,
    )
    assert psycopg.conninfo.conninfo_to_dict(LedgerHook().dsn()) == {
        "host": "db.example.com",
        "port": "5433",
        "dbname": "mlops",
        "user": "o'neil",
        "password": password,
        "application_name": "airflow_mlops",
    }


def test_fields_that_are_not_set_are_left_to_libpq(connect):
    connect("mlops_default", conn_type="postgresql", host="h")
    found = psycopg.conninfo.conninfo_to_dict(LedgerHook().dsn())
    assert found == {"host": "h", "application_name": "airflow_mlops"}


@pytest.mark.parametrize(
    "opened",
    [
        lambda: LedgerHook("c").get_conn(),
        lambda: LedgerHook("c").observations(),
        lambda: WarehouseHook("c").source("t", key="id", time="at"),
    ],
    ids=["ledger", "observations", "warehouse"],
)
def test_a_connection_of_another_type_is_named(connect, opened):
    connect("c", conn_type="mysql", host="h")
    with pytest.raises(ConfigurationError, match="'c' is of type 'mysql', not 'postgres'"):
        opened()


def test_what_a_hook_opens_shows_no_password(connect):
    connect("c", conn_type="postgres", host="h", login="u", password="s3cret")
    connect("d", conn_type="dataset", host="s3://b", login="key", password="s3cret")
    opened = (
        LedgerHook("c").get_conn(),
        LedgerHook("c").observations(),
        WarehouseHook("c").source("t", key="id", time="at"),
        DatasetHook("d").get_conn(),
    )
    assert "s3cret" not in repr(opened)


def test_a_source_reads_the_columns_that_are_asked_for(connect):
    connect("warehouse", conn_type="postgres", host="h")
    source = WarehouseHook().source("public.t", key="id", time="at", columns=["x", "y"])
    assert (source.table, source.key, source.time) == ("public.t", "id", "at")
    assert source.columns == ("x", "y")
    assert WarehouseHook().source("t", key="id", time="at", columns=[]).columns is None


def test_the_dataset_store_takes_keys_and_known_extras_only(connect):
    connect(
        "dataset_default",
        conn_type="dataset",
        host="s3://bucket/datasets",
        login="key",
        password="s3cret",
        extra={"AWS_REGION": "eu", "AWS_ALLOW_HTTP": True, "unknown": "x"},
    )
    store = DatasetHook().get_conn()
    assert store.root == "s3://bucket/datasets"
    assert store.options == {
        "AWS_REGION": "eu",
        "AWS_ALLOW_HTTP": "True",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
    }


def test_a_dataset_store_without_a_root_is_named(connect):
    connect("lake", conn_type="dataset")
    with pytest.raises(ConfigurationError, match="'lake' has no host"):
        DatasetHook("lake").get_conn()


def test_a_local_dataset_store_needs_no_keys(connect, tmp_path):
    connect("dataset_default", conn_type="dataset", host=str(tmp_path))
    store = DatasetHook().get_conn()
    assert (store.root, dict(store.options)) == (str(tmp_path), {})


@pytest.mark.parametrize("field", ["host", "schema", "login", "password", "extra"])
@pytest.mark.parametrize(
    ("conn_type", "opened"),
    [
        ("postgres", lambda: LedgerHook("c").get_conn()),
        ("postgres", lambda: WarehouseHook("c").source("t", key="id", time="at")),
        ("dataset", lambda: DatasetHook("c").get_conn()),
    ],
    ids=["ledger", "warehouse", "datasets"],
)
def test_a_nul_in_a_field_is_named_and_no_secret_is_shown(connect, conn_type, opened, field):
    fields = {"host": "h", "login": "u", "password": "s3cret"}
    spoilt = {"any": ["s3\0cret"]} if field == "extra" else f"s3\0cret {fields.get(field, '')}"
    connect("c", conn_type=conn_type, **{**fields, field: spoilt})
    with pytest.raises(ConfigurationError, match=f"field {field} of connection 'c'") as caught:
        opened()
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("conn_type", "host"),
    [
        ("postgres", "ann:s3cret@db"),
        ("postgres", "postgresql://ann:s3cret@db/x"),
        ("dataset", "s3://key:s3cret@bucket/datasets"),
        ("dataset", "abfss://key:s3cret@account/datasets"),
    ],
)
def test_a_host_with_a_login_is_refused_and_not_shown(connect, conn_type, host):
    connect("c", conn_type=conn_type, host=host)
    with pytest.raises(ConfigurationError, match="holds a login") as caught:
        LedgerHook("c").get_conn() if conn_type == "postgres" else DatasetHook("c").get_conn()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["abfss://container@account.dfs.core.windows.net/datasets", "s3://bucket/d"]
)
def test_the_container_of_an_azure_address_is_no_login(connect, root):
    connect("c", conn_type="dataset", host=root)
    assert DatasetHook("c").get_conn().root == root
