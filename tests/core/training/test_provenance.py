"""Where a model comes from: the same place has the same name, a change another one."""

import re
import subprocess
from dataclasses import replace
from importlib.metadata import distributions

import pytest

from airflow_mlops.core.training.provenance import (
    UNVERSIONED,
    Environment,
    code_version,
    compare_environments,
    environment,
    packages_of,
)


def git(folder, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_environment_of_one_process_has_one_id():
    assert environment() == environment()
    assert environment().id == environment().id
    assert environment().id.startswith("env-")


ONE = Environment(("a==1", "b==1"), "3.11.0", "Linux x86_64", "openblas 1", "550.1", {"cpu": "X"})


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"distributions": ("a==2", "b==1")}, False),
        ({"python": "3.11.1"}, False),
        ({"platform": "Linux aarch64"}, False),
        ({"blas": "mkl 1"}, False),
        ({"gpu": ""}, False),
        ({"machine": {"cpu": "Y"}}, True),  # a retry on another worker is the same recipe
    ],
)
def test_the_id_depends_on_the_software_alone(changed, same):
    assert (replace(ONE, **changed).id == ONE.id) is same


def test_every_distribution_is_found_with_the_version_its_metadata_says():
    expected = {
        f"{re.sub(r'[-_.]+', '-', d.name).lower()}=={d.version}" for d in distributions() if d.name
    }
    assert set(environment().distributions) == expected


def test_the_text_can_be_read_back_and_pip_can_read_it():
    found = environment()
    again = Environment.parse(found.text())
    assert (again, again.machine) == (found, found.machine)
    packages = [line for line in found.text().splitlines() if not line.startswith("#")]
    assert packages == list(found.distributions)
    assert {"cpu", "cores", "kernel", "threads"} <= set(found.machine)


def test_a_difference_names_package_versions_and_what_the_model_uses():
    two = replace(
        ONE, distributions=("B==2", "c==1"), gpu="560", machine={"cpu": "Y"}, python="3.12.0"
    )
    assert [str(c) for c in compare_environments(ONE, two, ["b==1"])] == [
        "b 1 -> 2 (used by the model)",
        "python 3.11.0 -> 3.12.0 (used by the model)",
        "a 1 -> absent",
        "c absent -> 1",
        "gpu 550.1 -> 560",
        "machine cpu X -> Y",
    ]
    assert compare_environments(ONE, ONE, []) == ()


def test_the_packages_of_modules_are_found():
    pins = packages_of(["sklearn", "numpy", "no_such_module"])
    assert [pin.partition("==")[0] for pin in pins] == ["numpy", "scikit-learn"]


def test_code_that_is_nowhere_is_unversioned(tmp_path):
    assert code_version(None).version == UNVERSIONED
    assert code_version(tmp_path).version == UNVERSIONED
    assert code_version(tmp_path / "gone").version == UNVERSIONED


def test_a_declared_version_wins(tmp_path):
    assert code_version(tmp_path, declared="abc").version == "git:abc"


def test_a_commit_names_the_code_and_a_change_is_added(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "dag.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    clean = code_version(tmp_path).version
    assert clean.startswith("git:")
    assert "+" not in clean
    (tmp_path / "dag.py").write_text("a = 2\n")
    changed = code_version(tmp_path).version
    assert "-a = 1\n+a = 2" in code_version(tmp_path).changes
    assert changed.startswith(f"{clean}+")
    assert code_version(tmp_path).version == changed
