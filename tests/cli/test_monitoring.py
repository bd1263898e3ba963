"""Verbs about monitors, against real stores."""

from datetime import datetime

import pytest

from airflow_mlops.core.monitoring.drift import detect_drift
from airflow_mlops.core.monitoring.drift.arrival import Arrival
from airflow_mlops.core.monitoring.drift.record import body_before, body_of, with_arrivals
from airflow_mlops.core.monitoring.observations import Observations

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


def test_reports_are_pages_of_what_is_on_record(
    mlops, trained_champions, model, ledger, dataset_store, tmp_path
):
    (ref,) = trained_champions(1)
    seen = Observations(ledger.dsn)
    table = dataset_store.open(dataset_store.latest(model))
    done = mlops("report", model, "--drift")
    assert (done.code, "nothing is judged yet" in done.out) == (0, True)
    stale = with_arrivals(body_before(str(ref)), [Arrival("freshness", "9.0 days old")])
    seen.record(model, "drift", f"{ref}:", stale)
    done = mlops("report", model, "--drift")
    assert (done.code, f"<b>warn</b>: {stale['line']}</p>" in done.out) == (0, True)
    done = mlops("report", model, "--drift", "--window", "3")
    assert (done.code, "window 3; judged were: none" in done.err) == (2, True)
    since, middle = (
        datetime.fromisoformat(w.start) for w in (table.windows()[0], table.closed()[7])
    )
    found = detect_drift(table.between(since, middle), table.between(middle), columns=["x", "kind"])
    few = Arrival("volume", "168 rows, usually 900 (p 1e-09)")
    body = body_of(found, found.verdict(), [few], model=str(ref), window=7)
    seen.record(model, "drift", f"{ref}:7", body)
    seen.record(model, "drift", "later:", stale)
    path = tmp_path / "drift.html"
    done = mlops("report", model, "--drift", "--out", str(path))
    assert (done.code, done.out.startswith(f"{path}: drift of {model}, ")) == (0, True)
    page = path.read_text("utf-8")
    assert (page.count("<svg"), f"<b>warn</b>: {body['line']}</p>" in page) == (2, True)
    done = mlops("report", model, "--drift", "--window", "3")
    assert (done.code, "window 3; judged were: 7" in done.err) == (2, True)
    for name in ("performance", "system", "dependencies"):
        done = mlops("report", model, f"--{name}")
        assert (done.code, done.out.startswith("<!doctype html>")) == (0, True)
    assert mlops("report", model, "--system", "--json").json["report"] == "system"
    done = mlops("report", model, "--performance", "--window", "3")
    assert (done.code, "window 3 of" in done.err) == (2, True)


def test_a_report_is_about_one_monitor_and_goes_where_it_can(
    mlops, trained_champions, model, tmp_path
):
    trained_champions(1)
    done = mlops("report", model, "--drift", "--system")
    assert (done.code, "2 are named; choose one of --drift, --performance" in done.err) == (2, True)
    done = mlops("report", model, "--system", "--out", str(tmp_path / "no" / "where.html"))
    assert (done.code, "cannot write the report to" in done.err) == (2, True)
