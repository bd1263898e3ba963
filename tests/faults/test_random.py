"""
Killed at a random moment, or two at once, again and again: as if nothing had happened.

How many kills of each step, and rounds of each pair: environment variable ``MLOPS_KILLS``. The
moments come from a seed, ``MLOPS_SEED``.
"""

import os
import random
import shutil
import time
from collections import Counter

import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.deployment.registry import Ask
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.refs import DatasetRef, Recipe
from tests.faults.truth import settled

KILLS = int(os.environ.get("MLOPS_KILLS", "3"))
SEED = os.environ.get("MLOPS_SEED", "0")

AGAIN = 0.3
"""Share of retries that are killed, too."""


class Killer:
    """Kills a step at moments within the time that it takes, and then lets it end."""

    def __init__(self, nursery, scenario, print_line):
        self.nursery, self.scenario, self.print_line = nursery, scenario, print_line
        self.random, self.took, self.seen = random.Random(f"{SEED} {scenario}"), 0.0, Counter()

    def warm(self, facts):
        """Do it once, without a kill: what it takes is the time in which it can be killed."""
        start = time.monotonic()
        found = self.nursery.succeed(self.scenario, facts)
        self.took = time.monotonic() - start
        return found

    def strike(self, facts):
        """Kill it, now and then twice; then do it to its end."""
        while True:
            after = self.random.uniform(0, self.took)
            self.seen["killed" if self.nursery.cut(self.scenario, facts, after) else "late"] += 1
            if self.random.random() > AGAIN:
                break
        return self.nursery.succeed(self.scenario, facts)

    def kills(self, wanted=KILLS):
        """Count until enough were killed in mid-work."""
        number = 0
        while self.seen["killed"] < wanted and number < 4 * wanted:
            number += 1
            yield number
        self.print_line(f"{self.scenario}: {dict(self.seen)} of {self.took:.2f} s")
        assert self.seen["killed"] >= wanted / 2, self.seen


@pytest.fixture
def killer(nursery, capsys):
    nursery.run()  # it is ready

    def say(line):
        with capsys.disabled():
            print(f"\n{line}")

    return lambda scenario: Killer(nursery, scenario, say)


@pytest.fixture
def facts(two_versions):
    return two_versions


@pytest.fixture
def copies(facts, tmp_path):
    """``copies(1)``: the same facts about a copy of the dataset."""
    made = []

    def copy(number):
        for old in made:
            shutil.rmtree(old)
        made[:] = [tmp_path / f"copy-{number}"]
        shutil.copytree(facts["root"], made[0])
        return {**facts, "root": str(made[0])}

    return copy


def whole(root, number=None):
    """Read every version that is left, or the newest ones, and compare it with its digests."""
    store, found = DatasetStore(root), {}
    for commit in store.commits("d")[:number]:
        table = store.open(DatasetRef.parse(commit.ref))
        try:
            table.verify()
        except DatasetNotFoundError:
            continue  # it was removed
        assert table.between().rows == table.rows
        found[commit.ref] = table
    return found


def keys(table):
    return {*table.between().to_arrow()["id"].to_pylist()}


def check_append(found, commit):
    assert (commit["ref"], commit["rows"]) == ("d@3", 8 * 168)
    assert [*found] == ["d@3", "d@2", "d@1"]


def check_restore(found, commit):
    assert commit["ref"] == "d@3"
    assert found["d@3"].digest == found["d@1"].digest


def check_forget(found, _):
    assert {"d@1", "d@2"} < {*found}
    assert not any({5, 400} & keys(table) for table in found.values())


def check_collect(found, _):
    assert [*found] == ["d@2"]


@pytest.mark.parametrize(
    ("scenario", "check"),
    [
        ("append", check_append),
        ("restore", check_restore),
        ("forget", check_forget),
        ("collect", check_collect),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dataset_is_whole_whenever_its_writer_was_killed(killer, copies, scenario, check):
    found, asked = killer(scenario), {"keys": ["400", "5"]}
    found.warm(copies(0) | asked)
    for number in found.kills():
        facts = copies(number) | asked
        commit = found.strike(facts)
        check(whole(facts["root"]), commit)
        assert found.nursery.succeed(scenario, facts).get("ref") == commit.get("ref"), number


def check_both(names, found, said):
    """Both did what they were asked to, one after the other, in whichever order."""
    newest, *_ = found.values()
    if "append" in names:  # whoever comes after it takes at most what it was asked to take
        assert newest.rows in {3 * 168, 8 * 168, 8 * 168 - 2}
    elif "forget" in names:
        assert not any({5, 400} & keys(table) for table in found.values())
    if names == ["append", "append"]:
        assert [*found] == ["d@3", "d@2", "d@1"]
        assert said[0] == said[1]


@pytest.mark.parametrize(
    "names",
    [
        ["append", "append"],
        ["append", "restore"],
        ["append", "forget"],
        ["append", "collect"],
        ["restore", "restore"],
        ["restore", "forget"],
        ["forget", "forget"],
        ["forget", "collect"],
    ],
    ids="-".join,
)
def test_two_at_once_are_one_after_the_other(nursery, copies, names):
    nursery.run()
    moments = random.Random(f"{SEED} {names}")
    for number in range(KILLS):
        facts = copies(number) | {"keys": ["400", "5"]}
        orders = [
            {"scenario": "patient", "facts": facts | {"step": name}, "begin": moments.random() / 10}
            for name in names
        ]
        ended = nursery.run(*orders)
        assert [one["code"] for one in ended] == [0, 0], (number, orders)
        # Nothing is too young to be removed here: only the newest version is sure to be there.
        found = whole(facts["root"], 1 if "collect" in names else None)
        check_both(names, found, [one["found"] for one in ended])


@pytest.mark.services
def test_a_promotion_is_one_whenever_it_was_killed(killer, services, make_version, registry, model):
    found, refs = killer("promote"), [make_version() for _ in range(3)]
    facts = {"mlflow": services.urls["mlflow"], "dsn": services.dsn("mlops", user="mlops_task")}

    def asked(number):
        state = registry.ledger.standing(model)
        facts_now = {"ref": str(refs[number % 3]), "key": f"k{number}", "epoch": state.epoch}
        return facts | facts_now | {"order": number + 1}

    found.warm(asked(0))
    for number in found.kills():
        entry = found.strike(asked(number))
        state = settled(registry, model)
        assert (state.champion, state.epoch) == (number % 3 + 1, entry["seq"]), number
        assert len(state.entries) == number + 1


@pytest.mark.services
def test_a_refusal_is_one_whenever_it_was_killed(killer, services, make_version, registry, model):
    found, ref = killer("promote"), make_version()
    facts = {"mlflow": services.urls["mlflow"], "dsn": services.dsn("mlops", user="mlops_task")}
    facts |= {"ref": str(ref), "op": "refuse", "key": "first"}
    registry.propose(ref, Ask("propose", "tests", "better", {}), epoch=0, order=1)
    found.warm(facts)
    for number in found.kills():
        ask = Ask(f"propose {number}", "tests", "better", {})
        registry.propose(ref, ask, epoch=0, order=number + 1)
        found.strike(facts | {"key": f"k{number}"})
        state = settled(registry, model)
        assert (state.challenger, state.ops[-2:]) == (None, ["propose", "refuse"]), number


@pytest.mark.services
def test_a_recipe_has_one_version_whenever_its_training_was_killed(
    killer, services, make_training, model, model_store, dataset_store, tmp_path
):
    found = killer("train")

    def asked(number):
        training = make_training(params={"C": 1.0 + number})
        return {
            "mlflow": services.urls["mlflow"],
            "dsn": services.dsn("mlops", user="mlops_task"),
            "root": dataset_store.root,
            "code": str(tmp_path / "user_code"),
            "build": training.features.name,
            "fit": training.train.name,
            "recipe": training.recipe.to_dict(),
        }

    found.warm(asked(0))
    for number in found.kills(max(2, KILLS // 5)):  # each takes seconds
        facts = asked(number)
        done = found.strike(facts)
        (version,) = model_store.of_recipe(model, Recipe.from_dict(facts["recipe"]).id)
        assert str(version.ref) == done["model"]
        with model_store.opened(version.ref) as loaded:
            assert loaded.about["recipe"] == facts["recipe"]
    experiment = model_store.experiment(model)
    states = Counter(run.info.status for run in model_store.client.search_runs([experiment]))
    assert {*states} <= {"FINISHED", "KILLED"}, states
