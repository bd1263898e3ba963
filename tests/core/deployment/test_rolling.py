"""A rollout on real rows: who scores what, what is on record, and what ends a stage."""

import re
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pytest

from airflow_mlops.core.deployment.rolling import Turn, advance, give_up
from airflow_mlops.core.deployment.scoring import Batch
from airflow_mlops.core.deployment.splitting import _assigned, score_split
from airflow_mlops.core.errors import (
    ConcurrentPromotionError,
    ConfigurationError,
    UserCodeError,
)
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout import Begun, Split, assign
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.policy import AB, Canary, Shadow
from tests.conftest import Weeks

pytestmark = pytest.mark.services

ROWS = 168
BAD = """
from sklearn.linear_model import LogisticRegression

def fit(X, y, *, seed, **params):
    return LogisticRegression(random_state=seed, **params).fit(X, 1 - y)
"""
FAILS = """
def build(rows):
    if str(rows["at"].max()) > "2024-02-26":
        raise RuntimeError("out of memory")
    return rows[["x", "y"]]
"""


class Life:
    """One champion, one candidate, and weeks that arrive."""

    def __init__(self, registry, observations, store, append, weeks, model):
        self.registry, self.observations, self.store = registry, observations, store
        self.append, self.weeks, self.model, self.week = append, weeks, model, 8
        self.exposures = Exposures(observations)

    def deliver(self, number=1):
        """Rows and labels arrive, and are scored by the split of the ledger."""
        self.week += number
        for name, source in (
            (self.model, self.weeks.source(0, self.week)),
            (f"{self.model}.labels", self.weeks.label_source(0, self.week)),
        ):
            self.append(self.store, name, source, app_key=f"w{self.week}")
        return self.score(number)

    def score(self, number=1, entity="id"):
        table = self.table(self.model)
        since = datetime.fromisoformat(table.windows()[-number].start)
        rows = table.between(since).to_arrow()
        split = Split.of(self.registry.ledger.standing(self.model))
        batch = Batch(rows, str(table.ref), "at", "id", "run", entity)
        return score_split(self.registry.models, self.observations, split, batch)

    def table(self, name):
        return self.store.open(self.store.latest(name))

    def look(self, turn):
        now = self.table(self.model).watermark
        return advance(self.registry, self.exposures, turn, now=now, labels=self.labels)

    def labels(self, begun):
        table = self.table(f"{self.model}.labels")
        rows = table.between(datetime.fromisoformat(begun.since)).to_arrow(["id", "up"])
        return rows.set_column(0, "key", rows["id"].cast("string")).rename_columns(["key", "label"])

    def propose(self, ref, decision=1):
        from airflow_mlops.core.deployment.registry import Ask

        state = self.registry.ledger.state(self.model)
        ask = Ask(f"propose:{ref}", "train", "passed", {"decision": decision})
        return self.registry.propose(ref, ask, epoch=state.epoch, order=decision)

    def predictions(self, version):
        from datetime import UTC

        span = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
        found = self.observations.predictions(ModelRef(self.model, version), *span)
        return set(map(int, found["key"].to_pylist()))

    @property
    def ops(self):
        return [e.op for e in self.registry.ledger.state(self.model).entries]


@pytest.fixture
def life(registry, observations, dataset_store, append, labelled_weeks, trained_champions, model):
    weeks = labelled_weeks(16)
    first = Weeks(*(t.slice(0, 8 * ROWS) for t in (weeks.rows, weeks.labels)))
    trained_champions(1, weeks=first)
    return Life(registry, observations, dataset_store, append, weeks, model)


@pytest.fixture
def candidate(life, make_training):
    """``candidate(stage, train=...)``: a proposed candidate, and its turn in a stage."""

    def make(stage, place=0, **code):
        weeks = Weeks(*(t.slice(0, 8 * ROWS) for t in (life.weeks.rows, life.weeks.labels)))
        asked = {"params": {"C": 0.5}, "weeks": weeks, **code}
        loss = ("brier", loss_function("brier"))
        trained = train_model(life.registry.models, make_training(**asked), loss=loss, tags={})
        entry = life.propose(ModelRef.parse(trained.model))
        return Turn(entry, stage, place, "brier", "tests")

    return make


def test_without_a_stage_the_champion_scores_everything(life):
    done = life.deliver()
    assert (done.champion.rows, done.candidate, done.failed) == (ROWS, None, "")
    assert len(life.predictions(1)) == ROWS


def test_in_a_shadow_both_score_and_the_champions_answers_count(life, candidate):
    turn = candidate(Shadow("14d"))
    assert life.look(turn).status == "running"
    done = life.deliver()
    assert (done.champion.written, done.candidate.written) == (ROWS, ROWS)
    assert life.predictions(1) == life.predictions(2)
    assert {v for _, v, _ in life.observations.served(life.model)} == {1}
    assert life.look(turn).status == "running"
    life.deliver(2)
    found = life.look(turn)
    assert (found.status, found.answer) == ("passed", "held")
    assert "held 14d, not surely worse: brier" in found.reasons[0]
    assert life.look(turn) == found  # asked again, the same answer
    assert life.ops == ["promote", "propose", "stage", "stage"]


def test_in_a_canary_every_entity_has_one_version_by_the_split_of_the_ledger(life, candidate):
    turn = candidate(Canary(percent=50, hold="14d"))
    life.look(turn)
    split = Split.of(life.registry.ledger.standing(life.model))
    done = life.deliver(2)
    one, two = life.predictions(1), life.predictions(2)
    assert one & two == set()
    assert one | two == set(range(8 * ROWS, 10 * ROWS))
    assert two == {key for key in one | two if assign(key, split).arm == "candidate"}
    assert done.champion.rows + done.candidate.rows == 2 * ROWS
    again = life.score(2)
    assert (again.champion.written, again.candidate.written) == (0, 0)
    life.deliver()
    found = life.look(turn)
    assert (found.status, found.answer) == ("passed", "held")
    arms = found.arms
    assert arms.champion.units + arms.candidate.units == 3 * ROWS
    assert arms.champion.waiting == arms.candidate.waiting == 0
    assert life.ops == ["promote", "propose", "stage", "stage"]
    after = life.deliver()  # the stage is over: the champion serves until the next one begins
    assert after.candidate is None


def test_an_ab_test_says_when_it_begins_how_long_it_takes(life, candidate):
    life.deliver(2)
    turn = candidate(AB(percent=50, min_effect=0.5, within="90d"))
    life.look(turn)
    entry = life.registry.ledger.state(life.model).last("stage")
    assert re.search(r"takes about [\d,]+ units \([\d.]+ d\), and 80 % of the time", entry.reason)
    assert "how long it takes" not in entry.reason


def test_a_harmful_candidate_is_stopped_refused_and_serves_nobody_any_more(life, candidate):
    turn = candidate(Canary(percent=50, hold="90d"), train=BAD)
    life.look(turn)
    life.deliver(3)
    found = life.look(turn)
    assert (found.status, found.answer) == ("stopped", "harm")
    assert f"{life.model}@2 is surely worse: brier" in found.reasons[0]
    state = life.registry.ledger.state(life.model)
    assert (state.champion, state.challenger) == (1, None)
    assert life.ops == ["promote", "propose", "stage", "stage", "refuse"]
    assert state.entries[-1].reason == state.entries[-2].reason
    assert life.look(turn) == found
    assert life.ops[-1] == "refuse"
    assert len(life.ops) == 5
    assert life.deliver().candidate is None


def test_rows_of_a_candidate_that_fails_are_answered_by_the_champion(life, candidate):
    turn = candidate(Shadow("90d"), features=FAILS)
    life.look(turn)
    done = life.deliver()
    assert "out of memory" in done.failed
    assert done.champion.written == ROWS
    found = life.look(turn)
    assert (found.status, found.answer) == ("stopped", "failures")
    assert f"168 of 168 requests to {life.model}@2 failed" in found.reasons[0]


NEEDS_X = """
def build(rows):
    return rows[["x", "y"]].fillna({"x": 0.0})
"""


def test_rows_that_only_the_candidate_refuses_are_served_by_the_champion(
    life, candidate, make_training, ask
):
    """The champion has learnt from rows with nulls in x, the candidate from rows without."""
    weeks = Weeks(*(t.slice(0, 8 * ROWS) for t in (life.weeks.rows, life.weeks.labels)))
    made = make_training(features=NEEDS_X, params={"C": 2.0}, weeks=weeks)
    columns = [{**c, "nullable": True} for c in made.about["contract"]["columns"]]
    made = replace(made, about={"contract": {**made.about["contract"], "columns": columns}})
    loss = ("brier", loss_function("brier"))
    champion = ModelRef.parse(train_model(life.registry.models, made, loss=loss, tags={}).model)
    life.registry.promote(champion, ask("tolerant"), epoch=None, order=None)
    turn = candidate(Canary(percent=50, hold="90d"))
    life.look(turn)
    holes = life.weeks.rows["x"].to_pylist()
    holes[8 * ROWS : 8 * ROWS + 40] = [None] * 40
    place = life.weeks.rows.schema.get_field_index("x")
    life.weeks = Weeks(life.weeks.rows.set_column(place, "x", pa.array(holes)), life.weeks.labels)
    life.deliver()
    found = [life.predictions(version) for version in (champion.version, turn.ref.version)]
    assert found[0] | found[1] == set(range(8 * ROWS, 9 * ROWS))
    arms = life.exposures.arms(Begun.of(life.registry.ledger.standing(life.model)))
    assert 5 < arms.candidate.failed < 35
    assert arms.champion.failed == 0


def test_rows_of_nobody_are_the_champions_and_no_exposures(life, candidate):
    turn = candidate(Canary(percent=50, hold="90d"))
    life.look(turn)
    life.deliver()
    table = life.table(life.model).between().to_arrow().slice(8 * ROWS)
    customers = [None if i % 3 == 0 else "" if i % 3 == 1 else f"c{i}" for i in range(ROWS)]
    table = table.append_column("customer", pa.array(customers))
    batch = Batch(table, "d", "at", "id", "r", "customer")
    split = Split.of(life.registry.ledger.standing(life.model))
    met, mask = _assigned(split, batch)
    assert met.tolist() == [i % 3 == 2 for i in range(ROWS)]
    assert 0 < mask.sum() < met.sum()
    assert not (mask & ~met).any()


def test_what_cannot_be_computed_begins_no_stage(life, candidate):
    turn = replace(candidate(Canary(percent=50, hold="14d")), metric="nowhere:loss", baseline=0.1)
    with pytest.raises(UserCodeError, match="nowhere"):
        life.look(turn)
    assert life.ops == ["promote", "propose"]


def test_a_stage_that_nobody_can_look_at_ends(life, candidate):
    turn = candidate(Canary(percent=50, hold="90d"))
    life.look(turn)
    give_up(life.registry, turn, "its task ran into its timeout")
    give_up(life.registry, turn, "its task ran into its timeout")
    assert life.ops == ["promote", "propose", "stage", "refuse"]
    assert life.deliver().candidate is None


def test_a_stage_whose_candidate_was_superseded_is_not_begun_again(life, candidate, make_version):
    turn = candidate(Canary(percent=50, hold="14d"))
    life.look(turn)
    life.propose(make_version(), decision=2)
    assert life.deliver().candidate is None
    with pytest.raises(ConcurrentPromotionError, match="something else ended it"):
        life.look(turn)


def test_a_rollout_without_a_champion_says_what_to_do(registry, observations, make_version, model):
    entry = Entry(model, "propose", "", "t", "r", make_version().version, seq=1)
    turn = Turn(entry, Shadow("1d"), 0, "brier", "tests")
    with pytest.raises(ConfigurationError, match="has no champion to compare with; the first"):
        advance(
            registry,
            Exposures(observations),
            turn,
            now=datetime.fromisoformat("2026-03-02T00:00+00:00"),
            labels=lambda begun: None,
        )


def test_another_metric_needs_its_baseline(life, candidate):
    turn = candidate(Canary(percent=10, metric="conversion", better="more"))
    with pytest.raises(ConfigurationError, match="compares 'conversion': say what it is on aver"):
        life.look(turn)
    assert life.look(replace(turn, baseline=0.03)).status == "running"


def test_a_column_of_entities_that_is_not_there_is_named(life, candidate):
    life.look(candidate(Canary(percent=50, hold="14d")))
    with pytest.raises(ConfigurationError, match=r"no column 'customer' of entities in .* has id"):
        life.score(entity="customer")
