"""Restores, removals and full disks: killed anywhere, or at once; every version stays whole."""

import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.refs import DatasetRef


@pytest.fixture
def facts(two_versions):
    return two_versions


def versions(facts):
    store = DatasetStore(facts["root"])
    return {c.ref: store.open(DatasetRef.parse(c.ref)) for c in store.commits("d")}


def verified(facts):
    found = versions(facts)
    for table in found.values():
        table.verify()
        assert table.between().rows == table.rows
    return found


@pytest.mark.parametrize(
    "die", ["sidecar:before", "sidecar:after", "restore:before", "restore:after"]
)
def test_a_restore_killed_anywhere_is_made_whole_by_its_retry(nursery, facts, die):
    nursery.kill("restore", facts, die)
    assert len(verified(facts)) == (3 if die == "restore:after" else 2)
    commit = nursery.succeed("restore", facts)
    assert commit["ref"] == "d@3"
    found = verified(facts)
    assert found["d@3"].digest == found["d@1"].digest
    assert nursery.succeed("restore", facts) == commit


def test_two_restores_at_once_are_one_after_the_other(nursery, facts, tmp_path):
    nursery.succeed("restore", {**facts, "key": "first"})
    (tmp_path / "met").mkdir()
    meet = {"meet": "restore", "place": str(tmp_path / "met"), "number": 2}
    asked = [{**facts, "key": "x", "version": 2}, {**facts, "key": "y", "version": 2}]
    orders = [{"scenario": "restore", "facts": f, **meet} for f in asked]
    ended = nursery.run(*orders)
    assert [e["code"] for e in ended] == [0, 0]
    assert {e["found"]["ref"] for e in ended} == {"d@4"}  # whoever came second found it done
    found = verified(facts)
    assert found["d@4"].digest == found["d@2"].digest


def test_a_restore_and_an_append_at_once_lose_neither(nursery, facts, tmp_path):
    (tmp_path / "met").mkdir()
    place = {"place": str(tmp_path / "met"), "number": 2}
    ended = nursery.run(
        {"scenario": "restore", "facts": facts, "meet": "restore", **place},
        {"scenario": "append", "facts": {**facts, "key": "more"}, "meet": "commit", **place},
    )
    assert [e["code"] for e in ended] == [0, 0]
    found = verified(facts)
    assert len(found) == 4
    assert found["d@4"].rows in (3 * 168, 8 * 168)


@pytest.mark.parametrize("die", ["mark:before", "mark:after", "vacuum:before:2", "vacuum:after:2"])
def test_a_removal_killed_anywhere_is_finished_by_the_next(nursery, facts, die):
    nursery.kill("collect", facts, die)
    versions(facts)["d@2"].verify()
    nursery.succeed("collect", facts)
    found = versions(facts)
    found["d@2"].verify()
    with pytest.raises(DatasetNotFoundError, match="d@1 are gone"):
        found["d@1"].verify()
    assert nursery.succeed("collect", facts)["files"] == []


def test_a_disk_that_is_full_in_mid_write_leaves_nothing_half_written(nursery, facts):
    ended = nursery.succeed("fill", {**facts, "room": 20_000})
    assert ended["error"] == "UnavailableError"
    assert "cannot write d" in ended["message"]
    assert list(verified(facts)) == ["d@2", "d@1"]
    commit = nursery.succeed("append", facts)  # there is room again: the task is tried once more
    assert (commit["ref"], commit["rows"]) == ("d@3", 8 * 168)
    verified(facts)
