"""A rollout by its operators: in stages, stopped by harm, rolled back by decay, by a button."""

import threading
import time
from datetime import datetime, timedelta

import pytest

from airflow_mlops.core.deployment.scoring import Batch
from airflow_mlops.core.deployment.splitting import score_split
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout import Begun, Split
from airflow_mlops.core.training.models import BASE_LOSS
from airflow_mlops.policy import Canary, Decay, Full, OnRequest, Shadow
from tests.operators.running import run
from tests.operators.test_loop import aliases, first_champion, ops, says

pytestmark = [pytest.mark.airflow, pytest.mark.services]


class Notes(list):
    def __call__(self, context):
        self.append(context["mlops"]["line"] if "mlops" in context else "failed")


def ask_for(ledger, name, **params):
    """A person asks for a retrain."""
    draft = Entry(name, "request", "", "carl", "try", evidence={"params": params, "pins": {}})
    return ledger.record(name, f"asked {params}", {}, lambda _: draft)[0]


def quick(dag):
    for task in dag.tasks:
        if hasattr(task, "poke_interval"):
            task.mode, task.poke_interval = "poke", 0.2
    return dag


class Feed:
    """Weeks that arrive, are versioned and scored while a stage runs, as by the monitor."""

    def __init__(self, market, registry, observations, dataset_store, weeks):
        self.market, self.registry, self.store = market, registry, dataset_store
        self.observations, self.weeks, self.errors = observations, weeks, []

    def __enter__(self):
        self.thread = threading.Thread(target=self._live)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()
        assert self.errors == []

    def _live(self):
        try:
            for week in self.weeks:
                self._wait()
                self._deliver(week)
        except Exception as error:  # noqa: BLE001  (a thread tells nobody)
            self.errors.append(error)

    def _wait(self):
        end = time.monotonic() + 60
        while Begun.of(self.registry.ledger.standing(self.market.name)) is None:
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.05)

    def _deliver(self, week):
        name, everything = self.market.name, self.market.weeks
        for dataset, source in (
            (name, everything.source(0, week + 1)),
            (f"{name}.labels", everything.label_source(0, week + 1)),
        ):
            self.store.append(
                dataset,
                source,
                app_key=f"w{week}",
                time="at",
                key="id",
                window=timedelta(weeks=1),
            )
        table = self.store.open(self.store.latest(name))
        rows = table.between(datetime.fromisoformat(table.windows()[-1].start)).to_arrow()
        split = Split.of(self.registry.ledger.standing(name))
        batch = Batch(rows, str(table.ref), "at", "id", "feed")
        score_split(self.registry.models, self.observations, split, batch)


@pytest.fixture
def feed(market, registry, observations, dataset_store, labelled_weeks):
    market.weeks = labelled_weeks(24)
    return lambda *weeks: Feed(market, registry, observations, dataset_store, weeks)


def second_candidate(market, ledger, dags, **params):
    monitor, train, *_ = dags
    ask_for(ledger, market.name, **params)
    market.deliver(5, 6, labels=(4, 5))
    assert run(monitor).value("decide")["op"] == "retrain"
    trained = run(train)
    assert trained.states["submit"] == "success", trained.states
    return trained


def test_a_candidate_goes_through_its_stages_and_becomes_champion(
    market, ledger, registry, feed, model_store
):
    plan = [Shadow("7d"), Canary(percent=50, hold="7d"), Full()]
    dags, (*_, first) = first_champion(market, rollout=plan)
    skipped = {t for t, s in first.states.items() if s == "skipped"}
    assert skipped == {"flips", "shadow", "canary"}  # the first model goes to everybody
    second_candidate(market, ledger, dags, C=0.5)
    with feed(*range(6, 10)):
        done = run(quick(dags[2]), answer=says("promote", "fine"))
    assert set(done.states.values()) == {"success"}, done.states
    state = ledger.state(market.name)
    assert ops(state)[-6:] == ["propose", "stage", "stage", "stage", "stage", "promote"]
    assert aliases(model_store, market.name) == {"champion": "2", "previous": "1"}
    looks = [e.evidence.get("look", {}).get("answer") for e in state.entries if e.op == "stage"]
    assert looks == [None, "held", None, "held"]
    assert done.value("canary")["arms"]["candidate"]["units"] >= 100
    assert "decisions change" in done.value("flips")["line"]


def test_a_canary_that_harms_is_stopped_and_people_are_told(market, ledger, feed, observations):
    notes = Notes()
    plan = [Canary(percent=50, hold="90d"), Full()]
    words = {"rollout": plan, "notify": [notes], "gates": market.lifecycle().gates[:1]}
    dags, _ = first_champion(market, **words)
    second_candidate(market, ledger, dags, bad=True)
    with feed(*range(6, 9)):
        done = run(quick(dags[2]), answer=says("promote", "nobody looked"))
    assert done.states["canary"] == "failed"
    assert done.states["promote"] == "upstream_failed"
    assert isinstance(done.error, RejectedError)
    assert f"{market.name}@2 is surely worse: brier" in str(done.error)
    state = ledger.state(market.name)
    assert ops(state)[-4:] == ["propose", "stage", "stage", "refuse"]
    assert (state.champion, state.challenger) == (1, None)
    newest = observations.read(market.name, "rollout", last=1)[0].body
    assert (newest["status"], newest["look"]) == ("broken", "stopped")
    assert done.tries["canary"] == 1


def test_an_answer_that_is_no_yes_begins_no_stage(market, ledger):
    dags, _ = first_champion(market, rollout=[Shadow("7d"), Full()])
    second_candidate(market, ledger, dags, C=0.5)
    done = run(quick(dags[2]), answer=says("reject", "not now"))
    assert (done.states["shadow"], done.states["promote"]) == ("skipped", "skipped")
    assert ops(ledger.state(market.name))[-2:] == ["propose", "reject"]


DECAYING = {"rollback": [Decay("brier", drop=0.05, sustained="1 of 1")], "retrain": [OnRequest()]}


def test_a_champion_that_decays_makes_way_for_a_better_one_before_it(
    market, ledger, model_store, registry, ask
):
    notes = Notes()
    dags, _ = first_champion(market, notify=[notes], **DECAYING)
    second_candidate(market, ledger, dags, C=0.5)
    run(dags[2], answer=says("promote", "fine"))
    # the next champion was fitted on the opposite of the labels, and its backtest did not show it
    dags[1].get_task("train").train_params = {"bad": True}
    ask_for(ledger, market.name, bad=True)
    market.deliver(6, 7, labels=(5, 6))
    assert run(dags[0]).value("decide")["op"] == "retrain"
    trained = run(dags[1])
    version = int(trained.value("train")["model"].partition("@")[2])
    ref = ModelRef(market.name, version)
    model_store.tag(ref, BASE_LOSS, "0.12")
    registry.promote(ref, ask("by hand"), epoch=None, order=None)
    assert ledger.state(market.name).champion == version

    for week in range(7, 10):
        market.deliver(week, week + 1, labels=(week - 1, week))
        found = run(dags[0]).value("guard")
        if found["entry"]:
            break
    assert found["status"] == "broken", found
    state = ledger.state(market.name)
    entry = ledger.numbered(market.name, found["entry"])
    assert (entry.op, entry.version, state.champion) == ("rollback", 2, 2)
    assert f"{market.name}@{version} decayed: brier" in entry.reason
    assert f"{market.name}@2 is surely better on these rows" in entry.reason
    assert entry.evidence["comparison"]["difference"] < 0
    assert any("rolled back to" in line for line in notes)
    assert aliases(model_store, market.name)["champion"] == "2"
    again = run(dags[0])
    assert again.value("guard")["status"] == "ok"
    assert ops(ledger.state(market.name)).count("rollback") == 1


def test_a_champion_with_nobody_before_it_stays_and_the_guard_says_so(market, ledger):
    words = {"gates": market.lifecycle().gates[:1], "params": {"bad": True}}
    dags, _ = first_champion(market, **words, **DECAYING)
    for week in range(5, 7):
        market.deliver(week, week + 1, labels=(week - 1, week))
        done = run(dags[0])
    found = done.value("guard")
    assert found["status"] in ("ok", "warn")
    assert ledger.state(market.name).champion == 1


class TestButton:
    def test_it_rolls_back_and_says_who_pressed_it(self, market, trained_champions, ledger):
        trained_champions(2)
        button = market.lifecycle().dags[3]
        done = run(button, conf={"to": None, "reason": "complaints", "force": False})
        assert done.state == "success"
        entry = ledger.state(market.name).entries[-1]
        assert (entry.op, entry.version, entry.reason) == ("rollback", 1, "complaints")
        assert done.events[f"{market.name}/champion"] == {
            "model": f"{market.name}@1",
            "entry": entry.seq,
        }

    def test_a_version_that_never_was_champion_is_named(self, market, trained_champions):
        trained_champions(1)
        button = market.lifecycle().dags[3]
        done = run(button, conf={"to": "7", "reason": "complaints", "force": False})
        assert isinstance(done.error, ConfigurationError)
        assert f"{market.name}@7 never was champion; champions so far: 1" in str(done.error)

    def test_a_reason_is_asked_for(self, market):
        with pytest.raises(Exception, match="reason"):
            run(market.lifecycle().dags[3], conf={"to": None, "reason": "", "force": False})
