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


LAGS = """
    def build(rows, *, lags=1, names=("a",)):
        return [rows, lags, list(names)]
"""


def test_parameters_are_part_of_the_version_and_none_leave_it_as_it_is(user_module):
    name, columns = f"{user_module(LAGS)}:build", {"x": "number"}
    plain, three, four = (archive(name, p) for p in (None, {"lags": 3}, {"lags": 4}))
    assert feature_version(plain, columns) == feature_version(archive(name, {}), columns)
    versions = {feature_version(code, columns) for code in (plain, three, four)}
    assert len(versions) == 3
    assert feature_version(archive(name, {"lags": 3}), columns) in versions


def test_the_order_of_parameters_and_tuples_make_no_other_version(user_module):
    name, columns = f"{user_module(LAGS)}:build", {"x": "number"}
    one = archive(name, {"lags": 3, "names": ("a", "b")})
    two = archive(name, {"names": ["a", "b"], "lags": 3})
    assert feature_version(one, columns) == feature_version(two, columns)
    assert one == two


def test_a_loaded_function_applies_its_parameters(user_module, tmp_path):
    code = archive(f"{user_module(LAGS)}:build", {"lags": 3, "names": ("b",)})
    code.save(tmp_path / "saved")
    opened = CodeArchive.open(tmp_path / "saved", code.name)
    assert opened == code
    assert opened.load(tmp_path / "saved")(7) == [7, 3, ["b"]]
    assert (tmp_path / "saved" / "params.json").read_text() == '{"lags":3,"names":["b"]}'


def test_without_parameters_there_is_no_file_of_them(user_module, tmp_path):
    code = archive(f"{user_module(LAGS)}:build")
    code.save(tmp_path / "saved")
    assert [p.name for p in (tmp_path / "saved").iterdir()] == ["__init__.py"]
    assert code.load(tmp_path / "saved")(7) == [7, 1, ["a"]]


@pytest.mark.parametrize(
    ("source", "params", "says"),
    [
        (LAGS, {"lag": 3}, "takes no parameter 'lag'; it has 'lags', 'names'"),
        (PLAIN, {"lags": 3}, "takes no parameter 'lags'; it has none"),
        (LAGS, {"rows": 3}, "takes no parameter 'rows' ('rows' is its first argument, the rows)"),
        ("def build(rows, **more): ...", {"rows": 3}, "takes no parameter 'rows' ('rows' is its"),
        ("def build(rows, a, b): ...", {"a": 1}, "needs parameter 'b'; given are a"),
        ("def build(): ...", {"a": 1}, "takes no parameter 'a'; it has none"),
    ],
)
def test_parameters_that_build_does_not_take_are_named(user_module, source, params, says):
    name = user_module(source)
    with pytest.raises(UserCodeError) as caught:
        archive(f"{name}:build", params).check()
    assert f"{name}:build {says}" in str(caught.value)


def test_any_parameter_goes_where_any_is_taken(user_module, tmp_path):
    code = archive(f"{user_module('def build(rows, **more):' + chr(10) + ' return more')}:build",
                   {"free": 1})  # fmt: skip
    code.save(tmp_path)
    assert code.load(tmp_path)(0) == {"free": 1}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"x": {1, 2}}, "not plain JSON"),
        ({"x": float("nan")}, "not plain JSON"),
        ({"x": len}, "not plain JSON"),
        ({1: 2}, "key 1 in .* is no text"),
        ({"x": [{"y": {2: 3}}]}, "key 2 in .* is no text"),
        ([("x", 1)], "no mapping of parameters"),
        ("lags=3", "no mapping of parameters"),
    ],
)
def test_parameters_that_are_not_json_are_refused(user_module, params, says):
    name = user_module(LAGS)
    with pytest.raises(ConfigurationError, match=f"{name}:build: .*{says}"):
        archive(f"{name}:build", params)


def test_a_package_that_is_not_installed_here_is_named_with_the_way_out(tmp_path):
    source = "import package_of_another_place.sub\n\ndef build(rows): ..."
    code = CodeArchive("electricity.features@fs-0:build", {"__init__.py": source})
    with pytest.raises(UserCodeError, match="pip install package_of_another_place, or what the"):
        code.check()


def test_modules_imported_late_are_found_in_the_newest_folder(tmp_path):
    main = "def build(x):\n    from .late import FACTOR\n\n    return x * FACTOR\n"
    code = CodeArchive("m:build", {"__init__.py": main, "late.py": "FACTOR = 3\n"})
    code.check()  # its folder is gone when it returns
    code.save(tmp_path / "saved")
    assert code.load(tmp_path / "saved")(2) == 6
