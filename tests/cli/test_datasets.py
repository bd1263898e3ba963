"""Verbs about datasets, against real stores."""

import os
import sys

import psycopg
import pytest
from deltalake import DeltaTable

from airflow_mlops.core.data import retention
from airflow_mlops.core.monitoring.observations import Observations

pytestmark = pytest.mark.services


@pytest.fixture
def two(connections, dataset_store, append, labelled_weeks):
    """A dataset of two versions: the second one corrects the first."""
    weeks = labelled_weeks(2)
    append(dataset_store, "d", weeks.source(), author="me", origin="warehouse:d")
    append(dataset_store, "d", weeks.source(x=[1.0] * 336), "k2")
    return dataset_store


def test_versions_are_listed_with_their_tags(mlops, two):
    assert mlops("tag", "d@1", "paper", "--by", "me").out.startswith("d@paper is d@1, by me")
    newest, first = mlops("versions", "d").out.splitlines()
    assert newest.startswith("d@2 ")
    assert first.startswith("d@1 ")
    assert first.endswith("warehouse:d  by me  [paper]")
    found = mlops("versions", "d", "--json").json["versions"]
    assert [(v["ref"], v["tags"]) for v in found] == [("d@2", []), ("d@1", ["paper"])]
    assert mlops("versions", "e").code == 2


def test_rows_that_another_tool_changed_are_adopted_by_name(mlops, two):
    assert mlops("adopt", "d").out == "no other tool has touched the rows of d\n"
    DeltaTable(two.log.uri("d")).delete("id < 36")
    refused = mlops("diff", "d@1", "d@3", "--data")
    assert refused.code == 1
    assert "version 3 DELETE by delta-rs" in refused.err
    done = mlops("adopt", "d", "--by", "ann")
    assert done.out.startswith(
        "d@4 has 300 rows (-36): adopted commits of another tool: version 3 "
    )
    assert mlops("versions", "d").out.splitlines()[0].endswith("by ann")


def test_a_tag_stands_for_a_version_in_every_verb(mlops, two):
    mlops("tag", "d@1", "paper")
    assert "336 changed" not in mlops("diff", "d@paper", "d@1", "--data").out
    assert mlops("card", "d@paper", "--data").out.startswith("# Dataset d@1")
    assert mlops("tag", "d@2", "paper").code == 1
    assert mlops("tag", "d@2", "paper", "--move").out.startswith("d@paper is d@2")
    assert mlops("tag", "d@2", "paper", "--remove").out == "d has no tag 'paper'\n"
    done = mlops("restore", "d@paper")
    assert (done.code, done.err) == (
        2,
        "DatasetNotFoundError: no tag 'paper' of dataset d; tags: none\n",
    )


def test_a_reader_that_has_seen_enough_is_no_error(two, parser, monkeypatch):
    """``airflow mlops versions d | head -1``: the pipe is closed while it prints."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        args = parser.parse_args(["mlops", "versions", "d"])
        assert args.func(args) == 0


def test_a_version_is_restored(mlops, two):
    done = mlops("restore", "d@1", "--by", "me")
    assert done.out.startswith("d@3 has the 336 rows of d@1; the next snapshot reads on from 2024")
    assert mlops("restore", "d@2", "--json").json["ref"] == "d@4"
    assert mlops("restore", "d@9").code == 2


def test_a_person_is_looked_for_and_forgotten(mlops, trained_champions, model, dataset_store):
    trained_champions(1)
    done = mlops("forget", model, "--key", "5", "--key", "6")
    assert done.code == 0
    assert f"2 rows in 1 versions of {model} would go" in done.out
    assert f"model {model}@1 learnt from them (champion)" in done.out
    assert done.out.endswith("nothing was changed; to do it, say --apply\n")
    assert mlops("forget", model, "--key", "5", "--apply").code == 2  # no reason
    done = mlops("forget", model, "--key", "5", "--apply", "--reason", "they asked", "--json")
    assert (done.json["done"], done.json["datasets"][0]["rows"]) == (True, 1)
    assert dataset_store.open(dataset_store.latest(model)).rows == 1343
    assert "they asked" in mlops("history", model).out
    assert mlops("forget", model).code == 2


DAG_FILE = """
from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import *

Lifecycle(
    name="{name}",
    data=Table("warehouse", "public.t", "id", "at", "up", "public.labels"),
    select=Window("28d"),
    features="project.features:build",
    train="project.train:fit",
    approve=Approval(by=["ann"]),
    keep={keep},
)
"""


def test_what_is_kept_no_longer_goes_as_the_dag_files_say(
    mlops, ledger, model, tmp_path, monkeypatch, two
):
    observations = Observations(ledger.dsn)
    for day in (40, 20, 0):
        with psycopg.connect(ledger.dsn, autocommit=True) as owner:
            owner.execute(
                "insert into mlops.observations (model, monitor, subject, body, recorded_at) "
                "values (%s, 'usage', %s, '{}', now() - %s * interval '1 day')",
                (model, str(day), day),
            )
    for name, keep in ((model, 'Keep(usages="30d")'), (f"{model}b", None)):
        (tmp_path / f"{name}.py").write_text(DAG_FILE.format(name=name, keep=keep), "utf-8")
    (tmp_path / "broken.py").write_text("Lifecycle = 1 / 0\n", "utf-8")
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    asked = mlops("gc")
    assert f"goes    1 usages of {model} from before" in asked.out
    assert f"keeps   all that was measured of {model}b: its Lifecycle has no keep=" in asked.out
    assert "skipped" in asked.out
    assert len(observations.read(model, "usage")) == 3
    done = mlops("gc", model, "--apply", "--json").json
    assert [(part["what"], part["rows"]) for part in done["old"]] == [("usages", 1)]
    assert [o.subject for o in observations.read(model, "usage")] == ["20", "0"]


def test_garbage_is_looked_for_and_removed(mlops, trained_champions, model, two, monkeypatch):
    trained_champions(1)
    assert "what is younger than 1 day, 0:00:00 always stays" in mlops("gc", "--older", "1h").err
    monkeypatch.setattr(retention, "SHORTEST", retention.SHORTEST * 0)
    done = mlops("gc", "--older", "0d")
    assert done.code == 0
    assert f"pinned  model {model}@1: champion" in done.out
    assert f"pinned  data {model}@1: model {model}@1 learnt from it" in done.out
    assert done.out.endswith("nothing was changed; to remove it, say --apply\n")
    assert mlops("gc", model, "--older", "0d", "--apply", "--json").json["applied"] is True
    assert "keeps   all that was measured of any model: no Dag file declares it" in done.out
    assert mlops("gc", "--older", "soon").err.startswith("ConfigurationError: --older: not a dur")
