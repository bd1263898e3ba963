"""Datasets in an object store: a real S3 server, and one that is away."""

import socket
import subprocess
import sys
import time
import uuid
from datetime import timedelta

import boto3
import pytest

from airflow_mlops.core.data import retention
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.differences import compare_datasets
from airflow_mlops.core.data.forgetting import forget
from airflow_mlops.core.data.retention import remove
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

LOGIN = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "a secret"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def options(port):
    url = f"http://127.0.0.1:{port}"
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_CONDITIONAL_PUT": "etag",
        **LOGIN,
    }


@pytest.fixture(scope="module")
def s3():
    """Port of an S3 server; a process of its own: delta-rs holds the interpreter while it waits."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def store(s3):
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{s3}",
        region_name="us-east-1",
        aws_access_key_id=LOGIN["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=LOGIN["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    return DatasetStore(f"s3://{bucket}/datasets", options(s3))


@pytest.fixture
def two(store, labelled_weeks, append):
    weeks = labelled_weeks()
    append(store, "d", weeks.source(0, 3))
    values = [v + 1 for v in weeks.rows["x"].to_pylist()]
    append(store, "d", weeks.source(0, 5, x=values[: 5 * 168]), "k2")
    return store


def opened(store, version):
    return store.open(DatasetRef("d", version))


def test_versions_are_appended_once_and_read_back(two, labelled_weeks, append):
    weeks = labelled_weeks()
    again = append(two, "d", weeks.source(), "k2")
    assert (again.ref, again.rows) == ("d@2", 5 * 168)
    assert opened(two, 1).between().to_arrow().equals(weeks.rows.slice(0, 3 * 168))
    for version in (1, 2):
        opened(two, version).verify()
    assert opened(two, 2).between().profile().rows == 5 * 168


def test_versions_are_compared_tagged_and_restored(two):
    found = compare_datasets(opened(two, 1), opened(two, 2))
    assert (found.added, found.changed) == (336, 168)
    two.tag(DatasetRef("d", 1), "paper")
    commit = two.restore(two.resolve("d@paper"), app_key="r")
    assert commit.ref == "d@3"
    assert two.restore(two.resolve("d@paper"), app_key="r") == commit
    opened(two, 3).verify()
    assert opened(two, 3).digest == opened(two, 1).digest


def test_rows_are_forgotten_and_removed(two, monkeypatch):
    assert forget(two, "d", ["400"]).rows == 2
    for version in (1, 2):
        opened(two, version).verify()
        assert 400 not in opened(two, version).between().to_arrow()["id"].to_pylist()
    monkeypatch.setattr(retention, "SHORTEST", timedelta(0))
    assert remove(two, "d", keep=[], older=timedelta(0), why="old").versions == (1,)
    with pytest.raises(DatasetNotFoundError, match="d@1 are gone"):
        opened(two, 1).between().to_arrow()
    opened(two, 2).verify()


def test_a_server_that_is_away_is_given_up_soon_and_without_the_secret(labelled_weeks, append):
    store = DatasetStore("s3://lake/datasets", options(free_port()))
    begin = time.monotonic()
    for ask in (
        lambda: store.latest("d"),
        lambda: opened(store, 1),
        lambda: append(store, "d", labelled_weeks().source()),
        lambda: store.restore(DatasetRef("d", 1), app_key="r"),
        lambda: store.tags("d"),
    ):
        with pytest.raises(UnavailableError, match="s3://lake/datasets does not answer") as error:
            ask()
        assert "a secret" not in str(error.value)
        assert "\x1b" not in str(error.value)
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    ("root", "more", "says"),
    [
        ("s3://nowhere/datasets", {}, "NoSuchBucket"),
        ("s3://nowhere/datasets", {"AWS_CONDITIONAL_PUT": "perhaps"}, "perhaps"),
    ],
)
def test_what_cannot_work_is_not_tried_again(s3, labelled_weeks, append, root, more, says):
    store = DatasetStore(root, options(s3) | more)
    with pytest.raises(ConfigurationError, match=says):
        append(store, "d", labelled_weeks().source())
