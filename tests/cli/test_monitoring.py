"""Verbs about monitors, against real stores."""

import pytest

pytestmark = pytest.mark.services


def test_a_champion_that_answers_the_same_and_what_a_file_would_change(
    mlops, trained_champions, model, package, tmp_path, observations
):
    (ref,) = trained_champions(1)
    package("7.0", name="something-else")
    path = tmp_path / "constraints.txt"
    path.write_text("something-else==8.0\nscikit-learn==99.0\nnowhere==1.0\n")
    done = mlops("dependencies", model, "--constraints", str(path))
    assert done.code == 0
    first, *rest = done.out.splitlines()
    assert first.startswith(f"ok: {ref} gives the answers of its training here; changed: 1 that")
    assert "  something-else absent -> 7.0" in rest
    assert "  something-else 7.0 -> 8.0" in rest
    assert "  nowhere==1.0 is not here" in rest
    assert f"warn: {path} beside {ref} on this worker" in done.out
    assert "-> 99.0 (used by the model): major version" in done.out
    found = mlops("dependencies", model, "--constraints", str(path), "--json").json
    assert (found["status"], found["healthy"], found["before"]) == ("ok", True, "")
    assert found["constraints"]["status"] == "warn"
    assert observations.read(model, "dependencies") == ()


def test_a_champion_that_does_not_work_here_is_broken(mlops, trained_champions, model, package):
    package()
    code = "import tinypkg\n\ndef build(rows):\n    return rows[['y']] * tinypkg.scaled(1)\n"
    trained_champions(1, features=code)
    package("2.0", "def scaled(values):\n    return values * 3\n")
    done = mlops("dependencies", model)
    assert done.code == 1
    assert "tinypkg 1.0 -> 2.0 (used by the model)" in done.out
    assert mlops("dependencies", model, "--json").json["answers"]["verdict"] == "moved"


def test_what_cannot_be_asked_is_named(mlops, trained_champions, model, tmp_path):
    done = mlops("dependencies", model)
    assert done.code == 2
    assert "no decision on a model" in done.err
    trained_champions(1)
    done = mlops("dependencies", model, "--constraints", str(tmp_path / "gone.txt"))
    assert done.code == 2
    assert "gone.txt is no file of constraints" in done.err
