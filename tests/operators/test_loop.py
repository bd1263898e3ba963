"""The whole loop on ``dag.test()``: what the three Dags of a lifecycle leave behind."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from airflow_mlops.core.errors import (
    CandidateRefusedError,
    ConfigurationError,
    ContractBrokenError,
    RejectedError,
    UserCodeError,
)
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.monitoring.citations import check_citations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.reports.markdown import plain
from airflow_mlops.operators.candidates import PromoteModelOperator
from airflow_mlops.operators.data import CheckContractOperator
from airflow_mlops.operators.monitoring import DetectDriftOperator
from airflow_mlops.policy import AtLeast, Contract, Drift, OnRequest, Sql
from tests.conftest import MONDAY, WEEK
from tests.operators.conftest import FEATURES, SECRET
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def says(choice, note="", params=None, by="ml-lead"):
    """A person who answers the form; nobody: what the scheduler does when the time is over."""
    given = {"note": note, "params": params or {}} if by else {}
    return lambda request: (choice, given, by)


def first_champion(market, **policy):
    """Live until the first champion; returns the three Dags and their runs."""
    market.deliver(0, 5, labels=(0, 4))
    monitor, train, rollout, _ = market.lifecycle(**policy).dags
    runs = [run(monitor), run(train), run(rollout, answer=says("promote", "fine"))]
    assert [r.state for r in runs] == ["success"] * 3
    return (monitor, train, rollout), runs


def ops(state):
    return [e.op for e in state.entries if e.op != "handover"]


def aliases(model_store, name):
    return dict(model_store.client.get_registered_model(name).aliases)


def versions(model_store, name):
    return list(model_store.client.search_model_versions(f"name='{name}'"))


def test_a_model_is_born_approved_and_serves(market, ledger, observations, model_store, services):
    (monitor, _, _), runs = first_champion(market)
    first, trained, rolled = runs
    name, pages = market.name, services.urls["mlflow"]

    state = ledger.state(name)
    assert ops(state) == ["retrain", "propose", "promote"]
    assert (state.champion, state.previous, state.challenger) == (1, None, None)
    assert aliases(model_store, name) == {"champion": "1"}
    assert state.entries[2].by == "ml-lead"
    assert state.entries[2].reason == "fine"
    assert state.entries[2].evidence["contract"] == []  # there was no champion before
    assert {t: s for t, s in first.states.items() if s == "skipped"} == dict.fromkeys(
        ("dependencies", "score", "drift", "performance"), "skipped"
    )
    assert trained.states["another_round"] == "skipped"
    assert first.events[f"{name}/request"] == {"decision": 1}
    proposal, promotion = (entry.seq for entry in state.entries[1:])
    assert trained.events[f"{name}/candidate"] == {"proposal": proposal, "model": f"{name}@1"}
    assert rolled.events[f"{name}/champion"] == {"model": f"{name}@1", "entry": promotion}
    page = f"{pages}/#/models/{name}/versions/1"
    assert rolled.values["promote"]["mlops_model_url"] == page
    assert trained.values["train"]["mlops_model_url"] == page
    assert trained.values["train"]["mlops_run_url"].startswith(f"{pages}/#/experiments/")
    assert trained.values["evaluate"]["mlops_report_url"].endswith("/artifacts/evaluation.json")
    run_id = trained.value("train")["run_id"]
    files = {f.path for f in model_store.client.list_artifacts(run_id)}
    assert {"card.md", "card.html", "data-card.md", "data-card.html"} <= files
    card = model_store.document(run_id, "card.md")
    assert f"| predicts | {plain(f'up of {name}.labels@1')} |" in card
    decision = first.values["decide"]["mlops_decision_url"]
    assert decision.startswith(f"http://airflow.example.com/dags/{name}__monitor/runs/")
    assert f"**{name}@1** against **no champion yet**" in rolled.value("smoke")["card"]

    market.deliver(5, 6, labels=(4, 5))
    tick = run(monitor)
    assert tick.state == "success"
    assert {t for t, s in tick.states.items() if s != "success"} == {"request"}
    assert tick.value("snapshot")["added"] == 168
    assert tick.value("score")["written"] == 168
    assert tick.value("contract")["status"] == "ok"
    assert list(tick.value("drift")["drifted"]) == ["5"]
    assert tick.value("decide")["op"] == "keep"
    assert tick.events == {f"{name}/data": tick.events.get(f"{name}/data", {})}
    assert {(v, round(p)) for _, v, p in observations.served(name)} == {(1, 0), (1, 1)}

    monitors = ("contract", "drift", "performance")
    kept = [observations.read(name, m) for m in monitors]
    written = [(r.values, r.rendered) for r in (*runs, tick)]
    entries = [e.to_dict() for e in ledger.state(name).entries]
    everything = json.dumps([written, entries], default=str) + str(kept)
    assert "warehouse" in everything
    assert SECRET not in everything


def test_a_broken_delivery_is_stopped_at_once_and_runs_when_mended(market, observations, alone):
    told = []
    (monitor, _, _), _ = first_champion(market, retries=2, notify=[told.append])
    market.execute(
        "alter table {} rename column x to x_new",
        "alter table {} alter column y type text using y || ' MW'",
    )
    broken = run(monitor, at=NOON)
    assert broken.state == "failed"
    assert broken.states["snapshot"] == "failed"
    assert broken.tries["snapshot"] == 1
    assert isinstance(broken.error, ContractBrokenError)
    for word in ("'x'", "'x_new'", "'y'", market.name, "clear the task"):
        assert word in str(broken.error)
    born, waits, failed = told
    assert waits["mlops"]["line"].startswith(f"{market.name}@1: waits for a yes or no until")
    assert born["mlops"]["line"] == f"{market.name}: retrain (first): there is no champion yet"
    assert failed["dag_run"].run_id == broken.run_id
    assert observations.served(market.name) == ()
    finding = observations.read(market.name, "contract", last=1)[0].body
    assert finding["status"] == "broken"
    assert "'y'" in finding["breaks"][0]

    market.execute(
        "alter table {} rename column x_new to x",
        "alter table {} alter column y type float8 using replace(y, ' MW', '')::float8",
    )
    market.deliver(5, 6)
    market.execute("update {} set kind = 'z' where id = 900")
    mended = run(monitor, at=NOON)
    assert mended.state == "success"
    assert len(observations.served(market.name)) == 168
    finding = observations.read(market.name, "contract", last=1)[0].body
    assert (finding["status"], finding["fatal"]) == ("warn", [])
    assert (
        "column 'kind' new category: expected one of 3 known values, found 'z'" in finding["line"]
    )
    unknown = {"snapshot": mended.value("snapshot"), "fail_on": "warning"}
    refused = run(alone(CheckContractOperator, **unknown))
    assert "fail_on='warning'; known: 'error', 'warn', 'never'" in str(refused.error)


def test_a_contract_that_stops_scoring_stops_neither_drift_nor_the_decision(
    market, observations, ledger
):
    words = {"contract": Contract(fail_kinds=["new category"]), "retries": 2}
    (monitor, _, _), _ = first_champion(market, **words)
    market.deliver(5, 6, labels=(4, 5))
    market.execute("update {} set kind = 'z' where id = 900")
    stopped = run(monitor, at=NOON)
    assert (stopped.state, stopped.tries["contract"]) == ("failed", 1)
    contract, request = stopped.errors
    assert isinstance(contract, ContractBrokenError)
    assert "such as 900. Nothing is scored. Correct the delivery" in str(contract)
    assert "a retrain would hide it: column 'kind' new category" in str(request)
    states = ("score", "performance", "drift", "decide", "may_serve")
    assert [stopped.states[name] for name in states] == [
        "upstream_failed",
        "skipped",
        "success",
        "success",
        "upstream_failed",
    ]
    finding = observations.read(market.name, "contract", last=1)[0].body
    assert (finding["status"], len(finding["fatal"])) == ("broken", 1)
    assert finding["fatal"][0].endswith("found 'z' in 1 rows, such as 900")
    assert finding["plain"]["fatal"] == ["column 'kind' new category in 1 rows"]
    decision = ledger.state(market.name).entries[-1]
    assert (decision.op, decision.evidence["trigger"]) == ("ask", "contract")
    assert "column 'kind' new category in 1 rows" in decision.reason
    assert "900" not in decision.reason
    assert "'z'" not in decision.reason

    market.execute("update {} set kind = 'a' where id = 900")
    assert run(monitor, at=NOON.replace(day=3)).state == "success"
    assert observations.read(market.name, "contract", last=1)[0].body["status"] == "ok"
    assert {k for k, _, _ in observations.served(market.name)} >= {"840", "900", "1007"}
    assert ledger.state(market.name).entries[-1].op == "keep"


def test_a_further_round_halves_the_history_that_was_chosen_not_the_whole_span(market, ledger):
    """Since week 4 the world is upside down: the newest week teaches more than four weeks."""
    (monitor, train, _), _ = first_champion(market)
    market.deliver(5, 7, labels=(4, 6))
    market.execute(f"update {{}}_labels set up = 1 - up where id >= {4 * 168}")
    draft = Entry(market.name, "request", "", "ann", "again", evidence={"params": {}})
    ledger.record(market.name, "ask", {"op": "request"}, lambda _: draft)
    assert run(monitor, at=NOON).value("decide")["op"] == "retrain"
    train.get_task("gate").gates = [AtLeast("roc_auc", 0.9999).to_dict()]
    first = run(train)
    assert first.value("history")["history"]["chosen"] == "x0.25"
    assert first.value("gate")["status"] == "failed"
    again = ledger.state(market.name).last("retrain")
    assert (again.evidence["round"], again.evidence["share"]) == (2, 0.125)
    asked = run(train).value("select")["train"]
    spans = [datetime.fromisoformat(asked[end]) for end in ("since", "until")]
    assert spans[1] - spans[0] == timedelta(days=3.5)


def test_a_bad_candidate_is_refused_tried_once_more_and_then_people_are_told(
    market, ledger, model_store
):
    market.deliver(0, 5, labels=(0, 4))
    monitor, train, rollout, _ = market.lifecycle(params={"bad": True}, retries=2).dags
    assert run(monitor).value("decide")["op"] == "retrain"
    first = run(train)
    assert first.state == "success"
    assert first.value("gate")["status"] == "failed"
    assert first.states["submit"] == "skipped"
    again = ledger.state(market.name).entries[2]
    assert (again.op, again.evidence["round"]) == ("retrain", 2)
    assert first.events[f"{market.name}/request"] == {"decision": again.seq}
    second = run(train)
    assert second.value("select")["decision"] == again.seq
    assert second.state == "failed"
    assert second.states["another_round"] == "failed"
    assert second.tries["another_round"] == 1
    assert isinstance(second.error, CandidateRefusedError)
    assert "2 of 2 rounds refused" in str(second.error)
    assert "roc_auc" in str(second.error)

    state = ledger.state(market.name)
    assert ops(state) == ["retrain", "refuse", "retrain", "refuse", "ask"]
    assert [e.evidence.get("share") for e in state.entries if e.op == "retrain"] == [None, 0.5]
    assert aliases(model_store, market.name) == {}
    spans = [r.value("select")["train"] for r in (first, second)]
    assert spans[0]["since"] < spans[1]["since"] < spans[1]["until"] == spans[0]["until"]

    nothing = run(rollout)
    assert nothing.states["promote"] == "upstream_failed"
    assert isinstance(nothing.error, ConfigurationError)
    assert f"no candidate of {market.name} was proposed yet" in str(nothing.error)
    again = run(monitor)
    assert again.value("decide")["decision"] == 1
    assert ledger.state(market.name).head == state.head


def test_no_answer_rejects_and_retrain_asks_for_other_parameters(market, ledger, model_store):
    market.deliver(0, 4, labels=(0, 3))
    monitor, train, rollout, _ = market.lifecycle().dags
    run(monitor), run(train)
    late = run(rollout, answer=says("reject", by=None))
    assert (late.states["promote"], late.tries["promote"]) == ("failed", 1)  # people are told
    assert isinstance(late.error, RejectedError)
    assert "nobody answered reject: no answer in time" in str(late.error)
    last = ledger.state(market.name).entries[-1]
    assert (last.op, last.by, last.reason) == ("reject", "nobody", "no answer in time")
    assert aliases(model_store, market.name) == {}
    assert run(rollout).states == dict.fromkeys(("smoke", "flips", "approve", "promote"), "skipped")

    market.deliver(4, 5, labels=(3, 4))
    run(monitor), run(train)
    asked = run(rollout, answer=says("retrain", params={"C": 0.01}))
    assert asked.value("approve")["params"] == {"C": 0.01}
    state = ledger.state(market.name)
    assert ops(state) == ["retrain", "propose", "reject"] * 2 + ["request"]
    assert state.entries[-1].evidence["params"] == {"C": 0.01}
    said = [(e.by, e.reason) for e in state.entries[-2:]]
    assert said == [("ml-lead", "answered retrain"), ("ml-lead", f"instead of {market.name}@2")]

    request = state.entries[-1]
    decided = run(monitor)
    entry = ledger.state(market.name).entries[-1]
    assert decided.value("decide")["decision"] == entry.seq > request.seq
    assert (entry.op, entry.evidence["request"]) == ("retrain", request.seq)
    trained = run(train)
    found = model_store.client.get_run(trained.value("train")["run_id"])
    assert json.loads(found.data.params["params"]) == {"C": 0.01}
    assert found.data.tags["mlops.decision"] == str(entry.seq)


def test_a_retrain_of_the_very_same_recipe_has_nothing_to_judge(market, ledger):
    (monitor, train, _), _ = first_champion(market)
    draft = Entry(market.name, "request", "", "ann", "again", evidence={"params": {}})
    ledger.record(market.name, "ask", {"op": "request"}, lambda _: draft)
    assert run(monitor).value("decide")["op"] == "retrain"
    done = run(train)
    assert done.states["train"] == "skipped"
    assert set(done.states.values()) == {"success", "skipped"}
    assert ops(ledger.state(market.name))[-1] == "retrain"


def test_a_retrain_with_an_earlier_feature_set_and_data_version(market, ledger, model_store):
    """The feature code has changed since; what is asked for comes from the model's own archive."""
    first_champion(market)
    old = model_store.get(ModelRef(market.name, 1))
    changed = FEATURES.replace('rows[["x", "y"]]', 'rows[["y"]]')
    monitor, train, *_ = market.lifecycle(features=f"{market.module(changed)}:build").dags
    market.deliver(5, 6, labels=(4, 5))
    pins = {"features": old.tags["mlops.features"], "data": old.tags["mlops.data"]}
    draft = Entry(market.name, "request", "", "ann", "the old ones", evidence={"pins": pins})
    ledger.record(market.name, "ask", {"op": "request"}, lambda _: draft)
    assert run(monitor).value("decide")["op"] == "retrain"
    done = run(train)
    assert done.value("features")["pinned"] == pins["features"]
    trained = model_store.get(ModelRef.parse(done.value("train")["model"]))
    assert {k: trained.tags[f"mlops.{k}"] for k in pins} == pins
    with model_store.opened(trained.ref) as model, model_store.opened(old.ref) as before:
        assert list(model.build(market.weeks.rows.to_pandas())) == ["x", "y"]
        assert model.about["recipe"]["features"] == before.about["recipe"]["features"]


SHIFTED = """
    import os

    def build(rows):
        shift = float(os.environ.get("MLOPS_TEST_SHIFT", "0"))
        return rows[["x", "y"]] + shift
"""


def test_a_candidate_that_builds_other_features_than_in_training_is_not_approved(
    market, ledger, monkeypatch
):
    """Between training and rollout, something changed that no archive holds."""
    market.deliver(0, 5, labels=(0, 4))
    monitor, train, rollout, _ = market.lifecycle(features=f"{market.module(SHIFTED)}:build").dags
    run(monitor)
    trained = run(train)
    assert trained.states["submit"] == "success"
    monkeypatch.setenv("MLOPS_TEST_SHIFT", "0.5")
    rolled = run(rollout, answer=says("promote", "fine"))
    assert (rolled.states["smoke"], rolled.states["promote"]) == ("failed", "upstream_failed")
    assert isinstance(rolled.error, RejectedError)
    assert f"{market.name}@1 is not here what it was in training: features: 'x', 'y' differ" in str(
        rolled.error
    )
    assert ops(ledger.state(market.name)) == ["retrain", "propose"]
    monkeypatch.delenv("MLOPS_TEST_SHIFT")
    again = run(rollout, answer=says("promote", "fine"))
    assert again.state == "success"


POWERS = """
    def build(rows, *, power=1):
        return rows[["x", "y"]] ** power
"""


def test_feature_parameters_travel_once_and_an_earlier_set_keeps_its_own(
    market, ledger, model_store
):
    build = f"{market.module(POWERS)}:build"
    _, runs = first_champion(market, features=build, feature_params={"power": 3})
    assert runs[1].value("features")["params"] == {"power": 3}
    old = model_store.get(ModelRef(market.name, 1))
    monitor, train, *_ = market.lifecycle(features=build, feature_params={"power": 5}).dags
    market.deliver(5, 6, labels=(4, 5))
    pins = {"features": old.tags["mlops.features"]}
    for number, pinned in enumerate((pins, {})):
        draft = Entry(market.name, "request", "", "ann", "r", evidence={"pins": pinned})
        ledger.record(market.name, f"ask{number}", {"op": "request"}, lambda _, d=draft: d)
        run(monitor)
        done = run(train)
        assert done.state == "success", done.errors
        trained = model_store.get(ModelRef.parse(done.value("train")["model"]))
        assert (trained.tags["mlops.features"] == pins["features"]) == bool(pinned)
        power = 3 if pinned else 5
        assert done.value("features")["params"] == {"power": power}
        with model_store.opened(trained.ref) as model:
            rows = market.weeks.rows.to_pandas()
            assert model.build(rows)["y"].equals(rows["y"] ** power)


def test_every_task_twice_leaves_one_entry_one_version_one_prediction(
    market, ledger, observations, model_store
):
    market.deliver(0, 5, labels=(0, 4))
    monitor, train, rollout, _ = market.lifecycle().dags
    run(monitor, at=NOON)
    for dag in (monitor, train, train):
        assert run(dag, at=NOON).state == "success"
    rolled = run(rollout, at=NOON, answer=says("promote", "fine"))
    assert ops(ledger.state(market.name)) == ["retrain", "propose", "promote"]
    assert run(rollout, at=NOON).states["smoke"] == "skipped"
    with DAG(f"{market.name}__again", schedule=None) as again:
        smoke, approve = (
            PythonOperator(task_id=step, python_callable=partial(rolled.value, step))
            for step in ("smoke", "approve")
        )
        PromoteModelOperator(
            task_id="promote", model=market.name, smoke=smoke.output, answer=approve.output
        )
    assert run(again).value("promote") == rolled.value("promote")
    assert ops(ledger.state(market.name)) == ["retrain", "propose", "promote"]
    assert [v.version for v in versions(model_store, market.name)] == ["1"]
    experiment = model_store.experiment(market.name)
    assert len(model_store.client.search_runs([experiment])) == 1

    market.deliver(5, 6, labels=(4, 5))
    later = NOON.replace(day=9)
    first = run(monitor, at=later)
    head = ledger.state(market.name).head
    second = run(monitor, at=later)
    assert ledger.state(market.name).head == head
    assert second.value("decide") == first.value("decide")
    entry = ledger.numbered(market.name, first.value("decide")["decision"])
    named = {(monitor, subject) for monitor, subject, _ in entry.evidence["cited"]["findings"]}
    assert {(o.monitor, o.subject) for o in observations.read(market.name, "drift")} <= named
    assert check_citations(ledger, observations, market.name) == ()
    assert second.value("snapshot") == first.value("snapshot")
    assert (first.value("score")["written"], second.value("score")["written"]) == (168, 0)
    assert len(observations.served(market.name)) == 168


def test_a_decision_is_carried_out_by_the_run_that_took_it(market, ledger):
    market.deliver(0, 5, labels=(0, 4))
    monitor, *_ = market.lifecycle().dags
    first, again = run(monitor), run(monitor)
    assert first.states["request"] == "success"
    assert again.states["request"] == "skipped"
    assert again.events.get(f"{market.name}/request") is None
    assert ops(ledger.state(market.name)) == ["retrain"]


def test_a_window_is_judged_once_and_only_when_it_is_complete(
    market, observations, alone, model_store
):
    words = [OnRequest(), Drift(weights="importance")]
    (monitor, _, _), _ = first_champion(market, retrain=words)
    rows, labels = market.weeks.rows, market.weeks.labels
    first, day = 5 * 168, 24
    found, looks = [], []
    for start, stop in ((0, day), (day, 6 * day), (6 * day, 7 * day)):
        part = slice(first + start, first + stop)
        market._copy(market.name, rows.slice(part.start, part.stop - part.start))
        market._copy(f"{market.name}_labels", labels.slice(part.start, part.stop - part.start))
        tick = run(monitor)
        assert tick.state == "success", tick.errors
        looks.append(tick.value("snapshot"))
        found.append((list(tick.value("drift")["drifted"]), tick.value("performance")["windows"]))
    assert found == [([], 0), ([], 0), (["5"], 1)]
    assert len(observations.served(market.name)) == 168
    (drift,) = observations.read(market.name, "drift")
    assert (drift.body["status"], drift.body["dataset"]) == ("ok", False)
    assert drift.body["reason"].endswith("0% of the weight; 30% is enough")  # it knows importances
    assert drift.body["line"] == f"window 5: no column drifted against what {market.name}@1 saw"

    late = {"now": (MONDAY + 7 * WEEK).isoformat(), "stale": "2d"}
    nothing_new = {**tick.value("snapshot"), "added": 0}
    looked = run(alone(DetectDriftOperator, snapshot=nothing_new, **late))
    assert looked.value("t")["drifted"] == {}
    (again,) = observations.read(market.name, "drift")
    assert (again.subject, again.body["status"]) == (drift.subject, "warn")
    then = {"now": (MONDAY + 5 * WEEK).isoformat(), "stale": "2d"}
    run(alone(DetectDriftOperator, snapshot=looks[0], **then))  # an old run is cleared
    assert observations.read(market.name, "drift") == (again,)
    assert "the newest row is 7.0 days old, allowed are 2.0 days" in again.body["line"]
    champion = model_store.get(ModelRef(market.name, 1)).run_id
    page = model_store.document(champion, "monitoring/drift-5.html")
    assert f"<b>warn</b>: {again.body['line']}</p>" in page
    assert looked.values["t"]["mlops_report_url"].endswith("/monitoring/drift-5.html")
    run(alone(DetectDriftOperator, snapshot=nothing_new, **late | {"stale": "9d"}))
    page = model_store.document(champion, "monitoring/drift-5.html")
    assert f"<b>ok</b>: {drift.body['line']}</p>" in page  # as on record again


def test_a_table_that_may_not_be_stale_is_judged_by_the_clock_of_its_snapshot(market, observations):
    (monitor, _, _), _ = first_champion(market, data=replace(market.table, stale="2h"))
    rows = market.weeks.rows
    market._copy(market.name, rows.slice(5 * 168, 24))
    quiet = run(monitor, at=NOON)
    (before,) = observations.read(market.name, "drift")
    says = (
        rf"no window is complete since {market.name}@1 serves; the newest row is [0-9.]+ days old"
    )
    assert re.match(says, before.body["line"])
    assert before.body["status"] == "warn"
    assert quiet.value("decide")["drifted"] == []

    market._copy(market.name, rows.slice(5 * 168 + 24, 144))
    market.execute("insert into {} select 5000, now(), 0, 0, 'a'")
    monitor.get_task("drift").stale = "10m"
    fresh, again = (run(monitor, at=NOON.replace(day=9)) for _ in range(2))
    assert fresh.state == again.state == "success"
    looked = fresh.value("snapshot")["looked_at"]
    assert fresh.rendered["drift"]["now"] == again.rendered["drift"]["now"] == looked
    _, after = observations.read(market.name, "drift")
    assert (after.body["findings"], after.body["window"]) == ([], 5)
    assert 0 <= after.body["lag_s"] + 1 < 60


KNOWN = """
    select r.id, r."at", r.x, r.y, r.kind,
           avg(l.up) over (
             order by r."at" range between interval 1 day preceding and current row
           ) as ups
    from rows r
    asof left join labels l on r."at" >= l."at" + interval 7 days
"""


def test_a_model_lives_on_features_by_sql(market, ledger, observations, dataset_store):
    sql = Sql(KNOWN, known_after={"labels": "7d"})
    features = market.module(FEATURES.replace('rows[["x", "y"]]', "rows.fillna(0.5)[['y', 'ups']]"))
    (monitor, _, _), _ = first_champion(market, sql=sql, features=f"{features}:build")
    assert ledger.state(market.name).champion == 1
    market.deliver(5, 6, labels=(4, 5))
    again = run(monitor)
    assert again.state == "success"
    made, raw = (dataset_store.latest(n) for n in (market.name, f"{market.name}.raw"))
    table = dataset_store.open(made)
    assert table.rows == dataset_store.open(raw).rows == 6 * 168
    assert table.schema.names == ["id", "at", "x", "y", "kind", "ups"]
    assert table.sidecar.commit.origin.startswith(f"sql:rows={raw}, labels={market.name}.labels@")
    assert len(observations.served(market.name)) == 168  # the week that came after the champion


def test_sql_that_shows_a_row_its_own_label_stops_before_anything_is_learnt(market, ledger):
    own = KNOWN.replace("+ interval 7 days", "")
    market.deliver(0, 5, labels=(0, 4))
    done = run(market.lifecycle(sql=Sql(own)).dags[0])
    assert (done.state, done.states["decide"]) == ("failed", "upstream_failed")
    assert isinstance(done.error, UserCodeError)
    assert "see the future" in str(done.error)
    assert "'ups'" in str(done.error)
    assert ledger.state(market.name).entries == ()
