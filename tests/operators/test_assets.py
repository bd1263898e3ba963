"""Assets as other systems see them: one name each, whichever Airflow they come from."""

import json
import subprocess
import sys
import warnings

import pytest
from airflow.sdk import Asset

from airflow_mlops.assets import to_openlineage

pytestmark = pytest.mark.airflow


@pytest.fixture
def converters(airflow_db):
    """What Airflow's own registries of providers found, by scheme."""
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    managers = ProvidersManager(), ProvidersManagerTaskRuntime()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older one says that it is the older one
        return [manager.asset_to_openlineage_converters for manager in managers]


def test_airflow_finds_the_converter_of_our_scheme(converters):
    assert [found["mlops"] for found in converters] == [to_openlineage] * 2


@pytest.mark.parametrize(
    ("uri", "namespace", "name"),
    [
        ("mlops://electricity/data", "mlops://electricity", "data"),
        ("mlops://electricity/champion", "mlops://electricity", "champion"),
        ("mlops://team-a/churn/data", "mlops://team-a", "churn/data"),
        ("mlops://electricity", "mlops://electricity", "/"),
    ],
)
def test_an_asset_has_a_stable_name_in_openlineage(converters, uri, namespace, name):
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.generated.base import Dataset

    asset = Asset(uri=uri)
    assert asset.normalized_uri, "Airflow's translation asks for it first"
    found = converters[1]["mlops"](Asset(uri=asset.normalized_uri), None)
    assert type(found) is Dataset
    assert (found.namespace, found.name) == (namespace, name)
    assert InputDataset(namespace=found.namespace, name=found.name)


def test_every_asset_of_a_lifecycle_is_a_dataset_of_its_model(market):
    life = market.lifecycle()
    names = ("data", "request", "candidate", "champion")
    found = [to_openlineage(life.asset(name), None) for name in names]
    assert [(d.namespace, d.name) for d in found] == [
        (f"mlops://{market.name}", name) for name in names
    ]


def test_without_openlineage_there_is_no_dataset_and_no_error(tmp_path):
    code = """
import json, sys
sys.modules["openlineage"] = None
from airflow.sdk import Asset
from airflow_mlops.assets import to_openlineage
print(json.dumps(to_openlineage(Asset(uri="mlops://a/data"), None)))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) is None
