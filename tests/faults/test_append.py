"""Appends that are killed or race: one commit per key, and every commit is whole."""

import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.refs import DatasetRef


@pytest.fixture
def facts(tmp_path, labelled_weeks):
    rows = tmp_path / "rows.parquet"
    pq.write_table(labelled_weeks().rows, rows)
    return {"rows": str(rows), "root": str(tmp_path / "datasets"), "weeks": 3, "key": "k"}


def assert_one_whole_commit(facts, commit, weeks, versions=1):
    store = DatasetStore(facts["root"])
    commits = store.commits("d")
    assert len(commits) == versions
    assert commits[0].to_dict() == commit
    table = store.open(DatasetRef.parse(commit["ref"]))
    assert table.rows == table.between().rows == weeks * 168
    table.verify()
    assert table.between().profile().rows == weeks * 168


BOUNDARIES = ["sidecar:before", "sidecar:after", "commit:before", "commit:after"]


@pytest.mark.parametrize("die", BOUNDARIES)
def test_a_first_append_killed_anywhere_is_made_whole_by_its_retry(nursery, facts, die):
    nursery.kill("append", facts, die)
    commit = nursery.succeed("append", facts)
    assert (commit["rows"], commit["added"]) == (504, 504)
    assert_one_whole_commit(facts, commit, 3)
    assert nursery.succeed("append", facts) == commit


@pytest.mark.parametrize("die", BOUNDARIES)
def test_a_later_append_killed_anywhere_leaves_the_old_version_until_its_retry(nursery, facts, die):
    first = nursery.succeed("append", facts)
    later = {**facts, "weeks": 5, "key": "k2"}
    nursery.kill("append", later, die)
    found = DatasetStore(facts["root"]).latest("d")
    assert str(found) == ("d@2" if die == "commit:after" else first["ref"])
    commit = nursery.succeed("append", later)
    assert (commit["ref"], commit["added"]) == ("d@2", 2 * 168)
    assert_one_whole_commit(facts, commit, 5, versions=2)


def test_a_retry_after_a_lost_answer_does_not_look_at_newer_rows(nursery, facts):
    nursery.kill("append", facts, "commit:after")
    commit = nursery.succeed("append", {**facts, "weeks": 8})
    assert commit["rows"] == 3 * 168


@pytest.mark.parametrize("existing", [False, True], ids=["first commit", "later commit"])
def test_two_appends_of_one_key_at_once_are_one_commit(nursery, facts, tmp_path, existing):
    if existing:
        nursery.succeed("append", facts)
    (tmp_path / "met").mkdir()
    meet = {"meet": "commit", "place": str(tmp_path / "met"), "number": 2}
    order = {"scenario": "append", "facts": {**facts, "weeks": 5, "key": "same"}, **meet}
    one, two = nursery.run(order, order)
    assert one["code"] == two["code"] == 0
    assert one["found"] == two["found"]
    assert_one_whole_commit(facts, one["found"], 5, versions=1 + existing)


def test_two_appends_of_two_keys_at_once_repeat_no_row(nursery, facts, tmp_path):
    nursery.succeed("append", facts)
    (tmp_path / "met").mkdir()
    meet = {"meet": "commit", "place": str(tmp_path / "met"), "number": 2}
    orders = [
        {"scenario": "append", "facts": {**facts, "weeks": w, "key": f"w{w}"}, **meet}
        for w in (5, 7)
    ]
    assert [ended["code"] for ended in nursery.run(*orders)] == [0, 0]
    store = DatasetStore(facts["root"])
    table = store.open(store.latest("d"))
    table.verify()
    ids = table.between().to_arrow()["id"].to_pylist()
    assert ids == list(range(7 * 168))
    assert table.rows == len(ids)


@pytest.mark.parametrize("die", BOUNDARIES)
def test_a_correction_killed_anywhere_moves_its_row_once(nursery, facts, die):
    nursery.succeed("append", {**facts, "weeks": 5})
    rows = pq.read_table(facts["rows"]).slice(0, 5 * 168)
    times = rows["at"].to_pylist()
    times[100] = times[-1]
    wanted = rows.set_column(1, "at", [times])
    pq.write_table(wanted.cast(rows.schema), facts["rows"])
    later = {**facts, "weeks": 5, "key": "k2"}
    nursery.kill("append", later, die)
    commit = nursery.succeed("append", later)
    assert (commit["ref"], commit["added"], commit["corrected"]) == ("d@2", 0, 1)
    assert_one_whole_commit(facts, commit, 5, versions=2)
    table = DatasetStore(facts["root"]).open(DatasetRef.parse("d@2"))
    found = dict(
        zip(*(table.between().to_arrow()[c].to_pylist() for c in ("id", "at")), strict=True)
    )
    assert found[100] == times[-1]
