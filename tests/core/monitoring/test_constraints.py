"""A file of pins that is not installed yet: what it would change, or why nobody can say."""

import json
import time
from dataclasses import replace

import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.constraints import ConstraintsReport, check_constraints
from airflow_mlops.core.monitoring.dependencies import (
    RULES,
    Answers,
    DependencyReport,
    known_bad,
)
from airflow_mlops.core.training.provenance import Environment, EnvironmentChange

HERE = Environment(
    ("lightgbm==4.6.0", "numpy==2.3.4", "odd==2024a-x", "pandas==2.3.3", "scikit-learn==1.9.1"),
    "3.11.7",
    "Linux x86_64",
)
USES = ("numpy==2.3.4", "pandas==2.3.3", "scikit-learn==1.9.1")


def report(stored="skops", training=HERE):
    return DependencyReport("m@1", HERE, training, (), Answers("same", ""), (), USES, stored)


@pytest.fixture
def check(tmp_path):
    """``check(text)``: the report about a file of that content."""

    def ask(text, **asked):
        path = tmp_path / "constraints.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return check_constraints(path, report(**asked))

    return ask


def names(found):
    return [str(c) for c in found.changes]


def test_names_what_changes_the_model_first_and_what_is_known_to_go_wrong(check):
    found = check("lightgbm==4.7.0\nscikit_learn==2.0.0\nnumpy==2.3.4\n")
    assert names(found) == [
        "scikit-learn 1.9.1 -> 2.0.0 (used by the model)",
        "lightgbm 4.6.0 -> 4.7.0",
    ]
    (bad,) = found.known_bad
    assert bad.startswith("scikit-learn 1.9.1 -> 2.0.0 (used by the model): major version: fitted")
    assert found.status == "warn"
    assert "scikit-learn 1.9.1 -> 2.0.0 (used by the model), 1 that it does not use" in found.line
    assert ConstraintsReport.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "line",
    [
        "scikit-learn==1.9.1",
        "Scikit_Learn == 1.9.1.0  # the same version, written otherwise",
        "scikit-learn[extra1,extra2]==1.9.1",
        "scikit-learn==2.0.0 ; python_version < '3.0'",
        "scikit-learn==1.9.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11",
        "scikit-learn>=1.6,<2",
        "scikit-learn==1.9.*",
        "scikit-learn",
        "scikit-learn===1.9.1",
        "odd===2024a-x",
    ],
)
def test_what_changes_nothing_is_understood(check, line):
    found = check(f"# pins\n\n{line}\n")
    assert (found.changes, found.not_understood, found.status) == ((), (), "ok")
    assert found.line.endswith("no package changed")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("-e .", "line 2: -e ..."),
        ("-r other.txt", "line 2: -r ..."),
        ("--index-url=https://u:hunter2@host/simple", "line 2: --index-url ..."),
        ("git+https://hunter2@host/repo", "line 2: git+https ..."),
        ("scikit-learn @ https://hunter2@host/x.whl", "line 2: scikit-learn ..."),
        ("not a requirement", "line 2: not a requirement"),
        ("scikit-learn>=2", "line 2: scikit-learn>=2"),
        ("nowhere>=2", "line 2: nowhere>=2"),
        ("numpy==1.0", "line 2: numpy==1.0 (it was 2.3.4 before)"),
        ("numpy==2.3.4; no_such_variable == '1'", "line 2: numpy==2.3.4; no_such_variable == '1'"),
        ("numpy==\\\n2.*.4", "line 2: numpy==2.*.4"),
    ],
)
def test_what_names_no_version_is_named_and_uncertain_and_tells_no_secret(check, line, shown):
    found = check(f"numpy==2.3.4\n{line}\n")
    assert found.not_understood == (shown,)
    assert (found.status, found.changes) == ("warn", ())
    assert f"not understood, so not judged: {shown}" in found.line
    assert "hunter2" not in str(found.to_dict())


def test_many_lines_that_say_nothing_are_counted(check):
    assert check("-e .\n" * 9).line.endswith("line 5: -e ... and 4 more")


def test_a_byte_order_mark_and_the_lines_of_windows_are_read(check):
    assert names(check(b"\xef\xbb\xbfnumpy==2.4.0\r\n")) == [
        "numpy 2.3.4 -> 2.4.0 (used by the model)"
    ]


def test_a_package_that_is_not_here_is_not_installed_by_a_constraint(check):
    found = check("torch==2.9.0\n")
    assert (found.absent, found.changes, found.status) == (("torch==2.9.0",), (), "ok")


@pytest.mark.parametrize("text", ["", "\n  \n", "# nothing but words\n", b"\xff\xfe\x00numpy"])
def test_a_file_that_names_nothing_is_refused(check, text):
    with pytest.raises(ConfigurationError, match=r"constraints\.txt"):
        check(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(ConfigurationError, match=f"{path} is no file of constraints"):
            check_constraints(path, report())


def test_ten_thousand_lines_take_about_a_second(check):
    start = time.process_time()
    found = check("".join(f"package-{i}==1.{i}\n" for i in range(10_000)))
    assert len(found.absent) == 10_000
    assert time.process_time() - start < 3


def test_rules_look_from_the_environment_of_training(check):
    old = replace(HERE, distributions=("numpy==1.26.4", *HERE.distributions[2:]))
    found = check("pandas==2.3.3\n", training=old)  # it changes nothing, and mends nothing
    assert found.changes == ()
    assert [b.partition(" ")[0] for b in found.known_bad] == ["numpy"]
    assert check("numpy==1.26.5\n", training=old).known_bad == ()


@pytest.mark.parametrize(
    ("package", "old", "new", "stored", "part"),
    [
        ("scikit-learn", "1.8.0", "1.9.0", "pickle", "minor"),
        ("scikit-learn", "1.8.0", "1.9.0", "skops", ""),
        ("scikit-learn", "1.8.0", "1.8.2", "pickle", ""),
        ("scikit-learn", "1.9.1", "2.0.0", "pickle", "major"),
        ("numpy", "1.26.4", "2.0.0", "folder", "major"),
        ("numpy", "2.0.0", "1.26.4", "folder", "major"),
        ("numpy", "2.0.0", "2.1.0", "folder", ""),
        ("skops", "0.13.0", "0.14.0", "skops", "major"),
        ("skops", "0.13.0", "0.13.1", "skops", ""),
        ("skops", "0.13.0", "0.14.0", "pickle", ""),
        ("python", "3.11.7", "3.12.0", "pickle", "minor"),
        ("python", "3.11.7", "3.12.0", "skops", ""),
        ("python", "3.11.7", "3.11.9", "pickle", ""),
        ("xgboost-cpu", "3.1.0", "4.0.0", "skops", "major"),
        ("lightgbm", "4.6.0", "5.0.0", "skops", "major"),
        ("pandas", "2.3.3", "3.0.0", "skops", "major"),
        ("pandas", "2.3.3", "", "skops", ""),  # it does not load: no rule has to say so
        ("duckdb", "1.4.0", "2.0.0", "skops", ""),
    ],
)
def test_a_rule_depends_on_the_package_the_part_and_the_format(package, old, new, stored, part):
    found = known_bad([EnvironmentChange(package, old, new, used=True)], stored)
    assert [f": {part} version: " in text for text in found] == ([True] if part else [])
    assert known_bad([EnvironmentChange(package, old, new, used=False)], stored) == ()


def test_every_rule_says_what_is_at_stake():
    assert all(rule.stake and rule.packages and rule.formats for rule in RULES)
