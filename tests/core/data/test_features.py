"""Code of a user: identified by what it does, loaded from its archive, refused if it cannot go."""

import pytest

from airflow_mlops.core.data.features import CodeArchive, archive, feature_version
from airflow_mlops.core.errors import ConfigurationError, UserCodeError

PLAIN = """
    import math

    def build(rows):
        return rows * 2
"""
SAME = '''
    """A module docstring."""
    import math


    def build(rows):   # a comment
        """What it does."""
        return (rows
                * 2)
'''


def test_comments_docstrings_and_layout_do_not_change_the_digest(user_module):
    assert (
        archive(f"{user_module(PLAIN)}:build").digest
        == archive(f"{user_module(SAME)}:build").digest
    )


def test_another_computation_has_another_digest(user_module):
    other = PLAIN.replace("* 2", "* 3")
    assert (
        archive(f"{user_module(PLAIN)}:build").digest
        != archive(f"{user_module(other)}:build").digest
    )


def test_two_functions_of_one_module_have_two_digests(user_module):
    name = user_module("def a():\n    return 1\n\ndef b():\n    return 1\n")
    assert archive(f"{name}:a").digest != archive(f"{name}:b").digest


def test_the_version_of_a_feature_set_depends_on_code_and_columns(user_module):
    code = archive(f"{user_module(PLAIN)}:build")
    found = feature_version(code, {"x": "number", "y": "string"})
    assert found == feature_version(code, {"y": "string", "x": "number"})
    assert found != feature_version(code, {"x": "string", "y": "string"})
    assert found.startswith("fs-")


def test_an_archive_round_trips_through_a_folder(user_module, tmp_path):
    code = archive(f"{user_module(PLAIN)}:build")
    code.save(tmp_path / "saved")
    assert CodeArchive.open(tmp_path / "saved", code.name) == code


def test_a_function_runs_from_its_archive_with_the_modules_of_its_folder(
    tmp_path, monkeypatch, user_module
):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "help.py").write_text("FACTOR = 5\n")
    (package / "feats.py").write_text(
        "from .help import FACTOR\n\ndef build(x):\n    return x * FACTOR\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code = archive("pack.feats:build")
    assert sorted(code.files) == ["__init__.py", "help.py"]
    (package / "help.py").write_text("FACTOR = 0\n")
    code.save(tmp_path / "saved")
    assert code.load(tmp_path / "saved")(2) == 10


def test_two_versions_of_one_module_live_in_one_process(user_module, tmp_path):
    found = []
    for number, source in enumerate((PLAIN, PLAIN.replace("* 2", "* 3"))):
        code = archive(f"{user_module(source)}:build")
        code.save(tmp_path / str(number))
        found.append(code.load(tmp_path / str(number)))
    assert [f(1) for f in found] == [2, 3]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import include.secret\n\ndef build(r): ...", "'include.secret' does not travel"),
        ("from tests.x import y\n\ndef build(r): ...", "'tests.x' does not travel"),
        ("def build(r):\n    import not_installed_xyz", ":2: import of 'not_installed_xyz'"),
        ("from . import nothing\n\ndef build(r): ...", "relative import of 'nothing'"),
        ("from .. import above\n\ndef build(r): ...", "relative import of 'above'"),
        ("def build(r:\n", "does not parse"),
        ("def other(r): ...", "defines no function 'build' at top level"),
        ("class build: ...", "defines no function 'build'"),
    ],
)
def test_code_that_cannot_travel_is_refused_with_file_and_line(user_module, source, says):
    name = user_module(source)
    with pytest.raises(UserCodeError) as caught:
        archive(f"{name}:build")
    assert says in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "module",
        "module:",
        ":build",
        "a b:build",
        "a;drop table x:build",
        "a\0:build",
        "no_such_module_xyz:build",
        "no_such_package_xyz.sub:build",
        "math:sqrt",
        "__main__:build",
        "json.nope.deeper:build",
    ],
    ids=ascii,
)
def test_a_name_that_leads_nowhere_is_refused_and_quoted(name):
    with pytest.raises(ConfigurationError) as caught:
        archive(name)
    assert repr(name)[1:-1] in str(caught.value)


def test_a_module_that_fails_to_import_says_why(user_module, tmp_path):
    code = archive(f"{user_module('raise OSError(7)' + chr(10) + 'def build(r): ...')}:build")
    code.save(tmp_path / "saved")
    with pytest.raises(UserCodeError, match="importing it failed: OSError: 7"):
        code.load(tmp_path / "saved")
