"""Where a model comes from: the same place has the same name, a change another one."""

import subprocess

from airflow_mlops.core.training.provenance import (
    UNVERSIONED,
    Environment,
    code_version,
    environment,
)


def git(folder, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_environment_of_one_process_has_one_id():
    assert environment() == environment()
    assert environment().id == environment().id
    assert environment().id.startswith("env-")


def test_the_id_depends_on_every_distribution_and_on_python():
    one = Environment(("a==1",), "3.11.0", "Linux x86_64")
    others = [
        Environment(("a==2",), one.python, one.platform),
        Environment(one.distributions, "3.11.1", one.platform),
        Environment(one.distributions, one.python, "Linux aarch64"),
    ]
    assert len({e.id for e in [one, *others]}) == 4


def test_the_text_names_every_distribution_once():
    found = environment()
    lines = found.text().splitlines()
    assert lines[0].startswith("# python 3")
    assert lines[1:] == list(found.distributions)
    assert any(line.startswith("numpy==") for line in lines)


def test_code_that_is_nowhere_is_unversioned(tmp_path):
    assert code_version(None) == UNVERSIONED
    assert code_version(tmp_path) == UNVERSIONED
    assert code_version(tmp_path / "gone") == UNVERSIONED


def test_a_declared_version_wins(tmp_path):
    assert code_version(tmp_path, declared="abc") == "git:abc"


def test_a_commit_names_the_code_and_a_change_is_added(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "dag.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    clean = code_version(tmp_path)
    assert clean.startswith("git:")
    assert "+" not in clean
    (tmp_path / "dag.py").write_text("a = 2\n")
    changed = code_version(tmp_path)
    assert changed.startswith(f"{clean}+")
    assert code_version(tmp_path) == changed
