"""Monitors put a page beside the model when they found something, and never fail over it."""

import html

import pytest

from airflow_mlops.core.refs import ModelRef
from airflow_mlops.operators._reports import attach_report
from airflow_mlops.operators.monitoring import DetectDriftOperator
from tests.operators.running import run
from tests.operators.test_loop import first_champion

pytestmark = [pytest.mark.airflow, pytest.mark.services]


def test_drift_and_decay_are_drawn_beside_the_champion_and_linked(
    market, model_store, observations
):
    (monitor, _, _), _ = first_champion(market, slices=["kind"])
    market.deliver(5, 6, labels=(4, 5))
    market.execute("update {} set y = y + 5 where at >= '2024-02-05'")
    market._copy(f"{market.name}_labels", market.weeks.part(market.weeks.labels, 5, 6))
    tick = run(monitor)
    assert tick.state == "success", tick.errors
    run_id = model_store.get(ModelRef(market.name, 1)).run_id
    for task, name in (("drift", "drift-5"), ("performance", "performance-5")):
        page = model_store.document(run_id, f"monitoring/{name}.html")
        assert page.startswith("<!doctype html>")
        link = tick.values[task]["mlops_report_url"]
        assert link.endswith(f"/artifacts/monitoring/{name}.html")
        model_store.log_document(run_id, f"monitoring/{name}.html", f"{page}still the same")
    (drift,) = observations.read(market.name, "drift")
    assert f"window 5: y (moved 99%) drifted against what {market.name}@1 saw" in drift.body["line"]
    (found,) = observations.read(market.name, "performance")
    assert f"<b>warn</b>: {html.escape(found.body['line'])}</p>" in page
    again = run(monitor)
    assert again.values["performance"]["mlops_report_url"] == link
    kept = model_store.document(run_id, "monitoring/performance-5.html")
    assert kept.endswith("still the same")  # the finding is, so nothing is drawn again
    assert (found.body["status"], tick.value("performance")["status"]) == ("warn", "warn")
    assert [s["value"] for s in found.body["slices"]] == ["a", "b", "c"]
    assert "slices that decayed: kind" in found.body["line"]


def test_the_page_of_a_window_that_is_ok_again_says_so(market, model_store):
    (monitor, _, _), _ = first_champion(market)
    fails = market.module("def fit(X, y, *, seed):\n    raise ValueError('too few')\n")
    market.deliver(5, 6, labels=(4, 6))
    run_id = model_store.get(ModelRef(market.name, 1)).run_id
    for challenger, status in ((f"{fails}:fit", "warn"), (None, "ok")):
        monitor.get_task("performance").challenger = challenger
        assert run(monitor).value("performance")["status"] == status
        page = model_store.document(run_id, "monitoring/performance-5.html")
        assert f"<b>{status}</b>: window 5" in page


def test_a_page_that_cannot_be_attached_is_a_warning(
    connections, make_version, model, capsys, alone
):
    operator = alone(DetectDriftOperator, snapshot={}).task_dict["t"]

    def broken():
        raise ValueError("no such colour")

    assert attach_report(operator, make_version(), "monitoring/a.html", {}, broken) == ""
    assert attach_report(operator, ModelRef(model, 9), "monitoring/b.html", {}, lambda: "") == ""
    said = capsys.readouterr().out
    assert "monitoring/a.html is not attached to" in said
    assert "no such colour" in said
    assert "monitoring/b.html is not attached to" in said


def test_a_page_is_drawn_again_only_if_its_finding_changed(
    connections, make_version, alone, model_store
):
    operator, ref = alone(DetectDriftOperator, snapshot={}).task_dict["t"], make_version()
    drawn = []

    def draw():
        drawn.append("page")
        return f"page {len(drawn)}"

    links = {
        attach_report(operator, ref, "monitoring/a.html", {"loss": loss, "line": "worse"}, draw)
        for loss in (0.1, 0.1, 0.2, 0.2)
    }
    assert len(drawn) == 2
    assert [link.endswith("/artifacts/monitoring/a.html") for link in links] == [True]
    page = model_store.document(model_store.get(ref).run_id, "monitoring/a.html")
    assert page.startswith("page 2")
